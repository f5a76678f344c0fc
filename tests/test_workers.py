"""Work spread over processes gives what one process gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from pcapdiag.workers import CAN_FORK, WorkerError, spread

needs_fork = pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("jobs", [1, 2, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_the_order_of_items_whatever_the_jobs(count: int, jobs: int, late: bool) -> None:
    items = list(range(count))
    assert list(spread(lambda item: item * item, items, jobs, late=late)) == [item * item for item in items]


@needs_fork
def test_who_is_done_takes_the_next_item() -> None:
    """The first item waits for the others, which the other process has to do meanwhile."""
    with TemporaryFile() as seen:

        def note(item: int) -> int:
            deadline = time.monotonic() + 20
            while item == 0 and os.fstat(seen.fileno()).st_size < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.write(seen.fileno(), b".")
            return os.getpid()

        pids = list(spread(note, range(4), 2))
    assert len(set(pids[1:])) == 1
    assert pids[0] != pids[1]


def divided(item: int) -> int:
    return 1 // item


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_is_raised_as_it_was(jobs: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(spread(divided, [1, 1, 0], jobs))


@needs_fork
def test_a_process_that_dies_is_an_error_and_not_a_short_answer() -> None:
    parent = os.getpid()

    def die(item: int) -> int:
        if os.getpid() != parent:
            os._exit(9)
        time.sleep(0.05)
        return item

    with pytest.raises(WorkerError, match="exit status 9"):
        list(spread(die, range(40), 2))


@needs_fork
def test_who_takes_only_the_first_result_leaves_no_process_behind() -> None:
    results = spread(lambda item: item, range(4), 4)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]  # a generator, which Iterator does not promise
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@needs_fork
def test_a_program_without_standard_streams_can_work_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert list(spread(str, range(4), 2)) == list("0123")


@needs_fork
def test_ctrl_c_during_a_fork_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ignores what is raised in the handlers that it runs around a fork."""
    fork, parent, made = os.fork, os.getpid(), []

    def interrupted() -> int:
        os.kill(parent, signal.SIGINT)
        made.append(fork())
        return made[-1]

    monkeypatch.setattr(os, "fork", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(spread(str, range(4), 2))
    with pytest.raises(ChildProcessError):
        os.waitpid(made[0], 0)


@needs_fork
def test_a_child_whose_parent_was_killed_takes_no_further_item(tmp_path: Path) -> None:
    """Each item leaves a mark; a program that is killed at the first one leaves few."""
    program = (
        "import os, pathlib, signal, sys, time\n"
        "from pcapdiag.workers import spread\n"
        "parent = os.getpid()\n"
        "def work(item):\n"
        "    if os.getpid() == parent: time.sleep(0.3); os.kill(parent, signal.SIGKILL)\n"
        "    time.sleep(0.05); pathlib.Path(sys.argv[1], str(item)).touch()\n"
        "list(spread(work, range(200), 2))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=30)
    time.sleep(0.3)
    count = len(list(tmp_path.iterdir()))
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) == count
