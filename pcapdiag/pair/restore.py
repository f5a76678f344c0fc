"""The packets that the diagnosis works on: the near capture, with what it lacks and the far one proves to have passed it.

Requests that both captures hold are in it once. A packet that only the far capture holds, and that is known to have
passed the near tap, stands at the time at which it must have passed there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools, Rows
from pcapdiag.flows.segmented import group_starts, last_index_where
from pcapdiag.packets.table import ICMP, ICMPV6, Packets
from pcapdiag.pair.clock import to_near
from pcapdiag.pair.match_flows import matched_rows, pair_of_flow
from pcapdiag.pair.place import Missing
from pcapdiag.pair.side import subset
from pcapdiag.pair.table import Clocks, Delays, Place
from pcapdiag.spool import column

if TYPE_CHECKING:
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.match_packets import PacketMatch
    from pcapdiag.pair.others import Others
    from pcapdiag.pair.side import Side


_MENDED = ("ts_ns", "src", "dst", "sport", "dport", "seq", "ack", "payload_at", "payload_captured")
"""Columns that restored or lengthened packets get from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Packets for the analysis, and where they came from."""

    packets: Packets
    near_at: int
    """Row in `packets` of the near capture's first row; all of them are there, one behind the other."""
    far_row: I64
    """Row in `packets` of each row of the far capture; -1: not taken."""
    restored_count: int
    payload_count: int

    def row(self, rows: Rows, *, of_far: bool) -> I64:
        """The rows in `packets` of rows of one capture; -1: not taken."""
        return self.far_row[rows] if of_far else self.near_at + rows


def restore(
    packets: Packets, near: Side, far: Side, match: FlowMatch, matched: PacketMatch,
    missing: Missing, others: Others, clocks: Clocks, delays: tuple[Delays | None, Delays | None],
) -> Restored:  # fmt: skip
    """Takes the near capture and adds to it.

    Args:
        packets: the packets of both captures.
        near: the capture at the client's side.
        far: the other one.
        match: which flows are the same.
        matched: which packets are.
        missing: what the near capture lacks of matched flows.
        others: datagrams that one capture lacks.
        clocks: how to turn far times into near ones.
        delays: between the taps.
    """
    passed = np.isin(missing.place, (Place.RECEIVING_CAPTURE, Place.SENDING_CAPTURE))
    entries = np.unique(missing.entry[passed])
    rows = far.tcp.segments.row[matched.far.segment[entries]]
    alone = _alone(far, match)
    extra = _datagrams(far, others)
    of_extra = np.where(extra[1], 0, _lead(np.zeros(len(extra[0]), np.int64), delays))
    lead = np.concatenate([_lead(matched.far.direction[entries], delays), np.zeros(len(alone), np.int64), of_extra])
    taken = np.concatenate([rows, alone, extra[0]])
    order = np.argsort(taken, kind="stable")
    taken, lead = taken[order], lead[order]
    ts_ns = to_near(clocks, far.packets.ts_ns[taken], far.packets.frame[taken]) + lead
    if len(entries):
        of_tcp = np.searchsorted(taken, rows)
        there_ns = to_near(clocks, matched.far.ts_ns, far.packets.frame[far.tcp.segments.row[matched.far.segment]])
        ts_ns[of_tcp] = _like_neighbours(ts_ns[of_tcp], lead[of_tcp], matched, entries, there_ns)
    near_rows, far_rows = np.arange(near.begin, near.begin + len(near.packets)), far.begin + taken
    near_at, far_at = (0, len(near_rows)) if near.begin < far.begin else (len(far_rows), 0)
    room = near.room
    joint = subset(packets, np.concatenate([near_rows, far_rows] if near_at < far_at else [far_rows, near_rows]), room)
    far_row = column(len(far.packets), np.int64, room)
    far_row[:] = -1
    far_row[taken] = far_at + np.arange(len(taken))
    columns = {name: getattr(joint, name) for name in _MENDED}  # copies, that may be written
    columns["ts_ns"][far_row[taken]] = ts_ns
    _readdress(columns, near, far, match, far_row)
    payloads = _take_payloads(columns, near, far, matched, near_at)
    return Restored(
        packets=joint, near_at=near_at, far_row=far_row, restored_count=len(entries) + len(extra[0]), payload_count=payloads,
    )  # fmt: skip


def _lead(direction: I64, delays: tuple[Delays | None, Delays | None]) -> I64:
    """How much later than the far tap the near one saw packets of a direction: the least delay, forth earlier, back later."""
    least = [one.least_ns if one else 0 for one in delays]
    lead: I64 = np.where(direction == 0, -least[0], least[1])
    return lead


def _like_neighbours(ts_ns: I64, lead_ns: I64, matched: PacketMatch, entries: Rows, there_ns: I64) -> I64:
    """When packets passed the near tap: as long on their way as the faster of the packets around them that both captures hold.

    A queue, or a longer way, delays one packet as it does the next; and in none of both one overtakes the other.

    Args:
        ts_ns: by the least delay, which holds where no packet of the same way was seen twice.
        lead_ns: the same, minus the time at the far tap.
        matched: which packets are the same.
        entries: rows in the far half.
        there_ns: the times of the far half, in the near clock.
    """
    far, count = matched.far, len(matched.far)
    order = np.lexsort((far.ts_ns, far.way))
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    both, first = far.other[order] >= 0, group_starts(far.way[order])
    last = np.append(first[1:], [True])
    before = last_index_where(both, first)[place[entries]]
    after = count - 1 - last_index_where(both[::-1], last[::-1])[::-1][place[entries]]
    known = before >= 0, after < count
    neighbours = [order[np.where(there, at, 0)] for at, there in zip((before, after), known, strict=True)]
    near_ns = [matched.near.ts_ns[far.other[one]] for one in neighbours]
    sign = np.where(far.direction[entries] == 0, -1, 1)
    way_ns = [
        np.where(there, sign * (passed_ns - there_ns[one]), NEVER) for one, passed_ns, there in zip(neighbours, near_ns, known, strict=True)
    ]
    fastest_ns = np.minimum(*way_ns)
    found = np.where(fastest_ns < NEVER, ts_ns - lead_ns + sign * fastest_ns, ts_ns)
    earliest_ns = np.where(known[0], near_ns[0], found)
    latest_ns = np.where(known[1], near_ns[1], found)
    return np.maximum(np.minimum(found, latest_ns), earliest_ns)


def _alone(far: Side, match: FlowMatch) -> Rows:
    """Rows of the far capture's TCP flows that the near one does not have at all."""
    unmatched = np.flatnonzero((pair_of_flow(match, far, far=True) < 0) & (far.tcp.flows.proto == 6))
    rows: Rows = far.tcp.segments.row[matched_rows(far, unmatched)]
    return rows


def _datagrams(far: Side, others: Others) -> tuple[Rows, Bools]:
    """Datagrams of the client that the near capture lacks, and ICMP errors that never came by it (True: at the far tap's time)."""
    packets = far.packets
    whole = (packets.frag_offset[others.far] == 0) & ~packets.more_fragments[others.far]
    forth = others.far[(others.far_direction == 0) & whole & ~np.isin(packets.proto[others.far], (ICMP, ICMPV6))]
    errors = np.setdiff1d(others.far_errors, forth)
    rows = np.concatenate([forth, errors])
    return rows, np.arange(len(rows)) >= len(forth)


def _readdress(columns: dict[str, I64], near: Side, far: Side, match: FlowMatch, far_row: I64) -> None:
    """Gives restored packets the addresses and numbers that their connection has at the near tap."""
    for at in np.flatnonzero(~match.same_address | match.rewritten).tolist():
        a, b = int(match.near[at]), int(match.far[at])
        segments = matched_rows(far, np.array([b]))
        rows, direction = far_row[far.tcp.segments.row[segments]], far.tcp.segments.direction[segments] ^ match.turned[at].any()
        ours = near.tcp.flows
        for way, (source, target) in enumerate((("src", "dst"), ("dst", "src"))):
            some = rows[(rows >= 0) & (direction == way)]
            ports = ("sport", "dport") if way == 0 else ("dport", "sport")
            columns[source][some], columns[target][some] = ours.client[a], ours.server[a]
            columns[ports[0]][some], columns[ports[1]][some] = ours.client_port[a], ours.server_port[a]
            if match.rewritten[at]:
                for name, of in (("seq", way), ("ack", 1 - way)):
                    columns[name][some] = (columns[name][some].astype(np.int64) + _number_shift(near, far, match, at, of)) & 0xFFFFFFFF


def _number_shift(near: Side, far: Side, match: FlowMatch, at: int, direction: int) -> int:
    """Near sequence number minus far one, of a connection whose numbers were rewritten."""
    first = []
    for side, flow, way in ((near, int(match.near[at]), direction), (far, int(match.far[at]), direction ^ int(match.turned[at].any()))):
        rows = matched_rows(side, np.array([flow]))
        own = rows[side.tcp.segments.direction[rows] == way][:1]
        first.append(int(side.number[own[0]]) - int(side.tcp.segments.seq[own[0]]) if len(own) else 0)
    return first[0] - first[1]


def _take_payloads(columns: dict[str, I64], near: Side, far: Side, matched: PacketMatch, near_at: int) -> int:
    """Where the near capture cut a packet shorter than the far one did, its bytes are read there."""
    entry = np.flatnonzero(matched.near.other >= 0)
    ours = near.tcp.segments.row[matched.near.segment[entry]]
    theirs = far.tcp.segments.row[matched.far.segment[matched.near.other[entry]]]
    more = far.packets.payload_captured[theirs] > near.packets.payload_captured[ours]
    rows = near_at + ours[more]
    for name in ("payload_at", "payload_captured"):
        columns[name][rows] = getattr(far.packets, name)[theirs[more]]
    return int(more.sum())
