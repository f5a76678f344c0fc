"""Exchanges of which times are still to be looked up, in the columns of their table; equal texts and facts are kept once."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import Ending
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.table import CODES, ENDS, KEYS, Exchanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from pcapdiag.columns import I64, U8, Bools
    from pcapdiag.exchanges.draft import Draft, Fact

ENDINGS: Final[Mapping[Ending, int]] = {ending: code for code, ending in enumerate(Ending)}
"""How `Drafted.ending` spells what ends an exchange."""
ENDING_OF: Final = tuple(Ending)
"""The same, the other way."""
CUT_LEN: Final = 3
"""Numbers of a cut: direction, offset of the last byte of the frame that cuts, code of the outcome."""

_PLAIN: Final = {
    "flow": np.int32, "inferred": np.bool_, "h2_stream": np.int32, "start_ns": np.int64, "request_start_ns": np.int64,
    "request_end_ns": np.int64, "request_in_order_ns": np.int64, "request_acked_ns": np.int64, "first_byte_ns": np.int64,
    "end_ns": np.int64, "request_len": np.int64, "response_len": np.int64,
}  # fmt: skip
"""Fields that are columns as they are."""

_BY: Final[Mapping[str | None, int]] = {None: -1, ENDS[0]: 0, ENDS[1]: 1}


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """Exchanges before their bytes have times."""

    exchanges: Exchanges
    """Times are NEVER unless they are given; nothing is part of anything."""
    ending: U8
    """See ENDINGS."""
    cuts: Ragged
    """CUT_LEN numbers each: see draft.Cut."""

    def take(self, rows: I64 | Bools) -> Drafted:
        """These rows, in their order."""
        return Drafted(self.exchanges.take(rows), self.ending[rows], self.cuts.take(np.arange(len(self.ending))[rows]))


def gather(drafts: Sequence[Draft]) -> Drafted:
    """The columns of drafts."""
    texts: dict[str, int] = {}
    facts = FactTable()
    plain = {name: _column(map(attrgetter(name), drafts), len(drafts), dtype) for name, dtype in _PLAIN.items()}
    count = len(drafts)
    table = Exchanges(
        protocol=_column((CODES[draft.protocol] for draft in drafts), count, np.uint8),
        name=_column((texts.setdefault(draft.name, len(texts)) for draft in drafts), count, np.int32),
        keys=_column((KEYS.index(draft.keys) for draft in drafts), count, np.uint8),
        part_of=np.full(count, -1, np.int32),
        status=_column((-1 if draft.status is None else texts.setdefault(draft.status, len(texts)) for draft in drafts), count, np.int32),
        outcome=_column((CODES[draft.outcome] for draft in drafts), count, np.uint8),
        aborted_by=_column((_BY[draft.aborted_by] for draft in drafts), count, np.int8),
        deadline_ns=_column((deadline_code(draft.deadline_ns) for draft in drafts), count, np.int64),
        attempt=_column((-1 if draft.attempt is None else draft.attempt for draft in drafts), count, np.int32),
        fact=_column((facts.place(draft.facts) for draft in drafts), count, np.int32),
        request=Ragged.of([draft.request for draft in drafts], width=2),
        response=Ragged.of([draft.response for draft in drafts], width=2),
        messages=Ragged.of([draft.messages for draft in drafts]),
        setup=Ragged.empty(count),
        tries=Ragged.of([draft.tries for draft in drafts]),
        frames=Ragged.of([draft.frames for draft in drafts], width=2),
        texts=tuple(texts), facts=facts.distinct(), **plain,
    )  # fmt: skip
    ending = _column((ENDINGS[draft.ending] for draft in drafts), count, np.uint8)
    cuts = [[(cut.fd, cut.offset, CODES[cut.outcome]) for cut in draft.cuts] if draft.cuts else () for draft in drafts]
    return Drafted(table, ending, Ragged.of(cuts, width=CUT_LEN))


def deadline_code(deadline_ns: int | None) -> int:
    """How the column spells a deadline."""
    return -1 if deadline_ns is None else min(deadline_ns, NEVER)


def _column(values: Iterable[Any], count: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.fromiter(values, dtype, count)


class FactTable:
    """Distinct facts; requests of one client mostly say the same."""

    def __init__(self) -> None:
        self._distinct: list[Mapping[str, Fact]] = []
        self._by_content: dict[tuple[object, ...], int] = {}
        self._by_id: dict[int, int] = {}

    def place(self, facts: Mapping[str, Fact]) -> int:
        """Where these facts, or equal ones, are kept; the caller keeps them alive."""
        place = self._by_id.get(id(facts))
        if place is None:
            place = self._by_id[id(facts)] = self.place_of(facts)
        return place

    def place_of(self, facts: Mapping[str, Fact]) -> int:
        """The same, of facts that may go away."""
        content = (*facts.items(), *map(type, facts.values()))  # True is no 1 in a report
        place = self._by_content.setdefault(content, len(self._distinct))
        if place == len(self._distinct):
            self._distinct.append(facts)
        return place

    def distinct(self) -> tuple[Mapping[str, Fact], ...]:
        """All of them, by place."""
        return tuple(self._distinct)
