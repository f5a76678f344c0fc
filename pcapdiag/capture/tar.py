"""Reads tar archives front to back: v7, ustar, GNU and pax; nothing in them is believed further than it can be checked.

Format: POSIX.1-2024 `pax`, and GNU tar's extensions. Names are labels: no file is ever made under one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

BLOCK_LEN: Final = 512
MAX_MEMBERS: Final = 1_000_000
_MAX_EXTENDED_LEN: Final = 1 << 20
"""Of a long name or a set of pax records; a longer one is skipped."""
_NAME, _SIZE, _CHECKSUM, _KIND = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
_MAGIC, _PREFIX = slice(257, 262), slice(345, 500)
_REGULAR: Final = frozenset({b"0", b"\0", b"7"})
_FOLDER: Final = b"5"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"
_MORE_SPARSE_AT: Final = {_SPARSE: 482, b"": 504}
"""Where a sparse header, and each block that continues it, says that another follows."""
_WITHOUT_CONTENT: Final = frozenset({b"1", b"2", b"3", b"4", _FOLDER, b"6"})


class Tape(Protocol):
    """The bytes of an archive, in order."""

    def read(self, length: int) -> bytes:
        """The next bytes, `length` or as many as there are."""

    def skip(self, length: int) -> bool:
        """Passes over bytes; False if the archive ends before."""


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive; its content is next on the tape, and what is not taken of it is skipped."""

    name: str
    size: int


@dataclass(slots=True)
class TarReader:
    """The regular files of one archive, once; what they are not is counted in `other_count`."""

    tape: Tape
    left: int = field(default=0, init=False)
    """Bytes of the current member not taken yet."""
    other_count: int = field(default=0, init=False)
    """Links, devices, pipes and sparse files, which are skipped."""
    broken: str | None = field(default=None, init=False)
    """What ended the reading before the archive said that it ends."""
    _padding: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Member]:
        overrides: dict[str, str] = {}
        for _ in range(MAX_MEMBERS):
            header = self._header()
            if header is None:
                return
            kind, size = header[_KIND], _number(header[_SIZE])
            if size is None or size < 0:
                self.broken = "a tar header with a size that is no number"
                return
            if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
                self._begin(size)
                self._extend(overrides, kind, size)
                continue
            if "size" in overrides and overrides["size"].isdecimal() and len(overrides["size"]) < 20:
                size = int(overrides["size"])
            self._begin(0 if kind in _WITHOUT_CONTENT else size)
            name = overrides.get("path") or _name(header)
            is_sparse = kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in overrides)
            overrides = {}
            if kind == _SPARSE:
                self._skip_sparse_map(header)
            if kind in _REGULAR and not is_sparse and not name.endswith("/"):
                yield Member(name, size)
            elif kind != _FOLDER and not name.endswith("/"):
                self.other_count += 1
        self.broken = f"more than {MAX_MEMBERS:,} files"

    def take(self, length: int) -> bytes:
        """The next bytes of the current member."""
        taken = self.tape.read(min(length, self.left))
        self.left -= len(taken)
        return taken

    def _begin(self, size: int) -> None:
        self.left, self._padding = size, -size % BLOCK_LEN

    def _header(self) -> bytes | None:
        """The next header; None at the end of the archive."""
        rest = self.left + self._padding
        if rest and not self.tape.skip(rest):
            self.broken = "the tar archive ends inside a file"
            return None
        self._begin(0)
        header = self.tape.read(BLOCK_LEN)
        if not header.strip(b"\0"):
            return None  # the end mark, or just the end
        if not is_tar(header):
            self.broken = "the tar archive ends inside a header" if len(header) < BLOCK_LEN else "a tar header with a wrong checksum"
            return None
        return header

    def _extend(self, overrides: dict[str, str], kind: bytes, size: int) -> None:
        """Reads what a header says of the one behind it."""
        if size > _MAX_EXTENDED_LEN:
            return
        text = self.take(size)
        if kind == _LONG_NAME:
            overrides["path"] = _text(text)
        elif kind == _PAX:
            overrides.update(_pax_records(text))

    def _skip_sparse_map(self, header: bytes) -> None:
        """A sparse file's map may go on in blocks of its own, which its size does not count."""
        more = header[_MORE_SPARSE_AT[_SPARSE]]
        while more:
            block = self.tape.read(BLOCK_LEN)
            more = block[_MORE_SPARSE_AT[b""]] if len(block) == BLOCK_LEN else 0


def is_tar(head: bytes) -> bool:
    """Whether these bytes begin with a tar header: its checksum says so."""
    if len(head) < BLOCK_LEN:
        return False
    claimed = _number(head[_CHECKSUM])
    return claimed is not None and claimed == sum(head[:148]) + sum(head[156:BLOCK_LEN]) + 8 * ord(" ") and claimed > 8 * ord(" ")


def _number(raw: bytes) -> int | None:
    """Octal digits, or binary with the highest bit set (GNU)."""
    if raw[:1] and raw[0] & 0x80:
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big") if raw[0] != 0xFF else None
    digits = raw.strip(b" \0").split(b"\0")[0]
    return int(digits or b"0", 8) if all(0x30 <= digit < 0x38 for digit in digits) else None


def _name(header: bytes) -> str:
    prefix = _text(header[_PREFIX]) if header[_MAGIC] == b"ustar" and header[262:263] != b" " else ""  # GNU keeps times there
    return f"{prefix}/{_text(header[_NAME])}" if prefix else _text(header[_NAME])


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _pax_records(text: bytes) -> dict[str, str]:
    """Keyword -> value of records "length keyword=value", each a line, up to the first that is none."""
    records = {}
    at = 0
    while at < len(text):
        digits, space, _ = text[at : at + 12].partition(b" ")
        if not space or not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        keyword, _, value = text[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        records[_text(keyword)] = value.decode("utf-8", "replace")
        at += int(digits)
    return records
