"""packet-reordering: originals that came late, and resends nobody needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors import packet_reordering
from pcapdiag.detectors.packet_reordering import DETECTOR, LIMITS
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_line import Vantage

MS = 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000
ROOM = 1_448


def overtaken(vantage: Vantage = "client", *, times: int = 4, late_ms: float = 15, stamped: bool = True, needless: bool = False) -> Wire:
    """Answers whose third segment is held up before the tap."""
    wire = Wire(vantage=vantage, rtt_ms=40, timestamps=stamped, ip_id=stamped).handshake()
    for number in range(times):
        begin = number * len(ANSWER)
        wire.wait(ms=100).send(GET).reply(ANSWER, late_ms=late_ms, only=[2])
        if needless:
            wire.wait(ms=42).resend(begin + 2 * ROOM, begin + 3 * ROOM, by="server")
        wire.wait(ms=60)
    return wire.close()


@pytest.mark.parametrize("vantage", ["client", "server", "middle"])
def test_a_path_that_reorders_fires(vantage: Vantage) -> None:
    (found,) = diagnosed(DETECTOR, overtaken(vantage).trace())
    assert (found.kind, found.confidence.value) == (FindingKind.CAUSE, 0.9)
    assert found.stall_ns == pytest.approx(4 * 15 * MS, abs=5 * MS)
    assert found.details == {"overtaken": 4, "needless_resends": 0}
    opened, filled = found.frames[:2]
    assert (opened.note, filled.note) == ("overtakes", "the original, 15.0 ms late")
    assert filled.ts_ns - opened.ts_ns == pytest.approx(15 * MS, abs=MS)


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_resends_without_need_fire_however_short_the_waits(vantage: Vantage) -> None:
    (found,) = diagnosed(DETECTOR, overtaken(vantage, times=3, late_ms=10, needless=True).trace())
    assert found.details["needless_resends"] == 3
    assert found.stall_ns == pytest.approx(30 * MS, abs=5 * MS)


def test_originals_that_come_after_their_resends_fire_too() -> None:
    """The resends fill the holes; without the originals behind them they would be losses."""
    wire = Wire(rtt_ms=40).handshake()
    for number in range(3):
        begin = number * len(ANSWER)
        wire.wait(ms=100).send(GET).reply(ANSWER, late_ms=80, only=[2]).wait(ms=41)
        wire.resend(begin + 2 * ROOM, begin + 3 * ROOM, by="server").wait(ms=150)
    (found,) = diagnosed(DETECTOR, wire.close().trace())
    assert found.details == {"overtaken": 3, "needless_resends": 3}
    assert found.frames[1].note == "resent; the original comes later still"
    assert found.stall_ns == pytest.approx(3 * 41 * MS, abs=8 * MS)


def test_without_timestamps_and_ip_ids_short_lags_fire_with_less_confidence() -> None:
    (found,) = diagnosed(DETECTOR, overtaken(times=30, late_ms=2.5, stamped=False).trace())
    assert found.confidence.value == 0.5


def test_without_timestamps_and_ip_ids_long_lags_stay_quiet() -> None:
    """They might be resends."""
    assert diagnosed(DETECTOR, overtaken(late_ms=15, stamped=False).trace()) == []


def test_lags_a_capture_can_make_itself_stay_quiet() -> None:
    trace = overtaken(times=60, late_ms=0.19).trace()
    assert list(packet_reordering.signs(trace, LIMITS)) == []
    assert diagnosed(DETECTOR, trace) == []


def test_fewer_than_three_stay_quiet() -> None:
    trace = overtaken(times=2, late_ms=38).trace()
    assert len(list(packet_reordering.signs(trace, LIMITS))) == 2
    assert diagnosed(DETECTOR, trace) == []


def test_waits_that_add_up_to_little_stay_quiet() -> None:
    assert diagnosed(DETECTOR, overtaken(times=4, late_ms=5).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_lost_and_resent_packets_stay_quiet(vantage: Vantage) -> None:
    wire = Wire(vantage=vantage, rtt_ms=40).handshake()
    for number in range(4):
        begin = number * len(ANSWER)
        wire.wait(ms=100).send(GET).reply(ANSWER, lose="after" if vantage == "server" else "before", only=[2])
        wire.wait(ms=42).resend(begin + 2 * ROOM, begin + 3 * ROOM, by="server").wait(ms=60)
    assert diagnosed(DETECTOR, wire.close().trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, overtaken(), tmp_path)) > 10
    assert len(of_cuts(DETECTOR, overtaken("server", needless=True), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    for quiet in ("clean-control", "capture-loss", "h2-hol", "tail-loss-rto", "microburst-loss", "link-blackout"):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
