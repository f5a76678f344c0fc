"""IPv4 and IPv6 headers: lengths, options, extension headers, what makes no sense."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.losses import Loss
from pcapdiag.packets import TCP
from tests.frame_bytes import A6, B6, A, B, batch, decode, decode_one, ether, fragment6, ipv4, ipv6, payload, tcp, udp


def options_header(next_proto: int, words: int = 0) -> bytes:
    """A hop-by-hop, destination or routing header of 8 + 8 * words bytes."""
    return struct.pack(">BB", next_proto, words) + bytes(6 + 8 * words)


def authentication(next_proto: int, words: int = 4) -> bytes:
    return struct.pack(">BB", next_proto, words) + bytes(4 * words + 6)


def test_ipv4_columns() -> None:
    packets = decode_one(ether(ipv4(tcp(b"abc"), ident=0xBEEF, ttl=63, tos=0xB9, df=True)))
    assert packets.addresses.packed == (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    assert (packets.ip_id[0], packets.ttl[0], packets.ecn[0], packets.ip_len[0]) == (0xBEEF, 63, 1, 43)
    assert (packets.dont_fragment[0], packets.more_fragments[0], packets.frag_offset[0], packets.proto[0]) == (True, False, 0, TCP)
    assert not packets.cut[0]
    assert not packets.ip_len_zero[0]


def test_ipv6_columns() -> None:
    frame = bytearray(ether(ipv6(tcp(b"abc"), hops=5), 0x86DD))
    frame[14:16] = b"\x60\x30"  # traffic class 3
    packets = decode_one(bytes(frame))
    assert [packets.addresses.text(i) for i in (packets.src[0], packets.dst[0])] == [A6, B6]
    assert (packets.ip_version[0], packets.ttl[0], packets.ecn[0], packets.ip_len[0]) == (6, 5, 3, 63)
    assert (packets.dont_fragment[0], packets.ip_id[0]) == (True, 0)


def test_the_payload_ends_with_the_ip_packet_not_with_the_padding() -> None:
    packets = decode_one(ether(ipv4(tcp())) + bytes(6))
    assert (packets.payload_len[0], packets.payload_captured[0]) == (0, 0)
    packets = decode_one(ether(ipv4(tcp(b"abc"))) + b"\xff" * 3)
    assert payload(packets) == b"abc"


def test_the_payload_is_that_of_the_wire_when_the_capture_is_cut() -> None:
    frame = ether(ipv4(tcp(bytes(range(100)))))
    packets = decode_one(frame[:64], length=len(frame))
    assert (packets.payload_len[0], packets.payload_captured[0]) == (100, 10)
    assert packets.cut[0]
    assert payload(packets) == bytes(range(10))


def test_a_frame_shorter_than_its_ip_packet_is_cut_even_if_the_file_does_not_say_so() -> None:
    packets = decode_one(ether(ipv4(tcp(bytes(100))))[:64])
    assert packets.cut[0]
    assert packets.payload_len[0] == 100


def test_a_total_length_of_zero_is_that_of_the_frame() -> None:
    packets = decode_one(ether(ipv4(tcp(bytes(9000)), total_len=0)))
    assert (packets.ip_len[0], packets.payload_len[0], packets.payload_captured[0]) == (9040, 9000, 9000)
    assert packets.ip_len_zero[0]
    packets = decode_one(ether(ipv4(tcp(bytes(9000)), total_len=0))[:80], length=9054)
    assert (packets.ip_len[0], packets.payload_len[0], packets.payload_captured[0]) == (9040, 9000, 26)


def test_an_ipv6_payload_length_of_zero_is_that_of_the_frame_unless_there_is_no_payload() -> None:
    packets = decode_one(ether(ipv6(tcp(bytes(70000)), payload_len=0), 0x86DD))
    assert (packets.ip_len_zero[0], packets.ip_len[0], packets.payload_len[0]) == (True, 70060, 70000)
    packets = decode_one(ether(ipv6(b"", 59), 0x86DD) + bytes(6))
    assert (packets.ip_len_zero[0], packets.ip_len[0], packets.proto[0]) == (False, 40, 59)


@pytest.mark.parametrize("words", range(1, 11))
def test_ipv4_options_are_stepped_over(words: int) -> None:
    packets = decode_one(ether(ipv4(tcp(b"abc"), options=b"\x01" * 4 * words)))
    assert packets.dport[0] == 443
    assert payload(packets) == b"abc"


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(lambda p: (options_header(6) + p, 0), id="hop-by-hop"),
        pytest.param(lambda p: (options_header(6, 2) + p, 43), id="routing"),
        pytest.param(lambda p: (options_header(6, 1) + p, 60), id="destination"),
        pytest.param(lambda p: (authentication(6) + p, 51), id="ah"),
        pytest.param(lambda p: (fragment6(p, 6, offset=0, more=False), 44), id="atomic-fragment"),
        pytest.param(lambda p: (options_header(43) + options_header(60) + options_header(51, 3) + authentication(6, 5) + p, 0), id="chain"),
        pytest.param(lambda p: (options_header(60) * 7 + options_header(6) + p, 60), id="eight"),
    ],
)
def test_ipv6_extension_headers_are_stepped_over(chain: object) -> None:
    assert callable(chain)
    content, first = chain(tcp(b"hello", sport=1234))
    packets = decode_one(ether(ipv6(content, first), 0x86DD))
    assert (packets.proto[0], packets.sport[0], packets.payload_len[0]) == (TCP, 1234, 5)
    assert payload(packets) == b"hello"
    assert packets.ip_len[0] == 40 + len(content)


def test_more_than_eight_extension_headers_are_left_alone() -> None:
    packets = decode_one(ether(ipv6(options_header(60) * 8 + options_header(6) + tcp(), 60), 0x86DD))
    assert (packets.proto[0], packets.sport[0]) == (60, 0)


def test_the_authentication_header_is_stepped_over_in_ipv4_too() -> None:
    packets = decode_one(ether(ipv4(authentication(17) + udp(b"abc"), 51)))
    assert (packets.proto[0], packets.dport[0]) == (17, 53)
    assert payload(packets) == b"abc"


def test_extension_headers_beyond_the_packet_are_malformed_and_beyond_the_capture_truncated() -> None:
    frame = ether(ipv6(options_header(6, 200), 0), 0x86DD)
    too_long = ether(ipv6(struct.pack(">BB", 6, 9) + bytes(6), 0), 0x86DD)
    _, losses = decode(batch([too_long]))
    assert losses.of(0) == {Loss.MALFORMED_IP: 1}
    _, losses = decode(batch([frame[:100], frame[:60]], lengths=[len(frame)] * 2))
    assert losses.of(0) == {Loss.TRUNCATED_IP: 2}


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\x65" + ipv4(tcp())[1:], id="version"),
        pytest.param(b"\x44" + ipv4(tcp())[1:], id="header-length"),
        pytest.param(ipv4(tcp(), total_len=19), id="total-length"),
        pytest.param(ipv4(udp(), 17, total_len=27), id="inside-udp"),
        pytest.param(ipv4(b"")[:19], id="short-on-the-wire"),
    ],
)
def test_ipv4_headers_that_make_no_sense(packet: bytes) -> None:
    _, losses = decode(batch([ether(packet)]))
    assert losses.of(0) == {Loss.MALFORMED_IP: 1}


def test_an_ipv6_header_of_another_version() -> None:
    _, losses = decode(batch([ether(b"\x40" + ipv6(tcp())[1:], 0x86DD)]))
    assert losses.of(0) == {Loss.MALFORMED_IP: 1}


def test_other_protocols_are_rows_without_ports() -> None:
    packets, _ = decode(batch([ether(ipv4(bytes(30), 50)), ether(ipv6(bytes(30), 132), 0x86DD), ether(ipv4(b"", 89))]))
    assert packets.proto.tolist() == [50, 132, 89]
    for name in ("sport", "dport", "payload_len", "payload_captured", "payload_at", "flags", "seq"):
        assert getattr(packets, name).tolist() == [0, 0, 0]


def test_addresses_are_numbered_by_first_appearance_whatever_the_batches() -> None:
    frames = [
        ether(ipv6(tcp()), 0x86DD),
        ether(ipv4(tcp(), src=B, dst=A)),
        ether(ipv4(tcp())),
        ether(ipv6(tcp(), src=B6, dst="::1"), 0x86DD),
        ether(ipv4(tcp(), src="1.2.3.4", dst=B)),
    ]
    whole, _ = decode(batch(frames))
    assert [whole.addresses.text(i) for i in range(6)] == [A6, B6, B, A, "::1", "1.2.3.4"]
    assert list(zip(whole.src.tolist(), whole.dst.tolist(), strict=True)) == [(0, 1), (2, 3), (3, 2), (1, 4), (5, 2)]
    pieces, _ = decode(*(batch([frame], first=number) for number, frame in enumerate(frames, 1)))
    assert pieces.addresses == whole.addresses
    for name in whole.columns():
        if name not in {"payload_at", "ts_ns"}:
            assert getattr(pieces, name).tolist() == getattr(whole, name).tolist(), name


def test_many_addresses_keep_their_numbers() -> None:
    count = 5000
    hosts = [f"10.{i % 7}.{i // 250}.{i % 250}" for i in range(count)]
    packets, _ = decode(batch([ether(ipv4(udp(), 17, src=host, dst=B)) for host in hosts]))
    assert [packets.addresses.text(i) for i in packets.src.tolist()] == hosts
    distinct = list(dict.fromkeys(host for host in hosts for host in (host, B)))
    assert [packets.addresses.text(i) for i in range(len(packets.addresses.packed))] == distinct
