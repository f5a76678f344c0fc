"""Losses and their repair: which stretches of bytes a receiver had to wait for, and what brought them.

Two views (CAUSES "two kinds of retransmission"): bytes seen again were lost behind the tap; bytes that fill a hole were
lost before it, or overtaken. A third one shows only at the receiver: a tail resent by timer leaves no hole, but skipped
IP-IDs and a fresh timestamp.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, NEVER, U16, U32, Bools
from pcapdiag.flows.pieces import first_ack, key, time_of
from pcapdiag.flows.segmented import LOWEST, last_index_where, running_max
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Gaps, Kind, Pieces, Recoveries, Repair, Sacked

RTO_MIN_NS = 200_000_000
"""Linux TCP_RTO_MIN; RFC 6298 section 2.4 asks for 1 s, no current stack waits that long."""
_ALMOST = 0.9
"""Timers fire on ticks and captures have jitter: nine tenths of a timer's time count as the timer."""
_RTO_MAX_NS = 120_000_000_000
"""Linux TCP_RTO_MAX: no timer waits longer, so a longer pause before a resend is a spliced file or a clock step."""
_PAUSE_NS = 20_000_000
"""Gaps in which a host's other traffic would have used IP-IDs, if it counted them for all its connections together."""
_REORDER_NS = 3_000_000
"""Wireshark's bound for "out of order" when the RTT is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Columns of TCP packets in fd order that recovery needs beside Sequence."""

    ts_ns: I64
    segment: I64
    """Row in Segments of each entry."""
    entry_of_segment: I64
    """The other way round."""
    payload_len: I64
    has_ts: Bools
    ts_val: U32
    ts_ecr: U32
    ip_id: U16
    id_gap: I64
    """-1: the direction does not number consecutively."""
    rtt_ns: I64
    """Per fd: the connection's round trip between both ends; -1 unknown."""
    refused_ns: I64
    """Per fd: when the other end last answered its data with a RST without ACK (RFC 9293 section 3.10.7.1); -1 never."""


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A row of Recoveries while it is put together."""

    fd: int
    start: int
    stop: int
    at_sender: bool
    first: int
    """Entry of the first sight, or of the packet that opened the hole."""
    resends: list[int]
    """Entries of resends or fillers, by time."""
    since_ns: int = 0
    """The wait begins no earlier: more than the losses explain is not theirs."""
    done_ns: int = NEVER
    done_segment: int = -1
    repair: Repair = Repair.NONE
    spurious: bool = False
    tail: bool = False


def find_recoveries(sequence: Sequence, entries: Entries, *, pieces: Pieces, acks: Acks, sacked: Sacked, gaps: Gaps) -> Recoveries:
    """One row per lost or overtaken stretch of bytes, sorted by fd, then time of the first sign."""
    drafts = _seen_twice(sequence, entries, pieces, acks)
    _judge_resends(drafts, sequence, entries, sacked)
    drafts += _filled_holes(sequence, entries, gaps)
    drafts += _silent_tails(sequence, entries)
    drafts += _announced(sequence, entries)
    drafts.sort(key=lambda draft: (draft.fd, int(entries.ts_ns[draft.first]), draft.start))
    return _table(drafts, entries)


def _seen_twice(sequence: Sequence, entries: Entries, pieces: Pieces, acks: Acks) -> list[_Draft]:
    """Stretches of bytes the tap saw again; adjacent resends that one ACK covered are one stretch."""
    at = np.flatnonzero(sequence.kind == Kind.SEEN_AGAIN)
    if not len(at):
        return []
    piece = np.searchsorted(key(pieces.fd, pieces.start), key(sequence.fd[at], sequence.seq[at]), side="right") - 1
    # Below the first byte of a stream whose SYN is not in the capture nothing has a first sight, so none is known to be lost.
    sighted = (piece >= 0) & (np.append(pieces.fd, [-1])[piece] == sequence.fd[at])
    at, piece = at[sighted], piece[sighted]
    fd, start, stop = sequence.fd[at], sequence.seq[at], sequence.seq[at] + entries.payload_len[at]
    ack_row = first_ack(acks, fd, stop - 1)
    done_ns = time_of(acks, ack_row)
    done_segment = np.concatenate([acks.segment, [-1]])[ack_row]
    first = entries.entry_of_segment[pieces.segment[piece]]
    drafts: list[_Draft] = []
    order = np.lexsort((at, start, fd))
    for i in order.tolist():
        last = drafts[-1] if drafts else None
        if last and last.fd == fd[i] and start[i] <= last.stop and (start[i] < last.stop or last.done_ns == done_ns[i]):
            last.stop = max(last.stop, int(stop[i]))
            last.first = min(last.first, int(first[i]))
            last.resends.append(int(at[i]))
            if done_ns[i] > last.done_ns:
                last.done_ns, last.done_segment = int(done_ns[i]), int(done_segment[i])
            continue
        drafts.append(
            _Draft(
                fd=int(fd[i]), start=int(start[i]), stop=int(stop[i]), at_sender=True, first=int(first[i]), resends=[int(at[i])],
                done_ns=int(done_ns[i]), done_segment=int(done_segment[i]),
            )
        )  # fmt: skip
    for draft in drafts:
        draft.resends.sort()
    return drafts


def _judge_resends(drafts: list[_Draft], sequence: Sequence, entries: Entries, sacked: Sacked) -> None:
    """What triggered the resend that ended each stretch, and whether any was needed."""
    sack_key = key(sacked.fd, sacked.start)
    heard = np.bincount(sequence.fd, minlength=len(entries.rtt_ns)) > 0  # without the receiver's packets nothing tells a loss
    for draft in drafts:
        first_ns = int(entries.ts_ns[draft.first])
        resent_at = draft.resends[0]
        resent_ns = int(entries.ts_ns[resent_at])
        # Nothing above what had been sent could be reported yet: that keeps the slice as short as the flight.
        sent = max(int(sequence.high_before[resent_at]), draft.stop)
        low, high = np.searchsorted(sack_key, key(np.array([draft.fd, draft.fd]), np.array([draft.start, sent])))
        above = ~sacked.duplicate[low:high] & (sacked.start[low:high] >= draft.stop) & (sacked.ts_ns[low:high] >= first_ns)
        reported = bool((above & (sacked.ts_ns[low:high] <= resent_ns)).any())
        draft.tail = not reported and int(sequence.high_before[resent_at]) <= draft.stop
        draft.spurious = _needless(draft, entries, sacked, low, high)
        draft.repair = _trigger(draft, entries, reported=reported) if heard[draft.fd ^ 1] else Repair.UNKNOWN


def _needless(draft: _Draft, entries: Entries, sacked: Sacked, low: int, high: int) -> bool:
    """Had the original arrived? A DSACK says so (RFC 2883), or an ACK that echoes a TSval older than the resend's (RFC 3522)."""
    resent_at = draft.resends[0]
    if draft.done_ns <= entries.ts_ns[resent_at]:
        return True
    if draft.done_ns >= NEVER and entries.refused_ns[draft.fd] > entries.ts_ns[draft.first]:
        return True  # they arrived, at a socket that was closed meanwhile
    twice = sacked.duplicate[low:high] & (sacked.start[low:high] < draft.stop) & (sacked.ts_ns[low:high] >= entries.ts_ns[resent_at])
    if int(twice.sum()) >= len(draft.resends):
        return True
    if draft.done_segment < 0 or not entries.has_ts[resent_at]:
        return False
    echoed = _echo_of(entries, draft.done_segment)
    return echoed is not None and _newer(int(entries.ts_val[resent_at]), echoed) and not _newer(int(entries.ts_val[draft.first]), echoed)


def _echo_of(entries: Entries, segment: int) -> int | None:
    """TSecr of a row of Segments; None without timestamps."""
    entry = int(entries.entry_of_segment[segment])
    return int(entries.ts_ecr[entry]) if entries.has_ts[entry] else None


def _newer(a: int, b: int) -> bool:
    """Is timestamp a later than b (RFC 7323 section 5.2, serial arithmetic)?"""
    return 0 < ((a - b) & 0xFFFFFFFF) < 1 << 31


def _trigger(draft: _Draft, entries: Entries, *, reported: bool) -> Repair:
    """What sent the last resend before the bytes were acknowledged."""
    before_done = [at for at in draft.resends if entries.ts_ns[at] < draft.done_ns]
    last = before_done[-1] if before_done else draft.resends[-1]
    position = draft.resends.index(last)
    before = draft.resends[position - 1] if position else draft.first
    waited = int(entries.ts_ns[last] - entries.ts_ns[before])
    if waited > _RTO_MAX_NS:
        return Repair.UNKNOWN
    if reported and position == 0:
        return Repair.FAST
    if waited >= _ALMOST * RTO_MIN_NS:
        return Repair.TIMEOUT
    if draft.tail:
        return Repair.PROBE
    return Repair.FAST


def _filled_holes(sequence: Sequence, entries: Entries, gaps: Gaps) -> list[_Draft]:
    """Holes at the tap that were filled later, and those that never were (but for the capture's own gaps)."""
    by_opener: dict[tuple[int, int], _Draft] = {}
    for fill in sequence.fills:
        draft = by_opener.get((fill.fd, fill.opener))
        if draft is None:
            by_opener[fill.fd, fill.opener] = draft = _Draft(
                fd=fill.fd, start=fill.start, stop=fill.stop, at_sender=False, first=fill.opener, resends=[]
            )
        draft.start, draft.stop = min(draft.start, fill.start), max(draft.stop, fill.stop)
        if fill.at not in draft.resends[-1:]:
            draft.resends.append(fill.at)
    unfilled: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    own = set(zip(gaps.fd.tolist(), gaps.start.tolist(), strict=True))
    for hole in sequence.holes:
        if (hole.fd, hole.start) not in own:
            unfilled[hole.fd, hole.opener].append((hole.start, hole.stop))
    for (fd, opener), ranges in unfilled.items():
        draft = by_opener.get((fd, opener))
        if draft is None:
            by_opener[fd, opener] = draft = _Draft(fd=fd, start=ranges[0][0], stop=ranges[-1][1], at_sender=False, first=opener, resends=[])
        draft.start, draft.stop = min(draft.start, ranges[0][0]), max(draft.stop, ranges[-1][1])
    for (fd, opener), draft in by_opener.items():
        draft.resends.sort()
        if draft.resends and (fd, opener) not in unfilled:
            draft.done_ns = int(entries.ts_ns[draft.resends[-1]])
            draft.done_segment = int(entries.segment[draft.resends[-1]])
        if draft.resends:
            draft.repair = _how_filled(draft, entries)
    return list(by_opener.values())


def _how_filled(draft: _Draft, entries: Entries) -> Repair:
    """Was the filler the overtaken original, or a resend; and which timer or report sent it?"""
    filler, opener = draft.resends[0], draft.first
    lag = int(entries.ts_ns[filler] - entries.ts_ns[opener])
    rtt = int(entries.rtt_ns[draft.fd])
    if entries.id_gap[filler] >= 0 and entries.id_gap[opener] >= 0:
        earlier = ((int(entries.ip_id[opener]) - int(entries.ip_id[filler])) & 0xFFFF) < 0x8000
        if earlier:
            return Repair.REORDERED
    elif entries.has_ts[filler] and entries.has_ts[opener]:
        if not _newer(int(entries.ts_val[filler]), int(entries.ts_val[opener])):
            return Repair.REORDERED
    elif lag < (min(_REORDER_NS, rtt // 4) if rtt > 0 else _REORDER_NS):
        return Repair.REORDERED
    known_rtt = max(rtt, 0)
    if lag > _RTO_MAX_NS:
        return Repair.UNKNOWN
    if lag >= _ALMOST * RTO_MIN_NS + known_rtt // 2 and lag > 1.5 * known_rtt:
        return Repair.TIMEOUT
    return Repair.FAST


def _silent_tails(sequence: Sequence, entries: Entries) -> list[_Draft]:
    """New in-order data behind a silence in which packets of its sender went missing before the tap.

    Skipped IP-IDs prove packets that never came. They explain at most the timers that many losses can take: with n
    missing, a silence of up to (2^n - 1) timeouts and one round trip; a longer one is cut to that.
    """
    late = (sequence.kind == Kind.NEW) & (sequence.gap_len == 0) & (entries.id_gap > 0) & ~sequence.first
    at = np.flatnonzero(late & _counts_alone(sequence, entries)[sequence.fd])
    drafts = []
    for entry in at.tolist():
        waited = int(entries.ts_ns[entry] - entries.ts_ns[entry - 1])
        missing = int(entries.id_gap[entry])
        if not _ALMOST * RTO_MIN_NS <= waited <= _RTO_MAX_NS:
            continue
        rtt = max(int(entries.rtt_ns[sequence.fd[entry]]), 0)
        explained = ((1 << min(missing, 8)) - 1) * max(RTO_MIN_NS + rtt, 2 * rtt) + rtt
        if waited > 2 * explained:  # quiet for other reasons most of the time: the losses are not what it waited for
            continue
        drafts.append(
            _Draft(
                fd=int(sequence.fd[entry]), start=int(sequence.seq[entry]), stop=int(sequence.seq[entry] + entries.payload_len[entry]),
                at_sender=False, first=entry - 1, resends=[entry],
                since_ns=int(entries.ts_ns[entry]) - explained, done_ns=int(entries.ts_ns[entry]),
                done_segment=int(entries.segment[entry]), repair=Repair.TIMEOUT, tail=True,
            )
        )  # fmt: skip
    return drafts


def _counts_alone(sequence: Sequence, entries: Entries) -> Bools:
    """Per fd: does the connection have IP-IDs of its own? Else the host's other traffic skips some in most pauses."""
    gap_ns = np.diff(entries.ts_ns, prepend=entries.ts_ns[:1])
    pause = ~sequence.first & (gap_ns >= _PAUSE_NS) & (entries.id_gap >= 0)
    count = len(entries.rtt_ns)
    pauses = np.bincount(sequence.fd[pause], minlength=count)
    skipping = np.bincount(sequence.fd[pause & (entries.id_gap > 0)], minlength=count)
    alone: Bools = (pauses - skipping >= 3) & (skipping <= np.maximum(1, 0.1 * pauses))
    return alone


def _announced(sequence: Sequence, entries: Entries) -> list[_Draft]:
    """Bytes that a pure ACK or probe of their sender had counted as sent before they came: lost, and resent since."""
    claims = (sequence.gap_len > 0) & np.isin(sequence.kind, (Kind.CONTROL, Kind.KEEP_ALIVE))
    claimed = running_max(np.where(claims, sequence.seq, LOWEST), sequence.first)
    late = (sequence.kind == Kind.NEW) & (entries.payload_len > 0) & (sequence.gap_len == 0) & (sequence.seq < claimed)
    by_claim: dict[int, _Draft] = {}
    claim = last_index_where(claims, sequence.first)
    for entry in np.flatnonzero(late).tolist():
        stop = min(int(sequence.seq[entry] + entries.payload_len[entry]), int(claimed[entry]))
        draft = by_claim.get(int(claim[entry]))
        if draft is None:
            draft = by_claim[int(claim[entry])] = _Draft(
                fd=int(sequence.fd[entry]), start=int(sequence.seq[entry]), stop=stop, at_sender=False, first=int(claim[entry]), resends=[],
                repair=Repair.TIMEOUT, tail=True,
            )  # fmt: skip
        draft.stop = stop
        draft.resends.append(entry)
        draft.done_ns, draft.done_segment = int(entries.ts_ns[entry]), int(entries.segment[entry])
    return list(by_claim.values())


def _table(drafts: list[_Draft], entries: Entries) -> Recoveries:
    """The drafts as columns."""
    if not drafts:
        return Recoveries.empty()
    resent = [draft.resends[0] if draft.resends else -1 for draft in drafts]
    return Recoveries(
        fd=np.array([d.fd for d in drafts], np.int64),
        start=np.array([d.start for d in drafts], np.int64),
        stop=np.array([d.stop for d in drafts], np.int64),
        at_sender=np.array([d.at_sender for d in drafts], np.bool_),
        first_ns=np.array([max(int(entries.ts_ns[d.first]), d.since_ns) for d in drafts], np.int64),
        resent_ns=np.array([entries.ts_ns[r] if r >= 0 else NEVER for r in resent], np.int64),
        done_ns=np.array([d.done_ns for d in drafts], np.int64),
        repair=np.array([d.repair for d in drafts], np.uint8),
        sends=np.array([1 + len(d.resends) if d.at_sender else max(1, len(d.resends)) for d in drafts], np.int32),
        spurious=np.array([d.spurious for d in drafts], np.bool_),
        tail=np.array([d.tail for d in drafts], np.bool_),
        first_segment=np.array([entries.segment[d.first] for d in drafts], np.int64),
        resent_segment=np.array([entries.segment[r] if r >= 0 else -1 for r in resent], np.int64),
        done_segment=np.array([d.done_segment for d in drafts], np.int64),
        resends=np.array([len(d.resends) for d in drafts], np.int32),
    )
