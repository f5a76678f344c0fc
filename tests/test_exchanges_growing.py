"""Exchanges that are found some flows at a time are the same table, wherever its columns lie."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges.growing import GrowingExchanges, in_order
from pcapdiag.exchanges.landing import Landed
from pcapdiag.exchanges.table import Exchange, Protocol
from pcapdiag.exchanges.unsettled import Unsettled
from pcapdiag.spool import Room
from tests.exchange_cases import exchanges
from tests.exchange_rows import exchanges_of

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Exchanges

ROOMS = [None, 0, 1 << 30]
THREE = [Exchange(id=n, flow=0, protocol=Protocol.HTTP1, name=f"GET /{n}", start_ns=9 - n, end_ns=20) for n in range(3)]


def room_of(free: int | None) -> Room | None:
    return None if free is None else Room(free)


def grown(parts: list[list[Exchange]], free: int | None) -> Landed:
    growing = GrowingExchanges(room_of(free))
    for part in parts:
        table = exchanges_of(part)
        growing.add(Landed(table, np.arange(len(table)) + 7))
    return growing.whole()


def alone(rows: list[Exchange]) -> list[Exchange]:
    """The same exchanges, part of nothing."""
    return [replace(row, id=number, part_of=None, setup=()) for number, row in enumerate(rows)]


def written(table: Exchanges) -> list[str]:
    return [str(row) for row in table]


@given(st.lists(exchanges().map(alone), max_size=4), st.sampled_from(ROOMS))
def test_parts_are_the_whole(parts: list[list[Exchange]], free: int | None) -> None:
    landed = grown(parts, free)
    assert written(landed.exchanges) == written(exchanges_of(alone([row for part in parts for row in part])))
    assert landed.progress_ns.tolist() == [7 + number for part in parts for number in range(len(part))]


@given(exchanges().map(alone), st.sampled_from(ROOMS), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_rows_in_another_order(rows: list[Exchange], free: int | None, keys: list[float]) -> None:
    table = exchanges_of(rows)
    order = np.argsort(keys[: len(rows)])
    assert written(in_order(table, order, room_of(free))) == written(table.take(order))


@pytest.mark.parametrize("free", ROOMS)
def test_what_lies_in_files_can_still_be_settled(free: int | None) -> None:
    unsettled = Unsettled.of(grown([THREE[:1], THREE[1:]], free))
    unsettled.attach([2], 0)
    unsettled.note(1, "abandoned", True)
    table = unsettled.settled(room_of(free))
    assert table.start_ns.tolist() == [7, 7, 8]
    assert sorted(row.part_of for row in table if row.part_of is not None) == [next(row.id for row in table if row.setup)]
    assert [row.facts.get("abandoned") for row in table] == [None, None, True]


def test_facts_that_went_away_leave_no_trace() -> None:
    """Other facts may come to lie where they lay in memory."""
    growing = GrowingExchanges(None)
    for number in range(200):
        table = exchanges_of([replace(THREE[0], facts={"n": number // 2, "same": True})])
        growing.add(Landed(table, np.zeros(1, np.int64)))
        del table
    whole = growing.whole().exchanges
    assert [row.facts["n"] for row in whole] == [number // 2 for number in range(200)]
    assert len(whole.facts) == 100


def test_nothing_is_a_table_without_rows() -> None:
    landed = grown([], 0)
    assert (len(landed.exchanges), len(landed.progress_ns), landed.exchanges.texts) == (0, 0, ())
