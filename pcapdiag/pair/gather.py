"""The one table of placed transmissions, in the terms of the analysed flows, and the connections that only one capture holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.columns import I64, NEVER, Rows
from pcapdiag.packets.table import SYN, TCP
from pcapdiag.pair.clock import to_far, to_near
from pcapdiag.pair.match_flows import matched_rows, pair_of_flow
from pcapdiag.pair.place import packet_sizes
from pcapdiag.pair.refine import Ways
from pcapdiag.pair.table import Clocks, Delays, Place, Placed, Unmatched
from pcapdiag.spool import computed, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.flows.table import TcpTables
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.others import Others
    from pcapdiag.pair.place import Missing, View
    from pcapdiag.pair.restore import Restored
    from pcapdiag.pair.side import Side

_Columns = dict[str, "np.ndarray[Any, Any]"]


def gather(
    match: FlowMatch, views: tuple[View, View], missing: Sequence[Missing], resends: Sequence[Missing], others: Others,
    clocks: Clocks, delays: tuple[Delays | None, Delays | None], restored: Restored, tcp: TcpTables, ways: Ways,
) -> tuple[Placed, tuple[Unmatched, ...]]:  # fmt: skip
    """All that did not simply pass both taps, by time; and the connections without a counterpart, longest first.

    Args:
        match: the matched flows.
        views: from the near capture, from the far one.
        missing: what the other capture lacks, by view.
        resends: needless resends, by view.
        others: datagrams that one capture lacks.
        clocks: how to turn far times into near ones.
        delays: between the taps.
        restored: the packets that are analysed.
        tcp: their flows.
        ways: the matched flows among them.
    """
    near, far = views[0].side, views[1].side
    parts = [_of_tcp(view, some, ways, clocks) for view, *found in zip(views, missing, resends, strict=True) for some in found]
    lost, alone = _alone(near, far, match, clocks, delays)
    parts.append(_of_lost_flows(near, lost, restored, tcp))
    parts.append(_of_datagrams(near, others.near, others.near_direction, far, clocks, restored, tcp, is_far=False))
    parts.append(_of_datagrams(far, others.far, others.far_direction, near, clocks, restored, tcp, is_far=True))
    empty = Placed.empty()
    joined = {name: np.concatenate([part[name] for part in parts]).astype(getattr(empty, name).dtype) for name in Placed.columns()}
    order = np.lexsort((joined["frame"], joined["capture"], joined["ts_ns"]))
    return Placed(**{name: column[order] for name, column in joined.items()}), alone


def ways_of(views: tuple[View, View], restored: Restored, tcp: TcpTables, match_count: int) -> Ways:
    """Where each way of the match is in the analysed tables."""
    room, rows = tcp.room, tcp.segments.row
    segment_of = computed(len(restored.packets), np.int64, lambda part: np.full(part.stop - part.start, -1), room)
    for part in windows(len(rows), room):
        segment_of[rows[part]] = np.arange(part.start, part.stop)
    flow, direction, shift = (np.full(2 * match_count, -1, np.int64) for _ in range(3))
    for view in reversed(views):  # the near one has the last word
        half = view.half
        row = restored.row(view.side.tcp.segments.row[half.segment], of_far=view.far)
        segment = np.where(row >= 0, segment_of[row], -1)
        known = np.flatnonzero(segment >= 0)[::-1]  # and in it the first packet
        way = half.way[known]
        flow[way] = tcp.segments.flow[segment[known]]
        direction[way] = tcp.segments.direction[segment[known]]
        shift[way] = tcp.segments.seq[segment[known]] - half.start[known]
    # A direction without packets still belongs to its connection.
    partner = np.arange(len(flow)) ^ 1
    direction = np.where(flow >= 0, direction, np.where(flow[partner] >= 0, 1 - direction[partner], 0))
    return Ways(np.where(flow >= 0, flow, flow[partner]), direction, shift)


def _of_tcp(view: View, some: Missing, ways: Ways, clocks: Clocks) -> _Columns:
    half, side, entry = view.half, view.side, some.entry
    if not len(entry):
        return {name: getattr(Placed.empty(), name) for name in Placed.columns()}
    way, segment = half.way[entry], half.segment[entry]
    row = side.tcp.segments.row[segment]
    frame = side.packets.frame[row]
    count, ip_len = packet_sizes(view, some)
    syn = (side.what[segment] & SYN) > 0
    other_row = view.other_side.tcp.segments.row[view.other.segment[np.maximum(some.other, 0)]]
    other_frame = np.where(some.other >= 0, view.other_side.packets.frame[other_row], -1)
    shift = np.where(syn, 0, ways.shift[way])
    return {
        "place": some.place, "flow": ways.flow[way], "direction": ways.direction[way],
        "start": some.start + shift, "stop": some.stop + shift,
        "lost_len": some.stop - some.start, "count": count, "ip_len": ip_len,
        "ts_ns": to_near(clocks, half.ts_ns[entry], frame) if view.far else half.ts_ns[entry],
        "capture": np.full(len(entry), side.capture), "frame": frame, "other_frame": other_frame,
        "other_ns": np.where(some.other >= 0, _near_times(view, other_row, clocks), NEVER), "is_data": half.length[entry] > 0,
        "is_syn": syn,
    }  # fmt: skip


def _near_times(view: View, other_row: I64, clocks: Clocks) -> I64:
    packets = view.other_side.packets
    return packets.ts_ns[other_row] if view.far else to_near(clocks, packets.ts_ns[other_row], packets.frame[other_row])


def _alone(
    near: Side, far: Side, match: FlowMatch, clocks: Clocks, delays: tuple[Delays | None, Delays | None]
) -> tuple[Rows, tuple[Unmatched, ...]]:
    """Flows of the near capture of which nothing arrived at the far one; and all others that one capture holds alone."""
    lost: list[int] = []
    rest: list[Unmatched] = []
    for side, other, is_far in ((near, far, False), (far, near, True)):
        flows = side.tcp.flows
        free = np.flatnonzero((pair_of_flow(match, side, far=is_far) < 0) & (flows.proto == TCP))
        servers = set(flows.server[match.far if is_far else match.near].tolist())
        for flow in free.tolist():
            known = int(flows.server[flow]) in servers
            rows = matched_rows(side, np.array([flow]))
            heard = bool((side.tcp.segments.direction[rows] == 1).any())
            if known and not heard and not is_far and _covered(near, far, rows, clocks, delays):
                lost.append(flow)
                continue
            rest.append(Unmatched(
                capture=side.capture, client=_end(side, flow, "client"), server=_end(side, flow, "server"), packet_count=len(rows),
                why=_why(side, other, known=known, heard=heard),
            ))  # fmt: skip
    return np.array(lost, np.int64), tuple(sorted(rest, key=lambda one: (-one.packet_count, one.capture, one.client, one.server)))


def _covered(near: Side, far: Side, rows: Rows, clocks: Clocks, delays: tuple[Delays | None, Delays | None]) -> bool:
    """Was the far capture running when these packets should have come by?"""
    there = to_far(clocks, near.tcp.segments.ts_ns[rows], near.packets.frame[near.tcp.segments.row[rows]])
    least, most = (delays[0].least_ns, delays[0].most_ns) if delays[0] else (0, 0)
    return bool(there.min() + least >= far.first_ns and there.max() + most <= far.last_ns)


def _end(side: Side, flow: int, which: str) -> str:
    flows = side.tcp.flows
    return side.packets.addresses.endpoint(int(getattr(flows, which)[flow]), int(getattr(flows, f"{which}_port")[flow]))


def _why(side: Side, other: Side, *, known: bool, heard: bool) -> str:
    if not known:
        return f"{other.about.name} shows no connection of this server that {side.about.name} shows too"
    if heard:
        return f"answered, though {other.about.name} has none of it: another path, or not captured there"
    return f"outside the time of {other.about.name}"


def _of_lost_flows(near: Side, flows: Rows, restored: Restored, tcp: TcpTables) -> _Columns:
    """Every packet of connections of which nothing arrived."""
    rows = matched_rows(near, flows)
    seg = near.tcp.segments
    row = seg.row[rows]
    length = seg.payload_len[rows].astype(np.int64)
    flow = tcp.flow_of_row[restored.row(row, of_far=False)]
    return {
        "place": np.full(len(rows), Place.BETWEEN), "flow": flow, "direction": seg.direction[rows],
        "start": seg.seq[rows], "stop": seg.seq[rows] + length, "lost_len": length, "count": np.ones(len(rows), np.int64),
        "ip_len": near.packets.ip_len[row], "ts_ns": seg.ts_ns[rows], "capture": np.full(len(rows), near.capture),
        "frame": near.packets.frame[row], "other_frame": np.full(len(rows), -1),
        "other_ns": np.full(len(rows), NEVER), "is_data": length > 0,
        "is_syn": (near.what[rows] & SYN) > 0,
    }  # fmt: skip


def _of_datagrams(
    side: Side, rows: Rows, direction: I64, other: Side, clocks: Clocks, restored: Restored, tcp: TcpTables, *, is_far: bool
) -> _Columns:
    """Datagrams and fragments that one capture lacks: lost when they came from this side, else not captured on the other."""
    packets = side.packets
    frame, ts_ns = packets.frame[rows], packets.ts_ns[rows]
    there = to_near(clocks, ts_ns, frame) if is_far else to_far(clocks, ts_ns, frame)
    sent = direction == (1 if is_far else 0)
    expected = there + np.where(sent, 1, -1) * clocks.uncertainty_ns
    inside = (expected >= other.first_ns) & (expected + 2 * clocks.uncertainty_ns <= other.last_ns)
    place = np.where(inside, np.where(sent, Place.BETWEEN, Place.SENDING_CAPTURE), Place.OUTSIDE)
    row = restored.row(rows, of_far=is_far)
    none = np.full(len(rows), -1)
    return {
        "place": place, "flow": np.where(row >= 0, tcp.flow_of_row[row], -1), "direction": direction, "start": none, "stop": none,
        "lost_len": packets.payload_len[rows].astype(np.int64), "count": np.ones(len(rows), np.int64), "ip_len": packets.ip_len[rows],
        "ts_ns": there if is_far else ts_ns, "capture": np.full(len(rows), side.capture), "frame": frame, "other_frame": none,
        "other_ns": np.full(len(rows), NEVER),
        "is_data": packets.payload_len[rows] > 0, "is_syn": np.zeros(len(rows), np.bool_),
    }  # fmt: skip
