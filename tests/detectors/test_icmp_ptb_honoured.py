"""icmp-ptb-honoured: a report, then the same bytes in smaller packets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.icmp_ptb_honoured import DETECTOR
from tests.detectors.opinion import conclusions, of_cuts
from tests.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1400\r\n\r\n"
ANSWER = HEAD + b"x" * 1400
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def obeyed(*, report: bool = True, mtu: int = 1400) -> Wire:
    """The answer is one packet of 1,493 bytes; lost, reported, resent in pieces of 1,300 and the rest."""
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(ASK).reply(ANSWER, lose="after")
    wire = wire.icmp_ptb(mtu, quoting="server") if report else wire.wait(ms=20)
    return wire.resend(0, 1300, by="server").resend(1300, len(ANSWER), by="server")


def test_a_report_that_is_obeyed_fires() -> None:
    (found,) = conclusions(DETECTOR, obeyed().trace())
    assert found.details == {"mtu": 1400, "router": "192.0.2.1"}
    assert found.stall_ns == pytest.approx(20_000_000, abs=3_000_000), "from when the bytes were due to when they came"
    assert found.confidence.value == 0.95


def test_the_same_loss_without_a_report_stays_quiet() -> None:
    assert conclusions(DETECTOR, obeyed(report=False).trace()) == []


@pytest.mark.parametrize("mtu", [1500, 9000, 40])
def test_a_report_that_names_an_impossible_mtu_stays_quiet(mtu: int) -> None:
    assert conclusions(DETECTOR, obeyed(mtu=mtu).trace()) == []


def test_a_sender_that_does_not_shrink_its_packets_is_quiet() -> None:
    wire = Wire(vantage="server").handshake().send(ASK).reply(ANSWER, lose="after").icmp_ptb(1400, quoting="server").resend(by="server")
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, obeyed(), tmp_path)) > 10
