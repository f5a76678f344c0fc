"""What the capture did to the traffic, before anything is concluded from it (CAUSES section 10; Paxson 1997)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.flows.filtered import Filtered, Talk, find_filter
from pcapdiag.flows.glance import SHOWN, Glance, glance
from pcapdiag.flows.grade import Defects, grade
from pcapdiag.flows.table import Quality
from pcapdiag.packets.table import TCP
from pcapdiag.spool import rows_where, taken, windows

if TYPE_CHECKING:
    from pcapdiag.capture.frames import Capture, Interface
    from pcapdiag.columns import Rows
    from pcapdiag.flows.aside import Aside
    from pcapdiag.flows.clock import ClockSteps
    from pcapdiag.flows.table import Flows, SuperSegments, Tallies
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that tells of the captures' quality."""

    packets: Packets
    aside: Aside
    steps: ClockSteps
    flows: Flows
    tallies: Tallies
    supers: SuperSegments


def measure(seen: Seen, captures: tuple[Capture, ...], room: Room | None = None) -> tuple[Quality, ...]:
    """One Quality per capture."""
    glances, marks = glance(seen.packets, len(captures), room), _marks(seen, len(captures), room)
    return tuple(_of_capture(seen, index, capture, glances[index], marks[index]) for index, capture in enumerate(captures))


class _Counted(NamedTuple):
    """Packets of one capture."""

    packet_count: int
    frames: tuple[int, ...]
    """The least frame numbers of them."""


class _Marks(NamedTuple):
    """Packets of one capture that something was found about."""

    supers: _Counted
    """Beyond the MSS."""
    copies: _Counted
    views: _Counted
    """Second views."""
    routed: _Counted
    """Copies that passed a router."""
    legs: _Counted
    backward: _Counted
    """With times before those of others in front of them."""


def _marks(seen: Seen, capture_count: int, room: Room | None) -> list[_Marks]:
    """What was found, by capture."""
    aside, packets = seen.aside, seen.packets
    routed = rows_where(len(aside.copies.row), lambda part: aside.copies.routed[part], room)
    found = (
        [seen.supers.row], [aside.copies.row], [aside.views], [taken(aside.copies.row, routed, room)], [aside.legs],
        [aside.backward_rows, seen.steps.untimely],
    )  # fmt: skip
    return [_Marks(*one) for one in zip(*(_counted(packets, sets, capture_count, room) for sets in found), strict=True)]


def _counted(packets: Packets, sets: list[Rows], capture_count: int, room: Room | None) -> list[_Counted]:
    """The packets of some sets of rows, by capture."""
    counts = np.zeros(capture_count, np.int64)
    frames: list[set[int]] = [set() for _ in range(capture_count)]
    for rows in sets:
        for part in windows(len(rows), room):
            mine = rows[part]
            capture = packets.capture[mine]
            counts += np.bincount(capture, minlength=capture_count)
            for one in np.unique(capture).tolist():
                least = np.sort(packets.frame[mine[capture == one]])[:SHOWN]
                frames[one] = {*sorted({*frames[one], *least.tolist()})[:SHOWN]}
    return [_Counted(count, tuple(sorted(shown))) for count, shown in zip(counts.tolist(), frames, strict=True)]


def _of_capture(seen: Seen, index: int, capture: Capture, glance: Glance, marks: _Marks) -> Quality:
    """The measurements of one capture, its grade and its issues."""
    flows, aside, steps = seen.flows, seen.aside, seen.steps.take(seen.steps.capture == index)
    tcp = (flows.proto == TCP) & (flows.capture == index)
    carries = seen.tallies.piece_count.reshape(-1, 2).any(axis=1)
    talk = Talk.of(flows, seen.tallies, index)
    filtered, rule = find_filter(talk, glance, capture)
    quality = Quality(
        copies=marks.copies.packet_count + marks.legs.packet_count, copy_frames=marks.copies.frames,
        routed_copies=marks.routed.packet_count, leg_packets=marks.legs.packet_count, leg_frames=marks.legs.frames,
        view_packets=marks.views.packet_count, view_frames=marks.views.frames,
        backward_steps=int(aside.backward_steps[index]), backward_max_ns=int(aside.backward_max_ns[index]),
        backward_frames=marks.backward.frames, untimely=int((seen.packets.capture[steps.untimely] == index).sum()),
        clock_steps=tuple(zip(steps.frame.tolist(), steps.step_ns.tolist(), strict=True)),
        super_segments=marks.supers.packet_count, super_segment_frames=marks.supers.frames,
        cut_frames=glance.cut_count, cut_frame_numbers=tuple(glance.cut_frames), cut_headers=glance.cut_header_count,
        tcp_data_packets=glance.data_count,
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


def _issues(quality: Quality, filtered: Filtered, *, has_gaps: bool) -> tuple[str, ...]:
    """Codes of capture findings, in alphabetical order."""
    found = {
        "capture-loss": (has_gaps and not filtered.tears) or bool(quality.dropped_count),
        "clock-step": bool(quality.clock_steps),
        "duplicate-packets": quality.copies + quality.view_packets > 0,
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
        packets=packet_count, frames=capture.frame_count,
        unseen=quality.capture_loss_ratio, dropped=dropped / max(capture.frame_count + dropped, 1),
        one_way=quality.one_way_flows / max(quality.tcp_flows, 1), midstream=quality.midstream_flows / max(quality.tcp_flows, 1),
        snapped=quality.cut_frames / max(packet_count, 1), copied=quality.copies / max(packet_count, 1),
        misordered=quality.backward_steps + quality.untimely > 0, clock_stepped=bool(quality.clock_steps),
        offloaded=quality.super_segments > 0,
        cut=capture.cut_at is not None, filtered=filtered,
    )  # fmt: skip
