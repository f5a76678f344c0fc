"""Intervals of exchanges: a finding may own a hundred thousand of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.columns import I32, I64, Bools, Rows

Interval = tuple[int, int, int]
"""(exchange id, start_ns, end_ns)."""


class Intervals(Sequence[Interval]):
    """A sequence of intervals, kept in columns."""

    __slots__ = ("end_ns", "exchange", "start_ns")

    def __init__(self, rows: Iterable[Interval] = ()) -> None:
        """Takes them one by one."""
        table = np.array(rows if isinstance(rows, (tuple, list)) else list(rows), np.int64).reshape(-1, 3)
        self.exchange, self.start_ns, self.end_ns = (np.ascontiguousarray(column) for column in table.T)

    @classmethod
    def of_columns(cls, exchange: I32 | I64, start_ns: I64, end_ns: I64) -> Intervals:
        """Takes columns of one length."""
        made = cls()
        made.exchange, made.start_ns, made.end_ns = (column.astype(np.int64) for column in (exchange, start_ns, end_ns))
        return made

    @classmethod
    def of(cls, rows: Sequence[Interval]) -> Intervals:
        """The same intervals in columns."""
        return rows if isinstance(rows, cls) else cls(rows)

    @property
    def duration_ns(self) -> I64:
        """How long each is."""
        return self.end_ns - self.start_ns

    def where(self, mask: Bools | Rows) -> Intervals:
        """Those for which a mask holds, or at these places."""
        return Intervals.of_columns(self.exchange[mask], self.start_ns[mask], self.end_ns[mask])

    def __len__(self) -> int:
        return len(self.exchange)

    @overload
    def __getitem__(self, index: int) -> Interval: ...
    @overload
    def __getitem__(self, index: slice) -> Intervals: ...
    def __getitem__(self, index: int | slice) -> Interval | Intervals:
        if isinstance(index, slice):
            return Intervals.of_columns(self.exchange[index], self.start_ns[index], self.end_ns[index])
        return int(self.exchange[index]), int(self.start_ns[index]), int(self.end_ns[index])

    def __iter__(self) -> Iterator[Interval]:
        return zip(self.exchange.tolist(), self.start_ns.tolist(), self.end_ns.tolist(), strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __lt__(self, other: Intervals) -> bool:
        """Tuples of the same intervals would be ordered in the same way."""
        length = min(len(self), len(other))
        differ = np.zeros(length, np.bool_)
        for mine, theirs in ((self.exchange, other.exchange), (self.start_ns, other.start_ns), (self.end_ns, other.end_ns)):
            differ |= mine[:length] != theirs[:length]
        at = int(np.argmax(differ)) if differ.any() else length
        return at < len(other) and (at >= len(self) or self[at] < other[at])

    def __repr__(self) -> str:
        return f"Intervals({list(self)!r})"


def joined(parts: Iterable[Intervals]) -> Intervals:
    """All intervals of several, each once, ascending."""
    columns = [(part.exchange, part.start_ns, part.end_ns) for part in parts]
    exchange, start_ns, end_ns = (np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*columns, strict=True))
    order = np.lexsort((end_ns, start_ns, exchange))
    exchange, start_ns, end_ns = exchange[order], start_ns[order], end_ns[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (exchange[1:] != exchange[:-1]) | (start_ns[1:] != start_ns[:-1]) | (end_ns[1:] != end_ns[:-1])
    return Intervals.of_columns(exchange[new], start_ns[new], end_ns[new])
