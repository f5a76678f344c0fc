"""Unpacks gzip, zstd and lz4 while it is read, member after member, as far as each can be unpacked.

Formats: RFC 1952, RFC 8878, and the LZ4 frame format 1.6. A member is what gzip calls so; zstd and lz4 say frame.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol

_GZIP_MEMBER: Final = 16 + zlib.MAX_WBITS
_GZIP_PIECE_LEN: Final = 1 << 16
"""Compressed bytes unpacked at a time: what is unpacked again, byte by byte, where a stream turns out corrupt."""
_FRAME_PIECE_LEN: Final = 1 << 12
"""The same for zstd and lz4, which cannot be unpacked again: what a fault costs at most is what these would have given."""
_MOST_AT_ONCE: Final = 1 << 20
"""Unpacked bytes asked for at a time; decompressors may reserve as much."""

GZIP_MAGIC: Final = b"\x1f\x8b"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""Behind a byte 0x50 to 0x5f: a frame of zstd or lz4 that holds no content (RFC 8878 section 3.1.2)."""
_SKIPPABLE_HEADER_LEN: Final = 8


class Bytes(Protocol):
    """Where compressed bytes come from."""

    def read_into(self, view: memoryview) -> int:
        """Fills `view` as far as the input goes."""


class MissingExtraError(ImportError):
    """A compression whose optional package is not installed; the message names both."""


class _CorruptError(Exception):
    """What a decompressor says of bytes it cannot read, and what it had unpacked before them."""

    def __init__(self, reason: str, unpacked: bytes = b"") -> None:
        super().__init__(reason)
        self.unpacked = unpacked


class _Member(Protocol):
    """Unpacks one member; keeps the input it has not used yet to itself."""

    def decompress(self, packed: bytes, most: int) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Codec:
    """One compression."""

    name: str
    magic: bytes
    """How a member begins."""
    piece_len: int
    part: str
    """What it calls a member."""
    member: Callable[[], _Member]


class _GzipMember:
    """One member of a gzip file."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=_GZIP_MEMBER)

    def decompress(self, packed: bytes, most: int) -> bytes:
        before = self._zlib.copy()
        packed = self._zlib.unconsumed_tail + packed
        try:
            return self._zlib.decompress(packed, most)
        except zlib.error as error:
            raise _CorruptError(str(error), _up_to_the_fault(before, packed)) from error

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


def _up_to_the_fault(member: zlib._Decompress, packed: bytes) -> bytes:
    """What can be unpacked before the byte that makes zlib give up; in one go it gives nothing."""
    unpacked = []
    with contextlib.suppress(zlib.error):
        for at in range(len(packed)):
            unpacked.append(member.decompress(packed[at : at + 1]))  # noqa: PERF401 - a comprehension loses all at the fault
    return b"".join(unpacked)


class _Frame:
    """One frame of zstd or lz4; their decompressors have one interface, that of bz2 and lzma."""

    def __init__(self, decompressor: Any, fault: type[Exception]) -> None:  # noqa: ANN401 - two libraries, one of them untyped
        self._decompressor = decompressor
        self._fault = fault

    def decompress(self, packed: bytes, most: int) -> bytes:
        try:
            unpacked: bytes = self._decompressor.decompress(packed, most)
        except self._fault as error:
            raise _CorruptError(str(error)) from error
        return unpacked

    @property
    def needs_input(self) -> bool:
        return bool(self._decompressor.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data or b""


def _zstd_frame() -> _Member:
    zstd = _imported("zstd", "compression.zstd", "backports.zstd")
    return _Frame(zstd.ZstdDecompressor(), zstd.ZstdError)


def _lz4_frame() -> _Member:
    return _Frame(_imported("lz4", "lz4.frame").LZ4FrameDecompressor(), RuntimeError)


def _imported(extra: str, *modules: str) -> Any:  # noqa: ANN401 - a module
    for module in modules:
        with contextlib.suppress(ImportError):
            return import_module(module)
    raise MissingExtraError(f'{extra}-compressed: reading it needs an optional package: pip install "pcapdiag[{extra}]"')


_GZIP: Final = Codec("gzip", GZIP_MAGIC + b"\x08", _GZIP_PIECE_LEN, "member", _GzipMember)
_ZSTD: Final = Codec("zstd", b"\x28\xb5\x2f\xfd", _FRAME_PIECE_LEN, "frame", _zstd_frame)
_LZ4: Final = Codec("lz4", b"\x04\x22\x4d\x18", _FRAME_PIECE_LEN, "frame", _lz4_frame)


def codec_of(head: bytes) -> Codec | None:
    """The compression of what begins with `head`; None for none of them."""
    if head.startswith(GZIP_MAGIC):
        return _GZIP  # method and flags are zlib's to judge
    start = 0
    while _is_skippable(head[start:]):
        start += _SKIPPABLE_HEADER_LEN + int.from_bytes(head[start + 4 : start + 8], "little")
    if start >= len(head) > 0 and start:
        return _ZSTD  # skips more than can be seen from here: pzstd and seekable zstd files do
    return next((codec for codec in (_ZSTD, _LZ4) if head.startswith(codec.magic, start)), None)


def _is_skippable(packed: bytes) -> bool:
    return len(packed) >= _SKIPPABLE_HEADER_LEN and packed[0] & 0xF0 == 0x50 and packed[1:4] == _SKIPPABLE


class Unpacker:
    """The members of a compressed input, one behind the other; zeros between them are padding."""

    def __init__(self, raw: Bytes, head: bytes, codec: Codec) -> None:
        """`head`: what was read of `raw` already.

        Raises:
            MissingExtraError: the package for this compression is not installed.
        """
        self._raw, self._codec = raw, codec
        self._packed = head
        self._unpacked = memoryview(b"")
        self._ended = False
        self._member: _Member | None = None if _is_skippable(head) else codec.member()
        self.broken: str | None = None
        """What made unpacking end before the input did."""

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
            assert self._member is not None
            if self._member.needs_input and not self._packed and not self._ended:
                self._packed = self._next_packed()
            packed, self._packed = self._packed, b""
            try:
                self._unpacked = memoryview(self._member.decompress(packed, min(most, _MOST_AT_ONCE)))
            except _CorruptError as fault:
                self._unpacked, self._member = memoryview(fault.unpacked), None
                self._stop(f"the {self._codec.name} stream is corrupt ({fault})")
                continue
            if self._member.eof:
                self._packed, self._member = self._member.unused_data, None
            elif self._ended and not packed and not self._unpacked and self._member.needs_input:
                self._member = None
                self._stop(f"the {self._codec.name} stream ends inside a {self._codec.part}")
        return True

    def _stop(self, note: str) -> None:
        self.broken = note

    def _next_packed(self) -> bytes:
        buffer = bytearray(self._codec.piece_len)
        count = self._raw.read_into(memoryview(buffer))
        self._ended = count < len(buffer)
        return bytes(buffer[:count])

    def _next_member(self) -> bool:
        """Looks for a member behind the one that ended."""
        codec = self._codec
        while self.broken is None:
            self._packed = self._packed.lstrip(b"\0")
            if len(self._packed) < _SKIPPABLE_HEADER_LEN and not self._ended:
                self._packed += self._next_packed()
            elif self._packed.startswith(codec.magic):
                self._member = codec.member()
                return True
            elif codec is not _GZIP and _is_skippable(self._packed):
                self._skip(_SKIPPABLE_HEADER_LEN + int.from_bytes(self._packed[4:8], "little"))
            elif self._packed:
                self._stop(f"no {codec.name} {codec.part} follows the last one (but {self._packed[:4].hex(' ')})")
            else:
                return False
        return False

    def _skip(self, length: int) -> None:
        while len(self._packed) < length and not self._ended:
            length -= len(self._packed)
            self._packed = self._next_packed()
        if len(self._packed) < length:
            self._stop(f"the {self._codec.name} stream ends inside a skippable frame")
        self._packed = self._packed[length:]
