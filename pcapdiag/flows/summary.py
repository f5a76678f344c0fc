"""One row per flow, and what concerns whole flows: one-way captures, super-segments."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I32, I64, NEVER, Bools, Rows
from pcapdiag.flows.group import Bundle
from pcapdiag.flows.handshake import Handshakes
from pcapdiag.flows.segmented import concatenated_ranges, group_starts
from pcapdiag.flows.table import Datagrams, Flows, Segments, Tallies
from pcapdiag.packets.table import ACK, RST, SYN, TCP, UDP, Packets

_SURELY_SUPER = 9_000
"""Payload no link's MTU allows (jumbo frames end near 9,000): a super-segment even when no MSS is known."""
_ETHERNET_MSS = 1_460
_SEGMENT_LENS = (1_460, 1_448, 1_440, 1_428, 1_418, 1_400, 1_398, 1_388, 1_380, 1_368, 1_360, 1_348)
"""Payloads of full packets on usual paths: Ethernet with IPv4 or IPv6, without and with timestamps, and behind usual tunnels."""
_LEAST_SUPERS, _MULTIPLES = 2, 0.5
_LEAST_PROVEN = 3
_ONE_WAY_PACKETS = 4
"""Fewer packets in one direction only (SYNs to a dead host, a stray RST) prove nothing about the capture."""


def one_way_flows(segments: Segments, flow_count: int) -> Bools:
    """Flows of which one direction is missing though the other shows that it spoke.

    It acknowledges more and more, or anything behind its own SYN, or goes on sending after ACKs for long.
    """
    flow = segments.flow.astype(np.int64)
    sent = np.bincount(2 * flow + segments.direction, minlength=2 * flow_count)
    single = (sent[0::2] == 0) != (sent[1::2] == 0)
    rows = np.flatnonzero(single[flow]) if single.any() else np.empty(0, np.intp)
    # Only a packet with ACK shows that the other side spoke.
    opens = (segments.flags[rows] & (SYN | ACK)) == SYN
    rows, opened = rows[segments.ack[rows] >= 0], np.bincount(flow[rows[opens]], minlength=flow_count) > 0
    spoken_to = np.bincount(flow[rows], minlength=flow_count)
    low, high = np.full(flow_count, NEVER), np.full(flow_count, -1)
    rows = rows[(segments.flags[rows] & RST) == 0]  # a RST may carry anything
    np.minimum.at(low, flow[rows], segments.ack[rows])
    np.maximum.at(high, flow[rows], segments.ack[rows])
    heard = (spoken_to >= _ONE_WAY_PACKETS) | (high > low) | (opened & (high >= 0))
    one: Bools = single & heard
    return one


def one_sided_captures(flows: Flows, tallies: Tallies) -> Bools:
    """`one_way` again, by the company a flow keeps.

    Where more connections are proven one-way than were seen both ways, the capture holds one direction, and the short ones of
    which nothing else is known are one-way too.
    """
    sent = tallies.packet_count
    acking = tallies.acking_count[0::2] + tallies.acking_count[1::2] > 0
    single = ((sent[0::2] == 0) != (sent[1::2] == 0)) & (flows.proto == TCP)
    two_way = (sent[0::2] > 0) & (sent[1::2] > 0)
    captures = int(flows.capture.max(initial=0)) + 1
    proven = np.bincount(flows.capture[flows.one_way], minlength=captures)
    one_sided = (proven >= _LEAST_PROVEN) & (proven > np.bincount(flows.capture[two_way], minlength=captures))
    result: Bools = flows.one_way | (single & acking & one_sided[flows.capture])
    return result


def flow_table(packets: Packets, bundle: Bundle, shakes: Handshakes, tcp_flows: Rows, one_way: Bools) -> Flows:
    """The rows of Flows; `vantage` is still 0 (unknown)."""
    count = len(bundle.begin)
    rows, begin = bundle.rows, bundle.begin
    stop = begin + bundle.length

    def per_tcp(values: npt.NDArray[np.signedinteger], missing: int) -> npt.NDArray[np.signedinteger]:
        result = np.full(count, missing, values.dtype)
        result[tcp_flows] = values
        return result

    is_tcp = bundle.proto == TCP
    place = np.cumsum(np.where(is_tcp, bundle.length, 0)) - np.where(is_tcp, bundle.length, 0)
    place = np.where(is_tcp, place, np.cumsum(np.where(is_tcp, 0, bundle.length)) - bundle.length)
    overhead = np.array([tunnel.overhead_len for tunnel in packets.tunnels], np.int32)
    stamped = packets.has_ts[rows].astype(np.int64)
    return Flows(
        proto=bundle.proto, capture=packets.capture[rows[begin]] if count else np.empty(0, np.uint16),
        client=bundle.client, client_port=bundle.client_port, server=bundle.server, server_port=bundle.server_port,
        roles_known=bundle.roles_known, begin=place, stop=place + bundle.length, packet_count=bundle.length,
        byte_count=_sum(packets.ip_len[rows].astype(np.int64), begin),
        first_ns=packets.ts_ns[rows[begin]] if count else begin, last_ns=packets.ts_ns[rows[stop - 1]] if count else begin,
        syn_ns=per_tcp(shakes.syn_ns, NEVER), syn_count=per_tcp(shakes.syn_count, 0).astype(np.int32),
        syn_ack_ns=per_tcp(shakes.syn_ack_ns, NEVER), syn_ack_count=per_tcp(shakes.syn_ack_count, 0).astype(np.int32),
        established_ns=per_tcp(shakes.established_ns, NEVER), near_rtt_ns=per_tcp(shakes.near_rtt_ns, -1),
        far_rtt_ns=per_tcp(shakes.far_rtt_ns, -1), client_mss=per_tcp(shakes.client_mss, 0).astype(np.int32),
        server_mss=per_tcp(shakes.server_mss, 0).astype(np.int32), client_shift=per_tcp(shakes.client_shift, -1).astype(np.int8),
        server_shift=per_tcp(shakes.server_shift, -1).astype(np.int8), sack_ok=per_tcp(shakes.sack_ok, -1).astype(np.int8),
        timestamps=_sum(stamped, begin) * 2 > bundle.length, client_fin_ns=per_tcp(shakes.client_fin_ns, NEVER),
        server_fin_ns=per_tcp(shakes.server_fin_ns, NEVER), rst_ns=per_tcp(shakes.rst_ns, NEVER),
        rst_direction=per_tcp(shakes.rst_direction, -1).astype(np.int8), one_way=one_way, vantage=np.zeros(count, np.uint8),
        tunnel_overhead_len=(np.maximum.reduceat(overhead[packets.tunnel[rows]], begin) if count else overhead[:0]).astype(np.int32),
    )  # fmt: skip


def _sum(values: I64, begin: I64) -> I64:
    return np.add.reduceat(values, begin) if len(begin) else begin


def datagrams(packets: Packets, bundle: Bundle) -> Datagrams:
    """UDP datagrams in flow order."""
    flows = np.flatnonzero(bundle.proto == UDP)
    take = concatenated_ranges(bundle.begin[flows], bundle.length[flows])
    rows = bundle.rows[take]
    return Datagrams(
        row=rows.astype(np.int64), flow=bundle.flow[take].astype(np.int32), direction=bundle.direction[take], ts_ns=packets.ts_ns[rows]
    )


def super_segments(packets: Packets, segments: Segments, mss: tuple[I32, I32]) -> Rows:
    """Rows of Segments that carry more than the receiver's MSS: segmentation or receive offload, not the wire's doing.

    Args:
        packets: all packets.
        segments: the TCP packets.
        mss: per flow what its client and its server announced; 0 unknown.
    """
    flow = segments.flow
    limit = np.where(segments.direction == 0, mss[1][flow], mss[0][flow])
    unknown = np.flatnonzero((limit == 0) & (segments.payload_len > _ETHERNET_MSS))
    limit = np.where(limit > 0, limit, _SURELY_SUPER)
    if len(unknown):
        limit[unknown] = _learned(2 * flow[unknown].astype(np.int64) + segments.direction[unknown], segments.payload_len[unknown])
    return np.flatnonzero((segments.payload_len > limit) | packets.ip_len_zero[segments.row])


def _learned(fd: I64, payload_len: I32) -> I64:
    """Per packet longer than an Ethernet segment, without a known MSS: the segment size its direction shows, else `_SURELY_SUPER`.

    Offload joins whole segments: most of its packets are multiples of one size, where jumbo frames all end at one of their own.
    """
    result = np.full(len(fd), _SURELY_SUPER)
    order = np.argsort(fd, kind="stable")
    begins = np.flatnonzero(group_starts(fd[order]))
    for begin, stop in zip(begins.tolist(), [*begins[1:].tolist(), len(fd)], strict=True):
        mine = order[begin:stop]
        shares = [float((payload_len[mine] % size == 0).mean()) for size in _SEGMENT_LENS]
        best = int(np.argmax(shares))
        if len(mine) >= _LEAST_SUPERS and shares[best] >= _MULTIPLES:
            result[mine] = _SEGMENT_LENS[best]
    return result
