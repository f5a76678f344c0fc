"""offload-segments: packets that the card cut up or put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.offload_segments import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire


def upload(length: int = 14_480) -> Wire:
    wire = Wire().handshake().send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length).supersegment(length)
    return wire.reply(b"HTTP/1.1 204 No Content\r\n\r\n")


def test_fires_for_packets_above_the_mss() -> None:
    (found,) = conclusions(DETECTOR, upload().trace())
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, False)
    assert found.details["super_segments"] == 1
    assert [frame.number for frame in found.frames] == [5]


def test_full_segments_stay_quiet() -> None:
    assert conclusions(DETECTOR, upload(1_448).trace()) == []


def test_jumbo_frames_that_the_handshake_announced_stay_quiet() -> None:
    wire = Wire(mss=8_960).handshake().http_get(body=60_000)
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, upload(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    for quiet in ("clean-control", "capture-loss", "bufferbloat", "zero-window"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap"))) == [], quiet
