"""clock-step: the capturing host's clock jumped."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.clock_step import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire


def talk(*steps_ms: float) -> Wire:
    wire = Wire(rtt_ms=30).handshake()
    for step_ms in (*steps_ms, 0):
        for _ in range(8):
            wire.http_get(body=2_000, think_ms=100)
        wire.clock_step(step_ms)
    return wire.close()


@pytest.mark.parametrize("step_ms", [6_000, -6_000])
def test_a_step_fires(step_ms: float) -> None:
    (found,) = conclusions(DETECTOR, talk(step_ms).trace())
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, False)
    ((step,),) = [found.details["steps"]]
    assert step["step_s"] == pytest.approx(step_ms / 1e3, abs=0.01)
    assert [frame.number for frame in found.frames] == [step["frame"]]
    assert f"{step_ms / 1e3:+.0f}"[:2] in found.summary


@pytest.mark.parametrize("step_ms", [6_000, -6_000])
def test_a_step_costs_no_request_anything(step_ms: float) -> None:
    def of(wire: Wire) -> dict[str, int]:
        return {finding.code: finding.conclusion.stall_ns // 20_000_000 for finding in diagnose(wire.trace()).findings}

    assert of(talk(step_ms)) == {**of(talk(0)), "clock-step": 0}


def test_a_long_silence_stays_quiet() -> None:
    wire = Wire(rtt_ms=30).handshake().http_get(body=20_000).wait(ms=8_000).http_get(think_ms=5_000, body=20_000)
    assert conclusions(DETECTOR, wire.close().trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, talk(4_000), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    for quiet in ("clean-control", "link-blackout", "rtt-step", "retry-storm", "deadline-exceeded"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap"))) == [], quiet
