"""HTTP/2 frames read into rows where they lie: most bytes of a connection are DATA, of which only the frame headers matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pcapdiag.protocols.events import Event, Fault, PrefaceReceived, Side
from pcapdiag.protocols.header_block import BlockError
from pcapdiag.protocols.http2 import BLOCK_CAP, Http2Reader
from pcapdiag.protocols.http2_frames import (
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_LEN,
    PADDED,
    PLAUSIBLE_FRAME_LEN,
    PREFACE,
    PRIORITY_FLAG,
    STREAM_BITS,
    Frame,
    FrameType,
    event_maker,
)
from pcapdiag.protocols.http2_rows import FrameRows, H2Kind

if TYPE_CHECKING:
    from pcapdiag.protocols.reader import Source

_DATA: Final = int(H2Kind.DATA)
_WINDOW_UPDATE: Final = 4 << 8 | FrameType.WINDOW_UPDATE
"""Length and type of every valid one."""
_PRIORITY_LEN: Final = 5  # RFC 9113 section 6.2


class LookingHttp2Reader(Http2Reader):
    """An Http2Reader that may also look bytes up instead of being fed all of them; what it sees is the same."""

    def look_through(self, source: Source, rows: FrameRows) -> list[Event]:
        """Reads frames where they lie, without a look at what no row needs, as far as it gets.

        Stops where more is needed than a look: at a hole in a frame other than DATA, at a frame that its source does not
        hold to its end, out of sync. `feed` and `skip` go on from `next`; the rows of what they would give are the same.

        Returns:
            The events that are no rows of DATA, HEADERS or WINDOW_UPDATE; of some of them `rows` has rows, too.
        """
        events: list[Event] = []
        ready = self._takes_up(source, events)
        rows.taken(events)
        if not ready:
            return events
        at, low, high, data = self._base, 0, 0, memoryview(b"")
        unpack, add, stop, largest = HEADER.unpack_from, rows.add, source.stop, self._largest
        while at + HEADER_LEN <= stop:
            if at + HEADER_LEN > high:
                low, data = source.around(at)
                high = low + len(data)
            header, index = (data, at - low) if at + HEADER_LEN <= high else (source.look(at, HEADER_LEN), 0)
            if header is None:
                break
            word, flags, stream_id = unpack(header, index)
            payload_at, length = at + HEADER_LEN, word >> 8
            end = payload_at + length
            if end > stop:
                break
            if not word & 0xFF and 0 < stream_id <= STREAM_BITS and not flags & PADDED and self._block is None:
                add((at, end, _DATA, stream_id, length, flags & END_STREAM))
                if length > largest:
                    largest = self._largest = max(largest, min(length, PLAUSIBLE_FRAME_LEN))
                at = end
                continue
            payload = bytes(data[payload_at - low : end - low]) if end <= high else source.look(payload_at, length)
            if payload is None:
                break
            at = self._looked(at, word, flags, stream_id, payload, rows, events)
            if self._lost_at is not None:
                break
        self._base = at
        return events

    def _looked(self, at: int, word: int, flags: int, stream_id: int, payload: bytes, rows: FrameRows, events: list[Event]) -> int:
        """Reads a frame that is whole; returns the offset behind what was used of it."""
        end = at + HEADER_LEN + len(payload)
        if self._block is None and stream_id <= STREAM_BITS:
            if word & 0xFF == FrameType.HEADERS and stream_id and _is_plain(len(payload), flags):
                block = payload[_PRIORITY_LEN:] if flags & PRIORITY_FLAG else payload
                self._read_block(at, end, stream_id, block, rows, events, ends=flags & END_STREAM != 0)
                return end
            if word == _WINDOW_UPDATE:
                rows.add((at, end, H2Kind.WINDOW_UPDATE, stream_id, int.from_bytes(payload) & STREAM_BITS, False))
                return end
            if (maker := event_maker(word, flags, stream_id)) is not None:
                events += rows.taken([maker(at, end, stream_id, flags, payload)])
                return end
        seen: list[Event] = []
        self._base = at
        at += self._frame(HEADER.pack(word, flags, stream_id) + payload, 0, HEADER_LEN + len(payload), seen)
        events += rows.taken(seen)
        return at

    def _read_block(self, at: int, end: int, stream_id: int, block: bytes, rows: FrameRows, events: list[Event], *, ends: bool) -> None:
        """Reads a header block that is whole in one frame."""
        try:
            headers, unknown_count = self._blocks.read(block)
        except BlockError as error:
            events.append(Fault(at, end, str(error)))
            rows.add_block(at, end, stream_id, None, 0, ends=ends)
        else:
            rows.add_block(at, end, stream_id, headers, unknown_count, ends=ends)

    def _takes_up(self, source: Source, events: list[Event]) -> bool:
        """Whether a frame begins with the next byte, now that the rest of the one under way is passed over."""
        if self._tail or self._lost_at is not None or (self._passing is not None and self._passing.frame.end > source.stop):
            return False
        if self._passing is not None:
            passing, self._passing = self._passing, None
            self._base = passing.frame.end
            self._passed(passing, self._base, events)
        if self._starting:
            self._starting = not self._starts(source, events)
        return not self._starting

    def rewind(self) -> None:
        """Gives bytes back that wait for more, where frames begin with them: `look_through` may go on there."""
        if self._passing is None and self._lost_at is None and not self._starting:
            self._tail.clear()

    def _starts(self, source: Source, events: list[Event]) -> bool:
        """Whether the connection begins as it should."""
        if self._side is Side.SERVER:
            header = source.look(self._base, HEADER_LEN)
            return header is not None and Frame.read(header, 0, 0).kind == FrameType.SETTINGS
        if source.look(self._base, len(PREFACE)) != PREFACE:
            return False
        events.append(PrefaceReceived(self._base, self._base + len(PREFACE)))
        self._base += len(PREFACE)
        return True


def _is_plain(length: int, flags: int) -> bool:
    """Is the payload of a HEADERS frame one whole block, behind the priority fields if there are any?"""
    least = _PRIORITY_LEN if flags & PRIORITY_FLAG else 0
    return flags & (END_HEADERS | PADDED) == END_HEADERS and least <= length <= BLOCK_CAP
