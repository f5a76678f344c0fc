"""TCP connection attempts as exchanges: first SYN to the client's ACK, a refusal, or giving up (RFC 9293 section 3.5)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.columns import NEVER, rows_between
from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.flows.table import CLIENT_TO_SERVER, Kind
from pcapdiag.packets.table import RST, TCP

if TYPE_CHECKING:
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets

_FIRST_RETRY_NS: Final = 1_000_000_000
"""RFC 6298 section 2.1: a SYN is repeated after one second."""
_CITED: Final = 8
"""SYNs cited per attempt."""
_PTB: Final = frozenset({(3, 4), (2, 0)})
"""ICMP type and code of Packet Too Big, IPv4 and IPv6: no refusal."""
_UNREACHABLE: Final = frozenset({1, 3})


Refusals = dict[int, tuple[int, tuple[int, int]]]
"""Flow -> time and frame of the first ICMP error that says its server cannot be reached."""


def find_refusals(packets: Packets, tcp: TcpTables) -> Refusals:
    """The ICMP errors about TCP flows but for those about the size of packets."""
    errors, flows = packets.icmp_errors, tcp.flows
    if not len(errors):
        return {}
    number = {
        (client, port, server, server_port): flow
        for flow, (client, port, server, server_port) in enumerate(
            zip(flows.client.tolist(), flows.client_port.tolist(), flows.server.tolist(), flows.server_port.tolist(), strict=True)
        )
    }
    found: Refusals = {}
    columns = (errors.row, errors.type, errors.code, errors.proto, errors.src, errors.sport, errors.dst, errors.dport)
    for row, kind, code, proto, *tuple_ in zip(*(column.tolist() for column in columns), strict=True):
        flow = number.get((tuple_[0], tuple_[1], tuple_[2], tuple_[3]))
        if flow is not None and proto == TCP and kind in _UNREACHABLE and (kind, code) not in _PTB:
            found.setdefault(flow, (int(packets.ts_ns[row]), (int(packets.capture[row]), int(packets.frame[row]))))
    return found


def find_connects(packets: Packets, tcp: TcpTables, flows: tuple[int, int], *, refusals: Refusals, clipped_ns: int) -> list[Draft]:
    """One draft per connection attempt of the flows [first, stop) whose SYN was captured; their times are set.

    Args:
        packets: all packets.
        tcp: their flows.
        flows: which of them to look at.
        refusals: what ICMP says of them.
        clipped_ns: when the capture ends.
    """
    first, stop = flows
    all_tries, frames = _attempts(packets, tcp, first, stop)
    columns = (tcp.flows.syn_ack_ns, tcp.flows.established_ns, tcp.flows.rst_ns, tcp.flows.rst_direction)
    syn_acks, established, resets, reset_by = (dict(enumerate(column[first:stop].tolist(), first)) for column in columns)
    servers = dict(enumerate(zip(tcp.flows.server[first:stop].tolist(), tcp.flows.server_port[first:stop].tolist(), strict=True), first))
    names = {server: packets.addresses.endpoint(*server) for server in {servers[flow] for flow in all_tries}}
    drafts = []
    for flow, tries in all_tries.items():
        draft = Draft(flow, Protocol.CONNECT, names[servers[flow]], ending=Ending.GIVEN)
        draft.tries, draft.frames = tuple(tries), tuple(frames[flow][:_CITED])
        draft.start_ns = draft.request_start_ns = draft.request_end_ns = tries[0]
        draft.first_byte_ns = syn_acks[flow]
        if established[flow] != NEVER:
            draft.end_ns = established[flow]
        elif syn_acks[flow] != NEVER:
            draft.end_ns = max(syn_acks[flow], tries[0])  # a queue of its own may have stamped the answer earlier than its SYN
            if resets[flow] != NEVER and reset_by[flow] == CLIENT_TO_SERVER:
                draft.outcome, draft.aborted_by = Outcome.ABORTED, "client"  # answered too late
                draft.given_up_ns = max(ns for ns in tries if ns <= draft.end_ns), draft.end_ns
        elif (data_ns := _first_data(tcp, flow)) != NEVER:
            draft.end_ns = data_ns
        elif resets[flow] != NEVER and reset_by[flow] != CLIENT_TO_SERVER:
            draft.end_ns, draft.status, draft.outcome = resets[flow], "refused", Outcome.ERROR
        elif (error := refusals.get(flow)) is not None and error[0] >= tries[-1]:
            draft.end_ns, draft.status, draft.outcome = error[0], "unreachable", Outcome.ERROR
            draft.frames += (error[1],)
        else:
            _give_up(draft, tries, clipped_ns)
        draft.end_ns = max(draft.end_ns, draft.start_ns)
        drafts.append(draft)
    return drafts


def _attempts(packets: Packets, tcp: TcpTables, first: int, stop: int) -> tuple[dict[int, list[int]], dict[int, list[tuple[int, int]]]]:
    """Per flow in [first, stop) with a SYN of its client the times of these; and the frames of all SYNs and SYN-ACKs."""
    segments = tcp.segments
    here = rows_between(segments.flow, first, stop)
    rows = here.start + np.flatnonzero((segments.kind[here] == Kind.SYN) | (segments.kind[here] == Kind.SYN_AGAIN))
    at = segments.row[rows]
    columns = (segments.flow[rows], segments.direction[rows], segments.ts_ns[rows], packets.capture[at], packets.frame[at])
    tries, frames = defaultdict[int, list[int]](list), defaultdict[int, list[tuple[int, int]]](list)
    for flow, direction, ts_ns, capture, frame in zip(*(column.tolist() for column in columns), strict=True):
        frames[flow].append((capture, frame))
        if direction == CLIENT_TO_SERVER:
            tries[flow].append(ts_ns)
    return tries, frames


def _first_data(tcp: TcpTables, flow: int) -> int:
    """First packet of the client that is no SYN nor RST: the SYN-ACK went by unseen."""
    rows = slice(int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow]))
    segments = tcp.segments
    later = (segments.direction[rows] == CLIENT_TO_SERVER) & (segments.ack[rows] >= 0)
    later &= (segments.kind[rows] < Kind.SYN) & (segments.flags[rows] & RST == 0)
    times = segments.ts_ns[rows][later]
    return int(times[0]) if len(times) else NEVER


def _give_up(draft: Draft, tries: list[int], clipped_ns: int) -> None:
    """Nobody answered: the client gave up before the next SYN that its back-off calls for; the last SYN is a lower bound."""
    last_gap_ns = tries[-1] - tries[-2] if len(tries) > 1 else _FIRST_RETRY_NS // 2
    next_ns = tries[-1] + 2 * last_gap_ns + last_gap_ns // 4
    draft.given_up_ns = tries[-1], min(next_ns, clipped_ns)
    if clipped_ns <= next_ns:
        draft.end_ns, draft.outcome = clipped_ns, Outcome.INCOMPLETE
    else:
        draft.end_ns, draft.outcome, draft.aborted_by = tries[-1], Outcome.ABORTED, "client"
        draft.facts["at_least"] = True
