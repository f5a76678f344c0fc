"""gzip, zstd and lz4 give the same bytes; a broken stream gives what lies before the fault, and says where it is."""

from __future__ import annotations

import gzip
import random
import struct
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import lz4.frame
import pytest

from pcapdiag.capture import read_capture
from pcapdiag.capture.unpack import codec_of
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Losses
from tests.capture_files import pcap_header, pcap_record, read_rows

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from pathlib import Path

NOISE = random.Random(7)
RECORDS = [pcap_record(NOISE.randbytes(n), sec=n) for n in (60, 300, 0, 1_000, 5_000, 40)]
PLAIN = pcap_header() + b"".join(RECORDS)
EDGES = [24 + sum(map(len, RECORDS[:n])) for n in range(len(RECORDS) + 1)]
SKIPPABLE = b"\x5a\x2a\x4d\x18" + struct.pack("<I", 700) + bytes(700)

Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {"gzip": gzip.compress, "zstd": zstd.compress, "lz4": lz4.frame.compress}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "called-nothing-in-particular"


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("batch_bytes", [10, 1 << 20])
@pytest.mark.parametrize("cuts", [(), (30,), (10, 10, 24, 700)])
def test_one_or_several_members(path: Path, name: str, batch_bytes: int, cuts: tuple[int, ...]) -> None:
    edges = [0, *cuts, len(PLAIN)]
    packed = b"".join(PACKS[name](PLAIN[a:b]) for a, b in pairwise(edges))
    path.write_bytes(packed)
    rows, capture, losses = read_rows(path, batch_bytes=batch_bytes)
    assert [len(row.data) for row in rows] == [60, 300, 0, 1_000, 5_000, 40]
    assert (capture.compression, capture.size_bytes, capture.cut_at, losses) == (name, len(packed), None, {})


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_frames_without_content_are_skipped(path: Path, name: str) -> None:
    for packed in (SKIPPABLE + PACKS[name](PLAIN), PACKS[name](PLAIN[:99]) + SKIPPABLE * 3 + PACKS[name](PLAIN[99:]) + SKIPPABLE):
        if name == "lz4" and packed.startswith(SKIPPABLE):
            continue  # the frame is longer than what is looked at, and pzstd begins so
        path.write_bytes(packed)
        rows, capture, _ = read_rows(path)
        assert (len(rows), capture.cut_note) == (len(RECORDS), None)
    small = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + bytes(4)
    path.write_bytes(small * 2 + PACKS[name](PLAIN))
    assert read_rows(path).capture.compression == name
    path.write_bytes(PACKS[name](PLAIN) + SKIPPABLE[:300])
    assert read_rows(path).capture.cut_note == f"the {name} stream ends inside a skippable frame"


@pytest.mark.parametrize("name", PACKS)
def test_cut_anywhere(path: Path, name: str) -> None:
    packed = PACKS[name](PLAIN[:2_000]) + PACKS[name](PLAIN[2_000:])
    for cut in range(8, len(packed), 61):
        path.write_bytes(packed[:cut])
        try:
            rows, capture, _ = read_rows(path, batch_bytes=100)
        except CaptureError:
            assert cut < len(PACKS[name](PLAIN[:2_000]))
            continue
        assert capture.cut_at == EDGES[len(rows)]
        assert capture.cut_note is not None
        assert "ends inside a" in capture.cut_note
        if cut > len(PACKS[name](PLAIN[:2_000])):
            assert len(rows) >= 4, "the first member is whole"


@pytest.mark.parametrize("name", PACKS)
def test_a_fault_ends_the_reading_and_is_named(path: Path, name: str) -> None:
    packed = PACKS[name](PLAIN) + PACKS[name](PLAIN[24:])
    at = len(PACKS[name](PLAIN)) + 6
    path.write_bytes(packed[:at] + bytes(byte ^ 0xFF for byte in packed[at : at + 8]) + packed[at + 8 :])
    rows, capture, _ = read_rows(path)
    assert len(rows) >= len(RECORDS), "the member before the fault is whole"
    assert capture.cut_note is not None
    assert f"the {name} stream" in capture.cut_note


@pytest.mark.parametrize("name", PACKS)
def test_noise_behind_a_magic_is_refused_or_cut(path: Path, name: str) -> None:
    magic = PACKS[name](b"")[:4]
    for seed in range(30):
        path.write_bytes(magic + random.Random(seed).randbytes(500))
        with pytest.raises(CaptureError, match=name):
            read_rows(path)


@pytest.mark.parametrize("name", PACKS)
def test_what_grows_a_thousandfold_is_read_window_by_window(path: Path, name: str) -> None:
    record = pcap_record(bytes(60_000))
    path.write_bytes(PACKS[name](pcap_header() + record * 1_000))
    assert path.stat().st_size < 1_000_000
    reader = read_capture(str(path), Losses(), batch_bytes=1 << 20)
    sizes = [len(batch.data) for batch in reader]
    assert reader.capture.frame_count == 1_000
    assert max(sizes) <= (1 << 20) + len(record)


@pytest.mark.parametrize(("name", "modules"), [("zstd", ("compression.zstd", "backports.zstd")), ("lz4", ("lz4.frame",))])
def test_a_missing_extra_is_one_line_that_names_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, modules: tuple[str, ...]
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    path.write_bytes(PACKS[name](PLAIN))
    with pytest.raises(CaptureError) as refusal:
        read_rows(path)
    assert str(refusal.value) == f'{path}: {name}-compressed: reading it needs an optional package: pip install "pcapdiag[{name}]"'


def test_other_bytes_are_no_compression() -> None:
    assert [codec_of(head) for head in (b"", b"\x28\xb5", PLAIN[:512], b"P*M\x18")] == [None] * 4
