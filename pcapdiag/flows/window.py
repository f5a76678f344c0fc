"""The receive window against what has been sent: when a sender was allowed less than one segment (RFC 9293 section 3.8.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.flows.table import CLIENT_TO_SERVER, Kind
from pcapdiag.packets.table import FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import I64, Rows
    from pcapdiag.flows.table import TcpTables

_DEFAULT_MSS: Final = 536
"""RFC 9293 section 3.7.1."""
_TIMESTAMPS_LEN: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut:
    """A time in which less than one segment was allowed, with a window of zero in it; rows in Segments, -1: none."""

    first: int
    """The packet behind which it was so: the last that fitted, or the acknowledgment that took the room away."""
    opened: int
    """The acknowledgment that allowed a segment again."""
    resumed: int
    """First new data behind `opened`."""
    zeros: Rows
    """Packets that advertised a window of zero."""
    probes: Rows
    """The sender's probes meanwhile."""


def window_shift(tcp: TcpTables, fd: int) -> int:
    """Window scale of the receiver of fd's data; -1 unknown: then only "zero" can be read from its windows."""
    return int(tcp.flows.client_shift[fd >> 1] if fd & 1 else tcp.flows.server_shift[fd >> 1])


def shut_windows(tcp: TcpTables, fd: int) -> Iterator[Shut]:
    """The times in which the data of fd (2 * flow + direction) met a shut window, by time."""
    seg, flow = tcp.segments, fd >> 1
    rows = slice(int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow]))
    mine = seg.direction[rows] == fd & 1
    heard = ~mine & (seg.ack[rows] >= 0) & ((seg.flags[rows] & (SYN | RST)) == 0)
    acked = np.maximum.accumulate(np.where(heard, seg.ack[rows], 0))
    edge = _latest(np.where(heard & (seg.ack[rows] == acked), acked + seg.window[rows], -1))  # an overtaken ACK says nothing new
    carries = mine & (seg.payload_len[rows] > 0) & (seg.seq[rows] >= 0)
    sent = np.maximum.accumulate(np.where(carries, seg.seq[rows] + seg.payload_len[rows], 0))
    least = _segment_len(tcp, fd) if window_shift(tcp, fd) >= 0 else 1
    shut = (edge >= 0) & (edge - np.maximum(sent, acked) < least)
    zero = heard & (seg.window[rows] == 0) & ((seg.flags[rows] & FIN) == 0)
    probe = np.flatnonzero(mine & (seg.kind[rows] == Kind.KEEP_ALIVE))
    fresh = np.flatnonzero(carries & (seg.kind[rows] == Kind.NEW))
    zeros = np.flatnonzero(zero)
    before = np.concatenate([[False], shut[:-1]])
    begins, ends = np.flatnonzero(shut & ~before), np.flatnonzero(np.append(~shut & before, [True]))
    for begin in begins.tolist():
        end = int(ends[np.searchsorted(ends, begin)])
        low, high = np.searchsorted(zeros, [begin, end])
        if low == high:
            continue
        later = fresh[np.searchsorted(fresh, end) :][:1]
        yield Shut(
            first=begin + rows.start, opened=end + rows.start if end < len(shut) else -1,
            resumed=int(later[0]) + rows.start if len(later) else -1, zeros=zeros[low:high] + rows.start,
            probes=probe[slice(*np.searchsorted(probe, [begin, end]))] + rows.start,
        )  # fmt: skip


def _segment_len(tcp: TcpTables, fd: int) -> int:
    """Payload of a full segment, as the receiver's MSS option allows it."""
    flow = fd >> 1
    announced = int(tcp.flows.server_mss[flow] if fd & 1 == CLIENT_TO_SERVER else tcp.flows.client_mss[flow])
    return max((announced or _DEFAULT_MSS) - (_TIMESTAMPS_LEN if tcp.flows.timestamps[flow] else 0), 1)


def _latest(edge: I64) -> I64:
    """Each value, or the last one before it that is not negative."""
    at = np.maximum.accumulate(np.where(edge >= 0, np.arange(len(edge)), 0))
    return edge[at]
