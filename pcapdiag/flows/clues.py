"""Gathers from the tables what speaks for either end of a connection being the capturing host."""

from __future__ import annotations

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import I64, U8, Rows
from pcapdiag.flows import vantage
from pcapdiag.flows.pieces import key
from pcapdiag.flows.table import Acks, Flows, Kind, Segments, VantageOpinion
from pcapdiag.packets.table import TCP, UDP, Packets

_ETHERNET, _LEAST_FRAME_LEN, _ETHERNET_HEADER_LEN = 1, 60, 14
_NO_TIME = np.iinfo(np.int64).max


def vantage_of(
    packets: Packets,
    flows: Flows,
    segments: Segments,
    acks: Acks,
    supers: Rows,
    *,
    captures: tuple[Capture, ...],
    side: str | None,
) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """Vantage per flow and the opinion on each capture; `side` overrules. `supers` are rows of packets beyond the MSS."""
    if side is not None:
        return vantage.override(side, len(flows), len(captures))
    tcp = np.flatnonzero(flows.proto == TCP)
    tcp_sides, opinions = vantage.infer_vantage(gather(packets, flows, segments, acks, supers, captures), len(captures))
    sides = np.zeros(len(flows), np.uint8)
    sides[tcp] = tcp_sides
    udp = np.flatnonzero(flows.proto == UDP)
    if len(udp) and len(tcp):  # UDP flows share the vantage of their capture when its TCP flows agree
        for capture in range(len(captures)):
            agreed = np.unique(tcp_sides[flows.capture[tcp] == capture])
            if len(agreed) == 1:
                sides[udp[flows.capture[udp] == capture]] = agreed[0]
    return sides, opinions


def gather(packets: Packets, flows: Flows, segments: Segments, acks: Acks, supers: Rows, captures: tuple[Capture, ...]) -> vantage.Clues:
    """The clues of all TCP flows, in the order of their ids."""
    tcp = np.flatnonzero(flows.proto == TCP)
    fd = 2 * segments.flow.astype(np.int64) + segments.direction
    count = 2 * len(flows)

    def by_end(values: I64) -> I64:
        """Per fd -> (TCP flows, 2)."""
        return values.reshape(-1, 2)[tcp]

    ttl = np.zeros(count, np.uint8)
    backwards = slice(None, None, -1)  # so that the first packet of each direction has the last word
    ttl[fd[backwards]] = packets.ttl[segments.row[backwards]]
    split, whole = _super_segments(packets, segments, acks, supers, count)
    turnaround_ns = np.full(count, _NO_TIME)
    sampled = np.flatnonzero(segments.rtt_ns >= 0)
    np.minimum.at(turnaround_ns, fd[sampled], segments.rtt_ns[sampled])
    return vantage.Clues(
        capture=flows.capture[tcp], ends=np.stack([flows.client, flows.server], axis=1)[tcp],
        near_rtt_ns=flows.near_rtt_ns[tcp], far_rtt_ns=flows.far_rtt_ns[tcp], ttl=ttl.reshape(-1, 2)[tcp],
        out=by_end(_outgoing(packets, segments, fd, count)), split=by_end(split), whole=by_end(whole),
        unpadded=by_end(_unpadded(packets, segments, fd, count, captures)),
        turnaround_ns=by_end(np.where(turnaround_ns < _NO_TIME, turnaround_ns, -1)),
        seen_again=by_end(_count(fd[segments.kind == Kind.SEEN_AGAIN], count) - _count(fd[segments.kind == Kind.FILL], count)),
    )  # fmt: skip


def _count(fd: I64, count: int) -> I64:
    return np.bincount(fd, minlength=count)


def _outgoing(packets: Packets, segments: Segments, fd: I64, count: int) -> I64:
    """Per fd: packets that the link layer calls outgoing minus incoming ones."""
    marks = packets.direction[segments.row]
    if not (marks >= 0).any():
        return np.zeros(count, np.int64)
    return _count(fd[marks == 1], count) - _count(fd[marks == 0], count)


def _super_segments(packets: Packets, segments: Segments, acks: Acks, supers: Rows, count: int) -> tuple[I64, I64]:
    """Per fd: super-segments acknowledged in their middle, and others.

    The receiver of a train that the sender's card cut up acknowledges every second packet of it; a receiver whose card
    merged the train acknowledges the whole.
    """
    if not len(supers):
        return np.zeros(count, np.int64), np.zeros(count, np.int64)
    is_super = np.zeros(len(packets), np.bool_)
    is_super[supers] = True
    rows = np.flatnonzero(is_super[segments.row] & (segments.kind == Kind.NEW))
    fd = 2 * segments.flow[rows].astype(np.int64) + segments.direction[rows]
    offsets, start = key(acks.fd, acks.offset), key(fd, segments.seq[rows])
    inside = np.searchsorted(offsets, start + segments.payload_len[rows]) > np.searchsorted(offsets, start, side="right")
    return _count(fd[inside], count), _count(fd[~inside], count)


def _unpadded(packets: Packets, segments: Segments, fd: I64, count: int, captures: tuple[Capture, ...]) -> I64:
    """Per fd: Ethernet frames shorter than the wire allows, minus those filled up to its least length."""
    ethernet = np.array([all(each.link_type == _ETHERNET for each in capture.interfaces) for capture in captures], np.bool_)
    small = np.flatnonzero(segments.payload_len <= _LEAST_FRAME_LEN - _ETHERNET_HEADER_LEN - 40)
    rows = segments.row[small]
    shown = ethernet[packets.capture[rows]] & (packets.ip_len[rows] < _LEAST_FRAME_LEN - _ETHERNET_HEADER_LEN)
    small, rows = small[shown], rows[shown]
    short = packets.frame_len[rows] < _LEAST_FRAME_LEN
    return _count(fd[small[short]], count) - _count(fd[small[~short]], count)
