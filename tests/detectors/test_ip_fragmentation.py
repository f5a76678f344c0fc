"""ip-fragmentation: a fact worth knowing."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from pcapdiag.detectors.ip_fragmentation import DETECTOR
from pcapdiag.findings import FindingKind
from tests.detectors.opinion import conclusions, of_cuts
from tests.detectors.wrapping import Wrapped, in_vxlan
from tests.frame_bytes import ether, ipv4, tcp
from tests.wire import Wire


def test_fragments_are_found() -> None:
    wire = Wire(cport=40_000, sport=4_000).udp(b"give").fragment(b"x" * 4000).fragment(b"y" * 3000, only=(1,), lose="before")
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.kind is FindingKind.RISK
    assert found.details == {"datagrams": 2, "incomplete": 1, "longest_len": 4008, "protocol": "UDP"}
    assert len(found.frames) == 2


def test_whole_datagrams_are_quiet() -> None:
    assert conclusions(DETECTOR, Wire(cport=40_000, sport=4_000).udp(b"give").udp(b"x" * 1400, "server").trace()) == []


def test_fragments_nobody_can_name_a_flow_for_are_found() -> None:
    wire = Wire(cport=40_000, sport=4_000).fragment(b"x" * 4000, only=(0,), lose="before")
    (found,) = conclusions(DETECTOR, wire.trace())
    assert (found.flows, found.details["incomplete"]) == ((), 1)


def cut_up(packet: bytes, *, mtu: int = 1_500, ident: int = 9, only: slice = slice(None)) -> list[bytes]:
    """A tunnel's packet (IPv4, without options) in the fragments a router makes of it."""
    body, room = packet[20:], (mtu - 20) // 8 * 8
    proto, src, dst = packet[9], str(ip_address(packet[12:16])), str(ip_address(packet[16:20]))
    pieces = [(at, body[at : at + room]) for at in range(0, len(body), room)]
    return [
        ether(ipv4(piece, proto, src=src, dst=dst, ident=ident, df=False, offset=at, mf=at + room < len(body))) for at, piece in pieces
    ][only]


@pytest.mark.parametrize("mtu", [1_500, 1_450])
def test_a_tunnels_packets_that_were_cut_up_name_the_tunnel(mtu: int) -> None:
    inner = ether(ipv4(tcp(bytes(1_460)), src="10.0.0.1", dst="10.0.0.2"))
    wire = Wire(cport=40_000, sport=4_000).udp(b"hello")
    for ident in (5, 6):
        for frame in cut_up(in_vxlan(inner)[14:], ident=ident, mtu=mtu):
            wire.frame(frame)
    (found,) = conclusions(DETECTOR, wire.trace())
    inside = mtu - 50
    assert found.summary.endswith(
        f"VXLAN packets of up to 1,550 bytes were cut up by their outer header: path MTU {mtu:,} less 50 bytes VXLAN = {inside:,} for the "
        "inner packets, which are up to 1,500 bytes long"
    )
    assert (found.details["tunnel"], found.details["overhead_len"], found.details["path_mtu"]) == ("VXLAN", 50, mtu)
    assert found.remedy[0] == f"Inside VXLAN: ip link set dev <tunnel or container interface> mtu {inside}"
    assert "1,550" in found.remedy[1]


@pytest.mark.parametrize(
    ("packet", "name"),
    [
        pytest.param(in_vxlan(ether(bytes(1_500)))[14:], "VXLAN", id="vxlan"),
        pytest.param(ipv4(bytes(1_600), 50), "IPsec ESP", id="esp"),
        pytest.param(ipv4(bytes(1_600), 47), "GRE", id="gre"),
    ],
)
def test_a_tunnel_that_was_never_whole_is_named_by_what_its_first_fragment_shows(packet: bytes, name: str) -> None:
    wire = Wire(cport=40_000, sport=4_000).udp(b"hello")
    for frame in cut_up(packet, only=slice(1)):
        wire.frame(frame)
    (found,) = conclusions(DETECTOR, wire.trace())
    assert f"{name} packets of up to" in found.summary
    assert (found.details["tunnel"], found.details["overhead_len"], found.details["path_mtu"]) == (name, None, None)
    assert name in found.remedy[0]


def test_fragments_inside_a_tunnel_are_not_the_tunnels() -> None:
    wire = Wire(cport=40_000, sport=4_000).udp(b"give").fragment(b"x" * 4000)
    (found,) = conclusions(DETECTOR, Wrapped(wire).trace())
    assert ("tunnel" in found.details, found.details["protocol"]) == (False, "UDP")


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, Wire(cport=40_000, sport=4_000).fragment(b"x" * 9000), tmp_path)) > 5
