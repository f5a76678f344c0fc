"""One connection in several captures: it is analysed as one of them saw it.

Two taps on one path have two clocks and stand at two places: what is read out of a mixture of both happened nowhere.
Where each capture holds one direction only, or one goes on where another ended, there is nothing to choose.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.flows.conversations import blocks, endpoints, find_conversations
from pcapdiag.flows.copies import identity
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import group_starts
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import ACK, SYN, TCP
from pcapdiag.spool import WINDOW, mask_of, rows_where, windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import F64, I64, U64, Bools, Rows
    from pcapdiag.flows.conversations import Conversations
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room

_LEAST_SHARED: Final = 3
"""So many packets no resend explains; of a shorter connection half must say by number or stamp that they are the same."""
_SHARE: Final = 0.2
"""Of a connection's packets that two captures have in common; fewer are one packet where offload cuts them otherwise at each end."""
_ENOUGH: Final = 0.75
"""The capture that shows most of all is taken if it holds so much of what the best one holds of a connection, and cut little of it
off; of equals the one nearest to the clients, where the whole wait of a request shows."""
_ETHERNET_MSS: Final = 1_460
"""1,500 bytes less the headers of IPv4 and TCP."""
_INSTANT_NS: Final = 1_000
"""Two taps see no packet at the same microsecond; files of one tap may tell nanoseconds, or not."""
_NOTHING: Final = np.empty(0, np.intp)


def second_views(packets: Packets, capture_count: int, room: Room | None = None) -> Rows:
    """Rows of packets of connections that another capture shows better, ascending."""
    if capture_count < 2:
        return _NOTHING
    found = find_conversations(packets, _NOTHING, by_time=False, room=room)
    views = _Views.joined([_Views.of(packets, rows, group) for rows, group in _conversations(found, room)])
    second = views.second()
    if not second.any():
        return _NOTHING
    keys = key(views.group[second], views.capture[second])
    gone = mask_of((), len(packets), room)
    for rows, group in _conversations(found, room):
        gone[rows[np.isin(key(group, packets.capture[rows].astype(np.int64)), keys)]] = True
    _add_fragments(packets, gone, room)
    return rows_where(len(packets), lambda part: gone[part], room)


def _conversations(found: Conversations, room: Room | None) -> Iterator[tuple[Rows, I64]]:
    """Rows of Packets of some conversations, and the number of each one's conversation."""
    ends = np.cumsum(found.length)
    for first, stop in blocks(found.length, WINDOW):
        length = found.length[first:stop]
        if len(length):
            yield found.rows[int(ends[first] - length[0]) : int(ends[stop - 1])], np.repeat(np.arange(first, stop), length)
        if room is not None:
            room.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Views:
    """What each capture holds of the connections that several of them hold, by connection, then capture."""

    group: I64
    """The connection's number."""
    capture: I64
    count: I64
    """Packets of it."""
    shown: I64
    """Packets that passed its tap on the wire: each once, super-segments as the packets they are made of."""
    said: I64
    """Bytes of payload in all of them."""
    held: I64
    """Of these: those that it kept."""
    shared: I64
    """Of them: those that another capture holds, too."""
    told: I64
    """Of these: those that a number or a stamp tells from resends."""
    at_once: I64
    """Of these: those that have the same time in both."""
    lead_ns: I64
    """How much later on average the shared packets of the server come than those of the client: most at the tap nearest to the client,
    whatever the clocks say, for all of them saw the same packets."""

    @classmethod
    def of(cls, packets: Packets, rows: Rows, group: I64) -> _Views:
        """Of some connections, one behind the other."""
        begin = np.flatnonzero(group_starts(group))
        capture = packets.capture[rows].astype(np.int64)
        several = np.minimum.reduceat(capture, begin) != np.maximum.reduceat(capture, begin)
        kept = np.flatnonzero(np.repeat(several, np.diff(begin, append=len(rows))))
        rows, group, capture = rows[kept], group[kept], capture[kept]
        shared, at_once, again = _shared(packets, rows, capture)
        payload = packets.payload_len[rows].astype(np.int64)
        in_one = np.where(packets.proto[rows] == TCP, np.maximum(-(-payload // _ETHERNET_MSS), 1), 1)
        shown, held = np.where(again, 0, in_one), packets.payload_captured[rows]
        told = shared & ((packets.ip_id[rows] != 0) | packets.has_ts[rows])
        keys, of = np.unique(np.stack([group, capture]), axis=1, return_inverse=True)
        of = of.reshape(-1)
        counts = [
            np.bincount(of, weights=weights, minlength=keys.shape[1]).astype(np.int64)
            for weights in (None, shown, payload, held, shared, told, at_once)
        ]
        lead_ns = _lead_ns(packets.ts_ns[rows], shared, _from_client(packets, rows, group), of, keys.shape[1])
        return cls(**dict(zip((one.name for one in fields(cls)), (*keys, *counts, lead_ns), strict=True)))

    @classmethod
    def joined(cls, parts: list[_Views]) -> _Views:
        """All of them, part by part."""
        return cls(**{
            one.name: np.concatenate([np.empty(0, np.int64), *(getattr(part, one.name) for part in parts)]) for one in fields(cls)
        })  # fmt: skip

    def second(self) -> Bools:
        """Which of them are not analysed."""
        same = (self.shared >= _LEAST_SHARED) & (self.shared >= _SHARE * self.count)
        same |= (self.told > 0) & (2 * self.told >= self.count)
        same &= 2 * self.at_once < self.shared  # else one tap, whose files overlap: what only one of them holds is wanted too
        begins = group_starts(self.group)
        group = np.cumsum(begins) - 1
        same &= (np.bincount(group, weights=same) > 1)[group]  # where one stands alone there is nothing to choose
        rank = np.bincount(self.capture[same], weights=self.shown[same], minlength=int(self.capture.max(initial=0)) + 1)  # who shows most
        best = np.zeros(int(begins.sum()), np.int64)
        np.maximum.at(best, group[same], self.shown[same])
        enough = same & (self.shown >= _ENOUGH * best[group])
        worth = np.where(enough, 1 + rank[self.capture], 0)
        whole = enough & (self.held >= _ENOUGH * self.said)  # else cut by a snaplen
        order = np.lexsort((self.capture, -self._nearness(same, group)[self.capture], -worth, ~whole, group))
        second: Bools = same.copy()
        second[order[group_starts(group[order])]] = False
        return second | self._remnants(same, group)

    def _remnants(self, same: Bools, group: I64) -> Bools:
        """What a capture that lost packets holds of connections of which another one, which sees what it sees, holds that and more."""
        known = np.zeros(int(self.capture.max(initial=0)) + 1, np.bool_)
        known[self.capture[same]] = True
        found = ~np.isin(group, group[same]) & known[self.capture] & (self.shared == self.count) & (2 * self.at_once < self.shared)
        remnants: Bools = found & np.isin(group, group[~found])
        return remnants

    def _nearness(self, same: Bools, group: I64) -> F64:
        """Per capture how much nearer to the clients it was taken than the others that hold the same connections."""
        weight = np.where(same, self.shared, 0)
        mean_ns = np.bincount(group, weights=weight * self.lead_ns) / np.maximum(np.bincount(group, weights=weight), 1)
        return np.bincount(self.capture, weights=weight * (self.lead_ns - mean_ns[group])).astype(np.float64)


def _from_client(packets: Packets, rows: Rows, group: I64) -> Bools:
    """Which packets of some connections, one behind the other, the client sent: who sent a SYN, else who has the higher port."""
    begin = np.flatnonzero(group_starts(group))
    if not len(begin):
        return np.empty(0, np.bool_)
    flags = packets.flags[rows] & (SYN | ACK)
    ends = [endpoints(packets.src[rows], packets.sport[rows]), endpoints(packets.dst[rows], packets.dport[rows])]
    client = np.where(flags == SYN, ends[0], np.where(flags == (SYN | ACK), ends[1], -1))
    client = np.maximum.reduceat(client, begin)
    higher = np.where(packets.sport[rows] > packets.dport[rows], *ends)[begin]
    client = np.where(client < 0, higher, client)
    mine: Bools = ends[0] == np.repeat(client, np.diff(begin, append=len(rows)))
    return mine


def _lead_ns(ts_ns: I64, shared: Bools, from_client: Bools, of: Rows, count: int) -> I64:
    """Of each view the mean time of the shared packets from the server, minus that of the client's; 0 when one has none."""
    begin_ns = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(begin_ns, of, ts_ns)
    at_ns = ts_ns - begin_ns[of]
    some = [np.bincount(of, weights=mine, minlength=count) for mine in (shared & from_client, shared & ~from_client)]
    sums = [np.bincount(of, weights=at_ns * mine, minlength=count) for mine in (shared & from_client, shared & ~from_client)]
    client, server = (total / np.maximum(number, 1) for total, number in zip(sums, some, strict=True))
    return np.where((some[0] > 0) & (some[1] > 0), server - client, 0).astype(np.int64)


def _shared(packets: Packets, rows: Rows, capture: I64) -> tuple[Bools, Bools, Bools]:
    """Which packets another capture holds too, which of these at the same instant, and which the same one held before."""
    _, of = np.unique(identity(packets, rows), return_inverse=True)
    low, high = (np.full(int(of.max(initial=-1)) + 1, end) for end in (np.iinfo(np.int64).max, -1))
    first_ns, last_ns = low.copy(), high.copy()
    for least, most, values in ((low, high, capture), (first_ns, last_ns, packets.ts_ns[rows])):
        np.minimum.at(least, of, values)
        np.maximum.at(most, of, values)
    shared = low < high
    order = np.lexsort((capture, of))
    again = np.zeros(len(rows), np.bool_)
    again[order[1:]] = (of[order[1:]] == of[order[:-1]]) & (capture[order[1:]] == capture[order[:-1]])
    return shared[of], (shared & (last_ns - first_ns <= _INSTANT_NS))[of], again


def _add_fragments(packets: Packets, gone: Bools, room: Room | None) -> None:
    """Adds the other fragments of those packets, which name no ports."""

    def datagram(rows: Rows) -> U64:
        return mixed(*(getattr(packets, name)[rows] for name in ("src", "dst", "ip_id", "capture")))

    first = rows_where(len(packets), lambda part: gone[part] & packets.more_fragments[part], room)
    if len(first):
        wanted = np.unique(datagram(first))
        rest = rows_where(len(packets), lambda part: packets.frag_offset[part] > 0, room)
        for part in windows(len(rest), room):
            mine = rest[part]
            gone[mine[np.isin(datagram(mine), wanted)]] = True
