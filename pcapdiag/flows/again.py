"""Packets that carry bytes again, fill a hole or probe: which they are, the copy before each, and what its sender had heard.

All arrays are in fd order. A tap between the hosts sees an ACK before the data's sender does: what passed the tap within
the last round trip between both is not known to the sender yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I8, I64, NEVER, U8, U16, U32, Bools
from pcapdiag.flows.offsets import key
from pcapdiag.flows.pieces import first_ack, time_of
from pcapdiag.flows.segmented import LOWEST, group_starts, last_index_where, running_max, shifted
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Kind, Pieces

_AT_HOST_NS = 1_000_000
"""A tap that near the sender is at it: what is left of the round trip is the time a host takes to answer."""
_FRESH_NS = 1_000_000_000
"""A sample further away in time does not speak for a moment (RFC 6298 asks for fresh samples)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Columns of TCP packets in fd order that resends need beside Sequence."""

    ts_ns: I64
    segment: I64
    """Row in Segments of each entry."""
    entry_of_segment: I64
    """The other way round."""
    payload_len: I64
    window: I64
    """Bytes; -1 of a RST, whose window means nothing."""
    has_ts: Bools
    ts_val: U32
    ts_ecr: U32
    ip_id: U16
    id_gap: I64
    """-1: the direction does not number consecutively."""
    rtt_ns: I64
    """Per fd: the connection's round trip between both ends; -1 unknown."""
    trip_ns: I64
    """Per fd: the least round trip between the tap and the data's receiver; -1 unknown."""
    dup_ack: I64
    """Number of each duplicate ACK in its series; 0 for other packets."""
    sample_ns: I64
    """Round trip between the tap and the host that sent the entry, as this ACK measures it; -1 none."""
    sack_ok: I8
    """Per fd: SACK negotiated: 1 yes, 0 no, -1 unknown."""
    refused_ns: I64
    """Per fd: when the other end last answered its data with a RST without ACK (RFC 9293 section 3.10.7.1); -1 never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """The packets in question, by fd, then time. Entries of other packets are -1 where there is none."""

    at: I64
    """Their entries."""
    fd: I64
    start: I64
    stop: I64
    ts_ns: I64
    kind: U8
    """Kind."""
    silent: Bools
    """Bytes that were lost without a hole: Kind.NEW to the tap."""
    first: I64
    """First sight of the byte at `start`, when it is not this packet."""
    before: I64
    """Last packet with that byte before it; of a filler the packet that opened the hole."""
    next_ns: I64
    """When the same byte is sent the next time; NEVER."""
    same: I64
    """The first row (of this table) that resends the same bytes."""
    done: I64
    """Row in Acks of the first ACK that covers the last byte; len(acks) for none."""
    done_ns: I64


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the sender of each packet had heard from its receiver when it sent it."""

    entry: I64
    """The last packet; -1 none."""
    known_ns: I64
    """What passed the tap until then had reached the sender."""
    ago_ns: I64
    """From the last packet to then."""
    una: I64
    """Highest offset acknowledged; LOWEST none."""
    advanced_ns: I64
    """When that ACK passed the tap; LOWEST none."""
    repeats: I64
    """Duplicate ACKs (RFC 5681 section 2) since then: packets with bytes repeat the number, too, and report no loss."""


def sent_again(sequence: Sequence, entries: Entries, *, pieces: Pieces, acks: Acks, silent: I64) -> Again:
    """All packets in question. `silent`: entries that bring bytes which were lost without a hole."""
    kind, known = sequence.kind, sequence.high_before != LOWEST
    overlaps = (kind == Kind.NEW) & (entries.payload_len > 0) & known & (sequence.seq < sequence.high_before)
    take = overlaps | ((kind == Kind.FIN) & (sequence.sends > 1))
    for one in (Kind.SEEN_AGAIN, Kind.FILL, Kind.KEEP_ALIVE, Kind.SYN_AGAIN):
        take |= kind == one
    take[silent] = True
    at = np.flatnonzero(take)
    is_silent = np.zeros(len(kind), np.bool_)
    is_silent[silent] = True
    fd, start = sequence.fd[at], sequence.seq[at]
    stop = np.where(entries.payload_len[at] > 0, start + entries.payload_len[at], sequence.stop[at])
    stop = np.where(overlaps[at] & ~is_silent[at], sequence.high_before[at], stop)
    first = _first_sights(sequence, entries, pieces, at)
    before, next_ns, same = _neighbours(fd, start, stop, at, first, entries.ts_ns)
    before = np.where(is_silent[at], at - 1, _openers(sequence, at, before))
    done = first_ack(acks, fd, np.maximum(stop, start + 1) - 1)
    return Again(
        at=at, fd=fd, start=start, stop=stop, ts_ns=entries.ts_ns[at], kind=kind[at], silent=is_silent[at], first=first, before=before,
        next_ns=next_ns, same=same, done=done, done_ns=time_of(acks, done),
    )  # fmt: skip


def _first_sights(sequence: Sequence, entries: Entries, pieces: Pieces, at: I64) -> I64:
    """Entries that carried the first byte of each packet first, before it; -1: nobody did."""
    fd, start = sequence.fd[at], sequence.seq[at]
    first = np.full(len(at), -1, np.int64)
    last = start + np.maximum(entries.payload_len[at], 1) - 1
    for offset in (last, start) if len(pieces) else ():  # the first byte speaks; where it took the number of a FIN, the last one
        piece = np.searchsorted(key(pieces.fd, pieces.start), key(fd, offset), side="right") - 1
        inside = (piece >= 0) & (pieces.fd[piece] == fd) & (pieces.stop[piece] > offset)
        first = np.where(inside, entries.entry_of_segment[pieces.segment[piece]], first)
    for control in (Kind.SYN, Kind.FIN):
        opened = np.flatnonzero((sequence.kind == control) & (sequence.sends == 1))
        if len(opened):
            mine = (sequence.kind[at] == Kind.SYN_AGAIN) if control == Kind.SYN else (sequence.kind[at] == Kind.FIN)
            row = np.minimum(np.searchsorted(sequence.fd[opened], fd), len(opened) - 1)
            first = np.where(mine & (sequence.fd[opened[row]] == fd), opened[row], first)
    return np.where(first < at, first, -1)


def _neighbours(fd: I64, start: I64, stop: I64, at: I64, first: I64, ts_ns: I64) -> tuple[I64, I64, I64]:
    """Per packet: the last entry before it with its first byte, when that byte is sent next, and the first row that resends it."""
    order = np.lexsort((at, start, fd))
    begins = group_starts(fd[order])
    same_first = begins | group_starts(start[order])
    before = shifted(at[order], same_first, -1)
    # Packets cut differently: the one that reaches furthest of those that begin below.
    reach = running_max(stop[order], begins)
    furthest = shifted(last_index_where(stop[order] == reach, begins), begins, -1)
    covered = (before < 0) & (furthest >= 0) & (stop[order][furthest] > start[order]) & (at[order][furthest] < at[order])
    before = np.where(covered, at[order][furthest], before)
    following = np.append(ts_ns[at[order][1:]], [NEVER])[: len(at)]
    following[np.append(same_first[1:], [True])[: len(at)]] = NEVER
    head = order[np.maximum.accumulate(np.where(same_first, np.arange(len(at)), 0))] if len(at) else order
    result = np.empty((3, len(at)), np.int64)
    result[:, order] = before, following, head
    return np.maximum(result[0], first), result[1], result[2]


def _openers(sequence: Sequence, at: I64, before: I64) -> I64:
    """For fillers the entry that opened the hole, for others what they have."""
    if not sequence.fills:
        return before
    filler = np.array([fill.at for fill in sequence.fills], np.int64)
    opener = np.array([fill.opener for fill in sequence.fills], np.int64)
    row = np.minimum(np.searchsorted(filler, at), len(filler) - 1)
    return np.where((filler[row] == at) & (sequence.kind[at] == Kind.FILL), opener[row], before)


def heard_by_sender(again: Again, sequence: Sequence, entries: Entries, acks: Acks) -> Heard:
    """What each sender had heard when it sent: all that passed the tap a round trip between tap and sender earlier."""
    back = again.fd ^ 1
    trip_ns = entries.trip_ns[back]
    known_ns = again.ts_ns - np.where(trip_ns >= _AT_HOST_NS, 9 * trip_ns // 10, 0)
    begin, stop = np.searchsorted(sequence.fd, [back, back + 1])
    entry = last_until(entries.ts_ns, begin, stop, known_ns)
    una = np.where(entry >= 0, np.maximum(sequence.acked_before[entry], sequence.ack[entry]), LOWEST)
    una[una < -1] = LOWEST
    row = first_ack(acks, again.fd, np.maximum(una, 0) - 1)
    reached = (una != LOWEST) & (row < len(acks))
    advanced = np.append(entries.entry_of_segment[acks.segment], [-1])[row]
    last = last_index_where(entries.dup_ack > 0, sequence.first)[entry]
    repeats = np.where(reached & (entry >= 0) & (last > advanced), entries.dup_ack[last], 0)
    return Heard(
        entry=entry, known_ns=known_ns, ago_ns=np.where(entry >= 0, known_ns - entries.ts_ns[entry], NEVER), una=una,
        advanced_ns=np.where(reached, time_of(acks, row), LOWEST), repeats=repeats,
    )  # fmt: skip


def trip_before(entries: Entries, fd: I64, entry: I64, group: I64) -> I64:
    """The round trip between the tap and the sender of each entry at its time: the last sample until then, else the least of all.

    Args:
        entries: all entries.
        fd: flow direction of each entry in question.
        entry: the entries; -1 none.
        group: flow direction of all entries.
    """
    trip: I64 = np.maximum(entries.trip_ns[fd ^ 1], 0)
    sampled = np.flatnonzero(entries.sample_ns >= 0)
    if not len(sampled):
        return trip
    row = np.searchsorted(sampled, entry, side="right") - 1
    near = sampled[np.maximum(row, 0)]
    fits = (row >= 0) & (entry >= 0) & (group[near] == fd) & (entries.ts_ns[np.maximum(entry, 0)] - entries.ts_ns[near] <= _FRESH_NS)
    return np.where(fits, np.maximum(trip, entries.sample_ns[near]), trip)


def last_until(ts_ns: I64, begin: I64, stop: I64, until_ns: I64) -> I64:
    """Per row: the last index in [begin, stop) whose time is at most until_ns; -1 for none. Times ascend within each range."""
    low, high = begin.copy(), stop.copy()
    while (open_ := low < high).any():
        middle = (low + high) >> 1
        before = open_ & (ts_ns[np.minimum(middle, len(ts_ns) - 1)] <= until_ns)
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return np.where(low > begin, low - 1, -1)
