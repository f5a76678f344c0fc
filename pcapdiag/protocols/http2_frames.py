"""HTTP/2 frames (RFC 9113 sections 4.1 and 6): headers, control payloads, and where frames begin in bytes of unknown phase."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from pcapdiag.protocols.events import (
    Event,
    FrozenMap,
    GoawayReceived,
    PingReceived,
    PriorityReceived,
    SettingsReceived,
    StreamReset,
    WindowUpdated,
)
from pcapdiag.protocols.headers import printable
from pcapdiag.protocols.reader import Buffer

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_LEN: Final = 9
HEADER: Final = Struct(">LBL")
"""Length << 8 | type, flags, stream identifier with its reserved bit."""
DEFAULT_MAX_FRAME_LEN: Final = 16_384
"""SETTINGS_MAX_FRAME_SIZE before anyone changes it (RFC 9113 section 6.5.2)."""
CONTROL_CAP: Final = 64 * 1024
"""Bytes that are read of one frame that is neither DATA nor part of a header block."""
PLAUSIBLE_FRAME_LEN: Final = 1 << 20
"""No real sender makes larger frames; a longer one means that the phase is wrong."""

STREAM_BITS: Final = 0x7FFF_FFFF

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

_DEBUG_CAP: Final = 128
_SETTING: Final = Struct(">HL")
_WORD: Final = Struct(">L")
_TWO_WORDS: Final = Struct(">LL")

_CHAIN_LEN: Final = 4
"""Headers that must follow each other; random bytes pass one in about 10**7, so never four."""


class FrameType(IntEnum):
    """Frame types (RFC 9113 section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_ODD_STREAM: Final = rb"[\x00-\x7f][\x00-\xff]{2}[" + b"".join(rb"\x%02x" % odd for odd in range(1, 256, 2)) + rb"]"
"""Clients number streams oddly; pushed, even ones are too rare to look for."""
_LEN: Final = rb"[\x00-\x10][\x00-\xff]{2}"
_SHAPES: Final = (
    _LEN + rb"\x00[\x00\x01\x08\x09]" + _ODD_STREAM,
    _LEN + rb"\x01[\x00\x01\x04\x05\x08\x09\x0c\x0d\x20\x21\x24\x25\x28\x29\x2c\x2d]" + _ODD_STREAM,
    rb"\x00\x00\x05\x02\x00" + _ODD_STREAM,
    rb"\x00\x00\x04\x03\x00" + _ODD_STREAM,
    rb"\x00[\x00-\x01][\x00-\xff]\x04\x00\x00{4}",
    rb"\x00{3}\x04\x01\x00{4}",
    _LEN + rb"\x05[\x00\x04\x08\x0c]" + _ODD_STREAM,
    rb"\x00\x00\x08\x06[\x00\x01]\x00{4}",
    rb"\x00[\x00-\x40][\x00-\xff]\x07\x00\x00{4}",
    rb"\x00\x00\x04\x08\x00(?:\x00{4}|" + _ODD_STREAM + rb")",
    _LEN + rb"\x09[\x00\x04]" + _ODD_STREAM,
)
_OUTLINE: Final = _LEN + rb"(?:[\x00-\x03\x05\x08\x09][\x00-\xff]" + _ODD_STREAM + rb"|[\x04\x06-\x08][\x00\x01]\x00{4})"
"""What all shapes share; rejects most bytes before the shapes are tried one by one."""
_FRAME: Final = re.compile(rb"(?=" + _OUTLINE + rb")(?:" + b"|".join(_SHAPES) + rb")")
_START: Final = re.compile(_FRAME.pattern + b"|" + re.escape(PREFACE))

_FIXED_LEN: Final = {FrameType.PRIORITY: 5, FrameType.RST_STREAM: 4, FrameType.PING: 8, FrameType.WINDOW_UPDATE: 4}
_OF_CONNECTION: Final = frozenset({FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY})
_WITH_FRAGMENT: Final = frozenset({FrameType.HEADERS, FrameType.PUSH_PROMISE, FrameType.CONTINUATION})


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame header, and where in the stream it lies."""

    at: int
    length: int
    """Bytes of payload."""
    kind: int
    flags: int
    stream_id: int

    @classmethod
    def read(cls, buf: Buffer, at: int, base: int) -> Frame:
        """The header at index `at` of bytes that begin at stream offset `base`."""
        word, flags, stream_id = HEADER.unpack_from(buf, at)
        return cls(base + at, word >> 8, word & 0xFF, flags, stream_id & STREAM_BITS)

    @property
    def end(self) -> int:
        """Stream offset behind the payload."""
        return self.at + HEADER_LEN + self.length

    @property
    def is_known(self) -> bool:
        """Whether RFC 9113 defines the type."""
        return self.kind <= FrameType.CONTINUATION

    @property
    def has_fragment(self) -> bool:
        """Whether it carries a piece of a header block."""
        return self.kind in _WITH_FRAGMENT

    @property
    def name(self) -> str:
        """The type as RFC 9113 spells it."""
        return FrameType(self.kind).name if self.is_known else f"0x{self.kind:02x}"


def header_fault(frame: Frame) -> str | None:
    """What RFC 9113 section 6 forbids about a frame header of a known type; None: nothing."""
    kind, length = frame.kind, frame.length
    if not frame.is_known:
        return None
    if kind in _OF_CONNECTION and frame.stream_id:
        return f"{frame.name} frame on a stream"
    if kind not in _OF_CONNECTION and kind != FrameType.WINDOW_UPDATE and not frame.stream_id:
        return f"{frame.name} frame without a stream"
    wrong_len = (
        length != _FIXED_LEN.get(FrameType(kind), length)
        or (kind == FrameType.SETTINGS and (length % 6 != 0 or (frame.flags & ACK != 0 and length > 0)))
        or (kind == FrameType.GOAWAY and length < 8)
    )
    return f"{frame.name} frame of an impossible length" if wrong_len else None


def find_start(buf: Buffer, start: int, *, largest: int, closed: bool) -> tuple[int, int]:
    """Finds the first chain of frames, or a preface, in `buf` at or behind `start`.

    Args:
        buf: bytes of unknown phase.
        start: index to begin at.
        largest: longest frame that counts as plausible, bytes.
        closed: no bytes follow `buf`: a shorter chain that its end cuts is accepted.

    Returns:
        (index, 0): frames begin at index; (index, need): no frame begins before index, and to say more takes
        `need` bytes from there on.
    """
    end = len(buf)
    while (found := _START.search(buf, start)) is not None:
        start = found.start()
        if found.end() - start > HEADER_LEN:
            return start, 0
        need = _chain(buf, start, largest=largest, closed=closed)
        if need >= 0:
            return start, need
        start += 1
    return (end, 1) if closed else (max(start, end - len(PREFACE) + 1), len(PREFACE))


def _chain(buf: Buffer, start: int, *, largest: int, closed: bool) -> int:
    """0: frames chain from `start` on; positive: bytes from `start` needed to tell; -1: they do not."""
    at, end = start, len(buf)
    for seen in range(_CHAIN_LEN):
        if at + HEADER_LEN > end:
            if not closed:
                return at + HEADER_LEN - start
            return 0 if seen > 1 or at == end else -1
        if _FRAME.match(buf, at) is None:
            return -1
        length = HEADER.unpack_from(buf, at)[0] >> 8
        if length > largest:
            return -1
        at += HEADER_LEN + length
    return 0


def _priority(at: int, end: int, stream_id: int, _flags: int, _payload: bytes) -> Event:
    return PriorityReceived(at, end, stream_id)


def _reset(at: int, end: int, stream_id: int, _flags: int, payload: bytes) -> Event:
    return StreamReset(at, end, stream_id, _WORD.unpack(payload)[0])


def _settings(at: int, end: int, _stream_id: int, flags: int, payload: bytes) -> Event:
    return SettingsReceived(at, end, FrozenMap(_SETTING.iter_unpack(payload)), flags & ACK != 0)


def _ping(at: int, end: int, _stream_id: int, flags: int, payload: bytes) -> Event:
    return PingReceived(at, end, flags & ACK != 0, payload)


def _goaway(at: int, end: int, _stream_id: int, _flags: int, payload: bytes) -> Event:
    last_stream_id, error_code = _TWO_WORDS.unpack_from(payload)
    return GoawayReceived(at, end, last_stream_id & STREAM_BITS, error_code, printable(payload[8:], _DEBUG_CAP))


def _window_update(at: int, end: int, stream_id: int, _flags: int, payload: bytes) -> Event:
    return WindowUpdated(at, end, stream_id, _WORD.unpack(payload)[0] & STREAM_BITS)


_Maker = Callable[[int, int, int, int, bytes], Event]

CONTROL_EVENTS: Final[Mapping[int, _Maker]] = {
    FrameType.PRIORITY: _priority,
    FrameType.RST_STREAM: _reset,
    FrameType.SETTINGS: _settings,
    FrameType.PING: _ping,
    FrameType.GOAWAY: _goaway,
    FrameType.WINDOW_UPDATE: _window_update,
}
"""Type -> what makes the event of a whole frame that `header_fault` passes; takes at, end, stream, flags, payload."""

SHORT_EVENTS: Final = {
    5 << 8 | FrameType.PRIORITY: _priority,
    4 << 8 | FrameType.RST_STREAM: _reset,
    -(8 << 8 | FrameType.PING): _ping,
    4 << 8 | FrameType.WINDOW_UPDATE: _window_update,
    -(4 << 8 | FrameType.WINDOW_UPDATE): _window_update,
}
"""Frames of one valid length, by the first word of their header; negative: those of the connection."""


def event_maker(word: int, flags: int, stream_id: int) -> _Maker | None:
    """What makes the event of a whole control frame, by its header, if that is plainly valid; see CONTROL_EVENTS."""
    maker = SHORT_EVENTS.get(word if stream_id else -word)
    if maker is not None or stream_id:
        return maker
    length, kind = word >> 8, word & 0xFF
    if length > CONTROL_CAP:
        return None
    if kind == FrameType.SETTINGS:
        return _settings if length % 6 == 0 and not (flags & ACK and length) else None
    return _goaway if kind == FrameType.GOAWAY and length >= 8 else None
