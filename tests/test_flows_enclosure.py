"""Which tunnel is between two hosts, and what it takes from the path's MTU."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.flows.enclosure import Enclosure, Enclosures, explained_mtu, name_of, reported_outside, tunnel_of_datagram
from pcapdiag.packets import Packets, Tunnel
from tests.frame_bytes import batch, decode, ether, ipv4, tcp, udp, vxlan
from tests.wrapped import TUNNELS, over_udp

THERE, BACK = ipv4(tcp(b"ask"), src="10.0.0.1", dst="10.0.0.2"), ipv4(tcp(b"say"), src="10.0.0.2", dst="10.0.0.1")


def turned(frame: bytes) -> bytes:
    """The frame on its way back over the link."""
    return frame[6:12] + frame[:6] + frame[12:]


def between(*frames: bytes, one: bytes = b"\x0a\0\0\1", other: bytes = b"\x0a\0\0\2") -> Enclosure | None:
    packets, _ = decode(batch(frames))
    return Enclosures(packets).between(packets.addresses.packed.index(one), packets.addresses.packed.index(other))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vxlan", Enclosure("VXLAN", 50)),
        ("vxlan-vlan", Enclosure("VXLAN", 54)),
        ("geneve-load-balancer", Enclosure("GENEVE", 68)),
        ("gre-mpls", Enclosure("GRE and MPLS", 28)),
        ("4in6", Enclosure("4in6", 40)),
        ("pppoe", Enclosure("PPPoE", 8)),
        ("mpls", None),
        ("qinq", None),
        ("erspan-2", None),
    ],
)
def test_the_headers_between_two_hosts(name: str, expected: Enclosure | None) -> None:
    wrap = TUNNELS[name].wrap
    assert between(wrap(THERE), turned(wrap(BACK))) == expected
    assert between(wrap(THERE)) == expected, "one direction is enough"


def test_bare_packets_are_in_no_tunnel_and_other_hosts_tunnels_are_not_theirs() -> None:
    assert between(ether(THERE), ether(BACK)) is None
    others = TUNNELS["vxlan"].wrap(ipv4(tcp(), src="10.0.0.8", dst="10.0.0.9"))
    assert between(ether(THERE), others) is None


def test_packets_seen_bare_and_wrapped_travel_in_the_tunnel() -> None:
    assert between(ether(THERE), TUNNELS["vxlan"].wrap(THERE)) == Enclosure("VXLAN", 50)


def test_of_several_the_one_with_most_headers_counts() -> None:
    frames = [TUNNELS[name].wrap(THERE) for name in ("gre", "geneve-options", "ipip")]
    assert between(*frames) == Enclosure("GENEVE", 62)


def test_both_directions_over_one_way_of_a_link_are_a_mirror() -> None:
    wrap = TUNNELS["vxlan"].wrap
    assert between(wrap(THERE), wrap(BACK)) is None


def test_a_tunnel_number_for_each_direction() -> None:
    """Two mirror sessions, one an end; or an overlay that writes who sends where the network's number would stand."""
    wrap, other = over_udp(4789, vxlan(b"", 1)), over_udp(4789, vxlan(b"", 2))
    assert between(wrap(THERE), other(BACK)) is None, "a mirror"
    assert between(wrap(THERE), turned(other(BACK))) == Enclosure("VXLAN", 50), "an overlay"


@pytest.mark.parametrize(("low", "high", "told", "expected"), [
    (600, 1_499, None, 1_500), (1_451, 1_499, None, None), (1_430, 1_449, None, 1_492), (8_900, 8_999, None, 9_000),
    (600, 1_499, 1_333, 1_333), (600, 1_499, 9_000, 1_500),
])  # fmt: skip
def test_the_path_outside(low: int, high: int, told: int | None, expected: int | None) -> None:
    assert Enclosure("VXLAN", 50).outer_mtu(low, high, told) == expected


def test_the_sum_is_written_out() -> None:
    assert Enclosure("VXLAN", 50).sum_of(1_500) == "path MTU 1,500 less 50 bytes VXLAN = 1,450 for the inner packets"


def test_names_without_numbers_and_vlans() -> None:
    assert name_of(Tunnel(("vlan 5", "vxlan 42", "vlan 7", "gre", "vxlan 9"), 150)) == "VXLAN and GRE"
    assert name_of(Tunnel(("gre", "erspan", "6in4"), 90)) == "GRE, ERSPAN and 6in4"
    assert name_of(Tunnel(("vlan 5",), 0)) == ""


def test_an_mtu_is_explained_only_when_the_sum_is_right() -> None:
    tunnel = Enclosure("VXLAN", 50)
    assert explained_mtu(1_450, 0, tunnel) == " (path MTU 1,500 less 50 bytes VXLAN, for the inner packets)"
    assert explained_mtu(1_400, 50, tunnel) == " (path MTU 1,450 less 50 bytes VXLAN, for the inner packets)"
    assert explained_mtu(1_400, 24, tunnel) == " (path MTU 1,424 less 24 bytes tunnel headers, for the inner packets)"
    assert (explained_mtu(1_400, 0, tunnel), explained_mtu(1_450, 0, None)) == ("", "")


def quoting(quoted: bytes, mtu: int = 1_500) -> bytes:
    return ether(ipv4(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quoted, 1))


def packets_of(*frames: bytes) -> Packets:
    return decode(batch(frames))[0]


def test_reports_to_a_tunnels_end() -> None:
    wrapped = TUNNELS["vxlan"].wrap(THERE)[14:]
    assert reported_outside(packets_of(quoting(wrapped[:28]), quoting(wrapped[:28], 1_480))) == 1_480
    assert reported_outside(packets_of(quoting(TUNNELS["gre"].wrap(THERE)[14:][:28]))) == 1_500
    assert reported_outside(packets_of(quoting(wrapped))) is None, "the quote shows whose packet it was"
    assert reported_outside(packets_of(quoting(THERE), quoting(ipv4(udp(b"x" * 20), 17)), ether(THERE))) is None


def test_fragments_name_their_tunnel_by_protocol_port_or_content() -> None:
    wrapped = TUNNELS["vxlan"].wrap(ipv4(tcp(bytes(1_460)), src="10.0.0.1", dst="10.0.0.2"))[14:]
    pieces = [ether(ipv4(wrapped[20:][a:b], 17, offset=a, mf=b < 1_530, df=False)) for a, b in ((0, 1_480), (1_480, 1_530))]
    for packets in (packets_of(*pieces), packets_of(pieces[0])):
        assert tunnel_of_datagram(packets, 0) == "VXLAN"
    assert tunnel_of_datagram(packets_of(pieces[1]), 0) == "", "a later fragment shows no port"
    assert tunnel_of_datagram(packets_of(ether(ipv4(bytes(800), 50, mf=True, df=False))), 0) == "IPsec ESP"
    assert tunnel_of_datagram(packets_of(ether(ipv4(udp(bytes(800)), 17, mf=True, df=False))), 0) == ""
