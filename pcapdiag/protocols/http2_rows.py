"""HTTP/2 frames as rows of numbers: connections have far more of them than it pays to make objects of (RFC 9113)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from pcapdiag.protocols.events import (
    DataReceived,
    Event,
    FrozenMap,
    GoawayReceived,
    Headers,
    HeadersReceived,
    PingReceived,
    SettingsReceived,
    StreamReset,
    WindowUpdated,
)
from pcapdiag.protocols.http2_frames import HEADER_LEN

ROW_LEN: Final = 6
"""Numbers of a row: at, end, kind, stream_id, value, end_stream."""


class H2Kind(IntEnum):
    """What a row is; `value` means what the line says."""

    SETTINGS_INITIAL_WINDOW = 0
    """SETTINGS_INITIAL_WINDOW_SIZE: bytes the peer may send on each stream (RFC 9113 section 6.9.2)."""
    SETTINGS_MAX_STREAMS = 1
    """SETTINGS_MAX_CONCURRENT_STREAMS: streams the peer may open."""
    SETTINGS_MAX_FRAME = 2
    """SETTINGS_MAX_FRAME_SIZE, bytes."""
    SETTINGS = 3
    """A SETTINGS frame that is no acknowledgement; value: how many settings it has."""
    SETTINGS_ACK = 4
    WINDOW_UPDATE = 5
    """value: increment, bytes; stream 0 is the connection."""
    DATA = 6
    """value: bytes that count against the windows, padding included."""
    HEADERS = 7
    """A header block; value: where its fields are kept in `FrameRows.sections`."""
    RST = 8
    """value: error code."""
    GOAWAY = 9
    """value: error code; stream_id: the last stream the sender has processed or may yet."""
    PING = 10
    """value: the opaque bytes as a signed number."""
    PING_ACK = 11
    """value: as in the PING it answers."""


_SETTING_KINDS: Final = {3: H2Kind.SETTINGS_MAX_STREAMS, 4: H2Kind.SETTINGS_INITIAL_WINDOW, 5: H2Kind.SETTINGS_MAX_FRAME}
"""Identifiers of RFC 9113 section 6.5.2."""
_DATA, _HEADERS = int(H2Kind.DATA), int(H2Kind.HEADERS)
_NO_FIELDS: Final[Headers] = FrozenMap()


class FrameRows:
    """Frames, one behind the other as they were read; PRIORITY, PUSH_PROMISE and unknown ones have no row."""

    def __init__(self) -> None:
        self.numbers = array("q")
        """ROW_LEN of them for each frame."""
        self.add: Callable[[Iterable[int]], None] = self.numbers.extend
        """Adds a row: takes its ROW_LEN numbers."""
        self.sections: list[Headers] = [_NO_FIELDS]
        """What header blocks said, equal ones of one `BlockMemo` once; the first one stands for blocks that cannot be read."""
        self.bodies: dict[int, tuple[int, int]] = {}
        """Row of DATA -> where its payload begins and ends, if that is not all that follows its header."""
        self.blocks_lost = 0
        """Header blocks of which some fields are unknown."""
        self._places = {id(_NO_FIELDS): 0}
        self._takers: Mapping[type[Event], Callable[[Any], None]] = {
            DataReceived: self._data,
            HeadersReceived: self._headers,
            WindowUpdated: self._window,
            StreamReset: self._reset,
            SettingsReceived: self._settings,
            PingReceived: self._ping,
            GoawayReceived: self._goaway,
        }

    def __len__(self) -> int:
        """Rows so far."""
        return len(self.numbers) // ROW_LEN

    def taken(self, events: list[Event]) -> list[Event]:
        """The events, now that the rows of those that have any are added."""
        for event in events:
            taker = self._takers.get(type(event))
            if taker is not None:
                taker(event)
        return events

    def add_block(self, at: int, end: int, stream_id: int, headers: Headers | None, unknown_count: int, *, ends: bool) -> None:
        """Adds a header block; `headers` None: it could not be read."""
        if headers is None or unknown_count:
            self.blocks_lost += 1
        if headers is None:
            headers = _NO_FIELDS
        place = self._places.get(id(headers))
        if place is None:
            place = self._places[id(headers)] = len(self.sections)
            self.sections.append(headers)  # kept, so that no other one gets its id
        self.add((at, end, _HEADERS, stream_id, place, ends))

    def _data(self, event: DataReceived) -> None:
        if (event.payload_at, event.payload_end) != (event.at + HEADER_LEN, event.end):
            self.bodies[len(self)] = event.payload_at, event.payload_end
        self.add((event.at, event.end, _DATA, event.stream_id, event.flow_len, event.end_stream))

    def _headers(self, event: HeadersReceived) -> None:
        if event.promised_stream_id is None:
            self.add_block(event.at, event.end, event.stream_id, event.headers, event.unknown_count, ends=event.end_stream)
        elif event.headers is None or event.unknown_count:
            self.blocks_lost += 1

    def _window(self, event: WindowUpdated) -> None:
        self.add((event.at, event.end, H2Kind.WINDOW_UPDATE, event.stream_id, event.increment, False))

    def _reset(self, event: StreamReset) -> None:
        self.add((event.at, event.end, H2Kind.RST, event.stream_id, event.error_code, False))

    def _settings(self, event: SettingsReceived) -> None:
        self.add((event.at, event.end, H2Kind.SETTINGS_ACK if event.ack else H2Kind.SETTINGS, 0, len(event.values), False))
        for setting, value in event.values.items():
            if setting in _SETTING_KINDS:
                self.add((event.at, event.end, _SETTING_KINDS[setting], 0, value, False))

    def _ping(self, event: PingReceived) -> None:
        value = int.from_bytes(event.opaque, signed=True)
        self.add((event.at, event.end, H2Kind.PING_ACK if event.ack else H2Kind.PING, 0, value, False))

    def _goaway(self, event: GoawayReceived) -> None:
        self.add((event.at, event.end, H2Kind.GOAWAY, event.last_stream_id, event.error_code, False))
