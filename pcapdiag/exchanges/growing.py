"""All exchanges of a capture, growing some flows at a time; what has a row per exchange lies where the tables lie."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.exchanges.drafted import FactTable, gather
from pcapdiag.exchanges.landing import Landed
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.table import Exchanges
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.spool import Spool, column, taken, windows

if TYPE_CHECKING:
    from pcapdiag.columns import Rows
    from pcapdiag.spool import Room


class GrowingExchanges:
    """Rows come one behind the other, none is part of anything yet; equal texts and facts are kept once."""

    def __init__(self, room: Room | None) -> None:
        self._room = room
        self._columns = Spool(room)
        self._lists = {name: (Spool(room), Spool(room)) for name in Exchanges.lists()}
        """Per list its counts, and its numbers one behind the other."""
        self._widths: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        self._facts = FactTable()

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._columns)

    def add(self, landed: Landed) -> None:
        """Adds rows."""
        table = landed.exchanges
        text_at = np.array([*(self._texts.setdefault(text, len(self._texts)) for text in table.texts), -1], np.int32)  # -1 stays -1
        fact_at = np.array([self._facts.place_of(one) for one in table.facts], np.int32)
        columns: dict[str, Any] = {name: getattr(table, name) for name in Exchanges.columns()}
        columns |= {"name": text_at[table.name], "status": text_at[table.status], "fact": fact_at[table.fact]}
        self._columns.append({**columns, "progress_ns": landed.progress_ns})
        for name, (counts, values) in self._lists.items():
            ragged: Ragged = getattr(table, name)
            self._widths[name] = ragged.width
            counts.append({"": ragged.counts})
            values.append({"": ragged.values.reshape(-1)})

    def whole(self) -> Landed:
        """All rows; the object is empty afterwards."""
        if not len(self):
            self.add(Landed.given(gather([])))
        columns: dict[str, Any] = {**self._columns.finish()}
        progress_ns = columns.pop("progress_ns")
        columns |= {name: self._list(name) for name in self._lists}
        table = Exchanges(**columns, texts=tuple(self._texts), facts=self._facts.distinct())
        return Landed(table, progress_ns)

    def _list(self, name: str) -> Ragged:
        counts, values = (spool.finish()[""] for spool in self._lists[name])
        begin = column(len(counts) + 1, np.int64, self._room)
        begin[0] = 0
        for part in windows(len(counts), self._room):
            np.cumsum(counts[part], out=begin[part.start + 1 : part.stop + 1])
            begin[part.start + 1 : part.stop + 1] += begin[part.start]
        width = self._widths[name]
        return Ragged(begin, values if width == 1 else values.reshape(-1, width))


def in_order(table: Exchanges, order: Rows, room: Room | None) -> Exchanges:
    """The rows of a table in another order, a window at a time."""
    columns: dict[str, Any] = {name: taken(getattr(table, name), order, room) for name in table.columns()}
    columns |= {name: _lists_in_order(getattr(table, name), order, room) for name in table.lists()}
    return replace(table, **columns)


def _lists_in_order(lists: Ragged, order: Rows, room: Room | None) -> Ragged:
    begin = column(len(order) + 1, np.int64, room)
    begin[0] = 0
    for part in windows(len(order), room):
        np.cumsum(lists.counts_of(order[part]), out=begin[part.start + 1 : part.stop + 1])
        begin[part.start + 1 : part.stop + 1] += begin[part.start]
    values = column(len(lists.values) * lists.width, np.int64, room).reshape(lists.values.shape)
    for part in windows(len(order), room):
        rows = order[part]
        values[begin[part.start] : begin[part.stop]] = lists.values[concatenated_ranges(lists.begin[rows], lists.counts_of(rows))]
    return Ragged(begin, values)
