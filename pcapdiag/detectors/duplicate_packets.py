"""duplicate-packets: the capture holds the same packets twice; the network sent them once.

## What it does
It counts packets that equal an earlier one in addresses, IP-ID, sequence numbers, flags, window, timestamps and length,
within 10 ms, as a resend never does. They were set aside before anything else was measured.

## Why it matters
Tools that keep the copies count every one as a retransmission or duplicate ACK and report heavy loss on a healthy path.
Here they cost nothing: no diagnosis is built on them.

## When it is wrong
IPv6 and packets with IP-ID 0 have no number; without timestamps such copies count only within 1 ms, or where the
capture copies many others.

## Remedy
Capture on one interface instead of `any`, or one side of a bridge; mirror a port in one place. Old files:
`editcap -d in.pcap out.pcap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limits
from pcapdiag.stalls.evidence import frames_of_packets, mark, marked
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Sign
from pcapdiag.trace import Tables, Trace

CODE = "duplicate-packets"
SHOWN = 6


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first copies."""
    for capture, quality in enumerate(trace.quality):
        if quality.copies:
            numbers = quality.copy_frames[:SHOWN]
            rows = np.flatnonzero((trace.packets.capture == capture) & np.isin(trace.packets.frame, numbers))
            yield mark(CODE, frames_of_packets(trace, rows.tolist(), "a copy of an earlier packet"))


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with copies."""
    for capture, quality in enumerate(tables.quality):
        if not quality.copies:
            continue
        frames = tables.captures[capture].frame_count
        yield Conclusion(
            code=CODE, kind=FindingKind.CAPTURE, confidence=Confidence(0.95, ("same IP-ID, sequence numbers and timestamps within 10 ms",)),
            frames=marked(signs, capture),
            summary=f"{quality.copies:,} of {frames:,} frames in {tables.captures[capture].name} are copies that the capture made; "
            f"they were set aside and are no retransmissions",
            contrast="a resent packet carries a new IP-ID or timestamp and comes a round trip later",
            details={"copies": quality.copies, "frames": frames},
        )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="The capture holds packets twice",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture on one interface: tcpdump -i eth0, not -i any; one side of a bridge or veth pair.",
        "Mirror port: mirror each packet once (one direction on inner ports, or both on the uplink only).",
        "Other tools need the copies gone first: editcap -d in.pcap out.pcap",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3", "RFC 6864"),
    wireshark_filter="tcp.analysis.retransmission || tcp.analysis.duplicate_ack",
)
