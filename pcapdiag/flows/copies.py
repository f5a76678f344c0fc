"""Copies of one packet: what a mirror of both ports, the `any` interface, a bridge or a router shows twice (CAUSES section 10).

A copy keeps what a resend does not: the IP-ID, the timestamp, and nearly the time. Its link-layer addresses, interface
and TTL may be others: it was then seen at another place of its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pcapdiag.flows.conversations import endpoints
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP, Packets
from pcapdiag.spool import Spool, column, portions, taken, windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcapdiag.columns import I64, U8, U32, U64, Bools, Rows
    from pcapdiag.flows.conversations import Order
    from pcapdiag.spool import Room

COPY_NS = 10_000_000
"""Copies of one packet at one place lie within 10 ms of each other."""
ELSEWHERE_NS = 2_000_000_000
"""The same packet at another place of its way, in this capture or another: few queues are longer, and IDs and timestamps
do not come round sooner."""
_READ = (TCP, UDP, ICMP, ICMPV6)
_HOPS = 4
"""Routers between two places on one host or in one data centre."""
_TICK_NS = 1_000_000
"""Without an IP-ID only what comes within a timestamp tick on the same road is surely no resend."""
_HABIT = 0.02
"""A capture that copies copies often: from one packet in fifty on, unnumbered look-alikes are copies too."""
_DOUBLED = 0.1
"""A capture in which one packet in ten comes again, number and stamp and all, was made of two that have clocks of their own."""
_TWICE = 1 / 3
"""A capture copies what bears neither number nor stamp when every second TCP packet with data comes again at once: no sender
resends half of what it sends before it can have heard that it is missing."""
_LEAST_ALIKE = 3
"""So many packets of a connection that two captures share, and no resend explains all of them."""
_SURE, _ELSEWHERE, _LATE, _NEAR, _BARE, _DATA = 1, 2, 4, 8, 16, 32
"""A copy; one in another capture; if its capture was made of two; if its capture copies often; if captures share more of the connection;
the same as _NEAR and a TCP packet with data."""
_CHUNK = 1 << 16
_TABLE_BITS = (12, 20)
_SECOND_LOOK = 0x9E3779B1
_HEAD_LEN, _TAIL_LEN = 24, 8
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Packets that are copies of earlier ones."""

    row: Rows
    """Rows of Packets: the copies."""
    original: Rows
    """Rows of Packets: the first sight of each."""
    routed: Bools
    """Its TTL is lower than that of the sight before it: a router lay between them."""


NO_COPIES = Copies(row=np.empty(0, np.intp), original=np.empty(0, np.intp), routed=np.empty(0, np.bool_))


def find_copies(packets: Packets, order: Order | None = None, aside: Rows = NO_COPIES.row, room: Room | None = None) -> Copies:
    """All copies; `order` says how packets come by time when that is not how they lie, `aside` (ascending) which are none of them."""
    ts_ns = packets.ts_ns if order is None else order.ts_ns
    alike = candidates(lambda part: _quick_hash(packets, part if order is None else order.rows[part]), ts_ns, ELSEWHERE_NS, room)
    rows = _without(alike if order is None else taken(order.rows, alike, room), aside, room)
    return _Twins(packets, rows, room).copies()


def _without(rows: Rows, aside: Rows, room: Room | None) -> Rows:
    if not len(aside):
        return rows
    kept = Spool(room)
    for part in windows(len(rows), room):
        mine = rows[part]
        at = np.minimum(np.searchsorted(aside, mine), len(aside) - 1)
        kept.append({"": mine[aside[at] != mine]})
    return kept.finish().get("", rows)


class _Twins:
    """Packets that equal another one in all that a copy keeps, the equal ones as neighbours by time, and what each may be."""

    def __init__(self, packets: Packets, rows: Rows, room: Room | None) -> None:
        """Takes the candidates by time."""
        self._packets, self._room = packets, room
        self._lengths: list[int] = []
        """Rows of each portion: equal ones lie in one."""
        self._counts = {mask: np.zeros(1, np.int64) for mask in (_SURE, _LATE, _SURE | _LATE, _DATA)}
        """Of each capture: twins that bear any of these."""
        self._shared: list[tuple[U64, I64]] = []
        """Hashes of connections of which a capture holds what says nothing but that it equals another's, and how much."""
        identities, spool = column(len(rows), np.uint64, room), Spool(room)
        for part in windows(len(rows), room):
            identities[part] = identity(packets, rows[part])
        for portion in portions(identities, room):
            mine = rows[portion]  # two captures of one tap may show a packet at the same time: of them the one that holds more of it stays
            place = portion[np.lexsort((-packets.payload_captured[mine].astype(np.int64), packets.ts_ns[mine], identities[portion]))]
            same = identities[place[1:]] == identities[place[:-1]]
            kept = np.flatnonzero(np.append(same, [False])[: len(place)] | np.append([False], same)[: len(place)])
            mask = np.zeros(len(place), np.uint8)
            mask[1:][same] = _judge(packets, rows[place[:-1][same]], rows[place[1:][same]])
            spool.append({"place": place[kept], "row": rows[place[kept]], "mask": mask[kept]})
            self._lengths.append(len(kept))
            self._count(rows[place[kept]], mask[kept])
        self._columns = spool.finish()

    def _count(self, row: Rows, mask: U8) -> None:
        capture = self._packets.capture[row]
        for bits, count in self._counts.items():
            self._counts[bits] = _added(count, np.bincount(capture[(mask & bits) > 0]))
        bare = row[(mask & _BARE) > 0]
        if len(bare):
            self._shared.append(np.unique(_connections(self._packets, bare), return_counts=True))

    def copies(self) -> Copies:
        """Those that are copies."""
        found, total = Spool(self._room), self._totals()
        double, copying = self._habit(_LATE, _DOUBLED * total), self._habit(_SURE, _HABIT * total)
        copying = np.union1d(copying, np.intersect1d(double, self._habit(_SURE | _LATE, _HABIT * total)))
        copying = np.union1d(copying, self._habit(_DATA, _TWICE * self._data_totals()))
        shared = self._often_shared()
        ends = np.cumsum(self._lengths)
        for length, end in zip(self._lengths, ends.tolist(), strict=True):
            row, place, mask = (self._columns[name][end - length : end] for name in ("row", "place", "mask"))
            capture = self._packets.capture[row]
            is_copy = ((mask & (_SURE | _ELSEWHERE)) > 0) | (((mask & _LATE) > 0) & np.isin(capture, double))
            is_copy |= ((mask & _NEAR) > 0) & np.isin(capture, copying)
            bare = np.flatnonzero((mask & _BARE) > 0)
            is_copy[bare] = np.isin(_connections(self._packets, row[bare]), shared)
            first = np.maximum.accumulate(np.where(is_copy, 0, np.arange(length)))
            at = np.flatnonzero(is_copy)
            at = at[np.argsort(place[at])]
            found.append({
                "row": row[at], "original": row[first[at]], "routed": self._packets.ttl[row[at]] < self._packets.ttl[row[at - 1]],
            })  # fmt: skip
            if self._room is not None:
                self._room.release()
        return Copies(**found.finish())

    def _totals(self) -> I64:
        """Packets of each capture; of those without twins it does not matter how many."""
        total = np.zeros(len(self._counts[_SURE | _LATE]), np.int64)
        for part in windows(len(self._packets) if self._counts[_SURE | _LATE].any() else 0, self._room):
            total = _added(total, np.bincount(self._packets.capture[part]))
        return total

    def _data_totals(self) -> I64:
        """TCP packets with data of each capture, where any come again."""
        packets, total = self._packets, np.zeros(len(self._counts[_DATA]), np.int64)
        for part in windows(len(packets) if self._counts[_DATA].any() else 0, self._room):
            carries = (packets.payload_len[part] > 0) & (packets.proto[part] == TCP)
            total = _added(total, np.bincount(packets.capture[part][carries]))
        return total

    def _habit(self, bits: int, least: npt.NDArray[np.floating]) -> Rows:
        """Captures of which so many packets are twins of that kind."""
        count = _added(np.zeros(len(least), np.int64), self._counts[bits])
        return np.flatnonzero((count > 0) & (count >= least))

    def _often_shared(self) -> U64:
        """Connections of which two captures share more than one or two packets that say nothing: no resend explains all of them."""
        if not self._shared:
            return np.empty(0, np.uint64)
        keys, of = np.unique(np.concatenate([one for one, _ in self._shared]), return_inverse=True)
        count = np.bincount(of, weights=np.concatenate([times for _, times in self._shared]))
        return keys[count >= _LEAST_ALIKE]


def _added(one: I64, other: I64) -> I64:
    """The sum of two counts, of which one may know of more."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def _connections(packets: Packets, rows: Rows) -> U64:
    """A number for the connection and the capture of each packet."""
    ends = endpoints(packets.src[rows], packets.sport[rows]), endpoints(packets.dst[rows], packets.dport[rows])
    return mixed(np.minimum(*ends), np.maximum(*ends), packets.capture[rows])


def candidates(hash_of: Callable[[slice], U32], ts_ns: I64, within_ns: int, room: Room | None = None) -> Rows:
    """Places that may have an equal hash within that time, and few that have not, ascending; so does ts_ns."""
    found, waiting = Spool(room), np.empty(0, np.intp)
    begin = reach = 0
    hashes = np.empty(0, np.uint32)
    while begin < len(ts_ns):
        end = min(max(begin + _CHUNK, reach), len(ts_ns))  # at least as many as the look ahead holds: never quadratic
        known, reach = reach, int(np.searchsorted(ts_ns, ts_ns[end - 1] + within_ns, side="right"))
        hashes = np.concatenate([hashes, hash_of(slice(known, reach))])
        suspects = _sharing(hashes)
        waiting = np.union1d(waiting, begin + suspects[_sharing(hashes[suspects] * np.uint32(_SECOND_LOOK))])
        done = int(np.searchsorted(waiting, end))
        found.append({"": waiting[:done]})
        waiting = waiting[done:]
        hashes = hashes[end - begin :]
        begin = end
        if room is not None:
            room.release()
    return found.finish().get("", waiting)


def _sharing(hashes: U32) -> Rows:
    """Places whose upper bits are those of another: a table is written in one sweep, and who does not find himself in it shares."""
    bits = min(max(len(hashes).bit_length() + 2, _TABLE_BITS[0]), _TABLE_BITS[1])
    cell = hashes >> np.uint32(32 - bits)
    place = np.arange(len(hashes), dtype=np.int32)
    table = np.empty(1 << bits, np.int32)
    table[cell] = place
    winner = table[cell]
    shares = winner != place
    shares[winner[shares]] = True
    return np.flatnonzero(shares)


def _judge(packets: Packets, earlier: Rows, later: Rows) -> U8:
    """Of pairs with one identity: what tells that the later one is a copy, and no resend."""
    apart = packets.ts_ns[later] - packets.ts_ns[earlier]
    here = packets.capture[later] == packets.capture[earlier]
    other_road = (packets.link_hash[later] != packets.link_hash[earlier]) | (packets.ttl[later] != packets.ttl[earlier])
    other_road |= packets.interface[later] != packets.interface[earlier]
    numbered, stamped = packets.ip_id[later] != 0, packets.has_ts[later].astype(np.bool_)
    # Of what is not read the number is all there is, and some stacks begin anew with every socket. Without a number only
    # what a datagram says tells it from others: of those that say nothing all are alike.
    told = np.isin(packets.proto[later], _READ)
    told &= numbered | (packets.proto[later] == TCP) | (packets.payload_captured[later] >= _TAIL_LEN)
    soon = told & (apart <= ELSEWHERE_NS)
    near = told & here & (apart <= COPY_NS)
    sure = near & (numbered | (other_road & (stamped | (apart <= _TICK_NS))))
    sure |= told & here & (apart <= _TICK_NS) & stamped & (packets.payload_len[later] > 0)
    # Behind a full queue it comes later, with the number and the stamp it had in front, by another road.
    fall = packets.ttl[earlier].astype(np.int64) - packets.ttl[later]
    sure |= soon & here & numbered & ((stamped & other_road) | ((fall > 0) & (fall <= _HOPS)))
    # By the same road it may be a resend of a stack that keeps both; but nobody resends one packet in ten, and ACKs never.
    late = soon & here & stamped & (numbered | (apart > COPY_NS))  # timestamp clocks seldom tick slower
    elsewhere = soon & ~here
    mask = np.zeros(len(later), np.uint8)
    named = numbered | stamped
    data = near & (packets.proto[later] == TCP) & (packets.payload_len[later] > 0)
    for bit, where in (
        (_SURE, sure), (_ELSEWHERE, elsewhere & named), (_LATE, late), (_NEAR, near), (_BARE, elsewhere & ~named), (_DATA, data),
    ):  # fmt: skip
        mask[where] |= bit
    return mask


def _quick_hash(packets: Packets, rows: Rows | slice) -> U32:
    """A 32-bit mix of most of a packet's identity, cheap enough for every packet."""
    total = packets.seq[rows] * np.uint32(0x9E3779B1)
    total += packets.ack[rows]
    total *= np.uint32(0x85EBCA77)
    total += packets.ts_val[rows]
    total *= np.uint32(0xC2B2AE3D)
    total += packets.payload_len[rows].view(np.uint32)
    total ^= total >> np.uint32(15)
    total += packets.ip_id[rows]
    total *= np.uint32(0x27D4EB2F)
    total += packets.sport[rows]
    total += packets.dport[rows]
    total *= np.uint32(0x9E3779B1)
    total ^= packets.window[rows]
    total += packets.flags[rows]
    total += packets.frag_offset[rows].view(np.uint32)
    blank = np.flatnonzero((packets.proto[rows] != TCP) & (packets.ip_id[rows] == 0))
    if len(blank):
        total[blank] += content(packets, blank + rows.start if isinstance(rows, slice) else rows[blank]).astype(np.uint32)
    total ^= total >> np.uint32(16)
    total *= np.uint32(0x85EBCA77)
    return total


def identity(packets: Packets, rows: Rows) -> U64:
    """A 64-bit mix of all that a copy keeps and a resend does not."""
    columns = {name: getattr(packets, name)[rows].astype(np.uint64) for name in (
        "src", "dst", "seq", "ack", "sport", "dport", "ts_val", "ip_id", "window", "flags", "proto", "payload_len", "frag_offset",
    )}  # fmt: skip
    c, half = columns, np.uint64(32)
    return mixed(
        (c["src"] << half) | c["dst"],
        (c["seq"] << half) | c["ack"],
        (c["sport"] << np.uint64(48)) | (c["dport"] << half) | c["ts_val"],
        (c["ip_id"] << np.uint64(48)) | (c["window"] << half) | (c["flags"] << np.uint64(24)) | c["proto"],
        (c["payload_len"] << half) | c["frag_offset"],
        _said(packets, rows),
    )


def _said(packets: Packets, rows: Rows) -> U64:
    """Some bytes of what datagrams say, whose numbers may all be one; the SACK blocks of TCP packets without a number."""
    result = np.zeros(len(rows), np.uint64)
    other = np.flatnonzero(packets.proto[rows] != TCP)
    if len(other):
        result[other] = content(packets, rows[other])
    bare = packets.ip_id[rows] == 0
    if len(packets.sacks) and bare.any():
        low, high = np.searchsorted(packets.sacks.row, rows[bare]), np.searchsorted(packets.sacks.row, rows[bare], side="right")
        sacks = packets.sacks.take(concatenated_ranges(low, high - low))
        blocks = (sacks.left.astype(np.uint64) << np.uint64(32)) | sacks.right
        blocks = (blocks ^ (sacks.index.astype(np.uint64) << np.uint64(61))) * _MIX
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(blocks, dtype=np.uint64)])
        ends = np.cumsum(high - low)
        result[bare] += total[ends] - total[ends - (high - low)]
    return result


def content(packets: Packets, rows: Rows) -> U64:
    """Per row a mix of the first and last captured payload bytes, which hold what numbers and seals QUIC, DNS and RTP packets."""
    starts = np.array(packets.blob.starts, np.int64)
    result = np.zeros(len(rows), np.uint64)
    full = np.flatnonzero(packets.payload_captured[rows] > 0)
    buffer = np.searchsorted(starts, packets.payload_at[rows[full]], side="right") - 1
    weights = _MIX ** np.arange(1, _HEAD_LEN + _TAIL_LEN + 1, dtype=np.uint64)
    for index in np.unique(buffer).tolist():
        mine = full[buffer == index]
        length = packets.payload_captured[rows[mine]].astype(np.int64)[:, None]
        head = np.minimum(np.arange(_HEAD_LEN), length - 1)
        tail = np.maximum(length - 1 - np.arange(_TAIL_LEN), 0)
        at = packets.payload_at[rows[mine]][:, None] - starts[index]
        octets: U8 = packets.blob.buffers[index][at + np.concatenate([head, tail], axis=1)]
        result[mine] = (octets.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64) >> np.uint64(16)
    return result
