"""ICMP and ICMPv6: every message is a row, an error also says what it quotes."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.losses import Loss
from pcapdiag.packets import ICMP, ICMPV6, TCP, UDP, IcmpErrors
from tests.frame_bytes import A6, B6, A, B, batch, decode, decode_one, ether, fragment6, ipv4, ipv6, payload, tcp, udp, vxlan
from tests.wrapped import TUNNELS

ROUTER, ROUTER6 = "192.0.2.1", "2001:db8::ffff"


def icmp(kind: int, code: int, rest: int = 0, quote: bytes = b"") -> bytes:
    return struct.pack(">BBHI", kind, code, 0, rest) + quote


def error_v4(quote: bytes, kind: int = 3, code: int = 4, rest: int = 1400) -> bytes:
    return ether(ipv4(icmp(kind, code, rest, quote), ICMP, src=ROUTER, dst=A))


def error_v6(quote: bytes, kind: int = 2, code: int = 0, rest: int = 1280) -> bytes:
    return ether(ipv6(icmp(kind, code, rest, quote), ICMPV6, src=ROUTER6, dst=A6), 0x86DD)


def quoted(frame: bytes) -> tuple[IcmpErrors, str, str]:
    packets = decode_one(frame)
    errors = packets.icmp_errors
    assert len(errors) == 1
    return errors, packets.addresses.text(int(errors.src[0])), packets.addresses.text(int(errors.dst[0]))


def test_fragmentation_needed_quotes_a_segment_and_tells_the_mtu() -> None:
    errors, src, dst = quoted(error_v4(ipv4(tcp(bytes(1400), seq=0xDEADBEEF), ident=99)[:28]))
    assert (src, dst) == (A, B)
    assert (errors.type[0], errors.code[0], errors.mtu[0], errors.proto[0]) == (3, 4, 1400, TCP)
    assert (errors.sport[0], errors.dport[0], errors.seq[0]) == (40000, 443, 0xDEADBEEF)
    assert (errors.ip_len[0], errors.ip_id[0]) == (1440, 99)


def test_packet_too_big_quotes_a_segment_and_tells_the_mtu() -> None:
    errors, src, dst = quoted(error_v6(ipv6(tcp(bytes(1440), seq=5))[:200], rest=0x00012345))
    assert (src, dst) == (A6, B6)
    assert (errors.type[0], errors.code[0], errors.mtu[0], errors.proto[0]) == (2, 0, 0x12345, TCP)
    assert (errors.seq[0], errors.ip_len[0], errors.ip_id[0]) == (5, 1500, 0)


def test_a_router_that_tells_no_mtu_says_zero_and_other_errors_minus_one() -> None:
    quote = ipv4(udp(b"x"), UDP)
    packets, _ = decode(batch([error_v4(quote, rest=0), error_v4(quote, 3, 1), error_v4(quote, 11, 0), error_v6(ipv6(tcp()), 1, 4)]))
    assert packets.icmp_errors.mtu.tolist() == [0, -1, -1, -1]
    assert packets.icmp_errors.row.tolist() == [0, 1, 2, 3]
    assert packets.icmp_errors.seq.tolist() == [-1, -1, -1, 1]


def test_a_quoted_header_with_options() -> None:
    errors, *_ = quoted(error_v4(ipv4(udp(b"abc", dport=9), UDP, options=b"\x01" * 8)))
    assert (errors.proto[0], errors.dport[0]) == (UDP, 9)


@pytest.mark.parametrize("size", [20, 24, 27])
def test_a_quote_without_eight_bytes_of_transport_has_no_ports(size: int) -> None:
    errors, *_ = quoted(error_v4(ipv4(tcp())[:size]))
    assert (errors.proto[0], errors.sport[0], errors.seq[0]) == (TCP, 0, -1)


def test_a_quoted_later_fragment_has_no_ports() -> None:
    errors, *_ = quoted(error_v4(ipv4(bytes(100), UDP, offset=1480), 11, 1))
    assert (errors.sport[0], errors.proto[0]) == (0, UDP)
    errors, *_ = quoted(error_v6(ipv6(fragment6(bytes(100), UDP, offset=1448, more=False), 44), 3, 1))
    assert (errors.sport[0], errors.proto[0], errors.ip_id[0]) == (0, UDP, 0x1234)


def test_extension_headers_of_a_quote_are_stepped_over() -> None:
    inner = struct.pack(">BB6x", 44, 0) + fragment6(udp(bytes(60), dport=7), UDP, offset=0, more=True)
    errors, *_ = quoted(error_v6(ipv6(inner, 60)))
    assert (errors.proto[0], errors.dport[0], errors.ip_id[0]) == (UDP, 7, 0x1234)


def test_a_quote_that_is_no_ip_header_is_only_a_row() -> None:
    for frame in (error_v4(b""), error_v4(ipv4(tcp())[:19]), error_v4(bytes(40)), error_v6(bytes(60)), error_v4(b"\x44" + bytes(30))):
        assert len(decode_one(frame).icmp_errors) == 0


def test_echoes_are_rows_whose_payload_is_the_message() -> None:
    packets, _ = decode(batch([ether(ipv4(icmp(8, 0, 7, b"ping"), ICMP)), ether(ipv6(icmp(128, 0, 7, b"ping"), ICMPV6), 0x86DD)]))
    assert packets.proto.tolist() == [ICMP, ICMPV6]
    assert payload(packets, 0) == icmp(8, 0, 7, b"ping")
    assert payload(packets, 1) == icmp(128, 0, 7, b"ping")
    assert (packets.sport.tolist(), len(packets.icmp_errors)) == ([0, 0], 0)


def test_type_numbers_are_those_of_the_ip_version() -> None:
    quote4, quote6 = ipv4(tcp()), ipv6(tcp())
    as_v4 = ether(ipv4(icmp(1, 0, 0, quote6), ICMP))
    as_v6 = ether(ipv6(icmp(11, 0, 0, quote4), ICMPV6), 0x86DD)
    packets, _ = decode(batch([as_v4, as_v6]))
    assert len(packets.icmp_errors) == 0


def test_quoted_addresses_are_numbered_behind_those_of_packets_whatever_the_batches() -> None:
    frames = [error_v4(ipv4(tcp(), src="1.1.1.1", dst="2.2.2.2")), ether(ipv4(tcp(), src="3.3.3.3"))]
    whole, _ = decode(batch(frames))
    parts, _ = decode(batch(frames[:1]), batch(frames[1:], first=2))
    assert whole.addresses == parts.addresses
    assert [whole.addresses.text(i) for i in range(6)] == [ROUTER, A, "3.3.3.3", B, "1.1.1.1", "2.2.2.2"]


def test_a_cut_icmp_header_is_counted() -> None:
    frame = ether(ipv4(icmp(8, 0), ICMP))
    _, losses = decode(batch([frame[:38]], lengths=[len(frame)]))
    assert losses.of(0) == {Loss.TRUNCATED_ICMP: 1}


INNER = ipv4(tcp(bytes(1_400), seq=77), src="172.16.0.1", dst="172.16.0.2", ident=55)


@pytest.mark.parametrize("name", ["vxlan", "geneve-options", "gre-key", "ipip", "gtp-u", "l2tp-3"])
def test_a_quoted_tunnel_shows_the_packet_inside(name: str) -> None:
    way = TUNNELS[name]
    errors, src, dst = quoted(error_v4(way.wrap(INNER)[14:][:128]))
    assert (src, dst, errors.proto[0], errors.sport[0], errors.dport[0], errors.seq[0]) == ("172.16.0.1", "172.16.0.2", TCP, 40000, 443, 77)
    assert (errors.mtu[0], errors.overhead_len[0], errors.ip_len[0], errors.ip_id[0]) == (1400, way.overhead_len, 1440, 55)


def test_a_quoted_tunnel_over_ipv6() -> None:
    errors, src, _ = quoted(error_v6(TUNNELS["4in6"].wrap(INNER)[14:][:200]))
    assert (src, errors.mtu[0], errors.overhead_len[0], errors.seq[0]) == ("172.16.0.1", 1280, 40, 77)


@pytest.mark.parametrize("size", range(28, 79))
def test_a_quote_that_ends_before_the_inner_packet_is_the_tunnels(size: int) -> None:
    """70 bytes of VXLAN, Ethernet and IP, and 8 of TCP."""
    packets, losses = decode(batch([error_v4(TUNNELS["vxlan"].wrap(INNER)[14:][:size])]))
    errors = packets.icmp_errors
    inside = size >= 70
    assert (errors.overhead_len[0], errors.proto[0]) == ((50, TCP) if inside else (0, UDP))
    assert (errors.dport[0], errors.seq[0]) == ((4789, -1) if not inside else (443, 77) if size == 78 else (0, -1))
    assert losses.of(0) == {}


def test_a_quoted_fragment_of_a_tunnels_packet_is_the_tunnels() -> None:
    errors, src, _ = quoted(error_v4(ipv4(udp(vxlan(ether(INNER)), dport=4789)[:400], UDP, mf=True, df=False)))
    assert (src, errors.dport[0], errors.overhead_len[0]) == (A, 4789, 0)


def test_plain_quotes_have_no_overhead() -> None:
    errors, *_ = quoted(error_v4(ipv4(udp(b"x" * 40), UDP)))
    assert (errors.overhead_len[0], errors.dport[0]) == (0, 53)
