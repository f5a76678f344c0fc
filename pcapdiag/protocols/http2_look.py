"""HTTP/2 frames read where they lie: most bytes of a connection are DATA, of which only the frame headers matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pcapdiag.protocols.events import DataReceived, Event, PrefaceReceived, Side
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
    SHORT_EVENTS,
    STREAM_BITS,
    Frame,
    FrameType,
)

if TYPE_CHECKING:
    from pcapdiag.protocols.reader import Source

_AT_ONCE: Final = 256
"""Events given at a time."""
_PRIORITY_LEN: Final = 5  # RFC 9113 section 6.2


class LookingHttp2Reader(Http2Reader):
    """An Http2Reader that may also look bytes up instead of being fed all of them; the events are the same."""

    def look_through(self, source: Source) -> list[Event]:
        """Reads frames where they lie, without a look at what no event needs, for some hundred events.

        Stops where more is needed than a look: at a hole in a frame other than DATA, at a frame that its source does not
        hold to its end, out of sync. `feed` and `skip` go on from `at`; what they would give is what this gives.
        """
        events: list[Event] = []
        if not self._takes_up(source, events):
            return events
        at, low, high, data = self._base, 0, 0, memoryview(b"")
        unpack, append, stop = HEADER.unpack_from, events.append, source.stop
        while len(events) < _AT_ONCE and at + HEADER_LEN <= stop:
            if at + HEADER_LEN > high:
                low, data = source.around(at)
                high = low + len(data)
            header, index = (data, at - low) if at + HEADER_LEN <= high else (source.look(at, HEADER_LEN), 0)
            if header is None:
                break
            word, flags, stream_id = unpack(header, index)
            payload_at = at + HEADER_LEN
            frame_end = payload_at + (word >> 8)
            if frame_end > stop:
                break
            if not word & 0xFF and 0 < stream_id <= STREAM_BITS and not flags & PADDED and self._block is None:
                append(DataReceived(at, frame_end, stream_id, payload_at, frame_end, flags & 1 == 1))
                self._largest = max(self._largest, min(word >> 8, PLAUSIBLE_FRAME_LEN))
                at = frame_end
                continue
            payload = bytes(data[payload_at - low : frame_end - low]) if frame_end <= high else source.look(payload_at, word >> 8)
            if payload is None:
                break
            at = self._looked(at, word, flags, stream_id, payload, events)
            if self._lost_at is not None:
                break
        self._base = at
        return events

    def _looked(self, at: int, word: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> int:
        """Gives the event of the frame at an offset, which is whole; returns the offset behind what was used of it."""
        end = at + HEADER_LEN + len(payload)
        if self._block is None and stream_id <= STREAM_BITS:
            event = SHORT_EVENTS.get(word if stream_id else -word)
            if event is not None:
                events.append(event(at, end, stream_id, flags, payload))
                return end
            if word & 0xFF == FrameType.HEADERS and stream_id and _is_plain(len(payload), flags):
                block = payload[_PRIORITY_LEN:] if flags & PRIORITY_FLAG else payload
                self._decode(at, end, stream_id, None, block, None, events, ends=flags & END_STREAM != 0)
                return end
        self._base = at
        return at + self._frame(HEADER.pack(word, flags, stream_id) + payload, 0, HEADER_LEN + len(payload), events)

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
