"""First sights of stream bytes, when each could be delivered in order, and what the capture itself lost."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import LOWEST, group_starts, running_max, shifted
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Gaps, Kind, Pieces, Segments
from pcapdiag.flows.within import search_within


def first_sights(sequence: Sequence, payload_len: I64, ts_ns: I64, segment: I64) -> Pieces:
    """Pieces without `in_order_ns` (all NEVER): new bytes, and fillers of holes. Inputs are in fd order."""
    opens = sequence.kind == Kind.SYN  # a SYN may carry data (TCP Fast Open, RFC 7413)
    at = np.flatnonzero((opens | (sequence.kind == Kind.NEW)) & (payload_len > 0))
    begin = sequence.seq[at] + opens[at]
    start = np.maximum(begin, np.where(sequence.high_before[at] == LOWEST, begin, sequence.high_before[at]))
    stop = begin + payload_len[at]
    fills = sequence.fills
    fill_at = np.array([fill.at for fill in fills], np.int64)
    fd = np.concatenate([sequence.fd[at], np.array([fill.fd for fill in fills], np.int64)])
    start = np.concatenate([start, np.array([fill.start for fill in fills], np.int64)])
    stop = np.concatenate([stop, np.array([fill.stop for fill in fills], np.int64)])
    carrier = np.concatenate([at, fill_at])
    order = np.argsort(key(fd, start), kind="stable")
    order = order[(stop > start)[order]]
    carrier = carrier[order]
    return Pieces(
        fd=fd[order], start=start[order], stop=stop[order], segment=segment[carrier], ts_ns=ts_ns[carrier],
        in_order_ns=np.full(len(order), NEVER),
    )  # fmt: skip


def advances(sequence: Sequence, ts_ns: I64, segment: I64) -> tuple[Acks, I64]:
    """The advances of the cumulative ACK, and per packet the bytes newly acknowledged. Inputs are in fd order."""
    acking = sequence.ack >= 0
    known = sequence.acked_before != LOWEST
    advance = acking & (sequence.ack > sequence.acked_before)
    acked_len = np.where(advance & known, sequence.ack - sequence.acked_before, 0)
    at = np.flatnonzero(advance)
    fd = sequence.fd[at] ^ 1
    order = np.argsort(key(fd, sequence.ack[at]), kind="stable")
    at = at[order]
    return Acks(fd=fd[order], offset=sequence.ack[at], segment=segment[at], ts_ns=ts_ns[at]), acked_len


def first_ack(acks: Acks, fd: I64, offset: I64) -> I64:
    """Row in acks of the first one that covers the byte AT offset; len(acks) when there is none."""
    begin, stop = np.searchsorted(acks.fd, fd), np.searchsorted(acks.fd, fd, side="right")
    row = search_within(acks.offset, begin, stop, offset, right=True)
    return np.where(row < stop, row, len(acks))


def first_seen(pieces: Pieces, fd: I64, offset: I64) -> I64:
    """When the byte AT each offset was first seen; NEVER."""
    begin, stop = np.searchsorted(pieces.fd, fd), np.searchsorted(pieces.fd, fd, side="right")
    row = search_within(pieces.start, begin, stop, offset, right=True) - 1
    times = np.full(len(row), NEVER)
    inside = np.flatnonzero(row >= begin)
    inside = inside[pieces.stop[row[inside]] > offset[inside]]
    times[inside] = pieces.ts_ns[row[inside]]
    return times


def time_of(acks: Acks, rows: I64) -> I64:
    """The times of rows of acks; NEVER for len(acks)."""
    return np.concatenate([acks.ts_ns, [NEVER]])[rows]


def find_gaps(pieces: Pieces, acks: Acks, sequence: Sequence, segments: Segments, one_way: Bools) -> Gaps:
    """Bytes between pieces (or before the first, when the SYN was seen) that were acknowledged but never captured.

    Directions without any packet are no gaps: `one_way` (per flow) tells of those.
    """
    first = group_starts(pieces.fd)
    before = shifted(pieces.stop, first)
    synchronised = sequence.synchronised[pieces.fd] if len(pieces) else first
    before = np.where(first, np.where(synchronised, 0, pieces.start), before)
    at = np.flatnonzero((pieces.start > before) & ~one_way[pieces.fd // 2])
    fd, start, stop, segment = pieces.fd[at], before[at], pieces.start[at], pieces.segment[at]
    tail = _unseen_tails(pieces, acks, sequence, one_way)
    fd, start = np.concatenate([fd, tail[0]]), np.concatenate([start, tail[1]])
    stop, segment = np.concatenate([stop, tail[2]]), np.concatenate([segment, tail[3]])
    row = first_ack(acks, fd, stop - 1)
    acked_ns = time_of(acks, row)
    keep = np.flatnonzero(acked_ns < NEVER)
    order = keep[np.argsort(key(fd[keep], start[keep]), kind="stable")]
    fd, start, stop, segment, acked_ns = fd[order], start[order], stop[order], segment[order], acked_ns[order]
    shown = np.minimum(segment, acks.segment[first_ack(acks, fd, start)])  # rows of a flow are in the order of time
    shown = np.minimum(shown, _numbered_beyond(segments, fd, start, stop))
    before = np.maximum(shown - 1, 0)
    start_ns = segments.ts_ns[np.where(segments.flow[before] == segments.flow[shown], before, shown)]
    return Gaps(fd=fd, start=start, stop=stop, start_ns=start_ns, stop_ns=acked_ns, segment=segment)


def _numbered_beyond(segments: Segments, fd: I64, start: I64, stop: I64) -> I64:
    """Row of the packet that counts least of each hole as sent, with data or without (a FIN, a pure ACK); beyond all rows for none."""
    row = np.flatnonzero(segments.gap_len > 0)
    keys = key(2 * segments.flow[row].astype(np.int64) + segments.direction[row], segments.seq[row])
    order = np.argsort(keys, kind="stable")
    row, keys = np.append(row[order], len(segments)), np.append(keys[order], np.iinfo(np.int64).max)
    at = np.searchsorted(keys, key(fd, start), side="right")
    return np.where(keys[at] <= key(fd, stop), row[at], len(segments))


def _unseen_tails(pieces: Pieces, acks: Acks, sequence: Sequence, one_way: Bools) -> tuple[I64, I64, I64, I64]:
    """Bytes acknowledged above the last piece of an fd, or above its SYN: (fd, start, stop, segment of the ACK).

    One byte above is the FIN, not data; a FIN is one byte at most.
    """
    empty = np.empty(0, np.int64)
    if not len(acks):
        return empty, empty, empty, empty
    last_ack = np.flatnonzero(np.append(acks.fd[1:] != acks.fd[:-1], [True]))
    last_piece = np.flatnonzero(np.append(pieces.fd[1:] != pieces.fd[:-1], [True])[: len(pieces)])
    high = dict.fromkeys(np.flatnonzero(sequence.synchronised).tolist(), 0)
    high.update(zip(pieces.fd[last_piece].tolist(), pieces.stop[last_piece].tolist(), strict=True))
    rows = [
        (fd, high[fd], offset, segment)
        for fd, offset, segment in zip(
            acks.fd[last_ack].tolist(), acks.offset[last_ack].tolist(), acks.segment[last_ack].tolist(), strict=True
        )
        if fd in high and offset > high[fd] + 1 and not one_way[fd // 2]
    ]
    if not rows:
        return empty, empty, empty, empty
    fd_, start, stop, segment = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return fd_, start, stop, segment


def deliver_in_order(pieces: Pieces, gaps: Gaps, sequence: Sequence) -> Pieces:
    """The same pieces with `in_order_ns`: the latest first sight among all bytes up to each piece."""
    if not len(pieces):
        return pieces
    synchronised = sequence.synchronised[pieces.fd]
    first = group_starts(pieces.fd)
    before = np.where(first, np.where(synchronised, 0, pieces.start), shifted(pieces.stop, first))
    arrival = pieces.ts_ns.copy()
    broken = np.flatnonzero(pieces.start > before)
    if len(broken):
        # A hole in front of the piece: the capture's own (its ACK tells when the bytes were there), or never filled.
        gap_key = key(gaps.fd, gaps.start)
        row = np.searchsorted(gap_key, key(pieces.fd[broken], before[broken]))
        found = row < len(gaps)
        found[found] = gap_key[row[found]] == key(pieces.fd[broken], before[broken])[found]
        never = int(max(pieces.ts_ns.max(), gaps.stop_ns.max(initial=0))) + 1  # behind every time, and small enough to add to
        arrival[broken] = never
        own = broken[found]
        arrival[own] = np.maximum(pieces.ts_ns[own], gaps.stop_ns[row[found]])
    in_order = running_max(arrival, first)
    if len(broken):
        in_order[in_order >= never] = NEVER
    return Pieces(fd=pieces.fd, start=pieces.start, stop=pieces.stop, segment=pieces.segment, ts_ns=pieces.ts_ns, in_order_ns=in_order)
