"""capture-loss: packets that the capture missed, and only the capture."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.capture_loss import DETECTOR, signs
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose, load
from pcapdiag.stalls import keep_ledger
from pcapdiag.stalls.sign import CAPTURE_GAP
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire
from tests.wire_line import Lose

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"


def answer(lose: Lose | None = "capture", *, length: int = 20_000) -> Wire:
    return Wire().handshake().send(GET).reply(HEAD + b"x" * length, lose=lose, only=(3, 4))


def test_fires_for_acknowledged_bytes_that_are_not_in_the_file() -> None:
    (found,) = conclusions(DETECTOR, answer().trace())
    assert found.kind is FindingKind.CAPTURE
    assert found.details["unseen_bytes"] == 2 * 1_448
    assert found.lowers_verdict
    assert found.frames


def test_a_little_loss_leaves_the_verdict_standing() -> None:
    wire = Wire().handshake()
    for _ in range(15):
        wire.http_get(body=20_000)
    wire.send(GET).reply(HEAD + b"x" * 20_000, lose="capture", only=(3,))
    (found,) = conclusions(DETECTOR, wire.trace())
    assert not found.lowers_verdict


def test_time_in_the_gap_is_nobodys() -> None:
    """A packet in the middle of the answer was not captured; the acknowledgment came half a second later."""
    wire = Wire().handshake().send(GET).acks("none").reply(HEAD + b"x" * 4_000, lose="capture", only=(1,)).wait(ms=500).ack()
    wire.reply(b"x" * 16_000)
    trace = wire.trace()
    ledger = keep_ledger(trace, list(signs(trace, DETECTOR.limits)))
    hidden = list(ledger.entries(CAPTURE_GAP.code))
    assert sum(entry.duration_ns for entry in hidden) > 400_000_000


def test_no_loss_is_reported_for_what_the_capture_missed() -> None:
    causes = {finding.code for finding in diagnose(answer().trace()).findings if finding.conclusion.kind is FindingKind.CAUSE}
    assert not {code for code in causes if "loss" in code or "rto" in code or "hol" in code}


def test_a_loss_on_the_wire_stays_quiet() -> None:
    wire = answer("before").wait(ms=30).resend(3 * 1_448, 5 * 1_448, by="server")
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_whole_capture_stays_quiet() -> None:
    assert conclusions(DETECTOR, answer(None).trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, answer(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "capture-loss" / f"{end}.pcap")))
    assert not found.lowers_verdict
    for quiet in ("clean-control", "h2-hol", "link-blackout", "reordering-control"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
