"""Server-sent events, as token streams use them (WHATWG HTML, section 9.2: text/event-stream)."""

from __future__ import annotations

import re
from typing import Final

from pcapdiag.protocols.events import Event, Fault, SseCommentReceived, SseEventReceived
from pcapdiag.protocols.headers import printable

_LINE_END: Final = re.compile(rb"\r\n?|\n")
_PLAIN: Final = re.compile(rb"(?:event: ?([^\r\n]*)\r?\n)?data: ?([^\r\n]*)(\n\n|\r\n\r\n?)")
_BOM: Final = b"\xef\xbb\xbf"
_HEAD_LEN: Final = 128
"""Bytes of a line that are looked at; of the rest only the length counts."""
_NAME_CAP: Final = 64
_DONE: Final = b"[DONE]"
_LAST_NAMES: Final = frozenset({"message_stop"})


class SseReader:
    """Reads the body of one event stream; the caller tells where in the TCP stream each piece of it lies."""

    def __init__(self) -> None:
        self._head = bytearray()
        """The first bytes of the line under way."""
        self._line_len = 0
        self._line_at = 0
        self._first_line = True
        self._after_cr = False
        """The last line ended in a carriage return: a line feed may belong to it."""
        self._lost = False
        """A hole went by: nothing counts before the next blank line."""
        self._event_at = -1
        """Where the event under way begins; -1: none has begun."""
        self._name = ""
        self._data = b""
        """The head of the first data line."""
        self._data_lens: list[int] = []
        self._seen_end = 0

    def feed(self, data: bytes | memoryview, at: int) -> list[Event]:
        """Takes the body bytes that follow, which lie at stream offset `at`."""
        events: list[Event] = []
        start, end = 0, len(data)
        if self._after_cr and end and data[0] == 0x0A:
            start = 1
        if end:
            self._after_cr = data[end - 1] == 0x0D
            self._seen_end = at + end
        while True:
            if self._event_at < 0 and not (self._line_len or self._lost or self._first_line):
                start = self._plain(data, start, at, events)
            mark = _LINE_END.search(data, start)
            if mark is None:
                break
            stop = mark.start()
            if self._line_len:
                self._add(data, start, stop, at)
                self._line(bytes(self._head), self._line_len, self._line_at, at + stop + 1, events)
                self._head.clear()
                self._line_len = 0
            else:
                self._line(bytes(data[start : min(stop, start + _HEAD_LEN)]), stop - start, at + start, at + stop + 1, events)
            start = mark.end()
        self._add(data, start, end, at)
        return events

    def skip(self, at: int, length: int) -> list[Event]:
        """Passes over body bytes [at, at + length) that were never captured; the event they touch is given up."""
        self._forget()
        self._head.clear()
        self._line_len, self._line_at = 1, at  # what follows is the end of a line, whatever it looks like
        self._head += b"?"
        self._after_cr, self._lost, self._first_line = False, True, False
        self._seen_end = at + length
        return [Fault(at, at + length, "bytes missing inside an event stream")]

    def finish(self) -> list[Event]:
        """Ends the body; an event without its blank line is no event."""
        if self._lost or (self._event_at < 0 and not self._line_len):
            return []
        return [Fault(self._event_at if self._event_at >= 0 else self._line_at, self._seen_end, "event stream ends inside an event")]

    def _plain(self, data: bytes | memoryview, start: int, at: int, events: list[Event]) -> int:
        """Reads events of the shape token streams have, as long as they are there as a whole."""
        while (found := _PLAIN.match(data, start)) is not None:
            name, value_len, ends = printable(found[1] or b"", _NAME_CAP), found.end(2) - found.start(2), found.start(3)
            blank_end = ends + (2 if data[ends] == 0x0A else 3)
            done = name in _LAST_NAMES or (value_len == len(_DONE) and found[2] == _DONE)
            events.append(SseEventReceived(at + start, at + blank_end, name, value_len, done, name == "error"))
            start = found.end()
        return start

    def _add(self, data: bytes | memoryview, start: int, stop: int, at: int) -> None:
        """Adds a piece of a line to the line under way."""
        if stop > start:
            if not self._line_len:
                self._line_at = at + start
            self._line_len += stop - start
            self._head += data[start : min(stop, start + _HEAD_LEN - len(self._head))]

    def _line(self, head: bytes, length: int, at: int, end: int, events: list[Event]) -> None:
        """Interprets one line of `length` bytes that begins with `head`."""
        if self._first_line:
            self._first_line = False
            if head.startswith(_BOM):
                head, length = head[len(_BOM) :], length - len(_BOM)
        if not length:
            if self._event_at >= 0:
                events.append(self._event(end))
            self._lost = False
            self._forget()
        elif self._lost:
            return
        elif head[0] == 0x3A:
            events.append(SseCommentReceived(at, end))
        else:
            if self._event_at < 0:
                self._event_at = at
            self._field(head, length)

    def _field(self, head: bytes, length: int) -> None:
        name, colon, value = head.partition(b":")
        value_len = length - len(name) - len(colon)
        if value.startswith(b" "):
            value, value_len = value[1:], value_len - 1
        if name == b"data":
            if not self._data_lens:
                self._data = value
            self._data_lens.append(value_len)
        elif name == b"event":
            self._name = printable(value, _NAME_CAP)

    def _event(self, end: int) -> SseEventReceived:
        lens = self._data_lens
        data_len = sum(lens) + max(0, len(lens) - 1)
        done = self._name in _LAST_NAMES or (len(lens) == 1 and data_len == len(_DONE) and self._data == _DONE)
        return SseEventReceived(self._event_at, end, self._name, data_len, done, self._name == "error")

    def _forget(self) -> None:
        self._event_at = -1
        self._name, self._data = "", b""
        self._data_lens.clear()
