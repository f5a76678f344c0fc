"""rto-backoff: the retransmission timer fired again and again, each wait twice the one before.

## What it does
It looks for the same bytes sent at least four times, with gaps that double (RFC 6298 section 5.5), while the receiver's
window was open and nothing was acknowledged. The whole time from when the bytes were due to their acknowledgment, or to
the end of the connection, is one wait.

## Why it matters
Back-off keeps a sender silent long after the path works again: after a four-second outage the next try may be three
seconds away. Linux gives up only after some 15 minutes.

## When it is wrong
It names what TCP did, not why. When only large packets vanish the cause is pmtu-black-hole; when every connection on
the path is silent at once, path-outage. A closed window doubles a timer too (zero-window) and is left out.

## Remedy
Set TCP_USER_TIMEOUT (for example 20 s) so that a client fails over, use connect and read timeouts far below 600 s, and
fix the path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.resend_table import ResendKind
from pcapdiag.flows.resent_stretches import Stretches, tallied
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.sends import sends_of
from pcapdiag.flows.waits import wait_of
from pcapdiag.packets.table import RST
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.DEAD, 9, "rto-backoff")
LIMITS = Limits(
    least_ratio=Limit(1.7, "", "a doubled timer, with the jitter of clocks and captures"),
    most_ratio=Limit(2.3, "", "a doubled timer, with the jitter of clocks and captures"),
    doublings=Limit(2, "", "one doubled gap is chance or a probe before a timer; two in a row are RFC 6298 section 5.5"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One series of timeouts."""

    sends: int
    longest_gap_ns: int
    resent: tuple[ResendKind, ...] = ()
    """What each resend was."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per series, on the whole direction: no byte behind these could be delivered."""
    found = trace.tcp.recoveries
    trips, stretches = RoundTrips(trace.tcp), Stretches(trace.tcp)
    enough = found.at_sender & ~found.spurious & (found.resends > limits.doublings)
    enough &= ~trace.flows.one_way[found.fd >> 1]  # one direction alone does not show what the receiver had
    for row in trace.paced(np.flatnonzero(enough).tolist()):
        wait = wait_of(trace.tcp, trips, row)
        fd = int(found.fd[row])
        sends = sends_of(trace.tcp, fd, int(found.start[row]), from_ns=int(found.first_ns[row]), until_ns=wait.end_ns)
        gaps = np.diff(trace.segments.ts_ns[sends])
        if not _doubles(gaps, limits) or _window_closed(trace, fd, wait.start_ns, wait.end_ns):
            continue
        flow, direction = divmod(fd, 2)
        sure = Confidence(0.95, (f"{len(sends)} sends of the same bytes with doubling gaps",))
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction), start_ns=wait.start_ns, end_ns=wait.end_ns, at_least=wait.at_least,
            confidence=sure,
            facts=Facts(len(sends), int(gaps.max()), stretches.kinds(row)),
            frames=frames_of(trace, (
                *((int(send), f"the same bytes, transmission {i + 1}") for i, send in enumerate(sends[:6].tolist())),
                (int(found.done_segment[row]), "acknowledged"),
            )),
        )  # fmt: skip


def _doubles(gaps: I64, limits: Limits) -> bool:
    """Are there enough gaps in a row, each about twice the one before?"""
    if len(gaps) < 2:
        return False
    ratio = gaps[1:] / np.maximum(gaps[:-1], 1)
    run = best = 0
    for doubled in ((ratio >= limits.least_ratio) & (ratio <= limits.most_ratio)).tolist():
        run = run + 1 if doubled else 0
        best = max(best, run)
    return best >= limits.doublings


def _window_closed(trace: Trace, fd: int, start_ns: int, end_ns: int) -> bool:
    """Did the receiver advertise a zero window meanwhile? Then the persist timer speaks (RFC 9293 section 3.8.6.1)."""
    flow, direction = divmod(fd, 2)
    rows = slice(int(trace.flows.begin[flow]), int(trace.flows.stop[flow]))
    seg = trace.segments
    meanwhile = (seg.ts_ns[rows] >= start_ns) & (seg.ts_ns[rows] <= end_ns) & (seg.direction[rows] != direction)
    tells = (seg.ack[rows] >= 0) & ((seg.flags[rows] & RST) == 0)
    return bool((meanwhile & tells & (seg.window[rows] == 0)).any())


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        series = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        most = max(one.sends for one in series)
        longest = max(one.longest_gap_ns for one in series)
        yield share.concluded(
            LABEL.code,
            summary=f"{share.requests} between {share.client} and {share.server} waited {share.stall_ns / 1e9:.2f} s while "
            f"the same bytes were sent up to {most} times without an answer, the last waits up to {longest / 1e9:.1f} s apart",
            contrast="with a closed window the receiver would have acknowledged the probes; nothing was acknowledged",
            details={
                "sends": most, "longest_gap_s": round(longest / 1e9, 6),
                "resent": tallied(kind for one in series for kind in one.resent),
            },
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Repeated retransmission timeouts",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Let clients fail over: set TCP_USER_TIMEOUT (for example 20,000 ms) and connect and read timeouts far below 600 s.",
        "Find where packets vanish: mtr -T -P <port> <server>, and compare captures of both ends.",
    ),
    references=("RFC 6298 section 5.5", "RFC 5482"),
    wireshark_filter="tcp.analysis.rto > 0.4",
)
