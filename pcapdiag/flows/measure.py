"""Columns of TCP packets that compare both directions: RTT samples, bytes in flight, duplicate ACKs, IP-ID continuity."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I32, I64, U8, U16, Bools, Rows
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import LOWEST, group_starts, last_index_where, running_max, shifted
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Kind, Pieces
from pcapdiag.packets.table import ACK, FIN, RST, SYN


def rtt_samples(acks: Acks, pieces: Pieces, sequence: Sequence, segment: Rows) -> I64:
    """RTT tap to receiver and back per row of Segments; -1 none (RFC 6298 section 3).

    An ACK gives a sample when the last byte it covers was seen before it, in order, and no byte it newly covers had
    been seen twice (Karn) or came behind a hole.

    Args:
        acks: advances of the cumulative ACK.
        pieces: first sights.
        sequence: the packets, in fd order.
        segment: rows in Segments, in fd order.
    """
    samples = np.full(len(segment), -1, np.int64)
    if not len(acks) or not len(pieces):
        return samples
    row = np.searchsorted(key(pieces.fd, pieces.start), key(acks.fd, acks.offset - 1), side="right") - 1
    inside = row >= 0
    row = np.maximum(row, 0)
    inside &= (pieces.fd[row] == acks.fd) & (acks.offset - 1 < pieces.stop[row]) & (pieces.in_order_ns[row] == pieces.ts_ns[row])
    inside &= pieces.ts_ns[row] <= acks.ts_ns
    old = np.flatnonzero((sequence.kind == Kind.SEEN_AGAIN) | (sequence.kind == Kind.FILL))
    inside &= ~resent_within(acks, sequence.fd[old], sequence.seq[old], sequence.stop[old], segment[old])
    samples[acks.segment[inside]] = (acks.ts_ns - pieces.ts_ns[row])[inside]
    return samples


def resent_within(acks: Acks, fd: I64, start: I64, stop: I64, segment: Rows) -> Bools:
    """Per ACK: had one of these packets, which repeat numbers or fill holes, overlapped what it newly covers?

    Args:
        acks: advances of the cumulative ACK.
        fd: flow direction of each packet.
        start: offset of its first byte.
        stop: offset behind its last byte.
        segment: its row in Segments.
    """
    if not len(fd) or not len(acks):
        return np.zeros(len(acks), np.bool_)
    # What had been acknowledged when a packet came is no longer anybody's sample.
    earlier = np.searchsorted(key(acks.fd, acks.segment), key(fd, segment)) - 1
    heard = (earlier >= 0) & (acks.fd[earlier] == fd)
    start = np.where(heard, np.maximum(start, acks.offset[earlier]), start)
    order = np.argsort(key(fd, start), kind="stable")
    fd, start, stop = fd[order], start[order], stop[order]
    reach = running_max(stop, group_starts(fd))
    row = np.searchsorted(key(fd, start), key(acks.fd, acks.offset)) - 1
    valid = row >= 0
    before = shifted(acks.offset, group_starts(acks.fd), -1)  # the first one may cover the SYN, which lies at -1
    hit: Bools = valid & (fd[row] == acks.fd) & (reach[row] > before)
    return hit


def in_flight(flow_first: Bools, direction: U8, stop: I64, ack: I64, occupies: Bools) -> I64:
    """Bytes sent and not acknowledged at the tap, per packet that carries some; -1 elsewhere. Inputs by flow, then time."""
    result = np.full(len(stop), -1, np.int64)
    for way in (0, 1):
        mine = direction == way
        high = running_max(np.where(mine & occupies, stop, LOWEST), flow_first)
        acked = running_max(np.where(~mine & (ack >= 0), ack, LOWEST), flow_first)
        take = mine & occupies & (acked != LOWEST) & (high >= acked)
        result[take] = (high - acked)[take]
    return result


def answers_probe(flow_first: Bools, direction: U8, kind: U8) -> Bools:
    """Was the last packet of the other direction a keep-alive? Inputs by flow, then time."""
    result = np.zeros(len(kind), np.bool_)
    for way in (0, 1):
        last = last_index_where(direction != way, flow_first)
        mine = (direction == way) & (last >= 0)
        result[mine] = kind[last[mine]] == Kind.KEEP_ALIVE
    return result


def duplicate_acks(sequence: Sequence, *, flags: U8, payload_len: I64, window: U16, has_sack: Bools, to_probe: Bools) -> I32:
    """Number of each duplicate ACK in its series, 0 for others. fd order.

    RFC 5681 section 2; with SACK the window may change, and the answer to a keep-alive (`to_probe`) is none.
    """
    pure = (payload_len == 0) & ((flags & (SYN | FIN | RST)) == 0) & ((flags & ACK) > 0) & (sequence.kind == Kind.CONTROL)
    at_next = (sequence.high_before == LOWEST) | (sequence.seq == sequence.high_before)
    last_window = shifted(window.astype(np.int64), sequence.first, -1)
    repeated = pure & at_next & (sequence.ack == sequence.acked_before) & (window > 0) & ((window == last_window) | has_sack) & ~to_probe
    new_series = sequence.first | (sequence.ack > sequence.acked_before)
    count = np.cumsum(repeated)
    base = np.maximum.accumulate(np.where(new_series, count - repeated, 0))
    return np.where(repeated, count - base, 0).astype(np.int32)


def id_gaps(fd: I64, ip_id: U16, packets_sent: I64, usable: Bools, fd_count: int) -> I32:
    """IP-IDs skipped before each packet in its direction; -1 where a direction does not number consecutively. fd order.

    Args:
        fd: flow direction.
        ip_id: IPv4 identification.
        packets_sent: IDs the packet itself takes (a super-segment takes one a segment).
        usable: packets numbered by the connection: not SYN or RST (other sockets' counters), not ID 0.
        fd_count: how many fds there are.
    """
    result = np.full(len(fd), -1, np.int32)
    at = np.flatnonzero(usable)
    if len(at) < 4:
        return result
    group, number = fd[at], ip_id[at].astype(np.int64)
    begins = group_starts(group)
    step = ((number - shifted(number, begins, 0) + 0x8000) & 0xFFFF) - 0x8000
    step[begins] = 0
    total = np.cumsum(step)
    start = np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))
    absolute = total - total[start]
    expected = shifted(running_max(absolute + packets_sent[at], begins), begins, 0)
    skipped = np.where(begins, 0, absolute - expected)
    # Consecutive numbering shows in most neighbours: a shared or random counter skips nearly every time.
    steady = np.bincount(group, weights=(skipped == 0) & ~begins, minlength=fd_count)
    pairs = np.bincount(group, weights=~begins, minlength=fd_count)
    continuous = (pairs >= 3) & (steady >= 0.7 * pairs)
    result[at] = np.where(continuous[group], np.maximum(skipped, 0), -1)
    return result
