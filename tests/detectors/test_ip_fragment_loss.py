"""ip-fragment-loss: an answer in pieces of which one is missing."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

import pytest

from pcapdiag.detectors.ip_fragment_loss import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire, merge

QUESTION = b"\x05model\x04test\x00" + struct.pack(">HH", 16, 1)
QUERY = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + QUESTION
TEXT = b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 60, 3500) + b"\xff" * 3500
ANSWER = struct.pack(">6H", 7, 0x8180, 1, 1, 0, 0) + QUESTION + TEXT


def asked_twice(missing: int | None = 1, *, vantage: Literal["client", "server"] = "client", again: bool = True) -> Wire:
    wire = Wire(cport=40_000, sport=53, vantage=vantage, rtt_ms=30).udp(QUERY)
    wire.fragment(ANSWER, only=() if missing is None else (missing,), lose="after" if vantage == "server" else "before")
    return wire.wait(ms=2000).udp(QUERY).fragment(ANSWER) if again else wire


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_lost_fragment_fires(missing: int) -> None:
    (found,) = conclusions(DETECTOR, asked_twice(missing).trace())
    assert found.kind is FindingKind.CAUSE
    assert found.stall_ns == pytest.approx(2_030_000_000, abs=5_000_000)
    assert found.confidence.value == 0.6
    assert any(frame.note.startswith("fragment") for frame in found.frames)


def test_whole_answers_stay_quiet() -> None:
    assert conclusions(DETECTOR, asked_twice(None, again=False).trace()) == []


def test_a_slow_answer_in_fragments_stays_quiet() -> None:
    wire = Wire(cport=40_000, sport=53).udp(QUERY).wait(ms=1500).udp(QUERY).fragment(ANSWER)
    assert conclusions(DETECTOR, wire.trace()) == []


def test_first_fragments_alone_may_be_a_filter_and_stay_quiet() -> None:
    """`port 53` hides later fragments: no file that holds none of them can say that one was lost."""
    wire = Wire(cport=40_000, sport=53).udp(QUERY).fragment(ANSWER, only=(1, 2), lose="before")
    wire.wait(ms=2000).udp(QUERY).fragment(ANSWER, only=(1, 2), lose="before")
    assert conclusions(DETECTOR, wire.trace()) == []


def test_an_answer_in_part_that_nobody_asked_for_again_stays_quiet() -> None:
    """The capture may have lost the fragment: the client goes on with what it learned."""
    wire = asked_twice(again=False)
    later = Wire(cport=40_001, sport=53, start_ms=40_000).udp(QUERY).fragment(ANSWER)
    assert conclusions(DETECTOR, merge(wire, later).trace()) == []


def test_a_fragment_missing_where_it_was_sent_was_lost_by_the_capture() -> None:
    talk = Wire(vantage="server", rtt_ms=30).handshake()
    for _ in range(5):
        talk.send(300).wait(ms=20).reply(3_000)
    wire = Wire(cport=40_000, sport=53, vantage="server", rtt_ms=30).udp(QUERY).fragment(ANSWER, only=(1,), lose="capture")
    trace = merge(talk, wire.wait(ms=2000).udp(QUERY).fragment(ANSWER)).trace()
    assert trace.vantages[0].side == "server"
    assert [one.kind for one in conclusions(DETECTOR, trace) if one.kind is FindingKind.CAUSE] == []


def test_at_the_server_a_repeat_is_a_risk_only() -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "ip-fragment-loss" / "server.pcap"))) if LAB.exists() else pytest.skip("no lab here")
    assert (found.kind, found.stall_ns) == (FindingKind.RISK, 0)


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "ip-fragment-loss" / "client.pcap")))
    assert found.stall_ns == pytest.approx(6_019_000_000, rel=0.1)


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, asked_twice(), tmp_path)) > 10
