"""What happened on HTTP/2 connections beside their exchanges: flow control, settings, resets, pings (RFC 9113)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from pcapdiag.columns import I32, I64, U8, Bools, Col, Table, rows_between

if TYPE_CHECKING:
    from pcapdiag.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class H2Log(Table):
    """One row per frame (per setting), sorted by flow, then time in order, then direction, then offset."""

    fd: Annotated[I64, Col("2 * flow + direction of who sent it")]
    offset_stop: Annotated[I64, Col("stream offset behind the frame's last byte", "bytes")]
    kind: Annotated[U8, Col("H2Kind")]
    stream_id: Annotated[I64, Col("h2 stream; 0 the connection")]
    value: Annotated[I64, Col("see H2Kind; of HEADERS 0 for the first of its stream and direction but interim ones, 1 for later ones")]
    in_order_ns: Annotated[I64, Col("when the whole frame was deliverable in order at the tap; NEVER", "ns")]
    first_seen_ns: Annotated[I64, Col("when its last byte was seen first; NEVER", "ns")]
    segment: Annotated[I64, Col("row in Segments that carried its last byte first; -1 never seen")]
    end_stream: Annotated[Bools, Col("END_STREAM: the sender's last frame on that stream but resets")]
    flow: Annotated[I32, Col("flow id")]

    def of_flow(self, flow: int) -> H2Log:
        """The rows of one flow."""
        return self.take(rows_between(self.flow, flow, flow + 1))


def make_log(rows: tuple[I64, ...], streams: Streams) -> H2Log:
    """The log of connections, of the columns that `H2Streams.logged` gives: times are looked up in three calls."""
    fd, stop, kind, stream_id, value, end_stream = rows
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
