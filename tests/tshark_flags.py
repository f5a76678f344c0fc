"""Wireshark's TCP analysis beside ours, packet by packet, under one set of names."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.flows.table import Kind
from pcapdiag.packets.table import FIN, RST, SYN, TCP

if TYPE_CHECKING:
    from pathlib import Path

    from pcapdiag.columns import I64, Bools, Rows
    from pcapdiag.flows.table import Segments
    from pcapdiag.trace import Trace

Facts = dict[str, dict[int, int]]
"""What is said -> of which frame -> the value; flags have the value 1, and only where they are set."""

AGAIN = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
FIELDS = ("duplicate_ack", "bytes_in_flight", "lost_segment", "zero_window", "keep_alive", "reused_ports")
NAMES = ("again", *FIELDS, "window")
OPTIONS = ("tcp.desegment_tcp_streams:FALSE", "ip.defragment:FALSE", "ipv6.defragment:FALSE")


def theirs(path: Path) -> Facts:
    """What tshark says of each TCP packet."""
    fields = ["frame.number", *(f"tcp.analysis.{name}" for name in (*AGAIN, *FIELDS)), "tcp.window_size"]
    command = ["tshark", "-n", "-r", str(path), "-Y", "tcp && !icmp && !icmpv6", "-T", "fields", "-E", "occurrence=l"]
    command += [word for option in OPTIONS for word in ("-o", option)] + [word for field in fields for word in ("-e", field)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # a capture cut in the middle is an error to tshark
    facts: Facts = {name: {} for name in NAMES}
    for line in done.stdout.splitlines():
        frame, *values = line.split("\t")
        if any(values[: len(AGAIN)]):
            facts["again"][int(frame)] = 1
        for name, value in zip((*FIELDS, "window"), values[len(AGAIN) :], strict=True):
            if value:
                facts[name][int(frame)] = int(value) if name in {"bytes_in_flight", "window"} else 1
    return facts


def ours(trace: Trace) -> Facts:
    """What the columns of step 3 say, in Wireshark's words."""
    seg, flows, frame = trace.segments, trace.flows, trace.packets.frame[trace.segments.row]
    old = np.isin(seg.kind, (Kind.SEEN_AGAIN, Kind.FILL, Kind.SYN_AGAIN)) | (np.isin(seg.kind, (Kind.NEW, Kind.FIN)) & (seg.sends > 1))
    masks = {
        "again": old,
        # Wireshark names a hole once and then counts on from behind it; a pure ACK beyond a known hole says nothing new.
        "lost_segment": (seg.gap_len > 0) & ((seg.payload_len > 0) | ~_seen_before(seg)),
        "duplicate_ack": (seg.dup_ack > 0) & ~_window_changed(trace),
        "zero_window": (seg.window == 0) & ((seg.flags & (SYN | FIN | RST)) == 0),
        "keep_alive": seg.kind == Kind.KEEP_ALIVE,
        "reused_ports": np.isin(np.arange(len(seg)), flows.begin[_reopened(trace)]),
    }
    facts: Facts = {name: dict.fromkeys(frame[mask].tolist(), 1) for name, mask in masks.items()}
    clean = (seg.in_flight_len >= 1) & ~np.isin(2 * seg.flow + seg.direction, _disturbed(trace)) & ((seg.flags & FIN) == 0)
    facts["bytes_in_flight"] = dict(zip(frame[clean].tolist(), seg.in_flight_len[clean].tolist(), strict=True))
    facts["window"] = dict(zip(frame.tolist(), seg.window.tolist(), strict=True))
    return facts


def _window_changed(trace: Trace) -> Bools:
    """ACKs with another window than the one before: with SACK blocks duplicates to us (RFC 6675), never to Wireshark."""
    fd = 2 * trace.segments.flow.astype(np.int64) + trace.segments.direction
    order = np.argsort(fd, kind="stable")
    window = trace.packets.window[trace.segments.row][order]
    changed = np.ones(len(order), np.bool_)
    changed[order[1:]] = (window[1:] != window[:-1]) | (np.diff(fd[order]) != 0)
    return changed


def _disturbed(trace: Trace) -> I64:
    """Directions with losses or SACK, where Wireshark leaves out what the receiver holds beyond a hole, and we do not."""
    seg = trace.segments
    fd = 2 * seg.flow.astype(np.int64) + seg.direction
    lost = (seg.gap_len > 0) | np.isin(seg.kind, (Kind.SEEN_AGAIN, Kind.FILL, Kind.SYN_AGAIN, Kind.KEEP_ALIVE))
    return np.union1d(fd[lost], fd[seg.has_sack] ^ 1)


def _reopened(trace: Trace) -> Rows:
    """TCP flows whose endpoints an earlier flow had."""
    flows = trace.flows
    seen: set[tuple[int, ...]] = set()
    again = []
    columns = (flows.client, flows.client_port, flows.server, flows.server_port)
    for flow in np.flatnonzero(flows.proto == TCP).tolist():
        ends = tuple(sorted(int(column[flow]) << 1 for column in columns))
        if ends in seen:
            again.append(flow)
        seen.add(ends)
    return np.array(again, np.intp)


def differences(trace: Trace, path: Path) -> dict[str, tuple[int, list[int], list[int]]]:
    """Name -> (packets that agree, frames only tshark has with that value, frames only we have)."""
    known = set(trace.packets.frame[trace.segments.row].tolist())
    mine, other = ours(trace), theirs(path)
    found = {}
    for name in NAMES:
        wanted = mine[name].keys() if name == "bytes_in_flight" else known
        a = {item for item in other[name].items() if item[0] in wanted}
        b = set(mine[name].items())
        found[name] = len(a & b), sorted(frame for frame, _ in a - b), sorted(frame for frame, _ in b - a)
    return found


def _seen_before(seg: Segments) -> Bools:
    """Does an earlier packet of the same direction claim the same sequence number, beyond what was seen?"""
    claims = list(zip(seg.flow.tolist(), seg.direction.tolist(), seg.seq.tolist(), (seg.gap_len > 0).tolist(), strict=True))
    known: set[tuple[int, int, int]] = set()
    result = np.zeros(len(claims), np.bool_)
    for row, (flow, direction, seq, gap) in enumerate(claims):
        result[row] = gap and (flow, direction, seq) in known
        if gap:
            known.add((flow, direction, seq))
    return result
