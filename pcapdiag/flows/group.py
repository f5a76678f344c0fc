"""Packets -> flows: which connection a packet belongs to, and which of its ends is the client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pcapdiag.columns import I32, I64, U8, U16, Bools, Rows
from pcapdiag.flows.segmented import concatenated_ranges, group_starts
from pcapdiag.packets.table import ACK, FIN, RST, SYN, TCP, UDP, Packets

_KNOWN_PORT_MAX = 1023
"""System ports (RFC 6335 section 6): whoever uses one serves."""


_LATE_SYN = 1 << 20
"""A SYN captured behind packets of its own connection lies at most a first flight below them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Packets in flow order: rows[begin[f]:begin[f]+length[f]] are those of flow f, by time."""

    rows: Rows
    """Rows of Packets."""
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

    def parts(self, packet_count: int) -> Iterator[Part]:
        """The flows in blocks of about that many packets, numbered from 0 in each; a flow is never split, no flows are one block."""
        if not len(self.begin):
            yield Part(0, 0, self)
        ends = np.cumsum(self.length)
        first = 0
        while first < len(ends):
            begin = int(self.begin[first])
            stop = max(first + 1, int(np.searchsorted(ends, begin + packet_count, side="right")))
            flows, rows = slice(first, stop), slice(begin, int(ends[stop - 1]))
            yield Part(first, begin, Grouping(
                rows=self.rows[rows], begin=self.begin[flows] - begin, length=self.length[flows], flow=self.flow[rows] - first,
                direction=self.direction[rows], client=self.client[flows], client_port=self.client_port[flows],
                server=self.server[flows], server_port=self.server_port[flows], roles_known=self.roles_known[flows],
                proto=self.proto[flows],
            ))  # fmt: skip
            first = stop


class Part(NamedTuple):
    """Some flows of a grouping, one behind the other."""

    first_flow: int
    first_row: int
    """Place of their first row in the rows of the whole."""
    grouping: Grouping


def group_packets(packets: Packets, kept: Rows) -> Grouping:
    """Flows of TCP and UDP packets, numbered by their first packet.

    Args:
        packets: the packets.
        kept: rows to use, by time.

    A SYN whose number does not fit the packets before it on its five-tuple opens a new flow (RFC 9293 section 3.6.1).
    """
    proto = packets.proto[kept]
    usable = ((proto == TCP) | (proto == UDP)) & (packets.frag_offset[kept] == 0) & (packets.sport[kept] + packets.dport[kept] > 0)
    rows = kept[usable]
    source = _endpoint(packets.src[rows], packets.sport[rows])
    target = _endpoint(packets.dst[rows], packets.dport[rows])
    order, first = _by_tuple(np.minimum(source, target), np.maximum(source, target), packets.proto[rows] == UDP)
    rows, source, target = rows[order], source[order], target[order]
    first |= _reopened(packets, rows, source, first)
    begin = np.flatnonzero(first)
    length = np.diff(begin, append=len(rows))
    by_first_packet = np.argsort(order[begin], kind="stable")
    renumber = concatenated_ranges(begin[by_first_packet], length[by_first_packet])
    rows, source, target, length = rows[renumber], source[renumber], target[renumber], length[by_first_packet]
    begin = np.cumsum(length) - length
    client, server, known = _roles(packets, rows, source, target, begin)
    flow = np.repeat(np.arange(len(begin)), length)
    return Grouping(
        rows=rows, begin=begin, length=length, flow=flow, direction=(source != client[flow]).astype(np.uint8),
        client=(client >> 16).astype(np.int32), client_port=(client & 0xFFFF).astype(np.uint16),
        server=(server >> 16).astype(np.int32), server_port=(server & 0xFFFF).astype(np.uint16),
        roles_known=known, proto=packets.proto[rows[begin]],
    )  # fmt: skip


def _endpoint(address: I32, port: U16) -> I64:
    return (address.astype(np.int64) << 16) | port


def _by_tuple(low: I64, high: I64, is_udp: Bools) -> tuple[Rows, Bools]:
    """The stable order by (endpoints, protocol), and where a new tuple begins."""
    if len(low) and int(high.max()) >= 1 << 31:  # more than 32,767 addresses: number the endpoints first
        ends, inverse = np.unique(np.concatenate([low, high]), return_inverse=True)
        low, high = inverse[: len(low)], inverse[len(low) :]
        if len(ends) >= 1 << 31:
            raise OverflowError(f"{len(ends)} endpoints")
    key = (low << 32) | (high << 1) | is_udp
    order = np.argsort(key, kind="stable")
    return order, group_starts(key[order])


def _reopened(packets: Packets, rows: Rows, source: I64, first: Bools) -> Bools:
    """True at a SYN of a connection that the packets before it on this tuple do not belong to.

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
    """Places of SYNs that follow another of the same tuple and sender, and whether both have the same number."""
    at = np.flatnonzero(syn)
    group, sender, seq = np.cumsum(first)[at], source[at], packets.seq[rows[at]]
    order = np.lexsort((np.arange(len(at)), sender, group))
    follows = (group[order][1:] == group[order][:-1]) & (sender[order][1:] == sender[order][:-1])
    later, earlier = order[1:][follows], order[:-1][follows]
    return at[later], seq[later] == seq[earlier]


def _roles(packets: Packets, rows: Rows, source: I64, target: I64, begin: I64) -> tuple[I64, I64, Bools]:
    """Client endpoint, server endpoint and whether the handshake says so, per flow."""
    if not len(begin):
        empty = np.empty(0, np.int64)
        return empty, empty, np.empty(0, np.bool_)
    flags = packets.flags[rows]
    position = np.arange(len(rows))
    never = len(rows)
    syn_at = np.minimum.reduceat(np.where((flags & (SYN | ACK)) == SYN, position, never), begin)
    syn_ack_at = np.minimum.reduceat(np.where((flags & (SYN | ACK)) == (SYN | ACK), position, never), begin)
    client, server = source[begin].copy(), target[begin].copy()
    by_syn = syn_at < never
    client[by_syn], server[by_syn] = source[syn_at[by_syn]], target[syn_at[by_syn]]
    by_syn_ack = ~by_syn & (syn_ack_at < never)
    client[by_syn_ack], server[by_syn_ack] = target[syn_ack_at[by_syn_ack]], source[syn_ack_at[by_syn_ack]]
    known = by_syn | by_syn_ack
    swap = ~known & _second_serves(client, server, known)
    client[swap], server[swap] = server[swap], client[swap].copy()
    known |= packets.proto[rows[begin]] == UDP
    return client, server, known


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
