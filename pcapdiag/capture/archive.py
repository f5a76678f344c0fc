"""The files in a tar archive, compressed or not, each as a part of an open file: where they lie, or of the spool.

Nothing is unpacked under a name of its own. An archive that can be read at any place is read where it lies; of others
(compressed ones, pipes) the files that may be of use are copied to one nameless temporary file, within a bound.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Final

from pcapdiag.capture.source import Extent, Source
from pcapdiag.capture.tar import BLOCK_LEN, TarReader
from pcapdiag.errors import CaptureError, OutputError
from pcapdiag.scratch import new_file

MAX_DEPTH: Final = 4
"""Archives within archives that are opened."""
MAX_SPOOL_BYTES: Final = 64 << 30
_CHUNK_LEN: Final = 1 << 20


class Spool:
    """A temporary file without a name, for what cannot be read where it lies."""

    def __init__(self, limit: int = MAX_SPOOL_BYTES) -> None:
        self._limit = limit
        self._file: IO[bytes] | None = None
        self._end = 0

    def add(self, chunks: Iterator[bytes], label: str) -> Extent:
        """Copies bytes to the end of the file; `label` names them in messages."""
        if self._file is None:
            try:
                self._file = new_file(buffering=0)
            except OutputError as error:
                raise CaptureError(f"{label}: cannot be unpacked: {error}") from error
        start = self._end
        for chunk in chunks:
            if self._end + len(chunk) > self._limit:
                raise CaptureError(
                    f"{label}: unpacked, the archive takes more than {self._limit >> 30} GiB: unpack it and name the directory"
                )
            try:
                written = os.pwrite(self._file.fileno(), chunk, self._end)
            except OSError as error:
                raise CaptureError(f"{label}: cannot be unpacked into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR") from error
            if written < len(chunk):
                raise CaptureError(f"{label}: cannot be unpacked into {tempfile.gettempdir()} (it is full): set TMPDIR")
            self._end += len(chunk)
        return Extent(self._file, start, self._end - start)

    def drop(self, extent: Extent) -> None:
        """Gives back the room of what was added last, if nobody needs it."""
        if self._file is not None and extent.file is self._file and extent.start + extent.length == self._end:
            self._end = extent.start
            os.ftruncate(self._file.fileno(), self._end)

    def close(self) -> None:
        """Gives back all of it."""
        if self._file is not None:
            self._file.close()


class _Place:
    """An archive that can be read anywhere."""

    def __init__(self, place: tuple[IO[bytes], int, int]) -> None:
        self.file, self._start, self._length = place
        self._at = 0

    def read(self, length: int) -> bytes:
        """The next bytes."""
        data = os.pread(self.file.fileno(), min(length, self._length - self._at), self._start + self._at)
        self._at += len(data)
        return data

    def skip(self, length: int) -> bool:
        """Passes over bytes."""
        self._at += min(length, self._length - self._at)
        return length == 0 or self._at < self._length

    def extent(self, length: int) -> Extent:
        """The next bytes, as far as there are any, without reading them."""
        return Extent(self.file, self._start + self._at, min(length, self._length - self._at))


class _Stream:
    """An archive that can be read once, from its begin."""

    def __init__(self, source: Source) -> None:
        self._source, self._head = source, source.head

    def read(self, length: int) -> bytes:
        """The next bytes."""
        data, self._head = self._head[:length], self._head[length:]
        return data if len(data) == length else data + self._source.read(length - len(data))

    def skip(self, length: int) -> bool:
        """Reads over bytes."""
        while length:
            passed = len(self.read(min(length, _CHUNK_LEN)))
            if not passed:
                return False
            length -= passed
        return True


class Archive:
    """The files of one tar archive, iterable once; `source` stays open as long as they are read."""

    def __init__(self, source: Source, label: str, spool: Spool, wanted: Callable[[bytes], bool]) -> None:
        """`wanted` says of a file's first 512 bytes whether the file may be of use; others are counted."""
        self._source, self._label, self._spool, self._wanted = source, label, spool, wanted
        self.skipped: list[str] = []
        """Names of files that are not wanted."""
        self.other_count = 0
        """Links, devices and the like."""
        self.broken: str | None = None
        """Why the archive was not read to its end."""

    def __iter__(self) -> Iterator[tuple[str, Extent]]:
        place = self._source.place()
        tape = _Stream(self._source) if place is None else _Place(place)
        reader = TarReader(tape)
        for member in reader:
            extent = tape.extent(member.size) if isinstance(tape, _Place) else None
            head = reader.take(BLOCK_LEN)
            if not self._wanted(head):
                self.skipped.append(member.name)
                continue
            yield member.name, extent or self._spool.add(_content(reader, head), self._label)
        self.other_count, self.broken = reader.other_count, reader.broken or self._source.broken


def _content(reader: TarReader, head: bytes) -> Iterator[bytes]:
    while head:
        yield head
        head = reader.take(_CHUNK_LEN)
