"""Datagrams and fragments of a pair of captures: which ones passed both taps, and which ones one of them lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I32, I64, U64, Bools, Rows
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import TCP
from pcapdiag.pair.side import joined

if TYPE_CHECKING:
    from pcapdiag.pair.side import Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """Packets that are no TCP segments, of conversations that both captures know."""

    near: Rows
    """Rows of the near capture's packets that the far one lacks."""
    near_direction: I64
    far: Rows
    far_direction: I64
    far_errors: Rows
    """ICMP errors that the far capture holds alone, from whatever host: routers between the taps speak to one side."""
    matched_count: int


def match_others(near: Side, far: Side) -> Others:
    """Compares everything that belongs to no TCP connection, copies within a capture left out."""
    rows = [_rows(side) for side in (near, far)]
    left, right = joined(*(_keys(side, some) for side, some in zip((near, far), rows, strict=True)))
    talks = [_talk(side, some) for side, some in zip((near, far), rows, strict=True)]
    known = np.intersect1d(np.concatenate([_talks_of_tcp(near), talks[0]]), np.concatenate([_talks_of_tcp(far), talks[1]]))
    clients = np.unique(np.concatenate([side.tcp.flows.client for side in (near, far)]))
    single = []
    for side, some, taken, talk in zip((near, far), rows, (left, right), talks, strict=True):
        alone = np.isin(talk, known)
        alone[taken] = False
        here = some[alone]
        single.append((here, np.where(_from_client(side, here, clients), 0, 1)))
    return Others(
        near=single[0][0], near_direction=single[0][1], far=single[1][0], far_direction=single[1][1],
        far_errors=np.setdiff1d(far.packets.icmp_errors.row, rows[1][right]), matched_count=len(left),
    )  # fmt: skip


def _rows(side: Side) -> Rows:
    """Rows that are no TCP segment; of copies of one datagram the first."""
    packets = side.packets
    rows = np.flatnonzero((packets.proto != TCP) | (packets.frag_offset > 0) | packets.more_fragments)
    copies = (side.tcp.flow_of_row[rows] < 0) & (packets.sport[rows] > 0) & (packets.frag_offset[rows] == 0) & ~packets.more_fragments[rows]
    kept: Rows = rows[~copies]
    return kept


def _keys(side: Side, rows: Rows) -> U64:
    packets = side.packets
    column = {name: getattr(packets, name)[rows].astype(np.int64) for name in ("src", "dst", "sport", "dport", "proto", "ip_id")}
    return mixed(
        (column["src"] << 32) | column["dst"], (column["sport"] << 32) | (column["dport"] << 8) | column["proto"],
        (column["ip_id"] << 32) | packets.frag_offset[rows].astype(np.int64), packets.ip_len[rows].astype(np.int64),
    )  # fmt: skip


def _talk(side: Side, rows: Rows) -> I64:
    """One number per unordered pair of hosts."""
    source, target = side.packets.src[rows].astype(np.int64), side.packets.dst[rows].astype(np.int64)
    return (np.minimum(source, target) << 32) | np.maximum(source, target)


def _talks_of_tcp(side: Side) -> I64:
    flows = side.tcp.flows
    client, server = flows.client.astype(np.int64), flows.server.astype(np.int64)
    return (np.minimum(client, server) << 32) | np.maximum(client, server)


def _from_client(side: Side, rows: Rows, clients: I32) -> Bools:
    """A datagram of a flow goes where its flow says; anything else comes from the client when its source is one."""
    flow = side.tcp.flow_of_row[rows]
    packets, flows = side.packets, side.tcp.flows
    in_flow = flow >= 0
    own = np.zeros(len(rows), np.bool_)
    if len(flows):
        own = in_flow & (packets.src[rows] == flows.client[np.maximum(flow, 0)])
    result: Bools = np.where(in_flow, own, np.isin(packets.src[rows], clients))
    return result
