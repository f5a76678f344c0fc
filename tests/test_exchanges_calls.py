"""Which exchanges are attempts of one call, and the law of the gaps between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from pcapdiag.exchanges.calls import make_calls
from pcapdiag.exchanges.table import Calls, Exchange, Outcome, Protocol
from tests.exchange_rows import exchanges_of
from tests.paired import paired
from tests.wire import Wire, merge

MS = 1_000_000
FLOWS = paired(merge(Wire().handshake(), Wire(client="10.0.0.9", cport=50_001, start_ms=1).handshake())).tcp.flows


def exchange(start_ms: float, end_ms: float, outcome: Outcome = Outcome.OK, **changes: object) -> Exchange:
    plain = Exchange(
        id=0, flow=0, protocol=Protocol.HTTP1, name="POST /a", request_len=500,
        start_ns=round(start_ms * MS), end_ns=round(end_ms * MS), outcome=outcome,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]  # fields of Exchange


def failed(start_ms: float, end_ms: float, **changes: object) -> Exchange:
    return exchange(start_ms, end_ms, Outcome.ABORTED, **changes)


def calls(*rows: Exchange) -> Calls:
    return make_calls(exchanges_of([replace(row, id=index) for index, row in enumerate(rows)]), FLOWS)


def chains(*rows: Exchange) -> list[tuple[int, ...]]:
    return [call.exchanges for call in calls(*rows).rows]


def test_one_exchange_is_one_call() -> None:
    made = calls(exchange(0, 10), exchange(20, 30), exchange(0, 5, protocol=Protocol.CONNECT, part_of=0))
    assert [(call.exchanges, call.backoff, call.outcome) for call in made.rows] == [((0,), "none", Outcome.OK), ((1,), "none", Outcome.OK)]
    assert made.of_exchange.tolist() == [0, 1, -1]


def test_a_failure_and_the_same_request_again_are_one_call() -> None:
    made = calls(failed(0, 1_000), failed(1_500, 2_000), exchange(2_600, 2_700))
    (call,) = made.rows
    assert (call.exchanges, call.outcome, call.start_ns, call.end_ns) == ((0, 1, 2), Outcome.OK, 0, 2_700 * MS)


@pytest.mark.parametrize(
    ("status", "protocol", "retried"),
    [
        ("429", Protocol.HTTP1, True), ("503", Protocol.HTTP1, True), ("529", Protocol.SSE, True), ("404", Protocol.HTTP1, False),
        ("14", Protocol.GRPC, True), ("8", Protocol.GRPC, True), ("4", Protocol.GRPC, True), ("5", Protocol.GRPC, False),
        (None, Protocol.GRPC, True),
    ],
)  # fmt: skip
def test_some_answers_ask_for_another_try(status: str | None, protocol: Protocol, retried: bool) -> None:
    rows = exchange(0, 10, Outcome.ERROR, status=status, protocol=protocol), exchange(500, 600, protocol=protocol)
    assert chains(*rows) == ([(0, 1)] if retried else [(0,), (1,)])


@pytest.mark.parametrize(
    "changes",
    [{"name": "POST /b"}, {"request_len": 600}, {"protocol": Protocol.GRPC}, {"flow": 1}, {"start_ns": 70_000 * MS, "end_ns": 70_001 * MS}],
)
def test_what_differs_is_another_call(changes: Mapping[str, object]) -> None:
    other = replace(exchange(1_500, 2_000), **changes)  # type: ignore[arg-type]  # fields of Exchange
    assert chains(failed(0, 1_000), other) == [(0,), (1,)]


def test_an_error_is_answered_without_an_event_stream() -> None:
    assert chains(exchange(0, 10, Outcome.ERROR, status="429"), exchange(500, 900, protocol=Protocol.SSE)) == [(0, 1)]


def test_success_is_not_repeated() -> None:
    assert chains(exchange(0, 10), exchange(500, 600)) == [(0,), (1,)]


class TestHeaders:
    def test_a_count_of_attempts_makes_a_chain_whatever_the_outcome(self) -> None:
        rows = exchange(0, 2_000, attempt=0), exchange(1_000, 2_500, attempt=1, request_len=900)
        assert chains(*rows) == [(0, 1)]

    def test_a_first_attempt_begins_a_call(self) -> None:
        assert chains(failed(0, 1_000, attempt=0), exchange(1_500, 1_600, attempt=0)) == [(0,), (1,)]

    def test_the_same_id_makes_a_chain(self) -> None:
        facts = {"x-request-id": "a"}
        assert chains(failed(0, 1_000, attempt=0, facts=facts), exchange(1_500, 1_600, attempt=0, facts=facts)) == [(0, 1)]

    def test_another_id_is_another_call(self) -> None:
        rows = failed(0, 1_000, facts={"x-request-id": "a"}), exchange(1_500, 1_600, facts={"x-request-id": "b"})
        assert chains(*rows) == [(0,), (1,)]


def test_parallel_failures_are_made_again_in_their_order() -> None:
    rows = failed(0, 1_000), failed(10, 1_010), exchange(1_100, 1_200), exchange(1_110, 1_210)
    assert chains(*rows) == [(0, 2), (1, 3)]


def test_connects_that_fail_belong_to_the_request_that_gets_through() -> None:
    connect = failed(0, 400, protocol=Protocol.CONNECT, name="10.0.0.2:80", request_len=0)
    rows = failed(0, 300), replace(connect, start_ns=301 * MS), replace(connect, start_ns=402 * MS, end_ns=800 * MS), exchange(801, 900)
    assert chains(*rows) == [(0, 1, 2, 3)]


def test_agents_are_numbered_as_they_appear() -> None:
    made = calls(exchange(0, 10, flow=1), exchange(5, 10, flow=0), exchange(20, 30, flow=1))
    assert [call.agent for call in made.rows] == [0, 1, 0]
    assert made.agents == (int(FLOWS.client[1]), int(FLOWS.client[0]))


@pytest.mark.parametrize(
    ("gaps_ms", "law"),
    [
        ([1, 2, 10], "immediate"), ([1_000, 1_010, 990], "fixed"), ([500, 1_000, 2_000, 4_000], "exponential"),
        ([400, 2_900, 1_100, 300], "jittered"), ([700], "jittered"),
    ],
)  # fmt: skip
def test_the_gaps_follow_a_law(gaps_ms: list[int], law: str) -> None:
    rows, at = [failed(0, 100)], 100
    for gap in gaps_ms:
        rows.append(failed(at + gap, at + gap + 100))
        at += gap + 100
    (call,) = calls(*rows).rows
    assert call.backoff == law
