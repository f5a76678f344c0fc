"""Opening a capture: what is none is refused at once and by name; what the public collections hold is read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcapdiag import capture
from pcapdiag.capture import read_capture
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Losses
from tests.capture_files import enhanced, interface, pcap_header, pcap_record, read_rows, section

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC = Path(__file__).parents[2] / "shared" / "captures" / "public"
PCAP = pcap_header() + pcap_record(b"abc", sec=1) + pcap_record(b"defg", sec=2)
PCAPNG = section() + interface() + enhanced(b"abc", time=1_000_000) + enhanced(b"defg", time=2_000_000)


def test_the_package_names_what_it_gives() -> None:
    assert capture.__all__ == sorted(capture.__all__)
    assert all(hasattr(capture, name) for name in capture.__all__)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty (at offset 0)"),
        (b"GET / HTTP/1.1\r\n", "not a pcap or pcapng file (at offset 0: 47 45 54 20 2f 20 48 54)"),
        (b"\x0a", "not a pcap or pcapng file (at offset 0: 0a)"),
        (PCAP[:20], "ends inside the pcap file header (20 of 24 bytes)"),
        (b"\xfd7zXZ\0" + bytes(40), "xz-compressed, which is not supported yet (at offset 0: fd 37 7a 58 5a 00)"),
        (bytes(257) + b"ustar" + bytes(300), "a tar archive, which is not supported yet (at offset 257: 75 73 74 61 72)"),
        (b"snoop\0\0\0\0\0\0\2", "a snoop capture, which is not supported yet (at offset 0: 73 6e 6f 6f 70 00 00 00)"),
        (gzip.compress(b""), "the file is empty (at offset 0)"),
        (gzip.compress(b"text"), "not a pcap or pcapng file inside gzip (at offset 0: 74 65 78 74)"),
        (gzip.compress(gzip.compress(PCAP)), "gzip inside gzip, which is not supported yet (at offset 0: 1f 8b)"),
        (b"\x1f\x8b", "the gzip stream ends inside a member (at offset 0)"),
        (
            b"\x1f\x8b\x07" + bytes(20),
            "the gzip stream is corrupt (Error -3 while decompressing data: unknown compression method) (at offset 0)",
        ),
        (b"\x1f\x8b\x08" + bytes(2), "the gzip stream ends inside a member (at offset 0)"),
        (
            b"\x1f\x8b\x08" + b"\xff" * 20,
            "the gzip stream is corrupt (Error -3 while decompressing data: unknown header flags set) (at offset 0)",
        ),
    ],
)
def test_what_is_no_capture_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some.file"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as refusal:
        read_capture(str(path), Losses())
    assert str(refusal.value) == f"{path}: {message}"


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing.pcap", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(CaptureError) as refusal:
            read_capture(str(path), Losses())
        assert str(refusal.value) == f"{path}: {reason}"
    with pytest.raises(CaptureError, match="null byte"):
        read_capture("a\0b", Losses())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.pcap"
    path.write_bytes(PCAP)
    path.chmod(0)
    with pytest.raises(CaptureError, match="Permission denied"):
        read_capture(str(path), Losses())


def test_a_capture_is_read_once_and_known_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcap"
    path.write_bytes(PCAP)
    reader = read_capture(str(path), Losses(), index=3)
    with pytest.raises(ValueError, match="not read to its end"):
        _ = reader.capture
    (batch,) = reader
    assert batch.capture == 3
    assert reader.capture.frame_count == 2
    with pytest.raises(ValueError, match="read once"):
        iter(reader)


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_the_time_span_does_not_trust_the_order(tmp_path: Path, batch_bytes: int) -> None:
    path = tmp_path / "trace.pcap"
    path.write_bytes(pcap_header() + b"".join(pcap_record(b"x", sec=sec) for sec in (5, 9, 2, 7)))
    known = read_rows(path, batch_bytes=batch_bytes).capture
    assert (known.first_ns, known.last_ns) == (2_000_000_000, 9_000_000_000)
    path.write_bytes(pcap_header())
    known = read_rows(path).capture
    assert (known.first_ns, known.last_ns) == (None, None)


def test_a_capture_that_is_left_early_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcap"
    path.write_bytes(PCAP * 100)
    with read_capture(str(path), Losses(), batch_bytes=1) as reader:
        assert len(next(iter(reader))) > 0
    with read_capture(str(path), Losses()):
        pass  # an unclosed file would be a ResourceWarning, which fails the test


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reading, io.TextIOWrapper(reading) as text:
        monkeypatch.setattr(sys, "stdin", text)
        yield write_end


@pytest.mark.parametrize("content", [PCAP, PCAPNG, gzip.compress(PCAP)], ids=["pcap", "pcapng", "gzip"])
@pytest.mark.parametrize("batch_bytes", [9, 1 << 20])
def test_standard_input(tmp_path: Path, pipe: int, content: bytes, batch_bytes: int) -> None:
    def write_bit_by_bit() -> None:
        with os.fdopen(pipe, "wb", buffering=0) as writing:
            for at in range(0, len(content), 5):
                writing.write(content[at : at + 5])

    writer = threading.Thread(target=write_bit_by_bit)
    writer.start()
    rows, known, _ = read_rows("-", batch_bytes=batch_bytes)
    writer.join()
    path = tmp_path / "same"
    path.write_bytes(content)
    assert rows == read_rows(path).rows
    assert [row.data for row in rows] == [b"abc", b"defg"]
    assert (known.name, known.size_bytes, known.sha256) == ("-", len(content), hashlib.sha256(content).hexdigest())
    assert not sys.stdin.closed


def test_no_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CaptureError, match="-: there is no standard input"):
        read_capture("-", Losses())


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public captures are not here")
def test_public_captures_agree_with_tshark() -> None:
    disagreements = []
    with (PUBLIC / "index.csv").open(newline="") as index:
        entries = list(csv.DictReader(index))
    for entry in entries:
        try:
            rows, known, _ = read_frames(PUBLIC / entry["path"])
        except CaptureError as error:
            if entry["tshark_status"] == "ok" and entry["filetype"].startswith("pcap"):
                disagreements.append(str(error))
            continue
        assert (known.sha256, known.size_bytes) == (entry["sha256"], int(entry["size"]))
        if entry["tshark_status"] == "ok" and str(rows) not in (entry["packets"], entry["capinfos_packets"]):
            disagreements.append(f"{entry['path']}: {rows} frames, not {entry['packets']}")
    assert disagreements == []
    assert len(entries) > 2_000


def read_frames(path: Path) -> tuple[int, capture.Capture, Losses]:
    losses = Losses()
    reader = read_capture(str(path), losses)
    return sum(len(batch) for batch in reader), reader.capture, losses


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public captures are not here")
@pytest.mark.parametrize("name", ["dhcp-nanosecond.pcapng", "dhcp-nanosecond.pcap", "dhcp.pcapng", "dhcp.pcap"])
def test_small_batches_give_what_large_ones_give(name: str) -> None:
    path = PUBLIC / "wireshark+wireshark" / "test" / "captures" / name
    assert read_rows(path, batch_bytes=100) == read_rows(path)
