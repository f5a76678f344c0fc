"""TCP and UDP headers, TCP options."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.losses import Loss
from pcapdiag.packets import ACK, SYN, Packets
from tests.frame_bytes import TS_OPTION, batch, decode, decode_one, ether, ipv4, ipv6, payload, tcp, udp

MSS, SACK_OK, NOP, SCALE = bytes.fromhex("020405b4"), b"\x04\x02", b"\x01", b"\x03\x03\x07"
TS = TS_OPTION[2:]
LINUX_SYN = MSS + SACK_OK + TS + NOP + SCALE


def with_options(options: bytes) -> Packets:
    return decode_one(ether(ipv4(tcp(options=options + bytes(-len(options) % 4)))))


def sack(*blocks: tuple[int, int]) -> bytes:
    return struct.pack(">BB", 5, 2 + 8 * len(blocks)) + b"".join(struct.pack(">II", *block) for block in blocks)


def test_tcp_columns() -> None:
    header = tcp(b"abc", sport=1, dport=65535, seq=0xFFFFFFFF, ack=0x80000000, flags=0xD9, window=0xABCD)
    packets = decode_one(ether(ipv4(header)))
    assert (packets.sport[0], packets.dport[0], packets.seq[0], packets.ack[0]) == (1, 65535, 0xFFFFFFFF, 0x80000000)
    assert (packets.flags[0], packets.window[0]) == (0xD9, 0xABCD)
    assert (packets.mss[0], packets.window_shift[0], packets.sack_permitted[0], packets.has_ts[0]) == (0, -1, False, False)


def test_the_acknowledgment_number_is_zero_without_ack() -> None:
    packets, _ = decode(batch([ether(ipv4(tcp(ack=77, flags=SYN))), ether(ipv4(tcp(ack=77, flags=SYN | ACK)))]))
    assert packets.ack.tolist() == [0, 77]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(LINUX_SYN, id="linux"),
        pytest.param(MSS + NOP + SCALE + SACK_OK + TS, id="windows"),
        pytest.param(MSS + NOP + SCALE + NOP + NOP + TS + SACK_OK + b"\0\0", id="darwin"),
        pytest.param(b"\x22\x02" + LINUX_SYN, id="behind-an-unknown-option"),
        pytest.param(MSS + SACK_OK + TS + SCALE, id="no-padding"),
    ],
)
def test_syn_options_in_any_order(options: bytes) -> None:
    packets = with_options(options)
    assert (packets.mss[0], packets.window_shift[0], packets.sack_permitted[0]) == (1460, 7, True)
    assert (packets.has_ts[0], packets.ts_val[0], packets.ts_ecr[0]) == (True, 1000, 2000)


def test_options_of_a_batch_do_not_mix() -> None:
    options = [b"", TS_OPTION, LINUX_SYN, MSS, NOP + NOP + sack((5, 9)), TS_OPTION + NOP + NOP + sack((1, 2), (3, 4)), TS_OPTION]
    packets, losses = decode(batch([ether(ipv4(tcp(options=o, seq=i))) for i, o in enumerate(options)]))
    assert packets.has_ts.tolist() == [False, True, True, False, False, True, True]
    assert packets.ts_val.tolist() == [0, 1000, 1000, 0, 0, 1000, 1000]
    assert packets.mss.tolist() == [0, 0, 1460, 1460, 0, 0, 0]
    assert packets.window_shift.tolist() == [-1, -1, 7, -1, -1, -1, -1]
    assert packets.sacks.row.tolist() == [4, 5, 5]
    assert losses.of(0) == {}


def test_all_timestamps_is_the_common_batch() -> None:
    packets, _ = decode(batch([ether(ipv4(tcp(options=b"\x01\x01\x08\x0a" + struct.pack(">II", i, i + 1)))) for i in range(5)]))
    assert packets.ts_val.tolist() == [0, 1, 2, 3, 4]
    assert packets.ts_ecr.tolist() == [1, 2, 3, 4, 5]


def test_twelve_bytes_of_other_options_are_no_timestamps() -> None:
    packets = with_options(NOP + NOP + sack((7, 0xFFFFFFFF)))
    assert not packets.has_ts[0]
    assert (packets.sacks.left.tolist(), packets.sacks.right.tolist()) == ([7], [0xFFFFFFFF])


def test_sack_blocks_are_rows_in_packet_order() -> None:
    frames = [ether(ipv4(tcp(options=NOP + NOP + sack(*((10 * i, 10 * i + k) for k in range(n)))))) for i, n in enumerate((4, 1, 2))]
    frames.insert(1, ether(ipv6(tcp(options=NOP + NOP + sack((1, 2), (3, 4), (5, 6)))), 0x86DD))
    packets, _ = decode(batch(frames))
    assert packets.sacks.row.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 3, 3]
    assert packets.sacks.index.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 0, 1]
    assert packets.sacks.left.tolist() == [0, 0, 0, 0, 1, 3, 5, 10, 20, 20]
    assert packets.sacks.right.tolist() == [0, 1, 2, 3, 2, 4, 6, 10, 20, 21]


def test_sack_rows_count_over_batches() -> None:
    frame = ether(ipv4(tcp(options=NOP + NOP + sack((1, 2)))))
    packets, _ = decode(batch([frame, frame]), batch([bytes(20), frame], first=3))
    assert packets.sacks.row.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "bad_count"),
    [
        pytest.param(b"\x08\x00" + bytes(2), 1, id="length-0"),
        pytest.param(b"\x08\x01" + bytes(2), 1, id="length-1"),
        pytest.param(b"\x08\x0a" + bytes(2), 1, id="beyond-the-header"),
        pytest.param(NOP * 3 + b"\x08", 1, id="no-room-for-a-length"),
        pytest.param(b"\x02\x03\x05" + NOP, 1, id="mss-of-3"),
        pytest.param(b"\x05\x0c" + bytes(10), 1, id="sack-of-12"),
        pytest.param(b"\x05\x02" + NOP * 2, 1, id="sack-of-nothing"),
        pytest.param(b"\x00\x01\x08\x00", 0, id="behind-the-end"),
        pytest.param(NOP * 40, 0, id="forty-nops"),
        pytest.param(b"\xfe\x04\x00\x00", 0, id="unknown"),
    ],
)
def test_a_bad_option_is_counted_and_its_packet_stays(options: bytes, bad_count: int) -> None:
    packets, losses = decode(batch([ether(ipv4(tcp(b"abc", options=options)))]))
    assert losses.total(Loss.BAD_TCP_OPTION) == bad_count
    assert payload(packets) == b"abc"
    assert (packets.mss[0], packets.has_ts[0], len(packets.sacks)) == (0, False, 0)


def test_options_before_a_bad_one_count() -> None:
    packets, losses = decode(batch([ether(ipv4(tcp(options=MSS + b"\x08\x00\x00\x00")))]))
    assert packets.mss[0] == 1460
    assert losses.of(0) == {Loss.BAD_TCP_OPTION: 1}


def test_a_window_shift_above_14_counts_as_14() -> None:
    assert with_options(b"\x03\x03\xff").window_shift[0] == 14
    assert with_options(MSS + SACK_OK + TS + NOP + b"\x03\x03\x0f").window_shift[0] == 14


def test_options_that_were_not_captured_are_unknown() -> None:
    frame = ether(ipv4(tcp(b"abc", options=LINUX_SYN)))
    packets = decode_one(frame[: 14 + 20 + 20 + 8], length=len(frame))
    assert (packets.mss[0], packets.window_shift[0], packets.payload_len[0], packets.payload_captured[0]) == (0, -1, 3, 0)
    assert packets.cut[0]


@pytest.mark.parametrize(
    ("segment", "loss"),
    [
        pytest.param(tcp()[:12] + b"\x40" + tcp()[13:], Loss.MALFORMED_TCP, id="offset-4"),
        pytest.param(tcp()[:12] + b"\x60" + tcp()[13:], Loss.MALFORMED_TCP, id="offset-beyond-the-packet"),
        pytest.param(tcp()[:19], Loss.MALFORMED_TCP, id="packet-of-19"),
    ],
)
def test_tcp_headers_that_make_no_sense(segment: bytes, loss: Loss) -> None:
    packets, losses = decode(batch([ether(ipv4(segment)) + bytes(20), ether(ipv4(tcp()))]))
    assert losses.of(0) == {loss: 1}
    assert packets.frame.tolist() == [2]


def test_a_tcp_header_cut_by_the_snaplen() -> None:
    frame = ether(ipv6(tcp(b"abc")), 0x86DD)
    _, losses = decode(batch([frame[: 54 + n] for n in range(20)], lengths=[len(frame)] * 20))
    assert losses.of(0) == {Loss.TRUNCATED_TCP: 20}


@pytest.mark.parametrize(
    ("length", "padding", "expected"),
    [(None, 0, b"hello"), (None, 9, b"hello"), (10, 0, b"he"), (0, 0, b"hello"), (300, 9, b"hello"), (7, 0, b""), (8, 0, b"")],
)
def test_a_udp_payload_ends_with_the_shorter_of_udp_and_ip_length(length: int | None, padding: int, expected: bytes) -> None:
    packets = decode_one(ether(ipv4(udp(b"hello", sport=5, dport=6, length=length), 17)) + bytes(padding))
    assert (packets.sport[0], packets.dport[0]) == (5, 6)
    assert packets.payload_len[0] == len(expected)
    assert payload(packets) == expected


def test_a_cut_udp_payload_and_a_cut_udp_header() -> None:
    frame = ether(ipv4(udp(b"hello"), 17))
    packets = decode_one(frame[:44], length=len(frame))
    assert (packets.payload_len[0], packets.payload_captured[0]) == (5, 2)
    _, losses = decode(batch([frame[:41]], lengths=[len(frame)]))
    assert losses.of(0) == {Loss.TRUNCATED_UDP: 1}
