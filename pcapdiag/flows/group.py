"""Packets -> flows: which connection a packet belongs to, and which of its ends is the client."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.columns import I32, I64, U8, U16, Bools, Rows
from pcapdiag.flows.conversations import Conversations, blocks, endpoints, find_conversations
from pcapdiag.flows.networks import Networks, Sights, Twins
from pcapdiag.flows.segmented import concatenated_ranges, group_starts
from pcapdiag.packets.table import ACK, FIN, RST, SYN, UDP, Packets
from pcapdiag.spool import WINDOW
from pcapdiag.workers import spread

if TYPE_CHECKING:
    from pcapdiag.spool import Room

_KNOWN_PORT_MAX = 1023
"""System ports (RFC 6335 section 6): whoever uses one serves."""
_LATE_SYN = 1 << 20
"""A SYN captured behind packets of its own connection lies at most a first flight below them."""
_BLOCK_PACKETS = 1 << 16
_NO_ROWS = np.empty(0, np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The packets of some flows, one behind the other; flows are numbered from 0, and some hold no packet of others."""

    rows: Rows
    """Rows of Packets: rows[begin[f]:begin[f]+length[f]] are those of flow f, by time."""
    begin: I64
    length: I64
    flow: I64
    """Flow of each entry of rows."""
    direction: U8
    """0 when the entry's sender is the client."""
    client: I32
    client_port: U16
    server: I32
    server_port: U16
    roles_known: Bools
    proto: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """All flows, by their first packets: rows[begin[f]:begin[f]+length[f]] are the packets of flow f, by time."""

    rows: Rows
    """Rows of Packets, conversation by conversation."""
    begin: I64
    length: I64
    client: I32
    client_port: U16
    server: I32
    server_port: U16
    roles_known: Bools
    proto: U8

    def places(self, flows: I64, most: int | None = None) -> I64:
        """Where in `rows` the packets of some flows are, flow by flow; of each flow at most so many, from the first."""
        length = self.length[flows]
        return concatenated_ranges(self.begin[flows], length if most is None else np.minimum(length, most))

    def from_client(self, packets: Packets, rows: Rows, flow: I64) -> Bools:
        """Which rows of Packets their flow's client sent."""
        client: Bools = (packets.src[rows] == self.client[flow]) & (packets.sport[rows] == self.client_port[flow])
        return client

    def bundle(self, packets: Packets, first: int, stop: int) -> Bundle:
        """The flows [first, stop)."""
        flows = np.arange(first, stop)
        length = self.length[flows]
        rows, flow = self.rows[self.places(flows)], np.repeat(flows, length)
        own = {one.name: getattr(self, one.name)[flows] for one in fields(self) if one.name != "rows"}
        return Bundle(**{
            **own, "rows": rows, "begin": np.cumsum(length) - length, "flow": flow - first,
            "direction": (~self.from_client(packets, rows, flow)).astype(np.uint8),
        })  # fmt: skip


def group_packets(
    packets: Packets,
    aside: Rows = _NO_ROWS,
    twins: Twins | None = None,
    *,
    by_time: bool = True,
    jobs: int = 1,
    room: Room | None = None,
) -> Grouping:
    """Flows of TCP and UDP packets, numbered by their first packet.

    Args:
        packets: the packets.
        aside: rows to leave out, ascending.
        twins: the copies among them; None: equal five-tuples are of one network, whatever is around them.
        by_time: the packets come in the order of time; else in that of the file.
        jobs: how many processes share the work.
        room: where what has a row per packet lies.

    A SYN whose number does not fit the packets before it on its five-tuple opens a new flow (RFC 9293 section 3.6.1).
    """
    found = find_conversations(packets, aside, by_time=by_time, room=room)
    if twins is not None:
        found = _by_network(packets, found, Networks(packets, twins, room), room)
    ends = np.cumsum(found.length)
    edges = [(int(ends[a] - found.length[a]), int(ends[b - 1])) for a, b in blocks(found.length, _BLOCK_PACKETS) if b]
    begins = ends - found.length

    def opened(edge: tuple[int, int]) -> _Opened:
        low, high = np.searchsorted(begins, edge)
        made = _opened(packets, found.rows[slice(*edge)], begins[low:high] - edge[0], edge[0])
        if room is not None:
            room.release()
        return made

    flows = _Opened.joined([*spread(opened, edges, jobs)])
    order = np.lexsort((flows.first_row, flows.first_ns)) if by_time else np.argsort(flows.first_row)
    flows = flows.take(order)
    client, server, known = flows.roles()
    return Grouping(
        rows=found.rows, begin=flows.begin, length=flows.length,
        client=(client >> 16).astype(np.int32), client_port=(client & 0xFFFF).astype(np.uint16),
        server=(server >> 16).astype(np.int32), server_port=(server & 0xFFFF).astype(np.uint16),
        roles_known=known, proto=flows.proto,
    )  # fmt: skip


def _by_network(packets: Packets, found: Conversations, networks: Networks, room: Room | None) -> Conversations:
    """The same, where a conversation between equal endpoints of two networks is two."""
    if networks.path_count == 1:
        return found
    lengths, ends = [np.empty(0, np.int64)], np.cumsum(found.length)
    for first, stop in blocks(found.length, WINDOW):
        length = found.length[first:stop]
        part = slice(int(ends[first] - length[0]), int(ends[stop - 1])) if stop else slice(0, 0)
        rows, number = found.rows[part], np.repeat(np.arange(len(length)), length)
        forth = endpoints(packets.src[rows], packets.sport[rows]) < endpoints(packets.dst[rows], packets.dport[rows])
        network = networks.tell_apart(Sights(rows=rows, tuple_of=number, forth=forth))
        if network is not None:
            order = np.lexsort((network, number))
            found.rows[part] = rows[order]
            length = np.diff(np.flatnonzero(group_starts(number[order]) | group_starts(network[order])), append=len(rows))
        lengths.append(length)
        if room is not None:
            room.release()
    return Conversations(found.rows, np.concatenate(lengths))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """How flows begin."""

    begin: I64
    length: I64
    proto: U8
    first_row: I64
    first_ns: I64
    first: I64
    """Endpoint that spoke first."""
    second: I64
    """The other one."""
    client: I64
    """Endpoint that a SYN or SYN-ACK shows to be the client; -1: neither was seen."""

    def take(self, rows: Rows) -> _Opened:
        """These flows."""
        return _Opened(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})

    @classmethod
    def joined(cls, parts: list[_Opened]) -> _Opened:
        """All of them, part by part."""
        dtypes: dict[str, Any] = {"proto": np.uint8}
        names = [one.name for one in fields(cls)]
        return cls(**{
            name: np.concatenate([np.empty(0, dtypes.get(name, np.int64)), *(getattr(part, name) for part in parts)]) for name in names
        })  # fmt: skip

    def roles(self) -> tuple[I64, I64, Bools]:
        """Client endpoint, server endpoint, and whether that is known, per flow."""
        shaken = self.client >= 0
        turned = shaken & (self.client == self.second)
        client, server = np.where(turned, self.second, self.first), np.where(turned, self.first, self.second)
        swap = ~shaken & _second_serves(client, server, shaken)
        return np.where(swap, server, client), np.where(swap, client, server), shaken | (self.proto == UDP)


def _opened(packets: Packets, rows: Rows, begin: I64, offset: int) -> _Opened:
    """The flows of some conversations, of which `begin` holds the first entries; `offset` is the place of the first in all rows."""
    source = endpoints(packets.src[rows], packets.sport[rows])
    first = np.zeros(len(rows), np.bool_)
    first[begin] = True
    first |= _reopened(packets, rows, source, first)
    begin = np.flatnonzero(first)
    at = rows[begin]
    return _Opened(
        begin=begin + offset, length=np.diff(begin, append=len(rows)), proto=packets.proto[at], first_row=at.astype(np.int64),
        first_ns=packets.ts_ns[at], first=source[begin], second=endpoints(packets.dst[at], packets.dport[at]),
        client=_shaken(packets, rows, begin),
    )  # fmt: skip


def _shaken(packets: Packets, rows: Rows, begin: I64) -> I64:
    """Who sent the first SYN of each flow, or got its first SYN-ACK; -1 for neither."""
    flags, never = packets.flags[rows] & (SYN | ACK), len(rows)
    position = np.arange(never)
    syn_at, syn_ack_at = (np.minimum.reduceat(np.where(flags == kind, position, never), begin) for kind in (SYN, SYN | ACK))
    client = np.full(len(begin), -1)
    for at, address, port in ((syn_ack_at, packets.dst, packets.dport), (syn_at, packets.src, packets.sport)):  # a SYN has the last word
        some = np.flatnonzero(at < never)
        client[some] = endpoints(address[rows[at[some]]], port[rows[at[some]]])
    return client


def _reopened(packets: Packets, rows: Rows, source: I64, first: Bools) -> Bools:
    """True at a SYN of a connection that the packets before it in this conversation do not belong to.

    They do when its sender's last SYN had the same number, or when the packet before it lies close above it: a SYN may
    have been captured late.
    """
    again = np.zeros(len(rows), np.bool_)
    flags = packets.flags[rows]
    syn = (flags & (SYN | ACK | RST | FIN)) == SYN
    at = np.flatnonzero(syn & ~first)
    if not len(at):
        return again
    seq = packets.seq[rows[at]].astype(np.int64)
    own = source[at - 1] == source[at]
    before = np.where(own, packets.seq[rows[at - 1]], packets.ack[rows[at - 1]]).astype(np.int64)
    speaks = own | ((flags[at - 1] & ACK) > 0)
    foreign = speaks & (((before - seq) & 0xFFFFFFFF) > _LATE_SYN)
    again[at[foreign]] = True
    later, same_number = _syn_pairs(packets, rows, source, syn, first)
    again[later] = ~same_number
    return again


def _syn_pairs(packets: Packets, rows: Rows, source: I64, syn: Bools, first: Bools) -> tuple[I64, Bools]:
    """Places of SYNs that follow another of the same conversation and sender, and whether both have the same number."""
    at = np.flatnonzero(syn)
    group, sender, seq = np.cumsum(first)[at], source[at], packets.seq[rows[at]]
    order = np.lexsort((np.arange(len(at)), sender, group))
    follows = (group[order][1:] == group[order][:-1]) & (sender[order][1:] == sender[order][:-1])
    later, earlier = order[1:][follows], order[:-1][follows]
    return at[later], seq[later] == seq[earlier]


def _second_serves(first: I64, second: I64, known: Bools) -> Bools:
    """Without a handshake: does the first sender look like the server? By known servers, system ports, then flows per endpoint."""
    servers = np.unique(second[known])
    first_known, second_known = np.isin(first, servers), np.isin(second, servers)
    ends, counts = np.unique(np.concatenate([first, second]), return_counts=True)
    first_count, second_count = counts[np.searchsorted(ends, first)], counts[np.searchsorted(ends, second)]
    first_port, second_port = first & 0xFFFF, second & 0xFFFF
    score = 8 * (first_known.astype(np.int64) - second_known)
    score += 4 * ((first_port <= _KNOWN_PORT_MAX).astype(np.int64) - (second_port <= _KNOWN_PORT_MAX))
    score += 2 * np.sign(first_count - second_count)
    score += np.sign(second_port - first_port)
    return score > 0
