"""Work spread over forked processes: what the parent knows they know, only results travel.

No domain knowledge lives here.
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NoReturn, TypeVar

from pcapdiag.errors import OutputError
from pcapdiag.scratch import new_file, no_room

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"
"""macOS has fork, but its system libraries do not survive it."""


MOST_ITEMS = 1 << 14
"""Items that can be worked on: their numbers must fit into a pipe (64 KiB, pipe(7))."""
_INDEX_LEN = 4
_HEAD = struct.Struct("<IQ")
"""Before each result of a child: which item it is of, and its length."""
_POLL_S = 0.002
_NO_ROOM = 74
"""Exit status of a child whose results found no room (EX_IOERR)."""


class WorkerError(RuntimeError):
    """A worker process ended without its results."""


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int, *, late: bool = False) -> Iterator[_Result]:
    """work(item) of every item, in the order of items, by at most `jobs` processes of which this one is the first.

    Each process takes the next item when it is done with one. The results do not depend on `jobs`.

    Args:
        work: must not change anything that outlives it; its results are pickled.
        items: what to work on, MOST_ITEMS at most.
        jobs: how many processes.
        late: the caller keeps all results in memory: those of the other processes are fetched when these have ended and need none.

    Raises:
        WorkerError: a process died; any exception of work is raised here as it was there.
    """
    helpers = min(jobs, len(items)) - 1 if CAN_FORK and len(items) <= MOST_ITEMS else 0
    if helpers < 1:
        yield from map(work, items)
        return
    queue = _Queue(len(items))
    children: list[_Child] = []
    try:
        for _ in range(helpers):
            children.append(_Child(work, items, queue))  # noqa: PERF401 - those made already must be ended if one cannot be
        yield from _in_order(work, items, queue, children, late=late)
    finally:
        queue.close()
        for child in children:
            child.close()


def _in_order(
    work: Callable[[_Item], _Result], items: Sequence[_Item], queue: _Queue, children: Sequence[_Child], *, late: bool
) -> Iterator[_Result]:
    """Works beside the children, and gives each result as soon as all before it were given: few are held at once."""
    done: dict[int, _Result] = {}
    wanted = 0
    for index in queue:
        done[index] = work(items[index])
        while not late and (wanted in done or any(child.next == wanted for child in children)):
            yield done.pop(wanted) if wanted in done else _take(wanted, children)
            wanted += 1
    while wanted < len(items):
        alive = [child.is_alive() for child in children]
        if late and any(alive):
            time.sleep(_POLL_S)
            continue
        if wanted in done:
            yield done.pop(wanted)
        elif any(child.next == wanted for child in children):
            yield _take(wanted, children)
        elif any(child.status == -signal.SIGINT for child in children):
            raise KeyboardInterrupt  # a terminal tells all processes, and they may hear it first
        elif any(child.status == _NO_ROOM for child in children):
            raise OutputError(no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        elif not any(alive):
            raise WorkerError(f"a worker process ended early ({', '.join(child.ended for child in children)})")
        else:
            time.sleep(_POLL_S)
            continue
        wanted += 1


def _take(index: int, children: Sequence[_Child]) -> Any:  # noqa: ANN401 - what work gives
    return next(child for child in children if child.next == index).take()


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

    __slots__ = ("_at", "_pid", "_results", "ended", "status")

    def __init__(self, work: Callable[[_Item], object], items: Sequence[_Item], queue: _Queue) -> None:
        # A file, not a pipe: the parent is busy with its own items and could not empty one.
        self._results: IO[bytes] = new_file(buffering=0)  # closed by close()
        self._at = 0
        self.ended = ""
        """How it ended."""
        self.status = 0
        """Its exit status; below 0 the signal that ended it."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed when the program was started
                stream.flush()
        # Ctrl-C waits until this is over: during a fork Python would swallow it, and a child must not end as its parent does.
        parent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._pid = os.fork()
        if self._pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _serve(work, items, queue, self._results.fileno(), parent)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            self.close()
            raise

    @property
    def next(self) -> int:
        """The item whose result can be taken; -1 for none so far."""
        file = self._results.fileno()
        head = os.pread(file, _HEAD.size, self._at)
        if len(head) < _HEAD.size:
            return -1
        index, length = _HEAD.unpack(head)
        return int(index) if os.fstat(file).st_size >= self._at + _HEAD.size + length else -1

    def take(self) -> Any:  # noqa: ANN401 - what work gives
        """The result of item `next`."""
        file = self._results.fileno()
        _, length = _HEAD.unpack(os.pread(file, _HEAD.size, self._at))
        message = bytearray(length)
        got = 0
        while got < length:
            got += os.preadv(file, [memoryview(message)[got:]], self._at + _HEAD.size + got)
        self._at += _HEAD.size + length
        good, result = pickle.loads(message)  # noqa: S301 - written by our own fork
        if not good:
            raise result
        return result

    def is_alive(self) -> bool:
        """Whether it may still give results; asked before looking for them."""
        if self._pid:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                self.status = code = os.waitstatus_to_exitcode(status)
                self.ended = f"signal {-code}" if code < 0 else f"exit status {code}"
        return self._pid != 0

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._results.close()


def _serve(work: Callable[[_Item], object], items: Sequence[_Item], queue: _Queue, file: int, parent: int) -> NoReturn:
    """The life of a child: runs no exit handler of the parent, and does not work on when that was killed."""
    status = 1
    try:
        for index in queue:
            if os.getppid() != parent:
                break
            try:
                message: tuple[bool, object] = (True, work(items[index]))
            except Exception as error:  # noqa: BLE001 - it is raised in the parent
                message = (False, error)
            text = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
            status = _NO_ROOM
            _write(file, _HEAD.pack(index, len(text)))
            _write(file, text)
            status = 1
        status = 0
    finally:
        os._exit(status)


def _write(file: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(file, view) :]
