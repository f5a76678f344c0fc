"""What the capture did to the traffic, before anything is concluded from it (CAUSES section 10; Paxson 1997).

First it repairs: order, and copies of one packet. When flows are known it measures the rest and grades the capture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import I64, U64, Bools, Rows
from pcapdiag.flows.table import Flows, Gaps, Pieces, Quality
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP, Packets

_COPY_NS = 10_000_000
"""Copies of one packet (mirror ports, bridge and veth, `any`) lie within 10 ms of each other."""
_COPY_UNNUMBERED_NS = 1_000_000
"""Without an IP-ID only a copy within a timestamp tick is surely no resend."""
_ELSEWHERE_NS = 2_000_000_000
"""The same packet seen by another capture: no path is longer, and IDs and timestamps do not come round sooner."""
_HABIT = 0.02
"""A capture that copies copies often: from one packet in fifty on, unnumbered look-alikes are copies too."""
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Rows of Packets by time, without copies; and what was set aside."""

    rows: Rows
    copies: Rows
    backward_steps: I64
    """Per capture: records earlier than the one before."""
    backward_max_ns: I64


def repair(packets: Packets, capture_count: int) -> Kept:
    """Brings packets into the order of time and sets copies of one packet aside; the first sight stays."""
    steps, furthest = _misorder(packets, capture_count)
    order = np.arange(len(packets)) if not steps.any() and capture_count == 1 else np.argsort(packets.ts_ns, kind="stable")
    is_copy = _copies(packets, order)
    return Kept(rows=order[~is_copy], copies=order[is_copy], backward_steps=steps, backward_max_ns=furthest)


def _misorder(packets: Packets, capture_count: int) -> tuple[I64, I64]:
    """Per capture: how many records step back in time, and how far at most."""
    steps, furthest = np.zeros(capture_count, np.int64), np.zeros(capture_count, np.int64)
    for capture in range(capture_count):
        ts_ns = packets.ts_ns if capture_count == 1 else packets.ts_ns[packets.capture == capture]
        back = ts_ns[:-1] - ts_ns[1:]
        steps[capture] = int((back > 0).sum())
        furthest[capture] = max(int(back.max(initial=0)), 0)
    return steps, furthest


def _copies(packets: Packets, order: Rows) -> Bools:
    """Per entry of order: is it a copy of an earlier one? Same addresses, ports, IP-ID, TCP fields and length, nearly the same time."""
    result = np.zeros(len(order), np.bool_)
    if len(order) < 2:
        return result
    identity = _identity(packets)[order]
    by_identity = np.argsort(identity, kind="stable")
    same = identity[by_identity][1:] == identity[by_identity][:-1]
    if not same.any():
        return result
    earlier, later = order[by_identity[:-1][same]], order[by_identity[1:][same]]
    apart = packets.ts_ns[later] - packets.ts_ns[earlier]
    numbered = packets.ip_id[later] != 0
    sure = numbered & (apart <= _COPY_NS)
    stamped = packets.has_ts[later] & (packets.payload_len[later] > 0)
    likely = ~numbered & (apart <= _COPY_UNNUMBERED_NS) & stamped
    copying = int(sure.sum() + likely.sum()) >= _HABIT * len(order)
    possible = ~numbered & (apart <= _COPY_NS) & copying
    # Two captures of one path hold every packet twice, a one-way delay apart.
    elsewhere = (packets.capture[later] != packets.capture[earlier]) & (apart <= _ELSEWHERE_NS) & (numbered | packets.has_ts[later])
    result[by_identity[1:][same][sure | likely | possible | elsewhere]] = True
    return result


def _identity(packets: Packets) -> U64:
    """A 64-bit mix of all fields that a copy keeps and a resend does not."""
    mixed = np.zeros(len(packets), np.uint64)
    columns = (
        (packets.src.astype(np.uint64) << np.uint64(32)) | packets.dst.astype(np.uint64),
        (packets.seq.astype(np.uint64) << np.uint64(32)) | packets.ack,
        (packets.sport.astype(np.uint64) << np.uint64(48)) | (packets.dport.astype(np.uint64) << np.uint64(32)) | packets.ts_val,
        (packets.ip_id.astype(np.uint64) << np.uint64(48)) | (packets.window.astype(np.uint64) << np.uint64(32))
        | (packets.flags.astype(np.uint64) << np.uint64(24)) | packets.proto.astype(np.uint64),
        (packets.payload_len.astype(np.uint64) << np.uint64(32)) | packets.frag_offset.astype(np.uint64),
    )  # fmt: skip
    for column in columns:
        mixed ^= column
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def measure(
    *, packets: Packets, kept: Kept, captures: tuple[Capture, ...], flows: Flows, pieces: Pieces, gaps: Gaps, super_rows: Rows
) -> tuple[Quality, ...]:
    """One Quality per capture; `super_rows` are rows of Packets longer than the MSS in force."""
    return tuple(_of_capture(index, capture, packets, kept, flows, pieces, gaps, super_rows) for index, capture in enumerate(captures))


def _of_capture(
    index: int, capture: Capture, packets: Packets, kept: Kept, flows: Flows, pieces: Pieces, gaps: Gaps, super_rows: Rows
) -> Quality:
    """The measurements of one capture, its grade and its issues."""
    rows = np.flatnonzero(packets.capture == index)
    copies = kept.copies[packets.capture[kept.copies] == index]
    supers = super_rows[packets.capture[super_rows] == index]
    tcp = (flows.proto == TCP) & (flows.capture == index)
    flow_bytes = pieces.stop - pieces.start
    drops = [
        interface.dropped_by_interface_count or interface.dropped_by_os_count
        for interface in capture.interfaces
        if interface.dropped_by_interface_count is not None or interface.dropped_by_os_count is not None
    ]
    protocol, ports = packets.proto[rows], (packets.sport[rows], packets.dport[rows])
    carries = np.zeros(len(flows), np.bool_)
    carries[np.unique(pieces.fd // 2)] = True
    numbers: dict[str, int] = {
        "copies": len(copies),
        "backward_steps": int(kept.backward_steps[index]),
        "backward_max_ns": int(kept.backward_max_ns[index]),
        "super_segments": len(supers),
        "cut_frames": int(packets.cut[rows].sum()),
        "tcp_data_packets": int(((protocol == TCP) & (packets.payload_len[rows] > 0)).sum()),
        "unseen_bytes": int((gaps.stop - gaps.start)[flows.capture[gaps.fd // 2] == index].sum()),
        "seen_bytes": int(flow_bytes[flows.capture[pieces.fd // 2] == index].sum()),
        "one_way_flows": int((tcp & flows.one_way).sum()),
        "tcp_flows": int(tcp.sum()),
        "midstream_flows": int((tcp & carries & (flows.syn_count == 0) & (flows.syn_ack_count == 0)).sum()),
    }
    dropped = sum(drop or 0 for drop in drops) if drops else None
    gap_events = int((flows.capture[gaps.fd // 2] == index).sum())
    return Quality(
        copies=numbers["copies"], copy_frames=_first_frames(packets, copies), backward_steps=numbers["backward_steps"],
        backward_max_ns=numbers["backward_max_ns"], super_segments=numbers["super_segments"],
        super_segment_frames=_first_frames(packets, supers), cut_frames=numbers["cut_frames"],
        tcp_data_packets=numbers["tcp_data_packets"], unseen_bytes=numbers["unseen_bytes"], seen_bytes=numbers["seen_bytes"],
        one_way_flows=numbers["one_way_flows"], tcp_flows=numbers["tcp_flows"], midstream_flows=numbers["midstream_flows"],
        dropped_count=dropped, saw_icmp=bool(np.isin(protocol, (ICMP, ICMPV6)).any()),
        saw_dns=bool(((protocol == UDP) & ((ports[0] == 53) | (ports[1] == 53))).any()),
        saw_fragments=bool(((packets.frag_offset[rows] > 0) | packets.more_fragments[rows]).any()),
        grade=_grade(numbers, dropped, frames=capture.frame_count, packets=len(rows), cut=capture.cut_at is not None),
        issues=_issues(numbers, dropped, gap_events),
    )  # fmt: skip


def _first_frames(packets: Packets, rows: Rows) -> tuple[int, ...]:
    return tuple(sorted(packets.frame[rows].tolist())[:_SHOWN])


def _issues(numbers: dict[str, int], dropped: int | None, gap_events: int) -> tuple[str, ...]:
    """Codes of capture findings, in alphabetical order."""
    found = {
        "capture-loss": gap_events > 0 or bool(dropped),
        "duplicate-packets": numbers["copies"] > 0,
        "mid-stream-start": numbers["midstream_flows"] > 0,
        "misordered-packets": numbers["backward_steps"] > 0,
        "offload-segments": numbers["super_segments"] > 0,
        "one-way-capture": numbers["one_way_flows"] > 0,
        "snaplen-cut": numbers["cut_frames"] > 0,
    }
    return tuple(code for code, is_so in sorted(found.items()) if is_so)


def _grade(numbers: dict[str, int], dropped: int | None, *, frames: int, packets: int, cut: bool) -> str:
    """A: nothing in the way of a verdict; F: no verdict possible. The worst single defect decides."""
    if not packets:
        return "F"
    total = numbers["seen_bytes"] + numbers["unseen_bytes"]
    loss = max(numbers["unseen_bytes"] / total if total else 0.0, (dropped or 0) / max(frames + (dropped or 0), 1))
    one_way = numbers["one_way_flows"] / numbers["tcp_flows"] if numbers["tcp_flows"] else 0.0
    snapped = numbers["cut_frames"] / packets
    midstream = numbers["midstream_flows"] / numbers["tcp_flows"] if numbers["tcp_flows"] else 0.0
    worst = max(
        _band(loss, (0.0, 0.01, 0.05, 0.2)),
        _band(one_way, (0.0, 0.1, 0.5, 0.9)),
        min(_band(snapped, (0.0, 0.1, 0.5, 1.1)), 2),
        min(_band(numbers["copies"] / packets, (0.0, 0.2, 1.1, 1.1)), 2),
        min(_band(midstream, (0.2, 0.9, 1.1, 1.1)), 2),
        1 if cut or numbers["backward_steps"] or numbers["super_segments"] else 0,
    )
    return "ABCDF"[worst]


def _band(value: float, edges: tuple[float, float, float, float]) -> int:
    """How many edges the value lies above."""
    return sum(value > edge for edge in edges)
