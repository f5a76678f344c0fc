"""Turns the byte offsets of all drafts into times and frames, in a few look-ups over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import BY_WHOM, Draft, Ending
from pcapdiag.exchanges.table import Outcome

if TYPE_CHECKING:
    from pcapdiag.columns import I64
    from pcapdiag.flows.table import Flows, TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.streams import Streams


def land(drafts: list[Draft], packets: Packets, tcp: TcpTables, streams: Streams) -> None:
    """Sets the times, frames and outcomes of drafts whose bytes lie in TCP streams."""
    if not drafts:
        return
    _time_requests(drafts, streams)
    _time_responses(drafts, streams)
    _cite(drafts, packets, tcp, streams)
    closings = _closings(tcp.flows)
    clipped_ns = int(packets.ts_ns.max())
    cuts_ns = _cut_times(drafts, streams)
    for draft in drafts:
        _end(draft, cuts_ns.get(draft, []), closings[draft.flow], clipped_ns)


def _time_requests(drafts: list[Draft], streams: Streams) -> None:
    asked = [draft for draft in drafts if draft.request]
    fd = np.asarray([2 * draft.flow for draft in asked], np.int64)
    first = np.asarray([draft.request[0][0] for draft in asked], np.int64)
    last = np.asarray([draft.request[-1][1] - 1 for draft in asked], np.int64)
    acked = streams.acked(fd, last)
    seen, sent = _seen(streams, fd, first), _seen(streams, fd, last)
    columns = (seen, sent, streams.in_order(fd, last), acked)
    for draft, begin_ns, end_ns, in_order_ns, acked_ns in zip(asked, *(column.tolist() for column in columns), strict=True):
        draft.start_ns = draft.request_start_ns = begin_ns
        draft.request_end_ns, draft.request_in_order_ns, draft.request_acked_ns = end_ns, in_order_ns, acked_ns


def _time_responses(drafts: list[Draft], streams: Streams) -> None:
    answered = [draft for draft in drafts if draft.response]
    fd = np.asarray([2 * draft.flow + 1 for draft in answered], np.int64)
    first = np.asarray([draft.response[0][0] for draft in answered], np.int64)
    last = np.asarray([draft.response[-1][1] - 1 for draft in answered], np.int64)
    columns = (streams.in_order(fd, first), streams.in_order(fd, last), _seen(streams, fd, first))
    for draft, first_ns, last_ns, seen_ns in zip(answered, *(column.tolist() for column in columns), strict=True):
        draft.first_byte_ns = first_ns
        if draft.ending is not Ending.GIVEN:
            draft.end_ns = last_ns
        if draft.start_ns == NEVER:  # its request came before the capture began
            draft.start_ns = seen_ns


def _seen(streams: Streams, fd: I64, offset: I64) -> I64:
    """First sight; of bytes that the capture lost, when they were acknowledged."""
    seen = streams.first_seen(fd, offset)
    return np.where(seen == NEVER, streams.in_order(fd, offset), seen)


def _cite(drafts: list[Draft], packets: Packets, tcp: TcpTables, streams: Streams) -> None:
    """Looks up which frames carried the first and last bytes of requests and responses."""
    places = [
        place
        for draft in drafts
        for fd, spans in ((2 * draft.flow, draft.request), (2 * draft.flow + 1, draft.response))
        if spans
        for place in ((fd, spans[0][0]), (fd, spans[-1][1] - 1))
    ]
    if not places:
        return
    fd, offset = (np.asarray(column, np.int64) for column in zip(*places, strict=True))
    segment = streams.segment_of(fd, offset)
    row = tcp.segments.row[segment]  # of segment -1, which is left out below, any
    frames = zip(segment.tolist(), packets.capture[row].tolist(), packets.frame[row].tolist(), strict=True)
    for draft in drafts:
        count = 2 * (bool(draft.request) + bool(draft.response))
        found = [(capture, frame) for _, (at, capture, frame) in zip(range(count), frames, strict=False) if at >= 0]
        draft.frames = (*dict.fromkeys(found),)


class _Closing(NamedTuple):
    """Something that ends a connection, and the direction it came from."""

    at_ns: int
    direction: int
    is_reset: bool


def _closings(flows: Flows) -> list[list[_Closing]]:
    """What closed each flow, in time order."""
    columns = (flows.client_fin_ns, flows.server_fin_ns, flows.rst_ns, flows.rst_direction)
    return [
        sorted(
            closing
            for closing in (_Closing(client_fin, 0, False), _Closing(server_fin, 1, False), _Closing(rst, rst_direction, True))
            if closing.at_ns != NEVER
        )
        for client_fin, server_fin, rst, rst_direction in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _cut_times(drafts: list[Draft], streams: Streams) -> dict[Draft, list[int]]:
    """When each of a draft's cuts took effect at the tap: sent by the client, or deliverable from the server."""
    owners = [draft for draft in drafts if draft.cuts]
    if not owners:
        return {}
    fd = np.asarray([cut.fd for draft in owners for cut in draft.cuts], np.int64)
    offset = np.asarray([cut.offset for draft in owners for cut in draft.cuts], np.int64)
    times = iter(np.where(fd & 1 == 1, streams.in_order(fd, offset), _seen(streams, fd, offset)).tolist())
    return {draft: [next(times) for _ in draft.cuts] for draft in owners}


def _end(draft: Draft, cuts_ns: list[int], closings: list[_Closing], clipped_ns: int) -> None:
    """Decides what ended an exchange, and when."""
    whole = draft.ending in (Ending.RESPONSE, Ending.GIVEN) and draft.end_ns != NEVER
    if draft.start_ns == NEVER:  # nothing of it was ever seen: the frames that name it lie behind a hole that stayed
        draft.start_ns = clipped_ns
    cut_ns, cut = min(zip(cuts_ns, draft.cuts, strict=True), default=(NEVER, None), key=lambda pair: pair[0])
    if cut is not None and cut_ns < (draft.end_ns if whole else NEVER):
        draft.end_ns, draft.outcome = max(cut_ns, draft.start_ns), cut.outcome
        draft.aborted_by = BY_WHOM[cut.fd & 1] if cut.outcome is Outcome.ABORTED else None
        return
    if draft.ending is Ending.UNSEEN:
        draft.end_ns, whole = (draft.request_acked_ns if draft.request_acked_ns != NEVER else draft.request_end_ns), True
    if whole:
        draft.end_ns = max(draft.end_ns, draft.start_ns)
        return
    last_ns = draft.end_ns if draft.response and draft.end_ns != NEVER else draft.start_ns
    for closing in closings:
        if closing.at_ns < draft.start_ns or (closing.direction == 0 and not closing.is_reset and closing.at_ns < last_ns):
            continue  # closed before it began, or a half-closed client that still got its answer
        draft.end_ns = max(closing.at_ns, last_ns) if closing.direction else closing.at_ns
        if not closing.is_reset and (draft.ending is Ending.TUNNEL or (draft.ending is Ending.CLOSE and closing.direction)):
            return
        draft.outcome, draft.aborted_by = Outcome.ABORTED, BY_WHOM[closing.direction]
        return
    draft.end_ns, draft.outcome = max(clipped_ns, draft.start_ns), Outcome.INCOMPLETE
