"""offload-segments: the capture shows packets larger than the wire carried.

## What it does
It counts TCP packets with more payload than the receiver's MSS allows. The card cuts them up behind the capture (TSO,
GSO) or put them together before it (GRO, LRO). Times and byte counts stay right; packet sizes and counts do not.

## Why it matters
Such a packet is no proof that the path carries jumbo frames, no micro-burst and no cause of an MTU problem; one line
stands for up to 45 packets, of which single ones may be lost without showing.

## When it is wrong
With jumbo frames on and no handshake in the capture the MSS is unknown; then only payloads above 9,000 bytes count.

## Remedy
For diagnoses that need true sizes capture with offloads off (`ethtool -K <interface> gro off lro off tso off gso off`;
that costs CPU), or on a mirror port or another host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcapdiag.capture.frames import Capture
from pcapdiag.findings import Conclusion, Defect, Detector, Domain, Limits, concluded, shown
from pcapdiag.flows.table import Quality
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Sign
from pcapdiag.trace import Tables, Trace

CODE = "offload-segments"


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first packets above the MSS."""
    return shown(trace, CODE, lambda quality: quality.super_segment_frames, "more payload than the MSS")


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with packets above the MSS."""
    return concluded(CODE, tables, signs, _defect)


def _defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
    if not quality.super_segments:
        return None
    share = quality.super_segments / max(quality.tcp_data_packets, 1)
    return Defect(
        evidence="payload above the MSS of the connection",
        summary=f"{quality.super_segments:,} packets ({share:.0%} of those with data) in {capture.name} are larger than the MSS: "
        f"segmentation or receive offload; sizes and bursts under a millisecond are not the wire's, times are",
        contrast="on a path with jumbo frames the handshake would announce an MSS that large",
        details={"super_segments": quality.super_segments, "tcp_data_packets": quality.tcp_data_packets},
    )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="Packets larger than the wire carried",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "For true packet sizes: ethtool -K <interface> gro off lro off tso off gso off while capturing, and on again after.",
        "Or capture on a mirror port, a tap or the next hop instead of the end host.",
    ),
    references=("RFC 9293 section 3.7.1", "Linux kernel, Documentation/networking/segmentation-offloads.rst"),
    wireshark_filter="tcp.len > 1460",
)
