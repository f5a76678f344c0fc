"""One row per flow, and what concerns whole flows: one-way captures, super-segments, clues to the vantage."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, NEVER, U8, Bools, Rows
from pcapdiag.flows import vantage
from pcapdiag.flows.group import Grouping
from pcapdiag.flows.handshake import Handshakes
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.flows.table import Datagrams, Flows, Segments, VantageOpinion
from pcapdiag.packets.table import TCP, UDP, Packets

_SURELY_SUPER = 9_000
"""Payload no link's MTU allows (jumbo frames end near 9,000): a super-segment even when no MSS is known."""
_ONE_WAY_PACKETS = 4
"""Fewer packets in one direction only (SYNs to a dead host, a stray RST) prove nothing about the capture."""


def one_way_flows(segments: Segments, flow_count: int) -> Bools:
    """Flows of which one direction is missing though the other acknowledges its bytes or goes on sending after its ACKs."""
    flow = segments.flow.astype(np.int64)
    sent = np.bincount(2 * flow + segments.direction, minlength=2 * flow_count)
    # Only a packet with ACK shows that the other side spoke.
    spoken_to = np.bincount(flow[segments.ack >= 0], minlength=flow_count) >= _ONE_WAY_PACKETS
    one: Bools = ((sent[0::2] == 0) != (sent[1::2] == 0)) & spoken_to
    return one


def flow_table(packets: Packets, grouping: Grouping, shakes: Handshakes, tcp_flows: Rows, one_way: Bools) -> Flows:
    """The rows of Flows; `vantage` is still 0 (unknown)."""
    count = len(grouping.begin)
    rows, begin = grouping.rows, grouping.begin
    stop = begin + grouping.length

    def per_tcp(values: npt.NDArray[np.signedinteger], missing: int) -> npt.NDArray[np.signedinteger]:
        result = np.full(count, missing, values.dtype)
        result[tcp_flows] = values
        return result

    is_tcp = grouping.proto == TCP
    place = np.cumsum(np.where(is_tcp, grouping.length, 0)) - np.where(is_tcp, grouping.length, 0)
    place = np.where(is_tcp, place, np.cumsum(np.where(is_tcp, 0, grouping.length)) - grouping.length)
    overhead = np.array([tunnel.overhead_len for tunnel in packets.tunnels], np.int32)
    stamped = packets.has_ts[rows].astype(np.int64)
    return Flows(
        proto=grouping.proto, capture=packets.capture[rows[begin]] if count else np.empty(0, np.uint16),
        client=grouping.client, client_port=grouping.client_port, server=grouping.server, server_port=grouping.server_port,
        roles_known=grouping.roles_known, begin=place, stop=place + grouping.length, packet_count=grouping.length,
        byte_count=_sum(packets.ip_len[rows].astype(np.int64), begin),
        first_ns=packets.ts_ns[rows[begin]] if count else begin, last_ns=packets.ts_ns[rows[stop - 1]] if count else begin,
        syn_ns=per_tcp(shakes.syn_ns, NEVER), syn_count=per_tcp(shakes.syn_count, 0).astype(np.int32),
        syn_ack_ns=per_tcp(shakes.syn_ack_ns, NEVER), syn_ack_count=per_tcp(shakes.syn_ack_count, 0).astype(np.int32),
        established_ns=per_tcp(shakes.established_ns, NEVER), near_rtt_ns=per_tcp(shakes.near_rtt_ns, -1),
        far_rtt_ns=per_tcp(shakes.far_rtt_ns, -1), client_mss=per_tcp(shakes.client_mss, 0).astype(np.int32),
        server_mss=per_tcp(shakes.server_mss, 0).astype(np.int32), client_shift=per_tcp(shakes.client_shift, -1).astype(np.int8),
        server_shift=per_tcp(shakes.server_shift, -1).astype(np.int8), sack_ok=per_tcp(shakes.sack_ok, -1).astype(np.int8),
        timestamps=_sum(stamped, begin) * 2 > grouping.length, client_fin_ns=per_tcp(shakes.client_fin_ns, NEVER),
        server_fin_ns=per_tcp(shakes.server_fin_ns, NEVER), rst_ns=per_tcp(shakes.rst_ns, NEVER),
        rst_direction=per_tcp(shakes.rst_direction, -1).astype(np.int8), one_way=one_way, vantage=np.zeros(count, np.uint8),
        tunnel_overhead_len=(np.maximum.reduceat(overhead[packets.tunnel[rows]], begin) if count else overhead[:0]).astype(np.int32),
    )  # fmt: skip


def _sum(values: I64, begin: I64) -> I64:
    return np.add.reduceat(values, begin) if len(begin) else begin


def datagrams(packets: Packets, grouping: Grouping) -> Datagrams:
    """UDP datagrams in flow order."""
    flows = np.flatnonzero(grouping.proto == UDP)
    take = concatenated_ranges(grouping.begin[flows], grouping.length[flows])
    rows = grouping.rows[take]
    return Datagrams(
        row=rows.astype(np.int64), flow=grouping.flow[take].astype(np.int32), direction=grouping.direction[take], ts_ns=packets.ts_ns[rows]
    )


def flow_of_row(grouping: Grouping, row_count: int) -> I64:
    """Flow id per row of Packets; -1 for rows of none."""
    result = np.full(row_count, -1, np.int64)
    result[grouping.rows] = grouping.flow
    return result


def super_segments(packets: Packets, flows: Flows, segments: Segments) -> Rows:
    """Rows of Packets that carry more than the receiver's MSS: segmentation or receive offload, not the wire's doing."""
    flow = segments.flow
    limit = np.where(segments.direction == 0, flows.server_mss[flow], flows.client_mss[flow])
    limit = np.where(limit > 0, limit, _SURELY_SUPER)
    rows: Rows = segments.row[(segments.payload_len > limit) | packets.ip_len_zero[segments.row]]
    return rows


def vantage_of(
    packets: Packets, flows: Flows, segments: Segments, supers: Rows, *, capture_count: int, side: str | None
) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """Vantage per flow and the opinion on each capture; `side` overrules."""
    if side is not None:
        return vantage.override(side, len(flows), capture_count)
    tcp = np.flatnonzero(flows.proto == TCP)
    fd = 2 * segments.flow.astype(np.int64) + segments.direction
    count = 2 * len(flows)
    ttl = np.zeros(count, np.uint8)
    backwards = slice(None, None, -1)  # so that the first packet of each direction has the last word
    ttl[fd[backwards]] = packets.ttl[segments.row[backwards]]
    marks = packets.direction[segments.row].astype(np.int64)
    out = np.bincount(fd, weights=(marks == 1).astype(np.int64) - (marks == 0), minlength=count).astype(np.int64)
    is_super = np.zeros(len(packets), np.bool_)
    is_super[supers] = True
    heavy = np.bincount(fd, weights=is_super[segments.row], minlength=count) > 0
    clues = vantage.Clues(
        capture=flows.capture[tcp], near_rtt_ns=flows.near_rtt_ns[tcp], far_rtt_ns=flows.far_rtt_ns[tcp],
        client_ttl=ttl[2 * tcp], server_ttl=ttl[2 * tcp + 1], client_out=out[2 * tcp], server_out=out[2 * tcp + 1],
        client_super=heavy[2 * tcp], server_super=heavy[2 * tcp + 1],
    )  # fmt: skip
    tcp_sides, opinions = vantage.infer_vantage(clues, capture_count)
    sides = np.zeros(len(flows), np.uint8)
    sides[tcp] = tcp_sides
    udp = np.flatnonzero(flows.proto == UDP)
    if len(udp) and len(tcp):  # UDP flows share the vantage of their capture when its TCP flows agree
        for capture in range(capture_count):
            agreed = np.unique(tcp_sides[flows.capture[tcp] == capture])
            if len(agreed) == 1:
                sides[udp[flows.capture[udp] == capture]] = agreed[0]
    return sides, opinions
