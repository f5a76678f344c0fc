"""HTTP/1.1 messages of one direction, as an observer reads them (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from pcapdiag.protocols.events import (
    BodyReceived,
    BytesUnread,
    Event,
    Fault,
    MessageEnded,
    RequestStarted,
    ResponseStarted,
    Side,
    TunnelStarted,
)
from pcapdiag.protocols.headers import kept_value, merged, target_text
from pcapdiag.protocols.http1_message import (
    Framing,
    FramingError,
    RequestLine,
    StatusLine,
    find_chunk,
    find_message,
    framing,
    read_fields,
    request_line,
    status_line,
)
from pcapdiag.protocols.reader import Buffer, StreamReader

SECTION_CAP: Final = 64 * 1024
"""Bytes of one header or trailer section that are read."""
_CHUNK_LINE_CAP: Final = 4_096
_SIZE_CAP: Final = 1 << 62

_NEWLINE: Final = re.compile(rb"\n")
_BLANK_LINES: Final = re.compile(rb"(?:\r?\n)*")
_BLANK_LINE: Final = re.compile(rb"\r?\n")
_SECTION_END: Final = re.compile(rb"\n\r?\n")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,32})[ \t]*(?:;[^\n]*)?\r?\n")


class _State(Enum):
    START = auto()
    LENGTH = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    CLOSE = auto()
    TUNNEL = auto()
    LOST = auto()
    LOST_IN_CHUNKS = auto()


_AFTER_SECTION: Final = {
    Framing.LENGTH: _State.LENGTH,
    Framing.CHUNKED: _State.CHUNK_SIZE,
    Framing.CLOSE: _State.CLOSE,
    Framing.TUNNEL: _State.TUNNEL,
}
_COUNTED: Final = frozenset({_State.LENGTH, _State.CHUNK})
_OPEN: Final = frozenset({_State.CLOSE, _State.TUNNEL})
_SEARCHING: Final = frozenset({_State.LOST, _State.LOST_IN_CHUNKS})
_BETWEEN_CHUNKS: Final = frozenset({_State.CHUNK_SIZE, _State.CHUNK_END})


class Http1Reader(StreamReader):
    """Reads the requests, or the responses, of one connection.

    Args:
        side: who sends these bytes: CLIENT for requests, SERVER for responses.
        methods: of the requests the responses answer, in order, read as responses come; None: not known, taken for
            methods whose responses follow the usual rules. Not used any more once responses may have gone by unseen.
        synced: the first byte is the first of a message; otherwise one is searched for.
        at: stream offset of the first byte.
    """

    def __init__(self, side: Side, methods: Sequence[str] | None = None, *, synced: bool = True, at: int = 0) -> None:
        super().__init__(at=at)
        self._side = side
        self._methods = methods if synced else None
        self._answered = 0
        self._state = _State.START if synced else _State.LOST
        self._lost_at = at
        self._scanned = 0
        """Bytes behind `_base` known to hold no end of the section."""
        self._start_seen = False
        """The section under way begins with a sure start line."""
        self._left = 0
        """Bytes of body or chunk still to come."""
        self._body_at = 0
        self._may_switch = False
        """The last request asks for another protocol: what follows it need not be HTTP."""
        self._steps = {
            _State.START: self._section,
            _State.LENGTH: self._count,
            _State.CHUNK_SIZE: self._chunk_size,
            _State.CHUNK: self._count,
            _State.CHUNK_END: self._chunk_end,
            _State.TRAILERS: self._trailers,
            _State.CLOSE: self._all,
            _State.TUNNEL: self._all,
            _State.LOST: self._search,
            _State.LOST_IN_CHUNKS: self._search,
        }

    def _read(self, buf: Buffer, events: list[Event]) -> int:
        at, end = 0, len(buf)
        self._need = 0
        while at < end and not self._need:
            at = self._steps[self._state](buf, at, end, events)
        return at

    # header sections

    def _section(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        if not self._scanned:
            blank = _BLANK_LINES.match(buf, at)
            at = blank.end() if blank is not None else at
            if at == end:
                return at
            if end - at == 1 and buf[at] == 0x0D:
                self._need = 2
                return at
        limit = min(end, at + SECTION_CAP)
        if not self._start_seen:
            newline = _NEWLINE.search(buf, at + self._scanned, limit)
            if newline is None:
                return self._wait(at, end, limit - at, events)
            if self._start_line(bytes(buf[at : newline.start()])) is None:
                return self._no_start(at, at + 1, "no start line where a message should start", events)
            self._start_seen, self._scanned = True, newline.start() - at
        section = _SECTION_END.search(buf, at + self._scanned, limit)
        if section is None:
            return self._wait(at, end, max(self._scanned, limit - at - 2), events)
        self._message(bytes(buf[at : section.end()]), self._base + at, events)
        return section.end()

    def _wait(self, at: int, end: int, scanned: int, events: list[Event]) -> int:
        if end - at >= SECTION_CAP:
            return self._no_start(at, at + SECTION_CAP, "header section too long to be read", events)
        self._need, self._scanned = end - at + 1, scanned
        return at

    def _no_start(self, at: int, until: int, what: str, events: list[Event]) -> int:
        if self._may_switch and self._state is _State.START and not self._start_seen:
            self._enter(_State.TUNNEL, self._base + at)
            events.append(TunnelStarted(self._base + at, self._base + at))
            return at
        self._lose(self._base + at, self._base + until, what, _State.LOST, events)
        return until

    def _start_line(self, line: bytes) -> RequestLine | StatusLine | None:
        return request_line(line) if self._side is Side.CLIENT else status_line(line)

    def _message(self, section: bytes, at: int, events: list[Event]) -> None:
        """Gives the message that a whole section starts, and decides how its body ends."""
        end = at + len(section)
        line = self._start_line(section.partition(b"\n")[0])
        fields, malformed = read_fields(section)
        headers = merged((name.decode("ascii"), kept_value(name, value)) for name, value in fields)
        method, status = self._method(), None
        if isinstance(line, RequestLine):
            method = line.method
            self._may_switch = method == b"CONNECT" or "upgrade" in headers
            events.append(RequestStarted(at, end, method.decode("ascii"), target_text(line.target), line.version, headers))
        elif line is not None:
            status = line.status
            self._answered += status >= 200
            events.append(ResponseStarted(at, end, status, line.version, headers))
        if malformed:
            events.append(Fault(at, end, "header section with a line that is no field"))
        try:
            how, self._left = framing(fields, method, status)
        except FramingError as error:
            self._lose(end, end, str(error), _State.LOST, events)
            return
        if how is Framing.TUNNEL:
            events.append(TunnelStarted(end, end))
        self._enter(_AFTER_SECTION.get(how, _State.START), end)
        if how is Framing.NONE and (status is None or status >= 200):
            events.append(MessageEnded(end, end))
        elif how is Framing.LENGTH and not self._left:
            self._counted(end, events)

    def _method(self) -> bytes | None:
        if self._methods is None or self._answered >= len(self._methods):
            return None
        return self._methods[self._answered].encode("ascii", "replace")

    def _enter(self, state: _State, at: int) -> None:
        self._state, self._body_at = state, at
        self._scanned, self._start_seen = 0, False

    # bodies

    def _count(self, _buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        step = min(self._left, end - at)
        self._left -= step
        if not self._left:
            self._counted(self._base + at + step, events)
        return at + step

    def _counted(self, end: int, events: list[Event]) -> None:
        """The body, or the chunk, ends at stream offset `end`."""
        if end > self._body_at:
            events.append(BodyReceived(self._body_at, end))
        if self._state is _State.CHUNK:
            self._enter(_State.CHUNK_END, end)
        else:
            events.append(MessageEnded(end, end))
            self._enter(_State.START, end)

    def _chunk_size(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        """Reads a chunk-size line; chunks that are there as a whole, right here (RFC 9112 section 7.1)."""
        line, base = _CHUNK_SIZE.match(buf, at, min(end, at + _CHUNK_LINE_CAP)), self._base
        while line is not None:
            size, data_at = int(line[1], 16), line.end()
            data_end = data_at + size
            if not size or data_end + 2 > end or buf[data_end] != 0x0D or buf[data_end + 1] != 0x0A:
                break
            events.append(BodyReceived(base + data_at, base + data_end))
            at = data_end + 2
            line = _CHUNK_SIZE.match(buf, at, min(end, at + _CHUNK_LINE_CAP))
        self._body_at = base + at
        if line is None:
            if end - at < _CHUNK_LINE_CAP and _NEWLINE.search(buf, at) is None:
                self._need = end - at + 1
                return at
            return self._no_chunk(at, "no chunk size where a chunk should start", events)
        if size > _SIZE_CAP:
            return self._no_chunk(at, "chunk of an impossible size", events)
        self._left = size
        self._enter(_State.CHUNK if size else _State.TRAILERS, base + data_at)
        return data_at

    def _chunk_end(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        blank = _BLANK_LINE.match(buf, at)
        if blank is not None:
            self._enter(_State.CHUNK_SIZE, self._base + blank.end())
            return blank.end()
        if end - at < 2 and buf[at] == 0x0D:
            self._need = 2
            return at
        return self._no_chunk(at, "chunk longer than its size", events)

    def _no_chunk(self, at: int, what: str, events: list[Event]) -> int:
        self._lose(self._base + at, self._base + at + 1, what, _State.LOST_IN_CHUNKS, events)
        return at

    def _trailers(self, buf: Buffer, at: int, end: int, events: list[Event]) -> int:
        limit = min(end, at + SECTION_CAP)
        found = _BLANK_LINE.match(buf, at) or _SECTION_END.search(buf, at + self._scanned, limit)
        if found is None:
            return self._wait(at, end, max(0, limit - at - 2), events)
        finish = self._base + found.end()
        events.append(MessageEnded(finish, finish))
        self._enter(_State.START, finish)
        return found.end()

    def _all(self, _buf: Buffer, _at: int, end: int, _events: list[Event]) -> int:
        return end

    # sync

    def _lose(self, at: int, end: int, what: str, state: _State, events: list[Event]) -> None:
        """Bytes [at, end) tell that the phase is unknown: a message is searched for from `at` on."""
        events.append(Fault(at, end, what))
        self._enter(state, at)
        self._lost_at = at
        self._may_switch = False

    def _search(self, buf: Buffer, at: int, _end: int, events: list[Event]) -> int:
        return self._find(buf, at, events, closed=False)

    def _find(self, buf: Buffer, at: int, events: list[Event], *, closed: bool) -> int:
        """Takes up reading where a message, or a chunk of the message that was lost, surely begins."""
        found, need = find_message(buf, at, self._side, closed=closed)
        state = _State.START
        if self._state is _State.LOST_IN_CHUNKS:
            chunk, chunk_need = find_chunk(buf, at, closed=closed)
            if chunk < found:
                found, need, state = chunk, chunk_need, _State.CHUNK_SIZE
            elif need and not closed and chunk - 2 < found:  # the line break before its digits must stay, too
                found, need = max(at, chunk - 2), need + found - max(at, chunk - 2)
        self._need = need
        if not need:
            begin = self._base + found
            if begin > self._lost_at:
                events.append(BytesUnread(self._lost_at, begin))
            if state is _State.START:
                self._methods = None
            self._enter(state, begin)
        return found

    def _settle(self, events: list[Event]) -> None:
        """No bytes follow those that wait: decides by what there is where messages begin."""
        while self._state in _SEARCHING and self._tail:
            found = self._find(self._tail, 0, events, closed=True)
            self._base += found
            del self._tail[:found]
            if not self._need:
                used = self._read(self._tail, events)
                self._base += used
                del self._tail[:used]

    # holes and the end

    def _miss(self, length: int, events: list[Event]) -> None:
        self._settle(events)
        while length and self._state in _COUNTED:
            step = min(self._left, length)
            self._count(b"", 0, step, events)
            self._base += step
            length -= step
        if not length or self._state in _OPEN or self._state in _SEARCHING:
            self._drop_tail(length)
            return
        hole = self.next
        state = _State.LOST_IN_CHUNKS if self._state in _BETWEEN_CHUNKS else _State.LOST
        inside = self._tail or self._state is not _State.START
        what = "bytes missing inside a header section or chunk framing" if inside else "bytes missing where a message starts"
        self._lose(hole, hole + length, what, state, events)
        self._lost_at = self._base
        self._drop_tail(length)

    def _end(self, events: list[Event], *, closed: bool) -> None:
        self._settle(events)
        end, state = self.next, self._state
        if state is _State.START and self._tail and self._may_switch and not self._start_seen:
            events.append(TunnelStarted(self._base, self._base))
            self._enter(_State.TUNNEL, self._base)
            state = _State.TUNNEL
        if state in _SEARCHING and end > self._lost_at:
            events.append(BytesUnread(self._lost_at, end))
        if (state in _COUNTED or state in _OPEN) and end > self._body_at:
            events.append(BodyReceived(self._body_at, end))
        if closed and state is _State.CLOSE:
            events.append(MessageEnded(end, end))
        elif closed and state is _State.START and self._tail.strip():
            events.append(Fault(self._base, end, "stream ends inside a header section"))
        elif closed and state not in _OPEN and state not in _SEARCHING and state is not _State.START:
            events.append(Fault(self._body_at, end, "stream ends inside a body"))
        self._drop_tail()
        self._enter(_State.START, end)
