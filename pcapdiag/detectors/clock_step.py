"""clock-step: the clock of the capturing host jumped while it captured.

## What it does
It reports where capture time jumped against the clocks of the captured hosts: the TCP timestamps of at least two of them
disagree with it from one packet to the next, by the same amount and for good. Without timestamps a jump backwards shows
when connections go on, byte by byte, in the order of the file although time goes back. All times behind a step were
moved back by it before anything else was measured, so no wait crosses it.

## Why it matters
A jump forwards looks like a freeze of every connection, one backwards like packets out of order and holes without end.
Times behind a step are not those that other tools show.

## When it is wrong
A host that slept and captured itself moves only its own timestamps, and is not reported. Jumps forwards are not found
without TCP timestamps, nor below half a second.

## Remedy
Let the capturing host's clock run: start the capture once time synchronisation has settled, or have it slew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcapdiag.capture.frames import Capture
from pcapdiag.findings import Conclusion, Defect, Detector, Domain, Limits, concluded, shown
from pcapdiag.flows.table import Quality
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Sign
from pcapdiag.trace import Tables, Trace

CODE = "clock-step"


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first packet behind each step."""
    return shown(trace, CODE, lambda quality: [frame for frame, _ in quality.clock_steps], "first packet behind a step of the clock")


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture whose clock stepped."""
    return concluded(CODE, tables, signs, _defect)


def _defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
    steps = quality.clock_steps
    if not steps:
        return None
    listed = ", ".join(f"{step_ns / 1e9:+.3f} s before frame {frame:,}" for frame, step_ns in steps[:3])
    more = f" and {len(steps) - 3} more" if len(steps) > 3 else ""
    return Defect(
        evidence="capture time against the TCP timestamps of both ends, and the order of the file",
        summary=f"the clock of {capture.name} stepped {'once' if len(steps) == 1 else f'{len(steps)} times'} ({listed}{more}): "
        f"times behind a step are given here without it",
        contrast="a network that froze would have held packets back, not moved the clocks of both ends at once and for good",
        details={"steps": [{"frame": frame, "step_s": round(step_ns / 1e9, 6)} for frame, step_ns in steps]},
    )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="The capture's clock jumped",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Start capturing once time is synchronised (chronyc waitsync), and let chrony slew: makestep only at start.",
        "Virtual machines: switch off the guest tools' time synchronisation while capturing.",
        "Cards with clocks of their own: tcpdump --time-stamp-type=adapter_unsynced is not moved by the host's clock.",
    ),
    references=("RFC 7323 section 5.4", "Paxson, On Calibrating Measurements of Packet Transit Times, SIGMETRICS 1998"),
    wireshark_filter="frame.time_delta < 0 || frame.time_delta > 0.5",
)
