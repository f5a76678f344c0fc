"""tail-loss-rto: the last segments of a burst were lost, and only a timer could bring them back.

## What it does
It takes every stretch of lost bytes behind which nothing arrived that could have reported the loss, so that the sender
had to wait for its retransmission timer or a tail loss probe (RFC 6298, RFC 8985 section 7). At the sender the same
bytes pass twice with no progress between. At the receiver there is no hole: data comes late, and skipped IP-IDs show
that earlier packets of the sender never arrived. Bytes whose fast retransmission was lost, so that the timer had to bring
them, are among them.

## Why it matters
A fast retransmission costs one round trip; a timer costs at least 200 ms on Linux, and doubles when it fires in vain.
Agents feel it most: a small request or the end of an answer is all tail.

## When it is wrong
At the receiver only IP-IDs tell a lost tail from a sender that was quiet. Hosts that send no TCP timestamps, as Windows
does not, count IP-IDs for all their connections together: of those, and without IP-IDs, nothing is said. A lone
acknowledgment lost in the other direction looks the same at the sender until timestamps or DSACK show the resend was
needless.

## Remedy
Find the lossy hop (`mtr -T -P 443 <server>`); keep tail loss probes on (`sysctl net.ipv4.tcp_early_retrans` = 3,
`net.ipv4.tcp_recovery` = 1); inside a data centre lower the floor with `ip route change <dst> rto_min 20ms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.icmp_join import losses_of
from pcapdiag.flows.resend_table import ResendKind
from pcapdiag.flows.resent_stretches import Stretches, tallied
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.sends import sends_of
from pcapdiag.flows.table import Repair
from pcapdiag.flows.waits import wait_of
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LOSS, 3, "tail-loss-rto")
LIMITS = Limits(least_wait=Limit(1, "ms", "shorter waits than a scheduler tick cost nobody anything"))


@dataclass(frozen=True, slots=True)
class Facts:
    """One loss repaired by a timer."""

    sends: int
    """Of its first byte, seen at the tap."""
    behind_tap: bool
    tail: bool
    resent: tuple[ResendKind, ...] = ()
    """What each packet was that brought bytes of it again."""
    lost_again: bool = False
    """A fast retransmission had been tried first, and was lost too."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per loss repaired by a timer or probe, or not at all, on the bytes that were missing."""
    found = trace.tcp.recoveries
    trips = RoundTrips(trace.tcp)
    told, stretches = losses_of(trace.packets, trace.tcp), Stretches(trace.tcp)
    timer = np.isin(found.repair, (Repair.TIMEOUT, Repair.PROBE))
    seen = ~trace.flows.one_way[found.fd >> 1]  # one direction alone does not show what the receiver had
    for row in trace.paced(np.flatnonzero(timer & ~found.spurious & seen).tolist()):
        wait = wait_of(trace.tcp, trips, row)
        if row in told or wait.end_ns - wait.start_ns < limits.ns("least_wait"):
            continue  # a router said why it dropped them: icmp-ptb-honoured or -ignored
        flow, direction = divmod(int(found.fd[row]), 2)
        here, tail = bool(found.at_sender[row]), bool(found.tail[row])
        first_note = (
            "sent; no acknowledgment comes" if here else ("last packet before the silence" if tail else "bytes before it are missing")
        )
        resent_note = "the bytes, resent by timer" if here else ("the bytes come, behind skipped IP-IDs" if tail else "the missing bytes")
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction, int(found.start[row]), int(found.stop[row])), start_ns=wait.start_ns,
            end_ns=wait.end_ns, confidence=_confidence(trace, row, flow), at_least=wait.at_least,
            facts=Facts(_sends(trace, row), here, tail, stretches.kinds(row), stretches.lost_again(row)),
            frames=frames_of(trace, (
                (int(found.first_segment[row]), first_note),
                (int(found.resent_segment[row]), resent_note),
                (int(found.done_segment[row]) if here else -1, "acknowledged"),
            )),
        )  # fmt: skip


def _sends(trace: Trace, row: int) -> int:
    """How often one byte went out: a stretch of several packets is resent by several, each once."""
    found = trace.tcp.recoveries
    span = int(found.first_ns[row]), int(found.done_ns[row])
    return len(sends_of(trace.tcp, int(found.fd[row]), int(found.start[row]), from_ns=span[0], until_ns=min(span[1], NEVER - 1)))


def _confidence(trace: Trace, row: int, flow: int) -> Confidence:
    found = trace.tcp.recoveries
    if found.at_sender[row]:
        sure = Confidence(0.95, ("bytes seen twice without progress between",))
    elif found.tail[row]:
        sure = Confidence(0.6, ("IP-IDs skipped during the silence",))
    elif trace.flows.timestamps[flow]:
        sure = Confidence(0.6, ("hole filled late with a newer timestamp",))
    else:
        sure = Confidence(0.3, ("hole filled late",))
    return sure


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        losses = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        resent = max((loss.sends for loss in losses), default=1) - 1
        behind_tap = sum(loss.behind_tap for loss in losses)
        behind = behind_tap * 2 > len(losses)
        most = f"; the same bytes went out up to {resent + 1} times" if resent > 1 else ""
        yield share.concluded(
            LABEL.code,
            summary=f"{share.requests} between {share.client} and {share.server} waited {share.stall_ns / 1e9:.2f} s for "
            f"the retransmission timer: the end of a burst was lost {'behind' if behind else 'before'} the capture "
            f"{len(losses)} times{most}",
            contrast="a quiet sender would show no repeated bytes" if behind else "a quiet sender would have continued its IP-IDs",
            details={
                "losses": len(losses), "variant": "tail" if any(loss.tail for loss in losses) else "timeout",
                "before_tap": len(losses) - behind_tap, "behind_tap": behind_tap,
                "resends_lost": sum(loss.lost_again for loss in losses), "resent": tallied(kind for loss in losses for kind in loss.resent),
            },
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Lost end of a burst, repaired by a timer",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Find the lossy hop: mtr -T -P 443 <server>, from both ends.",
        "Keep tail loss probes and RACK on: sysctl net.ipv4.tcp_early_retrans=3 net.ipv4.tcp_recovery=1",
        "Inside a data centre lower the timer's floor: ip route change <dst> rto_min 20ms",
        "Hedge idempotent tool calls after a short wait.",
    ),
    references=("RFC 6298", "RFC 8985 section 7"),
    wireshark_filter="tcp.analysis.rto && !tcp.analysis.fast_retransmission",
)
