"""Losses and their repair: which stretches of bytes a receiver had to wait for, and what brought them.

What each packet was is judged once, in Resends; here packets become stretches: those seen twice (lost behind the tap),
holes and their fillers (lost before it, or overtaken), and bytes lost before the tap without a hole.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools
from pcapdiag.flows.again import Entries
from pcapdiag.flows.needless import bears
from pcapdiag.flows.pieces import first_ack, time_of
from pcapdiag.flows.resend_table import Evidence, ResendKind, Resends
from pcapdiag.flows.segmented import group_starts, running_max, shifted
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Gaps, Kind, Recoveries, Repair
from pcapdiag.flows.unseen_loss import UnseenLosses

_REPAIRS = np.full(len(ResendKind), Repair.UNKNOWN, np.uint8)
for _kind, _repair in {
    ResendKind.FAST: Repair.FAST, ResendKind.PROBE: Repair.PROBE, ResendKind.RTO: Repair.TIMEOUT, ResendKind.REORDERED: Repair.REORDERED,
}.items():  # fmt: skip
    _REPAIRS[_kind] = _repair


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A row of Recoveries while it is put together."""

    fd: int
    start: int
    stop: int
    at_sender: bool
    first: int
    """Entry of the first sight, or of the packet that opened the hole."""
    resent: int = -1
    """Entry of the first resend or filler."""
    last: int = -1
    """Entry of the last one."""
    resends: int = 0
    since_ns: int = 0
    """The wait begins no earlier: more than the losses explain is not theirs."""
    done_ns: int = NEVER
    done_segment: int = -1
    repair: Repair = Repair.NONE
    spurious: bool = False
    tail: bool = False


def find_recoveries(sequence: Sequence, entries: Entries, resends: Resends, *, unseen: UnseenLosses, acks: Acks, gaps: Gaps) -> Recoveries:
    """One row per lost or overtaken stretch of bytes, sorted by fd, then time of the first sign."""
    drafts = _seen_twice(sequence, entries, resends, acks)
    drafts += _filled_holes(sequence, entries, resends, gaps)
    drafts += _without_hole(sequence, entries, unseen)
    drafts.sort(key=lambda draft: (draft.fd, int(entries.ts_ns[draft.first]), draft.start))
    return _table(drafts, entries)


def _seen_twice(sequence: Sequence, entries: Entries, resends: Resends, acks: Acks) -> list[_Draft]:
    """Stretches of bytes the tap saw again; adjacent resends that one ACK covered are one stretch."""
    at = entries.entry_of_segment[resends.segment]
    # Below the first byte of a stream whose SYN is not in the capture nothing has a first sight, so none is known to be lost.
    take = (sequence.kind[at] == Kind.SEEN_AGAIN) & (resends.first_segment >= 0)
    take &= (resends.trigger != ResendKind.REORDERED) & ~bears(resends.evidence, Evidence.COPY)
    rows = np.flatnonzero(take)
    if not len(rows):
        return []
    rows = rows[np.lexsort((at[rows], resends.start[rows], resends.fd[rows]))]
    at, fd, start, stop = at[rows], resends.fd[rows], resends.start[rows], resends.stop[rows]
    ack_row = first_ack(acks, fd, stop - 1)
    heads = np.flatnonzero(_stretches(fd, start, stop, ack_row))
    group = np.repeat(np.arange(len(heads)), np.diff(heads, append=len(rows)))
    done = np.maximum.reduceat(ack_row, heads)
    done_ns = time_of(acks, done)
    resent, last = np.minimum.reduceat(at, heads), np.maximum.reduceat(at, heads)
    in_time = np.maximum.reduceat(np.where(entries.ts_ns[at] < done_ns[group], at, -1), heads)
    decisive = np.where(in_time >= 0, in_time, last)
    row_of = dict(zip(at.tolist(), rows.tolist(), strict=True))
    end = np.maximum.reduceat(stop, heads)
    columns = (
        fd[heads], start[heads], end, np.minimum.reduceat(entries.entry_of_segment[resends.first_segment[rows]], heads), resent, last,
        np.diff(heads, append=len(rows)), done_ns, np.append(acks.segment, [-1])[done],
        _REPAIRS[resends.trigger[[row_of[one] for one in decisive.tolist()]]],
        np.logical_and.reduceat(resends.kind[rows] == ResendKind.SPURIOUS, heads),
        _is_tail(sequence, resends, np.array([row_of[one] for one in resent.tolist()]), resent, end),
    )  # fmt: skip
    return [
        _Draft(
            fd=fd_, start=start_, stop=stop_, at_sender=True, first=first, resent=resent_, last=last_, resends=count, done_ns=ns,
            done_segment=segment, repair=Repair(repair), spurious=spurious, tail=tail,
        )
        for fd_, start_, stop_, first, resent_, last_, count, ns, segment, repair, spurious, tail in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]  # fmt: skip


def _stretches(fd: I64, start: I64, stop: I64, done: I64) -> Bools:
    """Where a new stretch begins: no overlap with those before, and none that touches and was acknowledged with them."""
    begins = group_starts(fd)
    reach, covered = shifted(running_max(stop, begins), begins), shifted(running_max(done, begins), begins)
    new: Bools = begins | (start > reach) | ((start == reach) & (done != covered))
    return new


def _is_tail(sequence: Sequence, resends: Resends, rows: I64, resent: I64, stop: I64) -> Bools:
    """Nothing above had been sent or reported before the first resend."""
    unreported = ~bears(resends.evidence[rows], Evidence.REPORTED)
    result: Bools = unreported & (sequence.high_before[resent] <= stop)
    return result


def _filled_holes(sequence: Sequence, entries: Entries, resends: Resends, gaps: Gaps) -> list[_Draft]:
    """Holes at the tap that were filled later, and those that never were (but for the capture's own gaps)."""
    by_opener: dict[tuple[int, int], _Draft] = {}
    fillers: dict[tuple[int, int], list[int]] = {}
    for fill in sequence.fills:
        draft = _drafted(by_opener, fill.fd, fill.opener, fill.start, fill.stop)
        at = fillers.setdefault((fill.fd, fill.opener), [])
        if fill.at not in at[-1:]:
            at.append(fill.at)
        draft.resent, draft.last, draft.resends = min(at), max(at), len(at)
    unfilled: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    own = set(zip(gaps.fd.tolist(), gaps.start.tolist(), strict=True))
    for hole in sequence.holes:
        if (hole.fd, hole.start) not in own:
            unfilled[hole.fd, hole.opener].append((hole.start, hole.stop))
    for (fd, opener), ranges in unfilled.items():
        _drafted(by_opener, fd, opener, ranges[0][0], ranges[-1][1])
    row_of = dict(zip(entries.entry_of_segment[resends.segment].tolist(), range(len(resends)), strict=True))
    for hole_key, at in fillers.items():
        draft, rows = by_opener[hole_key], [row_of[one] for one in at]
        lost = [one for one, row in zip(at, rows, strict=True) if resends.kind[row] not in (ResendKind.REORDERED, ResendKind.SPURIOUS)]
        if lost:  # overtaken packets may have filled the rest of it before
            draft.resent, draft.resends = min(lost), len(lost)
        draft.repair = Repair(int(_REPAIRS[resends.trigger[row_of[draft.resent]]]))
        draft.spurious = all(resends.kind[row] == ResendKind.SPURIOUS for row in rows)
        if hole_key not in unfilled:
            draft.done_ns = int(entries.ts_ns[draft.last])
            draft.done_segment = int(entries.segment[draft.last])
    return list(by_opener.values())


def _drafted(by_opener: dict[tuple[int, int], _Draft], fd: int, opener: int, start: int, stop: int) -> _Draft:
    """The hole that a packet opened, made to reach over [start, stop)."""
    draft = by_opener.get((fd, opener))
    if draft is None:
        draft = by_opener[fd, opener] = _Draft(fd=fd, start=start, stop=stop, at_sender=False, first=opener)
    draft.start, draft.stop = min(draft.start, start), max(draft.stop, stop)
    return draft


def _without_hole(sequence: Sequence, entries: Entries, unseen: UnseenLosses) -> list[_Draft]:
    """Bytes lost before the tap that came in sequence: one stretch per proof."""
    by_proof: dict[int, _Draft] = {}
    for at, stop, proof, since_ns in zip(
        unseen.at.tolist(), unseen.stop.tolist(), unseen.proof.tolist(), unseen.since_ns.tolist(), strict=True
    ):
        draft = by_proof.get(proof)
        if draft is None:
            draft = by_proof[proof] = _Draft(
                fd=int(sequence.fd[at]), start=int(sequence.seq[at]), stop=stop, at_sender=False, first=proof, resent=at, since_ns=since_ns,
                repair=Repair.TIMEOUT, tail=True,
            )  # fmt: skip
        draft.stop, draft.last, draft.resends = stop, at, draft.resends + 1
        draft.done_ns, draft.done_segment = int(entries.ts_ns[at]), int(entries.segment[at])
    return list(by_proof.values())


def _table(drafts: list[_Draft], entries: Entries) -> Recoveries:
    """The drafts as columns."""
    if not drafts:
        return Recoveries.empty()
    return Recoveries(
        fd=np.array([d.fd for d in drafts], np.int64),
        start=np.array([d.start for d in drafts], np.int64),
        stop=np.array([d.stop for d in drafts], np.int64),
        at_sender=np.array([d.at_sender for d in drafts], np.bool_),
        first_ns=np.array([max(int(entries.ts_ns[d.first]), d.since_ns) for d in drafts], np.int64),
        resent_ns=np.array([entries.ts_ns[d.resent] if d.resent >= 0 else NEVER for d in drafts], np.int64),
        done_ns=np.array([d.done_ns for d in drafts], np.int64),
        repair=np.array([d.repair for d in drafts], np.uint8),
        sends=np.array([1 + d.resends if d.at_sender else max(1, d.resends) for d in drafts], np.int32),
        spurious=np.array([d.spurious for d in drafts], np.bool_),
        tail=np.array([d.tail for d in drafts], np.bool_),
        first_segment=np.array([entries.segment[d.first] for d in drafts], np.int64),
        resent_segment=np.array([entries.segment[d.resent] if d.resent >= 0 else -1 for d in drafts], np.int64),
        done_segment=np.array([d.done_segment for d in drafts], np.int64),
        resends=np.array([d.resends for d in drafts], np.int32),
    )
