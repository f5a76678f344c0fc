"""misordered-packets: a file whose records do not lie in the order of time."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.misordered_packets import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Recording, Wire


class Shuffled(Recording):
    """Every ninth record is written behind the one after it."""

    def __init__(self, whole: Recording) -> None:
        self._whole = whole

    def frames(self) -> list[tuple[int, bytes]]:
        frames = self._whole.frames()
        for i in range(4, len(frames) - 1, 9):
            frames[i], frames[i + 1] = frames[i + 1], frames[i]
        return frames

    def sights(self) -> list[tuple[int, int, bytes]]:
        return self._whole.sights()


def talk() -> Wire:
    return Wire(rtt_ms=30).handshake().http_get(body=60_000, think_ms=100).close()


def test_records_out_of_order_are_found() -> None:
    trace = Shuffled(talk()).trace()
    (found,) = conclusions(DETECTOR, trace)
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, False)
    assert found.details["backward_steps"] == trace.quality[0].backward_steps > 3
    assert [frame.number for frame in found.frames] == [6, 15, 24, 33, 42, 51]


def test_nobody_is_accused_of_reordering() -> None:
    plain, shuffled = (diagnose(recording.trace()).findings for recording in (talk(), Shuffled(talk())))
    assert {finding.code for finding in shuffled} - {finding.code for finding in plain} == {"misordered-packets"}


def test_packets_that_the_network_reordered_stay_quiet() -> None:
    wire = Wire(rtt_ms=30, vantage="server").handshake().send(14_480, only=[2, 5], late_ms=3)
    assert conclusions(DETECTOR, wire.reply(100).trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, Shuffled(talk()), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    for quiet in ("clean-control", "reordering-control", "capture-loss"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap"))) == [], quiet
