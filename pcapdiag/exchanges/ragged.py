"""Lists of numbers of different lengths, one per row of a table, kept in two arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.segmented import concatenated_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """The list of row i is values[begin[i] : begin[i + 1]]; a value is a number, or a row of `width` numbers."""

    begin: I64
    """Row count + 1 positions, ascending from 0."""
    values: I64

    @classmethod
    def of(cls, lists: Sequence[Sequence[Any] | I64], *, width: int = 1) -> Self:
        """The lists one behind the other; `width` 2 or more: their items are tuples of so many numbers."""
        begin = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=begin[1:])
        items = chain.from_iterable(lists)
        if width == 1:
            return cls(begin, np.fromiter(items, np.int64, int(begin[-1])))
        return cls(begin, np.fromiter(chain.from_iterable(items), np.int64, int(begin[-1]) * width).reshape(-1, width))

    @classmethod
    def empty(cls, rows: int, *, width: int = 1) -> Self:
        """So many lists without anything in them."""
        return cls(np.zeros(rows + 1, np.int64), np.empty(0 if width == 1 else (0, width), np.int64))

    def __len__(self) -> int:
        return len(self.begin) - 1

    def __getitem__(self, row: int) -> I64:
        """The list of one row."""
        found: I64 = self.values[self.begin[row] : self.begin[row + 1]]
        return found

    @property
    def width(self) -> int:
        """How many numbers a value is."""
        return 1 if self.values.ndim == 1 else int(self.values.shape[1])

    @property
    def counts(self) -> I64:
        """How long each list is."""
        counts: I64 = np.diff(self.begin)
        return counts

    def counts_of(self, rows: npt.NDArray[np.integer[Any]]) -> I64:
        """How long the lists of some rows are."""
        counts: I64 = self.begin[rows + 1] - self.begin[rows]
        return counts

    def lengths(self) -> I64:
        """What each list of [start, stop) covers together."""
        covered: I64 = np.concatenate([[0], np.cumsum(self.values[:, 1] - self.values[:, 0])])
        return np.diff(covered[self.begin])

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Ragged:
        """The lists of the given rows, in their order."""
        counts = self.counts_of(rows)
        begin = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=begin[1:])
        return Ragged(begin, self.values[concatenated_ranges(self.begin[rows], counts)])
