"""The bytes of one input, uncompressed, and the digest of those that lie on disk."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import stat
import sys
import threading
import zlib
from pathlib import Path
from typing import IO, Final

import numpy as np

from pcapdiag.columns import U8
from pcapdiag.errors import CaptureError

GZIP_MAGIC: Final = b"\x1f\x8b\x08"
HEAD_LEN: Final = 512
"""Enough to recognise every format, tar included (its magic lies at 257)."""
_GZIP_MEMBER: Final = 16 + zlib.MAX_WBITS
_PACKED_LEN: Final = 1 << 16
"""Compressed bytes unpacked at a time: what is unpacked again, byte by byte, where a stream turns out corrupt."""
_DRAIN_LEN: Final = 1 << 18
_THREAD_FROM_LEN: Final = 1 << 20
_POPULATE_READ: Final = 22
"""MADV_POPULATE_READ (Linux 5.14): one call brings a whole window's pages in; Python has no name for it before 3.13."""
_MAP_FROM_LEN: Final = 16 << 20
"""A file this large is mapped instead of copied: packets are read where they lie, and their pages are given back."""


class _Digest:
    """SHA-256 of what it is shown, computed beside the caller when there is much of it (hashlib lets others run)."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._running: threading.Thread | None = None

    def update(self, chunk: memoryview) -> None:
        """Takes note of a chunk that must not change any more."""
        self._wait()
        if len(chunk) < _THREAD_FROM_LEN:
            self._sha256.update(chunk)
        else:
            self._running = threading.Thread(target=self._sha256.update, args=(chunk,), daemon=True)
            self._running.start()

    def hexdigest(self) -> str:
        """Of everything shown so far."""
        self._wait()
        return self._sha256.hexdigest()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.join()
            self._running = None


class _Raw:
    """A file or pipe as it is; counts and digests what it reads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.digest = _Digest()
        self.size_bytes = 0
        self._file = _open(path)

    def read_into(self, view: memoryview) -> int:
        """Fills `view` as far as the input goes."""
        filled = 0
        while filled < len(view):
            try:
                count = self._file.readinto(view[filled:])  # type: ignore[attr-defined]  # IO[bytes] does not promise what every binary file has
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

    def map(self) -> mmap.mmap | None:
        """All of a large regular file, read-only; None for small files, pipes, and where mapping does not work."""
        if self._path == "-":
            return None
        with contextlib.suppress(OSError, ValueError):
            about = Path(self._path).stat()
            if stat.S_ISREG(about.st_mode) and about.st_size >= _MAP_FROM_LEN:
                return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return None

    def close(self) -> None:
        """Closes what was opened; standard input stays open."""
        if self._path != "-":
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


class _Gunzip:
    """The members of a gzip file, one behind the other (RFC 1952), as far as they can be unpacked."""

    def __init__(self, raw: _Raw, head: bytes) -> None:
        self._raw = raw
        self._packed = head
        self._unpacked = memoryview(b"")
        self._member: zlib._Decompress | None = zlib.decompressobj(wbits=_GZIP_MEMBER)
        self._ended = False
        self.broken: str | None = None

    def read_into(self, view: memoryview) -> int:
        """Fills `view` as far as the stream goes."""
        filled = 0
        while filled < len(view) and (self._unpacked or self._unpack(len(view) - filled)):
            part = self._unpacked[: len(view) - filled]
            view[filled : filled + len(part)] = part
            self._unpacked = self._unpacked[len(part) :]
            filled += len(part)
        return filled

    def _unpack(self, most: int) -> bool:
        """Unpacks the next bytes, `most` or fewer; False at the end of the stream."""
        while not self._unpacked:
            if self._member is None and not self._next_member():
                return False
            if not self._packed and not self._ended:
                self._packed = self._next_packed()
            self._step(most)
            if self._member is not None and not self._unpacked and not self._packed and self._ended:
                self.broken = "the gzip stream ends inside a member"
                self._member = None
        return True

    def _step(self, most: int) -> None:
        assert self._member is not None
        before = self._member.copy()
        try:
            self._unpacked = memoryview(self._member.decompress(self._packed, most))
        except zlib.error as error:
            self.broken = f"the gzip stream is corrupt ({error})"
            self._unpacked, self._packed, self._member = memoryview(_up_to_the_fault(before, self._packed)), b"", None
            return
        if self._member.eof:
            self._packed, self._member = self._member.unused_data, None
        else:
            self._packed = self._member.unconsumed_tail

    def _next_packed(self) -> bytes:
        buffer = bytearray(_PACKED_LEN)
        count = self._raw.read_into(memoryview(buffer))
        self._ended = count < _PACKED_LEN
        return bytes(buffer[:count])

    def _next_member(self) -> bool:
        """Looks for a member behind the one that ended; zeros between them are padding."""
        while self.broken is None:
            self._packed = self._packed.lstrip(b"\0")
            if len(self._packed) < len(GZIP_MAGIC) and not self._ended:
                self._packed += self._next_packed()
            elif self._packed.startswith(GZIP_MAGIC):
                self._member = zlib.decompressobj(wbits=_GZIP_MEMBER)
                return True
            elif self._packed:
                self.broken = f"no gzip member follows the last one (but {self._packed[:4].hex(' ')})"
            else:
                return False
        return False


def _up_to_the_fault(member: zlib._Decompress, packed: bytes) -> bytes:
    """What can be unpacked before the byte that makes zlib give up; in one go it gives nothing."""
    unpacked = []
    with contextlib.suppress(zlib.error):
        for at in range(len(packed)):
            unpacked.append(member.decompress(packed[at : at + 1]))  # noqa: PERF401 - a comprehension loses all at the fault
    return b"".join(unpacked)


class Source:
    """One input: its uncompressed bytes in order; digest and size of the bytes on disk once all are read."""

    def __init__(self, path: str) -> None:
        """Opens `path` ("-": standard input) and reads `head`."""
        self._raw = _Raw(path)
        try:
            self._bytes: _Raw | _Gunzip = self._raw
            self.head = _read(self._raw, HEAD_LEN)
            """The first 512 bytes, or all there are; read_into goes on behind them."""
            self.compression = ""
            if self.head.startswith(GZIP_MAGIC):
                self.compression = "gzip"
                self._bytes = _Gunzip(self._raw, self.head)
                self.head = _read(self._bytes, HEAD_LEN)
        except CaptureError:
            self._raw.close()
            raise

        self._map = None if self.compression else self._raw.map()

    def window(self, rest: U8, most: int) -> tuple[U8, bool]:
        """`rest` (what the window before left over) and up to `most` bytes behind it, and whether the input ends there."""
        if self._map is None:
            window = np.empty(len(rest) + most, np.uint8)
            window[: len(rest)] = rest
            filled = len(rest) + self._bytes.read_into(window.data[len(rest) :])
            return window[:filled], filled < len(window)
        begin, end = self._raw.size_bytes - len(rest), min(self._raw.size_bytes + most, len(self._map))
        done = begin // mmap.PAGESIZE * mmap.PAGESIZE
        if done:
            self._map.madvise(mmap.MADV_DONTNEED, 0, done)
        with contextlib.suppress(OSError):  # kernels before 5.14: the pages come one fault at a time
            self._map.madvise(_POPULATE_READ, done, end - done)
        window = np.frombuffer(self._map, np.uint8, end - begin, begin)
        self._raw.digest.update(window.data[len(rest) :])
        self._raw.size_bytes = end
        return window, end == len(self._map)

    @property
    def broken(self) -> str | None:
        """What made unpacking end before the file did."""
        return self._bytes.broken if isinstance(self._bytes, _Gunzip) else None

    def finish(self) -> tuple[str, int]:
        """Reads what is left of the file; gives the SHA-256 and the size of all of it."""
        while self._map is not None and self._raw.size_bytes < len(self._map):
            self.window(np.empty(0, np.uint8), _MAP_FROM_LEN)
        buffer = memoryview(bytearray(_DRAIN_LEN))
        while self._map is None and self._raw.read_into(buffer) == len(buffer):
            pass
        return self._raw.digest.hexdigest(), self._raw.size_bytes

    def close(self) -> None:
        """Closes the file; what was not read stays unread."""
        self._raw.close()


def _read(source: _Raw | _Gunzip, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: source.read_into(memoryview(buffer))])
