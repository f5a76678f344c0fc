"""Puts exchanges, one object each, into the columns of their table; equal texts and facts are kept once."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.table import CODES, ENDS, KEYS, Exchanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from pcapdiag.exchanges.draft import Draft
    from pcapdiag.exchanges.table import Exchange

_PLAIN: Final = {
    "flow": np.int32, "inferred": np.bool_, "h2_stream": np.int32, "start_ns": np.int64, "request_start_ns": np.int64,
    "request_end_ns": np.int64, "request_in_order_ns": np.int64, "request_acked_ns": np.int64, "first_byte_ns": np.int64,
    "end_ns": np.int64, "request_len": np.int64, "response_len": np.int64,
}  # fmt: skip
"""Fields that are columns as they are."""

_BY: Final[Mapping[str | None, int]] = {None: -1, ENDS[0]: 0, ENDS[1]: 1}


def exchanges_of(rows: Sequence[Exchange]) -> Exchanges:
    """The table of exchanges of which row i has id i."""
    return _tabulated(rows, (-1 if row.part_of is None else row.part_of for row in rows), [row.setup for row in rows])


def gather(drafts: Sequence[Draft]) -> Exchanges:
    """The table of drafts of which row i has id i: all times are known."""
    part_of = (-1 if draft.part_of is None else draft.part_of.id for draft in drafts)
    return _tabulated(drafts, part_of, [sorted(phase.id for phase in draft.setup) if draft.setup else () for draft in drafts])


def _tabulated(rows: Sequence[Exchange] | Sequence[Draft], part_of: Iterable[int], setups: Sequence[Sequence[int]]) -> Exchanges:
    texts: dict[str, int] = {}
    facts = _Facts()
    plain = {name: _column(map(attrgetter(name), rows), len(rows), dtype) for name, dtype in _PLAIN.items()}
    return Exchanges(
        protocol=_column((CODES[row.protocol] for row in rows), len(rows), np.uint8),
        name=_column((texts.setdefault(row.name, len(texts)) for row in rows), len(rows), np.int32),
        keys=_column((KEYS.index(row.keys) for row in rows), len(rows), np.uint8),
        part_of=_column(part_of, len(rows), np.int32),
        status=_column((-1 if row.status is None else texts.setdefault(row.status, len(texts)) for row in rows), len(rows), np.int32),
        outcome=_column((CODES[row.outcome] for row in rows), len(rows), np.uint8),
        aborted_by=_column((_BY[row.aborted_by] for row in rows), len(rows), np.int8),
        deadline_ns=_column((-1 if row.deadline_ns is None else min(row.deadline_ns, NEVER) for row in rows), len(rows), np.int64),
        attempt=_column((-1 if row.attempt is None else row.attempt for row in rows), len(rows), np.int32),
        fact=_column((facts.place(row.facts) for row in rows), len(rows), np.int32),
        request=Ragged.of([row.request for row in rows], width=2),
        response=Ragged.of([row.response for row in rows], width=2),
        messages=Ragged.of([row.messages for row in rows]),
        setup=Ragged.of(setups),
        tries=Ragged.of([row.tries for row in rows]),
        frames=Ragged.of([row.frames for row in rows], width=2),
        texts=tuple(texts), facts=tuple(facts.distinct), **plain,
    )  # fmt: skip


def _column(values: Iterable[Any], count: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.fromiter(values, dtype, count)


class _Facts:
    """Distinct facts; requests of one client mostly say the same."""

    def __init__(self) -> None:
        self.distinct: list[Mapping[str, str | int | float | bool | None]] = []
        self._by_content: dict[tuple[object, ...], int] = {}
        self._by_id: dict[int, int] = {}

    def place(self, facts: Mapping[str, str | int | float | bool | None]) -> int:
        """Where these facts, or equal ones, are kept; the caller keeps them alive."""
        place = self._by_id.get(id(facts))
        if place is None:
            content = (*facts.items(), *map(type, facts.values()))  # True is no 1 in a report
            place = self._by_content.setdefault(content, len(self.distinct))
            if place == len(self.distinct):
                self.distinct.append(facts)
            self._by_id[id(facts)] = place
        return place
