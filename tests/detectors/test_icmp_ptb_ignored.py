"""icmp-ptb-ignored: a report, and packets that stay as long as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from pcapdiag.detectors.icmp_ptb_ignored import DETECTOR
from tests.detectors.opinion import conclusions, of_cuts
from tests.detectors.wrapping import Wrapped
from tests.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1400\r\n\r\n"
ANSWER = HEAD + b"x" * 1400
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def deaf(*, resends: int = 3, mtu: int = 1400, report: bool = True, vantage: Literal["server", "middle"] = "server") -> Wire:
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(ASK).reply(ANSWER, lose="after")
    if report:
        wire.icmp_ptb(mtu, quoting="server")
    for turn in range(resends):
        wire.wait(ms=200 << turn).resend(0, len(ANSWER), by="server", lose="after")
    return wire.wait(ms=2000).rst("client")


def test_a_report_without_effect_fires() -> None:
    (found,) = conclusions(DETECTOR, deaf().trace())
    assert (found.details["mtu"], found.details["resends"], found.details["router"]) == (1400, 3, "192.0.2.1")
    assert found.stall_ns > 3_000_000_000
    assert found.confidence.value == 0.9
    assert [frame.note for frame in found.frames].count("packet too big: MTU 1400") == 1


def test_one_resend_may_have_been_on_its_way_and_stays_quiet() -> None:
    assert conclusions(DETECTOR, deaf(resends=1).trace()) == []


def test_without_a_report_it_is_quiet() -> None:
    assert conclusions(DETECTOR, deaf(report=False).trace()) == []


@pytest.mark.parametrize("mtu", [0, 67, 1500, 2000])
def test_ignoring_an_impossible_mtu_is_right_and_quiet(mtu: int) -> None:
    assert conclusions(DETECTOR, deaf(mtu=mtu).trace()) == []


def test_a_report_seen_on_the_way_is_less_sure() -> None:
    (found,) = conclusions(DETECTOR, deaf(vantage="middle").trace())
    assert found.confidence.value == 0.7


def test_smaller_resends_are_quiet() -> None:
    wire = Wire(vantage="server").handshake().send(ASK).reply(ANSWER, lose="after").icmp_ptb(1400, quoting="server")
    wire.resend(0, 1300, by="server", lose="after").wait(ms=200).resend(0, 1300, by="server").resend(1300, len(ANSWER), by="server")
    assert conclusions(DETECTOR, wire.trace()) == []


def test_in_a_tunnel_it_says_where_the_mtu_comes_from() -> None:
    (found,) = conclusions(DETECTOR, Wrapped(deaf(mtu=1_450)).trace())
    assert "reported an MTU of 1450 (path MTU 1,500 less 50 bytes VXLAN, for the inner packets), yet" in found.summary


def test_in_a_tunnel_another_mtu_is_not_explained_by_it() -> None:
    (found,) = conclusions(DETECTOR, Wrapped(deaf(mtu=1_430)).trace())
    assert "reported an MTU of 1430, yet" in found.summary


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, deaf(), tmp_path)) > 10
