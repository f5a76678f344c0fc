"""Array operations inside groups: running maxima, forward fills and orders that never cross a group's edge."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64, Bools, Rows

LOWEST = np.iinfo(np.int64).min // 4
"""Below every stream offset and time; still safe to subtract from."""
_MOST = np.iinfo(np.int64).max // 4


def group_starts(groups: I64) -> Bools:
    """True where a group begins; equal neighbours form a group."""
    first = np.ones(len(groups), np.bool_)
    np.not_equal(groups[1:], groups[:-1], out=first[1:])
    return first


def running_max(values: I64, first: Bools) -> I64:
    """The maximum of all values of the group up to and including each row; LOWEST stands for "no value"."""
    if not len(values):
        return values
    # As unsigned numbers LOWEST - (LOWEST + 1) is the largest of all: the least of the others is found without a mask.
    low = int((values - (LOWEST + 1)).view(np.uint64).min()) + LOWEST + 1
    high = int(values.max())
    if high == LOWEST:
        return values.copy()
    # Each group lives in its own band of numbers, so one maximum.accumulate serves all; 0 in a band is "none yet".
    if (high - low + 2) * (int(np.count_nonzero(first)) + 1) > _MOST:  # bands too wide: places in the order of values take less
        known, place = np.unique(values, return_inverse=True)
        return known[running_max(place, first)]
    band = np.cumsum(first, dtype=np.int64) * (high - low + 2)
    result = np.maximum(values, low - 1)
    result += band
    np.maximum.accumulate(result, out=result)
    result -= band
    result[result < low] = LOWEST
    return result


def running_count(mask: Bools, first: Bools) -> I64:
    """How many rows of the group up to and including each one the mask holds for."""
    count: I64 = np.cumsum(mask)
    return count - np.maximum.accumulate(np.where(first, count - mask, 0))


def shifted(values: I64, first: Bools, fill: int = LOWEST) -> I64:
    """The value of the row before, inside the group; `fill` at its first row."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[first] = fill
    return before


def last_index_where(mask: Bools, first: Bools) -> I64:
    """Index of the last row up to and including each one where mask holds, inside the group; -1 for none."""
    index = np.where(mask, np.arange(len(mask)), -1)
    np.maximum.accumulate(index, out=index)
    group_begin = np.maximum.accumulate(np.where(first, np.arange(len(mask)), 0))
    return np.where(index >= group_begin, index, -1)


def concatenated_ranges(begins: I64, lengths: I64) -> I64:
    """begins[0], begins[0]+1, ... lengths[0] of them, then begins[1], ...: the rows of many slices, one behind the other."""
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    rows: I64 = np.arange(total) + np.repeat(begins - (ends - lengths), lengths)
    return rows


def partition_by_direction(direction: I64, begins: I64, lengths: I64) -> Rows:
    """The order that puts, inside each slice, rows of direction 0 before those of direction 1 and keeps time otherwise."""
    is_zero = direction == 0
    zeros_before = np.cumsum(is_zero) - is_zero
    base = np.repeat(zeros_before[begins] if len(begins) else begins, lengths)
    zeros_in = np.add.reduceat(is_zero.astype(np.int64), begins) if len(begins) else begins
    rank_zero = zeros_before - base
    position = np.arange(len(direction)) - np.repeat(begins, lengths)
    target = np.repeat(begins, lengths) + np.where(is_zero, rank_zero, np.repeat(zeros_in, lengths) + position - rank_zero)
    order = np.empty(len(direction), np.intp)
    order[target] = np.arange(len(direction))
    return order
