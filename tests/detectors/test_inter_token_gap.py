"""inter-token-gap: a token stream whose producer pauses."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.inter_token_gap import DETECTOR, signs
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire
from tests.wire_line import Vantage

S = 1_000_000_000
ASK = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def tokens(wire: Wire, count: int, every_ms: float = 30) -> Wire:
    for number in range(count):
        wire.wait(ms=every_ms).reply(b"data: token %d\n\n" % number)
    return wire


def stream(pause_ms: float = 900, *, vantage: Vantage = "client", timestamps: bool = True, every_ms: float = 30) -> Wire:
    """Twelve tokens, a pause, twelve tokens, the end."""
    wire = tokens(Wire(vantage=vantage, timestamps=timestamps, rtt_ms=20).handshake().send(ASK).reply(HEAD), 12, every_ms)
    return tokens(wire.wait(ms=pause_ms), 12, every_ms).fin("server")


@pytest.mark.parametrize(
    ("vantage", "timestamps", "sure"), [("client", True, 0.9), ("server", True, 0.9), ("server", False, 0.9), ("client", False, 0.5)]
)
def test_a_pause_of_the_producer_fires(vantage: Vantage, timestamps: bool, sure: float) -> None:
    (found,) = conclusions(DETECTOR, stream(vantage=vantage, timestamps=timestamps).trace())
    assert found.stall_ns == pytest.approx(0.9 * S, abs=0.05 * S)
    assert found.confidence.value == sure
    assert (found.details["gaps"], found.details["streams"]) == (1, 1)
    assert [frame.note.split(",")[0] for frame in found.frames] == ["last token before the pause", "the next"]


def test_the_evidence_takes_no_time_from_other_labels() -> None:
    found = list(signs(stream().trace(), DETECTOR.limits))
    assert found
    assert all(sign.start_ns == sign.end_ns for sign in found)


def test_tokens_whose_clock_stood_still_are_doubted() -> None:
    """They were stamped before the pause: something held them up, it was not the producer."""
    wire = tokens(Wire(rtt_ms=20).handshake().send(ASK).reply(HEAD), 12)
    wire.wait(ms=900).reply(b"data: late\n\n", ts_val=9_000_000 + 460)
    (found,) = conclusions(DETECTOR, tokens(wire, 12).fin("server").trace())
    assert found.confidence.value == 0.4


def held_back(vantage: Vantage, *, lose: bool = True) -> Wire:
    """The acknowledgment of a token is lost; the next five wait for it (RFC 896), and go out together when the probe timer fires."""
    wire = tokens(Wire(vantage=vantage, rtt_ms=20).handshake().send(ASK).reply(HEAD), 12).acks("none", by="client")
    wire.wait(ms=30).reply(b"data: token 12\n\n").ack("client", lose=("after" if vantage == "client" else "before") if lose else None)
    wire.acks("quick", by="client").wait(ms=300).reply(b"".join(b"data: token %d\n\n" % number for number in range(13, 18)))
    return tokens(wire, 12).fin("server")


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_sender_that_waited_for_a_lost_acknowledgment_did_not_pause(vantage: Vantage) -> None:
    assert [f.code for f in diagnose(held_back(vantage).trace()).findings if f.code == DETECTOR.code] == []
    assert [f.code for f in diagnose(held_back(vantage, lose=False).trace()).findings if f.code == DETECTOR.code] == [DETECTOR.code]


def test_a_steady_stream_stays_quiet() -> None:
    assert conclusions(DETECTOR, stream(pause_ms=0).trace()) == []


def test_a_slow_but_steady_stream_stays_quiet() -> None:
    assert conclusions(DETECTOR, stream(pause_ms=600, every_ms=300).trace()) == []


def test_the_wait_for_the_first_token_is_not_a_gap() -> None:
    wire = Wire().handshake().send(ASK).reply(HEAD).wait(ms=2_000)
    assert conclusions(DETECTOR, tokens(wire, 12).fin("server").trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, stream(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    for quiet in ("zero-window", "h2-hol", "link-blackout", "tail-loss-rto"):
        findings = diagnose(load(str(LAB / quiet / f"{end}.pcap"))).findings
        assert DETECTOR.code not in {finding.code for finding in findings}, quiet
