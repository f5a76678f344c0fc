"""Every packet that carries bytes again, and every late original: what sent it, whether it was needed, where the loss was.

What a sender did is read from what it had heard when it sent (flows/again.py): after a report of bytes above a hole it
resends at once; a timer fires into silence, a probe resends the highest packet. Two views (CAUSES "two kinds of
retransmission"): bytes seen again were lost behind the tap; bytes that fill a hole were lost before it, or overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import F64, I64, NEVER, U8, U16, Bools
from pcapdiag.flows.again import Again, Entries, Heard, heard_by_sender, sent_again
from pcapdiag.flows.needless import Needless, bears, find_needless, mark, newer, sent_earlier
from pcapdiag.flows.offsets import key
from pcapdiag.flows.pieces import first_ack, time_of
from pcapdiag.flows.resend_table import Evidence, Placement, ResendKind, Resends
from pcapdiag.flows.segmented import LOWEST, group_starts, running_max, shifted
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Kind, Pieces, Sacked
from pcapdiag.flows.unseen_loss import ALMOST, RTO_MAX_NS, RTO_MIN_NS, UnseenLosses

_REORDER_NS = 3_000_000
"""Wireshark's bound for "out of order" when the RTT is unknown."""
_AT_ONCE_NS = 5_000_000
"""A resend that an ACK brings about leaves within that time, or within RACK's reordering window (RFC 8985 section 6.2)."""
_DUP_THRESH = 3
"""RFC 5681 section 3.2."""
_DOUBLED = 1.7
"""A second wait this many times the first: the first was a timer too (RFC 6298 section 5.5), and no probe."""


def find_resends(sequence: Sequence, entries: Entries, *, unseen: UnseenLosses, pieces: Pieces, acks: Acks, sacked: Sacked) -> Resends:
    """One row per such packet, sorted by fd, then time. All but `segment` is computed by arrays over these packets only."""
    again = sent_again(sequence, entries, pieces=pieces, acks=acks, silent=unseen.at)
    if not len(again.at):
        return Resends.empty()
    heard = heard_by_sender(again, sequence, entries, acks)
    needless = find_needless(again, heard, sequence, entries, acks=acks, sacked=sacked)
    sent = _Sent.of(again, heard, sequence, entries, sacked)
    trigger, evidence = _triggers(again, sent, sequence, entries, acks, needless)
    trigger[needless.late_original] = ResendKind.REORDERED
    trigger[bears(needless.evidence, Evidence.COPY)] = ResendKind.UNKNOWN
    evidence |= needless.evidence
    spurious = _spurious(again, trigger, needless)
    kind = np.where(spurious, np.uint8(ResendKind.SPURIOUS), trigger)
    captured = np.bincount(sequence.fd, minlength=len(entries.rtt_ns)) > 0
    both = captured[again.fd ^ 1]
    return Resends(
        segment=entries.segment[again.at], fd=again.fd, start=again.start, stop=again.stop, kind=kind, trigger=trigger,
        placement=_placements(again, kind, needless, both), evidence=evidence,
        confidence=_confidences(again, kind, evidence, sent, both),
        first_segment=np.where(again.first >= 0, entries.segment[again.first], -1),
        before_segment=np.where(again.before >= 0, entries.segment[again.before], -1),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """Per row of Again: the circumstances in which it was sent."""

    heard: Heard
    rtt_ns: I64
    """0 unknown."""
    reported: Bools
    """The receiver had reported bytes above these."""
    at_once: Bools
    """It left right after something the sender heard."""
    waited_ns: I64
    """Since the same bytes were sent, or a hole showed, or the receiver acknowledged more, whichever is last."""
    due: Bools
    """A retransmission timer can have fired."""
    tail: Bools
    fresh: Bools
    """No other resend since the receiver acknowledged more: only now may a probe be sent."""

    @classmethod
    def of(cls, again: Again, heard: Heard, sequence: Sequence, entries: Entries, sacked: Sacked) -> _Sent:
        rtt_ns = np.maximum(entries.rtt_ns[again.fd], 0)
        back_ns = np.maximum(entries.trip_ns[again.fd ^ 1], 0)
        high = np.maximum(sequence.high_before[again.at], again.stop)
        told_ns = _earliest_report(again, high, sacked)
        reported = told_ns <= heard.known_ns
        reported |= (heard.repeats >= _DUP_THRESH) & (heard.una == again.start)
        before_ns = np.where(again.before >= 0, entries.ts_ns[again.before], LOWEST)
        waited_ns = again.ts_ns - np.maximum(before_ns, heard.advanced_ns)
        waited_ns = np.where((before_ns == LOWEST) & (heard.advanced_ns == LOWEST), 0, waited_ns)
        due = (waited_ns >= ALMOST * RTO_MIN_NS + back_ns // 2) & (waited_ns <= RTO_MAX_NS)
        begins = group_starts(again.fd)
        # Keep-alives ask for nothing to be made good.
        last_ns = shifted(running_max(np.where(again.kind == Kind.KEEP_ALIVE, LOWEST, again.ts_ns), begins), begins)
        return cls(
            heard=heard, rtt_ns=rtt_ns, reported=reported, at_once=heard.ago_ns <= _AT_ONCE_NS + rtt_ns // 4 + back_ns // 4,
            waited_ns=waited_ns, due=due, tail=sequence.stop[again.at] >= high, fresh=last_ns <= heard.advanced_ns,
        )  # fmt: skip


def _earliest_report(again: Again, high: I64, sacked: Sacked) -> I64:
    """When SACK first named bytes above each packet's, as far as they had been sent; NEVER."""
    if not len(sacked):
        return np.full(len(again.at), NEVER)
    begins = key(sacked.fd, sacked.start)
    low, stop = np.searchsorted(begins, key(again.fd, again.stop)), np.searchsorted(begins, key(again.fd, high))
    times = np.append(np.where(sacked.duplicate, NEVER, sacked.ts_ns), [NEVER])
    edges = np.stack([low, np.maximum(stop, low)], axis=1).ravel()
    least: I64 = np.minimum.reduceat(times, edges)[::2]
    return np.where(stop > low, least, NEVER)


def _triggers(again: Again, sent: _Sent, sequence: Sequence, entries: Entries, acks: Acks, needless: Needless) -> tuple[U8, U16]:
    """What sent each packet (ResendKind), and the evidence for it."""
    heard = sent.heard
    advance = (heard.una >= again.start) & sent.at_once & (again.ts_ns - heard.advanced_ns <= sent.rtt_ns + _AT_ONCE_NS)
    fast = (sent.reported & (sent.at_once | ~sent.due)) | (~sent.reported & advance & ~sent.due)
    probe = ~fast & ~sent.reported & sent.tail & sent.fresh & (entries.sack_ok[again.fd] != 0)
    lone = probe & (heard.una == again.start) & sent.due
    probe &= ~(lone & _doubles(again, sent))
    # A report or RACK's reordering timer (at most one round trip, RFC 8985 section 6.2) is not that long ago.
    silence = (heard.entry >= 0) & (heard.ago_ns > 3 * sent.rtt_ns // 2 + 4 * _AT_ONCE_NS)
    timer = ~fast & ~probe & (sent.due | (~sent.reported & silence))
    # One packet missing, and no hole when the next one came: the end of a flight, which is probed first (RFC 8985 section 7.2).
    probed = again.silent & (entries.id_gap[again.at] == 1) & (entries.sack_ok[again.fd] > 0)
    handshake = (again.kind == Kind.SYN_AGAIN) | (again.silent & ~probed)
    timer = (timer & ~probed) | handshake
    trigger = np.full(len(again.at), ResendKind.UNKNOWN, np.uint8)
    # Too early for a timer, and no tail to probe: what else would have sent it?
    trigger[~timer & ~probe & ~fast & (sent.at_once | (~sent.tail & (heard.entry >= 0)))] = ResendKind.FAST
    trigger[fast] = ResendKind.FAST
    trigger[(probe & ~handshake) | probed] = ResendKind.PROBE
    trigger[timer] = ResendKind.RTO
    filler = again.kind == Kind.FILL
    made_good = _after_timeout(again, timer & ~again.silent & ~bears(needless.evidence, _ARRIVED), sequence, acks)
    trigger[made_good & np.isin(trigger, (ResendKind.FAST, ResendKind.UNKNOWN))] = ResendKind.RTO
    evidence = np.zeros(len(again.at), np.uint16)
    for bit, where in (
        (Evidence.REPORTED, sent.reported), (Evidence.AT_ONCE, sent.at_once), (Evidence.WAITED, sent.due), (Evidence.TAIL, sent.tail),
        (Evidence.ANNOUNCED, again.silent),
    ):  # fmt: skip
        mark(evidence, where, bit)
    original, newer_bit = _overtaken(again, filler, entries, sent)
    mark(evidence, newer_bit, Evidence.NEWER)
    mark(evidence, original & ~newer_bit, Evidence.OLDER)
    trigger[original] = ResendKind.REORDERED
    _probe_windows(again, sent, entries, trigger, evidence)
    return trigger, evidence


def _doubles(again: Again, sent: _Sent) -> Bools:
    """Does the wait for the next send of the same bytes say that this one was the timer?"""
    again_ns = np.where(again.next_ns < NEVER, again.next_ns - again.ts_ns, 0)
    result: Bools = again_ns >= _DOUBLED * sent.waited_ns
    return result


def _after_timeout(again: Again, timer: Bools, sequence: Sequence, acks: Acks) -> Bools:
    """Rows sent while all that a timeout found unacknowledged is made good (RFC 5681 section 3.1, RFC 6582 section 4).

    A sender that learns that its timeout was spurious goes back to what it did before (RFC 4015, RFC 5682).
    """
    high = sequence.high_before[again.at]
    until = time_of(acks, first_ack(acks, again.fd, high - 1))
    begins = group_starts(again.fd)
    until = shifted(running_max(np.where(timer, until, LOWEST), begins), begins)
    result: Bools = (until != LOWEST) & (again.ts_ns < until)
    return result


def _overtaken(again: Again, filler: Bools, entries: Entries, sent: _Sent) -> tuple[Bools, Bools]:
    """Fillers that are the overtaken originals, and those that carry a newer timestamp or IP-ID than the packet that showed the hole.

    Without either, or with the same tick of the clock, lateness decides.
    """
    opener = np.maximum(again.before, 0)
    earlier, tells = sent_earlier(entries, again.at, opener)
    lag_ns = again.ts_ns - entries.ts_ns[opener]
    soon = lag_ns < np.where(sent.rtt_ns > 0, np.minimum(_REORDER_NS, sent.rtt_ns // 4), _REORDER_NS)
    stamped = entries.has_ts[again.at] & entries.has_ts[opener]
    within_tick = lag_ns < np.maximum(3 * sent.rtt_ns // 4, _REORDER_NS)
    original = filler & np.where(tells, earlier, np.where(stamped, within_tick, soon))
    later = newer(entries.ts_val[again.at].astype(np.int64), entries.ts_val[opener].astype(np.int64)) & stamped
    return original, filler & ~original & (tells | later)


def _probe_windows(again: Again, sent: _Sent, entries: Entries, trigger: U8, evidence: U16) -> None:
    """Names keep-alives and probes of a closed window, in place."""
    heard = sent.heard
    closed = (heard.entry >= 0) & (entries.window[heard.entry] == 0) & (heard.una != LOWEST)
    alive = again.kind == Kind.KEEP_ALIVE
    trigger[alive] = ResendKind.KEEP_ALIVE
    beyond = closed & (alive | ((again.start >= heard.una) & sent.due & ~sent.reported))
    trigger[beyond] = ResendKind.ZERO_WINDOW_PROBE
    mark(evidence, closed & (alive | beyond), Evidence.ZERO_WINDOW)


_UNJUDGED = (ResendKind.KEEP_ALIVE, ResendKind.ZERO_WINDOW_PROBE, ResendKind.REORDERED)
_SURE = np.zeros(len(ResendKind))
for _kind, _value in {
    ResendKind.UNKNOWN: 0.3, ResendKind.FAST: 0.95, ResendKind.RTO: 0.9, ResendKind.PROBE: 0.9, ResendKind.SPURIOUS: 0.95,
    ResendKind.ZERO_WINDOW_PROBE: 0.95, ResendKind.KEEP_ALIVE: 0.95, ResendKind.REORDERED: 0.9,
}.items():  # fmt: skip
    _SURE[_kind] = _value
"""Confidence where all evidence of a kind is there."""
_PROVEN = Evidence.ACKED | Evidence.DSACK | Evidence.ECHO | Evidence.TOO_SOON | Evidence.LATE_ORIGINAL
_ARRIVED = Evidence.ACKED | Evidence.SACKED | Evidence.DSACK | Evidence.ECHO | Evidence.TOO_SOON | Evidence.LATE_ORIGINAL | Evidence.REFUSED


def _spurious(again: Again, trigger: U8, needless: Needless) -> Bools:
    """Resends whose original had arrived; when the first resend of some bytes was needless, so were the later ones."""
    judged = ~np.isin(trigger, _UNJUDGED) & ~bears(needless.evidence, Evidence.COPY) & ~again.silent
    own = judged & bears(needless.evidence, _ARRIVED)
    result: Bools = judged & (own | own[again.same])
    return result


def _placements(again: Again, kind: U8, needless: Needless, both: Bools) -> U8:
    """Where the copy before each packet was lost; `both`: the receiver's packets are in the capture."""
    placement = np.full(len(again.at), Placement.BEHIND_TAP, np.uint8)
    placement[(again.kind == Kind.FILL) | again.silent] = Placement.BEFORE_TAP
    unsighted = (again.first < 0) & (again.kind != Kind.FILL) & ~again.silent
    placement[~both & (placement == Placement.BEHIND_TAP) | unsighted] = Placement.UNKNOWN
    copy = bears(needless.evidence, Evidence.COPY)
    placement[np.isin(kind, _UNJUDGED) | copy | (kind == ResendKind.SPURIOUS)] = Placement.NOT_LOST
    placement[(kind == ResendKind.SPURIOUS) & (needless.ack_lost | needless.ack_lost[again.same])] = Placement.ACK_LOST
    return placement


def _confidences(again: Again, kind: U8, evidence: U16, sent: _Sent, both: Bools) -> F64:
    """Fixed values: CAUSES sections 2.1 to 2.6."""
    confidence = _SURE[kind]
    filler = again.kind == Kind.FILL
    weaker = (
        (0.85, filler & ((kind == ResendKind.FAST) | (kind == ResendKind.RTO))),
        (0.7, (kind == ResendKind.FAST) & ~bears(evidence, Evidence.REPORTED)),
        (0.7, (kind == ResendKind.RTO) & ~bears(evidence, Evidence.WAITED)),
        (0.7, (kind == ResendKind.SPURIOUS) & ~bears(evidence, _PROVEN)),
        (0.6, again.silent),
        (0.6, (kind == ResendKind.PROBE) & sent.due & (sent.heard.una == again.start)),
        (0.5, (kind == ResendKind.FAST) & ~bears(evidence, Evidence.REPORTED | Evidence.AT_ONCE)),
        (0.5, filler & ((kind == ResendKind.FAST) | (kind == ResendKind.RTO)) & ~bears(evidence, Evidence.NEWER)),
        (0.5, (kind == ResendKind.REORDERED) & ~bears(evidence, Evidence.OLDER)),
        (0.4, ~both),
    )
    for limit, rows in weaker:
        confidence[rows] = np.minimum(confidence[rows], limit)
    return confidence
