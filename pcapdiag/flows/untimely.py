"""Single records whose times cannot be true, among others in good order (CAUSES section 10).

Sorted by such a time a packet seems to have overtaken others, or been overtaken. Whether the time or the place in the
file is wrong the connections tell: packets of one interface and direction are written in the order in which they came, so
numbers that rise in the order of the file put the time in the wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, U64, Bools, Rows
from pcapdiag.flows.segmented import LOWEST
from pcapdiag.packets.table import TCP, Packets
from pcapdiag.spool import WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.spool import Room

_MISORDERED_NS = 100_000_000
"""Multi-queue cards and merged interfaces misorder by less."""
_ALONE = 3
"""As many odd records in a row at most; longer stretches are merged files, queues or a clock that stepped."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_PROOFS = 3
"""One or two may have been held up on their way into the file."""


def find_untimely(packets: Packets, rows: slice, room: Room | None = None) -> Rows:
    """Rows of packets whose times are wrong, ascending; `rows` are those of one capture."""
    if not any(len(late) for late in _too_early(packets.ts_ns, rows, np.empty(0, np.intp), room)):
        return np.empty(0, np.intp)
    odd = _odd(packets.ts_ns, rows, room)
    right, wrong = _told_by_connections(packets, rows, odd, room)
    return odd if right >= _PROOFS and right > wrong else odd[:0]


def _odd(ts_ns: I64, rows: slice, room: Room | None) -> Rows:
    """A few records too early or too late among their neighbours; whichever explains the file with fewer of them goes first."""
    none = np.empty(0, np.intp)

    def early(without: Rows) -> Rows:
        return _alone(np.concatenate([none, *_too_early(ts_ns, rows, without, room)]), without, rows)

    def late(without: Rows) -> Rows:
        return _alone(np.concatenate([none, *_too_late(ts_ns, rows, without, room)]), without, rows)

    first, then = sorted((early, late), key=lambda way: len(way(none)))
    odd = first(none)
    return np.union1d(odd, then(odd))


def _too_early(ts_ns: I64, rows: slice, without: Rows, room: Room | None) -> Iterator[Rows]:
    """Rows below all before them, window by window, as if `without` were not there."""
    highest = np.iinfo(np.int64).min
    for begin in range(rows.start, rows.stop, WINDOW):
        here, times = _others(ts_ns, begin, min(begin + WINDOW, rows.stop), without)
        reached = np.maximum(np.maximum.accumulate(times), highest)
        yield here[times < reached - _MISORDERED_NS]
        highest = int(reached[-1]) if len(reached) else highest
        if room is not None:
            room.release()


def _too_late(ts_ns: I64, rows: slice, without: Rows, room: Room | None) -> Iterator[Rows]:
    """Rows above all behind them; the windows in the order of the file."""
    lowest = np.iinfo(np.int64).max
    found = []
    for end in range(rows.stop, rows.start, -WINDOW):
        here, times = _others(ts_ns, max(end - WINDOW, rows.start), end, without)
        reached = np.minimum(np.minimum.accumulate(times[::-1])[::-1], lowest)
        found.append(here[times > reached + _MISORDERED_NS])
        lowest = int(reached[0]) if len(reached) else lowest
        if room is not None:
            room.release()
    yield from reversed(found)


def _others(ts_ns: I64, begin: int, end: int, without: Rows) -> tuple[Rows, I64]:
    """The rows [begin, end) but for some, and their times."""
    here = np.arange(begin, end)
    if len(without):
        here = np.delete(here, without[slice(*np.searchsorted(without, [begin, end]))] - begin)
    return here, ts_ns[here]


def _alone(found: Rows, without: Rows, rows: slice) -> Rows:
    """Those of `found` that are few neighbours between two others: at either end of a file nothing tells what lies beyond."""
    if not len(found):
        return found
    place = found - np.searchsorted(without, found)  # as if `without` were not there
    count = rows.stop - rows.start - len(without)
    begin = np.flatnonzero(np.diff(place, prepend=-2) != 1)
    length = np.diff(begin, append=len(place))
    inside = (place[begin] > rows.start) & (place[begin + length - 1] < rows.start + count - 1)
    few: Rows = found[np.repeat((length <= _ALONE) & inside, length)]
    return few


def _told_by_connections(packets: Packets, rows: slice, odd: Rows, room: Room | None) -> tuple[int, int]:
    """How many odd records stand where their numbers say, between two others of their direction, and how many do not.

    One whose time lies between those of the two says nothing: only among other connections, or the other direction, is it odd.
    """
    wanted = np.unique(_ways(packets, odd[packets.proto[odd] == TCP]))
    found = [np.empty(0, np.intp)]
    for begin in range(rows.start, rows.stop, WINDOW):
        here = np.arange(begin, min(begin + WINDOW, rows.stop))
        here = here[packets.proto[here] == TCP]
        found.append(here[np.isin(_ways(packets, here), wanted)])
        if room is not None:
            room.release()
    at = np.concatenate(found)
    ends = (packets.interface[at], packets.src[at], packets.dst[at], packets.sport[at], packets.dport[at])
    order = np.lexsort((at, *ends))
    at = at[order]
    is_odd = np.isin(at, odd)
    same = np.ones(max(len(at) - 1, 0), np.bool_)
    for column in ends:
        same &= column[order][1:] == column[order][:-1]
    middle = np.flatnonzero(is_odd[1:-1] & same[:-1] & same[1:] & ~is_odd[:-2] & ~is_odd[2:]) + 1
    ts_ns = packets.ts_ns[at]
    middle = middle[(ts_ns[middle] < ts_ns[middle - 1]) | (ts_ns[middle] > ts_ns[middle + 1])]
    number = packets.seq[at].astype(np.int64) + packets.ack[at]  # neither falls in one direction, but for resends
    rises = (_signed(number[middle] - number[middle - 1]) >= 0) & (_signed(number[middle + 1] - number[middle]) >= 0)
    return int(rises.sum()), int((~rises).sum())


def _ways(packets: Packets, rows: Rows) -> U64:
    """A mix of who sent packets to whom, and over which interface: equal ones of one connection, others practically never."""
    ends = (packets.src[rows].astype(np.uint64) << np.uint64(32)) | packets.dst[rows].astype(np.uint64)
    ports = (packets.sport[rows].astype(np.uint64) << np.uint64(16)) | packets.dport[rows]
    mixed: U64 = (ends * _MIX) ^ ((ports << np.uint64(16)) | packets.interface[rows])
    return mixed


def _signed(difference: I64) -> I64:
    """Serial arithmetic mod 2^32 (RFC 1982)."""
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def times_of_neighbours(packets: Packets, rows: Rows) -> I64:
    """Times of the given rows, ascending, mended: they lie between the records before and behind them.

    Where one and the same error fits all that are too early (or too late) it is taken out; else the record before says when.
    """
    ts_ns: I64 = packets.ts_ns[rows]
    count, starts = len(packets), np.diff(rows, prepend=-2) != 1
    run, begin = np.cumsum(starts) - 1, np.flatnonzero(starts)
    before = rows[begin][run] - 1
    behind = rows[np.append(begin[1:], len(rows))[: len(begin)] - 1][run] + 1
    own = packets.capture[rows]
    has_before = (before >= 0) & (packets.capture[np.maximum(before, 0)] == own)
    has_behind = (behind < count) & (packets.capture[np.minimum(behind, count - 1)] == own)
    low = packets.ts_ns[np.where(has_before, before, np.minimum(behind, count - 1))]
    high = np.maximum(packets.ts_ns[np.where(has_behind, behind, np.maximum(before, 0))], low)
    mended = ts_ns.copy()
    for mine in (ts_ns < low, ts_ns >= low):
        error_ns = _common(ts_ns - high, ts_ns - low, mine)
        mended[mine] = low[mine] if error_ns is None else np.clip(ts_ns - error_ns, low, high)[mine]
    return mended


def _common(least_ns: I64, most_ns: I64, mine: Bools) -> int | None:
    """An error that lies within the bounds of all."""
    least, most = int(least_ns[mine].max(initial=LOWEST)), int(most_ns[mine].min(initial=-LOWEST))
    return (least + most) // 2 if LOWEST < least <= most else None
