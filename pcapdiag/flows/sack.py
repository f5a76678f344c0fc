"""Selective acknowledgements: which bytes a receiver named first, and when (RFC 2018, RFC 2883)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.pieces import key
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Sacked
from pcapdiag.packets.table import SackBlocks


def first_sacks(blocks: SackBlocks, entry_of_row: I64, sequence: Sequence, ack_number: I64, ts_ns: I64, segment: I64) -> Sacked:
    """First selective acknowledgement of each byte range, and all DSACKs.

    Args:
        blocks: SACK blocks as sent.
        entry_of_row: entry in fd order of each row of Packets; -1 for none.
        sequence: offsets, in fd order.
        ack_number: the ACK field as sent, in fd order; a block lies within 2^31 of it.
        ts_ns: times, in fd order.
        segment: rows in Segments, in fd order.
    """
    entry = entry_of_row[blocks.row]
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
    order = np.lexsort((index, entry))
    rows: list[tuple[int, int, int, int, bool]] = []
    current, cover = -1, _Cover()
    for at, a, b, is_duplicate in zip(
        entry[order].tolist(), left[order].tolist(), right[order].tolist(), duplicate[order].tolist(), strict=True
    ):
        fd = int(sequence.fd[at]) ^ 1
        if fd != current:
            current, cover = fd, _Cover()
        if is_duplicate:
            rows.append((fd, a, b, at, True))
        else:
            rows += [(fd, c, d, at, False) for c, d in cover.add(a, b)]
    if not rows:
        return Sacked.empty()
    fds, starts, stops, ats, duplicates = (np.array(column) for column in zip(*rows, strict=True))
    by_offset = np.argsort(key(fds, starts), kind="stable")
    ats = ats[by_offset]
    return Sacked(
        fd=fds[by_offset], start=starts[by_offset], stop=stops[by_offset], segment=segment[ats], ts_ns=ts_ns[ats],
        duplicate=duplicates[by_offset].astype(np.bool_),
    )  # fmt: skip


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
