"""snaplen-cut: the capture kept only the beginning of packets.

## What it does
It counts frames of which fewer bytes were captured than were sent. Sequence numbers and lengths come from the headers,
so TCP times, losses and byte counts stay right; what was cut off cannot be read.

## Why it matters
Requests, responses, HTTP/2 frames and TLS records behind the cut are unknown. Exchanges on such connections are
inferred from turns of direction, and causes inside HTTP/2, gRPC, TLS and DNS may stay unseen.

## When it is wrong
Never: the file says so itself.

## Remedy
Capture whole packets: `tcpdump -s 0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcapdiag.capture.frames import Capture
from pcapdiag.findings import Conclusion, Defect, Detector, Domain, Limit, Limits, concluded, shown
from pcapdiag.flows.table import Quality
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Sign
from pcapdiag.trace import Tables, Trace

CODE = "snaplen-cut"
LIMITS = Limits(harmless_ratio=Limit(0.1, "", "up to one packet with data in ten cut leaves most exchanges readable (quality grade B)"))


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first packets that were cut."""
    return shown(trace, CODE, lambda quality: quality.cut_frame_numbers, "only its beginning was captured")


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with cut packets."""
    return concluded(CODE, tables, signs, _defect)


def _defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
    if not quality.cut_frames:
        return None
    snaplens = sorted({interface.snaplen for interface in capture.interfaces if interface.snaplen})
    limit = f" (snapshot length {', '.join(map(str, snaplens))})" if snaplens else ""
    return Defect(
        evidence="captured length below the length on the wire", confidence=0.98,
        summary=f"{quality.cut_frames:,} packets in {capture.name} were captured in part{limit}: TCP is judged "
        f"from their headers, requests and responses behind the cut cannot be read",
        contrast="packets that were damaged on the way would fail their checksums, not end at one length",
        details={"cut_frames": quality.cut_frames, "tcp_data_packets": quality.tcp_data_packets, "snaplens": snaplens},
        lowers_verdict=quality.cut_frames > LIMITS.harmless_ratio * max(quality.tcp_data_packets, 1),
    )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="Packets captured in part",
    domain=Domain.CAPTURE,
    label=None,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture whole packets: tcpdump -s 0 (dumpcap -s 262144).",
        "If size or privacy forbids that: -s 200 keeps all headers, and TCP diagnoses stay whole; HTTP ones do not.",
    ),
    references=("draft-ietf-opsawg-pcapng section 4.3 (Captured Packet Length, Original Packet Length)",),
    wireshark_filter="frame.cap_len < frame.len",
)
