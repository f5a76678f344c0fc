"""HTTP/1.1 exchanges: which response answers which request, and when."""

from __future__ import annotations

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.fields import UNKNOWN_NAME
from pcapdiag.exchanges.pair_http1 import Http1Pairing
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.exchanges.tape import Tape
from pcapdiag.losses import Loss, Losses
from tests.paired import ms, paired, request, response
from tests.wire import Wire

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_times_are_those_of_the_bytes() -> None:
    wire = Wire(rtt_ms=20).handshake().send(request(body=b"x" * 3_000)).wait(ms=100).reply(response(b"y" * 3_000), every_ms=10)
    (exchange,) = paired(wire).applications
    assert (exchange.name, exchange.protocol, exchange.status, exchange.outcome) == ("POST /v1/messages", Protocol.HTTP1, "200", Outcome.OK)
    assert ms(exchange.request_start_ns) == 20
    assert ms(exchange.request_end_ns) == 20
    assert 40 <= (ms(exchange.request_acked_ns) or 0) < 41
    assert ms(exchange.first_byte_ns) == 140
    assert ms(exchange.end_ns) == 160
    assert exchange.request_len == len(request(body=b"x" * 3_000))
    assert exchange.response_len == len(response(b"y" * 3_000))
    assert len(exchange.frames) == 4


def test_pipelined_responses_answer_in_order() -> None:
    sent = request("/a") + request("/b") + request("/c")
    got = response(status="200 OK") + response(status="404 Not Found") + response(status="503 Service Unavailable")
    exchanges = paired(Wire().handshake().send(sent).reply(got)).applications
    assert [(e.name, e.status, e.outcome) for e in exchanges] == [
        ("POST /a", "200", Outcome.OK),
        ("POST /b", "404", Outcome.ERROR),
        ("POST /c", "503", Outcome.ERROR),
    ]


def test_names_hold_no_query() -> None:
    (exchange,) = paired(Wire().handshake().send(request("/search?q=secret&key=sk-1", method="GET")).reply(response())).applications
    assert exchange.name == "GET /search"
    assert "secret" not in str(exchange.facts)


def test_an_interim_response_is_not_the_first_byte() -> None:
    head = request("/up", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 3")
    wire = Wire().handshake().send(head).reply(b"HTTP/1.1 100 Continue\r\n\r\n").send(b"abc").wait(ms=50).reply(response())
    (exchange,) = paired(wire).applications
    assert exchange.facts["expect"] == "100-continue"
    assert exchange.facts["body_at"] == len(head)
    assert exchange.facts["interim_at"] == 0
    assert exchange.response == ((25, 25 + len(response())),)
    assert exchange.first_byte_ns > exchange.request_end_ns + 50_000_000


def test_a_response_to_head_has_no_body() -> None:
    sent = request("/a", method="HEAD") + request("/b", method="GET")
    got = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + response(b"two")
    exchanges = paired(Wire().handshake().send(sent).reply(got)).applications
    assert [(e.name, e.status, e.response_len) for e in exchanges] == [("HEAD /a", "200", 40), ("GET /b", "200", len(response(b"two")))]


def test_events_of_a_token_stream_end_where_their_blank_lines_do() -> None:
    events = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]
    wire = Wire().handshake().send(request()).reply(SSE_HEAD)
    for event in events:
        wire.wait(ms=30).reply(chunk(event))
    (exchange,) = paired(wire.reply(b"0\r\n\r\n")).applications
    assert exchange.protocol is Protocol.SSE
    assert exchange.is_stream
    first = len(SSE_HEAD) + len(b"b\r\n") + len(events[0])
    second = first + len(b"\r\n") + len(b"b\r\n") + len(events[1])
    assert exchange.messages.tolist() == [first, second, second + len(b"\r\n") + len(b"e\r\n") + len(events[2])]
    assert exchange.facts["sse_done"] is True


def test_an_error_event_makes_the_stream_an_error() -> None:
    body = chunk(b"event: error\ndata: {}\n\n") + b"0\r\n\r\n"
    (exchange,) = paired(Wire().handshake().send(request()).reply(SSE_HEAD + body)).applications
    assert (exchange.status, exchange.outcome) == ("200", Outcome.ERROR)


def test_a_response_without_length_ends_with_the_connection() -> None:
    wire = Wire().handshake().send(request()).reply(b"HTTP/1.0 200 OK\r\n\r\nbody").wait(ms=40).close("server")
    (exchange,) = paired(wire).applications
    assert exchange.outcome is Outcome.OK
    assert exchange.end_ns - exchange.first_byte_ns == pytest.approx(40_000_000, abs=1_000)


def test_a_websocket_is_one_exchange_until_it_closes() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    wire = Wire().handshake().send(request("/ws", "Upgrade: websocket", "Connection: Upgrade", method="GET")).reply(head)
    wire.wait(ms=500).send(b"\x81\x85abcdhello").reply(b"\x81\x05hello").wait(ms=100).close()
    (exchange,) = paired(wire).applications
    assert (exchange.protocol, exchange.outcome, exchange.status) == (Protocol.WEBSOCKET, Outcome.OK, "101")
    assert exchange.response_len == len(head) + 7
    assert exchange.facts["tunnel_request_len"] == 11
    assert (ms(exchange.end_ns) or 0) > 600


def test_an_answer_that_never_came_is_incomplete() -> None:
    (exchange,) = paired(Wire().handshake().send(request()).wait(ms=3_000).ack("server")).applications
    assert (exchange.outcome, exchange.status, exchange.first_byte_ns) == (Outcome.INCOMPLETE, None, NEVER)
    assert ms(exchange.end_ns) == pytest.approx(3_040, abs=25)


def test_a_reset_in_the_middle_aborts() -> None:
    wire = Wire().handshake().send(request()).reply(SSE_HEAD + chunk(b"data: one\n\n")).wait(ms=200).rst("server")
    (exchange,) = paired(wire).applications
    assert (exchange.outcome, exchange.aborted_by, exchange.status) == (Outcome.ABORTED, "server", "200")
    assert exchange.end_ns - exchange.first_byte_ns == pytest.approx(200_000_000, abs=1_000)


def test_a_timeout_announced_after_the_last_request_answers_nothing() -> None:
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    wire = Wire().handshake().send(request()).reply(response()).wait(ms=5_000).reply(late).close("server")
    (exchange,) = paired(wire).applications
    assert exchange.status == "200"


class TestWhatTheCaptureMissed:
    def test_a_start_in_the_middle_keeps_the_response_without_its_request(self) -> None:
        wire = Wire().send(b"tail of a body").reply(response(b"one")).wait(ms=10).send(request("/b")).reply(response(b"two"))
        exchanges = paired(wire).applications
        assert [(e.name, e.request_len > 0, e.status) for e in exchanges] == [(UNKNOWN_NAME, False, "200"), ("POST /b", True, "200")]

    def test_a_response_the_capture_lost_is_where_the_hole_is(self) -> None:
        wire = Wire().handshake().send(request("/a")).reply(response(b"one"), lose="capture").wait(ms=10)
        wire.send(request("/b")).reply(response(b"two")).wait(ms=10).send(request("/c")).reply(response(b"three"))
        read = paired(wire)
        assert [(e.name, e.status) for e in read.applications] == [("POST /a", None), ("POST /b", "200"), ("POST /c", "200")]
        lost = read.applications[0]
        assert lost.response == ((0, len(response(b"one"))),)
        assert lost.outcome is Outcome.OK
        assert lost.end_ns < read.applications[1].start_ns

    def test_a_hole_inside_a_body_costs_nothing(self) -> None:
        wire = Wire().handshake().send(request("/a")).reply(response(b"x" * 6_000), lose="capture", only=[2]).wait(ms=10)
        read = paired(wire.send(request("/b")).reply(response()))
        assert [(e.name, e.status, e.outcome) for e in read.applications] == [
            ("POST /a", "200", Outcome.OK),
            ("POST /b", "200", Outcome.OK),
        ]
        assert read.losses.total(Loss.PROTOCOL_FAULT) == 0


def test_bytes_that_break_the_protocol_are_counted() -> None:
    wire = Wire().handshake().send(request("/a")).reply(response()).send(b"nonsense\r\n\r\n" + request("/b")).reply(response())
    read = paired(wire)
    assert [e.name for e in read.applications] == ["POST /a", "POST /b"]
    assert read.losses.total(Loss.PROTOCOL_FAULT) >= 1


def test_a_tunnel_says_where_it_begins() -> None:
    read = paired(Wire().handshake().send(request("/x")).reply(response()))
    asked = b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"
    agreed = b"HTTP/1.1 200 Connection established\r\n\r\n"
    client, server = Tape.of_bytes([(0, len(asked) + 3, asked + b"\x16\x03\x01")]), Tape.of_bytes([(0, len(agreed), agreed)])
    drafts, tunnel = Http1Pairing(0, Losses(), 0).pair(client, server, read.streams, whole=True, closed=False)
    assert tunnel is not None
    assert (tunnel.draft, tunnel.client_at, tunnel.server_at) == (drafts[0], len(asked), len(agreed))
