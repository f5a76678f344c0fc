"""Which transmission of one capture is which of the other: packet by packet, and by byte ranges where offload cut them anew.

A retransmission is a transmission of its own: IP-ID and timestamp tell it from the original. Where a middlebox changed
one of them on a connection, that one is left out there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, U64, Bools, Rows
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import SYN
from pcapdiag.pair.side import joined
from pcapdiag.spool import column, computed, windows

if TYPE_CHECKING:
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.side import Side

_ID, _STAMP, _ACK = 1, 2, 4
_PASSES = (_ID | _STAMP | _ACK, _ID | _STAMP, _STAMP | _ACK, _ID | _ACK, _ACK)
"""Which fields must agree; each pass takes only directions in which none before it found more than SYNs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """The TCP packets of one capture in matched flows, in the near capture's terms."""

    segment: Rows
    """Row in its capture's Segments."""
    way: I64
    """2 * row in the match + direction."""
    start: I64
    """Stream offset, near coordinates; -1 for a SYN."""
    length: I64
    ack: I64
    ts_ns: I64
    """Its own clock."""
    other: I64
    """Entry of the other half that is the same packet; -1 none."""
    seen_len: I64
    """Payload bytes of it that the other capture holds of this very transmission."""
    resegmented: Bools
    """Its bytes were found in packets cut otherwise."""

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def complete(self) -> Bools:
        """The other capture saw this transmission, all its bytes."""
        whole: Bools = (self.other >= 0) | ((self.length > 0) & (self.seen_len >= self.length))
        return whole

    @property
    def direction(self) -> I64:
        """0 client to server."""
        return self.way & 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketMatch:
    """Both halves, and the range matches: near entry, far entry, first byte in common."""

    near: Half
    far: Half
    ranges: tuple[I64, I64, I64]
    unsure: tuple[tuple[Rows, Rows], ...]
    """Transmissions that nothing but their time tells apart, more of them in one half than in the other."""


def match_packets(near: Side, far: Side, match: FlowMatch) -> PacketMatch:
    """Pairs every transmission that both captures hold."""
    halves = _half(near, match, far=False), _half(far, match, far=True)
    sides = near, far
    way_count = 2 * len(match)
    found = np.zeros(way_count, np.bool_)
    for fields in _PASSES:
        free = [np.flatnonzero((half.other < 0) & ~found[half.way]) for half in halves]
        if not len(free[0]) or not len(free[1]):
            continue
        left, right = joined(*(_keys(side, half, rows, fields) for side, half, rows in zip(sides, halves, free, strict=True)))
        a, b = free[0][left], free[1][right]
        halves[0].other[a], halves[1].other[b] = b, a
        telling = (near.what[halves[0].segment[a]] & SYN) == 0
        found |= np.bincount(halves[0].way[a[telling]], minlength=way_count) > 0
    unsure = _unsure(sides, halves)
    for half in halves:
        half.seen_len[half.other >= 0] = half.length[half.other >= 0]
    ranges = _match_ranges(sides, halves, unsure)
    return PacketMatch(near=halves[0], far=halves[1], ranges=ranges, unsure=unsure)


def _unsure(sides: tuple[Side, Side], halves: tuple[Half, Half]) -> tuple[tuple[Rows, Rows], ...]:
    """Unpairs look-alikes of which one half has more than the other: the clocks will tell which is which."""
    if not any((half.other < 0).any() for half in halves):
        return ()
    keys = [_keys(side, half, np.arange(len(half)), _ID | _STAMP | _ACK) for side, half in zip(sides, halves, strict=True)]
    rest = np.unique(np.concatenate([key[half.other < 0] for key, half in zip(keys, halves, strict=True)]))
    rows = [np.flatnonzero(np.isin(key, rest)) for key in keys]
    orders = [some[np.argsort(key[some], kind="stable")] for key, some in zip(keys, rows, strict=True)]
    both = np.intersect1d(keys[0][orders[0]], keys[1][orders[1]])
    edges = [np.searchsorted(key[order], both, side=side) for key, order in zip(keys, orders, strict=True) for side in ("left", "right")]
    groups = []
    for a, b, c, d in zip(*(edge.tolist() for edge in edges), strict=True):
        left, right = orders[0][a:b], orders[1][c:d]
        if len(left) == len(right):
            continue
        halves[0].other[left], halves[1].other[right] = -1, -1
        groups.append((left, right))
    return tuple(groups)


def _half(side: Side, match: FlowMatch, *, far: bool) -> Half:
    flows, seg, room = match.far if far else match.near, side.tcp.segments, side.room
    stop_of = side.tcp.flows.stop[flows]
    ends = np.cumsum(stop_of - side.tcp.flows.begin[flows])
    count = int(ends[-1]) if len(ends) else 0
    columns = {name: column(count, np.int64, room) for name in ("segment", "way", "start", "length", "ack", "ts_ns", "other", "seen_len")}
    for part in windows(count, room):
        entry = np.arange(part.start, part.stop)
        row = np.searchsorted(ends, entry, side="right")
        rows = stop_of[row] + entry - ends[row]
        direction = seg.direction[rows].astype(np.int64) ^ match.turned[row, int(far)]
        start, ack = seg.seq[rows], seg.ack[rows]
        if far:
            start = start + match.shift[row, direction]
            ack = ack + np.where(ack >= 0, match.shift[row, 1 - direction], 0)
        values = {
            "segment": rows, "way": 2 * row + direction, "start": start, "length": seg.payload_len[rows], "ack": ack,
            "ts_ns": seg.ts_ns[rows], "other": -1, "seen_len": 0,
        }  # fmt: skip
        for name, value in values.items():
            columns[name][part] = value
    resegmented = computed(count, np.bool_, lambda part: np.zeros(part.stop - part.start, np.bool_), room)
    return Half(**columns, resegmented=resegmented)


def _keys(side: Side, half: Half, rows: Rows, fields: int) -> U64:
    """What must agree of a transmission, as one number."""
    at = half.segment[rows]
    what = (half.way[rows] << 32) | (half.length[rows] << 8) | side.what[at]
    columns = [half.start[rows], what]
    # An RST may carry any acknowledgment number or none (RFC 9293 section 3.10.7.1).
    if fields & _ACK:
        columns.append(half.ack[rows])
    extra = np.zeros(len(rows), np.int64)
    if fields & _STAMP:
        extra += np.where(side.has_ts[at], (side.ts_val[at].astype(np.int64) << 16) + (1 << 50), 0)
    if fields & _ID:
        extra += side.ip_id[at]
    return mixed(*columns, extra)


def _match_ranges(sides: tuple[Side, Side], halves: tuple[Half, Half], unsure: tuple[tuple[Rows, Rows], ...]) -> tuple[I64, I64, I64]:
    """Bytes of transmissions that one capture holds in other packets than the other: TSO, GSO, GRO, LRO.

    Both sides' packets are cut at every edge either side has; equal cells with equal timestamps are the same bytes
    sent at the same time.
    """
    none = np.empty(0, np.int64)
    rows = [np.flatnonzero((half.other < 0) & (half.length > 0) & (half.start >= 0)) for half in halves]
    if unsure:
        rows = [np.setdiff1d(some, np.concatenate([group[i] for group in unsure])) for i, some in enumerate(rows)]
    ways = np.intersect1d(halves[0].way[rows[0]], halves[1].way[rows[1]])
    rows = [some[np.isin(half.way[some], ways)] for half, some in zip(halves, rows, strict=True)]
    if not len(rows[0]) or not len(rows[1]):
        return none, none, none
    edges = np.unique(np.concatenate([_edge(half.way[some], half.start[some] + extra) for half, some in zip(halves, rows, strict=True)
                                      for extra in (0, half.length[some])]))  # fmt: skip
    cells = [_cells(side, half, some, edges) for side, half, some in zip(sides, halves, rows, strict=True)]
    left, right = joined(cells[0][0], cells[1][0])
    a, b = cells[0][1][left], cells[1][1][right]
    # Packets with the same edges that did not match are two transmissions, not one cut anew.
    anew = (halves[0].start[a] != halves[1].start[b]) | (halves[0].length[a] != halves[1].length[b])
    a, b, cell, size = a[anew], b[anew], cells[0][2][left][anew], cells[0][3][left][anew]
    np.add.at(halves[0].seen_len, a, size)
    np.add.at(halves[1].seen_len, b, size)
    halves[0].resegmented[a] = True
    halves[1].resegmented[b] = True
    return a, b, edges[cell] & ((1 << 43) - 1)


def _edge(way: I64, offset: I64) -> I64:
    return (way << 43) + offset


def _cells(side: Side, half: Half, rows: Rows, edges: I64) -> tuple[U64, I64, I64, I64]:
    """Per cell of each packet: its key, the entry, the row in edges, its length."""
    low = np.searchsorted(edges, _edge(half.way[rows], half.start[rows]))
    count = np.searchsorted(edges, _edge(half.way[rows], half.start[rows] + half.length[rows])) - low
    cell = concatenated_ranges(low, count)
    entry = np.repeat(rows, count)
    at = half.segment[entry]
    stamp = np.where(side.has_ts[at], side.ts_val[at].astype(np.int64) + 1, 0)
    return mixed(cell, stamp), entry, cell, edges[np.minimum(cell + 1, len(edges) - 1)] - edges[cell]
