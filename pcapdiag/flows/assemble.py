"""Step 3, put together: packets -> flows, TCP columns, the byte timeline's tables, vantage and quality."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import get_type_hints

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import I64, Rows
from pcapdiag.flows import quality
from pcapdiag.flows.block import Block, assemble_block
from pcapdiag.flows.clock import ClockSteps
from pcapdiag.flows.clues import vantage_of
from pcapdiag.flows.group import Grouping, Part, group_packets
from pcapdiag.flows.legs import NO_LINK, legs_of
from pcapdiag.flows.summary import flow_of_row, one_sided_captures, super_segments
from pcapdiag.flows.table import TcpTables
from pcapdiag.packets.table import TCP, Packets
from pcapdiag.spool import Room, Spool
from pcapdiag.workers import spread

_BLOCK_PACKETS = 1 << 15
"""Some fifty columns of eight bytes for that many packets fit the caches of one core (2 MiB and its share of the last level)."""


def group_flows(
    packets: Packets,
    captures: tuple[Capture, ...],
    *,
    side: str | None = None,
    steps: ClockSteps | None = None,
    jobs: int = 1,
    room: Room | None = None,
    as_recorded: bool = False,
    block_packets: int = _BLOCK_PACKETS,
) -> TcpTables:
    """Flows and all per-packet TCP columns.

    Args:
        packets: all packets.
        captures: what is known of each capture.
        side: client, server or middle when the user says where the capture was taken.
        steps: where the captures' clocks jumped; the packets' times are already without these jumps.
        jobs: how many processes share the work; the result does not depend on it.
        room: memory for the tables; what does not fit lies in files. Without it all do.
        as_recorded: take every packet, copies too, in the order of the file, as Wireshark does; else each once, by time.
        block_packets: flows are worked on in blocks of about this many packets; the result does not depend on it.
    """
    kept = quality.repair(packets, len(captures))
    if as_recorded:
        kept = replace(kept, rows=np.arange(len(packets)), copies=kept.copies[:0])
    whole = group_packets(packets, kept.rows)
    kept, grouping, link = (kept, whole, NO_LINK) if as_recorded else quality.keep_one_leg(packets, kept, whole)
    tables = _joined(_blocks(packets, grouping, block_packets, jobs, room), room)
    supers = super_segments(packets, tables.flows, tables.segments)
    sides, vantages = vantage_of(packets, tables.flows, tables.segments, tables.acks, supers, captures=captures, side=side)
    flows = replace(tables.flows, vantage=sides, one_way=one_sided_captures(tables.flows, tables.segments))
    flow_ids = flow_of_row(grouping, len(packets))
    return TcpTables(
        flows=flows, segments=tables.segments, datagrams=tables.datagrams, pieces=tables.pieces, acks=tables.acks, sacked=tables.sacked,
        gaps=tables.gaps, resends=tables.resends, recoveries=tables.recoveries,
        flow_of_row=flow_ids, vantages=vantages, legs=legs_of(packets, whole, link, flow_ids), aside=kept.aside,
        quality=quality.measure(quality.Seen(
            packets=packets, kept=kept, steps=ClockSteps.empty() if steps is None else steps, segments=tables.segments, flows=flows,
            pieces=tables.pieces, gaps=tables.gaps, super_rows=supers,
        ), captures),
    )  # fmt: skip


def _blocks(packets: Packets, grouping: Grouping, block_packets: int, jobs: int, room: Room | None) -> Iterator[Block]:
    """The tables of the flows, block by block."""
    place = _places(grouping.rows, len(packets))[packets.sacks.row]
    by_place = np.argsort(place, kind="stable")
    sacks = replace(packets.sacks.take(by_place), row=place[by_place])

    def block(part: Part) -> Block:
        low, high = np.searchsorted(sacks.row, [part.first_row, part.first_row + len(part.grouping.rows)])
        mine = sacks.take(slice(int(low), int(high)))
        made = assemble_block(packets, part.grouping, replace(mine, row=mine.row - part.first_row))
        if room is not None:
            room.release()
        return made

    return spread(block, list(grouping.parts(block_packets)), jobs)


def _places(rows: Rows, row_count: int) -> I64:
    """Place in `rows` of each row of Packets; -1 for none."""
    place = np.full(row_count, -1, np.int64)
    place[rows] = np.arange(len(rows))
    return place


def _joined(blocks: Iterable[Block], room: Room | None) -> Block:
    """One block of them all."""
    tables = {name: (table, Spool(room)) for name, table in get_type_hints(Block).items()}
    steps = {"flow": 0, "fd": 0, "segment": 0}
    datagram = 0
    for block in blocks:
        moved = np.where(block.flows.proto == TCP, steps["segment"], datagram)
        flows = replace(block.flows, begin=block.flows.begin + moved, stop=block.flows.stop + moved)
        for name, (_, spool) in tables.items():
            spool.append((flows if name == "flows" else getattr(block, name)).moved(steps))
        steps["flow"] += len(flows)
        steps["fd"] += 2 * len(flows)
        steps["segment"] += len(block.segments)
        datagram += len(block.datagrams)
    return Block(**{name: table(**spool.finish()) for name, (table, spool) in tables.items()})
