"""Exchanges go into columns and come out as they were; equal texts and facts are kept once."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.table import Call, Calls, Exchange, Outcome, Protocol
from tests.exchange_cases import exchanges
from tests.exchange_rows import exchanges_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FULL = Exchange(
    id=0, flow=3, protocol=Protocol.GRPC, name="POST /a", inferred=True, keys="none", part_of=7, h2_stream=5, request=((1, 4), (9, 12)),
    response=((0, 2),), start_ns=5, request_start_ns=6, request_end_ns=7, request_in_order_ns=8, request_acked_ns=9, first_byte_ns=10,
    end_ns=11, status="0", outcome=Outcome.ABORTED, aborted_by="server", setup=(2, 4), messages=np.array([1, 2]), deadline_ns=0, attempt=0,
    request_len=6, response_len=2, tries=(5, 6), frames=((0, 1), (1, 9)), facts={"host": "h"},
)  # fmt: skip
BARE = Exchange(id=1, flow=0, protocol=Protocol.DNS, name="A h", start_ns=0, end_ns=0)


def same(one: Exchange, other: Exchange) -> bool:
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(Exchange) if field.name != "messages")
    return all(a == b and type(a) is type(b) for a, b in pairs) and one.messages.tolist() == other.messages.tolist()


def test_every_field_survives() -> None:
    table = exchanges_of([FULL, BARE])
    assert all(same(row, made) for row, made in zip((FULL, BARE), table, strict=True))
    assert (same(table[-1], BARE), len(table), len(table.rows)) == (True, 2, 2)
    with pytest.raises(IndexError):
        table[2]


@given(exchanges())
def test_any_exchanges_survive(rows: list[Exchange]) -> None:
    assert all(same(row, made) for row, made in zip(rows, exchanges_of(rows), strict=True))


def test_equal_facts_are_kept_once_but_true_is_no_one() -> None:
    facts: list[dict[str, str | int | float | bool | None]] = [{"a": 1}, {"a": 1}, {"a": True}, {"a": 1, "b": ""}, {}]
    table = exchanges_of([replace(BARE, id=number, facts=one) for number, one in enumerate(facts)])
    assert [row.facts for row in table] == facts
    assert [type(row.facts.get("a")) for row in table] == [int, int, bool, int, type(None)]
    assert table.fact.tolist() == [0, 0, 1, 2, 3]
    assert (table.fact_holds("a").tolist(), table.fact_holds("b").tolist()) == ([True, True, True, True, False], [False] * 5)


def test_a_deadline_beyond_all_times_is_never() -> None:
    assert exchanges_of([replace(BARE, deadline_ns=1 << 70)])[0].deadline_ns == NEVER


def test_questions_to_the_whole_table() -> None:
    rows = [replace(FULL, part_of=None), replace(BARE, flow=3), replace(FULL, id=2, flow=1, messages=np.array([4]))]
    table = exchanges_of(rows)
    assert table.is_setup.tolist() == [False, True, False]
    assert table.is_stream.tolist() == [row.is_stream for row in rows] == [True, False, False]
    assert table.ended(Outcome.ABORTED, Outcome.ERROR).tolist() == [True, False, True]
    assert [row.id for row in table.of_flow(3)] == [0, 1]
    assert [table.by_flow(~table.is_setup, 4)[flow].tolist() for flow in range(4)] == [[], [2], [], [0]]
    assert list(table.to_frame()["flow"]) == [3, 3, 1]


def test_calls_come_out_as_they_went_in() -> None:
    rows = (
        Call(id=0, agent=1, exchanges=(0, 3), start_ns=5, end_ns=9, backoff="fixed", outcome=Outcome.OK),
        Call(id=1, agent=0, exchanges=(2,), start_ns=6, end_ns=7, backoff="none", outcome=Outcome.ERROR),
    )
    calls = Calls.of(rows, (4, 8), 5)
    assert (calls.rows, calls[1], calls.of_exchange.tolist()) == (rows, rows[1], [0, -1, 1, 0, -1])


def written(ragged: Ragged) -> list[list[object]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


@given(st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=6), st.data())
def test_lists_of_any_lengths(lists: Sequence[list[int]], draw: st.DataObject) -> None:
    ragged = Ragged.of(lists)
    assert (written(ragged), ragged.counts.tolist()) == (lists, [len(one) for one in lists])
    rows = draw.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8)) if lists else []
    assert written(ragged.take(np.array(rows, np.int64))) == [lists[row] for row in rows]
    assert ragged.counts_of(np.array(rows, np.int64)).tolist() == [len(lists[row]) for row in rows]
    assert written(Ragged.of([[(1, 2)], [], [(3, 4), (5, 6)]], width=2)) == [[[1, 2]], [], [[3, 4], [5, 6]]]
