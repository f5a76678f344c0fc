"""The sums of a closed ledger: what overlaps counts once, and a part belongs to its whole."""

from __future__ import annotations

import numpy as np
import pytest

from pcapdiag.findings.summary import covered_ns, roots_of, stalls_of
from tests.diagnoses import exchange, ledger, tables


@pytest.mark.parametrize(
    ("intervals", "covered"),
    [([], 0), ([(0, 5)], 5), ([(0, 5), (5, 9)], 9), ([(3, 9), (0, 5)], 9), ([(0, 9), (2, 4)], 9), ([(0, 2), (7, 8), (1, 3)], 4)],
)
def test_a_union_counts_every_moment_once(intervals: list[tuple[int, int]], covered: int) -> None:
    start_ns, end_ns = np.array(sorted(intervals), np.int64).reshape(-1, 2).T
    assert covered_ns(start_ns, end_ns) == covered


def test_a_part_of_a_part_belongs_to_the_whole() -> None:
    rows = exchange(0, 0, 3), exchange(1, 0, 1, part_of=0), exchange(2, 0, 0.5, part_of=1), exchange(3, 4, 5)
    assert roots_of(tables(rows)).tolist() == [0, 0, 0, 3]


def test_flight_time_is_no_stall() -> None:
    rows = (exchange(0, 0, 3),)
    closed = ledger(rows, (0, 1.0, 2.0, "tail-loss-rto"))
    assert [entry.label.code for entry in stalls_of(closed, 0)] == ["tail-loss-rto"]
