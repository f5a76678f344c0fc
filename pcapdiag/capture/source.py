"""The bytes of one input, uncompressed, and the digest of those that lie on disk."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from pcapdiag.capture.unpack import MissingExtraError, Unpacker, codec_of
from pcapdiag.columns import U8
from pcapdiag.errors import CaptureError

HEAD_LEN: Final = 512
"""Enough to recognise every format, tar included (its magic lies at 257)."""
_DRAIN_LEN: Final = 1 << 18
_THREAD_FROM_LEN: Final = 1 << 20
_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ (Linux 5.14): one call brings a whole window's pages in; Python has no name for it before 3.13."""
_MAP_FROM_LEN: Final = 16 << 20
"""A file this large is mapped instead of copied: packets are read where they lie, and their pages are given back."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of an open file: what an archive's member is."""

    file: IO[bytes]
    start: int
    length: int


class _Digest:
    """SHA-256 of what it is shown, computed beside the caller when there is much of it (hashlib lets others run)."""

    def __init__(self, *, wanted: bool) -> None:
        self._sha256 = hashlib.sha256() if wanted else None
        self._running: threading.Thread | None = None

    def update(self, chunk: memoryview) -> None:
        """Takes note of a chunk that must not change any more."""
        self._wait()
        if self._sha256 is None:
            return
        if len(chunk) < _THREAD_FROM_LEN:
            self._sha256.update(chunk)
        else:
            self._running = threading.Thread(target=self._sha256.update, args=(chunk,), daemon=True)
            self._running.start()

    def hexdigest(self) -> str:
        """Of everything shown so far; empty if nobody wants it."""
        self._wait()
        return "" if self._sha256 is None else self._sha256.hexdigest()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.join()
            self._running = None


class _Raw:
    """A file, a part of one, or a pipe, as it is; counts and digests what it reads."""

    def __init__(self, path: str, extent: Extent | None, *, digest: bool) -> None:
        self._path, self._extent = path, extent
        self.digest = _Digest(wanted=digest)
        self.size_bytes = 0
        self._file = _open(path) if extent is None else extent.file

    def read_into(self, view: memoryview) -> int:
        """Fills `view` as far as the input goes."""
        if self._extent is not None:
            view = view[: self._extent.length - self.size_bytes]
        filled = 0
        while filled < len(view):
            try:
                count = self._read_some(view[filled:], self.size_bytes + filled)
            except OSError as error:
                raise CaptureError(f"{self._path}: cannot be read at offset {self.size_bytes + filled}: {error.strerror}") from error
            if count is None:
                raise CaptureError(f"{self._path}: a non-blocking input that has nothing to read at offset {self.size_bytes + filled}")
            if not count:
                break
            filled += count
        self.digest.update(view[:filled])
        self.size_bytes += filled
        return filled

    def _read_some(self, view: memoryview, at: int) -> int | None:
        if self._extent is not None:  # several members may be open at once, and share the file's position
            return os.preadv(self._file.fileno(), [view], self._extent.start + at)
        count: int | None = self._file.readinto(view)  # type: ignore[attr-defined]  # IO[bytes] does not promise what every binary file has
        return count

    def is_regular(self) -> bool:
        """Whether the same bytes can be read again by opening it again."""
        if self._extent is not None:
            return True
        try:
            return self._path != "-" and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        except OSError:  # no file beneath
            return False

    def map(self) -> tuple[mmap.mmap, int] | None:
        """All of a large regular file, read-only, and where in the map it begins; None where it is small, a pipe, or mapping fails."""
        if not self.is_regular():
            return None
        with contextlib.suppress(OSError, ValueError):
            start = 0 if self._extent is None else self._extent.start
            length = os.fstat(self._file.fileno()).st_size if self._extent is None else self._extent.length
            if length >= _MAP_FROM_LEN:
                shift = start % mmap.ALLOCATIONGRANULARITY
                return mmap.mmap(self._file.fileno(), shift + length, access=mmap.ACCESS_READ, offset=start - shift), shift
        return None

    def place(self) -> tuple[IO[bytes], int, int] | None:
        """The open file, and where in it this input begins and how long it is; None for a pipe."""
        if self._extent is not None:
            return self._file, self._extent.start, self._extent.length
        return (self._file, 0, os.fstat(self._file.fileno()).st_size) if self.is_regular() else None

    def close(self) -> None:
        """Closes what was opened; standard input, and a file whose part this is, stay open."""
        if self._path != "-" and self._extent is None:
            self._file.close()


def _open(path: str) -> IO[bytes]:
    if path == "-":
        if sys.stdin is None:
            raise CaptureError("-: there is no standard input")
        return sys.stdin.buffer
    try:
        return Path(path).open("rb", buffering=0)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CaptureError(f"{path}: {reason}") from error


class Source:
    """One input: its uncompressed bytes in order; digest and size of the bytes on disk once all are read."""

    def __init__(self, path: str, extent: Extent | None = None, *, digest: bool = True) -> None:
        """Opens `path` ("-": standard input), or takes part of a file that is open, and reads `head`; `path` then names it in messages.

        Without `digest` no SHA-256 is computed: it costs as much as decoding.
        """
        self._raw = _Raw(path, extent, digest=digest)
        try:
            self._bytes: _Raw | Unpacker = self._raw
            self.head = self.read(HEAD_LEN)
            """The first 512 bytes, or all there are; `window` and `read` go on behind them."""
            self.compression = ""
            if (codec := codec_of(self.head)) is not None:
                self.compression = codec.name
                self._bytes = Unpacker(self._raw, self.head, codec)
                self.head = self.read(HEAD_LEN)
        except MissingExtraError as error:
            self._raw.close()
            raise CaptureError(f"{path}: {error}") from error
        except CaptureError:
            self._raw.close()
            raise
        self.is_regular = self._raw.is_regular()
        """Whether it can be read again by opening it again."""
        self._map: mmap.mmap | None = None
        self._shift = 0
        if not self.compression and (mapped := self._raw.map()) is not None:
            self._map, self._shift = mapped

    def window(self, rest: U8, most: int) -> tuple[U8, bool]:
        """`rest` (what the window before left over) and up to `most` bytes behind it, and whether the input ends there."""
        if self._map is None:
            window = np.empty(len(rest) + most, np.uint8)
            window[: len(rest)] = rest
            filled = len(rest) + self._bytes.read_into(window.data[len(rest) :])
            # A small input must not hold on to a large window: there may be a thousand of them.
            return window[:filled] if 2 * filled > len(window) else window[:filled].copy(), filled < len(window)
        begin, end = self._shift + self._raw.size_bytes - len(rest), min(self._shift + self._raw.size_bytes + most, len(self._map))
        done = begin // mmap.PAGESIZE * mmap.PAGESIZE
        if done:
            self._map.madvise(mmap.MADV_DONTNEED, 0, done)
        with contextlib.suppress(OSError):  # kernels before 5.14: the pages come one fault at a time
            self._map.madvise(_POPULATE_READ, done, end - done)
        window = np.frombuffer(self._map, np.uint8, end - begin, begin)
        self._raw.digest.update(window.data[len(rest) :])
        self._raw.size_bytes = end - self._shift
        return window, end == len(self._map)

    def read(self, length: int) -> bytes:
        """The next bytes behind `head`, `length` or as many as there are: for inputs read in small steps instead of windows."""
        buffer = bytearray(length)
        return bytes(buffer[: self._bytes.read_into(memoryview(buffer))])

    def place(self) -> tuple[IO[bytes], int, int] | None:
        """The open file, and where in it this input begins and how long it is, if its bytes lie there as `read` gives them."""
        return None if self.compression else self._raw.place()

    @property
    def broken(self) -> str | None:
        """What made unpacking end before the file did."""
        return self._bytes.broken if isinstance(self._bytes, Unpacker) else None

    def finish(self) -> tuple[str, int]:
        """Reads what is left of the file; gives the SHA-256 and the size of all of it."""
        while self._map is not None and self._raw.size_bytes < len(self._map) - self._shift:
            self.window(np.empty(0, np.uint8), _MAP_FROM_LEN)
        buffer = memoryview(bytearray(_DRAIN_LEN))
        while self._map is None and self._raw.read_into(buffer) == len(buffer):
            pass
        return self._raw.digest.hexdigest(), self._raw.size_bytes

    def close(self) -> None:
        """Closes the file; what was not read stays unread."""
        self._raw.close()
