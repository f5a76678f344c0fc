"""icmp-ptb-honoured: a report, then the same bytes in smaller packets."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pcapdiag.detectors.icmp_ptb_honoured import DETECTOR
from tests.detectors.opinion import conclusions, of_cuts
from tests.detectors.wrapping import Wrapped, in_vxlan
from tests.frame_bytes import ether, ipv4
from tests.wire import Wire

ASK = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1380\r\n\r\n" + b"x" * 1380
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def obeyed(*, report: bool = True, mtu: int = 1400) -> Wire:
    """The request is one packet of 1,486 bytes; lost, reported, resent in pieces of 1,300 and the rest."""
    wire = Wire(rtt_ms=40).handshake().send(ASK, lose="after")
    wire = wire.icmp_ptb(mtu) if report else wire.wait(ms=20)
    return wire.resend(0, 1300).resend(1300, len(ASK)).reply(OK)


def test_a_report_that_is_obeyed_fires() -> None:
    (found,) = conclusions(DETECTOR, obeyed().trace())
    assert found.details == {"mtu": 1400, "router": "192.0.2.1"}
    assert found.stall_ns == pytest.approx(20_000_000, abs=3_000_000), "until the smaller packets left"
    assert found.confidence.value == 0.95


def test_the_same_loss_without_a_report_stays_quiet() -> None:
    assert conclusions(DETECTOR, obeyed(report=False).trace()) == []


@pytest.mark.parametrize("mtu", [1500, 9000, 40])
def test_a_report_that_names_an_impossible_mtu_stays_quiet(mtu: int) -> None:
    assert conclusions(DETECTOR, obeyed(mtu=mtu).trace()) == []


def test_a_sender_that_does_not_shrink_its_packets_is_quiet() -> None:
    wire = Wire().handshake().send(ASK, lose="after").icmp_ptb(1400).resend(0, len(ASK)).reply(OK)
    assert conclusions(DETECTOR, wire.trace()) == []


def reported_outside(mtu: int) -> Wrapped:
    """The report is about the tunnel's packet, and quotes enough of it to show the inner one."""
    wire = Wire(rtt_ms=40).handshake().send(ASK, lose="after")
    quote = in_vxlan(wire.frames()[-1][1])[14:]
    report = ether(ipv4(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quote[:528], 1, src="192.0.2.1", dst="192.0.2.10"))
    wire.wait(ms=20).frame(report).resend(0, 1300).resend(1300, len(ASK)).reply(OK)
    return Wrapped(wire, keep=lambda frame: frame == report)


def test_a_report_about_a_tunnels_packet_leaves_the_inner_one_less() -> None:
    (found,) = conclusions(DETECTOR, reported_outside(1_450).trace())
    assert found.details == {"mtu": 1_400, "router": "192.0.2.1"}
    assert "reported an MTU of 1400 (path MTU 1,450 less 50 bytes VXLAN, for the inner packets) between" in found.summary


def test_a_report_above_the_tunnels_packet_is_quiet() -> None:
    assert conclusions(DETECTOR, reported_outside(1_600).trace()) == []


def test_a_router_before_the_tunnel_subtracts_by_itself() -> None:
    wire = Wire(rtt_ms=40).handshake().send(ASK, lose="after").icmp_ptb(1_450).resend(0, 1300).resend(1300, len(ASK)).reply(OK)
    (found,) = conclusions(DETECTOR, Wrapped(wire).trace())
    assert "reported an MTU of 1450 (path MTU 1,500 less 50 bytes VXLAN, for the inner packets) between" in found.summary


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, obeyed(), tmp_path)) > 10
