"""Turns the byte offsets of exchanges into times and frames, and decides what ended each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import Ending
from pcapdiag.exchanges.drafted import ENDINGS
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.table import CODES, Outcome
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import group_starts, running_max
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Vantage
from pcapdiag.flows.within import search_within
from pcapdiag.streams import of_directions

if TYPE_CHECKING:
    from pcapdiag.columns import I64, Bools, Rows
    from pcapdiag.exchanges.drafted import Drafted
    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.flows.table import Flows, Gaps, Pieces, Recoveries, TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.streams import Streams

_UNACKED_NS: Final = 1_000_000_000
"""Bytes that nobody acknowledged for this long did not arrive: delayed ACKs take half of it (RFC 9293 section 3.8.6.3)."""
_OPEN, _RESPONSE, _CLOSE, _TUNNEL, _UNSEEN, _GIVEN = (ENDINGS[ending] for ending in Ending)
_ABORTED, _INCOMPLETE = CODES[Outcome.ABORTED], CODES[Outcome.INCOMPLETE]


@dataclass(frozen=True, slots=True, eq=False)
class Landed:
    """Exchanges with their times."""

    exchanges: Exchanges
    progress_ns: I64
    """When the last byte of each came, of either direction; NEVER for set-up outside TCP streams."""

    @classmethod
    def given(cls, drafted: Drafted) -> Landed:
        """Of exchanges whose times were known from the begin."""
        return cls(drafted.exchanges, np.full(len(drafted.ending), NEVER))


class Ground:
    """What is the same for all exchanges of some flows; worked out once."""

    def __init__(self, packets: Packets, tcp: TcpTables, flows: tuple[int, int], clipped_ns: int) -> None:
        self.packets, self.tcp = packets, tcp
        self.clipped_ns = clipped_ns
        """When the capture ends."""
        ends = 2 * flows[0], 2 * flows[1]
        self._lost_fd, self._lost_key, self._through_ns = _losses_behind(tcp.flows, of_directions(tcp.recoveries, *ends))
        self._unread_fd, self._unread_ns = _unread(packets, tcp, of_directions(tcp.pieces, *ends), of_directions(tcp.gaps, *ends))

    def behind_losses(self, end_ns: I64, fd: I64, last: I64) -> I64:
        """Moves the ends of responses that were lost between the tap and the client to the resend that got through.

        In order, a response waits for every hole below its last byte. The client had the bytes half a round trip before
        the ACK came by that covers them.
        """
        if not len(self._lost_key):
            return end_ns
        before = np.searchsorted(self._lost_key, key(fd, last), side="right") - 1
        hit = (before >= 0) & (end_ns != NEVER)
        hit &= self._lost_fd[before] == fd
        return np.where(hit, np.maximum(end_ns, self._through_ns[before]), end_ns)

    def unread_behind(self, fd: I64, ts_ns: I64) -> I64:
        """When the first bytes of each direction came, behind some moment, that were cut off or lost by the capture; NEVER."""
        if not len(self._unread_fd):
            return np.full(len(fd), NEVER)
        begin, stop = (np.searchsorted(self._unread_fd, fd, side=side) for side in ("left", "right"))
        row = search_within(self._unread_ns, begin, stop, ts_ns + 1)
        return np.where(row < stop, np.append(self._unread_ns, [NEVER])[row], NEVER)


def land(drafted: Drafted, ground: Ground, streams: Streams) -> Landed:
    """Sets the times, frames and outcomes of exchanges whose bytes lie in TCP streams; `streams` must hold those of their flows."""
    return _Landing(drafted, ground, streams).landed() if len(drafted.exchanges) else Landed.given(drafted)


class _Landing:
    """The columns of some exchanges while their times are set."""

    def __init__(self, drafted: Drafted, ground: Ground, streams: Streams) -> None:
        self._drafted, self._table = drafted, drafted.exchanges
        self._ground, self._packets, self._tcp, self._streams = ground, ground.packets, ground.tcp, streams
        self._clipped_ns = ground.clipped_ns
        self._start, self._end, self._first = (
            column.copy() for column in (self._table.start_ns, self._table.end_ns, self._table.first_byte_ns)
        )
        self._outcome, self._by = self._table.outcome.copy(), self._table.aborted_by.copy()
        self._asked, self._answered = self._table.request.counts > 0, self._table.response.counts > 0

    def landed(self) -> Landed:
        """Everything, with its times."""
        asked, answered = np.flatnonzero(self._asked), np.flatnonzero(self._answered)
        times = {name: getattr(self._table, name).copy() for name in ("request_start_ns", "request_end_ns", "request_in_order_ns")}
        times["request_acked_ns"] = self._table.request_acked_ns.copy()
        fd, first, last = self._edges(asked, self._table.request, CLIENT_TO_SERVER)
        times["request_start_ns"][asked] = self._start[asked] = _seen(self._streams, fd, first)
        times["request_end_ns"][asked] = _seen(self._streams, fd, last)
        times["request_in_order_ns"][asked] = self._streams.in_order(fd, last)
        times["request_acked_ns"][asked] = self._streams.acked(fd, last)
        landmarks = np.full((len(self._table), 4, 2), -1)
        landmarks[asked, 0], landmarks[asked, 1] = self._frames(fd, first), self._frames(fd, last)
        fd, first, last = self._edges(answered, self._table.response, SERVER_TO_CLIENT)
        acked = self._time_responses(answered, fd, first, last)
        landmarks[answered, 2], landmarks[answered, 3] = self._frames(fd, first), self._frames(fd, last)
        progress = self._settle(times["request_end_ns"], times["request_acked_ns"], acked)
        table = replace(
            self._table, start_ns=self._start, first_byte_ns=self._first, end_ns=self._end, outcome=self._outcome, aborted_by=self._by,
            frames=_distinct(landmarks), **times,
        )  # fmt: skip
        return Landed(table, progress)

    def _edges(self, rows: Rows, spans: Ragged, direction: int) -> tuple[I64, I64, I64]:
        """Direction, first and last byte of some exchanges that have such bytes."""
        fd = 2 * self._table.flow[rows].astype(np.int64) + direction
        return fd, spans.values[spans.begin[rows], 0], spans.values[spans.begin[rows + 1] - 1, 1] - 1

    def _time_responses(self, rows: Rows, fd: I64, first: I64, last: I64) -> I64:
        """Sets when responses came; gives for all exchanges the first ACK that covers the last byte of the response."""
        self._first[rows] = self._streams.in_order(fd, first)
        ends = self._ground.behind_losses(self._streams.in_order(fd, last), fd, last)
        self._end[rows] = np.where(self._drafted.ending[rows] == _GIVEN, self._end[rows], ends)
        unasked = self._start[rows] == NEVER  # the request came before the capture began
        self._start[rows] = np.where(unasked, _seen(self._streams, fd, first), self._start[rows])
        acked = np.full(len(self._table), NEVER)
        acked[rows] = self._streams.acked(fd, last)
        return acked

    def _frames(self, fd: I64, offset: I64) -> I64:
        """(capture, frame) of the byte at each offset; (-1, -1) where none was captured."""
        segment = self._streams.segment_of(fd, offset)
        row = self._tcp.segments.row[np.maximum(segment, 0)]
        found = np.stack([self._packets.capture[row].astype(np.int64), self._packets.frame[row]], axis=1)
        found[segment < 0] = -1
        return found

    def _settle(self, request_end: I64, request_acked: I64, acked: I64) -> I64:
        """Decides what ended each exchange, and when; gives when the last byte of each came."""
        ending, flow = self._drafted.ending, self._table.flow
        self._start[self._start == NEVER] = self._clipped_ns  # nothing of it was ever seen: what names it lies behind a hole that stayed
        unseen = ending == _UNSEEN
        self._end[unseen] = np.where(request_acked != NEVER, request_acked, request_end)[unseen]
        whole = ((ending == _RESPONSE) | (ending == _GIVEN) | unseen) & (self._end != NEVER)
        answered = self._answered & (self._end != NEVER)
        progress = np.where(answered & (ending != _GIVEN), self._end, request_end)
        cut = self._cut(whole)
        progress[~cut] = np.minimum(progress[~cut], self._clipped_ns)
        undelivered = whole & ~cut & (ending == _RESPONSE) & ~self._tcp.flows.one_way[flow] & (acked == NEVER)
        left = ~whole & ~cut & ~self._ended_unread(~whole & ~cut, answered)
        rows = np.flatnonzero(undelivered | left)
        closings = _closings(self._tcp.flows, np.unique(flow[rows]).tolist())
        last_ns = np.where(answered, self._end, self._start)
        for row in rows.tolist():
            mine = closings[int(flow[row])]
            if left[row]:
                self._end_with_connection(row, mine, int(last_ns[row]), is_acked=bool(acked[row] != NEVER))
            else:
                self._end_undelivered(row, mine)
        fine = whole & ~cut
        self._end[fine] = np.maximum(self._end[fine], self._start[fine])
        return progress

    def _ended_unread(self, left: Bools, answered: Bools) -> Bools:
        """Ends streams of HTTP/2 that nothing ends where the first bytes of the server lie that nobody could read: which of them.

        Their answer, or the end of it, may be among those. Until then they waited; behind it nothing is known of them.
        """
        ended = np.zeros(len(left), np.bool_)
        rows = np.flatnonzero(left & (self._table.h2_stream > 0) & (self._drafted.ending == _OPEN))
        if not len(rows):
            return ended
        last_ns = np.where(answered[rows], self._end[rows], self._start[rows])
        unread_ns = self._ground.unread_behind(2 * self._table.flow[rows].astype(np.int64) + SERVER_TO_CLIENT, last_ns)
        found = unread_ns < NEVER
        self._end[rows[found]] = unread_ns[found]
        ended[rows[found]] = True
        return ended

    def _cut(self, whole: Bools) -> Bools:
        """Ends exchanges at their first cut if they are not whole before it; which of them."""
        cuts = self._drafted.cuts
        found = np.zeros(len(self._table), np.bool_)
        if not len(cuts.values):
            return found
        fd, offset, outcome = cuts.values.T
        # Sent by the client, or deliverable from the server.
        times = np.where(fd & 1 == SERVER_TO_CLIENT, self._streams.in_order(fd, offset), _seen(self._streams, fd, offset))
        of = np.repeat(np.arange(len(found)), cuts.counts)
        order = np.lexsort((np.arange(len(of)), times, of))
        first = order[np.unique(of[order], return_index=True)[1]]
        row = of[first]
        taken = times[first] < np.where(whole[row], self._end[row], NEVER)
        first, row = first[taken], row[taken]
        found[row] = True
        self._end[row] = np.maximum(times[first], self._start[row])
        self._outcome[row] = outcome[first]
        self._by[row] = np.where(outcome[first] == _ABORTED, fd[first] & 1, -1)
        return found

    def _end_undelivered(self, row: int, closings: list[_Closing]) -> None:
        """The client never acknowledged the end of the response: it closed before it came, or still waits for it."""
        if self._table.facts[self._table.fact[row]].get("sse_done"):
            return  # clients of token streams leave before the last chunk says that there is no more
        left_ns = next((closing.at_ns for closing in closings if closing.direction == CLIENT_TO_SERVER), NEVER)
        if self._start[row] <= left_ns < NEVER:
            self._end[row], self._outcome[row], self._by[row] = left_ns, _ABORTED, CLIENT_TO_SERVER
        elif left_ns == NEVER and not closings and self._clipped_ns - self._end[row] > _UNACKED_NS:
            self._end[row], self._outcome[row] = self._clipped_ns, _INCOMPLETE

    def _end_with_connection(self, row: int, closings: list[_Closing], last_ns: int, *, is_acked: bool) -> None:
        """What its own bytes do not end ends with the connection, or with the capture."""
        ending = int(self._drafted.ending[row])
        for closing in closings:
            half_closed = closing.direction == CLIENT_TO_SERVER and not closing.is_reset and closing.at_ns < last_ns
            if closing.at_ns < self._start[row] or (half_closed and is_acked):
                continue  # closed before it began, or by a client that still wanted its answer
            still_delivers = closing.direction != CLIENT_TO_SERVER and not closing.is_reset
            self._end[row] = max(closing.at_ns, last_ns) if still_delivers else closing.at_ns
            if not closing.is_reset and (ending == _TUNNEL or (ending == _CLOSE and closing.direction)):
                return
            self._outcome[row], self._by[row] = _ABORTED, closing.direction
            return
        self._end[row], self._outcome[row] = max(self._clipped_ns, int(self._start[row])), _INCOMPLETE


def _distinct(landmarks: I64) -> Ragged:
    """The (capture, frame) pairs of each row that exist, each once, in their order."""
    kept = landmarks[:, :, 0] >= 0
    for later in range(1, landmarks.shape[1]):
        for earlier in range(later):
            kept[:, later] &= (landmarks[:, later] != landmarks[:, earlier]).any(axis=1)
    return Ragged(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), landmarks[kept])


def _seen(streams: Streams, fd: I64, offset: I64) -> I64:
    """First sight; of bytes that the capture lost, when they were acknowledged."""
    seen = streams.first_seen(fd, offset)
    return np.where(seen == NEVER, streams.in_order(fd, offset), seen)


def _losses_behind(flows: Flows, losses: Recoveries) -> tuple[I64, I64, I64]:
    """Direction, key and, up to and including each one, when all of them got through: losses of responses behind the tap."""
    flow = losses.fd >> 1
    here = losses.at_sender & ~losses.spurious & (losses.fd & 1 == SERVER_TO_CLIENT) & (losses.done_ns != NEVER)
    here &= (flows.vantage[flow] != Vantage.CLIENT) & (flows.vantage[flow] != Vantage.LOCAL)
    rows = np.flatnonzero(here)
    rows = rows[np.argsort(key(losses.fd[rows], losses.start[rows]), kind="stable")]
    round_trip = np.maximum(flows.near_rtt_ns[flow[rows]], 0)
    through = np.where(losses.resends[rows] > 1, losses.done_ns[rows] - round_trip, losses.resent_ns[rows])
    through = running_max(np.maximum(through, losses.resent_ns[rows]), group_starts(losses.fd[rows]))
    return losses.fd[rows], key(losses.fd[rows], losses.start[rows]), through


def _unread(packets: Packets, tcp: TcpTables, pieces: Pieces, gaps: Gaps) -> tuple[I64, I64]:
    """Direction and time of stream bytes that no packet holds although they came, sorted by both."""
    cut = np.empty(0, np.intp)
    if any(quality.cut_frames for quality in tcp.quality):
        row = tcp.segments.row[pieces.segment]
        cut = np.flatnonzero(packets.payload_captured[row] < packets.payload_len[row])
    shown_ns = np.minimum(tcp.segments.ts_ns[gaps.segment], gaps.stop_ns)
    fd, ts_ns = np.concatenate([pieces.fd[cut], gaps.fd]), np.concatenate([pieces.ts_ns[cut], shown_ns])
    order = np.lexsort((ts_ns, fd))
    return fd[order], ts_ns[order]


class _Closing(NamedTuple):
    """Something that ends a connection, and the direction it came from."""

    at_ns: int
    direction: int
    is_reset: bool


def _closings(flows: Flows, rows: list[int]) -> dict[int, list[_Closing]]:
    """What closed each of these flows, in time order."""
    columns = (flows.client_fin_ns, flows.server_fin_ns, flows.rst_ns, flows.rst_direction)
    times = zip(*(column[rows].tolist() for column in columns), strict=True)
    return {
        flow: sorted(
            closing
            for closing in (_Closing(client_fin, 0, False), _Closing(server_fin, 1, False), _Closing(rst, rst_direction, True))
            if closing.at_ns != NEVER
        )
        for flow, (client_fin, server_fin, rst, rst_direction) in zip(rows, times, strict=True)
    }
