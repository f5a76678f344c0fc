"""pcap files: byte orders, resolutions, versions; cut and corrupt ones are read as far as they go."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.capture import Interface, chain
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Loss
from tests.capture_files import MICRO, NANO, PATCHED, Row, pcap_header, pcap_record, read_rows

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.pcap"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit_ns", "kind"), [(MICRO, 1_000, "pcap"), (NANO, 1, "pcap-ns")])
def test_both_byte_orders_and_resolutions(path: Path, order: str, magic: int, unit_ns: int, kind: str) -> None:
    records = [
        pcap_record(b"hello", order, sec=1_700_000_000, fraction=999_999),
        pcap_record(b"", order, sec=0xFFFFFFFF, fraction=1),
        pcap_record(b"cut", order, sec=0, fraction=0xFFFFFFFF, length=1_500),
    ]
    path.write_bytes(pcap_header(order, magic=magic, snaplen=96, link_type=113) + b"".join(records))
    rows, capture, losses = read_rows(path)
    assert rows == [
        Row(1, 1_700_000_000 * S + 999_999 * unit_ns, 113, 0, 5, 0, b"hello"),
        Row(2, 0xFFFFFFFF * S + unit_ns, 113, 0, 0, 0, b""),
        Row(3, 0xFFFFFFFF * unit_ns, 113, 0, 1_500, 0, b"cut"),
    ]
    assert (capture.format, capture.interfaces, capture.frame_count) == (kind, (Interface(link_type=113, snaplen=96),), 3)
    assert (capture.name, capture.compression, capture.cut_at, capture.cut_note) == ("trace.pcap", "", None, None)
    assert losses == {}


def test_a_file_without_packets_is_a_capture(path: Path) -> None:
    path.write_bytes(pcap_header())
    rows, capture, _ = read_rows(path)
    assert (rows, capture.frame_count, capture.cut_at, capture.size_bytes) == ([], 0, None, 24)


def test_upper_bits_of_the_link_type_are_no_link_type(path: Path) -> None:
    path.write_bytes(pcap_header(link_type=0x2400_0001) + pcap_record(b"x"))  # frame check sequence of 4 bytes
    assert read_rows(path).rows[0].link_type == 1


def test_a_patched_libpcap_writes_longer_record_headers(path: Path) -> None:
    record = pcap_record(b"data", sec=5)
    records = [record[:16] + b"\1\0\0\0\0\x08" + bytes([packet_type, 0]) + record[16:] for packet_type in (0, 1, 3, 4)]
    path.write_bytes(pcap_header(magic=PATCHED) + b"".join(records))
    rows = read_rows(path).rows
    assert [(row.ts_ns, row.data) for row in rows] == [(5 * S, b"data")] * 4
    assert [row.flags for row in rows] == [1, 1, 0, 2], "in, in (broadcast), for another host, out"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0x1C0001AC, 0x1C0001AB])
@pytest.mark.parametrize(("fraction", "unit_ns"), [(123_456, 1_000), (123_456_789, 1)])
def test_ixia_has_a_longer_file_header(path: Path, order: str, magic: int, fraction: int, unit_ns: int) -> None:
    whole = pcap_header(order, magic=magic) + bytes(4) + pcap_record(b"data", order, sec=5, fraction=fraction)
    path.write_bytes(whole)
    assert [(row.ts_ns, row.data) for row in read_rows(path).rows] == [(5 * S + fraction * unit_ns, b"data")]
    path.write_bytes(whole[:27])
    with pytest.raises(CaptureError, match=r"inside the pcap file header \(27 of 28 bytes\)"):
        read_rows(path)


def test_nanoseconds_under_the_magic_of_microseconds(path: Path) -> None:
    """ntopng wrote such files (its issue 5728); a second has no 1,000,000 microseconds."""
    fractions = [999_999, 1_500_000, 700_000_000]
    path.write_bytes(pcap_header() + b"".join(pcap_record(b"data", sec=5, fraction=fraction) for fraction in fractions))
    reading = read_rows(path)
    assert [row.ts_ns for row in reading.rows] == [5 * S + fraction for fraction in fractions]
    assert reading.capture.format == "pcap-ns"
    path.write_bytes(pcap_header() + b"".join(pcap_record(b"data", sec=5, fraction=fraction) for fraction in [*fractions, 1, 2]))
    assert [row.ts_ns for row in read_rows(path).rows][:1] == [5 * S + 999_999_000], "single odd records decide nothing"
    path.write_bytes(pcap_header() + b"".join(pcap_record(b"data", sec=5, fraction=fraction) for fraction in [999_999, 1_000_000, 1 << 31]))
    assert [row.ts_ns for row in read_rows(path).rows][:2] == [5 * S + 999_999_000, 6 * S], "nor does what no second holds"


def test_dg_ux_wrote_version_543_with_the_wire_length_first(path: Path) -> None:
    header = struct.pack("<IHHiIII", MICRO, 543, 0, 0, 0, 65_535, 1)
    path.write_bytes(header + struct.pack("<IIII", 5, 0, 100, 4) + b"data")
    assert [(row.length, row.data) for row in read_rows(path).rows] == [(100, b"data")]


def test_before_version_2_3_the_wire_length_came_first(path: Path) -> None:
    record = struct.pack("<IIII", 5, 0, 100, 4) + b"data"
    path.write_bytes(pcap_header(minor=2) + record * 3)
    assert [(row.length, row.data) for row in read_rows(path).rows] == [(100, b"data")] * 3


@pytest.mark.parametrize("swapped", [False, True])
def test_version_2_3_has_either_order(path: Path, swapped: bool) -> None:
    lengths = [(6, 6), (100, 4) if swapped else (4, 100)]
    records = [struct.pack("<IIII", 5, 0, *pair) + b"packet"[: min(pair)] for pair in lengths]
    path.write_bytes(pcap_header(minor=3) + b"".join(records))
    assert [(row.length, row.data) for row in read_rows(path).rows] == [(6, b"packet"), (100, b"pack")]


def test_more_captured_than_sent_is_kept_as_it_is(path: Path) -> None:
    path.write_bytes(pcap_header(snaplen=4) + pcap_record(b"longer than snaplen", length=3))
    (row,) = read_rows(path).rows
    assert (row.data, row.length) == (b"longer than snaplen", 19)


def test_unknown_versions_are_refused(path: Path) -> None:
    path.write_bytes(struct.pack("<IHHiIII", MICRO, 3, 1, 0, 0, 0, 1))
    with pytest.raises(CaptureError, match=r"trace\.pcap: pcap version 3\.1 at offset 4 is not supported"):
        read_rows(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("batch_bytes", [1, 7, 40, 1 << 20])
def test_cut_at_every_byte(path: Path, order: str, batch_bytes: int) -> None:
    records = [pcap_record(bytes([n]) * n, order, sec=n) for n in (30, 0, 5, 61)]
    whole = pcap_header(order) + b"".join(records)
    edges = [24]
    for record in records:
        edges.append(edges[-1] + len(record))
    path.write_bytes(whole)
    all_rows = read_rows(path, batch_bytes=batch_bytes).rows
    assert [row.data[:1] for row in all_rows] == [b"\x1e", b"", b"\x05", b"\x3d"]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut < 24:
            with pytest.raises(CaptureError, match=r"trace\.pcap: "):
                read_rows(path, batch_bytes=batch_bytes)
            continue
        rows, capture, losses = read_rows(path, batch_bytes=batch_bytes)
        last_edge = max(edge for edge in edges if edge <= cut)
        assert rows == all_rows[: edges.index(last_edge)]
        assert capture.cut_at == (None if cut == last_edge else last_edge)
        assert (capture.cut_note is None) == (capture.cut_at is None)
        assert capture.size_bytes == cut
        assert losses == {}


@pytest.mark.parametrize("claimed", [262_145, 1 << 31, 0xFFFFFFFF])
@pytest.mark.parametrize("snaplen", [65_535, 0xFFFFFFFF])
def test_an_absurd_length_ends_the_reading(path: Path, claimed: int, snaplen: int) -> None:
    bad = struct.pack("<IIII", 1, 0, claimed, claimed)
    path.write_bytes(pcap_header(snaplen=snaplen) + pcap_record(b"good") + bad + pcap_record(b"lost") * 20_000)
    rows, capture, losses = read_rows(path)
    assert [row.data for row in rows] == [b"good"]
    assert capture.cut_at == 44
    assert capture.cut_note is not None
    assert f"{claimed:,}" in capture.cut_note
    assert capture.size_bytes == path.stat().st_size
    assert losses == {Loss.BAD_RECORD_LENGTH: 1}


@pytest.mark.parametrize(("link_type", "snaplen"), [(189, 65_535), (1, 400_000)])
def test_packets_longer_than_usual_where_link_type_or_snaplen_allow_them(path: Path, link_type: int, snaplen: int) -> None:
    path.write_bytes(pcap_header(link_type=link_type, snaplen=snaplen) + pcap_record(bytes(300_000)) + pcap_record(b"next"))
    assert [len(row.data) for row in read_rows(path, batch_bytes=65_536).rows] == [300_000, 4]


@pytest.mark.parametrize("batch_bytes", [1, 24, 50, 1 << 20])
@pytest.mark.parametrize(("order", "magic", "minor"), [("<", MICRO, 4), (">", NANO, 4), ("<", PATCHED, 4), ("<", MICRO, 2)])
def test_files_put_one_behind_the_other_are_read_on(path: Path, order: str, magic: int, minor: int, batch_bytes: int) -> None:
    """A file header is no packet: read as a record it would be an empty one of the year 2055."""

    def record(data: bytes) -> bytes:
        whole = pcap_record(data, order, length=len(data))
        return whole[:16] + bytes(8) * (magic == PATCHED) + whole[16:]

    header = pcap_header(order, magic=magic, minor=minor)
    bare = pcap_header(order, magic=magic, minor=minor, link_type=101)
    path.write_bytes(header + record(b"one") + header + header + record(b"two") + record(b"three") + bare + record(b"four") + header)
    rows, capture, losses = read_rows(path, batch_bytes=batch_bytes)
    assert [(row.number, row.data, row.link_type) for row in rows] == [(1, b"one", 1), (2, b"two", 1), (3, b"three", 1), (4, b"four", 101)]
    assert [interface.link_type for interface in capture.interfaces] == [1, 101]
    assert (capture.cut_at, losses) == (None, {})


def test_many_short_files_are_not_each_walked_by_lanes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lanes of a window for each file in it would take the square of their number."""
    by_lanes = Mock(wraps=chain._walk_lanes)
    monkeypatch.setattr(chain, "_walk_lanes", by_lanes)
    path.write_bytes((pcap_header() + pcap_record(bytes(1_000)) * 40) * 100)
    assert len(read_rows(path).rows) == 4_000
    assert by_lanes.call_count == 1


def test_a_further_file_that_ends_inside_its_header(path: Path) -> None:
    path.write_bytes(pcap_header() + pcap_record(b"one") + pcap_header()[:20])
    rows, capture, _ = read_rows(path)
    assert [row.data for row in rows] == [b"one"]
    assert (capture.cut_at, capture.cut_note) == (43, "the file ends inside the header of a further file (20 of 24 bytes)")


@given(
    st.binary(max_size=300), st.sampled_from(["<", ">"]), st.sampled_from([MICRO, NANO, PATCHED]), st.integers(0, 4), st.integers(1, 400)
)
def test_no_bytes_behind_a_header_raise(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, order: str, magic: int, minor: int, batch_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.pcap"
    path.write_bytes(pcap_header(order, magic=magic, minor=minor) + noise)
    rows, capture, _ = read_rows(path, batch_bytes=batch_bytes)
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    header_len = 24 if magic == PATCHED else 16
    used = 24 + sum(header_len + len(row.data) for row in rows)
    assert (used if capture.cut_at is None else capture.cut_at) == used
    assert (capture.cut_at is None) == (used == 24 + len(noise))


def test_large_windows_give_what_small_ones_give(path: Path) -> None:
    records = [pcap_record(bytes([n % 251]) * (n % 1_400), sec=0x65000000 + n, fraction=n % 1_000_000) for n in range(4_000)]
    path.write_bytes(pcap_header() + b"".join(records))
    large, small = read_rows(path), read_rows(path, batch_bytes=100_000)
    assert large.rows == small.rows
    assert [len(row.data) for row in large.rows] == [n % 1_400 for n in range(4_000)]
