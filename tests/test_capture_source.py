"""Files, pipes and gzip give the same bytes; a broken gzip stream gives all that can be unpacked."""

from __future__ import annotations

import gzip
import hashlib
import random
import zlib
from typing import TYPE_CHECKING

import pytest

from pcapdiag.errors import CaptureError
from tests.capture_files import pcap_header, pcap_record, read_rows

if TYPE_CHECKING:
    from pathlib import Path

NOISE = random.Random(7)
RECORDS = [pcap_record(NOISE.randbytes(n), sec=n) for n in (60, 300, 0, 1_000)]
PLAIN = pcap_header() + b"".join(RECORDS)
EDGES = [24 + sum(map(len, RECORDS[:n])) for n in range(len(RECORDS) + 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.pcap.gz"


def unpacked_of(packed: bytes) -> bytes:
    """What zlib gives, byte by byte, before it gives up."""
    member, unpacked = zlib.decompressobj(31), b""
    for at in range(len(packed)):
        try:
            unpacked += member.decompress(packed[at : at + 1])
        except zlib.error:
            break
    return unpacked


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(PLAIN),
        gzip.compress(PLAIN[:10]) + gzip.compress(b"") + gzip.compress(PLAIN[10:500]) + gzip.compress(PLAIN[500:]),
        gzip.compress(PLAIN) + bytes(1_000),
        gzip.compress(PLAIN[:30]) + bytes(3) + gzip.compress(PLAIN[30:]),
    ],
    ids=["one member", "many members", "padded", "padded between members"],
)
@pytest.mark.parametrize("batch_bytes", [10, 1 << 20])
def test_gzip(path: Path, packed: bytes, batch_bytes: int) -> None:
    path.write_bytes(packed)
    plain = path.with_name("trace.pcap")
    plain.write_bytes(PLAIN)
    rows, capture, losses = read_rows(path, batch_bytes=batch_bytes)
    assert rows == read_rows(plain).rows
    assert len(rows) == len(RECORDS)
    assert (capture.compression, capture.size_bytes, capture.cut_at, losses) == ("gzip", len(packed), None, {})
    assert capture.sha256 == hashlib.sha256(packed).hexdigest()


def test_gzip_of_much_that_is_alike(path: Path) -> None:
    path.write_bytes(gzip.compress(pcap_header() + pcap_record(bytes(1_000)) * 5_000))
    assert read_rows(path, batch_bytes=100_000).capture.frame_count == 5_000


def test_gzip_cut_at_every_byte(path: Path) -> None:
    packed = gzip.compress(PLAIN)
    member = zlib.decompressobj(31)
    unpacked_len = 0
    for cut in range(1, len(packed)):
        path.write_bytes(packed[:cut])
        unpacked_len += len(member.decompress(packed[cut - 1 : cut]))
        if cut < 3 or unpacked_len < 24:
            with pytest.raises(CaptureError, match=r"trace\.pcap\.gz: "):
                read_rows(path)
            continue
        last_edge = max(edge for edge in EDGES if edge <= unpacked_len)
        rows, capture, _ = read_rows(path, batch_bytes=100)
        assert len(rows) == EDGES.index(last_edge)
        assert capture.cut_at == last_edge
        assert capture.cut_note is not None
        assert "ends inside a member" in capture.cut_note
        assert (capture.size_bytes, capture.sha256) == (cut, hashlib.sha256(packed[:cut]).hexdigest())


def test_a_corrupt_gzip_stream_is_read_up_to_the_fault(path: Path) -> None:
    packed = gzip.compress(PLAIN)
    for at in range(30, len(packed), 7):
        spoiled = packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]
        path.write_bytes(spoiled)
        try:
            rows, capture, _ = read_rows(path)
        except CaptureError:
            assert len(unpacked_of(spoiled)) < 24
            continue
        assert capture.cut_note is not None
        assert capture.sha256 == hashlib.sha256(spoiled).hexdigest()
        if PLAIN.startswith(unpacked_of(spoiled)):
            assert len(rows) == sum(edge <= len(unpacked_of(spoiled)) for edge in EDGES[1:])


def test_what_follows_the_last_member_is_noted(path: Path) -> None:
    path.write_bytes(gzip.compress(PLAIN) + b"appended")
    rows, capture, _ = read_rows(path)
    assert len(rows) == len(RECORDS)
    assert capture.cut_at == len(PLAIN)
    assert capture.cut_note == "no gzip member follows the last one (but 61 70 70 65)"


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_digest_and_size_cover_what_lies_behind_a_cut(path: Path, size: int) -> None:
    data = pcap_header() + pcap_record(b"good") + b"\xff" * size
    path.write_bytes(data)
    _, capture, _ = read_rows(path, batch_bytes=1_100_000)
    assert capture.cut_at == 44
    assert (capture.size_bytes, capture.sha256) == (len(data), hashlib.sha256(data).hexdigest())
