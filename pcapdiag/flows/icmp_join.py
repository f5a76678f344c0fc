"""Which flow, direction and byte each ICMP error speaks of, and which losses a Packet Too Big explains."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np

from pcapdiag.columns import I8, I32, I64, Col, Table
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT
from pcapdiag.packets.table import TCP

if TYPE_CHECKING:
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets

MIN_MTU_V4, MIN_MTU_V6 = 68, 1_280
"""The least MTU an IPv4 (RFC 791 section 3.2) and an IPv6 link (RFC 8200 section 5) may have."""

_FARTHEST = 1 << 31
"""Two sequence numbers are never farther apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowErrors(Table):
    """ICMP errors that quote a packet of a flow in the capture, in the order of the capture."""

    error: Annotated[I64, Col("row in IcmpErrors")]
    row: Annotated[I64, Col("row in Packets: the ICMP packet itself")]
    ts_ns: Annotated[I64, Col("its time", "ns")]
    flow: Annotated[I32, Col("flow of the quoted packet")]
    direction: Annotated[I8, Col("direction of the quoted packet: 0 client to server, 1 server to client")]
    offset: Annotated[I64, Col("stream offset of its first byte; -1: no TCP, or the quote is too short", "bytes")]


def join_errors(packets: Packets, tcp: TcpTables) -> FlowErrors:
    """Matches the five-tuple of every quote with the flows begun before the error; of several, the quoted sequence number decides."""
    errors = packets.icmp_errors
    if not len(errors):
        return FlowErrors.empty()
    by_tuple = _flows_between(tcp, np.unique(np.concatenate([errors.src, errors.dst])))
    found: list[tuple[int, int, int]] = []
    columns = (errors.proto, errors.src, errors.sport, errors.dst, errors.dport, errors.seq, packets.ts_ns[errors.row])
    for number, (proto, src, sport, dst, dport, seq, at_ns) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        for direction, key in ((CLIENT_TO_SERVER, (proto, src, sport, dst, dport)), (SERVER_TO_CLIENT, (proto, dst, dport, src, sport))):
            begun = [flow for flow in by_tuple.get(key, ()) if tcp.flows.first_ns[flow] <= at_ns]
            if begun:
                found.append((number, _nearest(packets, tcp, begun, direction, seq, at_ns), direction))
                break
    if not found:
        return FlowErrors.empty()
    error, flow, towards = np.array(found, np.int64).T
    rows = errors.row[error]
    offsets = [
        _offset(packets, tcp, f, d, int(errors.seq[e]), int(packets.ts_ns[r]))
        for e, f, d, r in zip(error.tolist(), flow.tolist(), towards.tolist(), rows.tolist(), strict=True)
    ]
    return FlowErrors(
        error=error, row=rows, ts_ns=packets.ts_ns[rows], flow=flow.astype(np.int32), direction=towards.astype(np.int8),
        offset=np.array(offsets, np.int64),
    )  # fmt: skip


def _flows_between(tcp: TcpTables, addresses: I32) -> dict[tuple[int, int, int, int, int], list[int]]:
    """(protocol, client, port, server, port) -> flows, ascending; only those between the given addresses."""
    flows = tcp.flows
    rows = np.flatnonzero(np.isin(flows.client, addresses) & np.isin(flows.server, addresses))
    table = defaultdict(list)
    columns = (flows.proto, flows.client, flows.client_port, flows.server, flows.server_port)
    for flow, *key in zip(rows.tolist(), *(column[rows].tolist() for column in columns), strict=True):
        table[key[0], key[1], key[2], key[3], key[4]].append(flow)
    return dict(table)


def _nearest(packets: Packets, tcp: TcpTables, flows: list[int], direction: int, seq: int, ts_ns: int) -> int:
    """The flow whose last packet before ts_ns had the nearest sequence number; the last flow where none can be compared."""
    if len(flows) == 1:
        return flows[0]
    places = [_place(packets, tcp, flow, direction, seq, ts_ns) for flow in flows]
    return max(zip(places, flows, strict=True), key=lambda one: (-abs(one[0][1]) if one[0] else -_FARTHEST, one[1]))[1]


def _offset(packets: Packets, tcp: TcpTables, flow: int, direction: int, seq: int, ts_ns: int) -> int:
    """Stream offset of a sequence number; -1 where it cannot be told."""
    place = _place(packets, tcp, flow, direction, seq, ts_ns)
    return -1 if place is None else max(sum(place), -1)


def _place(packets: Packets, tcp: TcpTables, flow: int, direction: int, seq: int, ts_ns: int) -> tuple[int, int] | None:
    """Stream offset of the packet of that direction seen last before ts_ns, and how far ahead of it a sequence number is."""
    if seq < 0 or int(tcp.flows.proto[flow]) != TCP:
        return None
    begin, stop = int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow])
    segments = tcp.segments
    placed = (segments.direction[begin:stop] == direction) & (segments.seq[begin:stop] >= 0)
    mine = np.flatnonzero(placed & (segments.ts_ns[begin:stop] <= ts_ns))
    if not len(mine):
        return None
    near = begin + int(mine[-1])
    ahead = (seq - int(packets.seq[segments.row[near]]) + (1 << 31)) % (1 << 32) - (1 << 31)  # RFC 9293 section 3.4: modulo 2^32
    return int(segments.seq[near]), ahead


class TooBig(NamedTuple):
    """One Packet Too Big (RFC 1191, RFC 8201) about bytes of a TCP flow."""

    row: int
    """Row in Packets of the ICMP packet."""
    ts_ns: int
    fd: int
    """2 * flow + direction of the quoted packet."""
    offset: int
    """Stream offset of its first byte."""
    mtu: int
    """What it leaves for the flow's packets: the next-hop MTU it names less the tunnel headers in the quote; bytes."""
    quoted_len: int
    """IP length of the packet that was too big, of a tunnel's packet the one inside; bytes."""
    overhead_len: int
    """Tunnel headers before it in the quote; bytes."""


def too_big(packets: Packets, tcp: TcpTables) -> list[TooBig]:
    """The believable ones, by time: the MTU is legal and below the length of the packet quoted (RFC 5927 section 7, RFC 8201 section 4)."""
    joined = join_errors(packets, tcp)
    errors = packets.icmp_errors
    found = []
    for i in np.flatnonzero((errors.mtu[joined.error] >= 0) & (joined.offset >= 0)).tolist():
        error = int(joined.error[i])
        mtu, overhead_len = int(errors.mtu[error]), int(errors.overhead_len[error])
        quoted_len = int(errors.ip_len[error])
        least = MIN_MTU_V6 if int(packets.ip_version[joined.row[i]]) == 6 else MIN_MTU_V4
        if least <= mtu < quoted_len + overhead_len:
            fd = 2 * int(joined.flow[i]) + int(joined.direction[i])
            row, ts_ns, offset = int(joined.row[i]), int(joined.ts_ns[i]), int(joined.offset[i])
            found.append(TooBig(row, ts_ns, fd, offset, mtu - overhead_len, quoted_len, overhead_len))
    return sorted(found, key=lambda one: (one.ts_ns, one.row))


def losses_of(packets: Packets, tcp: TcpTables) -> dict[int, TooBig]:
    """Row of Recoveries -> the Packet Too Big that explains it.

    Explained are bytes first sent in a packet above the MTU, before the flow's last such report, and resent within it
    after the first: routers limit how many reports they send (RFC 1812 section 4.3.2.8), so not every loss has its own.
    Where the tap did not see the packet that was too big, the report has to quote it.
    """
    explained: dict[int, TooBig] = {}
    per_fd: dict[int, list[TooBig]] = defaultdict(list)
    for one in too_big(packets, tcp):
        per_fd[one.fd].append(one)
    found = tcp.recoveries
    for fd, reports in per_fd.items():
        for row in np.flatnonzero((found.fd == fd) & ~found.spurious & (found.resent_segment >= 0)).tolist():
            start, seen = int(found.start[row]), bool(found.at_sender[row])
            told = [one for one in reports if one.ts_ns <= found.resent_ns[row] and (seen or start <= one.offset < found.stop[row])]
            if not told or (seen and int(found.first_ns[row]) > reports[-1].ts_ns):
                continue
            mtu = min(one.mtu for one in told)
            sent_len = _ip_len(packets, tcp, int(found.first_segment[row])) if seen else min(one.quoted_len for one in told)
            if sent_len > mtu >= _ip_len(packets, tcp, int(found.resent_segment[row])):
                explained[row] = max(told, key=lambda one: (one.offset <= start, one.offset))
    return explained


def _ip_len(packets: Packets, tcp: TcpTables, segment: int) -> int:
    return int(packets.ip_len[tcp.segments.row[segment]])
