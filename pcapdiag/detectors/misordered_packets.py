"""misordered-packets: records of the file do not lie in the order of their times.

## What it does
It counts records earlier than the one before them. They were sorted by time before anything else was measured.

## Why it matters
Read in the order of the file, an acknowledgment may come before its data, and a packet behind the next one looks like
loss or reordering on the network.

## When it is wrong
Never about the file. If the times themselves are wrong (queues or cards with clocks of their own), sorting cannot mend
them, and packets less than a millisecond apart may still stand in the wrong order.

## Remedy
One clock for all packets: one interface, one receive queue; merge files by time, not by concatenation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcapdiag.capture.frames import Capture
from pcapdiag.findings import Conclusion, Defect, Detector, Domain, Limits, concluded, shown
from pcapdiag.flows.table import Quality
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Sign
from pcapdiag.trace import Tables, Trace

CODE = "misordered-packets"


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first records that step back."""
    return shown(trace, CODE, lambda quality: quality.backward_frames, "earlier than the record before it")


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture out of order."""
    return concluded(CODE, tables, signs, _defect)


def _defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
    count, untimely = quality.backward_steps, quality.untimely
    if not count + untimely:
        return None
    told = []
    if count:
        are = "record is" if count == 1 else "records are"
        told.append(
            f"{count:,} {are} earlier than the one before in {capture.name}, by {quality.backward_max_ns / 1e9:.6f} s at most: "
            f"packets were put in the order of their times"
        )
    if untimely:
        have = "record has a time that its connection contradicts" if untimely == 1 else "records have times that connections contradict"
        told.append(f"{untimely:,} {have} in {capture.name}: they were given the time of the record before")
    return Defect(
        evidence="record times that go back",
        summary="; ".join(told),
        contrast="packets that the network reordered have rising times and falling sequence numbers",
        details={"backward_steps": count, "backward_max_s": round(quality.backward_max_ns / 1e9, 6), "untimely": untimely},
    )


DETECTOR = Detector(
    code=CODE,
    title="Records out of the order of time",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture on one interface with one receive queue: ethtool -L <interface> combined 1 while capturing.",
        "Merge files by time: mergecap -w all.pcapng a.pcapng b.pcapng (without -a).",
        "Old files for other tools: reordercap in.pcapng out.pcapng",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3",),
    wireshark_filter="frame.time_delta < 0",
)
