"""fast-retransmit-loss: a lost segment was resent on duplicate ACKs or SACK, about one round trip later.

## What it does
It takes every stretch of bytes that was lost and then resent because later packets had arrived (RFC 5681, RFC 6675,
RFC 8985), and charges the requests that own those bytes from when the bytes were due to when they came. Seen from the
sender, the bytes pass the capture twice; seen from the receiver, a hole opens and a packet with a newer timestamp
fills it. The finding says on which side of the capture the packets were lost. Where the resend was lost too, it is
lost-retransmission.

## Why it matters
Each such loss costs a request about one round trip. One is normal on most paths; many per minute on one path add up,
and on an HTTP/2 connection every stream behind the hole waits as well (h2-tcp-hol).

## When it is wrong
Packets that only overtook each other look alike; timestamps and IP-IDs tell them apart, and without both the
confidence is 0.5. Copies made by the capture are removed before. Bytes that the capture itself lost are capture-loss.

## Remedy
Find the lossy hop: `mtr -T -P 443 <server>`. Above 1 % on your own link look for a duplex mismatch, Wi-Fi or optics.
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

LABEL = Label(Tier.LOSS, 6, "fast-retransmit-loss")
LIMITS = Limits(least_wait=Limit(1, "ms", "shorter waits than a scheduler tick cost nobody anything"))


@dataclass(frozen=True, slots=True)
class Facts:
    """One loss."""

    lost_bytes: int
    behind_tap: bool
    """Lost between the capture and the receiver; else before the capture."""
    resent: tuple[ResendKind, ...] = ()
    """What each packet was that brought bytes of it again."""
    stamped: bool = True
    """The connection has timestamps."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per loss repaired by fast retransmission, on the bytes that were missing."""
    found = trace.tcp.recoveries
    trips = RoundTrips(trace.tcp)
    told, stretches = losses_of(trace.packets, trace.tcp), Stretches(trace.tcp)
    seen = ~trace.flows.one_way[found.fd >> 1]  # one direction alone does not show what the receiver had
    for row in trace.paced(np.flatnonzero((found.repair == Repair.FAST) & ~found.spurious & seen).tolist()):
        wait = wait_of(trace.tcp, trips, row)
        if row in told or wait.end_ns - wait.start_ns < limits.ns("least_wait"):
            continue  # a router said why it dropped them: icmp-ptb-honoured or -ignored
        if stretches.lost_again(row):
            continue  # lost-retransmission
        flow, direction = divmod(int(found.fd[row]), 2)
        here = bool(found.at_sender[row])
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction, int(found.start[row]), int(found.stop[row])), start_ns=wait.start_ns,
            end_ns=wait.end_ns, confidence=_confidence(trace, row, flow), at_least=wait.at_least,
            facts=Facts(int(found.stop[row] - found.start[row]), here, stretches.kinds(row), bool(trace.flows.timestamps[flow])),
            frames=frames_of(trace, (
                (int(found.first_segment[row]), "sent; lost behind the capture" if here else "arrives; bytes before it are missing"),
                (int(found.resent_segment[row]), "the missing bytes, resent"),
                (int(found.done_segment[row]) if here else -1, "acknowledged"),
            )),
        )  # fmt: skip


def _confidence(trace: Trace, row: int, flow: int) -> Confidence:
    if trace.tcp.recoveries.at_sender[row]:
        sure = Confidence(0.95, ("bytes seen twice, SACK or duplicate ACKs between",))
    elif trace.flows.timestamps[flow]:
        sure = Confidence(0.85, ("hole filled with a newer timestamp",))
    else:
        sure = Confidence(0.5, ("hole filled about a round trip later",))
    return sure


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        losses = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        behind = sum(loss.behind_tap for loss in losses)
        side = "between the capture and the receiver" if behind * 2 > len(losses) else "before the capture"
        count = len(losses)
        yield share.concluded(
            LABEL.code,
            summary=f"{count} {'loss' if count == 1 else 'losses'} on the way between {share.client} and {share.server} ({side}) held "
            f"{len(share.exchanges)} of its requests for {share.stall_ns / 1e9:.2f} s until the bytes were resent",
            contrast=_contrast(losses),
            details={
                "losses": count, "lost_bytes": sum(loss.lost_bytes for loss in losses), "lost": side,
                "before_tap": count - behind, "behind_tap": behind, "resent": tallied(kind for loss in losses for kind in loss.resent),
            },
        )  # fmt: skip


def _contrast(losses: list[Facts]) -> str:
    """Why it was no reordering, as most of the losses show it."""
    if sum(loss.behind_tap for loss in losses) * 2 > len(losses):
        return "packets that merely overtook each other pass the capture once each; these were sent twice"
    if sum(loss.stamped for loss in losses) * 2 > len(losses):
        return "packets that merely overtook each other would carry the older timestamp; these carry a newer one"
    return "packets that merely overtook each other come within milliseconds; these came as late as a resend does"


DETECTOR = Detector(
    code=LABEL.code,
    title="Lost packets, resent after a round trip",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Find the lossy hop: mtr -T -P 443 <server>, from both ends.",
        "Above 1 % loss on your own link: check duplex (ethtool), Wi-Fi signal, optics and cables.",
        "A sender with BBR tolerates random loss: sysctl -w net.ipv4.tcp_congestion_control=bbr",
    ),
    references=("RFC 5681 section 3.2", "RFC 6675", "RFC 8985"),
    wireshark_filter="tcp.analysis.fast_retransmission || (tcp.analysis.retransmission && tcp.options.sack.count > 0)",
)
