"""spurious-retransmission: packets resent though the originals had arrived."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.spurious_retransmission import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_line import Vantage

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
ROOM = 1_448


def impatient(vantage: Vantage = "client", *, times: int = 4) -> Wire:
    """Requests on a path that is longer than their sender believes: each is sent twice."""
    wire = Wire(vantage=vantage, rtt_ms=300).handshake()
    for _ in range(times):
        wire.send(GET).wait(ms=250).resend(by="client").wait(ms=200).reply(OK).wait(ms=400)
    return wire.close()


def unheard(vantage: Vantage = "client", *, times: int = 4) -> Wire:
    """The ACK of each request is lost on its way back."""
    wire = Wire(vantage=vantage, rtt_ms=40).handshake()
    for _ in range(times):
        wire.acks("none", "server").send(GET).ack("server", lose="before" if vantage == "client" else "after")
        wire.acks("quick", "server").wait(ms=220).resend(by="client").wait(ms=20).reply(OK).wait(ms=60)
    return wire.close()


def overtaken(*, times: int = 3) -> Wire:
    """The third segment comes so late that it is resent, and then comes after its resend."""
    wire = Wire(vantage="server", rtt_ms=40).handshake()
    for number in range(times):
        begin = number * 6 * ROOM
        wire.send(6 * ROOM, late_ms=80, only=[2]).wait(ms=41).resend(begin + 2 * ROOM, begin + 3 * ROOM, by="client").wait(ms=200)
    return wire.close()


@pytest.mark.parametrize("vantage", ["client", "server", "middle"])
def test_needless_resends_fire(vantage: Vantage) -> None:
    (found,) = diagnosed(DETECTOR, impatient(vantage).trace())
    assert (found.kind, found.stall_ns, found.confidence.value) == (FindingKind.RISK, 0, 0.95)
    assert found.details["variant"] == "late"
    assert (found.details["needless"], found.details["resent"], found.details["by_timer"]) == (4, 4, 4)
    assert [frame.note for frame in found.frames[:2]] == ["sent, and it arrived", "resent without need"]


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_lost_acknowledgments_are_found(vantage: Vantage) -> None:
    (found,) = diagnosed(DETECTOR, unheard(vantage).trace())
    assert (found.details["variant"], found.details["acks_lost"]) == ("ack-lost", 4)


def test_overtaken_originals_are_found() -> None:
    (found,) = diagnosed(DETECTOR, overtaken().trace())
    assert (found.details["variant"], found.details["overtaken"], found.details["by_timer"]) == ("reordered", 3, 0)


def test_two_are_not_worth_a_line() -> None:
    assert diagnosed(DETECTOR, impatient(times=2).trace()) == []


def test_resends_that_were_needed_stay_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake()
    for _ in range(4):
        wire.send(GET, lose="after").wait(ms=250).resend(by="client").reply(OK).wait(ms=100)
    assert diagnosed(DETECTOR, wire.close().trace()) == []


def test_a_few_among_many_needed_ones_stay_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().send(120 * ROOM, lose="after", only=range(1, 80, 2)).wait(ms=41)
    for at in range(1, 80, 2):
        wire.resend(at * ROOM, (at + 1) * ROOM, by="client")
    wire.wait(ms=300)
    for _ in range(3):
        wire.send(GET).wait(ms=45).resend(by="client").wait(ms=100)
    assert diagnosed(DETECTOR, wire.close().trace()) == []


def test_copies_that_the_capture_made_stay_quiet() -> None:
    wire = Wire(vantage="middle").handshake().duplicate()
    for _ in range(5):
        wire.send(GET).reply(OK).wait(ms=100)
    assert diagnosed(DETECTOR, wire.close().trace()) == []


def test_a_capture_cut_short_crashes_nothing(tmp_path: Path) -> None:
    assert any(of_cuts(DETECTOR, impatient(), tmp_path))


@pytest.mark.skipif(not LAB.is_dir(), reason="needs the labelled captures")
@pytest.mark.parametrize("case", ["h2-hol", "microburst-loss", "tail-loss-rto", "clean-control", "pmtu-blackhole-download"])
@pytest.mark.parametrize("end", ["client", "server"])
def test_labelled_captures_of_real_loss_stay_quiet(case: str, end: str) -> None:
    assert diagnosed(DETECTOR, load(str(LAB / case / f"{end}.pcap"))) == []


@pytest.mark.skipif(not LAB.is_dir(), reason="needs the labelled captures")
@pytest.mark.parametrize("end", ["client", "server"])
def test_labelled_queues_that_outlast_the_timer_are_found(end: str) -> None:
    assert diagnosed(DETECTOR, load(str(LAB / "bufferbloat" / f"{end}.pcap")))[0].details["variant"] == "late"
