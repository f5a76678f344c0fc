"""gRPC over HTTP/2: length-prefixed messages and timeouts (gRPC PROTOCOL-HTTP2)."""

from __future__ import annotations

import re
from struct import Struct
from typing import Final

from pcapdiag.protocols.events import Event, Fault, GrpcMessageReceived

_PREFIX: Final = Struct(">BL")
_PLAUSIBLE_LEN: Final = 4 << 20
"""Bytes of a message that receivers accept by default; a longer one is no sure start behind a hole."""
_LONG_LEN: Final = 1_024
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_NS: Final = {"H": 3_600_000_000_000, "M": 60_000_000_000, "S": 1_000_000_000, "m": 1_000_000, "u": 1_000, "n": 1}


def parse_timeout(text: str) -> int | None:
    """The value of grpc-timeout in nanoseconds; None when it is none."""
    found = _TIMEOUT.fullmatch(text)
    return None if found is None else int(found[1]) * _UNIT_NS[found[2]]


class GrpcMessageReader:
    """Reads the messages of one direction of one HTTP/2 stream; the caller tells where each piece of it lies.

    Behind a hole it takes up where a piece looks like a whole message or the start of one: feed the payload of one
    DATA frame at a time.
    """

    def __init__(self) -> None:
        self._prefix = bytearray()
        """The first bytes of a prefix that is not whole."""
        self._at = 0
        """Where the message under way begins."""
        self._left: int | None = None
        """Bytes of it still to come; None: its prefix is not whole."""
        self._length = 0
        self._compressed = False
        self._lost = False
        self._seen_end = 0

    def feed(self, data: bytes | memoryview, at: int) -> list[Event]:
        """Takes the payload bytes that follow, which lie at stream offset `at`."""
        events: list[Event] = []
        index, end = 0, len(data)
        self._seen_end = at + end
        if self._lost and end:
            self._lost = not _looks_whole(data)
        while index < end and not self._lost:
            if self._left is None:
                index = self._read_prefix(data, index, at, events)
            else:
                step = min(self._left, end - index)
                index += step
                self._left -= step
            if self._left == 0:
                self._complete(at + index, events)
        return events

    def skip(self, at: int, length: int) -> list[Event]:
        """Passes over payload bytes [at, at + length) that were never captured."""
        events: list[Event] = []
        if self._lost:
            return events
        self._seen_end = at + length
        if self._left is not None:
            step = min(self._left, length)
            self._left -= step
            if self._left == 0:
                self._complete(at + step, events)
            if step == length:
                return events
        events.append(Fault(at, at + length, "bytes missing where a gRPC message starts"))
        self._lost = True
        self._prefix.clear()
        return events

    def finish(self) -> list[Event]:
        """Ends the stream."""
        if self._lost or (self._left is None and not self._prefix):
            return []
        return [Fault(self._at, self._seen_end, "stream ends inside a gRPC message")]

    def _read_prefix(self, data: bytes | memoryview, index: int, at: int, events: list[Event]) -> int:
        if not self._prefix:
            self._at = at + index
        taken = min(_PREFIX.size - len(self._prefix), len(data) - index)
        self._prefix += data[index : index + taken]
        if len(self._prefix) == _PREFIX.size:
            flag, self._length = _PREFIX.unpack(self._prefix)
            self._prefix.clear()
            if flag > 1:
                self._lost = True
                events.append(Fault(self._at, at + index + taken, "no gRPC message where one should start"))
            else:
                self._left, self._compressed = self._length, flag == 1
        return index + taken

    def _complete(self, end: int, events: list[Event]) -> None:
        events.append(GrpcMessageReceived(self._at, end, self._length, self._compressed))
        self._left = None


def _looks_whole(data: bytes | memoryview) -> bool:
    """Whether the bytes are messages one behind the other; the last may go on when the piece is as long as full frames are."""
    at, end = 0, len(data)
    while at + _PREFIX.size <= end:
        flag, length = _PREFIX.unpack_from(data, at)
        if flag > 1 or length > _PLAUSIBLE_LEN:
            return False
        at += _PREFIX.size + length
    return at == end or (at > end >= _LONG_LEN)
