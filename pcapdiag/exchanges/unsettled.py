"""All exchanges with their times, while it is settled which were part of which, and which were given up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.exchanges.growing import in_order
from pcapdiag.exchanges.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pcapdiag.columns import I64, Bools, Rows
    from pcapdiag.exchanges.draft import Fact
    from pcapdiag.exchanges.landing import Landed
    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.spool import Room


@dataclass(slots=True, eq=False)
class Unsettled:
    """Columns that may still change; rows are numbered as they were found, not yet as they will be."""

    exchanges: Exchanges
    """Its arrays are changed in place, but for `setup`, which `settled` makes."""
    progress_ns: I64
    attached: Bools
    """Which rows are a phase of what they are part of: it waited for them."""
    facts: list[Mapping[str, Fact]]
    given_up_ns: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Connect -> its client stopped waiting between these times, and no packet says when."""
    _noted: dict[tuple[int, str, Fact], int] = field(default_factory=dict)

    @classmethod
    def of(cls, landed: Landed) -> Unsettled:
        """Exchanges with their times."""
        table = landed.exchanges
        return cls(table, landed.progress_ns, np.zeros(len(table), np.bool_), list(table.facts))

    def order(self, rows: Rows | None = None) -> Rows:
        """These rows (all of them) by start, flow, first offset."""
        table = self.exchanges
        rows = np.arange(len(table)) if rows is None else rows
        return rows[np.lexsort((self._first_offset()[rows], table.flow[rows], table.start_ns[rows]))]

    def _first_offset(self) -> I64:
        """Of the request, else of the response, else 0."""
        first = np.zeros(len(self.exchanges), np.int64)
        for spans in (self.exchanges.response, self.exchanges.request):
            some = np.flatnonzero(spans.counts)
            first[some] = spans.values[spans.begin[some], 0]
        return first

    def attach(self, phases: Rows | Sequence[int], owners: Rows | int) -> None:
        """Makes set-ups phases of what waited for them, which begins with the first of them."""
        table = self.exchanges
        table.part_of[phases], self.attached[phases] = owners, True
        np.minimum.at(table.start_ns, np.broadcast_to(owners, len(phases)), table.start_ns[phases])

    def fact(self, row: int, name: str) -> Fact:
        """What is noted under a name; None for nothing."""
        return self.facts[int(self.exchanges.fact[row])].get(name)

    def note(self, row: int, name: str, value: Fact) -> None:
        """Adds a fact to one exchange; None takes it away."""
        old = int(self.exchanges.fact[row])
        place = self._noted.get((old, name, value))
        if place is None:
            place = self._noted[old, name, value] = len(self.facts)
            others = {known: fact for known, fact in self.facts[old].items() if known != name}
            self.facts.append(others if value is None else {**others, name: value})
        self.exchanges.fact[row] = place

    def settled(self, room: Room | None = None) -> Exchanges:
        """The table: rows in order, part_of and setup by their numbers there."""
        order = self.order()
        table = in_order(replace(self.exchanges, facts=tuple(self.facts)), order, room)
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order))
        table.part_of[:] = np.where(table.part_of < 0, -1, number[table.part_of])
        phases = np.flatnonzero(self.attached[order])
        phases = phases[np.argsort(table.part_of[phases], kind="stable")]
        return replace(table, setup=Ragged(np.searchsorted(table.part_of[phases], np.arange(len(order) + 1)), phases))
