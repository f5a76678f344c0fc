"""What happened on HTTP/2 connections beside their exchanges: flow control, settings, resets, pings (RFC 9113)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from pcapdiag.columns import I32, I64, U8, Bools, Col, Table

if TYPE_CHECKING:
    from pcapdiag.streams import Streams


class H2Kind(IntEnum):
    """What one row of the log is; `value` means what the line says."""

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
    """value: 0 the first block of its stream and direction, 1 a later one (trailers)."""
    RST = 8
    """value: error code."""
    GOAWAY = 9
    """value: error code; stream_id: the last stream the sender has processed or may yet."""
    PING = 10
    """value: the opaque bytes as a signed number."""
    PING_ACK = 11
    """value: as in the PING it answers."""


SETTING_KINDS: Final = {3: H2Kind.SETTINGS_MAX_STREAMS, 4: H2Kind.SETTINGS_INITIAL_WINDOW, 5: H2Kind.SETTINGS_MAX_FRAME}
"""Identifiers of RFC 9113 section 6.5.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class H2Log(Table):
    """One row per frame (per setting), sorted by flow, then time in order, then direction, then offset."""

    fd: Annotated[I64, Col("2 * flow + direction of who sent it")]
    offset_stop: Annotated[I64, Col("stream offset behind the frame's last byte", "bytes")]
    kind: Annotated[U8, Col("H2Kind")]
    stream_id: Annotated[I64, Col("h2 stream; 0 the connection")]
    value: Annotated[I64, Col("see H2Kind")]
    in_order_ns: Annotated[I64, Col("when the whole frame was deliverable in order at the tap; NEVER", "ns")]
    first_seen_ns: Annotated[I64, Col("when its last byte was seen first; NEVER", "ns")]
    segment: Annotated[I64, Col("row in Segments that carried its last byte first; -1 never seen")]
    end_stream: Annotated[Bools, Col("END_STREAM: the sender's last frame on that stream but resets")]
    flow: Annotated[I32, Col("flow id")]

    def of_flow(self, flow: int) -> H2Log:
        """The rows of one flow."""
        low, high = np.searchsorted(self.flow, [flow, flow + 1])
        return self.take(slice(int(low), int(high)))


class H2Rows:
    """Rows of a log that is being written, without times."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self.add = self._numbers.extend
        """Takes fd, offset_stop, kind, stream_id, value, end_stream."""

    def columns(self) -> list[I64]:
        """The six columns, in the order in which rows were added."""
        table = np.frombuffer(self._numbers, np.int64) if self._numbers else np.empty(0, np.int64)
        return [np.ascontiguousarray(column) for column in table.reshape(-1, 6).T]


def make_log(rows: H2Rows, streams: Streams) -> H2Log:
    """The log of all flows: times are looked up in three calls."""
    fd, stop, kind, stream_id, value, end_stream = rows.columns()
    last = stop - 1
    in_order = streams.in_order(fd, last)
    order = np.lexsort((stop, fd, in_order, fd >> 1))
    log = H2Log(
        fd=fd,
        offset_stop=stop,
        kind=kind.astype(np.uint8),
        stream_id=stream_id,
        value=value,
        in_order_ns=in_order,
        first_seen_ns=streams.first_seen(fd, last),
        segment=streams.segment_of(fd, last),
        end_stream=end_stream.astype(np.bool_),
        flow=(fd >> 1).astype(np.int32),
    )
    return log.take(order)
