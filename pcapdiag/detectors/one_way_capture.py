"""one-way-capture: of some connections only one direction is in the file.

## What it does
It counts TCP connections of which one side's packets are all missing although the side that is there acknowledges bytes
or goes on after acknowledgments: the other side did speak, elsewhere.

## Why it matters
Without the answers a resend cannot be told from a needless one, round trips and think time cannot be measured, and a
missing response looks like a dead server. On such connections every cause is capped at confidence 0.4.

## When it is wrong
A host that really never answered shows SYNs or resends only, and is not counted.

## Remedy
Capture at one of the end hosts, or mirror both directions (receive and transmit) of the port; with asymmetric routing
or link aggregation capture every link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits
from pcapdiag.packets.table import TCP
from pcapdiag.stalls.evidence import frames_of, mark, marked
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Sign
from pcapdiag.trace import Tables, Trace

CODE = "one-way-capture"
LIMITS = Limits(harmless_ratio=Limit(0.1, "", "up to one connection in ten leaves a verdict about the others standing (quality grade B)"))
SHOWN = 6
SIDES = ("client", "server")


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first acknowledgment of each of the first one-way connections: it answers packets that are not here."""
    seg = trace.segments
    for flow in np.flatnonzero(trace.flows.one_way & (trace.flows.proto == TCP))[:SHOWN].tolist():
        begin, stop = int(trace.flows.begin[flow]), int(trace.flows.stop[flow])
        at = begin + int(np.argmax(seg.ack[begin:stop] >= 0))
        side, other = SIDES[int(seg.direction[at])], SIDES[1 - int(seg.direction[at])]
        yield mark(CODE, frames_of(trace, ((at, f"the {side} acknowledges the {other}, of whom no packet is here"),)))


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with one-way connections."""
    for capture, quality in enumerate(tables.quality):
        if not quality.one_way_flows:
            continue
        flows = tables.flows
        mine = np.flatnonzero(flows.one_way & (flows.proto == TCP) & (flows.capture == capture))
        hit = int(((flows.capture == capture) & flows.one_way)[tables.exchanges.flow].sum())
        yield Conclusion(
            code=CODE, kind=FindingKind.CAPTURE, confidence=Confidence(0.95, ("acknowledgments of packets that are not here",)),
            flows=tuple(mine.tolist()), frames=marked(signs, capture),
            summary=f"of {quality.one_way_flows} of {quality.tcp_flows} TCP connections in {tables.captures[capture].name} only one "
            f"direction was captured: waits on them have no known cause",
            contrast="a peer that never answered would not be acknowledged",
            details={"one_way_flows": quality.one_way_flows, "tcp_flows": quality.tcp_flows, "exchanges": hit},
            lowers_verdict=quality.one_way_flows > LIMITS.harmless_ratio * quality.tcp_flows,
        )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="Only one direction was captured",
    domain=Domain.CAPTURE,
    label=None,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture at an end host: tcpdump -i <its interface> -s 0 -w trace.pcap host <peer>",
        "Mirror port: mirror both directions (rx and tx) of the host's port.",
        "Asymmetric routing or a bond: capture on all links, then mergecap -w both.pcap one.pcap two.pcap",
        "Check the filter: 'src host' or 'dst port' keeps one direction only; use 'host' and 'port'.",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3", "RFC 9293 section 3.4"),
    wireshark_filter="tcp.analysis.ack_lost_segment",
)
