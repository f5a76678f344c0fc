"""Sequence numbers -> stream offsets, and what each TCP packet is: new, seen again, or the filler of a hole.

All arrays here are in "fd order": by flow, then direction, then time, so that one direction is one contiguous group.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcapdiag.columns import I32, I64, U8, U32, Bools
from pcapdiag.flows.segmented import LOWEST, group_starts, last_index_where, running_count, running_max, shifted
from pcapdiag.flows.table import Kind
from pcapdiag.packets.table import ACK, FIN, RST, SYN


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Per packet in fd order; `high_before` is the offset behind the highest byte seen before it (LOWEST: none)."""

    fd: I64
    first: Bools
    seq: I64
    stop: I64
    """Offset behind its last byte; SYN and FIN take one each."""
    ack: I64
    """-1 without ACK."""
    high_before: I64
    acked_before: I64
    """Highest offset its sender had acknowledged before it; LOWEST: none."""
    gap_len: I64
    kind: U8
    sends: I32
    fills: tuple[Fill, ...]
    holes: tuple[Hole, ...]
    """Never filled."""
    synchronised: Bools
    """Per fd: its SYN was seen, so offset 0 is its first byte."""


class Fill(NamedTuple):
    """Bytes [start, stop) of fd that entry `at` brought first, into the hole that entry `opener` showed."""

    fd: int
    start: int
    stop: int
    at: int
    opener: int


class Hole(NamedTuple):
    """Bytes [start, stop) of fd that were never seen, though entry `opener` lies above them."""

    fd: int
    start: int
    stop: int
    opener: int


def sequence_packets(*, fd: I64, seq: U32, ack: U32, flags: U8, payload_len: I64, fd_count: int) -> Sequence:
    """Stream offsets and kinds of packets in fd order (RFC 9293 section 3.4; serial arithmetic mod 2^32)."""
    first = group_starts(fd)
    is_syn, is_fin, is_rst = (flags & SYN) > 0, (flags & FIN) > 0, (flags & RST) > 0
    has_ack = ((flags & ACK) > 0) & ~is_rst
    base, synchronised = _bases(fd, first, seq, is_syn, is_rst, fd_count)
    offset = _unwrap(seq, base[fd], first, ~is_rst)
    offset = np.where(is_syn & ~is_rst, -1, offset)
    reverse_base = base[fd ^ 1]
    unseen = reverse_base < 0
    if unseen.any():  # a direction without packets: count from what its receiver acknowledged first
        reverse_base = np.where(unseen, _first_value(ack, has_ack, fd, fd_count)[fd], reverse_base)
    acked = np.where(has_ack, _unwrap(ack, reverse_base, first, has_ack), -1)
    space = payload_len + is_syn + is_fin
    occupies = (space > 0) & ~is_rst
    stop = np.where(occupies, offset + space, offset)
    high = running_max(np.where(occupies, stop, LOWEST), first)
    high_before = shifted(high, first)
    known = high_before != LOWEST
    gap_len = np.where(known & ~is_rst & (offset > high_before), offset - high_before, 0)
    ack_high = running_max(np.where(has_ack, acked, LOWEST), first)
    old = occupies & known & (offset < high_before)
    keep_alive = ~is_rst & ~is_syn & ~is_fin & known & (payload_len <= 1) & (offset == high_before - 1)
    kind = np.full(len(fd), Kind.CONTROL, np.uint8)
    kind[occupies] = Kind.NEW
    kind[occupies & is_fin & (payload_len == 0)] = Kind.FIN
    kind[occupies & is_syn] = Kind.SYN
    kind[old & is_syn] = Kind.SYN_AGAIN
    kind[keep_alive] = Kind.KEEP_ALIVE
    old &= ~keep_alive & ~is_syn & (payload_len > 0)
    sends = occupies.astype(np.int32)
    for alone in (is_syn & ~is_rst, is_fin & ~is_rst):
        control = alone & (is_syn | (payload_len == 0))
        sends[control] = running_count(alone, first)[control]
    fills, holes = _cover(fd, offset, stop - is_fin, high_before, gap_len * (occupies & ~is_syn), old, kind, sends)
    return Sequence(
        fd=fd, first=first, seq=offset, stop=stop, ack=acked, high_before=high_before, acked_before=shifted(ack_high, first),
        gap_len=gap_len, kind=kind, sends=sends, fills=fills, holes=holes, synchronised=synchronised,
    )  # fmt: skip


def _bases(fd: I64, first: Bools, seq: U32, is_syn: Bools, is_rst: Bools, fd_count: int) -> tuple[I64, Bools]:
    """Sequence number of offset 0 per fd (-1: no packets), and whether its SYN says so."""
    base = np.full(fd_count, -1, np.int64)
    usable = np.flatnonzero(~is_rst)
    # Assigned backwards, so that the first packet of an fd has the last word.
    base[fd[usable[::-1]]] = seq[usable[::-1]]
    alone = np.flatnonzero(first)
    empty = base[fd[alone]] < 0
    base[fd[alone[empty]]] = seq[alone[empty]]
    syn = np.flatnonzero(is_syn & ~is_rst)[::-1]
    base[fd[syn]] = (seq[syn].astype(np.int64) + 1) & 0xFFFFFFFF
    synchronised = np.zeros(fd_count, np.bool_)
    synchronised[fd[syn]] = True
    return base, synchronised


def _first_value(values: U32, valid: Bools, fd: I64, fd_count: int) -> I64:
    """The first valid value of each fd; 0 where there is none."""
    result = np.zeros(fd_count, np.int64)
    at = np.flatnonzero(valid)[::-1]
    result[fd[at]] = values[at]
    return result


def _unwrap(numbers: U32, base: I64, first: Bools, valid: Bools) -> I64:
    """64-bit offsets from 32-bit numbers: each is taken as the nearest to the valid one before it."""
    at = np.flatnonzero(valid)
    offsets = np.zeros(len(numbers), np.int64)
    if len(at):
        here = numbers[at].astype(np.int64)
        begins = np.zeros(len(at), np.bool_)
        group = np.cumsum(first)[at]
        begins[0] = True
        np.not_equal(group[1:], group[:-1], out=begins[1:])
        before = np.where(begins, base[at], np.concatenate([here[:1], here[:-1]]))
        step = _signed(here - before)
        total = np.cumsum(step)
        start_total = np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))
        offsets[at] = total - (total[start_total] - step[start_total])
    # The others (RST with any number) relative to the valid one before them, or to the base.
    rest = np.flatnonzero(~valid)
    if len(rest):
        anchor = last_index_where(valid, first)[rest]
        anchored = anchor >= 0
        near = np.where(anchored, offsets[anchor], 0)
        number = np.where(anchored, numbers[anchor].astype(np.int64), base[rest])
        offsets[rest] = near + _signed(numbers[rest].astype(np.int64) - number)
    return offsets


def _signed(difference: I64) -> I64:
    """A difference mod 2^32 as a number in [-2^31, 2^31)."""
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def _cover(
    fd: I64, start: I64, stop: I64, high_before: I64, opened: I64, old: Bools, kind: U8, sends: I32
) -> tuple[tuple[Fill, ...], tuple[Hole, ...]]:
    """Which old packets fill holes and which repeat; sets kind and sends of the old ones. Loops over holes and old packets only."""
    events = np.flatnonzero((opened > 0) | old)
    fills: list[Fill] = []
    left: list[Hole] = []
    current, holes, carriers = -1, _Holes(), _Carriers()
    for at, group, begin, end, high, gap, is_old in zip(
        events.tolist(), fd[events].tolist(), start[events].tolist(), stop[events].tolist(), high_before[events].tolist(),
        opened[events].tolist(), old[events].tolist(), strict=True,
    ):  # fmt: skip
        if group != current:
            left += holes.rest(current)
            current, holes, carriers = group, _Holes(), _Carriers()
        if gap:
            holes.open(high, begin, at)
        if not is_old:
            continue
        filled = holes.fill(begin, min(end, high))
        fills += [Fill(group, a, b, at, opener) for a, b, opener in filled]
        if end <= high:
            kind[at] = Kind.FILL if filled else Kind.SEEN_AGAIN
        first_is_new = bool(filled) and filled[0][0] <= begin
        sends[at] = 1 if first_is_new else 1 + carriers.of(begin)
        carriers.add(begin, end, [(a, b) for a, b, _ in filled] + ([(high, end)] if end > high else []))
    left += holes.rest(current)
    return tuple(fills), tuple(left)


class _Carriers:
    """Packets of one direction that repeated bytes or filled holes, and the bytes that one of them was the first to bring."""

    __slots__ = ("_late_starts", "_late_stops", "_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._late_starts: list[int] = []
        self._late_stops: list[int] = []

    def of(self, offset: int) -> int:
        """How many packets have carried a byte seen before: those in here, and the one that brought it in its turn."""
        covering = bisect_right(self._starts, offset) - bisect_right(self._stops, offset)
        late = bisect_right(self._late_starts, offset)
        return covering if late and offset < self._late_stops[late - 1] else covering + 1

    def add(self, start: int, stop: int, brought: list[tuple[int, int]]) -> None:
        """One more packet, with the ranges it was the first to bring."""
        insort(self._starts, start)
        insort(self._stops, stop)
        for a, b in brought:
            insort(self._late_starts, a)
            insort(self._late_stops, b)


class _Holes:
    """The open holes of one direction, ascending and disjoint."""

    __slots__ = ("openers", "starts", "stops")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []
        self.openers: list[int] = []

    def open(self, start: int, stop: int, opener: int) -> None:
        """Bytes above all known ones arrived: what lies between is a hole."""
        self.starts.append(start)
        self.stops.append(stop)
        self.openers.append(opener)

    def fill(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Closes what [start, stop) covers; gives the pieces as (start, stop, opener)."""
        low, high = bisect_right(self.stops, start), bisect_left(self.starts, stop)
        if low >= high:
            return []
        if high - low == 1 and start <= self.starts[low] and self.stops[low] <= stop:  # nearly always: a hole and its one filler
            return [(self.starts.pop(low), self.stops.pop(low), self.openers.pop(low))]
        filled, keep = [], []
        for a, b, opener in zip(self.starts[low:high], self.stops[low:high], self.openers[low:high], strict=True):
            filled.append((max(a, start), min(b, stop), opener))
            keep += [(a, start, opener)] if a < start else []
            keep += [(stop, b, opener)] if stop < b else []
        self.starts[low:high] = [a for a, _, _ in keep]
        self.stops[low:high] = [b for _, b, _ in keep]
        self.openers[low:high] = [o for _, _, o in keep]
        return filled

    def rest(self, fd: int) -> list[Hole]:
        """The holes still open."""
        return [Hole(fd, a, b, o) for a, b, o in zip(self.starts, self.stops, self.openers, strict=True)]
