"""Step 3, put together: packets -> flows, TCP columns, the byte timeline's tables, vantage and quality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import I64, Rows
from pcapdiag.flows import quality
from pcapdiag.flows.block import Block, assemble_block
from pcapdiag.flows.group import Grouping, Part, group_packets
from pcapdiag.flows.summary import flow_of_row, super_segments, vantage_of
from pcapdiag.flows.table import Acks, Datagrams, Flows, Gaps, Pieces, Recoveries, Sacked, Segments, TcpTables
from pcapdiag.packets.table import TCP, Packets
from pcapdiag.workers import spread

_BLOCK_PACKETS = 1 << 15
"""Some fifty columns of eight bytes for that many packets fit the caches of one core (2 MiB and its share of the last level)."""


def group_flows(
    packets: Packets,
    captures: tuple[Capture, ...],
    *,
    side: str | None = None,
    jobs: int = 1,
    as_recorded: bool = False,
    block_packets: int = _BLOCK_PACKETS,
) -> TcpTables:
    """Flows and all per-packet TCP columns.

    Args:
        packets: all packets.
        captures: what is known of each capture.
        side: client, server or middle when the user says where the capture was taken.
        jobs: how many processes share the work; the result does not depend on it.
        as_recorded: take every packet, copies too, in the order of the file, as Wireshark does; else each once, by time.
        block_packets: flows are worked on in blocks of about this many packets; the result does not depend on it.
    """
    kept = quality.repair(packets, len(captures))
    if as_recorded:
        kept = replace(kept, rows=np.arange(len(packets)), copies=kept.copies[:0])
    grouping = group_packets(packets, kept.rows)
    tables = _joined(list(_blocks(packets, grouping, block_packets, jobs)))
    supers = super_segments(packets, tables.flows, tables.segments)
    sides, vantages = vantage_of(packets, tables.flows, tables.segments, supers, capture_count=len(captures), side=side)
    flows = replace(tables.flows, vantage=sides)
    return TcpTables(
        flows=flows, segments=tables.segments, datagrams=tables.datagrams, pieces=tables.pieces, acks=tables.acks, sacked=tables.sacked,
        gaps=tables.gaps, recoveries=tables.recoveries, flow_of_row=flow_of_row(grouping, len(packets)), vantages=vantages,
        quality=quality.measure(
            packets=packets, kept=kept, captures=captures, flows=flows, pieces=tables.pieces, gaps=tables.gaps, super_rows=supers
        ),
    )  # fmt: skip


def _blocks(packets: Packets, grouping: Grouping, block_packets: int, jobs: int) -> Iterator[Block]:
    """The tables of the flows, block by block."""
    place = _places(grouping.rows, len(packets))[packets.sacks.row]
    by_place = np.argsort(place, kind="stable")
    sacks = replace(packets.sacks.take(by_place), row=place[by_place])

    def block(part: Part) -> Block:
        low, high = np.searchsorted(sacks.row, [part.first_row, part.first_row + len(part.grouping.rows)])
        mine = sacks.take(slice(int(low), int(high)))
        return assemble_block(packets, part.grouping, replace(mine, row=mine.row - part.first_row))

    parts = list(grouping.parts(block_packets))
    return spread(block, parts, [len(part.grouping.rows) for part in parts], jobs)


def _places(rows: Rows, row_count: int) -> I64:
    """Place in `rows` of each row of Packets; -1 for none."""
    place = np.full(row_count, -1, np.int64)
    place[rows] = np.arange(len(rows))
    return place


def _joined(blocks: list[Block]) -> Block:
    """One block of them all."""
    flow, segment, datagram = (
        [0, *accumulate(len(table) for table in column[:-1])]
        for column in ([block.flows for block in blocks], [block.segments for block in blocks], [block.datagrams for block in blocks])
    )
    moved = {"flow": flow, "fd": [2 * step for step in flow], "segment": segment}
    for block, segment_step, datagram_step in zip(blocks, segment, datagram, strict=True):
        step = np.where(block.flows.proto == TCP, segment_step, datagram_step)
        block.flows.begin[:] += step
        block.flows.stop[:] += step
    return Block(
        flows=Flows.joined([block.flows for block in blocks], moved), segments=Segments.joined([block.segments for block in blocks], moved),
        datagrams=Datagrams.joined([block.datagrams for block in blocks], moved),
        pieces=Pieces.joined([block.pieces for block in blocks], moved), acks=Acks.joined([block.acks for block in blocks], moved),
        sacked=Sacked.joined([block.sacked for block in blocks], moved), gaps=Gaps.joined([block.gaps for block in blocks], moved),
        recoveries=Recoveries.joined([block.recoveries for block in blocks], moved),
    )  # fmt: skip
