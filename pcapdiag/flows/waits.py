"""From when to when a receiver waited for lost bytes, as this tap can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.columns import NEVER, rows_between
from pcapdiag.flows.pieces import first_seen
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Kind
from pcapdiag.packets.table import ACK, RST

if TYPE_CHECKING:
    from pcapdiag.columns import I64
    from pcapdiag.flows.rtt import RoundTrips
    from pcapdiag.flows.table import TcpTables

_GIVE_UP_NS = 1_200_000_000_000
"""Linux gives a connection up after 15 resends, 924.6 s at the least timer (tcp_retries2): no loss is waited for any longer."""
_FULL_SHARE = 0.9
"""Options vary the payload of a full packet by some bytes."""
_FIN_LEN = 1
"""Of the numbers that a sender counts one is its FIN's."""
_ETHERNET_MSS = 1_460
"""1,500 bytes less the headers of IPv4 and TCP, where no SYN told."""
_LEAST_FULL_LEN = 500
"""Below the least MSS a host must accept (536, RFC 9293 section 3.7.1) no packet counts as full."""


class Wait(NamedTuple):
    """[start_ns, end_ns) of a wait for bytes."""

    start_ns: int
    end_ns: int
    at_least: bool
    """The true start or end lies outside what the capture shows."""


def wait_of(tcp: TcpTables, trips: RoundTrips, row: int) -> Wait:
    """The wait of one row of Recoveries.

    Where the tap saw request bytes leave, they were due half a round trip later, and came half a round trip before
    their ACK did. Response bytes end their exchange when they leave the tap's side, so their wait is counted in the
    tap's time: from the first sight to the resend whose ACK came. Where the tap saw a hole, the wait began when later
    bytes arrived: before that, time was normal flight. A tail leaves no hole: its wait began when the sender last was
    heard, or later.
    """
    recoveries = tcp.recoveries
    flow, direction = divmod(int(recoveries.fd[row]), 2)
    start = int(recoveries.first_ns[row])
    end = int(recoveries.done_ns[row])
    unfinished = end >= NEVER
    if unfinished:
        end = int(tcp.flows.last_ns[flow])
    if recoveries.at_sender[row]:
        trip = max((trips.far(flow) if direction == 0 else trips.near(flow)).floor_ns(), 0)
        begun, earlier = (trip // 2, trip // 2) if direction == 0 else (0, trip)
        start, end = start + begun, end if unfinished else end - earlier
    if end - start > _GIVE_UP_NS:
        return Wait(start, start, at_least=True)
    return Wait(min(start, end), end, unfinished or (bool(recoveries.tail[row]) and not bool(recoveries.at_sender[row])))


class Silence(NamedTuple):
    """(start_ns, end_ns) between two packets of one direction, with their rows in Segments; -1: the flow begins or ends."""

    start_ns: int
    end_ns: int
    last: int
    next: int


def silence_around(tcp: TcpTables, flow: int, *, heard: int, ts_ns: int) -> Silence:
    """The time around ts_ns in which direction `heard` of a flow sent nothing that reached the tap.

    Where nothing comes after ts_ns, the silence lasts to the last packet of the flow. A packet exactly at ts_ns ends it.
    """
    begin, stop = int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow])
    rows = begin + np.flatnonzero(tcp.segments.direction[begin:stop] == heard)
    at = int(np.searchsorted(tcp.segments.ts_ns[rows], ts_ns))
    last = int(rows[at - 1]) if at > 0 else -1
    following = int(rows[at]) if at < len(rows) else -1
    start = int(tcp.segments.ts_ns[last]) if last >= 0 else int(tcp.flows.first_ns[flow])
    end = int(tcp.segments.ts_ns[following]) if following >= 0 else int(tcp.flows.last_ns[flow])
    return Silence(start, end, last, following)


def spoken_of_ns(tcp: TcpTables, flow: int) -> int:
    """When the server first counted bytes as sent that neither came by nor were ever acknowledged; NEVER.

    A pure ACK carries its sender's next sequence number (RFC 9293 section 3.8.4 lets probes carry the one before).
    """
    begin, stop = int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow])
    seg, here, fd = tcp.segments, slice(begin, stop), np.array([2 * flow + SERVER_TO_CLIENT])
    had = seg.ack[here][(seg.direction[here] == CLIENT_TO_SERVER) & ((seg.flags[here] & (ACK | RST)) == ACK)]
    if not len(had) or first_seen(tcp.pieces, fd, had.max(keepdims=True))[0] < NEVER:
        return NEVER
    beyond = (seg.direction[here] == SERVER_TO_CLIENT) & (seg.kind[here] == Kind.CONTROL) & ((seg.flags[here] & RST) == 0)
    beyond &= seg.seq[here] > had.max() + _FIN_LEN
    return int(seg.ts_ns[begin + np.argmax(beyond)]) if beyond.any() else NEVER


def bulk_intervals(tcp: TcpTables, fd: int, within_ns: int) -> tuple[I64, I64]:
    """When a sender had a backlog on fd: (starts, ends) of runs of full-sized packets no more than within_ns apart.

    While full-sized packets keep coming one flight a round trip, what is not yet sent waits for the congestion window.
    """
    flow, direction = divmod(fd, 2)
    begin, stop = int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow])
    size = np.where(tcp.segments.direction[begin:stop] == direction, tcp.segments.payload_len[begin:stop], 0)
    most = min(int(size.max(initial=0)), int(_packet_len(tcp, slice(flow, flow + 1))[0]))
    full = tcp.segments.ts_ns[begin:stop][size >= _FULL_SHARE * max(most, _LEAST_FULL_LEN)]
    if not len(full):
        return full, full
    parted = np.flatnonzero(np.diff(full) > within_ns)
    return full[np.concatenate([[0], parted + 1])], full[np.concatenate([parted, [len(full) - 1]])]


class Backlogs(NamedTuple):
    """What bulk_intervals gives, for a run of flows at once."""

    begin: I64
    """Per flow, and one behind the last: where its intervals begin."""
    start_ns: I64
    end_ns: I64


def backlogs(tcp: TcpTables, direction: int, within_ns: I64, first: int, stop: int) -> Backlogs:
    """When the senders of one direction had a backlog, of the flows [first, stop); `within_ns` for each of them. See bulk_intervals."""
    segments = tcp.segments
    here = rows_between(segments.flow, first, stop)
    own, ts_ns = segments.flow[here] - first, segments.ts_ns[here]
    size = np.where(segments.direction[here] == direction, segments.payload_len[here], 0)
    begins = np.flatnonzero(np.diff(own, prepend=-1))
    least = np.full(stop - first, np.inf)
    if len(begins):
        most = np.minimum(np.maximum.reduceat(size, begins), _packet_len(tcp, slice(first, stop))[own[begins]])
        least[own[begins]] = _FULL_SHARE * np.maximum(most, _LEAST_FULL_LEN)
    rows = np.flatnonzero(size >= least[own])
    flow, ts_ns = own[rows], ts_ns[rows]
    parted = np.flatnonzero((np.diff(flow, prepend=-1) != 0) | (np.diff(ts_ns, prepend=0) > within_ns[flow]))
    last = np.append(parted[1:], len(rows))[: len(parted)] - 1
    return Backlogs(np.searchsorted(flow[parted], np.arange(stop - first + 1)), ts_ns[parted], ts_ns[last])


def _packet_len(tcp: TcpTables, flows: slice) -> I64:
    """Payload of the longest packet on the wire, by what both ends announced: super-segments are longer."""
    mss = np.stack([tcp.flows.client_mss[flows], tcp.flows.server_mss[flows]]).astype(np.int64)
    announced = np.where(mss > 0, mss, np.iinfo(np.int64).max).min(axis=0)
    return np.where((mss > 0).any(axis=0), announced, _ETHERNET_MSS)
