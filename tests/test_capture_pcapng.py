"""pcapng files: sections, interfaces, packet blocks of three kinds, counters, comments, secrets; cut and corrupt ones."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.capture import Interface
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Loss
from tests.capture_files import (
    CUSTOM,
    DSB,
    EPB,
    IDB,
    ISB,
    JOURNAL,
    NRB,
    PB,
    SPB,
    Row,
    block,
    enhanced,
    interface,
    option,
    read_rows,
    section,
)

if TYPE_CHECKING:
    from pathlib import Path

S = 1_000_000_000
TLS_KEYS = 0x544C534B


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.pcapng"


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_section_in_either_byte_order(path: Path, order: str) -> None:
    time = 1_700_000_000_123_456
    path.write_bytes(
        section(order, section_len=4_711)
        + interface(order, link_type=113, snaplen=96)
        + enhanced(b"first", order, option(2, struct.pack(f"{order}I", 2), order), option(0, b"", order), time=time)
        + enhanced(b"cut", order, time=time + 1, length=1_500)
    )
    rows, capture, losses = read_rows(path)
    assert rows == [Row(1, time * 1_000, 113, 0, 5, 2, b"first"), Row(2, time * 1_000 + 1_000, 113, 0, 1_500, 0, b"cut")]
    assert (capture.format, capture.interfaces) == ("pcapng", (Interface(link_type=113, snaplen=96),))
    assert (capture.cut_at, capture.comments, capture.secrets, losses) == (None, (), (), {})


def test_a_file_without_packets_is_a_capture(path: Path) -> None:
    path.write_bytes(section())
    rows, capture, losses = read_rows(path)
    assert (rows, capture.frame_count, capture.interfaces, capture.cut_at, losses) == ([], 0, (), None, {})


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_an_interface_says_of_itself(path: Path, order: str) -> None:
    options = [
        option(2, b"eth0", order),
        option(3, "Büro".encode(), order),
        option(8, struct.pack(f"{order}Q", 10**10), order),
        option(11, b"\0tcp port 443", order),
        option(15, b"NIC\0", order),
        option(0, b"", order),
        option(2, b"behind the end", order),
    ]
    path.write_bytes(section(order) + interface(order, *options, snaplen=128) + interface(order, option(11, b"\1\x06\0\0\0", order)))
    _, capture, losses = read_rows(path)
    named = Interface(link_type=1, snaplen=128, name="eth0", description="Büro", speed_bps=10**10, filter="tcp port 443", hardware="NIC")
    assert capture.interfaces == (named, Interface(link_type=1, snaplen=0))
    assert losses == {}


def test_each_interface_has_its_own_clock(path: Path) -> None:
    nano, power = option(9, b"\x09"), option(9, b"\x8a")
    late = option(14, struct.pack("<q", -3_600))
    path.write_bytes(
        section()
        + interface("<", nano)
        + interface("<", power, late, link_type=101)
        + interface()
        + enhanced(b"a", index=2, time=7)
        + enhanced(b"b", index=0, time=7)
        + enhanced(b"c", index=1, time=5_000 * 1024 + 1)
        + enhanced(b"d", index=0, time=8)
    )
    rows = read_rows(path).rows
    assert [(row.interface, row.link_type, row.ts_ns) for row in rows] == [
        (2, 1, 7_000),
        (0, 1, 7),
        (1, 101, 1_400 * S + S // 1024),
        (0, 1, 8),
    ]


@pytest.mark.parametrize("batch_bytes", [1, 100, 1 << 20])
def test_sections_number_their_interfaces_anew_and_turn_their_bytes(path: Path, batch_bytes: int) -> None:
    path.write_bytes(
        section("<", option(1, b"one"))
        + interface("<", option(2, b"a"))
        + interface("<", option(2, b"b"))
        + enhanced(b"1", index=1, time=1)
        + section(">", option(1, b"two", ">"))
        + interface(">", option(2, b"c", ">"))
        + enhanced(b"2", ">", index=0, time=2)
        + enhanced(b"3", ">", index=1, time=3)
        + section("<")
        + interface("<", option(2, b"d"))
        + enhanced(b"4", index=0, time=4)
    )
    rows, capture, losses = read_rows(path, batch_bytes=batch_bytes)
    assert [(row.data, row.interface, row.ts_ns) for row in rows] == [(b"1", 1, 1_000), (b"2", 2, 2_000), (b"4", 3, 4_000)]
    assert [i.name for i in capture.interfaces] == ["a", "b", "c", "d"]
    assert capture.comments == ("one", "two")
    assert losses == {Loss.UNKNOWN_INTERFACE: 1}


def test_an_interface_is_unknown_before_its_description(path: Path) -> None:
    path.write_bytes(section() + enhanced(b"early") + interface() + enhanced(b"late"))
    rows, _, losses = read_rows(path)
    assert [row.data for row in rows] == [b"late"]
    assert losses == {Loss.UNKNOWN_INTERFACE: 1}


def test_simple_packets_take_the_snaplen_and_the_time_before_them(path: Path) -> None:
    def simple(length: int, data: bytes) -> bytes:
        return block(SPB, struct.pack("<I", length) + data)

    path.write_bytes(
        section() + interface(snaplen=6) + simple(3, b"abc") + enhanced(b"timed", time=9) + simple(100, b"abcdef") + simple(100, b"abcdef")
    )
    assert [(row.ts_ns, row.length, row.data) for row in read_rows(path).rows] == [
        (0, 3, b"abc"),
        (9_000, 5, b"timed"),
        (9_000, 100, b"abcdef"),
        (9_000, 100, b"abcdef"),
    ]


@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_the_time_before_a_simple_packet_may_lie_in_an_earlier_batch(path: Path, batch_bytes: int) -> None:
    path.write_bytes(section() + interface() + enhanced(b"timed", time=9) + block(SPB, struct.pack("<I", 3) + b"abc"))
    assert [row.ts_ns for row in read_rows(path, batch_bytes=batch_bytes).rows] == [9_000, 9_000]


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_obsolete_packet_block(path: Path, order: str) -> None:
    body = struct.pack(f"{order}HHIIII", 1, 77, 0, 5, 4, 90) + b"data" + option(2, struct.pack(f"{order}I", 1), order)
    path.write_bytes(section(order) + interface(order) + interface(order) + block(PB, body, order))
    assert read_rows(path).rows == [Row(1, 5_000, 1, 1, 90, 1, b"data")]


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_last_statistics_win(path: Path, order: str) -> None:
    def statistics(index: int, **counts: int) -> bytes:
        codes = {"received": 4, "dropped": 5, "dropped_by_os": 7}
        options = b"".join(option(codes[name], struct.pack(f"{order}Q", value), order) for name, value in counts.items())
        return block(ISB, struct.pack(f"{order}III", index, 0, 0) + options, order)

    path.write_bytes(
        section(order)
        + interface(order)
        + interface(order)
        + statistics(1, received=5, dropped=1, dropped_by_os=2)
        + statistics(1, received=1 << 40, dropped=3)
        + statistics(2, received=1)
    )
    _, capture, losses = read_rows(path)
    seen = Interface(link_type=1, snaplen=0, received_count=1 << 40, dropped_by_interface_count=3, dropped_by_os_count=2)
    assert capture.interfaces == (Interface(link_type=1, snaplen=0), seen)
    assert losses == {Loss.SKIPPED_BLOCK: 1}


def test_key_logs_are_kept_and_other_blocks_are_counted(path: Path) -> None:
    keys = b"CLIENT_RANDOM 00 11\n"
    path.write_bytes(
        section()
        + block(DSB, struct.pack("<II", TLS_KEYS, len(keys)) + keys)
        + block(DSB, struct.pack("<II", 0x57474B4C, 4) + b"wire")
        + block(DSB, struct.pack("<II", TLS_KEYS, 5_000) + keys)
        + block(NRB, bytes(4))
        + block(0x77, b"")
    )
    _, capture, losses = read_rows(path)
    assert (capture.secrets, capture.other_secrets) == ((keys,), ((0x57474B4C, b"wire"),))
    assert losses == {Loss.SKIPPED_BLOCK: 2}, "half a key log, and a block of no known type"
    assert "CLIENT_RANDOM" not in repr(capture)
    assert "wire" not in repr(capture)


@pytest.mark.parametrize("order", ["<", ">"])
def test_names_are_kept_each_once(path: Path, order: str) -> None:
    four, six = bytes([10, 0, 0, 1]), bytes(15) + b"\1"

    def record(kind: int, value: bytes) -> bytes:
        return option(kind, value, order)

    end = record(0, b"")
    path.write_bytes(
        section(order)
        + block(NRB, record(1, four + b"model\0alias\0") + record(2, six + b"self\0") + end, order)
        + block(NRB, record(1, four + b"model\0") + record(3, b"unknown") + end + option(2, b"resolver", order), order)
        + block(NRB, record(1, four + b"\xff" * 300), order)  # no end mark, no text
        + block(NRB, struct.pack(f"{order}HH", 1, 900) + four, order)
        + block(NRB, record(1, b"abc") + end, order)
    )
    _, capture, losses = read_rows(path)
    assert capture.names == ((four, "model"), (four, "alias"), (six, "self"), (four, "\ufffd" * 255))
    assert losses == {Loss.SKIPPED_BLOCK: 2}, "records that are longer than their block or too short for an address"


def test_wireshark_numbers_some_blocks_that_are_no_packets(path: Path) -> None:
    others = [block(CUSTOM, bytes(8)), block(JOURNAL, b"MESSAGE=x\n"), block(NRB, bytes(4)), block(0x204, bytes(32))]
    path.write_bytes(section() + interface() + enhanced(b"a") + b"".join(others) + enhanced(b"b"))
    rows, capture, losses = read_rows(path)
    assert [row.number for row in rows] == [1, 5]
    assert (capture.frame_count, capture.last_number) == (2, 5)
    assert losses == {Loss.SKIPPED_BLOCK: 3}


def test_absurd_times_are_capped_and_counted(path: Path) -> None:
    path.write_bytes(section() + interface() + enhanced(b"a", time=2**64 - 1) + enhanced(b"b", time=1))
    rows, _, losses = read_rows(path)
    assert [row.ts_ns for row in rows] == [2**62 - 1 - (2**62 - 1) % 1_000, 1_000]
    assert losses == {Loss.BAD_TIME: 1}


def test_more_interfaces_than_an_index_can_name(path: Path) -> None:
    path.write_bytes(section() + interface() * 65_537 + enhanced(b"last", index=65_535) + enhanced(b"beyond", index=65_536))
    rows, capture, losses = read_rows(path)
    assert [(row.interface, row.data) for row in rows] == [(65_535, b"last")]
    assert len(capture.interfaces) == 65_536
    assert losses == {Loss.SKIPPED_BLOCK: 1, Loss.UNKNOWN_INTERFACE: 1}


def test_comments_are_capped(path: Path) -> None:
    path.write_bytes(section("<", option(1, b"x" * 5_000)) + section("<", *[option(1, b"y")] * 150))
    comments = read_rows(path).capture.comments
    assert comments[0] == "x" * 4_096 + " (cut)"
    assert comments[1:100] == ("y",) * 99
    assert comments[100:] == ("(51 more comments)",)


def test_a_packet_whose_block_is_too_short_for_it_is_set_aside(path: Path) -> None:
    path.write_bytes(
        section()
        + interface()
        + enhanced(b"claims more", captured=13)
        + enhanced(b"claims all", captured=0xFFFFFFFF)
        + block(EPB, bytes(16))
        + block(SPB, b"")
        + block(SPB, struct.pack("<I", 99) + b"short")
        + enhanced(b"good")
        + enhanced(b"padding", captured=8)
    )
    rows, capture, losses = read_rows(path)
    assert [row.data for row in rows] == [b"good", b"padding\0"]
    assert capture.cut_at is None
    assert losses == {Loss.BAD_BLOCK: 5}


def test_more_captured_than_sent_is_kept_as_it_is(path: Path) -> None:
    path.write_bytes(section() + interface() + enhanced(b"abcd", length=2))
    assert [(row.length, row.data) for row in read_rows(path).rows] == [(4, b"abcd")]


BAD_BLOCKS = {
    "no multiple of 4": struct.pack("<II", 4, 14) + bytes(2) + struct.pack("<I", 14) + bytes(2),
    "shorter than a block": struct.pack("<III", 4, 8, 8),
    "zero": bytes(12),
    "beyond every packet": struct.pack("<III", 4, 1 << 31, 0),
    "ends with another length": struct.pack("<IIII", 4, 16, 0, 20),
    "section that ends with another length": section()[:-4] + struct.pack("<I", 32),
    "section of no byte order": section().replace(b"\x4d\x3c\x2b\x1a", b"abcd"),
    "section of version 2": section(major=2),
    "section that is too short": struct.pack("<IIIHHq", 0x0A0D0D0A, 24, 0x1A2B3C4D, 1, 0, -1) + bytes(4),
}


@pytest.mark.parametrize("bad", BAD_BLOCKS.values(), ids=BAD_BLOCKS.keys())
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_a_bad_block_ends_the_reading(path: Path, bad: bytes, batch_bytes: int) -> None:
    good = section() + interface() + enhanced(b"good")
    path.write_bytes(good + bad + enhanced(b"lost") * 100)
    rows, capture, losses = read_rows(path, batch_bytes=batch_bytes)
    assert [row.data for row in rows] == [b"good"]
    assert capture.cut_at == len(good)
    assert capture.cut_note
    assert losses == {Loss.BAD_BLOCK: 1}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("batch_bytes", [1, 50, 1 << 20])
def test_cut_at_every_byte(path: Path, order: str, batch_bytes: int) -> None:
    blocks = [
        section(order, option(1, b"hi", order)),
        interface(order),
        enhanced(b"abc", order, option(1, b"comment", order), time=1),
        block(NRB, bytes(4), order),
        enhanced(b"", order, time=2),
        section(order),
        interface(order, link_type=101),
        enhanced(b"defgh", order, time=3),
    ]
    edges = [0]
    for one in blocks:
        edges.append(edges[-1] + len(one))
    whole = b"".join(blocks)
    path.write_bytes(whole)
    all_rows = read_rows(path, batch_bytes=batch_bytes).rows
    assert [row.data for row in all_rows] == [b"abc", b"", b"defgh"]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        if cut < 28:
            with pytest.raises(CaptureError, match=r"trace\.pcapng: "):
                read_rows(path, batch_bytes=batch_bytes)
            continue
        rows, capture, _ = read_rows(path, batch_bytes=batch_bytes)
        last_edge = max(edge for edge in edges if edge <= cut)
        whole_packets = sum(kind in (2, 4, 7) for kind in range(edges.index(last_edge)))
        assert rows == all_rows[:whole_packets]
        assert capture.cut_at == (None if cut == last_edge else last_edge)
        assert (capture.cut_note is None) == (capture.cut_at is None)


def test_what_is_no_section_header_is_refused(path: Path) -> None:
    for bad, message in (
        (section().replace(b"\x4d\x3c\x2b\x1a", b"abcd"), "byte-order magic 61 62 63 64"),
        (section(major=2), r"pcapng version 2\.0"),
        (struct.pack("<II", 0x0A0D0D0A, 30) + section()[8:], "claims a length of 30 bytes"),
    ):
        path.write_bytes(bad)
        with pytest.raises(CaptureError, match=message):
            read_rows(path)


def test_a_header_allocates_nothing(path: Path) -> None:
    path.write_bytes(section() + interface() + struct.pack("<II", EPB, 128 << 20) + bytes(1_000))
    tracemalloc.start()
    _, capture, _ = read_rows(path, batch_bytes=4_096)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert capture.cut_at == 48
    assert peak < 4 << 20


def a_block(order: str) -> st.SearchStrategy[bytes]:
    kinds = st.sampled_from([IDB, PB, SPB, NRB, ISB, EPB, DSB, CUSTOM, 0x0A0D0D0A])
    small = st.lists(st.integers(0, 9), max_size=16).map(lambda words: struct.pack(f"{order}{len(words)}I", *words))
    body = st.one_of(st.binary(max_size=60), small)
    usual = st.sampled_from([interface(order), enhanced(b"data", order), section("<"), section(">")])
    return st.one_of(usual, st.builds(lambda kind, body: block(kind, body, order), kinds, body))


@given(st.lists(st.sampled_from("<>").flatmap(a_block), max_size=12).map(b"".join), st.binary(max_size=40), st.integers(1, 400))
def test_no_bytes_behind_a_header_raise(tmp_path_factory: pytest.TempPathFactory, blocks: bytes, noise: bytes, batch_bytes: int) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.pcapng"
    path.write_bytes(section() + blocks + noise)
    rows, capture, losses = read_rows(path)
    assert read_rows(path, batch_bytes=batch_bytes) == (rows, capture, losses)
    numbers = [row.number for row in rows]
    assert numbers == sorted(set(numbers))
    assert all(row.interface < len(capture.interfaces) for row in rows)
    assert (capture.cut_at is None) == (capture.cut_note is None)


def test_large_windows_give_what_small_ones_give(path: Path) -> None:
    packets = [enhanced(bytes([n % 251]) * (n % 1_400), time=n) for n in range(4_000)]
    path.write_bytes(section() + interface() + b"".join(packets) + block(NRB, bytes(4)) + b"".join(packets))
    large, small = read_rows(path), read_rows(path, batch_bytes=100_000)
    assert large == small
    assert [len(row.data) for row in large.rows] == [n % 1_400 for n in range(4_000)] * 2
