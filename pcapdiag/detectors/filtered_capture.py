"""filtered-capture: packets are missing from the file by rule, not by accident.

## What it does
It recognises captures that hold only some packets of a connection: only those with SYN, FIN or RST, only pushed ones, only
those with data, only short ones, or a sample (every nth packet, or a random share). Where such a rule tears holes into
connections, the time of their requests is taken out of every diagnosis (`capture-gap`): nobody can say what happened
then. It also names the filter that the file says it was made with, and a capture that holds one port only.

## Why it matters
What a filter left out looks like loss, silence or a server that never answered. What it hides altogether (ICMP, DNS,
fragments) cannot be excluded as a cause.

## When it is wrong
A capture that loses packets evenly all the time looks like a sample. One port only may also be all there was.

## Remedy
Filter by host, never by flags, size or direction, and let ICMP and DNS through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import NEVER
from pcapdiag.findings import SHOWN, Conclusion, Defect, Detector, Domain, Limits, concluded
from pcapdiag.flows.filtered import Filtered
from pcapdiag.flows.table import Quality
from pcapdiag.packets.table import TCP
from pcapdiag.spool import windows
from pcapdiag.stalls.evidence import frames_of, mark
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import CAPTURE_GAP, Confidence, OfFlow, Sign
from pcapdiag.trace import Tables, Trace

CODE = "filtered-capture"
_SAYS = {
    Filtered.FLAGS: "holds only packets that open or close connections",
    Filtered.PUSH: "holds only pushed packets and those that open or close connections",
    Filtered.NO_ACKS: "holds no pure acknowledgments, only packets with data",
    Filtered.SHORT: "holds only short packets",
    Filtered.SAMPLED: "holds a sample of the packets",
    Filtered.DECLARED: "was captured with a filter",
    Filtered.PORT: "holds a single port and no other frame",
}
_SURE = {Filtered.PORT: 0.6, Filtered.SAMPLED: 0.85}


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """Torn connections, of which nothing is known but handshakes that were tried again; and a few packets with holes."""
    flows = trace.flows
    for capture, quality in enumerate(trace.quality):
        rule = Filtered(quality.filtered)
        if rule is Filtered.NO:
            continue
        mine = np.flatnonzero((flows.proto == TCP) & (flows.capture == capture))
        holes = _holes(trace, capture)
        shown = holes or flows.begin[mine[:1]].tolist()
        note = "the bytes before this packet are not in the file" if holes else "first packet of the capture's connections"
        frames = frames_of(trace, ((row, note) for row in shown))
        yield mark(CODE, frames)
        if rule not in {Filtered.FLAGS, Filtered.PUSH, Filtered.SHORT, Filtered.SAMPLED}:
            continue
        # Handshakes that took more than one try say so by flags alone.
        tried_again = (flows.syn_count > 1) | (flows.syn_ack_count > 1)
        known_ns = np.where(tried_again & (flows.syn_ack_ns < NEVER) & (rule is not Filtered.SAMPLED), flows.syn_ack_ns, flows.first_ns)
        end_ns = int(flows.last_ns[mine].max()) + 1
        blank = Sign(
            label=CAPTURE_GAP, scope=OfFlow(-1), start_ns=0, end_ns=0, frames=frames[:2],
            confidence=Confidence(0.95, ("packets left out by a filter",)),
        )  # fmt: skip
        for flow in mine.tolist():
            yield replace(blank, scope=OfFlow(flow), start_ns=int(known_ns[flow]), end_ns=end_ns)


def _holes(trace: Trace, capture: int) -> list[int]:
    """The first rows of Segments of a capture behind missing bytes."""
    found: list[int] = []
    for part in windows(len(trace.segments), trace.room):
        rows = part.start + np.flatnonzero(trace.segments.gap_len[part] > 0)
        found += rows[trace.flows.capture[trace.segments.flow[rows]] == capture].tolist()
        if len(found) >= SHOWN:
            break
    return found[:SHOWN]


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with a filter."""
    return concluded(CODE, tables, signs, _defect)


def _defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
    rule = Filtered(quality.filtered)
    if rule is Filtered.NO:
        return None
    hides = "what is missing was neither lost nor late" if rule.tears else "what it leaves out cannot be excluded as a cause"
    return Defect(
        evidence="packets missing by rule", confidence=_SURE.get(rule, 0.95),
        summary=f"{capture.name} {_SAYS[rule]} ({quality.filter_note}): {hides}",
        contrast="a capture that was overloaded loses packets of all kinds, in bursts",
        details={"variant": rule.value, "note": quality.filter_note}, lowers_verdict=rule.tears,
    )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="A filter left packets out",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Filter by hosts only: tcpdump -s 0 'host <client> and host <server>', with 'or icmp or icmp6 or port 53' added.",
        "Never by flags, length or direction: tcp[tcpflags], greater, src and dst tear connections apart.",
        "Mirror or cloud mirroring: switch sampling off, and take both directions.",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3", "pcap-filter(7)"),
    wireshark_filter="tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment",
)
