"""Conversations: the packets between two endpoints over TCP or UDP, of whichever connections they are.

No step holds more than a window of the packets, however many there are: a capture has far fewer conversations than packets.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.flows.segmented import group_starts
from pcapdiag.packets.distinct import first_equal, firsts_of
from pcapdiag.packets.table import TCP, UDP
from pcapdiag.spool import WINDOW, column, rows_by_number, windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import I32, I64, U16, Rows
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room


_SAMPLED, _PORTION = 1 << 10, 1 << 7
"""Of every so many times one is looked at; of so many of these one is an edge between portions that are sorted by themselves."""


class Order(NamedTuple):
    """Packets by time; equal times stay in the order of the file."""

    rows: Rows
    """Rows of Packets."""
    ts_ns: I64
    """Their times."""


class Conversations(NamedTuple):
    """Packets conversation by conversation."""

    rows: Rows
    """Rows of Packets; those of each conversation by time."""
    length: I64
    """How many of them each conversation has."""


def find_conversations(packets: Packets, aside: Rows, *, by_time: bool, room: Room | None) -> Conversations:
    """All conversations.

    Args:
        packets: the packets.
        aside: rows that belong to none, ascending.
        by_time: packets of one conversation come in the order of time; else in that of the file.
        room: where what has a row per packet lies.
    """
    number, length = _numbered(packets, aside, room)
    rows = rows_by_number(number, length, room)
    if by_time and not _in_time(packets.ts_ns, room):
        _sort_by_time(packets, rows, length, room)
    return Conversations(rows, length)


def order_by_time(packets: Packets, room: Room | None) -> Order | None:
    """The packets in the order of time; None when they lie in it."""
    count = len(packets)
    if _in_time(packets.ts_ns, room):
        return None
    if count <= WINDOW:
        rows = np.argsort(packets.ts_ns, kind="stable")
        return Order(rows, packets.ts_ns[rows])
    sample = np.sort(packets.ts_ns[::_SAMPLED])
    edges = sample[_PORTION::_PORTION]
    portion = column(count, np.int32, room)
    counts = np.zeros(len(edges) + 1, np.int64)
    for part in windows(count, room):
        portion[part] = np.searchsorted(edges, packets.ts_ns[part], side="right")
        counts += np.bincount(portion[part], minlength=len(counts))
    rows, ts_ns = rows_by_number(portion, counts, room), column(count, np.int64, room)
    for begin, end in pairwise([0, *np.cumsum(counts).tolist()]):
        mine = rows[begin:end]
        mine = mine[np.argsort(packets.ts_ns[mine], kind="stable")]
        rows[begin:end], ts_ns[begin:end] = mine, packets.ts_ns[mine]
        if room is not None:
            room.release()
    return Order(rows, ts_ns)


def endpoints(address: I32, port: U16) -> I64:
    """One number per address and port."""
    return (address.astype(np.int64) << 16) | port


def blocks(length: I64, row_count: int) -> Iterator[tuple[int, int]]:
    """Consecutive groups [first, stop) of about that many rows together; a group is never split, no groups are one block."""
    if not len(length):
        yield 0, 0
    ends = np.cumsum(length)
    first = 0
    while first < len(ends):
        begin = int(ends[first] - length[first])
        stop = max(first + 1, int(np.searchsorted(ends, begin + row_count, side="right")))
        yield first, stop
        first = stop


def _numbered(packets: Packets, aside: Rows, room: Room | None) -> tuple[I32, I64]:
    """The conversation of each packet, by first appearance (-1: none), and how many packets each has."""
    number = column(len(packets), np.int32, room)
    book: dict[bytes, int] = {}
    counts = np.zeros(0, np.int64)
    for part in windows(len(packets), room):
        proto = packets.proto[part]
        usable = ((proto == TCP) | (proto == UDP)) & (packets.frag_offset[part] == 0) & ((packets.sport[part] | packets.dport[part]) > 0)
        usable[aside[slice(*np.searchsorted(aside, [part.start, part.stop]))] - part.start] = False
        source, target = endpoints(packets.src[part], packets.sport[part]), endpoints(packets.dst[part], packets.dport[part])
        ends = np.stack([np.minimum(source, target), (np.maximum(source, target) << 1) | (proto == UDP)], axis=1)[usable]
        keys = ends.view(np.uint64)
        first = first_equal(keys)
        leads = firsts_of(first)
        raw = keys[leads].tobytes()
        known = np.array([book.setdefault(raw[at : at + 16], len(book)) for at in range(0, len(raw), 16)], np.int32)
        of_lead = np.empty(len(keys), np.int32)
        of_lead[leads] = known
        mine = np.full(len(proto), -1, np.int32)
        mine[usable] = of_lead[first]
        number[part] = mine
        grown = np.zeros(len(book), np.int64)
        grown[: len(counts)] = counts
        counts = grown + np.bincount(mine[usable], minlength=len(book))
    return number, counts


def _in_time(ts_ns: I64, room: Room | None) -> bool:
    """Are all times in ascending order?"""
    last_ns = np.iinfo(np.int64).min
    for part in windows(len(ts_ns), room):
        own = ts_ns[part]
        if own[0] < last_ns or (own[1:] < own[:-1]).any():
            return False
        last_ns = own[-1]
    return True


def _sort_by_time(packets: Packets, rows: Rows, length: I64, room: Room | None) -> None:
    """Brings the packets of each conversation into the order of time; equal times stay in that of the file."""
    ends = np.cumsum(length)
    for first, stop in blocks(length, WINDOW):
        part = slice(int(ends[first] - length[first]), int(ends[stop - 1])) if stop else slice(0, 0)
        ts_ns, number = packets.ts_ns[rows[part]], np.repeat(np.arange(first, stop), length[first:stop])
        if ((ts_ns[1:] < ts_ns[:-1]) & ~group_starts(number)[1:]).any():
            rows[part] = rows[part][np.lexsort((ts_ns, number))]
        if room is not None:
            room.release()
