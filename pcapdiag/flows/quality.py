"""What the capture did to the traffic, before anything is concluded from it (CAUSES section 10; Paxson 1997).

First it repairs: order, copies of one packet, the second leg of translated connections. When flows are known it measures
the rest and grades the capture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pcapdiag.capture.frames import Capture, Interface
from pcapdiag.columns import I64, Bools, Rows
from pcapdiag.flows.clock import ClockSteps
from pcapdiag.flows.copies import find_copies
from pcapdiag.flows.filtered import Filtered, Talk, find_filter, tally
from pcapdiag.flows.grade import Defects, grade
from pcapdiag.flows.group import Grouping, group_packets
from pcapdiag.flows.legs import Link, link_legs, without_legs
from pcapdiag.flows.table import Flows, Gaps, Pieces, Quality, Segments
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP, Packets

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Rows of Packets by time, without copies; and what was set aside."""

    rows: Rows
    copies: Rows
    """Copies of single packets, by time."""
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
    def aside(self) -> I64:
        """Rows of all packets set aside, ascending."""
        return np.sort(np.concatenate([self.copies, self.legs])).astype(np.int64)


def repair(packets: Packets, capture_count: int) -> Kept:
    """Brings packets into the order of time and sets copies of one packet aside; the first sight stays."""
    late = np.flatnonzero((packets.ts_ns[1:] < packets.ts_ns[:-1]) & (packets.capture[1:] == packets.capture[:-1])) + 1
    steps, furthest = np.zeros(capture_count, np.int64), np.zeros(capture_count, np.int64)
    np.add.at(steps, packets.capture[late], 1)
    np.maximum.at(furthest, packets.capture[late], packets.ts_ns[late - 1] - packets.ts_ns[late])
    order = None if not len(late) and capture_count == 1 else np.argsort(packets.ts_ns, kind="stable")
    copies = find_copies(packets, order)
    stays = np.ones(len(packets), np.bool_)
    stays[copies.row] = False
    rows = np.flatnonzero(stays) if order is None else order[stays[order]]
    return Kept(
        rows=rows, copies=copies.row, originals=copies.original, routed=copies.routed, legs=np.empty(0, np.intp),
        backward_steps=steps, backward_max_ns=furthest, backward_rows=late,
    )  # fmt: skip


def keep_one_leg(packets: Packets, kept: Kept, grouping: Grouping) -> tuple[Kept, Grouping, Link]:
    """Sets aside the farther legs of connections that an address translator shows twice, and groups anew without them."""
    link = link_legs(packets, grouping)
    if not len(link.far):
        return kept, grouping, link
    aside = np.zeros(len(packets), np.bool_)
    aside[without_legs(grouping, link)[1]] = True
    kept = replace(kept, rows=kept.rows[~aside[kept.rows]], legs=kept.rows[aside[kept.rows]])
    return kept, group_packets(packets, kept.rows), link


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All tables that tell of the captures' quality."""

    packets: Packets
    kept: Kept
    steps: ClockSteps
    segments: Segments
    flows: Flows
    pieces: Pieces
    gaps: Gaps
    super_rows: Rows
    """Rows of Packets longer than the MSS in force."""

    def of(self, capture: int) -> Seen:
        """Only what concerns one capture; packets, segments and flows stay whole."""
        own, kept = self.packets.capture, self.kept
        mine = self.flows.capture == capture
        copies = own[kept.copies] == capture
        return replace(
            self,
            kept=replace(
                kept, copies=kept.copies[copies], originals=kept.originals[copies], routed=kept.routed[copies],
                legs=kept.legs[own[kept.legs] == capture], backward_rows=kept.backward_rows[own[kept.backward_rows] == capture],
            ),
            steps=replace(
                self.steps.take(self.steps.capture == capture), untimely=self.steps.untimely[own[self.steps.untimely] == capture]
            ),
            pieces=self.pieces.take(mine[self.pieces.fd // 2]),
            gaps=self.gaps.take(mine[self.gaps.fd // 2]), super_rows=self.super_rows[own[self.super_rows] == capture],
        )  # fmt: skip

    def rows(self, capture: int) -> Rows | slice:
        """The rows of packets of one capture: a slice, as they come in the order of the captures."""
        own = self.packets.capture
        if (own[1:] >= own[:-1]).all():
            return slice(*np.searchsorted(own, [capture, capture + 1]).tolist())
        return np.flatnonzero(own == capture)


def measure(seen: Seen, captures: tuple[Capture, ...]) -> tuple[Quality, ...]:
    """One Quality per capture."""
    talks = tally(seen.segments, seen.flows, len(captures))
    several = len(captures) > 1
    return tuple(_of_capture(index, capture, seen.of(index) if several else seen, talks[index]) for index, capture in enumerate(captures))


def _of_capture(index: int, capture: Capture, seen: Seen, talk: Talk) -> Quality:
    """The measurements of one capture, its grade and its issues."""
    packets, flows, kept, rows = seen.packets, seen.flows, seen.kept, seen.rows(index)
    tcp = (flows.proto == TCP) & (flows.capture == index)
    protocol, ports = packets.proto[rows], (packets.sport[rows], packets.dport[rows])
    carries = np.zeros(len(flows), np.bool_)
    carries[seen.pieces.fd // 2] = True
    filtered, rule = find_filter(packets, rows, capture, talk, seen.pieces, seen.gaps)
    quality = Quality(
        copies=len(kept.copies) + len(kept.legs), copy_frames=_first_frames(packets, kept.copies),
        routed_copies=int(kept.routed.sum()), leg_packets=len(kept.legs), leg_frames=_first_frames(packets, kept.legs),
        backward_steps=int(kept.backward_steps[index]), backward_max_ns=int(kept.backward_max_ns[index]),
        backward_frames=_first_frames(packets, np.union1d(kept.backward_rows, seen.steps.untimely)),
        untimely=len(seen.steps.untimely),
        clock_steps=tuple(zip(seen.steps.frame.tolist(), seen.steps.step_ns.tolist(), strict=True)),
        super_segments=len(seen.super_rows), super_segment_frames=_first_frames(packets, seen.super_rows),
        cut_frames=int(packets.cut[rows].sum()), cut_frame_numbers=tuple(packets.frame[rows][packets.cut[rows]][:_SHOWN].tolist()),
        tcp_data_packets=int(((protocol == TCP) & (packets.payload_len[rows] > 0)).sum()),
        unseen_bytes=int((seen.gaps.stop - seen.gaps.start).sum()), seen_bytes=int((seen.pieces.stop - seen.pieces.start).sum()),
        one_way_flows=int((tcp & flows.one_way).sum()), tcp_flows=int(tcp.sum()),
        midstream_flows=int((tcp & carries & (flows.syn_count == 0) & (flows.syn_ack_count == 0)).sum()),
        dropped_count=_dropped(capture.interfaces), filtered=filtered.value, filter_note=rule,
        saw_icmp=bool(((protocol == ICMP) | (protocol == ICMPV6)).any()),
        saw_dns=bool(((protocol == UDP) & ((ports[0] == 53) | (ports[1] == 53))).any()),
        saw_fragments=bool(((packets.frag_offset[rows] > 0) | packets.more_fragments[rows]).any()), grade="", issues=(),
    )  # fmt: skip
    letter, advice = grade(_defects(quality, capture, filtered, packet_count=len(protocol)))
    return replace(quality, grade=letter, advice=advice, issues=_issues(quality, filtered, has_gaps=len(seen.gaps) > 0))


def _dropped(interfaces: tuple[Interface, ...]) -> int | None:
    """Packets that the interfaces and their system say they dropped; None when none says anything."""
    said = [count for each in interfaces for count in (each.dropped_by_interface_count, each.dropped_by_os_count) if count is not None]
    return sum(said) if said else None


def _first_frames(packets: Packets, rows: Rows) -> tuple[int, ...]:
    return tuple(sorted(packets.frame[rows].tolist())[:_SHOWN])


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
