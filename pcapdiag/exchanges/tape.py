"""The bytes of one direction of a flow, played to a protocol reader; holes are told to it, and kept."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from pcapdiag.streams import NOWHERE, Strips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pcapdiag.protocols.events import Event
    from pcapdiag.protocols.http2_look import LookingHttp2Reader
    from pcapdiag.protocols.http2_rows import FrameRows
    from pcapdiag.streams import Streams

E_co = TypeVar("E_co", covariant=True)
E = TypeVar("E")

_FED_LEN: Final = 1 << 20
"""Bytes a reader is fed at once: more than the longest header section or frame that it keeps."""

Piece = tuple[int, int, "bytes | None"]
"""Stream offsets [start, stop) and the bytes there, None where the capture holds none."""


class Reader(Protocol[E_co]):
    """What the sans-IO readers have in common; the first byte fed is the first of the tape."""

    def feed(self, data: bytes | memoryview, /) -> Sequence[E_co]:
        """Takes the bytes that follow."""
        ...

    def skip(self, length: int, /) -> Sequence[E_co]:
        """Passes over a hole."""
        ...


class Tape:
    """The bytes of one direction, from a stream offset on. They stay where they are until a reader wants them."""

    __slots__ = ("_addresses", "_read", "_starts", "_stops", "start", "stop")

    def __init__(self, strips: Strips, read: Callable[[int, int], memoryview]) -> None:
        self._starts, self._stops, self._addresses = strips
        self._read = read
        self.start = self._starts[0] if self._starts else 0
        """Stream offset of the first byte, 0 for an empty tape."""
        self.stop = self._stops[-1] if self._stops else 0
        """Stream offset behind the last byte, 0 for an empty tape."""

    @classmethod
    def of(cls, streams: Streams, fd: int, unseen: tuple[int, int] | None = None) -> Tape:
        """All that is known of a direction; `unseen`: how far holes reach that were acknowledged."""
        strips = streams.strips(fd)
        if unseen is not None and strips.starts:
            low, high = unseen
            if low < strips.starts[0]:
                strips = Strips([low, *strips.starts], [strips.starts[0], *strips.stops], [NOWHERE, *strips.addresses])
            if high > strips.stops[-1]:
                strips.add(strips.stops[-1], high, NOWHERE)
        elif unseen is not None:
            strips.add(*unseen, NOWHERE)
        return cls(strips, streams.read)

    @classmethod
    def of_bytes(cls, pieces: Iterable[Piece]) -> Tape:
        """A tape of bytes at hand."""
        strips, lying = Strips([], [], []), bytearray()
        for start, stop, data in pieces:
            strips.add(start, stop, NOWHERE if data is None else len(lying))
            lying += data or b""
        whole = memoryview(bytes(lying))
        return cls(strips, lambda address, length: whole[address : address + length])

    def behind(self, offset: int) -> Tape:
        """The part that begins at a stream offset."""
        strips = Strips([], [], [])
        for start, stop, address in self._strips(offset, self.stop):
            strips.add(start, stop, address)
        return Tape(strips, self._read)

    def between(self, start: int, stop: int) -> Iterator[Piece]:
        """The bytes [start, stop): adjacent captured ones in one piece."""
        parts: list[memoryview] = []
        begin = max(start, self.start)
        for left, right, address in self._strips(start, stop):
            if address != NOWHERE:
                parts.append(self._read(address, right - left))
                continue
            if parts:
                yield begin, left, b"".join(parts)
                parts = []
            yield left, right, None
            begin = right
        if parts:
            yield begin, min(stop, self.stop), b"".join(parts)

    def has_all(self, start: int, stop: int) -> bool:
        """Whether no byte of [start, stop) is missing."""
        return all(address != NOWHERE for _, _, address in self._strips(start, stop))

    def head(self, length: int) -> bytes:
        """The first captured bytes in one piece, at most `length`."""
        if self._starts and self._addresses[0] != NOWHERE and self._stops[0] - self._starts[0] >= length:
            return bytes(self._read(self._addresses[0], length))
        at = next((start for start, address in zip(self._starts, self._addresses, strict=True) if address != NOWHERE), self.stop)
        return next((data for _, _, data in self.between(at, min(at + length, self.stop)) if data is not None), b"")

    def begins_at(self, offset: int) -> bool:
        """Whether the byte at `offset` is the first one and was captured; true of an empty tape."""
        return not self._starts or (self.start == offset and self._addresses[0] != NOWHERE)

    def around(self, at: int) -> tuple[int, memoryview]:
        """The captured bytes of the packet that carried the one at an offset, and the offset of the first of them; none for none."""
        index = bisect_right(self._starts, at) - 1
        if index < 0 or self._addresses[index] == NOWHERE or at >= self._stops[index]:
            return at, memoryview(b"")
        start = self._starts[index]
        return start, self._read(self._addresses[index], self._stops[index] - start)

    def look(self, at: int, length: int) -> bytes | None:
        """The bytes [at, at + length); None when some of them were not captured."""
        found = next(self.between(at, at + length), None)
        return found[2] if found is not None and found[:2] == (at, at + length) else None

    def play(self, reader: Reader[E]) -> Iterator[E]:
        """Feeds the reader everything and gives its events; finishing it is left to the caller."""
        at = self.start
        while (found := self._at_once(at)) is not None:
            start, at, data = found
            yield from reader.skip(at - start) if data is None else reader.feed(data)

    def show(self, reader: LookingHttp2Reader, rows: FrameRows, *, closed: bool = True) -> Iterator[Event]:
        """Shows everything to a reader that looks for itself, and is fed only what it cannot look through; `closed`: as for `finish`.

        Gives the events that are no rows of DATA, HEADERS or WINDOW_UPDATE, and some that are.
        """
        while True:
            yield from reader.look_through(self, rows)
            if (found := self._at_once(reader.next)) is None:
                break
            start, stop, data = found
            yield from rows.taken(reader.skip(stop - start) if data is None else reader.feed(data))
            if stop < self.stop and self.has_all(stop, stop + 1):
                reader.rewind()
        yield from rows.taken(reader.finish(closed=closed))

    def _at_once(self, at: int) -> Piece | None:
        """The hole at an offset, or the captured bytes from there on, not more than a reader should be fed at once."""
        found = next(self._strips(at, self.stop), None)
        if found is None or found[2] == NOWHERE:
            return None if found is None else (found[0], found[1], None)
        return next(self.between(at, min(at + _FED_LEN, self.stop)))

    def _strips(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The strips of [start, stop), cut to fit."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < stop:
            first, last, address = self._starts[index], self._stops[index], self._addresses[index]
            left, right = max(first, start), min(last, stop)
            if left < right:
                yield left, right, address if address == NOWHERE else address + left - first
            index += 1
