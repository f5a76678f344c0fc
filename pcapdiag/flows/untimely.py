"""Single records whose times cannot be true, among others in good order (CAUSES section 10).

Sorted by such a time a packet seems to have overtaken others, or been overtaken. Whether the time or the place in the
file is wrong the connections tell: packets of one interface and direction are written in the order in which they came, so
numbers that rise in the order of the file put the time in the wrong.
"""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64, Bools, Rows
from pcapdiag.flows.segmented import LOWEST
from pcapdiag.packets.table import TCP, Packets

_MISORDERED_NS = 100_000_000
"""Multi-queue cards and merged interfaces misorder by less."""
_ALONE = 3
"""As many odd records in a row at most; longer stretches are merged files, queues or a clock that stepped."""
_PROOFS = 3
"""One or two may have been held up on their way into the file."""


def find_untimely(packets: Packets) -> Rows:
    """Rows of packets whose times are wrong, ascending; `packets` in the order of their files."""
    found = [_of_capture(packets, np.flatnonzero(packets.capture == capture)) for capture in np.unique(packets.capture).tolist()]
    return np.concatenate(found) if found else np.empty(0, np.intp)


def _of_capture(packets: Packets, rows: Rows) -> Rows:
    ts_ns = packets.ts_ns[rows]
    if not (ts_ns[1:] < ts_ns[:-1] - _MISORDERED_NS).any():
        return rows[:0]
    odd = _odd(ts_ns)
    right, wrong = _told_by_connections(packets, rows, odd)
    return rows[odd] if right >= _PROOFS and right > wrong else rows[:0]


def _odd(ts_ns: I64) -> Bools:
    """A few records too early or too late among their neighbours; whichever explains the file with fewer of them goes first."""
    ways = sorted((_too_early, _too_late), key=lambda way: int(way(ts_ns).sum()))
    odd = ways[0](ts_ns)
    rest = np.flatnonzero(~odd)
    odd[rest] = ways[1](ts_ns[rest])
    return odd


def _too_early(ts_ns: I64) -> Bools:
    """Records below all before them, when what follows soon is not."""
    return _alone(ts_ns < np.maximum.accumulate(ts_ns) - _MISORDERED_NS)


def _too_late(ts_ns: I64) -> Bools:
    """The same with time reversed."""
    return _too_early(-ts_ns[::-1])[::-1]


def _alone(mask: Bools) -> Bools:
    """Where the mask holds for a few neighbours between two others: at the end of a file nothing tells what follows."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask]).astype(np.int8)))
    result = np.zeros(len(mask), np.bool_)
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=False):
        result[begin:end] = end - begin <= _ALONE
    return result


def _told_by_connections(packets: Packets, rows: Rows, odd: Bools) -> tuple[int, int]:
    """How many odd records stand where their numbers say, between two others of their direction, and how many do not."""
    tcp = np.flatnonzero(packets.proto[rows] == TCP)
    at = rows[tcp]
    ends = (packets.interface[at], packets.src[at], packets.dst[at], packets.sport[at], packets.dport[at])
    order = np.lexsort((tcp, *ends))
    at, is_odd = at[order], odd[tcp][order]
    same = np.ones(max(len(at) - 1, 0), np.bool_)
    for column in ends:
        same &= column[order][1:] == column[order][:-1]
    middle = np.flatnonzero(is_odd[1:-1] & same[:-1] & same[1:] & ~is_odd[:-2] & ~is_odd[2:]) + 1
    number = packets.seq[at].astype(np.int64) + packets.ack[at]  # neither falls in one direction, but for resends
    rises = (_signed(number[middle] - number[middle - 1]) >= 0) & (_signed(number[middle + 1] - number[middle]) >= 0)
    return int(rises.sum()), int((~rises).sum())


def _signed(difference: I64) -> I64:
    """Serial arithmetic mod 2^32 (RFC 1982)."""
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def with_times_of_neighbours(packets: Packets, rows: Rows) -> I64:
    """All times, those of the given rows mended: they lie between the records before and behind them.

    Where one and the same error fits all that are too early (or too late) it is taken out; else the record before says when.
    """
    ts_ns: I64 = packets.ts_ns.copy()
    place, count = np.arange(len(packets)), len(packets)
    good = np.ones(count, np.bool_)
    good[rows] = False
    before = np.maximum.accumulate(np.where(good, place, -1))[rows]
    behind = np.minimum.accumulate(np.where(good, place, count)[::-1])[::-1][rows]
    own = packets.capture[rows]
    has_before = (before >= 0) & (packets.capture[np.maximum(before, 0)] == own)
    has_behind = (behind < count) & (packets.capture[np.minimum(behind, count - 1)] == own)
    low = packets.ts_ns[np.where(has_before, before, np.minimum(behind, count - 1))]
    high = np.maximum(packets.ts_ns[np.where(has_behind, behind, np.maximum(before, 0))], low)
    for mine in (ts_ns[rows] < low, ts_ns[rows] >= low):
        error_ns = _common(ts_ns[rows] - high, ts_ns[rows] - low, mine)
        ts_ns[rows[mine]] = low[mine] if error_ns is None else np.clip(packets.ts_ns[rows] - error_ns, low, high)[mine]
    return ts_ns


def _common(least_ns: I64, most_ns: I64, mine: Bools) -> int | None:
    """An error that lies within the bounds of all."""
    least, most = int(least_ns[mine].max(initial=LOWEST)), int(most_ns[mine].min(initial=-LOWEST))
    return (least + most) // 2 if LOWEST < least <= most else None
