"""lost-retransmission: the resend of a lost packet was lost too."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors import fast_retransmit_loss, lost_retransmission
from pcapdiag.detectors.lost_retransmission import DETECTOR, LIMITS
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_line import Vantage

MS = 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9_000
ROOM = 1_448


def lost_twice(vantage: Vantage = "server", *, third_ms: float = 44, again: bool = True) -> Wire:
    """The second segment of an answer is lost; so is its resend, unless `again` is false."""
    lose = "after" if vantage == "server" else "before"
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(GET).reply(ANSWER, lose=lose, only=[1])  # type: ignore[arg-type] # one of them
    wire.wait(ms=41).resend(ROOM, 2 * ROOM, by="server", lose=lose if again else None)  # type: ignore[arg-type] # one of them
    return wire.wait(ms=third_ms).resend(ROOM, 2 * ROOM, by="server").close() if again else wire.close()


def test_a_resend_lost_again_fires() -> None:
    (found,) = diagnosed(DETECTOR, lost_twice().trace())
    assert found.stall_ns == pytest.approx(85 * MS, abs=5 * MS)
    assert found.confidence.value == 0.95
    assert found.details == {"losses": 1, "lost_bytes": ROOM, "resent": {"fast": 2}}
    assert [frame.note for frame in found.frames] == ["sent; lost behind the capture", "resent, copy 2", "resent, copy 3", "acknowledged"]


def test_the_sign_names_the_missing_bytes() -> None:
    (sign,) = lost_retransmission.signs(lost_twice().trace(), LIMITS)
    assert (sign.scope.start, sign.scope.stop) == (ROOM, 2 * ROOM)  # type: ignore[union-attr] # OfFlow, or it fails


def test_it_is_one_opinion_of_two() -> None:
    """A loss is made good by its first resend or by a later one: the seconds have one name."""
    findings = diagnose(lost_twice().trace(), [DETECTOR, fast_retransmit_loss.DETECTOR]).findings
    assert [finding.code for finding in findings if finding.code.endswith(("retransmission", "loss"))] == ["lost-retransmission"]


def test_a_loss_made_good_by_its_first_resend_stays_quiet() -> None:
    assert diagnosed(DETECTOR, lost_twice(again=False).trace()) == []


def test_a_third_copy_by_timer_is_not_its_own() -> None:
    """tail-loss-rto."""
    assert diagnosed(DETECTOR, lost_twice(third_ms=260).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "middle"])
def test_beyond_the_loss_nobody_saw_the_first_resend_and_it_stays_quiet(vantage: Vantage) -> None:
    assert diagnosed(DETECTOR, lost_twice(vantage).trace()) == []


def test_needless_resends_stay_quiet() -> None:
    """The original was only late: both resends came for nothing."""
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).reply(ANSWER, late_ms=70, only=[1])
    wire.wait(ms=41).resend(ROOM, 2 * ROOM, by="server").wait(ms=30).resend(ROOM, 2 * ROOM, by="server").close()
    assert diagnosed(DETECTOR, wire.trace()) == []


def test_a_capture_cut_short_crashes_nothing(tmp_path: Path) -> None:
    assert any(of_cuts(DETECTOR, lost_twice(), tmp_path, pieces=150))


@pytest.mark.skipif(not LAB.is_dir(), reason="needs the labelled captures")
@pytest.mark.parametrize("case", ["h2-hol", "clean-control", "reordering-control", "tail-loss-rto", "link-blackout", "bufferbloat"])
@pytest.mark.parametrize("end", ["client", "server"])
def test_labelled_captures_with_other_causes_stay_quiet(case: str, end: str) -> None:
    assert diagnosed(DETECTOR, load(str(LAB / case / f"{end}.pcap"))) == []


@pytest.mark.skipif(not LAB.is_dir(), reason="needs the labelled captures")
def test_labelled_packet_loss_is_found() -> None:
    (found,) = diagnosed(DETECTOR, load(str(LAB / "tls-sse-loss" / "server.pcap")))
    assert found.stall_ns == pytest.approx(1_290 * MS, rel=0.1)
