"""Temporary files without a name, and what is said when there is no room for them: the machine's fault, not the program's."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from tempfile import TemporaryFile, gettempdir
from typing import IO

from pcapdiag.errors import OutputError


def new_file(*, buffering: int = -1) -> IO[bytes]:
    """An empty file that is gone once it is closed.

    Raises:
        OutputError: no directory takes it, or too many files are open.
    """
    with refusals():
        return TemporaryFile(prefix="pcapdiag-", buffering=buffering)


def reserve(file: IO[bytes], size: int) -> None:
    """Makes a file so long, and takes the room for it at once: a map that finds none later ends the process (SIGBUS).

    Raises:
        OutputError: there is no such room.
    """
    with refusals():
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turns what the system says while such files are made, written or mapped into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(no_room(error)) from error


def no_room(error: OSError) -> str:
    """One line: why, where, and what helps."""
    if error.errno == errno.EMFILE:
        return f"temporary files cannot be opened ({error.strerror}): raise the limit (ulimit -n), or --memory"
    if error.errno == errno.ENOMEM:
        return f"temporary files cannot be mapped ({error.strerror}): raise the limit (ulimit -v)"
    try:
        place = gettempdir()
    except OSError:
        return "no directory takes temporary files: set TMPDIR to one with room, or raise --memory and use --jobs 1"
    return f"{place}: temporary files cannot be written ({error.strerror}): set TMPDIR to a directory with room, or raise --memory"
