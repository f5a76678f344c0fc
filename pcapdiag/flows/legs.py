"""Both sides of an address translation in one capture: two flows that are one connection.

The translator changes addresses and ports and nothing else: sequence and acknowledgment numbers, timestamps, and nearly
always the IP-ID stay, the TTL falls by a hop, and every packet comes out within milliseconds. A proxy opens a connection
with numbers of its own and is none. Single coincidences link nothing: most of the packets compared must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I32, I64, NEVER, U16, U64, Bools, Rows
from pcapdiag.flows.copies import COPY_NS, ELSEWHERE_NS, content
from pcapdiag.flows.group import Grouping
from pcapdiag.flows.table import NatLegs
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import CWR, ECE, TCP, UDP, Packets

_KEYS = 4
"""Packets at the beginning of each flow by which its other leg is looked for: one of them may be missing."""
_PRINTS = 64
"""Packets at the beginning of two flows that are compared."""
_LEAST_TCP, _LEAST_UDP = 3, 2
_SHARE = 0.8
"""Of the packets that both could show, so many must be the same."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Pairs of flows of a Grouping that are one connection."""

    near: I64
    """The flow nearer the client."""
    far: I64
    compared: I64
    matched: I64
    delay_ns: I64


_NONE = np.empty(0, np.int64)
NO_LINK = Link(near=_NONE, far=_NONE, compared=_NONE, matched=_NONE, delay_ns=_NONE)


def link_legs(packets: Packets, grouping: Grouping) -> Link:
    """Finds the legs: first by a few packets of each flow, then packet by packet."""
    one, other = _pairs(packets, grouping)
    return _confirm(packets, grouping, one, other)


def rows_of_legs(grouping: Grouping, link: Link) -> Iterator[Rows]:
    """Rows of Packets of the farther legs, leg by leg."""
    for begin, length in zip(grouping.begin[link.far].tolist(), grouping.length[link.far].tolist(), strict=True):
        yield grouping.rows[begin : begin + length]


def legs_of(packets: Packets, before: Grouping, link: Link, flow_of_row: I32) -> NatLegs:
    """The table of legs; `flow_of_row` names the flows after the farther legs were set aside."""
    near = dict(zip(link.far.tolist(), link.near.tolist(), strict=True))

    def root(flow: int) -> int:
        return root(near[flow]) if flow in near else flow

    roots = np.array([root(flow) for flow in link.far.tolist()], np.int64)
    first_row = before.rows[before.begin[link.far]]
    return NatLegs(
        flow=flow_of_row[before.rows[before.begin[roots]]].astype(np.int64), capture=packets.capture[first_row],
        client=before.client[link.far], client_port=before.client_port[link.far], server=before.server[link.far],
        server_port=before.server_port[link.far], compared=link.compared, matched=link.matched,
        packet_count=before.length[link.far], delay_ns=link.delay_ns,
    )  # fmt: skip


def _pairs(packets: Packets, grouping: Grouping) -> tuple[I64, I64]:
    """Pairs of flows with other endpoints that share one of their first packets, nearly at the same time."""
    flows = np.arange(len(grouping.begin))
    flow, rows = np.repeat(flows, np.minimum(grouping.length, _KEYS)), grouping.rows[grouping.places(flows, _KEYS)]
    prints = _print(packets, rows)
    order = np.lexsort((packets.ts_ns[rows], prints))
    alike = np.flatnonzero(prints[order[1:]] == prints[order[:-1]])
    first, second = order[alike], order[alike + 1]
    apart = packets.ts_ns[rows[second]] - packets.ts_ns[rows[first]]
    # The numbers of two TCP connections are never the same; datagrams that say the same are many.
    strict = (packets.capture[rows[first]] == packets.capture[rows[second]]) & (packets.proto[rows[first]] != TCP)
    near = apart <= np.where(strict, COPY_NS, ELSEWHERE_NS)
    one, other = flow[first[near]], flow[second[near]]
    one, other = np.minimum(one, other), np.maximum(one, other)
    unlike = (one != other) & (grouping.proto[one] == grouping.proto[other])
    # Some host must have another name; a client's connections to one server differ in ports alone and are many.
    unlike &= _hosts(grouping, one) != _hosts(grouping, other)
    pairs = np.unique((one[unlike] << 32) | other[unlike])
    return pairs >> 32, pairs & 0xFFFFFFFF


def _hosts(grouping: Grouping, flows: I64) -> I64:
    """A number for the two addresses of flows, whoever opened them."""
    client, server = grouping.client[flows].astype(np.int64), grouping.server[flows].astype(np.int64)
    return (np.minimum(client, server) << 32) | np.maximum(client, server)


def _print(packets: Packets, rows: Rows) -> U64:
    """A mix of what a translator leaves alone. Of UDP: length and content."""
    flags = packets.flags[rows] & ~np.uint8(ECE | CWR)
    half = np.uint64(32)
    prints = mixed(
        (packets.seq[rows].astype(np.uint64) << half) | packets.ack[rows],
        (packets.ts_val[rows].astype(np.uint64) << half) | packets.ts_ecr[rows],
        (packets.payload_len[rows].astype(np.uint64) << half) | (flags.astype(np.uint64) << np.uint64(8)) | packets.proto[rows],
    )
    datagrams = np.flatnonzero(packets.proto[rows] == UDP)
    if len(datagrams):
        prints[datagrams] ^= content(packets, rows[datagrams])
    return prints


def _confirm(packets: Packets, grouping: Grouping, one: I64, other: I64) -> Link:
    """Of the pairs those whose beginnings agree packet by packet."""
    a, b = _Beginning.of(packets, grouping, one), _Beginning.of(packets, grouping, other)
    a_at, b_at = a.common(b)
    apart = b.ts_ns[b_at] - a.ts_ns[a_at]
    near = np.abs(apart) <= ELSEWHERE_NS
    a_at, b_at, apart = a_at[near], b_at[near], apart[near]
    upward = grouping.from_client(packets, grouping.rows[a.place[a_at]], one[a.pair[a_at]])
    count = len(one)
    here = _capture_of(packets, grouping, one) == _capture_of(packets, grouping, other)
    clocks_ns = np.where(here & (grouping.proto[one] == TCP), _between_clocks(a.pair[a_at], apart, upward, count), 0)
    within = np.where(here, COPY_NS, ELSEWHERE_NS)
    apart -= clocks_ns[a.pair[a_at]]
    near = np.abs(apart) <= within[a.pair[a_at]]
    a_at, b_at, apart, upward = a_at[near], b_at[near], apart[near], upward[near]
    pair = a.pair[a_at]
    matched = np.bincount(pair, minlength=count)
    compared = np.minimum(a.beside(b, within, clocks_ns), b.beside(a, within, -clocks_ns))
    # The client's packets pass its own side first, the server's pass it last.
    lag = np.sign(np.where(upward, apart, -apart))
    lead = np.bincount(pair, weights=lag, minlength=count)
    good = (matched >= np.where(grouping.proto[one] == TCP, _LEAST_TCP, _LEAST_UDP)) & (matched >= _SHARE * compared)
    good &= np.abs(lead) >= _SHARE * np.bincount(pair, weights=lag != 0, minlength=count)
    good &= _only_translated(packets, grouping.rows[a.place[a_at]], grouping.rows[b.place[b_at]], apart, pair, count)
    keep = np.flatnonzero(good)
    far, index = np.unique(np.where(lead >= 0, other, one)[keep], return_index=True)
    keep = keep[index]
    delay = np.array([np.median(np.abs(apart[pair == at])) for at in keep.tolist()], np.int64)
    return Link(near=np.where(lead >= 0, one, other)[keep], far=far, compared=compared[keep], matched=matched[keep], delay_ns=delay)


def _between_clocks(pair: I64, apart: I64, upward: Bools, count: int) -> I64:
    """Per pair: how far the clock of the second leg is ahead, 0 where one direction alone was matched.

    Nothing takes less than no time from one leg to the other: it lies between the quickest packets of both directions.
    """
    least, most = np.full((2, count), NEVER), np.full((2, count), -NEVER)
    way = upward.astype(np.intp)
    np.minimum.at(least, (way, pair), apart)
    np.maximum.at(most, (way, pair), apart)
    both = (least < NEVER).all(axis=0)
    one_first = least[1] - most[0] >= least[0] - most[1]  # the client's packets come to the first leg first, or to the second
    clocks_ns: I64 = np.where(one_first, least[1] // 2 + most[0] // 2, most[1] // 2 + least[0] // 2)
    return np.where(both, clocks_ns, 0)


def _capture_of(packets: Packets, grouping: Grouping, flows: I64) -> U16:
    """Capture of the first packets of flows."""
    captures: U16 = packets.capture[grouping.rows[grouping.begin[flows]]]
    return captures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """The first packets of one flow of each pair, pair by pair, by time."""

    pair: I64
    place: Rows
    """Entry of Grouping."""
    ts_ns: I64
    prints: U64
    begin: I64
    """First entry of each pair."""
    length: I64

    @classmethod
    def of(cls, packets: Packets, grouping: Grouping, flows: I64) -> _Beginning:
        length, place = np.minimum(grouping.length[flows], _PRINTS), grouping.places(flows, _PRINTS)
        rows = grouping.rows[place]
        return cls(
            pair=np.repeat(np.arange(len(flows)), length), place=place, ts_ns=packets.ts_ns[rows], prints=_print(packets, rows),
            begin=np.cumsum(length) - length, length=length,
        )  # fmt: skip

    def common(self, other: _Beginning) -> tuple[Rows, Rows]:
        """Entries of both with equal prints in the same pair; the first of each print."""
        keys = [side.prints ^ ((side.pair.astype(np.uint64) + np.uint64(1)) * _MIX) for side in (self, other)]
        firsts = [np.unique(key, return_index=True)[1] for key in keys]
        _, a, b = np.intersect1d(keys[0][firsts[0]], keys[1][firsts[1]], assume_unique=True, return_indices=True)
        return firsts[0][a], firsts[1][b]

    def beside(self, other: _Beginning, within: I64, clocks_ns: I64) -> I64:
        """Per pair: how many entries lie in the time that the other side covers, whose clock is that far ahead."""
        low = other.ts_ns[other.begin] - clocks_ns - within
        high = other.ts_ns[other.begin + other.length - 1] - clocks_ns + within
        inside = (self.ts_ns >= low[self.pair]) & (self.ts_ns <= high[self.pair])
        return np.bincount(self.pair, weights=inside, minlength=len(self.begin)).astype(np.int64)


def _only_translated(packets: Packets, rows: Rows, twins: Rows, apart: I64, pair: I64, count: int) -> Bools:
    """Per pair: do TTLs fall along the way, and are the IP-IDs the same (or rewritten on packets that nothing else could be)?

    `apart` is how much later each twin came.
    """

    def share(holds: Bools) -> npt.NDArray[np.float64]:
        total = np.bincount(pair, minlength=count)
        return np.bincount(pair, weights=holds, minlength=count) / np.maximum(total, 1)

    fall = packets.ttl[rows].astype(np.int64) - packets.ttl[twins]
    fall = np.where(apart >= 0, fall, -fall)
    elsewhere = packets.capture[rows] != packets.capture[twins]
    same_time = apart == 0
    routed = share((fall >= 0) | elsewhere | same_time) >= _SHARE
    other_road = (fall != 0) | (packets.link_hash[rows] != packets.link_hash[twins]) | (packets.interface[rows] != packets.interface[twins])
    routed &= share(other_road | elsewhere) >= _SHARE
    numbered = (packets.ip_id[rows] != 0) & (packets.ip_id[twins] != 0)
    same_id = share(numbered & (packets.ip_id[rows] == packets.ip_id[twins])) >= _SHARE
    is_tcp = share(packets.proto[rows] == TCP) > 0
    plain_tcp = is_tcp & ((share(packets.has_ts[rows]) >= _SHARE) | (np.bincount(pair, minlength=count) >= 2 * _LEAST_TCP))
    unnumbered_udp = ~is_tcp & (share(~numbered) == 1) & (share(fall > 0) == 1)
    result: Bools = routed & (same_id | plain_tcp | unnumbered_udp)
    return result
