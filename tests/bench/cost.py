"""What a program costs: wall time, processor time, and the most memory that it and all its children held at once."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import BenchError

ROOT: Final = Path(__file__).resolve().parents[2]
"""Programs start here, so that `python -m` finds this repository."""

_READ_LEN: Final = 1 << 20
_TOUCHED_LEN: Final = 2 << 30
"""What any program here takes, with its temporary files, of a capture of up to 5,000,000 packets."""
_PAUSE_S: Final = 0.02
_SHARE: Final = 5
"""A sample that took long is followed by a pause five times as long: to look at large processes is work for the kernel, too."""
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of one program."""

    wall_s: float
    cpu_s: float
    """User and system time of it and of all children that it waited for."""
    peak_len: int
    """Bytes of the largest sample of memory; 0 if none was taken."""


def warm(path: Path) -> None:
    """Reads a file, so that the next to read it finds it in memory: disks are not what is compared here.

    Free memory is used, too, and given back: the host of a virtual machine takes free pages away within seconds, and to get one again
    costs ten times what writing it does. Large runs would pay for that, small ones would not.
    """
    buffer = bytearray(_READ_LEN)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    with tempfile.TemporaryFile(buffering=0) as file, contextlib.suppress(OSError):  # no room: then they are as they are
        for _ in range(_TOUCHED_LEN // len(buffer)):
            file.write(buffer)


def measure(command: Sequence[str], *, limit_s: float, memory: bool = False) -> Cost:
    """Runs a program, its output thrown away; with `memory`, looks at its memory about fifty times a second.

    Raises:
        BenchError: it ended with an error, or not within `limit_s`.
    """
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        try:
            peak_len = _watch(process.pid, begin + limit_s, memory=memory)
        except BaseException:
            _kill(process)
            raise
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace").strip()[-500:]
            raise BenchError(f"{' '.join(command)[:200]}: exit {process.returncode}: {last}")
    return Cost(wall_s, used.ru_utime + used.ru_stime, peak_len)


def _watch(pid: int, end: float, *, memory: bool) -> int:
    """Waits until a child is done but does not reap it; gives the largest sample of its tree's memory."""
    peak_len, pause_s = 0, 0.0
    descriptor = os.pidfd_open(pid)
    try:
        done = select.poll()
        done.register(descriptor, select.POLLIN)
        while not done.poll(1e3 * (pause_s if memory else max(end - time.perf_counter(), 0.0))):
            if time.perf_counter() >= end:
                raise BenchError(f"process {pid} was stopped: it took too long")
            began = time.perf_counter()
            peak_len = max(peak_len, sum(map(pss_len, tree(pid))))
            pause_s = max(_PAUSE_S, _SHARE * (time.perf_counter() - began))
    finally:
        os.close(descriptor)
    return peak_len


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a program and what it started."""
    for pid in reversed(tree(process.pid)):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
    process.wait()


def tree(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    found = [pid]
    for parent in found:
        for task in (_PROC / str(parent) / "task").glob("*"):
            found += map(int, _read(task / "children").split())
    return found


def pss_len(pid: int) -> int:
    """Bytes of a process's proportional set: a page that n processes map counts an n-th, file pages like all others (proc(5)).

    Pages that programs outside the tree map, too, are in part theirs: of Python and NumPy, that is some 3 MiB less than alone.
    """
    for line in _read(_PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(file: Path) -> str:
    """What /proc says; nothing of a process that is gone."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
