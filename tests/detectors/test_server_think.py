"""server-think: time of the server's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.server_think import DETECTOR
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire
from tests.wire_line import Vantage

S = 1_000_000_000


@pytest.mark.parametrize(("vantage", "sure"), [("server", 0.95), ("client", 0.85)])
def test_a_server_that_takes_its_time_fires(vantage: Vantage, sure: float) -> None:
    wire = Wire(vantage=vantage, rtt_ms=30).handshake().http_get("/slow", think_ms=700).http_get("/quick", think_ms=100)
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.stall_ns == pytest.approx(0.8 * S, abs=0.02 * S)
    assert found.confidence.value == sure
    assert (found.details["requests"], found.details["longest_s"]) == (2, pytest.approx(0.7, abs=0.02))
    assert "GET /slow" in found.summary
    assert [frame.note for frame in found.frames] == ["request sent", "first of the response"] * 2


def test_the_evidence_is_the_packets_around_the_turn() -> None:
    trace = Wire(rtt_ms=30).handshake().http_get(think_ms=700).trace()
    (found,) = conclusions(DETECTOR, trace)
    times = [int(trace.packets.ts_ns[trace.packets.frame == frame.number][0]) for frame in found.frames]
    assert times == [frame.ts_ns for frame in found.frames]


def test_without_timestamps_the_client_is_less_sure() -> None:
    (found,) = conclusions(DETECTOR, Wire(timestamps=False).handshake().http_get(think_ms=700).trace())
    assert found.confidence.value == 0.7


def test_the_round_trip_is_not_the_servers() -> None:
    (found,) = conclusions(DETECTOR, Wire(rtt_ms=400).handshake().http_get(think_ms=300).trace())
    assert found.stall_ns == pytest.approx(0.3 * S, abs=0.02 * S)


def test_a_quick_server_stays_quiet() -> None:
    assert conclusions(DETECTOR, Wire(rtt_ms=400).handshake().http_get(think_ms=4).http_get(think_ms=4).trace()) == []


def test_a_lost_request_is_not_work() -> None:
    wire = Wire().handshake().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", lose="after").wait(ms=900).resend()
    wire.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert "server-think" not in {finding.code for finding in diagnose(wire.trace()).findings}


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, Wire().handshake().http_get(think_ms=700), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize(("scenario", "seconds"), [("clean-control", 10.0), ("capture-loss", 9.1), ("pmtu-icmp-honoured", 2.3)])
def test_the_lab_agrees(end: str, scenario: str, seconds: float) -> None:
    found = conclusions(DETECTOR, load(str(LAB / scenario / f"{end}.pcap")))
    assert sum(one.stall_ns for one in found) == pytest.approx(seconds * S, rel=0.05)
