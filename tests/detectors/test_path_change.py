"""path-change: the floor of the round trip takes a step and stays."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from pcapdiag.detectors.path_change import DETECTOR
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Merged, Wire, merge

MS = 1_000_000


def calls(wire: Wire, count: int, *, think_ms: float = 20, pause_ms: float = 30) -> Wire:
    for _ in range(count):
        wire.wait(ms=pause_ms).http_get(think_ms=think_ms)
    return wire


def stepped(*, before: int = 15, behind: int = 15, to_ms: float = 120, vantage: Literal["client", "server"] = "client") -> Wire:
    return calls(calls(Wire(rtt_ms=40, vantage=vantage).handshake(), before).rtt(to_ms), behind)


def test_a_step_fires() -> None:
    (found,) = conclusions(DETECTOR, stepped().trace())
    assert found.stall_ns == pytest.approx(15 * 80 * MS, rel=0.1)
    assert found.details["old_rtt_s"] == pytest.approx(0.04, abs=0.001)
    assert found.details["new_rtt_s"] == pytest.approx(0.12, abs=0.001)
    assert len(found.frames) == 6


def test_a_step_fires_at_the_server_too() -> None:
    """There its cost lies between the exchanges, and is told as such."""
    (found,) = conclusions(DETECTOR, stepped(vantage="server").trace())
    assert found.stall_ns == 0
    assert found.details["waited_s"] == pytest.approx(15 * 0.08, rel=0.15)
    assert sum(end - start for _, start, end in found.intervals) == pytest.approx(15 * 80 * MS, rel=0.15)


def test_a_step_down_costs_nothing_and_is_quiet() -> None:
    assert conclusions(DETECTOR, calls(calls(Wire(rtt_ms=120).handshake(), 15).rtt(40), 15).trace()) == []


def test_too_few_samples_stay_quiet() -> None:
    assert conclusions(DETECTOR, stepped(behind=3).trace()) == []


def test_a_small_step_stays_quiet() -> None:
    assert conclusions(DETECTOR, stepped(to_ms=44).trace()) == []


def test_a_queue_that_fills_and_drains_stays_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake()
    for rtt_ms in [40] * 15 + list(range(50, 300, 20)) + list(range(300, 40, -20)) + [40] * 15:
        calls(wire.rtt(rtt_ms), 1)
    assert conclusions(DETECTOR, wire.trace()) == []


def test_acks_that_a_timer_begins_to_delay_stay_quiet() -> None:
    wire = calls(Wire(rtt_ms=40, vantage="client").handshake(), 15)
    for _ in range(15):  # from here on every ACK comes with the answer, 40 ms later
        wire.acks("none", "server").wait(ms=30).http_get(think_ms=40)
    assert conclusions(DETECTOR, wire.trace()) == []


def test_another_server_behind_the_address_is_less_sure() -> None:
    first = calls(Wire(rtt_ms=40).handshake(), 15)
    second = calls(Wire(rtt_ms=120, cport=50_001, start_ms=5_000).handshake(), 15)
    both: Merged = merge(first, second)
    assert [found.confidence.value for found in conclusions(DETECTOR, both.trace())] == [0.4]


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, stepped(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    found = conclusions(DETECTOR, load(str(LAB / "rtt-step" / "client.pcap")))
    assert sum(one.stall_ns for one in found) == pytest.approx(2_607 * MS, rel=0.3)
    for quiet in ("bufferbloat", "clean-control", "reordering-control"):
        for end in ("client", "server"):
            assert conclusions(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], f"{quiet} {end}"
