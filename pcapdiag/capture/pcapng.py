"""Reads the blocks of a pcapng file: sections of either byte order, their interfaces, packets of three kinds.

Format: draft-ietf-opsawg-pcapng. Every block is its type, its length, a body, its length again.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.capture.blocks import (
    MAX_COMMENTS,
    MAX_NAMES,
    TLS_KEY_LOG,
    Clock,
    Count,
    read_comments,
    read_interface,
    read_names,
    read_options,
    read_secrets,
    read_statistics,
    with_statistics,
)
from pcapdiag.capture.chain import LANES, Links, aligned_words, first_true, walk
from pcapdiag.capture.frames import Frames, Interface
from pcapdiag.capture.packet_blocks import ENHANCED, PACKET, SIMPLE, PacketBlocks, read_flags, read_packet_blocks, read_times
from pcapdiag.columns import I64, U8, U32
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Loss

_Columns = dict[str, npt.NDArray[Any]]

SECTION_HEADER: Final = b"\n\r\r\n"
"""The type of a section header block: the same in both byte orders."""
_SECTION_HEADER_WORD: Final = 0x0A0D0D0A
_SECTION_HEADER_LEN: Final = 28
_BYTE_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}

_INTERFACE, _NAMES, _STATISTICS, _SECRETS = 1, 4, 5, 10
_LIKE_PACKETS: Final = np.array([9, 0x204, 0x216, 0x221, 0xBAD, 0x40000BAD], np.uint32)
"""Blocks Wireshark lists among the packets, with a number: systemd journal, sysdig events, custom blocks."""

_MIN_BLOCK_LEN: Final = 12
_MAX_BLOCK_LEN: Final = (128 << 20) + (1 << 17)
"""The largest packet libpcap accepts of any link type, and 128 KiB of options."""
_MAX_INTERFACES: Final = 1 << 16
_MAX_SECRETS_LEN: Final = 64 << 20
_ABSURD_LENGTH: Final = "a block claims a length of {:,} bytes, which no block can have"

# An enhanced packet block shorter than 320 KiB, of one of the first 65,536 interfaces
_USUAL_BLOCK: Final = {
    "<": re.compile(rb"\x06\0\0\0..[\x00-\x04]\0..\0\0", re.DOTALL),
    ">": re.compile(rb"\0\0\0\x06\0[\x00-\x04]..\0\0..", re.DOTALL),
}


class PcapngReader:
    """Turns windows of pcapng blocks into frames; it does no input of its own.

    A packet whose block contradicts itself, or whose interface is not described, is counted and gives no row.
    """

    format = "pcapng"
    header_len = 0
    """The first section header is read as a block."""

    def __init__(self, head: bytes, name: str, capture: int, count: Count) -> None:
        """`head`: the first bytes of the file, 28 or more if it has them."""
        problem = _section_problem(head)
        if problem:
            raise CaptureError(f"{name}: {problem} (at offset 0)")
        self._capture, self._count = capture, count
        self._order = "<"
        self._interfaces: list[Interface] = []
        self._clock_of: list[int] = []
        self._clocks: dict[Clock, int] = {}
        """Clock -> its index, which `_clock_of` gives per interface."""
        self._section_at = 0
        """Index of the first interface of this section."""
        self._last_ns = 0
        self._numbered_count = 0
        self._comments: list[str] = []
        self._more_comments_count = 0
        self._secrets: list[tuple[int, bytes]] = []
        self._secrets_len = 0
        self._names: dict[tuple[bytes, str], None] = {}
        self.frame_count = 0
        self.broken: str | None = None

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces of all sections, in file order."""
        return tuple(self._interfaces)

    @property
    def comments(self) -> tuple[str, ...]:
        """The comments of the section headers."""
        more = (f"({self._more_comments_count} more comments)",) if self._more_comments_count else ()
        return (*self._comments, *more)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The TLS key logs of decryption secrets blocks, in file order."""
        return tuple(data for kind, data in self._secrets if kind == TLS_KEY_LOG)

    @property
    def other_secrets(self) -> tuple[tuple[int, bytes], ...]:
        """Type and bytes of the other secrets, in file order."""
        return tuple((kind, data) for kind, data in self._secrets if kind != TLS_KEY_LOG)

    @property
    def names(self) -> tuple[tuple[bytes, str], ...]:
        """Addresses and their names from name resolution blocks, each pair once, in file order."""
        return tuple(self._names)

    @property
    def numbered_count(self) -> int:
        """Frame numbers used so far, by blocks that Wireshark numbers although they hold no packet too."""
        return self._numbered_count

    def read(self, window: U8) -> tuple[Frames | None, int]:
        """The frames that lie whole in the window, and how many of its bytes they take."""
        parts: list[_Columns] = []
        used, lanes = 0, LANES
        while self.broken is None and len(window) - used >= _MIN_BLOCK_LEN:
            if window[used : used + 4].tobytes() == SECTION_HEADER:
                block_len = self._begin_section(window[used:])
            else:
                links = self._links()
                at = walk(window, used, links, lanes=lanes)
                lanes = 1  # a section header ended the walk: short sections would pay for all lanes of the window each
                block_len = self._read_blocks(window, used, at, parts)
            if not block_len:
                break
            used += block_len
        if not parts:
            return None, used
        columns = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.frame_count += len(columns["number"])
        return Frames(**columns, data=window[:used], capture=self._capture), used

    def rest_note(self, rest: U8) -> str:
        """What the last bytes of a file are that are no whole block."""
        if len(rest) < _MIN_BLOCK_LEN:
            return f"the file ends inside a block header ({len(rest)} bytes of it are there)"
        if rest[:4].tobytes() == SECTION_HEADER:
            return f"the file ends inside a section header block ({len(rest):,} bytes of it are there)"
        kind, block_len = struct.unpack_from(f"{self._order}II", rest.data)
        return f"the file ends inside a block of type {kind:#x} ({len(rest):,} of {block_len:,} bytes)"

    def _links(self) -> Links:
        return Links(
            order=self._order,
            length_at=4,
            least_len=_MIN_BLOCK_LEN,
            least_value=_MIN_BLOCK_LEN,
            begin=_USUAL_BLOCK[self._order],
            alignment=4,
            stop_word=_SECTION_HEADER_WORD,
        )

    def _stop(self, note: str) -> None:
        self.broken = note
        self._count(Loss.BAD_BLOCK, 1)

    def _begin_section(self, window: U8) -> int:
        """Reads the section header block (section 4.1) the window begins with; its length, or 0 if it is not whole."""
        if len(window) < _SECTION_HEADER_LEN:
            return 0
        head = window[:_SECTION_HEADER_LEN].tobytes()
        problem = _section_problem(head)
        if problem:
            self._stop(problem)
            return 0
        order = _BYTE_ORDERS[head[8:12]]
        (block_len,) = struct.unpack_from(f"{order}I", head, 4)
        if block_len > len(window):
            return 0
        (again,) = struct.unpack_from(f"{order}I", window.data, block_len - 4)
        if again != block_len:
            self._stop(f"a section header block begins with length {block_len:,} and ends with length {again:,}")
            return 0
        self._order = order
        self._section_at = len(self._interfaces)
        for comment in read_comments(read_options(window[24 : block_len - 4].tobytes(), order, self._count)):
            if len(self._comments) < MAX_COMMENTS:
                self._comments.append(comment)
            else:
                self._more_comments_count += 1
        return int(block_len)

    def _read_blocks(self, window: U8, start: int, at: I64, parts: list[_Columns]) -> int:
        """Reads the blocks of one section at the given offsets; how many bytes from `start` on they take."""
        kinds = aligned_words(window, at, self._order)
        lengths = aligned_words(window, at + 4, self._order).astype(np.int64)
        again = aligned_words(window, at + lengths - 4, self._order)
        good = first_true((again != lengths) | (lengths > _MAX_BLOCK_LEN))
        if good < len(at):
            self._stop(f"a block begins with length {lengths[good]:,} and ends with length {again[good]:,}")
            at, kinds, lengths = at[:good], kinds[:good], lengths[:good]
        used = int(at[-1] + lengths[-1]) - start if good else 0
        if self.broken is None:
            self._look_behind(window[start + used : start + used + _MIN_BLOCK_LEN])
        described_at = np.full(len(self._interfaces) - self._section_at, -1, np.int64)
        packets = (kinds == ENHANCED) | (kinds == SIMPLE) | (kinds == PACKET)
        numbers = np.arange(self._numbered_count + 1, self._numbered_count + 1 + len(at))
        if not packets.all():
            numbers = self._numbered_count + np.cumsum(packets | np.isin(kinds, _LIKE_PACKETS))
            new_at = self._read_others(window, at[~packets], kinds[~packets], lengths[~packets])
            described_at = np.append(described_at, new_at)
        if good:
            self._numbered_count = int(numbers[-1])
        if packets.any():
            at, kinds, lengths, numbers = at[packets], kinds[packets], lengths[packets], numbers[packets]
            snaplen = self._interfaces[self._section_at].snaplen if len(described_at) else 0
            blocks = read_packet_blocks(window, self._order, at, kinds, lengths, numbers, snaplen)
            self._count(Loss.BAD_BLOCK, len(at) - len(blocks))
            blocks = self._described(blocks, described_at)
            if len(blocks):
                parts.append(self._columns(window, blocks))
        return used

    def _look_behind(self, header: U8) -> None:
        """Stops reading if the block behind the whole ones claims a length no block has."""
        if len(header) < _MIN_BLOCK_LEN or header[:4].tobytes() == SECTION_HEADER:
            return
        (block_len,) = struct.unpack_from(f"{self._order}I", header.data, 4)
        if _absurd(block_len):
            self._stop(_ABSURD_LENGTH.format(block_len))

    def _read_others(self, window: U8, at: I64, kinds: U32, lengths: I64) -> list[int]:
        """Reads blocks that hold no packet; gives the offsets of those that describe an interface."""
        used = np.isin(kinds, (_INTERFACE, _NAMES, _STATISTICS, _SECRETS))
        self._count(Loss.SKIPPED_BLOCK, int((~used).sum()))
        described_at = []
        for begin, kind, block_len in zip(at[used].tolist(), kinds[used].tolist(), lengths[used].tolist(), strict=True):
            body = window[begin + 8 : begin + block_len - 4].tobytes()
            if kind == _INTERFACE:
                if self._add_interface(body):
                    described_at.append(begin)
                continue
            add = {_STATISTICS: self._add_statistics, _SECRETS: self._add_secrets, _NAMES: self._add_names}[kind]
            self._count(Loss.SKIPPED_BLOCK, 0 if add(body) else 1)
        return described_at

    def _add_interface(self, body: bytes) -> bool:
        if len(self._interfaces) >= _MAX_INTERFACES:
            self._count(Loss.SKIPPED_BLOCK, 1)
            return False
        read = read_interface(body, self._order, self._count)
        if read is None:
            self._count(Loss.BAD_BLOCK, 1)
            return False
        interface, clock = read
        self._interfaces.append(interface)
        self._clock_of.append(self._clocks.setdefault(clock, len(self._clocks)))
        return True

    def _add_statistics(self, body: bytes) -> bool:
        read = read_statistics(body, self._order, self._count)
        if read is None or self._section_at + read[0] >= len(self._interfaces):
            return False
        index = self._section_at + read[0]
        self._interfaces[index] = with_statistics(self._interfaces[index], read[1])
        return True

    def _add_secrets(self, body: bytes) -> bool:
        secrets = read_secrets(body, self._order)
        if secrets is None or self._secrets_len + len(secrets[1]) > _MAX_SECRETS_LEN:
            return False
        self._secrets.append(secrets)
        self._secrets_len += len(secrets[1])
        return True

    def _add_names(self, body: bytes) -> bool:
        names = read_names(body, self._order)
        if names is None or len(self._names) + len(names) > MAX_NAMES:
            return False
        self._names.update(dict.fromkeys(names))
        return True

    def _described(self, blocks: PacketBlocks, described_at: I64) -> PacketBlocks:
        """The packets whose interface was described before them."""
        known = blocks.interface < len(described_at)
        if len(described_at):
            known &= described_at[np.minimum(blocks.interface, len(described_at) - 1)] < blocks.at
        if known.all():
            return blocks
        self._count(Loss.UNKNOWN_INTERFACE, int((~known).sum()))
        return blocks.take(known)

    def _columns(self, window: U8, blocks: PacketBlocks) -> _Columns:
        """The columns of Frames."""
        here = slice(self._section_at, None)
        ts_ns, too_far_count = read_times(blocks, np.array(self._clock_of[here], np.int64), list(self._clocks), self._last_ns)
        self._count(Loss.BAD_TIME, too_far_count)
        self._last_ns = int(ts_ns[-1])
        flags, unread_count = read_flags(window, self._order, blocks)
        self._count(Loss.BAD_BLOCK_OPTION, unread_count)
        link_types = np.array([interface.link_type for interface in self._interfaces[here]], np.uint16)
        return {
            "number": blocks.number,
            "ts_ns": ts_ns,
            "link_type": link_types[blocks.interface],
            "interface": (blocks.interface + self._section_at).astype(np.uint16),
            "length": blocks.length,
            "captured": blocks.captured,
            "flags": flags,
            "data_at": blocks.data_at,
        }


def _absurd(block_len: int) -> bool:
    return block_len < _MIN_BLOCK_LEN or block_len % 4 != 0 or block_len > _MAX_BLOCK_LEN


def _section_problem(head: bytes) -> str | None:
    """What is wrong with the first bytes of a section header block (section 4.1)."""
    if len(head) < _SECTION_HEADER_LEN:
        return f"the file ends inside the pcapng section header ({len(head)} of {_SECTION_HEADER_LEN} bytes)"
    order = _BYTE_ORDERS.get(head[8:12])
    if order is None:
        return f"a pcapng section header with byte-order magic {head[8:12].hex(' ')}"
    block_len, major, minor = struct.unpack_from(f"{order}I4xHH", head, 4)
    if _absurd(block_len) or block_len < _SECTION_HEADER_LEN:
        return f"a pcapng section header that claims a length of {block_len:,} bytes"
    return None if major == 1 else f"pcapng version {major}.{minor} is not supported (1.x is)"
