"""The bytes of one direction of a flow, played to a protocol reader; holes are told to it, and kept."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pcapdiag.streams import Streams

E_co = TypeVar("E_co", covariant=True)
E = TypeVar("E")

Piece = tuple[int, int, "bytes | memoryview | None"]
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
    """The runs of one direction, from a stream offset on."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        self._starts = [start for start, _, _ in pieces]

    @classmethod
    def of(cls, streams: Streams, fd: int, unseen: tuple[int, int] | None = None) -> Tape:
        """All that is known of a direction; `unseen`: how far holes reach that were acknowledged."""
        pieces: list[Piece] = [(run.start, run.stop, run.data) for run in streams.runs(fd)]
        if unseen is not None and pieces:
            low, high = unseen
            if low < pieces[0][0]:
                pieces.insert(0, (low, pieces[0][0], None))
            if high > pieces[-1][1]:
                pieces.append((pieces[-1][1], high, None))
        elif unseen is not None:
            pieces.append((*unseen, None))
        return cls(pieces)

    @property
    def start(self) -> int:
        """Stream offset of the first byte, 0 for an empty tape."""
        return self.pieces[0][0] if self.pieces else 0

    @property
    def stop(self) -> int:
        """Stream offset behind the last byte, 0 for an empty tape."""
        return self.pieces[-1][1] if self.pieces else 0

    def behind(self, offset: int) -> Tape:
        """The part that begins at a stream offset."""
        return Tape(list(self.between(offset, self.stop)))

    def between(self, start: int, stop: int) -> Iterator[Piece]:
        """The pieces of [start, stop), cut to fit."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self.pieces) and self.pieces[index][0] < stop:
            first, last, data = self.pieces[index]
            left, right = max(first, start), min(last, stop)
            if left < right:
                cut = data is not None and (left, right) != (first, last)
                yield left, right, memoryview(data)[left - first : right - first] if cut and data is not None else data
            index += 1

    def head(self, length: int) -> bytes:
        """The first captured bytes in one piece, at most `length`."""
        return bytes(next((data[:length] for _, _, data in self.pieces if data is not None), b""))

    def begins_at(self, offset: int) -> bool:
        """Whether the byte at `offset` is the first one and was captured; true of an empty tape."""
        return not self.pieces or (self.start == offset and self.pieces[0][2] is not None)

    def play(self, reader: Reader[E]) -> Iterator[E]:
        """Feeds the reader everything and gives its events; finishing it is left to the caller."""
        for start, stop, data in self.pieces:
            yield from reader.skip(stop - start) if data is None else reader.feed(data)
