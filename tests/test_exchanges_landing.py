"""Offsets become times; and what ends an exchange that its own bytes do not end."""

from __future__ import annotations

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.landing import Ground, land
from pcapdiag.exchanges.table import Outcome, Protocol
from tests.paired import ms, paired, request, response
from tests.wire import Wire
from tests.wire_line import Vantage

MS = 1_000_000


def test_bytes_only_the_capture_lost_have_the_time_of_their_acknowledgment() -> None:
    wire = Wire(rtt_ms=20).handshake().send(request(body=b"x" * 4_000)).wait(ms=50).reply(response(b"y" * 6_000), lose="capture", only=[4])
    (exchange,) = paired(wire.wait(ms=100).send(request("/b"))).applications[:1]
    assert exchange.outcome is Outcome.OK
    assert exchange.end_ns < NEVER
    assert len(exchange.frames) == 3


def test_a_client_that_leaves_before_the_answer_comes_aborts() -> None:
    wire = Wire(rtt_ms=500, vantage="client").handshake().acks("none", by="client").send(request())
    wire.wait(ms=400).fin("client").reply(response()).rst("client")
    (exchange,) = paired(wire).applications
    assert (exchange.outcome, exchange.aborted_by) == (Outcome.ABORTED, "client")
    assert ms(exchange.end_ns) == 900


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_client_that_only_stops_sending_still_gets_its_answer(vantage: Vantage) -> None:
    wire = Wire(rtt_ms=20, vantage=vantage).handshake().send(request()).fin("client").wait(ms=300).reply(response()).fin("server")
    (exchange,) = paired(wire).applications
    assert (exchange.outcome, exchange.status) == (Outcome.OK, "200")


class TestTheEndAtTheServersTap:
    def test_a_lost_tail_counts_until_it_was_sent_again(self) -> None:
        wire = Wire(rtt_ms=40, vantage="server").handshake().send(request()).reply(response(), lose="after")
        (exchange,) = paired(wire.wait(ms=300).resend()).applications
        assert exchange.outcome is Outcome.OK
        assert exchange.end_ns - exchange.first_byte_ns == pytest.approx(300 * MS, abs=2 * MS)

    def test_a_lost_piece_holds_up_what_follows_it(self) -> None:
        wire = Wire(rtt_ms=40, vantage="server").handshake().send(request()).reply(response(b"x" * 8_000), lose="after", only=[1])
        wire.wait(ms=100).resend(1_448, 2_896, by="server")
        (exchange,) = paired(wire).applications
        assert exchange.end_ns - exchange.first_byte_ns >= 100 * MS

    def test_an_answer_the_client_never_acknowledges_has_not_arrived(self) -> None:
        wire = Wire(rtt_ms=40, vantage="server").handshake().send(request()).reply(response(), lose="after")
        (exchange,) = paired(wire.wait(ms=2_000).resend(lose="after")).applications
        assert exchange.outcome is Outcome.INCOMPLETE
        assert exchange.duration_ns > 2_000 * MS

    def test_a_client_may_give_up_on_it(self) -> None:
        wire = Wire(rtt_ms=40, vantage="server").handshake().send(request()).reply(response(), lose="after")
        (exchange,) = paired(wire.wait(ms=6_000).fin("client")).applications
        assert (exchange.outcome, exchange.aborted_by) == (Outcome.ABORTED, "client")


def test_a_token_stream_that_said_it_was_done_is_done() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n"
    wire = Wire().handshake().send(request()).reply(head).fin("client").reply(b"0\r\n\r\n").rst("client")
    (exchange,) = paired(wire).applications
    assert (exchange.outcome, exchange.status) == (Outcome.OK, "200")


def test_one_direction_shows_no_answers() -> None:
    wire = Wire().handshake().send(request()).wait(ms=500).reply(response()).send(request("/b"))
    (first, second) = paired(OneWay(wire)).applications
    assert (first.outcome, first.response, first.status) == (Outcome.OK, (), None)
    assert first.end_ns == first.request_end_ns
    assert second.start_ns - first.end_ns > 500 * MS


class OneWay(Wire):
    """What the client of another Wire sent."""

    def __init__(self, whole: Wire) -> None:
        super().__init__()
        self._whole = whole

    def sights(self) -> list[tuple[int, int, bytes]]:
        client = self._hosts["client"].mac
        return [sight for sight in self._whole.sights() if sight[2][6:12] == client]


def test_drafts_land_together() -> None:
    read = paired(Wire(rtt_ms=20).handshake().http_get("/a").http_get("/b"))
    size = len(b"GET /a HTTP/1.1\r\nHost: server.test\r\n\r\n")
    drafts = [Draft(0, Protocol.OTHER, "x", request=[(at, at + size)], ending=Ending.OPEN) for at in (0, size)]
    ground = Ground(read.packets, read.tcp, (0, len(read.tcp.flows)), int(read.packets.ts_ns.max()))
    landed = land(gather(drafts), ground, read.streams).exchanges
    assert landed.request_start_ns.tolist() == [exchange.request_start_ns for exchange in read.applications]
    assert len(land(gather([]), ground, read.streams).exchanges) == 0
