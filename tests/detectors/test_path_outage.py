"""path-outage: several connections of one path fall silent together while packets are sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.path_outage import DETECTOR
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Merged, Wire, merge
from tests.wire_line import Lose, Vantage

MS = 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REST_LEN = 4_000
ROOM = 1_448
FIRST_MS = 220
WAITED_MS = FIRST_MS * 7
"""Three timers: 220, 440 and 880 ms; the resend of the last one gets through."""


def asks(cport: int = 50_000, *, start_ms: float = 0, idle_ms: float = 200, resends: int = 3) -> Wire:
    """A client whose request and resends vanish behind it, but for the last."""
    wire = Wire(cport=cport, rtt_ms=40, start_ms=start_ms).handshake().http_get(body=500, think_ms=20)
    wire.wait(ms=idle_ms).send(GET, lose="after")
    for number in range(resends):
        wire.wait(ms=FIRST_MS * 2**number).resend(by="client", lose="after" if number < resends - 1 else None)
    return wire.reply(OK).close()


def answers(vantage: Vantage, cport: int = 50_000, *, start_ms: float = 0, ip_id: bool = True) -> Wire:
    """A server whose second half of an answer vanishes near the client, but for the last resend."""
    lose: Lose = "after" if vantage == "server" else "before"
    wire = Wire(vantage=vantage, cport=cport, rtt_ms=40, start_ms=start_ms, ip_id=ip_id).handshake().http_get(body=500)
    wire.send(GET).reply(HEAD + b"x" * (9_000 - REST_LEN)).wait(ms=5).reply(b"x" * REST_LEN, lose=lose)
    begin = wire._hosts["server"].next_start - REST_LEN
    for number in range(2):
        wire.wait(ms=FIRST_MS * 2**number).resend(begin, begin + ROOM, by="server", lose=lose)
    return wire.wait(ms=FIRST_MS * 4).resend(begin, begin + REST_LEN, by="server").close()


def busy(cport: int = 50_009, *, start_ms: float = 0, seconds: int = 5, server: str | None = None) -> Wire:
    """A healthy connection with a request every half second."""
    wire = Wire(server=server, cport=cport, rtt_ms=40, start_ms=start_ms).handshake()
    for _ in range(2 * seconds):
        wire.http_get(body=300).wait(ms=440)
    return wire.close()


def outage(vantage: Vantage, count: int = 2) -> Merged:
    return merge(*(answers(vantage, 50_000 + number, start_ms=3 * number) for number in range(count)))


@pytest.mark.parametrize(("count", "sure"), [(2, 0.85), (3, 0.95)])
def test_a_path_on_which_requests_vanish_fires(count: int, sure: float) -> None:
    (found,) = diagnosed(DETECTOR, merge(*(asks(50_000 + number, start_ms=3 * number) for number in range(count))).trace())
    assert found.stall_ns == pytest.approx(count * (WAITED_MS + 40) * MS, abs=count * 5 * MS)
    assert (found.details["connections"], found.confidence.value) == (count, sure)
    assert {"last packet before the silence", "sent without an answer", "first packet after it"} == {f.note for f in found.frames}


@pytest.mark.parametrize(("vantage", "sure"), [("server", 0.85), ("client", 0.7), ("middle", 0.7)])
def test_a_path_on_which_answers_vanish_fires_at_both_ends(vantage: Vantage, sure: float) -> None:
    (found,) = diagnosed(DETECTOR, outage(vantage).trace())
    assert found.stall_ns == pytest.approx(2 * WAITED_MS * MS, abs=2 * 45 * MS)
    assert (found.details["connections"], found.confidence.value) == (2, sure)


def test_an_idle_time_before_the_outage_is_no_part_of_it() -> None:
    """And what other connections did meanwhile proves nothing about the outage."""
    idle = [asks(50_000 + number, start_ms=3 * number, idle_ms=20_000) for number in range(2)]
    (found,) = diagnosed(DETECTOR, merge(*idle, busy(seconds=15)).trace())
    assert found.stall_ns == pytest.approx(2 * (WAITED_MS + 40) * MS, abs=10 * MS)
    assert found.details["longest_silence_s"] == pytest.approx((WAITED_MS + 40) / 1e3, abs=0.005)


def test_a_healthy_connection_to_another_server_does_not_matter() -> None:
    trace = merge(asks(), asks(50_001, start_ms=3), busy(server="10.0.0.3")).trace()
    assert len(diagnosed(DETECTOR, trace)) == 1


def test_one_silent_connection_stays_quiet() -> None:
    """It may have a dead peer."""
    assert diagnosed(DETECTOR, asks().trace()) == []
    assert diagnosed(DETECTOR, answers("client").trace()) == []


def test_a_sibling_that_gets_through_keeps_it_quiet() -> None:
    assert diagnosed(DETECTOR, merge(asks(), asks(50_001, start_ms=3), busy()).trace()) == []


def test_silences_one_after_the_other_stay_quiet() -> None:
    assert diagnosed(DETECTOR, merge(asks(), asks(50_001, start_ms=4_000)).trace()) == []


def test_one_timeout_on_each_stays_quiet() -> None:
    assert diagnosed(DETECTOR, merge(asks(resends=1), asks(50_001, start_ms=3, resends=1)).trace()) == []


def test_hosts_that_paused_and_lost_nothing_stay_quiet() -> None:
    paused = [
        Wire(cport=port, rtt_ms=40).handshake().http_get().send(GET).reply(HEAD + b"x" * 5_000).wait(ms=3_000).reply(b"x" * 4_000)
        for port in (50_000, 50_001)
    ]
    assert diagnosed(DETECTOR, merge(*paused).trace()) == []


def test_a_receiver_without_ip_ids_stays_quiet() -> None:
    trace = merge(answers("client", ip_id=False), answers("client", 50_001, start_ms=3, ip_id=False)).trace()
    assert diagnosed(DETECTOR, trace) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_cut_capture_raises_nothing(vantage: Vantage, tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, outage(vantage), tmp_path)) > 10


def test_a_cut_capture_of_requests_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, merge(asks(), asks(50_001, start_ms=3)), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    found = diagnosed(DETECTOR, load(str(LAB / "link-blackout" / f"{end}.pcap")))
    assert sum(one.stall_ns for one in found) == pytest.approx(17.5e9, rel=0.1)
    for quiet in ("clean-control", "capture-loss", "reordering-control", "tail-loss-rto", "pmtu-blackhole-download", "zero-window"):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
