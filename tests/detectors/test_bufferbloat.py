"""bufferbloat: small requests behind a queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.bufferbloat import DETECTOR
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Merged, Wire, merge

MS = 1_000_000
SWELL = [30] * 6 + list(range(60, 420, 40)) + list(range(400, 40, -60)) + [30] * 6


def calls(cport: int, rtts: list[int], *, every_ms: int = 450) -> Wire:
    """One call each 450 ms, so that two connections go through the same queue at the same times."""
    wire = Wire(rtt_ms=rtts[0], cport=cport).handshake()
    for rtt_ms in rtts:
        wire.rtt(rtt_ms).wait(ms=every_ms - rtt_ms).http_get(think_ms=5)
    return wire


def shared_queue() -> Merged:
    return merge(calls(50_000, SWELL), calls(50_001, SWELL), calls(50_002, SWELL))


def test_a_queue_that_connections_share_fires() -> None:
    (found,) = conclusions(DETECTOR, shared_queue().trace())
    assert found.details["variant"] == "cross-traffic"
    assert found.confidence.value == 0.6
    expected = 3 * sum(rtt - 30 for rtt in SWELL if rtt >= 80) * MS
    assert found.stall_ns == pytest.approx(expected, rel=0.2)


def test_a_longer_route_stays_quiet() -> None:
    step = [30] * 15 + [300] * 15
    assert conclusions(DETECTOR, merge(calls(50_000, step), calls(50_001, step), calls(50_002, step)).trace()) == []


def test_a_short_detour_stays_quiet() -> None:
    """Too short for a level of its own; but a queue would have varied."""
    detour = [30] * 6 + [300] + [30] * 6
    assert conclusions(DETECTOR, merge(*(calls(50_000 + number, detour) for number in range(12))).trace()) == []


def test_one_connection_without_load_stays_quiet() -> None:
    """Nothing in the capture says that this is a queue."""
    assert conclusions(DETECTOR, calls(50_000, SWELL).trace()) == []


def test_delayed_acks_stay_quiet() -> None:
    wire = Wire(rtt_ms=30).handshake()
    for turn in range(30):
        wire.acks("delayed" if turn % 3 else "quick", "server").wait(ms=50).http_get(think_ms=90)
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, shared_queue(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    trace = load(str(LAB / "bufferbloat" / "client.pcap"))
    (found,) = conclusions(DETECTOR, trace)
    assert found.details["variant"] == "self-inflicted"
    assert found.stall_ns == pytest.approx(7_288 * MS, rel=0.3)
    uploads = {exchange.id for exchange in trace.exchanges if exchange.request_len > 100_000}
    assert uploads
    assert not uploads & set(found.exchanges), "what fills the queue is not its victim"
    for quiet in ("rtt-step", "retry-storm", "clean-control", "h2-hol"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap"))) == [], quiet
