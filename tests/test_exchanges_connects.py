"""Connection attempts: what ends them, and when the client gave up if nothing did."""

from __future__ import annotations

import pytest

from pcapdiag.exchanges.connects import find_connects
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from tests.paired import ms, paired
from tests.wire import Recording, Wire, merge


def connect_of(recording: Recording) -> Exchange:
    (connect,) = paired(recording).of(Protocol.CONNECT)
    return connect


def test_an_answered_one_ends_with_the_clients_ack() -> None:
    connect = connect_of(Wire(rtt_ms=30).handshake())
    assert (connect.name, connect.outcome, ms(connect.start_ns), ms(connect.end_ns)) == ("10.0.0.2:80", Outcome.OK, 0, 30)
    assert len(connect.frames) == 2


def test_every_syn_is_a_try() -> None:
    wire = Wire(rtt_ms=30).syn(lose="after").wait(ms=1_000).syn(lose="after").wait(ms=2_000).syn().syn_ack().ack()
    connect = connect_of(wire)
    assert [ms(ns) for ns in connect.tries] == [0, 1_000, 3_000]
    assert ms(connect.end_ns) == 3_030
    assert connect.outcome is Outcome.OK


def test_a_reset_refuses() -> None:
    connect = connect_of(Wire(rtt_ms=30).syn().rst("server", seq=0))
    assert (connect.outcome, connect.status, ms(connect.end_ns)) == (Outcome.ERROR, "refused", 30)


def test_a_router_may_say_that_nobody_is_there() -> None:
    connect = connect_of(Wire(rtt_ms=30).syn(lose="after").wait(ms=20).icmp(3, 1))
    assert (connect.outcome, connect.status) == (Outcome.ERROR, "unreachable")
    assert len(connect.frames) == 2


def test_a_router_that_asks_for_smaller_packets_refuses_nothing() -> None:
    assert connect_of(Wire(rtt_ms=30).syn(lose="after").wait(ms=20).icmp_ptb(1_300)).outcome is Outcome.INCOMPLETE


def test_the_capture_may_end_before_the_next_try() -> None:
    other = Wire(cport=50_001, sport=81).syn(lose="after").wait(ms=500).syn(lose="after")
    connects = paired(merge(Wire().syn(lose="after"), other)).of(Protocol.CONNECT)
    assert [(c.outcome, ms(c.end_ns)) for c in connects] == [(Outcome.INCOMPLETE, 500), (Outcome.INCOMPLETE, 500)]


def test_a_client_that_gave_up_waited_at_least_until_its_last_try() -> None:
    later = Wire(cport=50_001, sport=81, start_ms=60_000).handshake()
    connect = paired(merge(Wire().syn(lose="after").wait(ms=1_000).syn(lose="after"), later)).of(Protocol.CONNECT)[0]
    assert (connect.outcome, connect.aborted_by, ms(connect.end_ns)) == (Outcome.ABORTED, "client", 1_000)
    assert connect.facts["at_least"] is True


def test_its_next_attempt_shows_when_it_gave_up() -> None:
    first = Wire(cport=50_000).syn(lose="after").wait(ms=1_000).syn(lose="after")
    second = Wire(cport=50_001, start_ms=2_000).handshake().wait(ms=60_000).ack()
    connect = paired(merge(first, second)).of(Protocol.CONNECT)[0]
    assert (connect.outcome, connect.aborted_by, ms(connect.end_ns)) == (Outcome.ABORTED, "client", 2_000)
    assert "at_least" not in connect.facts


def test_an_answer_that_comes_too_late_is_refused() -> None:
    late = Wire(cport=50_000, rtt_ms=500).syn().syn_ack().rst("client")
    again = Wire(cport=50_001, rtt_ms=500, start_ms=400).syn().syn_ack().ack()
    connects = paired(merge(late, again)).of(Protocol.CONNECT)
    assert [(c.outcome, ms(c.end_ns)) for c in connects] == [(Outcome.ABORTED, 400), (Outcome.OK, 900)]


def test_an_answer_may_carry_an_earlier_time_than_its_syn() -> None:
    connect = connect_of(Wire(rtt_ms=30).syn().clock_step(-50).syn_ack().rst("client"))
    assert (connect.outcome, connect.aborted_by) == (Outcome.ABORTED, "client")
    assert connect.end_ns == connect.start_ns


def test_data_shows_that_an_unseen_answer_came() -> None:
    connect = connect_of(Wire(rtt_ms=30).syn().syn_ack(lose="capture").ack().wait(ms=5).send(b"hello"))
    assert connect.outcome is Outcome.OK
    assert ms(connect.end_ns) == 30


@pytest.mark.parametrize("vantage", ["client", "server", "middle"])
def test_attempts_are_found_at_every_tap(vantage: str) -> None:
    read = paired(Wire(vantage=vantage).handshake().http_get("/"))  # type: ignore[arg-type]  # one of the three
    ends_ns = int(read.packets.ts_ns.max())
    assert len(find_connects(read.packets, read.tcp, (0, 1), refusals={}, clipped_ns=ends_ns)) == 1
    assert find_connects(read.packets, read.tcp, (1, 1), refusals={}, clipped_ns=ends_ns) == []
