"""Work spread over forked processes: what the parent knows they know, only results travel.

No domain knowledge lives here.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NoReturn, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"
"""macOS has fork, but its system libraries do not survive it."""


class WorkerError(RuntimeError):
    """A worker process ended without its results."""


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[_Item], _Result], items: Sequence[_Item], weights: Sequence[int], jobs: int) -> Iterator[_Result]:
    """work(item) of every item, in the order of items, by at most `jobs` processes of which this one is the first.

    The results do not depend on `jobs`. Each process takes a contiguous run of items, so that theirs follow one another.

    Args:
        work: must not change anything that outlives it; its results are pickled.
        items: what to work on.
        weights: what each item costs, in any unit.
        jobs: how many processes.

    Raises:
        WorkerError: a process died; any exception of work is raised here as it was there.
    """
    runs = _runs(weights, min(jobs, len(items)) if CAN_FORK else 1)
    children = [_Child(work, items[run]) for run in runs[1:]]
    try:
        for item in items[runs[0]] if runs else ():
            yield work(item)
        for child in children:
            yield from child.results()
    finally:
        for child in children:
            child.close()


def _runs(weights: Sequence[int], count: int) -> list[slice]:
    """The items in that many contiguous runs of about equal weight; none of them empty."""
    total, runs, begin, done = sum(weights), list[slice](), 0, 0
    for index, weight in enumerate(weights):
        done += weight
        rest = len(weights) - index - 1
        if done * count >= total * (len(runs) + 1) or rest < count - len(runs):
            runs.append(slice(begin, index + 1))
            begin = index + 1
        if len(runs) == count - 1:
            break
    if begin < len(weights):
        runs.append(slice(begin, len(weights)))
    return runs


class _Child:
    """A forked process that works on its items and leaves what comes of them in a file without a name."""

    __slots__ = ("_count", "_pid", "_results")

    def __init__(self, work: Callable[[_Item], object], items: Sequence[_Item]) -> None:
        # A file, not a pipe: the parent is busy with its own items and could not empty one.
        self._results: BinaryIO = TemporaryFile(prefix="pcapdiag-")  # noqa: SIM115 - closed by close()
        self._count = len(items)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _serve(work, items, self._results)

    def results(self) -> Iterator[Any]:
        """What its items gave, one by one."""
        ended = self._ended()
        self._results.seek(0)
        for _ in range(self._count):
            try:
                good, result = pickle.load(self._results)  # noqa: S301 - written by our own fork
            except (EOFError, pickle.UnpicklingError) as error:
                raise WorkerError(f"a worker process ended early ({ended})") from error
            if not good:
                raise result
            yield result

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._ended()
        self._results.close()

    def _ended(self) -> str:
        pid, self._pid = self._pid, 0
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _serve(work: Callable[[_Item], object], items: Sequence[_Item], results: BinaryIO) -> NoReturn:
    """The life of a child: runs no exit handler of the parent."""
    status = 1
    try:
        for item in items:
            try:
                message: tuple[bool, object] = (True, work(item))
            except Exception as error:  # noqa: BLE001 - it is raised in the parent
                message = (False, error)
            pickle.dump(message, results, protocol=pickle.HIGHEST_PROTOCOL)
        results.flush()
        status = 0
    finally:
        os._exit(status)
