"""The output of step 6: every exchange's wall time, cut into disjoint labelled intervals."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries per exchange: ascending, adjacent, summing exactly to its wall time."""

    exchanges: tuple[tuple[Entry, ...], ...]
    """Index = exchange id."""
    counted: frozenset[int]
    """Exchanges whose seconds count in sums: those that are part of no other."""
    trigger_ns: tuple[int, ...]
    """Stall trigger of each exchange: an interval above it is a stall."""
    calls: tuple[Entry, ...] = ()
    """What lies between the attempts of calls."""

    def entries(self, code: str) -> Iterator[Entry]:
        """The counted entries with one label, by exchange, then time."""
        return (entry for exchange in sorted(self.counted) for entry in self.exchanges[exchange] if entry.label.code == code)

    def by_label_ns(self) -> dict[str, int]:
        """Exchange-nanoseconds per label over counted exchanges and calls; largest first, then by code."""
        sums: dict[str, int] = defaultdict(int)
        for exchange in self.counted:
            for entry in self.exchanges[exchange]:
                sums[entry.label.code] += entry.duration_ns
        for entry in self.calls:
            sums[entry.label.code] += entry.duration_ns
        return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))
