"""Copies of one packet: what a mirror of both ports, the `any` interface, a bridge or a router shows twice (CAUSES section 10).

A copy keeps what a resend does not: the IP-ID, the timestamp, and nearly the time. Its link-layer addresses, interface
and TTL may be others: it was then seen at another place of its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP, Packets
from pcapdiag.spool import column, portions, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
_CHUNK = 1 << 16
_TABLE_BITS = (12, 20)
_SECOND_LOOK = 0x9E3779B1
_HEAD_LEN, _TAIL_LEN = 24, 8
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Packets that are copies of earlier ones, by time."""

    row: Rows
    """Rows of Packets: the copies."""
    original: Rows
    """Rows of Packets: the first sight of each."""
    routed: Bools
    """Its TTL is lower than that of the sight before it: a router lay between them."""


NO_COPIES = Copies(row=np.empty(0, np.intp), original=np.empty(0, np.intp), routed=np.empty(0, np.bool_))


def find_copies(packets: Packets, order: Order | None = None, room: Room | None = None) -> Copies:
    """All copies; `order` says how packets come by time when that is not how they lie."""
    ts_ns = packets.ts_ns if order is None else order.ts_ns
    alike = candidates(lambda part: _quick_hash(packets, part if order is None else order.rows[part]), ts_ns, ELSEWHERE_NS, room)
    rows = alike if order is None else order.rows[alike]
    twins = [_Twins.of(packets, rows, place, identity) for place, identity in _by_identity(packets, rows, room)]
    habits = _habits(packets, twins, room)
    place, row, original, before = (np.concatenate(column) for column in zip(*(one.copies(packets, habits) for one in twins), strict=True))
    by_time = np.argsort(place)
    return Copies(row=row[by_time], original=original[by_time], routed=packets.ttl[row[by_time]] < packets.ttl[before[by_time]])


def _by_identity(packets: Packets, rows: Rows, room: Room | None) -> Iterator[tuple[Rows, U64]]:
    """Places in `rows` and their identities, equal ones as neighbours, in their order; one portion, or several of many rows."""
    identity = column(len(rows), np.uint64, room)
    for part in windows(len(rows), room):
        identity[part] = _identity(packets, rows[part])
    for portion in portions(identity, room):
        place = portion[np.argsort(identity[portion], kind="stable")]
        yield place, identity[place]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Twins:
    """Candidates, equal ones as neighbours by time, and what each is beside the one before it."""

    place: Rows
    """By time among all candidates."""
    row: Rows
    """In Packets."""
    sure: Bools
    """A copy."""
    elsewhere: Bools
    """A copy in another capture."""
    late: Bools
    """A copy if its capture was made of two."""
    near: Bools
    """A copy if its capture copies often."""

    @classmethod
    def of(cls, packets: Packets, rows: Rows, place: Rows, identity: U64) -> _Twins:
        """Candidates at these places of `rows`, sorted by identity."""
        row, later = rows[place], np.flatnonzero(identity[1:] == identity[:-1]) + 1
        masks = np.zeros((4, len(place)), np.bool_)
        masks[:, later] = _judge(packets, row[later - 1], row[later])
        return cls(place=place, row=row, sure=masks[0], elsewhere=masks[1], late=masks[2], near=masks[3])

    def copies(self, packets: Packets, habits: _Habits) -> tuple[Rows, Rows, Rows, Rows]:
        """Of each copy its place, its row, that of the first sight and that of the sight before."""
        capture = packets.capture[self.row]
        is_copy = self.sure | self.elsewhere | (self.late & np.isin(capture, habits.double)) | (self.near & np.isin(capture, habits.copy))
        first = np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(self.row))))
        at = np.flatnonzero(is_copy)
        return self.place[at], self.row[at], self.row[first[at]], self.row[at - 1]


class _Habits(NamedTuple):
    """Captures that copies are more than an accident of."""

    double: Rows
    """All comes again."""
    copy: Rows
    """Some packets do."""


def _habits(packets: Packets, twins: list[_Twins], room: Room | None) -> _Habits:
    total = np.zeros(1, np.int64)
    for part in windows(len(packets) if any(one.sure.any() or one.late.any() for one in twins) else 0, room):
        counted = np.bincount(packets.capture[part], minlength=len(total))
        counted[: len(total)] += total
        total = counted

    def count(mask_of: Callable[[_Twins], Bools]) -> I64:
        captures = (packets.capture[one.row[mask_of(one)]] for one in twins)
        return sum((np.bincount(mine, minlength=len(total)) for mine in captures), np.zeros(len(total), np.int64))

    late = count(lambda one: one.late)
    double = np.flatnonzero((late > 0) & (late >= _DOUBLED * total))
    sure = count(lambda one: one.sure) + np.where(np.isin(np.arange(len(total)), double), count(lambda one: one.late & ~one.sure), 0)
    return _Habits(double, np.flatnonzero((sure > 0) & (sure >= _HABIT * total)))


def candidates(hash_of: Callable[[slice], U32], ts_ns: I64, within_ns: int, room: Room | None = None) -> Rows:
    """Places that may have an equal hash within that time, and few that have not; ts_ns ascends."""
    found = [np.empty(0, np.intp)]
    begin = reach = 0
    hashes = np.empty(0, np.uint32)
    while begin < len(ts_ns):
        end = min(max(begin + _CHUNK, reach), len(ts_ns))  # at least as many as the look ahead holds: never quadratic
        known, reach = reach, int(np.searchsorted(ts_ns, ts_ns[end - 1] + within_ns, side="right"))
        hashes = np.concatenate([hashes, hash_of(slice(known, reach))])
        suspects = _sharing(hashes)
        found.append(begin + suspects[_sharing(hashes[suspects] * np.uint32(_SECOND_LOOK))])
        hashes = hashes[end - begin :]
        begin = end
        if room is not None:
            room.release()
    return np.unique(np.concatenate(found))


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


def _judge(packets: Packets, earlier: Rows, later: Rows) -> tuple[Bools, Bools, Bools, Bools]:
    """Of pairs with one identity: is the later one a copy, and no resend? The masks of _Twins."""
    apart = packets.ts_ns[later] - packets.ts_ns[earlier]
    here = packets.capture[later] == packets.capture[earlier]
    other_road = (packets.link_hash[later] != packets.link_hash[earlier]) | (packets.ttl[later] != packets.ttl[earlier])
    other_road |= packets.interface[later] != packets.interface[earlier]
    numbered = packets.ip_id[later] != 0
    # Of what is not read the number is all there is, and some stacks begin anew with every socket. Without a number only
    # what a datagram says tells it from others: of those that say nothing all are alike.
    told = np.isin(packets.proto[later], _READ)
    told &= numbered | (packets.proto[later] == TCP) | (packets.payload_captured[later] >= _TAIL_LEN)
    elsewhere = told & ~here & (apart <= ELSEWHERE_NS) & (numbered | packets.has_ts[later])
    here &= told
    stamped = packets.has_ts[later]
    near = here & (apart <= COPY_NS)
    sure = near & (numbered | (other_road & (stamped | (apart <= _TICK_NS))))
    sure |= here & (apart <= _TICK_NS) & stamped & (packets.payload_len[later] > 0)
    # Behind a full queue it comes later, with the number and the stamp it had in front, by another road.
    fall = packets.ttl[earlier].astype(np.int64) - packets.ttl[later]
    queued = (stamped & other_road) | ((fall > 0) & (fall <= _HOPS))
    sure |= here & (apart <= ELSEWHERE_NS) & numbered & queued
    # By the same road it may be a resend of a stack that keeps both; but nobody resends one packet in ten, and ACKs never.
    late = here & (apart <= ELSEWHERE_NS) & stamped & (numbered | (apart > COPY_NS))  # timestamp clocks seldom tick slower
    return sure, elsewhere, late, near


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


def _identity(packets: Packets, rows: Rows) -> U64:
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
