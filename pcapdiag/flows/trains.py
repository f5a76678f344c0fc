"""Trains and their cars: packets longer than any wire carries, seen a second time cut into the packets they became.

Where a host hands a train of segments to its network card, a bridge or a tunnel, a tap before that shows the train and a
tap behind it the packets (or the other way round, where a receiver couples what came in). Both carry the same bytes, acknowledge
the same, have the same timestamp and, one by one, the next IP-IDs: they are copies of each other, not resends, and came by
different roads. The first sight stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.flows.copies import COPY_NS, Copies
from pcapdiag.flows.segmented import group_starts, last_index_where, running_max, shifted
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import TCP
from pcapdiag.spool import Spool, column, mask_of, portions, rows_where, windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import I64, U8, U64, Bools, Rows
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room

_LEAST_SEGMENT: Final = 64
"""No sender cuts trains into segments shorter than this, so this bounds how many IP-IDs lie between two offsets."""
_COMPARED: Final = 8
"""Bytes at the beginning of a car that have to be the train's."""


def with_cars(packets: Packets, copies: Copies, room: Room | None = None) -> Copies:
    """The copies, and the later ones of trains and cars; looked for between hosts some of whose other packets were copied."""
    rows = _suspects(packets, copies, room)
    kind = column(len(rows), np.uint64, room)
    for part in windows(len(rows), room):
        kind[part] = _kind(packets, rows[part])
    found = [*_of_a_kind(packets, rows, kind, room)]
    if not found:
        return copies
    both = Spool(room)
    for part in windows(len(copies.row), room):
        both.append({"row": copies.row[part], "original": copies.original[part], "routed": copies.routed[part]})
    for row, original in found:
        both.append({"row": row, "original": original, "routed": packets.ttl[row] < packets.ttl[original]})
    return Copies(**both.finish())


def _suspects(packets: Packets, copies: Copies, room: Room | None) -> Rows:
    """TCP packets with data between hosts and ports that copies were seen of, without those copies."""
    ends = np.empty(0, np.uint64)
    for part in windows(len(copies.row), room):
        mine = copies.row[part]
        ends = np.union1d(ends, _ends(packets, mine[packets.proto[mine] == TCP]))
    if not len(ends):
        return np.empty(0, np.intp)
    aside = mask_of([copies.row], len(packets), room)

    def is_one(part: slice) -> Bools:
        data: Bools = (packets.proto[part] == TCP) & (packets.payload_len[part] > 0) & ~aside[part] & np.isin(_ends(packets, part), ends)
        return data

    rows: Rows = rows_where(len(packets), is_one, room)
    return rows


def _of_a_kind(packets: Packets, rows: Rows, kind: U64, room: Room | None) -> Iterator[tuple[Rows, Rows]]:
    """What is set aside and the sight that stays, for some kinds at a time."""
    for portion in portions(kind, room):
        train, car = _pairs(packets, rows[portion], kind[portion])
        good = _same(packets, train, car)
        if good.any():
            yield _later(packets, train[good], car[good])


def _ends(packets: Packets, rows: Rows | slice) -> U64:
    one = packets.src[rows].astype(np.int64) << 16 | packets.sport[rows]
    other = packets.dst[rows].astype(np.int64) << 16 | packets.dport[rows]
    return mixed(np.minimum(one, other), np.maximum(one, other))


def _kind(packets: Packets, rows: Rows) -> U64:
    """A mix of what a train and its cars have in common: endpoints, and what they say about the other direction."""
    names = ("src", "dst", "sport", "dport", "ack", "ts_val")
    c, half = {name: getattr(packets, name)[rows].astype(np.uint64) for name in names}, np.uint64(32)
    return mixed(c["src"] << half | c["dst"], c["sport"] << np.uint64(48) | c["dport"] << half | c["ack"], c["ts_val"])


def _pairs(packets: Packets, rows: Rows, kind: U64) -> tuple[Rows, Rows]:
    """Trains and cars: the bytes of the second are some of the first's, and both are of one kind."""
    order = np.argsort(kind, kind="stable")
    rows, kind = rows[order], kind[order]
    first = group_starts(kind.view(np.int64))
    group = np.cumsum(first, dtype=np.int64)
    base = packets.seq[rows[first]].astype(np.int64)[group - 1]
    start = ((packets.seq[rows].astype(np.int64) - base + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    length = packets.payload_len[rows].astype(np.int64)
    order = np.lexsort((-length, start, group))
    rows, start, length, first = rows[order], start[order], length[order], group_starts(group[order])
    stop = start + length
    farthest = stop > shifted(running_max(stop, first), first)
    before = shifted(last_index_where(farthest, first), first, -1)
    inside = (before >= 0) & (stop <= stop[before]) & (length < length[before])
    return rows[before[inside]], rows[inside]


def _same(packets: Packets, train: Rows, car: Rows) -> Bools:
    """Pairs of one packet and a part of it: by another road, nearly at the same time, with numbers and bytes that fit."""
    other_road = np.zeros(len(train), np.bool_)
    for where in (packets.link_hash, packets.ttl, packets.interface, packets.tunnel, packets.capture):
        other_road |= where[train] != where[car]
    near = np.abs(packets.ts_ns[train] - packets.ts_ns[car]) <= COPY_NS
    offset = (packets.seq[car].astype(np.int64) - packets.seq[train]) & 0xFFFFFFFF
    ahead = (packets.ip_id[car].astype(np.int64) - packets.ip_id[train]) & 0xFFFF
    numbered = (packets.ip_id[car] != 0) & (packets.ip_id[train] != 0)
    fits = np.where(
        numbered, ((ahead == 0) == (offset == 0)) & (ahead * _LEAST_SEGMENT <= offset), packets.has_ts[car] & packets.has_ts[train]
    )
    good: Bools = other_road & near & fits
    at = np.flatnonzero(good)
    shown = (packets.payload_captured[train[at]] >= offset[at] + _COMPARED) & (packets.payload_captured[car[at]] >= _COMPARED)
    at = at[shown]
    good[at] = (_octets(packets, packets.payload_at[train[at]] + offset[at]) == _octets(packets, packets.payload_at[car[at]])).all(axis=1)
    return good


def _octets(packets: Packets, at: I64) -> U8:
    """The bytes from each offset on."""
    starts = np.array(packets.blob.starts, np.int64)
    buffer = np.searchsorted(starts, at, side="right") - 1
    result = np.zeros((len(at), _COMPARED), np.uint8)
    for index in np.unique(buffer).tolist():
        mine = np.flatnonzero(buffer == index)
        result[mine] = packets.blob.buffers[index][(at[mine] - starts[index])[:, None] + np.arange(_COMPARED)]
    return result


def _later(packets: Packets, train: Rows, car: Rows) -> tuple[Rows, Rows]:
    """What is set aside, and the sight that stays: the cars, unless all of them came before their train."""
    order = np.lexsort((packets.ts_ns[car], train))
    train, car = train[order], car[order]
    begin = np.flatnonzero(group_starts(train))
    trains, leaders = train[begin], car[begin]
    whole = np.add.reduceat(packets.payload_len[car].astype(np.int64), begin) >= packets.payload_len[trains]
    last = packets.ts_ns[car[np.append(begin[1:], len(car)) - 1]]
    coupled = whole & (last <= packets.ts_ns[trains])
    stays = np.repeat(coupled, np.diff(np.append(begin, len(car))))
    return np.concatenate([car[~stays], trains[coupled]]), np.concatenate([train[~stays], leaders[coupled]])
