"""Which resends were needless, because the original had arrived.

These say so: an ACK or SACK that passed the tap before the resend, or too soon after it to answer it; a DSACK (RFC 2883); an
ACK that echoes a timestamp older than the resend's (RFC 3522); the late original itself; where there is none of these, that
every packet, resends too, was acknowledged by one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, NEVER, U16, Bools
from pcapdiag.flows.ack_loss import acks_lost
from pcapdiag.flows.again import Again, Entries, Heard
from pcapdiag.flows.offsets import key
from pcapdiag.flows.resend_table import Evidence
from pcapdiag.flows.segmented import concatenated_ranges, group_starts
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Kind, Sacked

_LEAST_PROVEN = 3
"""Resends that were needless; one or two say little of the next one."""
_ALMOST = 0.9
"""Of a least round trip: clocks and captures jitter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needless:
    """Per row of Again."""

    evidence: U16
    """Evidence bits: ACKED, SACKED, DSACK, ECHO, TOO_SOON, LATE_ORIGINAL, REFUSED, OLDER, COPY."""
    late_original: Bools
    """The packet is itself the original, come after its resend."""
    ack_lost: Bools
    """The acknowledgment of the packet before it was lost (flows/ack_loss.py)."""


def find_needless(again: Again, heard: Heard, sequence: Sequence, entries: Entries, *, acks: Acks, sacked: Sacked) -> Needless:
    """What speaks for each packet that its bytes had arrived before."""
    evidence = np.zeros(len(again.at), np.uint16)
    plain = (again.kind != Kind.KEEP_ALIVE) & ~again.silent
    late_original, copy, overtaken = _originals(again, entries)
    mark(evidence, late_original, Evidence.OLDER)
    mark(evidence, copy, Evidence.COPY)
    mark(evidence, overtaken, Evidence.LATE_ORIGINAL)
    # Rows, not times: what answers a resend at once may bear the same tick of a coarse clock.
    heard_before = np.append(acks.segment, [NEVER])[again.done] < entries.segment[again.at]
    mark(evidence, plain & heard_before, Evidence.ACKED)
    mark(evidence, plain & _sacked_before(again, entries, sacked), Evidence.SACKED)
    twice, told_by = _reported_twice(again, entries, sacked)
    mark(evidence, plain & twice, Evidence.DSACK)
    mark(evidence, plain & _echoes_original(again, entries, acks), Evidence.ECHO)
    # An ACK that comes sooner than a round trip after the resend answers something before it.
    soon = ~heard_before & (again.done_ns < again.ts_ns + (_ALMOST * entries.trip_ns[again.fd]).astype(np.int64))
    mark(evidence, plain & soon & (again.kind != Kind.FILL), Evidence.TOO_SOON)
    mark(evidence, plain & _answered_one_by_one(again, sequence, entries), Evidence.TOO_SOON)
    refused = (again.done_ns >= NEVER) & (again.first >= 0) & (entries.refused_ns[again.fd] > entries.ts_ns[again.first])
    mark(evidence, plain & refused, Evidence.REFUSED)
    acked, echoed = bears(evidence, Evidence.ACKED), bears(evidence, Evidence.ECHO)
    lost = acks_lost(again, heard, sequence, entries, acks=acks, acked=acked, told_by=told_by, echoed=echoed)
    return Needless(evidence=evidence, late_original=late_original, ack_lost=lost)


def mark(evidence: U16, rows: Bools, bit: Evidence) -> None:
    """Adds evidence to some rows, in place."""
    evidence[rows] |= np.uint16(bit)


def bears(evidence: U16, bits: Evidence) -> Bools:
    """Which rows have at least one of these bits?"""
    result: Bools = (evidence & np.uint16(bits)) > 0
    return result


def newer(a: I64, b: I64) -> Bools:
    """Is each timestamp a later than b (RFC 7323 section 5.2, serial arithmetic)?"""
    ahead = (a - b) & 0xFFFFFFFF
    result: Bools = (ahead > 0) & (ahead < 1 << 31)
    return result


def sent_earlier(entries: Entries, one: I64, other: I64) -> tuple[Bools, Bools]:
    """Per pair of entries: did `one` leave its host before `other`, and does anything tell? IP-IDs first, then timestamps."""
    by_id = (entries.id_gap[one] >= 0) & (entries.id_gap[other] >= 0)
    ahead = (entries.ip_id[other].astype(np.int64) - entries.ip_id[one]) & 0xFFFF
    by_ts = entries.has_ts[one] & entries.has_ts[other]
    stamps = entries.ts_val[one].astype(np.int64), entries.ts_val[other].astype(np.int64)
    tells = by_id | (by_ts & (stamps[0] != stamps[1]))
    return np.where(by_id, (ahead > 0) & (ahead < 0x8000), newer(stamps[1], stamps[0]) & by_ts), tells


def _originals(again: Again, entries: Entries) -> tuple[Bools, Bools, Bools]:
    """Packets that are originals come late, copies that the network made, and resends whose original came after them."""
    seen = (again.kind == Kind.SEEN_AGAIN) & (again.before >= 0)
    rows = np.flatnonzero(seen)
    late, copy, overtaken = (np.zeros(len(again.at), np.bool_) for _ in range(3))
    if not len(rows):
        return late, copy, overtaken
    at, before = again.at[rows], again.before[rows]
    same_id = (entries.ip_id[at] == entries.ip_id[before]) & (entries.ip_id[at] > 0)
    same_ts = entries.has_ts[at] & entries.has_ts[before] & (entries.ts_val[at] == entries.ts_val[before])
    copy[rows] = same_id & (same_ts | ~entries.has_ts[at])
    earlier, tells = sent_earlier(entries, at, before)
    late[rows] = earlier & tells & ~copy[rows]
    row_of = np.full(len(entries.ts_ns), -1, np.int64)
    row_of[again.at] = np.arange(len(again.at))
    hit = row_of[again.before[late]]
    overtaken[hit[hit >= 0]] = True
    return late, copy, overtaken


def _sacked_before(again: Again, entries: Entries, sacked: Sacked) -> Bools:
    """Had the receiver reported both ends of these bytes as held?"""
    fresh = sacked.take(~sacked.duplicate)
    result = again.stop > again.start
    if not len(fresh):
        return np.zeros(len(again.at), np.bool_)
    begins = key(fresh.fd, fresh.start)
    for offset in (again.start, again.stop - 1):
        row = np.searchsorted(begins, key(again.fd, offset), side="right") - 1
        result &= (row >= 0) & (fresh.fd[row] == again.fd) & (fresh.stop[row] > offset) & (fresh.segment[row] < entries.segment[again.at])
    return result


def _answered_one_by_one(again: Again, sequence: Sequence, entries: Entries) -> Bools:
    """Resends without timestamps and SACK, up to which each packet of their sender was answered by an acknowledgment of its own.

    A packet that brings nothing new is acknowledged, too (RFC 9293 section 3.10.7.4). When the numbers of the receiver are
    those of one who got all packets in turn, resends among them, none was lost. One loss, one delayed acknowledgment or one
    packet with data of its own, and they are not, from there on.
    """
    result = np.zeros(len(again.at), np.bool_)
    bare = (again.kind == Kind.SEEN_AGAIN) & ~entries.has_ts[again.at] & (entries.sack_ok[again.fd] != 1)
    for fd in np.unique(again.fd[bare]).tolist():
        rows = np.flatnonzero(bare & (again.fd == fd))
        (begin, stop), (back, end) = (np.searchsorted(sequence.fd, [one, one + 1]).tolist() for one in (fd, fd ^ 1))
        sent = begin + np.flatnonzero((sequence.stop[begin:stop] > sequence.seq[begin:stop]) & (sequence.seq[begin:stop] >= 0))
        heard = back + np.flatnonzero(sequence.ack[back:end] > 0)
        heard = heard[: int(np.argmax(np.append(entries.payload_len[heard] > 0, [True])))]
        updates = np.zeros(len(heard), np.bool_)
        updates[1:] = (np.diff(sequence.ack[heard]) == 0) & (np.diff(entries.window[heard]) != 0)
        answers = sequence.ack[heard[~updates]][: len(sent)]
        due = np.maximum.accumulate(sequence.stop[sent])[: len(answers)]
        as_due = int(np.argmax(np.append(answers != due, [True])))
        proven = np.searchsorted(sent, again.at[rows]) < as_due
        if as_due == len(answers) and int(proven.sum()) >= _LEAST_PROVEN:  # nothing was lost; the last answers are still on their way
            proven |= np.searchsorted(sent, again.first[rows]) < as_due
        result[rows] = proven
    return result


def _reported_twice(again: Again, entries: Entries, sacked: Sacked) -> tuple[Bools, I64]:
    """Which resend each DSACK is about, and the row in Segments of the first DSACK per resend (-1).

    A DSACK is about the last resend of its bytes that had time to arrive before it was sent.
    """
    twice, told_by = np.zeros(len(again.at), np.bool_), np.full(len(again.at), -1, np.int64)
    dsacks = sacked.take(sacked.duplicate)
    if not len(dsacks) or not len(again.at):
        return twice, told_by
    order = np.lexsort((again.at, again.start, again.fd))
    begins = key(again.fd[order], again.start[order])
    low, high = (np.searchsorted(begins, key(dsacks.fd, edge)) for edge in (dsacks.start, dsacks.stop))
    pair_dsack, pair = np.repeat(np.arange(len(dsacks)), high - low), order[concatenated_ranges(low, high - low)]
    limit_ns = dsacks.ts_ns[pair_dsack] - (_ALMOST * np.maximum(entries.trip_ns[dsacks.fd[pair_dsack]], 0)).astype(np.int64)
    fits = again.ts_ns[pair] <= limit_ns
    pair_dsack, pair = pair_dsack[fits], pair[fits]
    if not len(pair):
        return twice, told_by
    # Of several resends of one start the last one: the pairs of a DSACK are sorted by start, then time.
    last = np.append((group_starts(pair_dsack) | group_starts(again.start[pair]))[1:], [True])
    pair_dsack, pair = pair_dsack[last], pair[last]
    # What was resent in one packet may have arrived in part: all of it must have come twice.
    common = np.minimum(again.stop[pair], dsacks.stop[pair_dsack]) - again.start[pair]
    held = np.bincount(pair, weights=common, minlength=len(again.at)) >= again.stop - again.start
    twice[pair] = held[pair]
    told_by[pair[::-1]] = dsacks.segment[pair_dsack[::-1]]  # backwards, so that the first DSACK has the last word
    return twice, np.where(twice, told_by, -1)


def _echoes_original(again: Again, entries: Entries, acks: Acks) -> Bools:
    """Does the first ACK above these bytes echo a timestamp older than that of all resends it covers?

    An ACK echoes the packet that brought the first byte it newly covers (RFC 7323 section 4.3), so a resend of that
    byte must be among those: a delayed ACK echoes the packet before.
    """
    result = np.zeros(len(again.at), np.bool_)
    rows = np.flatnonzero((again.done_ns > again.ts_ns) & (again.done_ns < NEVER) & (again.kind != Kind.FILL) & entries.has_ts[again.at])
    if not len(rows):
        return result
    done = again.done[rows]
    ack_entry = entries.entry_of_segment[acks.segment[done]]
    same = (done > 0) & (acks.fd[done - 1] == again.fd[rows])
    edge = np.where(same, acks.offset[done - 1], again.start[rows])
    at_edge = again.start[rows] <= edge
    echo = entries.ts_ecr[ack_entry].astype(np.int64)
    older = entries.has_ts[ack_entry] & newer(entries.ts_val[again.at[rows]].astype(np.int64), echo)
    first = again.first[rows]
    older &= (first < 0) | ~newer(entries.ts_val[np.maximum(first, 0)].astype(np.int64), echo)
    result[rows[at_edge & older]] = True
    _, earliest = np.unique(np.where(at_edge, done, -1), return_index=True)
    told = done[earliest][(at_edge & older)[earliest]]
    result[rows[np.isin(done, told)]] = True
    return result
