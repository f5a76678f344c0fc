"""Sequence numbers -> stream offsets, and what each TCP packet is: new, seen again, or the filler of a hole.

All arrays here are in "fd order": by flow, then direction, then time, so that one direction is one contiguous group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcapdiag.columns import I32, I64, U8, U32, Bools
from pcapdiag.flows.cover import earlier_at_most, first_cover
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import (
    LOWEST,
    concatenated_ranges,
    group_starts,
    last_index_where,
    running_count,
    running_max,
    shifted,
)
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
    """Which old packets fill holes and which repeat; sets kind and sends of the old ones."""
    opener, at = np.flatnonzero(opened > 0), np.flatnonzero(old)
    if not len(opener) and not len(at):
        return (), ()
    hole_start, hole_stop = key(fd[opener], high_before[opener]), key(fd[opener], start[opener])  # ascending, for so are the highs
    own_start, own_stop, high = key(fd[at], start[at]), key(fd[at], stop[at]), key(fd[at], high_before[at])
    # No later hole lies below the high of its time, so what an old packet overlaps below that was open already.
    part_start, part_stop, part_at, part_hole = _filled(hole_start, hole_stop, own_start, np.minimum(own_stop, high), at)
    filler = np.searchsorted(at, part_at)
    filled, begins = np.zeros(len(at), np.bool_), np.zeros(len(at), np.bool_)
    filled[filler] = True
    begins[filler[part_start == own_start[filler]]] = True
    below = own_stop <= high
    kind[at[below]] = np.where(filled[below], Kind.FILL, Kind.SEEN_AGAIN)
    late = _within(own_start, np.concatenate([part_start, high[~below]]), np.concatenate([part_stop, own_stop[~below]]))
    covering = earlier_at_most(own_start, own_start) - earlier_at_most(own_stop, own_start)
    # The packet that brought a byte is one of the covering ones, unless it came in its turn.
    sends[at] = np.where(begins, 1, 1 + covering + ~late)
    origin = key(fd[part_at], np.zeros(len(part_at), np.int64))
    order = np.lexsort((part_start, part_at))
    fills = (fd[part_at], part_start - origin, part_stop - origin, part_at, opener[part_hole])
    left = _left(hole_start, hole_stop, part_start, part_stop, part_hole)
    origin = key(fd[opener[left[2]]], np.zeros(len(left[2]), np.int64))
    holes = (fd[opener[left[2]]], left[0] - origin, left[1] - origin, opener[left[2]])
    return (
        tuple(map(Fill._make, zip(*(column[order].tolist() for column in fills), strict=True))),
        tuple(map(Hole._make, zip(*(column.tolist() for column in holes), strict=True))),
    )


def _filled(hole_start: I64, hole_stop: I64, start: I64, stop: I64, entry: I64) -> tuple[I64, I64, I64, I64]:
    """What ranges are the first to bring of holes: (start, stop, entry, hole), ascending. Holes are disjoint and ascending."""
    low = np.searchsorted(hole_stop, start, side="right")
    count = np.maximum(np.searchsorted(hole_start, stop) - low, 0)
    which, hole = np.repeat(np.arange(len(start)), count), concatenated_ranges(low, count)
    starts, stops, entries = first_cover(np.maximum(start[which], hole_start[hole]), np.minimum(stop[which], hole_stop[hole]), entry[which])
    return starts, stops, entries, np.searchsorted(hole_start, starts, side="right") - 1


def _left(hole_start: I64, hole_stop: I64, start: I64, stop: I64, hole: I64) -> tuple[I64, I64, I64]:
    """What ascending disjoint parts leave of holes: (start, stop, hole)."""
    count = len(hole_start)
    edges = np.concatenate([hole_start, stop]), np.concatenate([np.arange(count), hole])
    begins = np.lexsort(edges)
    ends = np.lexsort((np.concatenate([start, hole_stop]), np.concatenate([hole, np.arange(count)])))
    starts, stops = edges[0][begins], np.concatenate([start, hole_stop])[ends]
    some = stops > starts
    return starts[some], stops[some], edges[1][begins][some]


def _within(at: I64, starts: I64, stops: I64) -> Bools:
    """Does a position lie in one of the disjoint ranges?"""
    order = np.argsort(starts, kind="stable")
    row = np.searchsorted(starts[order], at, side="right")
    inside: Bools = np.concatenate([[LOWEST], stops[order]])[row] > at
    return inside
