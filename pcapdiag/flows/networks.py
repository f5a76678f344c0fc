"""Equal five-tuples inside different tunnels: two connections of two networks, or one connection that was seen in both?

Tenants choose addresses without asking each other (RFC 7348 section 3), so a network identifier can be all that differs.
It may differ within one connection too: mirror sessions and some overlays number the directions apart, a route moves from
one tunnel to another, a router's mirror shows both of its sides. What the packets say decides. A connection goes on
where it was, whatever is around it: its sequence and acknowledgment numbers in one tunnel lie near those seen just before
in the other (RFC 9293 section 3.4), while those of two connections begin anywhere in 2^32. Datagrams have no such numbers: they are
of two networks where each tunnel shows questions and answers at the same time, and none of them is a copy of the other's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from pcapdiag.columns import I64, Bools, Rows
from pcapdiag.flows.segmented import group_starts, last_index_where
from pcapdiag.packets.distinct import first_equal, firsts_of
from pcapdiag.packets.table import ACK, RST, TCP, Packets
from pcapdiag.spool import Room, windows

_NEAR: Final = 1 << 26
"""64 MiB: more than a flight and what a capture misses of one; two random positions in both streams lie so near once in a thousand."""
_MOST: Final = 16
"""Tunnels that are told apart within one five-tuple; those beyond are taken for the last of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """Packets of some five-tuples, tuple after tuple, by time within each."""

    rows: Rows
    """Rows of Packets."""
    tuple_of: I64
    """Number of each one's five-tuple, ascending."""
    forth: Bools
    """Sent by the lower endpoint."""


_Pair = tuple[int, int, int]
"""A five-tuple and two places in the list of its tunnels, the lower first."""


class Twins(NamedTuple):
    """Packets that were seen more than once."""

    copies: Rows
    """Rows of Packets."""
    originals: Rows
    """The first sight of each of them."""


class Networks:
    """The networks of one analysis' packets."""

    __slots__ = ("_moved", "_packets", "_paths")

    def __init__(self, packets: Packets, twins: Twins, room: Room | None = None) -> None:
        self._packets = packets
        known: dict[tuple[str, ...], int] = {}
        self._paths = np.array([known.setdefault(tunnel.path, len(known)) for tunnel in packets.tunnels], np.int64)
        """Per tunnel a number of its labels: tunnels may differ in length alone."""
        self._moved = self._seen_in_two(twins, room)
        """Lower endpoint, higher endpoint and two paths that showed one packet between them."""

    @property
    def path_count(self) -> int:
        """How many stacks of labels there are around packets, none at all among them."""
        return int(self._paths.max()) + 1

    def tell_apart(self, sights: Sights) -> I64 | None:
        """A number for the network of each sight, the same within a connection; None: no tuple has two."""
        path = self._paths[self._packets.tunnel[sights.rows]]
        first = group_starts(sights.tuple_of)
        switches = (path[1:] != path[:-1]) & ~first[1:]
        if not switches.any():
            return None
        some = np.flatnonzero(np.isin(sights.tuple_of, np.unique(sights.tuple_of[1:][switches])))
        mixed = Sights(rows=sights.rows[some], tuple_of=sights.tuple_of[some], forth=sights.forth[some])
        place = _places(mixed, path[some])
        apart, together = _by_numbers(self._packets, mixed, place)
        apart |= _by_datagrams(self._packets, mixed, place)
        if not apart:
            return None
        together |= self._by_copies(mixed, place, path[some])
        network = np.zeros(len(sights.rows), np.int64)
        network[some] = _networks(mixed, place, apart - together, together)
        return network if network.any() else None

    def _seen_in_two(self, twins: Twins, room: Room | None) -> I64:
        found = np.empty((0, 4), np.uint64)
        for part in windows(len(twins.copies) if self.path_count > 1 else 0, room):
            copies = twins.copies[part]
            of_copy, of_original = (self._paths[self._packets.tunnel[rows]] for rows in (copies, twins.originals[part]))
            moved = of_copy != of_original
            ends = np.column_stack([_ends(self._packets, copies[moved]), of_copy[moved], of_original[moved]]).astype(np.uint64)
            found = np.concatenate([found, ends])
            found = found[firsts_of(first_equal(found))]
        return found.astype(np.int64)

    def _by_copies(self, sights: Sights, place: I64, path: I64) -> set[_Pair]:
        """Pairs of tunnels that showed one packet: they show one connection."""
        lead = np.unique(sights.tuple_of * _MOST + place, return_index=True)[1]
        keys = np.column_stack([_ends(self._packets, sights.rows[lead]), path[lead]])
        columns = (keys.tolist(), sights.tuple_of[lead].tolist(), place[lead].tolist())
        known = {tuple(key): (number, at) for key, number, at in zip(*columns, strict=True)}
        mine = self._moved[np.isin(self._moved[:, 0], keys[:, 0])]
        found: set[_Pair] = set()
        for low, high, *both in mine.tolist():
            one, other = (known.get((low, high, path)) for path in both)
            if one is not None and other is not None:
                found.add((one[0], min(one[1], other[1]), max(one[1], other[1])))
        return found


def _places(sights: Sights, path: I64) -> I64:
    """Place of each sight's path in the list of those its tuple has."""
    keys, inverse = np.unique((sights.tuple_of << 32) | path, return_inverse=True)
    of_tuple = group_starts(keys >> 32)
    begin = np.maximum.accumulate(np.where(of_tuple, np.arange(len(keys)), 0))
    places: I64 = np.minimum(np.arange(len(keys)) - begin, _MOST - 1)[inverse]
    return places


def _by_numbers(packets: Packets, sights: Sights, place: I64) -> tuple[set[_Pair], set[_Pair]]:
    """Of TCP: which pairs of tunnels show two connections, and which one."""
    rows, flags = sights.rows, packets.flags[sights.rows]
    is_tcp = packets.proto[rows] == TCP
    has_ack = is_tcp & (flags & ACK != 0)
    has_seq = is_tcp & ~(has_ack & (flags & RST != 0))  # what refuses a connection has no number of its own
    seq, ack = packets.seq[rows].astype(np.int64), packets.ack[rows].astype(np.int64)
    # The position in both streams, whoever speaks.
    own, other = np.where(sights.forth, seq, ack), np.where(sights.forth, ack, seq)
    knows = np.where(sights.forth, has_seq, has_ack), np.where(sights.forth, has_ack, has_seq)
    first = group_starts(sights.tuple_of)
    far, near = defaultdict[_Pair, int](int), defaultdict[_Pair, int](int)
    for one in range(int(place.max(initial=-1)) + 1):
        before = last_index_where((place == one) & is_tcp, first)
        now = np.flatnonzero((place != one) & is_tcp & (before >= 0))
        # Only the next packet of each: of a connection that has moved on, the later ones are far from where it was.
        now = now[np.unique(before[now] * _MOST + place[now], return_index=True)[1]]
        before = before[now]
        both = [known[now] & known[before] for known in knows]
        close = [~known | (_distance(at[now], at[before]) < _NEAR) for at, known in zip((own, other), both, strict=True)]
        told, is_near = both[0] | both[1], close[0] & close[1]
        for count, mask in ((near, told & is_near), (far, told & ~is_near)):
            for pair, times in _counted(sights.tuple_of[now[mask]], place[now[mask]], one):
                count[pair] += times
    return {pair for pair, times in far.items() if times > near[pair]}, {
        pair for pair, times in near.items() if times >= far[pair] and times
    }


def _distance(one: I64, other: I64) -> I64:
    ahead = (one - other) & 0xFFFFFFFF
    either_way: I64 = np.minimum(ahead, (1 << 32) - ahead)
    return either_way


def _counted(tuple_of: I64, place: I64, one: int) -> Iterator[tuple[_Pair, int]]:
    """How often each pair occurs."""
    low, high = np.minimum(place, one), np.maximum(place, one)
    keys, times = np.unique((tuple_of * _MOST + low) * _MOST + high, return_counts=True)
    for key, count in zip(keys.tolist(), times.tolist(), strict=True):
        yield (key // _MOST**2, key // _MOST % _MOST, key % _MOST), count


def _by_datagrams(packets: Packets, sights: Sights, place: I64) -> set[_Pair]:
    """Of UDP: pairs of tunnels of one kind, both with questions and answers, whose times overlap."""
    some = np.flatnonzero(packets.proto[sights.rows] != TCP)
    found: set[_Pair] = set()
    if not len(some):
        return found
    order = some[np.argsort(sights.tuple_of[some] * _MOST + place[some], kind="stable")]
    begin = np.flatnonzero(group_starts(sights.tuple_of[order] * _MOST + place[order]))
    stop = np.append(begin[1:], len(order))
    kinds = [tuple(label.partition(" ")[0] for label in tunnel.path) for tunnel in packets.tunnels]
    of_tuple = defaultdict[int, list[tuple[int, tuple[str, ...], int, int]]](list)
    for low, high in zip(begin.tolist(), stop.tolist(), strict=True):
        mine = order[low:high]
        forth = sights.forth[mine]
        if forth.any() and not forth.all():
            rows = sights.rows[mine]
            times = packets.ts_ns[rows]
            kind = kinds[int(packets.tunnel[rows[0]])]
            of_tuple[int(sights.tuple_of[mine[0]])].append((int(place[mine[0]]), kind, int(times[0]), int(times[-1])))
    for number, tunnels in of_tuple.items():
        for at, (one, kind, begins, ends) in enumerate(tunnels):
            for other, its_kind, its_begin, its_end in tunnels[at + 1 :]:
                if kind == its_kind and begins < its_end and its_begin < ends:
                    found.add((number, one, other))
    return found


def _ends(packets: Packets, rows: Rows) -> I64:
    """The lower and the higher endpoint, the protocol with the latter."""
    one = packets.src[rows].astype(np.int64) << 16 | packets.sport[rows]
    other = packets.dst[rows].astype(np.int64) << 16 | packets.dport[rows]
    ends: I64 = np.stack([np.minimum(one, other), np.maximum(one, other) << 8 | packets.proto[rows]], axis=1)
    return ends


def _networks(sights: Sights, place: I64, apart: set[_Pair], together: set[_Pair]) -> I64:
    """The lowest tunnel of each sight's network, in tuples where some are apart; else 0."""
    result = np.zeros(len(place), np.int64)
    joins = defaultdict[int, list[tuple[int, int]]](list)
    for number, one, other in together:
        joins[number].append((one, other))
    for number in {number for number, _, _ in apart}:
        low, high = np.searchsorted(sights.tuple_of, [number, number + 1])
        root = np.arange(_MOST)
        for one, other in sorted(joins[number]):
            root[root == root[other]] = root[one]
        result[low:high] = root[place[low:high]]
    return result
