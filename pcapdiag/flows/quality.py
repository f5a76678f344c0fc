"""What the capture did to the traffic, before anything is concluded from it (CAUSES section 10; Paxson 1997).

First it repairs: order, copies of one packet, the second leg of translated connections. When flows are known it measures
the rest and grades the capture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.flows.conversations import order_by_time
from pcapdiag.flows.copies import NO_COPIES, find_copies
from pcapdiag.flows.filtered import Filtered, Talk, find_filter
from pcapdiag.flows.glance import SHOWN, Glance, glance
from pcapdiag.flows.grade import Defects, grade
from pcapdiag.flows.group import Grouping, group_packets
from pcapdiag.flows.legs import Link, link_legs, rows_of_legs
from pcapdiag.flows.networks import Twins
from pcapdiag.flows.table import Quality
from pcapdiag.flows.trains import with_cars
from pcapdiag.packets.table import TCP
from pcapdiag.spool import windows

if TYPE_CHECKING:
    from pcapdiag.capture.frames import Capture, Interface
    from pcapdiag.columns import I64, Bools, Rows
    from pcapdiag.flows.clock import ClockSteps
    from pcapdiag.flows.table import Flows, SuperSegments, Tallies
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was set aside before packets became flows."""

    copies: Rows
    """Rows of Packets: copies of single packets, by time."""
    originals: Rows
    """The first sight of each of them."""
    routed: Bools
    """Per copy: a router lay between it and the sight before."""
    legs: Rows
    """Packets of the farther legs of translated connections."""
    backward_steps: I64
    """Per capture: records earlier than the one before."""
    backward_max_ns: I64
    backward_rows: Rows
    """Rows of such records."""

    @property
    def twins(self) -> Twins:
        """Copies beside their originals."""
        return Twins(self.copies, self.originals)

    @property
    def aside(self) -> I64:
        """Rows of all packets set aside, ascending."""
        return np.sort(np.concatenate([self.copies, self.legs])).astype(np.int64)


def repair(packets: Packets, capture_count: int, room: Room | None = None, *, with_copies: bool = False) -> Kept:
    """Finds what goes back in time, and sets copies of one packet aside unless they are wanted; the first sight stays."""
    late = _late(packets, room)
    steps, furthest = np.zeros(capture_count, np.int64), np.zeros(capture_count, np.int64)
    np.add.at(steps, packets.capture[late], 1)
    np.maximum.at(furthest, packets.capture[late], packets.ts_ns[late - 1] - packets.ts_ns[late])
    copies = NO_COPIES if with_copies else with_cars(packets, find_copies(packets, order_by_time(packets, room), room), room)
    return Kept(
        copies=copies.row, originals=copies.original, routed=copies.routed, legs=np.empty(0, np.intp),
        backward_steps=steps, backward_max_ns=furthest, backward_rows=late,
    )  # fmt: skip


def _late(packets: Packets, room: Room | None) -> Rows:
    """Rows whose time lies before that of the row before, in the same capture."""
    found = [np.empty(0, np.intp)]
    for part in windows(len(packets), room):
        begin = max(part.start - 1, 0)
        ts_ns, capture = packets.ts_ns[begin : part.stop], packets.capture[begin : part.stop]
        found.append(begin + 1 + np.flatnonzero((ts_ns[1:] < ts_ns[:-1]) & (capture[1:] == capture[:-1])))
    return np.concatenate(found)


def keep_one_leg(packets: Packets, kept: Kept, grouping: Grouping, *, jobs: int, room: Room | None) -> tuple[Kept, Grouping, Link]:
    """Sets aside the farther legs of connections that an address translator shows twice, and groups anew without them."""
    link = link_legs(packets, grouping)
    if not len(link.far):
        return kept, grouping, link
    kept = replace(kept, legs=rows_of_legs(grouping, link))
    return kept, group_packets(packets, kept.aside, kept.twins, jobs=jobs, room=room), link


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that tells of the captures' quality."""

    packets: Packets
    kept: Kept
    steps: ClockSteps
    flows: Flows
    tallies: Tallies
    supers: SuperSegments

    def of(self, capture: int) -> tuple[Kept, ClockSteps]:
        """What concerns one capture."""
        own, kept, steps = self.packets.capture, self.kept, self.steps
        copies = own[kept.copies] == capture
        return (
            replace(
                kept, copies=kept.copies[copies], originals=kept.originals[copies], routed=kept.routed[copies],
                legs=kept.legs[own[kept.legs] == capture], backward_rows=kept.backward_rows[own[kept.backward_rows] == capture],
            ),
            replace(steps.take(steps.capture == capture), untimely=steps.untimely[own[steps.untimely] == capture]),
        )  # fmt: skip


def measure(seen: Seen, captures: tuple[Capture, ...], room: Room | None = None) -> tuple[Quality, ...]:
    """One Quality per capture."""
    glances = glance(seen.packets, len(captures), room)
    supers = _super_segments(seen, len(captures), room)
    return tuple(_of_capture(index, capture, seen, glances[index], supers[index]) for index, capture in enumerate(captures))


def _super_segments(seen: Seen, capture_count: int, room: Room | None) -> list[tuple[int, tuple[int, ...]]]:
    """Per capture how many packets exceed the MSS, and the least frame numbers of them."""
    counts = np.zeros(capture_count, np.int64)
    frames: list[list[int]] = [[] for _ in range(capture_count)]
    for part in windows(len(seen.supers), room):
        rows = seen.supers.row[part]
        capture = seen.packets.capture[rows]
        counts += np.bincount(capture, minlength=capture_count)
        for one in np.unique(capture).tolist():
            frames[one] = sorted([*frames[one], *np.sort(seen.packets.frame[rows[capture == one]])[:SHOWN].tolist()])[:SHOWN]
    return [(count, tuple(shown)) for count, shown in zip(counts.tolist(), frames, strict=True)]


def _of_capture(index: int, capture: Capture, seen: Seen, glance: Glance, supers: tuple[int, tuple[int, ...]]) -> Quality:
    """The measurements of one capture, its grade and its issues."""
    packets, flows, (kept, steps) = seen.packets, seen.flows, seen.of(index)
    tcp = (flows.proto == TCP) & (flows.capture == index)
    carries = seen.tallies.piece_count.reshape(-1, 2).any(axis=1)
    talk = Talk.of(flows, seen.tallies, index)
    filtered, rule = find_filter(talk, glance, capture)
    quality = Quality(
        copies=len(kept.copies) + len(kept.legs), copy_frames=_first_frames(packets, kept.copies),
        routed_copies=int(kept.routed.sum()), leg_packets=len(kept.legs), leg_frames=_first_frames(packets, kept.legs),
        backward_steps=int(kept.backward_steps[index]), backward_max_ns=int(kept.backward_max_ns[index]),
        backward_frames=_first_frames(packets, np.union1d(kept.backward_rows, steps.untimely)),
        untimely=len(steps.untimely), clock_steps=tuple(zip(steps.frame.tolist(), steps.step_ns.tolist(), strict=True)),
        super_segments=supers[0], super_segment_frames=supers[1],
        cut_frames=glance.cut_count, cut_frame_numbers=tuple(glance.cut_frames), tcp_data_packets=glance.data_count,
        unseen_bytes=talk.missing_len, seen_bytes=talk.seen_len,
        one_way_flows=int((tcp & flows.one_way).sum()), tcp_flows=int(tcp.sum()),
        midstream_flows=int((tcp & carries & (flows.syn_count == 0) & (flows.syn_ack_count == 0)).sum()),
        dropped_count=_dropped(capture.interfaces), filtered=filtered.value, filter_note=rule,
        saw_icmp=glance.saw_icmp, saw_dns=glance.saw_dns, saw_fragments=glance.saw_fragments, grade="", issues=(),
    )  # fmt: skip
    letter, advice = grade(_defects(quality, capture, filtered, packet_count=glance.packet_count))
    return replace(quality, grade=letter, advice=advice, issues=_issues(quality, filtered, has_gaps=talk.gaps > 0))


def _dropped(interfaces: tuple[Interface, ...]) -> int | None:
    """Packets that the interfaces and their system say they dropped; None when none says anything."""
    said = [count for each in interfaces for count in (each.dropped_by_interface_count, each.dropped_by_os_count) if count is not None]
    return sum(said) if said else None


def _first_frames(packets: Packets, rows: Rows) -> tuple[int, ...]:
    return tuple(sorted(packets.frame[rows].tolist())[:SHOWN])


def _issues(quality: Quality, filtered: Filtered, *, has_gaps: bool) -> tuple[str, ...]:
    """Codes of capture findings, in alphabetical order."""
    found = {
        "capture-loss": (has_gaps and not filtered.tears) or bool(quality.dropped_count),
        "clock-step": bool(quality.clock_steps),
        "duplicate-packets": quality.copies > 0,
        "filtered-capture": filtered is not Filtered.NO,
        "mid-stream-start": quality.midstream_flows > 0,
        "misordered-packets": quality.backward_steps + quality.untimely > 0,
        "offload-segments": quality.super_segments > 0,
        "one-way-capture": quality.one_way_flows > 0,
        "snaplen-cut": quality.cut_frames > 0,
    }
    return tuple(code for code, is_so in sorted(found.items()) if is_so)


def _defects(quality: Quality, capture: Capture, filtered: Filtered, *, packet_count: int) -> Defects:
    """Counts as shares."""
    dropped = quality.dropped_count or 0
    return Defects(
        packets=packet_count, unseen=quality.capture_loss_ratio, dropped=dropped / max(capture.frame_count + dropped, 1),
        one_way=quality.one_way_flows / max(quality.tcp_flows, 1), midstream=quality.midstream_flows / max(quality.tcp_flows, 1),
        snapped=quality.cut_frames / max(packet_count, 1), copied=quality.copies / max(packet_count, 1),
        misordered=quality.backward_steps + quality.untimely > 0, clock_stepped=bool(quality.clock_steps),
        offloaded=quality.super_segments > 0,
        cut=capture.cut_at is not None, filtered=filtered,
    )  # fmt: skip
