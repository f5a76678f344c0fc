"""Whose turn it was where no sign speaks: set-up, sending, waiting, receiving."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.pipeline import diagnose
from pcapdiag.stalls.phases import Part, Phases
from tests.exchange_rows import exchanges_of
from tests.wire import START_NS, Recording, Wire, merge

if TYPE_CHECKING:
    from pcapdiag.trace import Trace
    from tests.wire_line import Vantage

MS = 1_000_000
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
Told = list[tuple[str, str, int]]
"""(phase, label, ms); parts below half a millisecond are left out."""


def told(parts: list[Part]) -> Told:
    rounded = [(part.phase.name, part.label.code, round((part.end_ns - part.start_ns) / MS)) for part in parts]
    return [one for one in rounded if one[2]]


def phases(wire: Recording) -> Told:
    """The parts of the only request."""
    trace = wire.trace()
    (exchange,) = (one for one in trace.exchanges if not one.is_setup)
    return told(Phases(trace.exchanges, trace.tcp, trace.streams).parts(exchange))


# --- the wait ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vantage", "way"), [("client", 10), ("middle", 5), ("server", 0)])
def test_thinking_is_what_the_way_between_tap_and_server_leaves(vantage: Vantage, way: int) -> None:
    there = [("WAIT", "propagation", way)] if way else []
    found = phases(Wire(vantage=vantage, rtt_ms=20).handshake().http_get(body=3_000, think_ms=300))
    assert found == [("CONNECT", "propagation", 20), *there, ("WAIT", "server-think", 300), *there]


def test_what_a_round_trip_takes_beyond_the_least_one_is_queueing() -> None:
    """It grew from 20 to 60 ms; the server thought for 100."""
    trace = Wire(rtt_ms=20).handshake().http_get().wait(ms=2_000).rtt(60).http_get(think_ms=100).trace()
    found = told(Phases(trace.exchanges, trace.tcp, trace.streams).parts(max(trace.exchanges, key=lambda one: one.start_ns)))
    assert found == [("WAIT", "propagation", 10), ("WAIT", "queueing", 40), ("WAIT", "server-think", 100), ("WAIT", "propagation", 10)]


@pytest.mark.parametrize(("answers", "label"), [(True, "unattributed"), (False, "server-think")])
@pytest.mark.parametrize("asked_again", [True, False])
def test_who_had_answered_did_not_think(answers: bool, label: str, asked_again: bool) -> None:
    """The answer is lost before the tap, and all that sends it again; the server's later ACKs count it as sent."""
    wire = Wire(rtt_ms=20).handshake().http_get().wait(ms=50).send(GET)
    if answers:
        wire.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", lose="before").wait(ms=300).resend(by="server", lose="before")
    if asked_again:
        wire.wait(ms=500).keepalive("client").ack("server")
    trace = wire.wait(ms=2_000).fin("client").ack("server").trace()
    last = max(trace.exchanges, key=lambda one: one.start_ns)
    assert last.outcome is Outcome.ABORTED
    assert {label for _, label, ms in told(Phases(trace.exchanges, trace.tcp, trace.streams).parts(last)) if ms > 1_000} == {label}
    spent = {code for code, ns in diagnose(trace).ledger.by_label_ns().items() if ns > 1_000 * MS}
    assert spent == {label}


def test_a_delayed_ack_is_no_round_trip() -> None:
    found = phases(Wire(rtt_ms=20).acks("delayed", "server").handshake().http_get(body=10, think_ms=300))
    assert ("WAIT", "server-think", 300) in found
    assert "queueing" not in {label for _, label, _ in found}


def test_whoever_never_got_the_request_did_not_think() -> None:
    asked = Wire().handshake().send(GET)
    assert ("WAIT", "server-think", 480) in phases(asked.wait(ms=500).fin())
    lost = Wire().handshake().send(GET, lose="after").wait(ms=500).fin()
    assert ("WAIT", "unattributed", 480) in phases(lost)


def test_signs_push_the_model_of_a_wait_aside() -> None:
    """300 ms of waiting of which 150 are claimed: the round trip and the thinking are laid over the rest."""
    trace = Wire(rtt_ms=20).handshake().http_get(body=10, think_ms=280).trace()
    exchange = next(one for one in trace.exchanges if not one.is_setup)
    begin = exchange.request_end_ns
    parts = Phases(trace.exchanges, trace.tcp, trace.streams).parts(exchange, [(begin + 5 * MS, begin + 155 * MS)])
    waits = [one for one in told(parts) if one[0] in {"WAIT", "CLIENT"}]
    assert waits == [("WAIT", "propagation", 5), ("CLIENT", "client-produce", 150), ("WAIT", "propagation", 5),
                     ("WAIT", "server-think", 130), ("WAIT", "propagation", 10)]  # fmt: skip


# --- sending and receiving ---------------------------------------------------------------------------------------------


def test_a_client_that_pauses_in_its_request_owns_the_pause() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n"
    wire = Wire().handshake().send(head).wait(ms=400).send(10).wait(ms=50).send(10)
    found = phases(wire.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    assert [one for one in found if one[0] == "SEND"] == [("SEND", "client-produce", 400), ("SEND", "transfer", 50)]


def stream(*gaps_ms: int) -> Wire:
    """Server-sent events, so many ms apart, closed 10 ms after the last one."""
    wire = Wire().handshake().send(GET).wait(ms=100)
    wire.reply(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for gap in gaps_ms:
        wire.wait(ms=gap).reply(b"10\r\ndata: 12345678\n\n\r\n")
    return wire.wait(ms=10).reply(b"0\r\n\r\n")


def received(found: Told) -> list[tuple[str, int]]:
    return [(label, ms) for phase, label, ms in found if phase == "RECV"]


def test_a_token_stream_goes_at_its_own_pace_and_pauses_are_its_producers() -> None:
    assert received(phases(stream(20, 20, 500, 20, 20, 20))) == [("delivery", 60), ("inter-token-gap", 480), ("delivery", 70)]


def test_before_the_first_token_the_server_still_thinks() -> None:
    assert received(phases(stream(400, 20, 20, 20, 20)))[:2] == [("delivery", 20), ("server-think", 380)]


def test_slow_tokens_are_no_gaps() -> None:
    assert received(phases(stream(250, 250, 250, 900, 250, 250, 250))) == [("delivery", 2_410)], "900 ms is not five times the usual 250"


def test_a_pause_in_a_plain_response_is_the_servers_beyond_a_round_trip() -> None:
    wire = Wire(rtt_ms=20).handshake().send(GET).wait(ms=50).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")
    wire.reply(1_000).reply(1_000).wait(ms=300).reply(1_000)
    assert received(phases(wire)) == [("transfer", 20), ("server-think", 280)]


def test_a_pause_behind_which_packets_are_missing_is_nobodys() -> None:
    wire = Wire(rtt_ms=20).handshake().send(GET).wait(ms=50).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 6000\r\n\r\n")
    wire.reply(1_000).reply(1_000).reply(1_000).reply(1_000).reply(1_000, lose="before").wait(ms=300).resend().reply(1_000)
    assert received(phases(wire)) == [("transfer", 20), ("unattributed", 280)]


def test_behind_the_last_byte_at_the_server_it_is_on_its_way() -> None:
    trace = Wire(vantage="server", rtt_ms=20).handshake().http_get(body=10, think_ms=50).trace()
    exchange = next(one for one in trace.exchanges if not one.is_setup)
    later = replace(exchange, end_ns=exchange.end_ns + 50 * MS)
    parts = Phases(trace.exchanges, trace.tcp, trace.streams).parts(later)
    assert received(told(parts)) == [("propagation", 20), ("transfer", 30)]
    open_ended = Phases(trace.exchanges, trace.tcp, trace.streams).parts(replace(later, outcome=Outcome.INCOMPLETE))
    assert received(told(open_ended)) == [("propagation", 20), ("unattributed", 30)]


# --- set-up ------------------------------------------------------------------------------------------------------------


@cache
def plain() -> Trace:
    """One connection with a round trip of 20 ms, and a lookup."""
    return merge(Wire(rtt_ms=20).handshake().http_get(), Wire(cport=5_353, sport=53, start_ms=500).udp(b"q").udp(b"a", "server")).trace()


def alone(protocol: Protocol, ms: int, **changes: Any) -> Told:
    """The parts of a set-up that took so long."""
    trace = plain()
    flow = int((trace.flows.proto == (17 if protocol is Protocol.DNS else 6)).argmax())
    row = Exchange(id=0, flow=flow, protocol=protocol, name="x", start_ns=START_NS, end_ns=START_NS + ms * MS, **changes)
    return told(Phases(exchanges_of((row,)), trace.tcp, trace.streams).parts(row))


@pytest.mark.parametrize(("ms", "changes", "label"), [
    (100, {}, "propagation"), (101, {}, "dns-slow"), (900, {"tries": (1, 2)}, "unattributed"),
    (900, {"outcome": Outcome.ERROR}, "unattributed"),
])  # fmt: skip
def test_a_lookup_is_slow_above_100_ms(ms: int, changes: dict[str, Any], label: str) -> None:
    assert alone(Protocol.DNS, ms, **changes) == [("DNS", label, ms)]


def test_a_connect_takes_one_round_trip_and_the_rest_is_queueing() -> None:
    assert alone(Protocol.CONNECT, 50) == [("CONNECT", "propagation", 20), ("CONNECT", "queueing", 30)]
    assert alone(Protocol.CONNECT, 1_020, tries=(1, 2)) == [("CONNECT", "propagation", 20), ("CONNECT", "unattributed", 1_000)]
    assert alone(Protocol.CONNECT, 50, tries=(1,))[1] == ("CONNECT", "queueing", 30)
    assert alone(Protocol.CONNECT, 15) == [("CONNECT", "propagation", 15)]


def test_a_handshake_takes_one_round_trip_or_two_by_its_version() -> None:
    assert alone(Protocol.TLS_HANDSHAKE, 100, status="TLSv1.3") == [("TLS", "propagation", 20), ("TLS", "server-think", 80)]
    assert alone(Protocol.TLS_HANDSHAKE, 100, status="TLSv1.2") == [("TLS", "propagation", 40), ("TLS", "server-think", 60)]
    assert alone(Protocol.TLS_HANDSHAKE, 321, status="TLSv1.3") == [("TLS", "propagation", 20), ("TLS", "tls-slow", 301)]


@pytest.mark.parametrize(("ms", "label"), [(790, "server-think"), (810, "tls-slow")])
def test_on_a_long_path_a_handshake_is_slow_above_three_round_trips_more(ms: int, label: str) -> None:
    trace = Wire(rtt_ms=200).handshake().http_get().trace()
    row = Exchange(id=0, flow=0, protocol=Protocol.TLS_HANDSHAKE, name="x", start_ns=START_NS, end_ns=START_NS + ms * MS, status="TLSv1.3")
    assert told(Phases(exchanges_of((row,)), trace.tcp, trace.streams).parts(row))[-1] == ("TLS", label, ms - 200)


def test_set_up_comes_first_and_what_lies_between_is_the_clients() -> None:
    found = phases(Wire().syn(lose="after").wait(ms=1_000).syn().syn_ack().ack().wait(ms=30).http_get())
    assert found[:3] == [("CONNECT", "propagation", 20), ("CONNECT", "unattributed", 1_000), ("CLIENT", "client-produce", 30)]


# --- on a shared connection --------------------------------------------------------------------------------------------


def test_while_a_shared_connection_carries_other_answers_the_server_is_busy_sending() -> None:
    wire = Wire(rtt_ms=20).handshake().send(GET).wait(ms=100)
    for _ in range(12):
        wire.reply(2_896).wait(ms=18)
    trace = wire.trace()
    begin, end = trace.start_ns + 40 * MS, int(trace.flows.last_ns[0])
    row = Exchange(id=0, flow=0, protocol=Protocol.H2, name="x", start_ns=begin, request_start_ns=begin, request_end_ns=begin,
                   request_acked_ns=begin + 20 * MS, first_byte_ns=end, end_ns=end, h2_stream=3)  # fmt: skip
    phases_ = Phases(exchanges_of((row,)), trace.tcp, trace.streams)
    labels = {label: ms for phase, label, ms in told(phases_.parts(row)) if phase == "WAIT" and label != "propagation"}
    assert labels["transfer"] == pytest.approx(11 * 18, abs=10)
    assert labels["server-think"] == pytest.approx(80, abs=20)
    alone_ = told(phases_.parts(replace(row, h2_stream=0)))
    assert "transfer" not in {label for phase, label, _ in alone_ if phase == "WAIT"}


# --- edges -------------------------------------------------------------------------------------------------------------


def test_a_stall_is_longer_than_two_round_trips_and_200_ms() -> None:
    for rtt_ms, trigger_ms in ((20, 200), (150, 300)):
        trace = Wire(rtt_ms=rtt_ms).handshake().http_get().trace()
        found = Phases(trace.exchanges, trace.tcp, trace.streams).trigger_ns(trace.exchanges[0])
        assert round(found / MS) == trigger_ms


def test_an_exchange_without_request_bytes_is_unattributed() -> None:
    trace = plain()
    row = Exchange(id=0, flow=0, protocol=Protocol.HTTP1, name="x", start_ns=START_NS, end_ns=START_NS + 9 * MS, request_start_ns=NEVER)
    assert told(Phases(exchanges_of((row,)), trace.tcp, trace.streams).parts(row)) == [("CLIENT", "unattributed", 9)]


def test_an_instant_has_no_parts() -> None:
    trace = plain()
    row = Exchange(id=0, flow=0, protocol=Protocol.HTTP1, name="x", start_ns=START_NS, end_ns=START_NS)
    assert Phases(exchanges_of((row,)), trace.tcp, trace.streams).parts(row) == []
