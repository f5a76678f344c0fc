"""Selective acknowledgements: which bytes a receiver named first, and when (RFC 2018, RFC 2883)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.pieces import key
from pcapdiag.flows.segmented import group_starts, running_max, shifted
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Sacked
from pcapdiag.packets.table import SackBlocks


def first_sacks(blocks: SackBlocks, entry: I64, sequence: Sequence, ack_number: I64, ts_ns: I64, segment: I64) -> Sacked:
    """First selective acknowledgement of each byte range, and all DSACKs.

    Args:
        blocks: SACK blocks as sent.
        entry: the entry in fd order that carries each block; -1 for none.
        sequence: offsets, in fd order.
        ack_number: the ACK field as sent, in fd order; a block lies within 2^31 of it.
        ts_ns: times, in fd order.
        segment: rows in Segments, in fd order.
    """
    usable = np.flatnonzero(entry >= 0)
    usable = usable[sequence.ack[entry[usable]] >= 0]
    entry = entry[usable]
    left, right = (sequence.ack[entry] + _signed(edge[usable].astype(np.int64) - ack_number[entry]) for edge in (blocks.left, blocks.right))
    good = (right > left) & (right - left < 1 << 30)
    entry, left, right, index = entry[good], left[good], right[good], blocks.index[usable][good]
    # A first block below the cumulative ACK, or inside the second block, reports a duplicate (RFC 2883 section 4).
    next_left, next_right = np.append(left[1:], [0]), np.append(right[1:], [0])
    same_option = np.append(entry[1:] == entry[:-1], [False])
    inside = same_option & (left >= next_left) & (right <= next_right)
    duplicate = (index == 0) & ((right <= sequence.ack[entry]) | inside)
    fd = sequence.fd[entry] ^ 1
    fresh = _first_named(fd[~duplicate], left[~duplicate], right[~duplicate], entry[~duplicate])
    again = fd[duplicate], left[duplicate], right[duplicate], entry[duplicate]
    fds, starts, stops, ats = (np.concatenate(columns) for columns in zip(fresh, again, strict=True))
    is_again = np.arange(len(fds)) >= len(fresh[0])
    order = np.lexsort((ats, key(fds, starts)))
    ats = ats[order]
    return Sacked(fd=fds[order], start=starts[order], stop=stops[order], segment=segment[ats], ts_ns=ts_ns[ats], duplicate=is_again[order])


_Ranges = tuple[I64, I64, I64, I64]
"""fd, start, stop, entry."""


def _first_named(fd: I64, left: I64, right: I64, entry: I64) -> _Ranges:
    """The parts of the blocks that no earlier one (a lower entry of the same fd) had named.

    Nearly every block repeats one before it or makes it longer: those are cut by arrays. Only where what is left still
    overlaps (blocks that grew together) are the parts found one by one.
    """
    order = np.lexsort((entry, key(fd, left)))
    fd, left, right, entry = fd[order], left[order], right[order], entry[order]
    reach = shifted(running_max(right, group_starts(key(fd, left))), group_starts(key(fd, left)))
    start = np.maximum(left, reach)
    grown = np.flatnonzero(right > start)
    fd, start, right, entry = fd[grown], start[grown], right[grown], entry[grown]
    order = np.lexsort((entry, key(fd, start)))
    fd, start, right, entry = fd[order], start[order], right[order], entry[order]
    alone = start >= shifted(running_max(right, group_starts(fd)), group_starts(fd))
    clusters = np.flatnonzero(alone)
    sizes = np.diff(clusters, append=len(fd))
    single = clusters[sizes == 1]
    parts = [part for begin, size in zip(clusters[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True)
             for part in _untangled(fd, start, right, entry, slice(begin, begin + size))]  # fmt: skip
    rest = np.array(parts, np.int64).reshape(-1, 4).T
    return (
        np.concatenate([fd[single], rest[0]]),
        np.concatenate([start[single], rest[1]]),
        np.concatenate([right[single], rest[2]]),
        np.concatenate([entry[single], rest[3]]),
    )


def _untangled(fd: I64, start: I64, stop: I64, entry: I64, rows: slice) -> list[tuple[int, int, int, int]]:
    """Overlapping ranges of one fd as disjoint ones, each with the first entry that named it."""
    cover = _Cover()
    mine = sorted(zip(entry[rows].tolist(), start[rows].tolist(), stop[rows].tolist(), strict=True))
    return [(int(fd[rows.start]), c, d, at) for at, a, b in mine for c, d in cover.add(a, b)]


def _signed(difference: I64) -> I64:
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class _Cover:
    """A set of disjoint ascending ranges."""

    __slots__ = ("starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []

    def add(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Adds [start, stop) and gives the parts that were not in the set."""
        low, high = bisect_left(self.stops, start), bisect_right(self.starts, stop)
        fresh, at = [], start
        for a, b in zip(self.starts[low:high], self.stops[low:high], strict=True):
            if at < a:
                fresh.append((at, min(a, stop)))
            at = max(at, b)
        if at < stop:
            fresh.append((at, stop))
        if low < high:
            start, stop = min(start, self.starts[low]), max(stop, self.stops[high - 1])
        self.starts[low:high], self.stops[low:high] = [start], [stop]
        return fresh
