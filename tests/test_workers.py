"""Work spread over processes gives what one process gives."""

from __future__ import annotations

import os

import pytest

from pcapdiag.workers import CAN_FORK, WorkerError, spread

needs_fork = pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")


@pytest.mark.parametrize("jobs", [1, 2, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_the_order_of_items_whatever_the_jobs(count: int, jobs: int) -> None:
    items = list(range(count))
    assert list(spread(lambda item: item * item, items, [1 + item for item in items], jobs)) == [item * item for item in items]


@needs_fork
def test_the_work_is_shared() -> None:
    pids = list(spread(lambda _: os.getpid(), range(4), [1, 1, 1, 1], 2))
    assert pids[0] == pids[1] == os.getpid()
    assert pids[2] == pids[3] != os.getpid()


@needs_fork
def test_a_heavy_item_leaves_the_others_to_the_other_process() -> None:
    pids = list(spread(lambda _: os.getpid(), range(4), [9, 1, 1, 1], 2))
    assert pids[0] == os.getpid()
    assert len(set(pids[1:])) == 1
    assert os.getpid() not in pids[1:]


def divided(item: int) -> int:
    return 1 // item


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_is_raised_as_it_was(jobs: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(spread(divided, [1, 1, 0], [1, 1, 1], jobs))


@needs_fork
def test_a_process_that_dies_is_an_error_and_not_a_short_answer() -> None:
    parent = os.getpid()

    def die(item: int) -> int:
        if os.getpid() != parent:
            os._exit(9)
        return item

    with pytest.raises(WorkerError, match="exit status 9"):
        list(spread(die, [1, 2], [1, 1], 2))


@needs_fork
def test_who_takes_only_the_first_result_leaves_no_process_behind() -> None:
    results = spread(lambda item: item, range(4), [1, 1, 1, 1], 4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]  # a generator, which Iterator does not promise
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
