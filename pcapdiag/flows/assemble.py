"""Step 3, put together: packets -> flows, TCP columns, the byte timeline's tables, vantage and quality."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, get_type_hints

import numpy as np

from pcapdiag.flows import quality
from pcapdiag.flows.aside import keep_one_leg, set_aside
from pcapdiag.flows.block import Block, assemble_block
from pcapdiag.flows.clock import ClockSteps
from pcapdiag.flows.clues import vantage_of
from pcapdiag.flows.conversations import blocks
from pcapdiag.flows.doubt import without_doubtful
from pcapdiag.flows.group import Bundle, Grouping, group_packets
from pcapdiag.flows.legs import NO_LINK, legs_of
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.flows.summary import one_sided_captures
from pcapdiag.flows.table import TcpTables
from pcapdiag.packets.table import TCP, Packets, SackBlocks
from pcapdiag.spool import WINDOW, Room, Spool, column, rows_by_number, windows
from pcapdiag.workers import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pcapdiag.capture.frames import Capture
    from pcapdiag.columns import I32, I64, Bools, Rows

_ETHERNET = 1
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
    aside = set_aside(packets, len(captures), room, with_copies=as_recorded)
    whole = group_packets(packets, aside.rows, None if as_recorded else aside.twins, by_time=not as_recorded, jobs=jobs, room=room)
    one_leg = (aside, whole, NO_LINK) if as_recorded else keep_one_leg(packets, aside, whole, jobs=jobs, room=room)
    aside, grouping, link = one_leg
    flow_of_row = _flow_of_row(packets, grouping, room)
    ethernet = np.array([all(each.link_type == _ETHERNET for each in capture.interfaces) for capture in captures], np.bool_)
    tables = _joined(_blocks(packets, grouping, flow_of_row, ethernet, block_packets, jobs, room), room)
    sides, vantages = vantage_of(tables.flows, tables.tallies, capture_count=len(captures), side=side)
    flows = replace(tables.flows, vantage=sides, one_way=one_sided_captures(tables.flows, tables.tallies))
    found = TcpTables(
        flows=flows, segments=tables.segments, datagrams=tables.datagrams, pieces=tables.pieces, acks=tables.acks, sacked=tables.sacked,
        gaps=tables.gaps, resends=tables.resends, recoveries=tables.recoveries, tallies=tables.tallies,
        flow_of_row=flow_of_row, vantages=vantages, legs=legs_of(packets, whole, link, flow_of_row), aside=aside.rows,
        room=room,
        quality=quality.measure(quality.Seen(
            packets=packets, aside=aside, steps=ClockSteps.empty() if steps is None else steps, flows=flows,
            tallies=tables.tallies, supers=tables.supers,
        ), captures, room),
    )  # fmt: skip
    return found if as_recorded else without_doubtful(found)


def _flow_of_row(packets: Packets, grouping: Grouping, room: Room | None) -> I32:
    """Flow id per row of Packets; -1 for rows of none."""
    flow_of_row = column(len(packets), np.int32, room)
    for part in windows(len(packets), room):
        flow_of_row[part] = -1
    for first, stop in blocks(grouping.length, WINDOW):
        flows = np.arange(first, stop)
        flow_of_row[grouping.rows[grouping.places(flows)]] = np.repeat(flows, grouping.length[flows])
        if room is not None:
            room.release()
    return flow_of_row


def _blocks(
    packets: Packets, grouping: Grouping, flow_of_row: I32, ethernet: Bools, block_packets: int, jobs: int, room: Room | None
) -> Iterator[Block]:
    """The tables of the flows, block by block."""
    sacks = _sacks_by_flow(packets.sacks, flow_of_row, len(grouping.begin), room)

    def block(flows: tuple[int, int]) -> Block:
        bundle = grouping.bundle(packets, *flows)
        made = assemble_block(packets, bundle, _placed_sacks(packets.sacks, sacks.of(*flows), bundle), ethernet)
        if room is not None:
            room.release()
        return made

    return spread(block, [*blocks(grouping.length, block_packets)], jobs)


class _SacksByFlow(NamedTuple):
    """SACK blocks flow by flow."""

    rows: Rows
    """Rows of SackBlocks."""
    begin: I64
    """Of each flow, and the end of the last."""

    def of(self, first: int, stop: int) -> Rows:
        """Rows of SackBlocks of the flows [first, stop)."""
        return self.rows[int(self.begin[first]) : int(self.begin[stop])]


def _sacks_by_flow(sacks: SackBlocks, flow_of_row: I32, flow_count: int, room: Room | None) -> _SacksByFlow:
    flow, counts = column(len(sacks), np.int32, room), np.zeros(flow_count, np.int64)
    for part in windows(len(sacks), room):
        flow[part] = mine = flow_of_row[sacks.row[part]]
        counts += np.bincount(mine[mine >= 0], minlength=flow_count)
    return _SacksByFlow(rows_by_number(flow, counts, room), np.concatenate([[0], np.cumsum(counts)]))


def _placed_sacks(sacks: SackBlocks, rows: Rows, bundle: Bundle) -> SackBlocks:
    """These SACK blocks in the order of a bundle, with `row` counted in it."""
    mine = sacks.take(np.sort(rows))  # in the order of the packets, and in each packet as they come
    packet, first = np.unique(mine.row, return_index=True)
    if not len(packet):
        return mine
    found = np.minimum(np.searchsorted(packet, bundle.rows), len(packet) - 1)
    at = np.flatnonzero(packet[found] == bundle.rows)
    count = np.diff(first, append=len(mine))[found[at]]
    return replace(mine.take(concatenated_ranges(first[found[at]], count)), row=np.repeat(at, count))


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
