"""capture-loss: packets that crossed the wire are not in the file; the network did not lose them.

## What it does
It adds up bytes that the receiver acknowledged but no captured packet holds, and the drop counters that the capturing
system wrote into the file. Time in which an exchange's own bytes were missing in this way is taken out of every
diagnosis (`capture-gap` in the ledger): nobody can say what happened then.

## Why it matters
A hole that the capture made looks like a loss, and the acknowledgment behind it like a miracle. Above a few percent no
verdict about loss can be trusted, and requests or responses in the holes cannot be read.

## When it is wrong
Bytes that went another way (two links, asymmetric routing) are missing here too; the file still lacks them. A filter
that leaves out part of a connection has the same effect.

## Remedy
A bigger buffer (`tcpdump -B 65536`), fewer bytes per packet (`-s 128` where headers suffice), a filter on the hosts of
interest, a faster disk or `-w` into memory; then look at "packets dropped by kernel" when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pcapdiag.columns import I64, Bools
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits
from pcapdiag.flows.filtered import Filtered
from pcapdiag.flows.pieces import first_ack
from pcapdiag.stalls.evidence import frames_of, mark, marked
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import CAPTURE_GAP, Confidence, OfFlow, Sign
from pcapdiag.trace import Tables, Trace

CODE = "capture-loss"
LIMITS = Limits(
    least_gap=Limit(5, "ms", "a shorter gap hides no stall; interrupt coalescing alone takes milliseconds"),
    harmless_ratio=Limit(0.01, "", "up to one byte in a hundred missing leaves a verdict standing (quality grade B)"),
    harmless_gap=Limit(200, "ms", "the stall trigger: less time unexplained hides no stall"),
)
SHOWN = 6


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One capture-gap sign per gap that lasted, on the bytes that were not captured; and the first gaps as evidence."""
    gaps, tcp = trace.tcp.gaps, trace.tcp
    if not len(gaps):
        return
    row = first_ack(tcp.acks, gaps.fd, gaps.stop - 1)
    ack = np.append(tcp.acks.segment, -1)[row]
    captures = trace.flows.capture[gaps.fd // 2]
    shown = {int(at) for capture in np.unique(captures) for at in _largest(gaps.stop - gaps.start, captures == capture)}
    for at in trace.paced(range(len(gaps))):
        lasted = gaps.stop_ns[at] - gaps.start_ns[at] >= limits.ns("least_gap")
        if not (lasted or at in shown):
            continue
        missing = int(gaps.stop[at] - gaps.start[at])
        frames = frames_of(trace, (
            (int(gaps.segment[at]) if gaps.segment[at] != ack[at] else -1, f"{missing} bytes before this packet are not in the file"),
            (int(ack[at]), f"acknowledges {missing} bytes that no packet in this file holds"),
        ))  # fmt: skip
        if at in shown:
            yield mark(CODE, frames)
        if lasted:
            flow, direction = divmod(int(gaps.fd[at]), 2)
            yield Sign(
                label=CAPTURE_GAP, scope=OfFlow(flow, direction, int(gaps.start[at]), int(gaps.stop[at])),
                start_ns=int(gaps.start_ns[at]), end_ns=int(gaps.stop_ns[at]), frames=frames,
                confidence=Confidence(0.95, ("bytes acknowledged, never captured, never resent",)),
            )  # fmt: skip


def _largest(size: I64, mine: Bools) -> list[int]:
    rows = np.flatnonzero(mine)
    return [int(row) for row in rows[np.argsort(-size[rows], kind="stable")][:SHOWN]]


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture that lacks packets."""
    for capture, quality in enumerate(tables.quality):
        dropped = quality.dropped_count or 0
        lost = 0 if Filtered(quality.filtered).tears else quality.unseen_bytes  # what a filter left out the capture did not lose
        if not lost and not dropped:
            continue
        said = []
        if lost:
            said.append(
                f"{quality.unseen_bytes:,} acknowledged bytes ({quality.capture_loss_ratio:.1%}) are not in {tables.captures[capture].name}"
            )
        if dropped:
            said.append(f"the capturing system says it dropped {dropped:,} packets")
        hidden_ns = sum(
            entry.duration_ns for entry in ledger.entries(CAPTURE_GAP.code)
            if int(tables.flows.capture[tables.exchanges[entry.owner].flow]) == capture
        )  # fmt: skip
        hides = f"{hidden_ns / 1e9:.2f} s of requests cannot be explained for it" if hidden_ns else "no request's time is hidden by it"
        yield Conclusion(
            code=CODE, kind=FindingKind.CAPTURE, confidence=Confidence(0.95, ("acknowledged bytes without packets, or drop counters",)),
            frames=marked(signs, capture), summary="; ".join(said) + f": {hides}",
            contrast="bytes that the network lost would have been sent again, or never acknowledged",
            details={
                "unseen_bytes": quality.unseen_bytes, "capture_loss_ratio": round(quality.capture_loss_ratio, 6),
                "dropped_count": quality.dropped_count, "hidden_s": round(hidden_ns / 1e9, 6),
            },
            lowers_verdict=quality.capture_loss_ratio > LIMITS.harmless_ratio or hidden_ns > LIMITS.ns("harmless_gap"),
        )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="The capture lost packets",
    domain=Domain.CAPTURE,
    label=None,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture again with a bigger buffer: tcpdump -B 65536 -w trace.pcap (KiB), and read its closing line 'packets dropped by kernel'.",
        "Keep less: a filter on the hosts of interest, -s 128 when headers suffice (encrypted traffic); write to a fast disk or tmpfs.",
        "At the card: ethtool -S <interface> | grep -i -E 'drop|miss', ethtool -G <interface> rx 4096.",
        "On a mirror port: its own link may be too slow for both directions; mirror less, or capture at an end host.",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3", "RFC 9293 section 3.4"),
    wireshark_filter="tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment",
)
