"""What the readers of a TCP stream share: bytes that wait for more bytes, and where in the stream they lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from pcapdiag.protocols.events import Event

Buffer = bytes | bytearray | memoryview
"""Bytes a reader looks at; it never keeps a view of them."""


class Source(Protocol):
    """Bytes of one direction that a reader may look up where they lie, by their stream offsets."""

    @property
    def stop(self) -> int:
        """Stream offset behind the last byte known."""
        ...

    def around(self, at: int, /) -> tuple[int, memoryview]:
        """Captured bytes that hold the one at an offset, and the offset of the first of them; none where that was not captured."""
        ...

    def look(self, at: int, length: int, /) -> bytes | None:
        """The bytes [at, at + length); None when some of them were not captured."""
        ...


class StreamReader(ABC):
    """Reads one direction of one TCP connection; where the bytes are cut does not change the events.

    An observer, not an endpoint: nothing that is fed raises, and a fault does not end the reading.
    """

    def __init__(self, *, at: int) -> None:
        self._base = at
        """Stream offset of the first byte not yet consumed."""
        self._tail = bytearray()
        """The bytes from there on, which wait for more."""
        self._need = 1
        """How many of them the next step needs."""

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """Takes the bytes that follow and gives the events that they complete."""
        events: list[Event] = []
        if not self._tail:
            used = self._read(data, events)
            self._base += used
            if used < len(data):
                self._tail += data[used:]
            return events
        self._tail += data
        if len(self._tail) >= self._need:
            used = self._read(self._tail, events)
            self._base += used
            del self._tail[:used]
        return events

    def skip(self, length: int) -> list[Event]:
        """Passes over `length` bytes that were never captured."""
        events: list[Event] = []
        if length > 0:
            self._miss(length, events)
            self._need = 1
        return events

    def finish(self, *, closed: bool = True) -> list[Event]:
        """Ends the stream; `closed`: by FIN, not by RST and not because the capture ends."""
        events: list[Event] = []
        self._end(events, closed=closed)
        return events

    @property
    def next(self) -> int:
        """Stream offset of the next byte that will be fed."""
        return self._base + len(self._tail)

    def _drop_tail(self, length: int = 0) -> None:
        """Consumes the waiting bytes, and `length` missing ones behind them."""
        self._base = self.next + length
        self._tail.clear()

    @abstractmethod
    def _read(self, buf: Buffer, events: list[Event]) -> int:
        """Consumes from `buf`, which begins at `_base`; returns how many bytes. Sets `_need` when it leaves some."""

    @abstractmethod
    def _miss(self, length: int, events: list[Event]) -> None:
        """Accounts for a hole behind the tail; moves `_base` over what it gives up."""

    @abstractmethod
    def _end(self, events: list[Event], *, closed: bool) -> None:
        """Gives what the end of the stream completes, and says what it cuts short."""
