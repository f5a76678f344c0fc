"""Grades a capture A to F by what it did to the traffic, and says what to capture better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pcapdiag.flows.filtered import Filtered

GRADES: Final = "ABCDF"
"""A: nothing in the way of a verdict; F: no verdict possible."""

ADVICE: Final[dict[str, str]] = {
    "capture-loss": "Capture with a bigger buffer and less per packet (tcpdump -B 65536 -s 128) until it reports 0 packets dropped.",
    "clipped-end": "Stop the capture with Ctrl-C (SIGINT) and write it through (tcpdump -U), so that its file ends whole.",
    "clock-step": "Keep the capturing host's clock from stepping while it captures (chrony without makestep; no date, no ntpdate).",
    "duplicate-packets": "Capture on one interface instead of any, and mirror each packet only once.",
    "filtered-capture": "Capture without a filter on flags, sizes or samples: host <client> and host <server> keeps whole connections.",
    "mid-stream-start": "Start the capture before the client opens its connections.",
    "misordered-packets": "Let one clock stamp all packets: one interface, one receive queue, no merging by file order.",
    "offload-segments": "For true packet sizes capture with offloads off (ethtool -K <interface> tso off gso off gro off lro off).",
    "one-way-capture": "Capture both directions: at an end host, or mirror both receive and transmit of its port.",
    "snaplen-cut": "Capture whole packets: tcpdump -s 0.",
}
"""Code of a defect -> the sentence that says what to do better next time."""
NOTHING = "Nothing was captured: check interface and filter (tcpdump -D lists interfaces, tcpdump -i <interface> -c 10 shows packets)."
UNREAD = "No frame held an IP packet that can be read: capture where the traffic is plain IP, with whole headers (tcpdump -s 0)."
_FILTERED = {Filtered.FLAGS: 3, Filtered.PUSH: 4, Filtered.SHORT: 4, Filtered.SAMPLED: 4, Filtered.NO_ACKS: 2}
"""Handshakes can still be judged by their flags alone, and losses without pure acknowledgments; samples tell nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defects:
    """What grades a capture; ratios are 0 to 1."""

    packets: int
    """IP packets."""
    frames: int
    unseen: float
    """Bytes acknowledged but never captured."""
    dropped: float
    """Frames the capturing system dropped."""
    one_way: float
    """TCP connections seen in one direction only."""
    midstream: float
    """TCP connections older than the capture."""
    snapped: float
    """Packets captured in part."""
    copied: float
    """Packets that are copies."""
    misordered: bool
    clock_stepped: bool
    offloaded: bool
    cut: bool
    """The file ends inside a record."""
    filtered: Filtered


def grade(defects: Defects) -> tuple[str, str]:
    """(grade, advice); the worst single defect decides. The advice is "" for an A."""
    if not defects.packets:
        return "F", UNREAD if defects.frames else NOTHING
    torn = defects.filtered.tears
    worst = {
        "filtered-capture": _FILTERED.get(defects.filtered, 0),
        "one-way-capture": _band(defects.one_way, 0.0, 0.1, 0.5, 0.9),
        # What a filter left out the capture did not lose.
        "capture-loss": _band(defects.dropped if torn else max(defects.unseen, defects.dropped), 0.0, 0.01, 0.05, 0.2),
        "snaplen-cut": _band(defects.snapped, 0.0, 0.1),
        "clock-step": 2 if defects.clock_stepped else 0,
        "duplicate-packets": _band(defects.copied, 0.0, 0.2),
        "mid-stream-start": _band(defects.midstream, 0.2, 0.9),
        "clipped-end": int(defects.cut),
        "misordered-packets": int(defects.misordered),
        "offload-segments": int(defects.offloaded),
    }
    code = max(worst, key=lambda code: worst[code])  # of equals the first: the order above is that of harm
    return GRADES[worst[code]], ADVICE[code] if worst[code] else ""


def _band(value: float, *edges: float) -> int:
    """How many edges the value lies above."""
    return sum(value > edge for edge in edges)
