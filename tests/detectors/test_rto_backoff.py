"""rto-backoff: the same bytes again and again, each wait twice the one before."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from pcapdiag.detectors import rto_backoff
from pcapdiag.detectors.rto_backoff import DETECTOR, LIMITS
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_line import Lose, Vantage

MS = 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + b"x" * 900
FIRST_MS = 220


def request(vantage: Vantage = "client", *, resends: int = 4, factor: float = 2, answered: bool = True) -> Wire:
    """A request that is lost so often; its last resend arrives when it is answered at all."""
    lose: Lose = "after" if vantage == "client" else "before"
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().http_get(body=500).send(GET, lose=lose)
    for number in range(resends):
        last = answered and number == resends - 1
        wire.wait(ms=FIRST_MS * factor**number).resend(by="client", lose=None if last else lose)
    return wire.wait(ms=3).reply(OK).close() if answered else wire


def answer(vantage: Vantage = "server", *, resends: int = 4) -> Wire:
    """An answer that is lost so often."""
    lose: Lose = "after" if vantage == "server" else "before"
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().http_get(body=500).send(GET).reply(ANSWER, lose=lose)
    for number in range(resends):
        wire.wait(ms=FIRST_MS * 2**number).resend(by="server", lose=lose if number < resends - 1 else None)
    return wire.close()


def test_a_request_lost_four_times_fires() -> None:
    trace = request().trace()
    (found,) = diagnosed(DETECTOR, trace)
    assert found.stall_ns == pytest.approx(FIRST_MS * 15 * MS, abs=5 * MS)
    assert (found.details["sends"], found.confidence.value) == (5, 0.95)
    assert found.details["resent"] == {"rto": 4}
    assert found.details["longest_gap_s"] == pytest.approx(1.76, abs=0.005)
    sends = [frame for frame in found.frames if "same bytes" in frame.note]
    gaps = [(b.ts_ns - a.ts_ns) / MS for a, b in pairwise(sends)]
    assert gaps == pytest.approx([220, 440, 880, 1_760], abs=5)
    assert found.frames[-1].note == "acknowledged"
    (sign,) = rto_backoff.signs(trace, LIMITS)
    assert not sign.at_least


def test_an_answer_lost_four_times_fires() -> None:
    (found,) = diagnosed(DETECTOR, answer().trace())
    assert found.stall_ns == pytest.approx(FIRST_MS * 15 * MS, abs=5 * MS)


def test_a_request_nobody_ever_acknowledged_fires_as_a_lower_bound() -> None:
    (found,) = diagnosed(DETECTOR, request(answered=False).trace())
    assert found.at_least
    assert found.stall_ns == pytest.approx(FIRST_MS * 15 * MS, abs=25 * MS)


@pytest.mark.parametrize("resends", [1, 2])
def test_one_or_two_timeouts_stay_quiet(resends: int) -> None:
    assert diagnosed(DETECTOR, request(resends=resends).trace()) == []


def test_an_application_that_repeats_at_fixed_times_stays_quiet() -> None:
    assert diagnosed(DETECTOR, request(factor=1, resends=6).trace()) == []


def test_the_receiver_did_not_see_the_sends_and_stays_quiet() -> None:
    assert diagnosed(DETECTOR, request("server").trace()) == []
    assert diagnosed(DETECTOR, answer("client").trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_persist_timer_stays_quiet(vantage: Vantage) -> None:
    """Probes of a zero window carry the same byte at doubling gaps (RFC 9293 section 3.8.6.1)."""
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(GET).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 4_000)
    wire.ack(window=0)
    for number in range(5):
        wire.wait(ms=FIRST_MS * 2**number).reply(b"x", seq=4_040).ack(window=0)
    wire.wait(ms=100).ack(window=64_000).reply(b"x" * 5_000, seq=4_040).close()
    assert diagnosed(DETECTOR, wire.trace()) == []


def test_acknowledged_keep_alives_stay_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().http_get()
    for number in range(5):
        wire.wait(ms=FIRST_MS * 2**number).keepalive("client", length=1)
    assert diagnosed(DETECTOR, wire.http_get().close().trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, request(), tmp_path)) > 10
    assert len(of_cuts(DETECTOR, answer(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    for quiet in ("clean-control", "capture-loss", "reordering-control", "zero-window", "slow-client", "h2-hol"):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
