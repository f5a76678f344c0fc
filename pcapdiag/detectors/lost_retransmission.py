"""lost-retransmission: a lost packet was resent at once, and the resend was lost as well.

## What it does
It takes every stretch of lost bytes that was resent on SACK, duplicate ACKs or RACK, where that resend vanished behind
the capture too, so that a third copy was needed (RFC 8985). The whole time from when the bytes were due to their acknowledgment is charged
to the requests that own them. Where only the timer brought the third copy, it is tail-loss-rto.

## Why it matters
A fast retransmission costs one round trip, its loss at least one more. A sender without RACK would have to wait for its
timer. Losses that hit resends come from bursts or a high rate of loss, not from a rare accident.

## When it is wrong
Only a capture on the sender's side of the loss shows it: beyond, the first resend was never seen, and the stall looks
like one long loss. A resend whose original arrived after all is no loss; timestamps and DSACK tell.

## Remedy
Find the lossy hop; keep RACK on (`sysctl net.ipv4.tcp_recovery` = 1), which resends lost resends without the timer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.icmp_join import losses_of
from pcapdiag.flows.resend_table import ResendKind
from pcapdiag.flows.resent_stretches import Stretches, tallied
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import Repair
from pcapdiag.flows.waits import wait_of
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LOSS, 4, "lost-retransmission")
LIMITS = Limits(least_wait=Limit(1, "ms", "shorter waits than a scheduler tick cost nobody anything"))


@dataclass(frozen=True, slots=True)
class Facts:
    """One stretch of bytes whose resend was lost."""

    lost_bytes: int
    resent: tuple[ResendKind, ...]
    """What each resend was."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per such stretch, on the bytes that were missing."""
    found = trace.tcp.recoveries
    trips = RoundTrips(trace.tcp)
    told, stretches = losses_of(trace.packets, trace.tcp), Stretches(trace.tcp)
    again = found.at_sender & ~found.spurious & (found.resends > 1) & (found.repair == Repair.FAST)
    for row in trace.paced(np.flatnonzero(again).tolist()):
        if row in told or not stretches.lost_again(row):
            continue
        wait = wait_of(trace.tcp, trips, row)
        if wait.end_ns - wait.start_ns < limits.ns("least_wait"):
            continue
        flow, direction = divmod(int(found.fd[row]), 2)
        rows = stretches.rows(row)
        notes = [(int(found.first_segment[row]), "sent; lost behind the capture")]
        notes += [(int(segment), f"resent, copy {copy}") for copy, segment in enumerate(trace.tcp.resends.segment[rows[:4]].tolist(), 2)]
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction, int(found.start[row]), int(found.stop[row])), start_ns=wait.start_ns,
            end_ns=wait.end_ns, at_least=wait.at_least,
            confidence=Confidence(0.95, ("the bytes pass at least three times, SACK or duplicate ACKs between",)),
            facts=Facts(int(found.stop[row] - found.start[row]), stretches.kinds(row)),
            frames=frames_of(trace, (*notes, (int(found.done_segment[row]), "acknowledged"))),
        )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        losses = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        count = len(losses)
        yield share.concluded(
            LABEL.code,
            summary=f"{count} lost {'stretch' if count == 1 else 'stretches'} of bytes between {share.client} and {share.server} "
            f"{'was' if count == 1 else 'were'} lost again when resent (between the capture and the receiver): {share.requests} waited "
            f"{share.stall_ns / 1e9:.2f} s for a third copy",
            contrast="a single loss would have been made good by its first resend, one round trip later",
            details={
                "losses": count, "lost_bytes": sum(loss.lost_bytes for loss in losses),
                "resent": tallied(kind for loss in losses for kind in loss.resent),
            },
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="A resent packet was lost again",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Find the lossy hop: mtr -T -P 443 <server>, from both ends; losses that hit resends too come in bursts or at a high rate.",
        "Keep RACK on, which resends lost resends without waiting for the timer: sysctl net.ipv4.tcp_recovery=1",
    ),
    references=("RFC 8985 section 6", "RFC 6675"),
    wireshark_filter="tcp.analysis.retransmission && tcp.analysis.rto_frame",
)
