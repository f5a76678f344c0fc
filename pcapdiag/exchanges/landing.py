"""Turns the byte offsets of all drafts into times and frames, in a few look-ups over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import BY_WHOM, Draft, Ending
from pcapdiag.exchanges.table import Outcome
from pcapdiag.flows.pieces import key
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Vantage

if TYPE_CHECKING:
    from pcapdiag.columns import I64
    from pcapdiag.flows.table import Flows, TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.streams import Streams

_UNACKED_NS: Final = 1_000_000_000
"""Bytes that nobody acknowledged for this long did not arrive: delayed ACKs take half of it (RFC 9293 section 3.8.6.3)."""


def land(drafts: list[Draft], packets: Packets, tcp: TcpTables, streams: Streams) -> None:
    """Sets the times, frames and outcomes of drafts whose bytes lie in TCP streams."""
    if not drafts:
        return
    frames = _Frames(packets, tcp, streams)
    _time_requests([draft for draft in drafts if draft.request], streams, frames)
    _time_responses([draft for draft in drafts if draft.response], tcp, streams, frames)
    touched = sorted({draft.flow for draft in drafts})
    closings, one_way = _closings(tcp.flows, touched), dict(zip(touched, tcp.flows.one_way[touched].tolist(), strict=True))
    clipped_ns = int(packets.ts_ns.max())
    cuts_ns = _cut_times(drafts, streams)
    for draft in drafts:
        _end(draft, cuts_ns.get(draft, []), closings[draft.flow], clipped_ns, both_ways=not one_way[draft.flow])


def _time_requests(asked: list[Draft], streams: Streams, frames: _Frames) -> None:
    fd = np.asarray([draft.client_fd for draft in asked], np.int64)
    first = np.asarray([draft.request[0][0] for draft in asked], np.int64)
    last = np.asarray([draft.request[-1][1] - 1 for draft in asked], np.int64)
    columns = (_seen(streams, fd, first), _seen(streams, fd, last), streams.in_order(fd, last), streams.acked(fd, last))
    times = zip(*(column.tolist() for column in columns), frames.at(fd, first), frames.at(fd, last), strict=True)
    for draft, (begin_ns, end_ns, in_order_ns, acked_ns, *cited) in zip(asked, times, strict=True):
        draft.frames = _landmarks(*cited)
        draft.start_ns = draft.request_start_ns = begin_ns
        draft.request_end_ns, draft.request_in_order_ns, draft.request_acked_ns = end_ns, in_order_ns, acked_ns


def _time_responses(answered: list[Draft], tcp: TcpTables, streams: Streams, frames: _Frames) -> None:
    fd = np.asarray([draft.server_fd for draft in answered], np.int64)
    first = np.asarray([draft.response[0][0] for draft in answered], np.int64)
    last = np.asarray([draft.response[-1][1] - 1 for draft in answered], np.int64)
    ends = _behind_losses(streams.in_order(fd, last), fd, last, tcp)
    columns = (streams.in_order(fd, first), ends, _seen(streams, fd, first), streams.acked(fd, last))
    times = zip(*(column.tolist() for column in columns), frames.at(fd, first), frames.at(fd, last), strict=True)
    for draft, (first_ns, last_ns, seen_ns, acked_ns, *cited) in zip(answered, times, strict=True):
        draft.frames = _landmarks(*draft.frames, *cited)
        draft.first_byte_ns, draft.response_acked_ns = first_ns, acked_ns
        if draft.ending is not Ending.GIVEN:
            draft.end_ns = last_ns
        if draft.start_ns == NEVER:  # its request came before the capture began
            draft.start_ns = seen_ns


def _seen(streams: Streams, fd: I64, offset: I64) -> I64:
    """First sight; of bytes that the capture lost, when they were acknowledged."""
    seen = streams.first_seen(fd, offset)
    return np.where(seen == NEVER, streams.in_order(fd, offset), seen)


def _behind_losses(end_ns: I64, fd: I64, last: I64, tcp: TcpTables) -> I64:
    """Moves the ends of responses that were lost between the tap and the client to the resend that got through.

    In order, a response waits for every hole below its last byte. The client had the bytes half a round trip before
    the ACK came by that covers them.
    """
    losses, flows = tcp.recoveries, tcp.flows
    flow = losses.fd >> 1
    here = losses.at_sender & ~losses.spurious & (losses.fd & 1 == SERVER_TO_CLIENT) & (losses.done_ns != NEVER)
    here &= (flows.vantage[flow] != Vantage.CLIENT) & (flows.vantage[flow] != Vantage.LOCAL)
    rows = np.flatnonzero(here)
    if not len(rows):
        return end_ns
    rows = rows[np.argsort(key(losses.fd[rows], losses.start[rows]), kind="stable")]
    round_trip = np.maximum(flows.near_rtt_ns[flow[rows]], 0)
    through = np.where(losses.resends[rows] > 1, losses.done_ns[rows] - round_trip, losses.resent_ns[rows])
    through = np.maximum(through, losses.resent_ns[rows])
    begins = np.flatnonzero(np.diff(losses.fd[rows], prepend=-1))
    for begin, stop in zip(begins.tolist(), [*begins[1:].tolist(), len(rows)], strict=True):
        np.maximum.accumulate(through[begin:stop], out=through[begin:stop])
    before = np.searchsorted(key(losses.fd[rows], losses.start[rows]), key(fd, last), side="right") - 1
    hit = (before >= 0) & (end_ns != NEVER)
    hit &= losses.fd[rows[before]] == fd
    return np.where(hit, np.maximum(end_ns, through[before]), end_ns)


class _Frames:
    """Which frames carried bytes first."""

    def __init__(self, packets: Packets, tcp: TcpTables, streams: Streams) -> None:
        self._packets, self._row, self._streams = packets, tcp.segments.row, streams

    def at(self, fd: I64, offset: I64) -> list[tuple[int, int]]:
        """(capture, frame) of the byte at each offset; (-1, -1) where none was captured."""
        segment = self._streams.segment_of(fd, offset)
        row = self._row[np.maximum(segment, 0)]
        capture = np.where(segment < 0, -1, self._packets.capture[row].astype(np.int64))
        return list(zip(capture.tolist(), np.where(segment < 0, -1, self._packets.frame[row]).tolist(), strict=True))


def _landmarks(*frames: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Frames that exist, each once."""
    return tuple(dict.fromkeys(frame for frame in frames if frame[0] >= 0))


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


def _cut_times(drafts: list[Draft], streams: Streams) -> dict[Draft, list[int]]:
    """When each of a draft's cuts took effect at the tap: sent by the client, or deliverable from the server."""
    owners = [draft for draft in drafts if draft.cuts]
    if not owners:
        return {}
    fd = np.asarray([cut.fd for draft in owners for cut in draft.cuts], np.int64)
    offset = np.asarray([cut.offset for draft in owners for cut in draft.cuts], np.int64)
    times = iter(np.where(fd & 1 == SERVER_TO_CLIENT, streams.in_order(fd, offset), _seen(streams, fd, offset)).tolist())
    return {draft: [next(times) for _ in draft.cuts] for draft in owners}


def _end(draft: Draft, cuts_ns: list[int], closings: list[_Closing], clipped_ns: int, *, both_ways: bool) -> None:
    """Decides what ended an exchange, and when."""
    if draft.start_ns == NEVER:  # nothing of it was ever seen: the frames that name it lie behind a hole that stayed
        draft.start_ns = clipped_ns
    if draft.ending is Ending.UNSEEN:
        draft.end_ns = draft.request_acked_ns if draft.request_acked_ns != NEVER else draft.request_end_ns
    whole = draft.ending in (Ending.RESPONSE, Ending.GIVEN, Ending.UNSEEN) and draft.end_ns != NEVER
    answered = bool(draft.response) and draft.end_ns != NEVER
    draft.progress_ns = draft.end_ns if answered and draft.ending is not Ending.GIVEN else draft.request_end_ns
    cut_ns, cut = min(zip(cuts_ns, draft.cuts, strict=True), default=(NEVER, None), key=lambda pair: pair[0])
    if cut is not None and cut_ns < (draft.end_ns if whole else NEVER):
        draft.end_ns, draft.outcome = max(cut_ns, draft.start_ns), cut.outcome
        draft.aborted_by = BY_WHOM[cut.fd & 1] if cut.outcome is Outcome.ABORTED else None
        return
    draft.progress_ns = min(draft.progress_ns, clipped_ns)
    if not whole:
        _end_with_connection(draft, closings, clipped_ns, last_ns=draft.end_ns if answered else draft.start_ns)
        return
    if draft.ending is Ending.RESPONSE and both_ways and draft.response_acked_ns == NEVER:
        _end_undelivered(draft, closings, clipped_ns)
    draft.end_ns = max(draft.end_ns, draft.start_ns)


def _end_undelivered(draft: Draft, closings: list[_Closing], clipped_ns: int) -> None:
    """The client never acknowledged the end of the response: it closed before it came, or still waits for it."""
    if draft.facts.get("sse_done"):
        return  # clients of token streams leave before the last chunk says that there is no more
    left_ns = next((closing.at_ns for closing in closings if closing.direction == CLIENT_TO_SERVER), NEVER)
    if draft.start_ns <= left_ns < NEVER:
        draft.end_ns, draft.outcome, draft.aborted_by = left_ns, Outcome.ABORTED, "client"
    elif left_ns == NEVER and not closings and clipped_ns - draft.end_ns > _UNACKED_NS:
        draft.end_ns, draft.outcome = clipped_ns, Outcome.INCOMPLETE


def _end_with_connection(draft: Draft, closings: list[_Closing], clipped_ns: int, *, last_ns: int) -> None:
    """What its own bytes do not end ends with the connection, or with the capture."""
    for closing in closings:
        half_closed = closing.direction == CLIENT_TO_SERVER and not closing.is_reset and closing.at_ns < last_ns
        if closing.at_ns < draft.start_ns or (half_closed and draft.response_acked_ns != NEVER):
            continue  # closed before it began, or by a client that still wanted its answer
        still_delivers = closing.direction != CLIENT_TO_SERVER and not closing.is_reset
        draft.end_ns = max(closing.at_ns, last_ns) if still_delivers else closing.at_ns
        if not closing.is_reset and (draft.ending is Ending.TUNNEL or (draft.ending is Ending.CLOSE and closing.direction)):
            return
        draft.outcome, draft.aborted_by = Outcome.ABORTED, BY_WHOM[closing.direction]
        return
    draft.end_ns, draft.outcome = max(clipped_ns, draft.start_ns), Outcome.INCOMPLETE
