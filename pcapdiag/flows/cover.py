"""Ranges on one line (see pieces.key), named one after the other: who named which byte first, and how many named it before."""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.segmented import group_starts, running_max, shifted


def first_cover(start: I64, stop: I64, entry: I64) -> tuple[I64, I64, I64]:
    """The parts of ranges [start, stop) that none of a lower entry covers, as (start, stop, entry), ascending.

    Nearly every range stands alone, repeats one before it or makes it longer: those are cut by arrays. Only where what is
    left still overlaps (ranges that grew together) are the parts found one by one.
    """
    order = np.lexsort((entry, start))
    start, length, entry = start[order], (stop - start)[order], entry[order]
    same = group_starts(start)
    reach = np.maximum(shifted(running_max(length, same), same, 0), 0)
    grown = np.flatnonzero(length > reach)
    start, stop, entry = (start + reach)[grown], (start + length)[grown], entry[grown]
    order = np.lexsort((entry, start))
    start, stop, entry = start[order], stop[order], entry[order]
    alone = np.ones(len(start), np.bool_)
    alone[1:] = start[1:] >= np.maximum.accumulate(stop)[:-1]
    clusters = np.flatnonzero(alone)
    sizes = np.diff(clusters, append=len(start))
    tangled = sizes > 1
    if not tangled.any():
        return start, stop, entry
    parts = [
        part
        for begin, size in zip(clusters[tangled].tolist(), sizes[tangled].tolist(), strict=True)
        for part in _untangled(*(column[begin : begin + size].tolist() for column in (start, stop, entry)))
    ]
    single = clusters[~tangled]
    rest = np.array(parts, np.int64).reshape(-1, 3).T
    columns = [np.concatenate([column[single], more]) for column, more in zip((start, stop, entry), rest, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return columns[0][order], columns[1][order], columns[2][order]


def _untangled(starts: list[int], stops: list[int], entries: list[int]) -> list[tuple[int, int, int]]:
    """One cluster of overlapping ranges, ascending by start: a sweep along the line, the lowest entry on top of a heap."""
    parts: list[tuple[int, int, int]] = []
    covering: list[tuple[int, int]] = []
    at, following = starts[0], 0
    while following < len(starts) or covering:
        while following < len(starts) and starts[following] <= at:
            heappush(covering, (entries[following], stops[following]))
            following += 1
        while covering and covering[0][1] <= at:
            heappop(covering)
        if not covering:
            continue
        entry, stop = covering[0]
        end = min(stop, starts[following]) if following < len(starts) else stop
        if parts and parts[-1][1] == at and parts[-1][2] == entry:
            parts[-1] = (parts[-1][0], end, entry)
        else:
            parts.append((at, end, entry))
        at = end
    return parts


def earlier_at_most(values: I64, limits: I64) -> I64:
    """For each place i: how many of values[:i] are at most limits[i].

    A wavelet matrix over the ranks of the values: one stable partition for each bit of the ranks answers all places at once.
    """
    count = len(values)
    by_value = np.argsort(values, kind="stable")
    rank = np.empty(count, np.int64)
    rank[by_value] = np.arange(count)
    below = np.searchsorted(values[by_value], limits, side="right")
    begin, end, result = np.zeros(count, np.int64), np.arange(count), np.zeros(count, np.int64)
    for bit in range(count.bit_length() - 1, -1, -1):
        is_zero = (rank >> bit) & 1 == 0
        zeros = np.concatenate([[0], np.cumsum(is_zero)])
        before, within = zeros[begin], zeros[end]
        up = (below >> bit) & 1 == 1
        result += np.where(up, within - before, 0)
        begin = np.where(up, zeros[-1] + begin - before, before)
        end = np.where(up, zeros[-1] + end - within, within)
        rank = np.concatenate([rank[is_zero], rank[~is_zero]])
    return result
