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


_INDEX_LEN = 4


class WorkerError(RuntimeError):
    """A worker process ended without its results."""


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[_Result]:
    """work(item) of every item, in the order of items, by at most `jobs` processes of which this one is the first.

    Each process takes the next item when it is done with one. The results do not depend on `jobs`.

    Args:
        work: must not change anything that outlives it; its results are pickled.
        items: what to work on, a few thousand at most.
        jobs: how many processes.

    Raises:
        WorkerError: a process died; any exception of work is raised here as it was there.
    """
    helpers = min(jobs, len(items)) - 1 if CAN_FORK else 0
    if helpers < 1:
        yield from map(work, items)
        return
    queue = _Queue(len(items))
    children = [_Child(work, items, queue) for _ in range(helpers)]
    try:
        done = {index: work(items[index]) for index in queue}
        for child in children:
            child.wait()
        for index in range(len(items)):
            if index in done:
                yield done.pop(index)
            else:
                yield next(child for child in children if child.next == index).take()
    finally:
        queue.close()
        for child in children:
            child.close()


class _Queue:
    """The numbers of items that nobody has taken yet, in a pipe that all processes read."""

    __slots__ = ("_reading",)

    def __init__(self, count: int) -> None:
        self._reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            for index in range(count):
                pipe.write(index.to_bytes(_INDEX_LEN, "little"))

    def __iter__(self) -> Iterator[int]:
        while index := os.read(self._reading, _INDEX_LEN):  # so few bytes are read at once or not at all
            yield int.from_bytes(index, "little")

    def close(self) -> None:
        os.close(self._reading)


class _Child:
    """A forked process that works on items and leaves what comes of them in a file without a name."""

    __slots__ = ("_pid", "_results", "next")

    def __init__(self, work: Callable[[_Item], object], items: Sequence[_Item], queue: _Queue) -> None:
        # A file, not a pipe: the parent is busy with its own items and could not empty one.
        self._results: BinaryIO = TemporaryFile(prefix="pcapdiag-")  # noqa: SIM115 - closed by close()
        self.next = -1
        """The item whose result is the next in the file; -1 behind the last one."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _serve(work, items, queue, self._results)

    def wait(self) -> None:
        """Waits for its end; then its results can be taken."""
        pid, self._pid = self._pid, 0
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            raise WorkerError(f"a worker process ended early ({f'signal {-code}' if code < 0 else f'exit status {code}'})")
        self._results.seek(0)
        self._advance()

    def take(self) -> Any:  # noqa: ANN401 - what work gives
        """The next result."""
        good, result = pickle.load(self._results)  # noqa: S301 - written by our own fork
        if not good:
            raise result
        self._advance()
        return result

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._results.close()

    def _advance(self) -> None:
        index = self._results.read(_INDEX_LEN)
        self.next = int.from_bytes(index, "little") if index else -1


def _serve(work: Callable[[_Item], object], items: Sequence[_Item], queue: _Queue, results: BinaryIO) -> NoReturn:
    """The life of a child: runs no exit handler of the parent."""
    status = 1
    try:
        for index in queue:
            try:
                message: tuple[bool, object] = (True, work(items[index]))
            except Exception as error:  # noqa: BLE001 - it is raised in the parent
                message = (False, error)
            results.write(index.to_bytes(_INDEX_LEN, "little"))
            pickle.dump(message, results, protocol=pickle.HIGHEST_PROTOCOL)
        results.flush()
        status = 0
    finally:
        os._exit(status)
