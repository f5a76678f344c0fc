"""Array operations inside groups agree with loops over the groups."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.columns import NEVER
from pcapdiag.flows.segmented import (
    LOWEST,
    concatenated_ranges,
    group_starts,
    last_index_where,
    partition_by_direction,
    running_count,
    running_max,
    shifted,
)

VALUES = st.integers(-(2**43), 2**43) | st.just(LOWEST) | st.integers(LOWEST + 1, NEVER)
"""Offsets, nothing, and times: those of one capture may lie centuries apart."""
GROUPS = st.lists(st.lists(st.tuples(VALUES, st.booleans(), st.integers(0, 1)), min_size=1, max_size=6), max_size=6)
"""Per group: (a value, a mark, a direction)."""


def laid_out(groups: list[list[tuple[int, bool, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values, marks, directions and group starts, one group behind the other."""
    rows = [row for group in groups for row in group]
    first = [i == 0 for group in groups for i in range(len(group))]
    values, marks, directions = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(values, np.int64), np.array(marks, np.bool_), np.array(directions, np.int64), np.array(first, np.bool_)


@given(GROUPS)
def test_running_values_never_cross_the_edge_of_a_group(groups: list[list[tuple[int, bool, int]]]) -> None:
    values, marks, _, first = laid_out(groups)
    assert running_max(values, first).tolist() == [top for group in groups for top in accumulate((value for value, _, _ in group), max)]
    assert running_count(marks, first).tolist() == [n for group in groups for n in accumulate(int(mark) for _, mark, _ in group)]
    assert shifted(values, first, 7).tolist() == [v for group in groups for v in [7, *(value for value, _, _ in group)][:-1]]


@given(GROUPS)
def test_the_last_mark_is_looked_for_inside_the_group(groups: list[list[tuple[int, bool, int]]]) -> None:
    _, marks, _, first = laid_out(groups)
    expected, base = [], 0
    for group in groups:
        last = -1
        for place, (_, mark, _) in enumerate(group):
            last = base + place if mark else last
            expected.append(last)
        base += len(group)
    assert last_index_where(marks, first).tolist() == expected


@given(GROUPS)
def test_directions_are_parted_and_time_is_kept(groups: list[list[tuple[int, bool, int]]]) -> None:
    _, _, directions, first = laid_out(groups)
    begins = np.flatnonzero(first)
    order = partition_by_direction(directions, begins, np.diff(begins, append=len(first)))
    expected, base = [], 0
    for group in groups:
        for way in (0, 1):
            expected += [base + place for place, (_, _, direction) in enumerate(group) if direction == way]
        base += len(group)
    assert order.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=6))
def test_many_slices_are_one_array_of_rows(slices: list[tuple[int, int]]) -> None:
    begins, lengths = (np.array(column, np.int64) for column in (zip(*slices, strict=True) if slices else ((), ())))
    assert concatenated_ranges(begins, lengths).tolist() == [row for begin, length in slices for row in range(begin, begin + length)]


def test_equal_neighbours_form_a_group() -> None:
    assert group_starts(np.array([4, 4, 2, 4])).tolist() == [True, False, True, True]
    assert group_starts(np.empty(0, np.int64)).tolist() == []
