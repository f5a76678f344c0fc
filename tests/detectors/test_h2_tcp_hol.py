"""h2-tcp-hol: streams that lost nothing wait behind another one's hole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors import h2_tcp_hol
from pcapdiag.detectors.h2_tcp_hol import DETECTOR, LIMITS
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_h2 import PREFACE, Blocks, data, settings
from tests.wire_line import Lose, Vantage

MS = 1_000_000
ASK = [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "a")]
SEND = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "a")]
ANSWER = [(":status", "200"), ("content-type", "application/json")]
LOST: dict[str, Lose] = {"client": "before", "middle": "before", "server": "after"}
"""Where a packet of the server is lost, seen from each tap, when it is lost near the client."""
REPAIR_MS = 42


def asked(vantage: Vantage, streams: tuple[int, ...]) -> Wire:
    """A connection with open requests."""
    blocks = Blocks()
    opened = b"".join(blocks.headers(stream, ASK, end_stream=True) for stream in streams)
    return Wire(vantage=vantage, rtt_ms=40).handshake().send(PREFACE + settings() + opened).reply(settings() + settings(ack=True))


def answers(vantage: Vantage = "client", *, streams: tuple[int, ...] = (1, 3, 5), lost: int = 0, apart_ms: float = 0) -> Wire:
    """One segment for each stream's answer; that of one stream is lost and resent a round trip later."""
    wire, blocks = asked(vantage, streams), Blocks()
    begin = stop = 0
    for number, stream in enumerate(streams):
        answer = blocks.headers(stream, ANSWER) + data(stream, b"x" * 1_300, end_stream=True)
        if number == lost:
            begin = wire._hosts["server"].next_start
            stop = begin + len(answer)
        wire.reply(answer, lose=LOST[vantage] if number == lost else None).wait(ms=apart_ms)
    return wire.wait(ms=REPAIR_MS - len(streams) * apart_ms).resend(begin, stop, by="server").close() if stop else wire.close()


@pytest.mark.parametrize(("vantage", "sure"), [("client", 0.95), ("middle", 0.95), ("server", 0.9)])
def test_a_hole_before_other_streams_fires(vantage: Vantage, sure: float) -> None:
    (found,) = diagnosed(DETECTOR, answers(vantage).trace())
    assert found.stall_ns == pytest.approx(2 * REPAIR_MS * MS, abs=5 * MS)
    assert found.confidence.value == sure
    assert (found.details["holes"], found.details["most_streams"]) == (1, 3)
    assert not found.at_least


def test_the_owner_of_the_hole_is_no_victim() -> None:
    trace = answers().trace()
    (found,) = diagnosed(DETECTOR, trace)
    assert sorted(exchange.h2_stream for exchange in trace.exchanges if exchange.id in found.exchanges) == [3, 5]


def test_a_stream_in_front_of_the_hole_is_no_victim() -> None:
    trace = answers(lost=1).trace()
    (found,) = diagnosed(DETECTOR, trace)
    assert [exchange.h2_stream for exchange in trace.exchanges if exchange.id in found.exchanges] == [5]
    assert found.stall_ns == pytest.approx(REPAIR_MS * MS, abs=5 * MS)


def test_each_victim_waits_from_when_its_own_bytes_were_there() -> None:
    waits = [sign.end_ns - sign.start_ns for sign in h2_tcp_hol.signs(answers(apart_ms=10).trace(), LIMITS)]
    assert waits == pytest.approx([(REPAIR_MS - 10) * MS, (REPAIR_MS - 20) * MS], abs=5 * MS)


@pytest.mark.parametrize(("vantage", "last"), [("client", "the missing bytes"), ("server", "acknowledged: everything behind may be read")])
def test_the_frames_stand_on_both_sides_of_the_wait(vantage: Vantage, last: str) -> None:
    (found,) = diagnosed(DETECTOR, answers(vantage).trace())
    assert found.frames[-1].note == last
    opened, resent = found.frames[:2]
    assert resent.ts_ns - opened.ts_ns == pytest.approx(REPAIR_MS * MS, abs=MS)


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_uploads_behind_a_lost_request_fire(vantage: Vantage) -> None:
    blocks, back = Blocks(), Blocks()
    lose: Lose = "after" if vantage == "client" else "before"
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(PREFACE + settings()).reply(settings() + settings(ack=True)).wait(ms=50)
    begin = wire._hosts["client"].next_start
    requests = [blocks.headers(stream, SEND) + data(stream, b"x" * 1_300, end_stream=True) for stream in (1, 3, 5)]
    for number, request in enumerate(requests):
        wire.send(request, lose=None if number else lose)
    wire.wait(ms=REPAIR_MS).resend(begin, begin + len(requests[0]), by="client")
    for stream in (1, 3, 5):
        wire.reply(back.headers(stream, ANSWER, end_stream=True))
    (found,) = diagnosed(DETECTOR, wire.trace())
    assert found.stall_ns == pytest.approx(2 * REPAIR_MS * MS, abs=5 * MS)


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_single_stream_behind_its_own_hole_stays_quiet(vantage: Vantage) -> None:
    wire, blocks = asked(vantage, (1,)), Blocks()
    begin = wire._hosts["server"].next_start
    wire.reply(blocks.headers(1, ANSWER) + data(1, b"x" * 9_000, end_stream=True), lose=LOST[vantage], only=[1])
    wire.wait(ms=REPAIR_MS).resend(begin + 1_448, begin + 2 * 1_448, by="server").close()
    assert diagnosed(DETECTOR, wire.trace()) == []


def test_a_lost_last_answer_stays_quiet() -> None:
    """Nothing lies behind it."""
    assert diagnosed(DETECTOR, answers("server", lost=2).trace()) == []


def test_streams_without_loss_stay_quiet() -> None:
    assert diagnosed(DETECTOR, answers(lost=-1).trace()) == []


def test_http1_behind_a_hole_stays_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wire.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9_000, lose="before", only=[1])
    assert diagnosed(DETECTOR, wire.wait(ms=REPAIR_MS).resend(1_448, 2 * 1_448, by="server").close().trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_cut_capture_raises_nothing(vantage: Vantage, tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, answers(vantage), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = diagnosed(DETECTOR, load(str(LAB / "h2-hol" / f"{end}.pcap")))
    assert found.details["most_streams"] > 2
    for quiet in ("clean-control", "capture-loss", "reordering-control", "tail-loss-rto", "h2-flow-control"):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
