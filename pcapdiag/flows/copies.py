"""Copies of one packet: what a mirror of both ports, the `any` interface, a bridge or a router shows twice (CAUSES section 10).

A copy keeps what a resend does not: the IP-ID, the timestamp, and nearly the time. Its link-layer addresses, interface
and TTL may be others: it was then seen at another place of its way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, U8, U32, U64, Bools, Rows
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP, Packets

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


def find_copies(packets: Packets, order: Rows | None = None) -> Copies:
    """All copies; `order` are the rows of packets by time when they are not in that order."""
    ts_ns = packets.ts_ns if order is None else packets.ts_ns[order]
    hashes = _quick_hash(packets)
    alike = candidates(hashes if order is None else hashes[order], ts_ns, ELSEWHERE_NS)
    rows = alike if order is None else order[alike]
    identity = _identity(packets, rows)
    place = np.argsort(identity, kind="stable")
    rows, identity = rows[place], identity[place]
    same = identity[1:] == identity[:-1]
    is_copy = np.zeros(len(rows), np.bool_)
    is_copy[1:][same] = _judge(packets, rows[:-1][same], rows[1:][same])
    first = np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(rows))))
    at = np.flatnonzero(is_copy)
    back = np.argsort(place[at])  # candidates were by time
    at = at[back]
    return Copies(row=rows[at], original=rows[first[at]], routed=packets.ttl[rows[at]] < packets.ttl[rows[at - 1]])


def candidates(hashes: U32, ts_ns: I64, within_ns: int) -> Rows:
    """Places that may have an equal hash within that time, and few that have not; ts_ns ascends."""
    found = np.zeros(len(hashes), np.bool_)
    begin = reach = 0
    while begin < len(hashes):
        end = min(max(begin + _CHUNK, reach), len(hashes))  # at least as many as the look ahead holds: never quadratic
        reach = int(np.searchsorted(ts_ns, ts_ns[end - 1] + within_ns, side="right"))
        part = hashes[begin:reach]
        suspects = _sharing(part)
        found[begin + suspects[_sharing(part[suspects] * np.uint32(_SECOND_LOOK))]] = True
        begin = end
    return np.flatnonzero(found)


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


def _judge(packets: Packets, earlier: Rows, later: Rows) -> Bools:
    """Of pairs with one identity: is the later one a copy, not a resend?"""
    apart = packets.ts_ns[later] - packets.ts_ns[earlier]
    capture = packets.capture[later]
    here = capture == packets.capture[earlier]
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
    habit = np.bincount(capture[sure], minlength=1) if len(capture) else np.zeros(1, np.int64)
    copying = np.flatnonzero(habit)
    copying = copying[[habit[one] >= _HABIT * int((packets.capture == one).sum()) for one in copying.tolist()]]
    result: Bools = sure | elsewhere | (near & np.isin(capture, copying))
    return result


def _quick_hash(packets: Packets) -> U32:
    """A 32-bit mix of most of a packet's identity, cheap enough for every packet."""
    mixed = packets.seq * np.uint32(0x9E3779B1)
    mixed += packets.ack
    mixed *= np.uint32(0x85EBCA77)
    mixed += packets.ts_val
    mixed *= np.uint32(0xC2B2AE3D)
    mixed += packets.payload_len.view(np.uint32)
    mixed ^= mixed >> np.uint32(15)
    mixed += packets.ip_id
    mixed *= np.uint32(0x27D4EB2F)
    mixed += packets.sport
    mixed += packets.dport
    mixed *= np.uint32(0x9E3779B1)
    mixed ^= packets.window
    mixed += packets.flags
    mixed += packets.frag_offset.view(np.uint32)
    blank = np.flatnonzero((packets.proto != TCP) & (packets.ip_id == 0))
    if len(blank):
        mixed[blank] += content(packets, blank).astype(np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x85EBCA77)
    return mixed


def _identity(packets: Packets, rows: Rows) -> U64:
    """A 64-bit mix of all that a copy keeps and a resend does not."""
    columns = {name: getattr(packets, name)[rows].astype(np.uint64) for name in (
        "src", "dst", "seq", "ack", "sport", "dport", "ts_val", "ip_id", "window", "flags", "proto", "payload_len", "frag_offset",
    )}  # fmt: skip
    c, half = columns, np.uint64(32)
    mixed = np.zeros(len(rows), np.uint64)
    for column in (
        (c["src"] << half) | c["dst"],
        (c["seq"] << half) | c["ack"],
        (c["sport"] << np.uint64(48)) | (c["dport"] << half) | c["ts_val"],
        (c["ip_id"] << np.uint64(48)) | (c["window"] << half) | (c["flags"] << np.uint64(24)) | c["proto"],
        (c["payload_len"] << half) | c["frag_offset"],
        _said(packets, rows),
    ):
        mixed ^= column
        mixed *= _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _said(packets: Packets, rows: Rows) -> U64:
    """Some bytes of what datagrams say, whose numbers may all be one; the SACK blocks of TCP packets without a number."""
    result = np.zeros(len(rows), np.uint64)
    other = np.flatnonzero(packets.proto[rows] != TCP)
    if len(other):
        result[other] = content(packets, rows[other])
    bare = packets.ip_id[rows] == 0
    if len(packets.sacks) and bare.any():
        blocks = (packets.sacks.left.astype(np.uint64) << np.uint64(32)) | packets.sacks.right
        blocks = (blocks ^ (packets.sacks.index.astype(np.uint64) << np.uint64(61))) * _MIX
        low, high = np.searchsorted(packets.sacks.row, rows), np.searchsorted(packets.sacks.row, rows, side="right")
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(blocks, dtype=np.uint64)])
        result += np.where(bare, total[high] - total[low], np.uint64(0))
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
