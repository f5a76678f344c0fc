"""The output of step 6: every exchange's wall time, cut into disjoint labelled intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, overload

import numpy as np

from pcapdiag.columns import I16, I32, I64, Bools, Col, Rows, Table, rows_between
from pcapdiag.stalls.sign import Label, Sign


@dataclass(frozen=True, slots=True)
class Entry:
    """[start_ns, end_ns) of one exchange (or, in call entries, of the time between attempts) with its label."""

    owner: int
    """Exchange id, or call id in Ledger.calls."""
    start_ns: int
    end_ns: int
    label: Label
    sign: Sign | None
    """The sign that won; None where the ledger decided by itself."""

    @property
    def duration_ns(self) -> int:
        """How long."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger(Table):
    """One row per entry, by exchange, then time; those of an exchange are adjacent and sum exactly to its wall time."""

    owner: Annotated[I32, Col("exchange id", of="exchange")]
    start_ns: Annotated[I64, Col("begin", "ns")]
    end_ns: Annotated[I64, Col("end, excluded", "ns")]
    label: Annotated[I16, Col("place in labels", of="label")]
    sign: Annotated[I32, Col("place in signs: the sign that won; -1 where the ledger decided by itself", of="sign")]
    labels: tuple[Label, ...]
    signs: tuple[Sign, ...]
    counted: Bools
    """Per exchange: its seconds count in sums, as it is part of no other."""
    trigger_ns: I64
    """Stall trigger of each exchange: an interval above it is a stall."""
    calls: tuple[Entry, ...] = ()
    """What lies between the attempts of calls."""

    @classmethod
    def of(
        cls, exchanges: Sequence[Sequence[Entry]], counted: Sequence[bool], trigger_ns: Sequence[int], calls: tuple[Entry, ...] = ()
    ) -> Ledger:
        """The ledger of entries per exchange, ascending; whether each exchange counts, and its stall trigger."""
        entries = [entry for mine in exchanges for entry in mine]
        labels = tuple(dict.fromkeys(entry.label for entry in entries))
        signs = {id(entry.sign): entry.sign for entry in entries if entry.sign is not None}
        place = {one: number for number, one in enumerate(signs)}
        return cls(
            owner=np.fromiter((entry.owner for entry in entries), np.int32, len(entries)),
            start_ns=np.fromiter((entry.start_ns for entry in entries), np.int64, len(entries)),
            end_ns=np.fromiter((entry.end_ns for entry in entries), np.int64, len(entries)),
            label=np.fromiter((labels.index(entry.label) for entry in entries), np.int16, len(entries)),
            sign=np.fromiter((place.get(id(entry.sign), -1) for entry in entries), np.int32, len(entries)),
            labels=labels, signs=tuple(signs.values()), counted=np.asarray(counted, np.bool_), trigger_ns=np.asarray(trigger_ns, np.int64),
            calls=calls,
        )  # fmt: skip

    def entry(self, row: int) -> Entry:
        """One row."""
        sign = int(self.sign[row])
        return Entry(
            int(self.owner[row]),
            int(self.start_ns[row]),
            int(self.end_ns[row]),
            self.labels[self.label[row]],
            None if sign < 0 else self.signs[sign],
        )

    @property
    def exchanges(self) -> Sequence[tuple[Entry, ...]]:
        """The entries of each exchange, by id; made when asked for."""
        return _ByExchange(self)

    @property
    def duration_ns(self) -> I64:
        """How long each entry is."""
        return self.end_ns - self.start_ns

    def labelled(self, *codes: str) -> Bools:
        """Which entries have one of these labels."""
        return self._of_label([label.code in codes for label in self.labels])

    def is_stall(self) -> Bools:
        """Which entries are longer than their exchange's stall trigger."""
        return self.duration_ns > self.trigger_ns[self.owner]

    def rows(self, code: str) -> Rows:
        """The counted entries with one label, by exchange, then time."""
        return np.flatnonzero(self.labelled(code) & self.counted[self.owner])

    def entries(self, code: str) -> Iterator[Entry]:
        """The same, as entries."""
        return map(self.entry, self.rows(code).tolist())

    def by_label_ns(self) -> dict[str, int]:
        """Exchange-nanoseconds per label over counted exchanges and calls; largest first, then by code."""
        sums: dict[str, int] = defaultdict(int)
        rows = np.flatnonzero(self.counted[self.owner])
        label, duration_ns = self.label[rows], self.duration_ns[rows]
        for number in np.unique(label).tolist():
            sums[self.labels[number].code] += int(duration_ns[label == number].sum())
        for entry in self.calls:
            sums[entry.label.code] += entry.duration_ns
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

    def _of_label(self, holds: list[bool]) -> Bools:
        found: Bools = np.array(holds, np.bool_)[self.label] if holds else np.zeros(len(self), np.bool_)
        return found


class _ByExchange(Sequence[tuple[Entry, ...]]):
    """The entries of a ledger by exchange."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __len__(self) -> int:
        return len(self._ledger.counted)

    @overload
    def __getitem__(self, index: int) -> tuple[Entry, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[Entry, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[Entry, ...] | tuple[tuple[Entry, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        number = range(len(self))[index]
        rows = rows_between(self._ledger.owner, number, number + 1)
        return tuple(map(self._ledger.entry, range(rows.start, rows.stop)))
