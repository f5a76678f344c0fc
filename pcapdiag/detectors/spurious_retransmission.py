"""spurious-retransmission: packets were resent although the originals had arrived.

## What it does
It counts resends that DSACK, echoed timestamps, an acknowledgment before them or the late original itself prove to have
been needless (RFC 2883, RFC 3522), per client host and server, and says why the sender did not know: the acknowledgment
was lost on its way back, packets overtook each other, or everything was only late. It charges no time of its own.

## Why it matters
Each needless timeout makes a sender start again with a small window, and tools that count retransmissions take them for
loss: one looks for a lossy hop that does not exist. The wait before them has another cause: a path whose delay jumps, a
queue, lost acknowledgments.

## When it is wrong
Packets that the network itself duplicated are reported twice too, but then nothing was resent, and they are not counted.
Where SACK and timestamps are both off, needless resends look like needed ones. An acknowledgment is called lost only where
the capture proves it: the sender never shows that it came, but soon that a later one did; or the first to come back answers
the resend itself, promptly. Where nothing proves it, it counts as late, so lost ones may be more than are said to be.

## Remedy
Steady the delay: queue management on the bottleneck, per-flow hashing; look for loss in the direction of the
acknowledgments. Keep timestamps, SACK and F-RTO on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits
from pcapdiag.flows.needless import bears
from pcapdiag.flows.resend_table import Evidence, Placement, ResendKind
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

_NO_TIME = Label(Tier.REST, 7, "spurious-retransmission")
"""Below every label of the ledger: its signs carry facts, never seconds."""
LIMITS = Limits(
    several=Limit(3, "", "one or two needless resends are the price of resending early (RFC 8985 section 7)"),
    share=Limit(0.1, "", "of all resends; fewer mislead nobody who counts retransmissions"),
)
_RESENT = (ResendKind.UNKNOWN, ResendKind.FAST, ResendKind.RTO, ResendKind.PROBE, ResendKind.SPURIOUS)
_SHOWN = 3
"""Pairs of original and resend per flow."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The needless resends of one flow."""

    resent: int
    needless: int
    ack_lost: int
    overtaken: int
    """The original came after its resend, or the flow's packets overtake each other."""
    by_timer: int


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per flow that has some."""
    resends, flows = trace.tcp.resends, trace.tcp.resends.fd >> 1
    spurious = resends.kind == ResendKind.SPURIOUS
    late = bears(resends.evidence, Evidence.LATE_ORIGINAL) | np.isin(resends.fd, resends.fd[resends.kind == ResendKind.REORDERED])
    timer = np.isin(resends.trigger, (ResendKind.RTO, ResendKind.PROBE))
    rows = np.flatnonzero(spurious)
    if not len(rows):
        return
    found, begin = np.unique(flows[rows], return_index=True)
    counts = np.stack([resends.placement[rows] == Placement.ACK_LOST, late[rows], timer[rows]]).astype(np.int64)
    resent = np.bincount(flows[np.isin(resends.kind, _RESENT)], minlength=int(found[-1]) + 1)[found]
    when = trace.segments.ts_ns[resends.segment[rows]]
    columns = (
        found, begin, np.append(begin[1:], len(rows)), np.minimum.reduceat(when, begin), np.maximum.reduceat(when, begin),
        np.maximum.reduceat(resends.confidence[rows], begin), resent, *np.add.reduceat(counts, begin, axis=1),
    )  # fmt: skip
    before, again = resends.before_segment[rows], resends.segment[rows]
    for flow, low, high, start_ns, end_ns, sure, all_resent, *some in trace.paced(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        shown = range(low, min(high, low + _SHOWN))
        yield Sign(
            label=_NO_TIME, scope=OfFlow(flow), start_ns=start_ns, end_ns=end_ns,
            confidence=Confidence(sure, ("DSACK, timestamps or ACKs show that they had arrived",)),
            facts=Facts(all_resent, high - low, *some),
            frames=frames_of(trace, tuple(
                pair for at in shown for pair in ((int(before[at]), "sent, and it arrived"), (int(again[at]), "resent without need"))
            )),
        )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One risk per client host and server."""
    seen: dict[tuple[int, int, int], list[tuple[int, Sign, Facts]]] = defaultdict(list)
    ends = tables.flows.client, tables.flows.server, tables.flows.server_port
    for sign in signs:
        if isinstance(sign.scope, OfFlow) and isinstance(sign.facts, Facts):
            flow = sign.scope.flow
            host, peer, port = (int(column[flow]) for column in ends)
            seen[host, peer, port].append((flow, sign, sign.facts))
    named = {(tables.addresses.text(host), tables.addresses.endpoint(peer, port)): own for (host, peer, port), own in seen.items()}
    for (client, server), own in sorted(named.items(), key=lambda item: item[0]):
        facts = [fact for _, _, fact in own]
        needless, resent = sum(fact.needless for fact in facts), sum(fact.resent for fact in facts)
        if needless < LIMITS.several or needless < LIMITS.share * resent:
            continue
        lost, overtaken = sum(fact.ack_lost for fact in facts), sum(fact.overtaken for fact in facts)
        variant, why = _variant(needless, lost, overtaken)
        best = max((sign.confidence for _, sign, _ in own), key=lambda sure: sure.value)
        yield Conclusion(
            code=_NO_TIME.code, kind=FindingKind.RISK, confidence=best, flows=tuple(sorted({flow for flow, _, _ in own})),
            frames=tuple(frame for _, sign, _ in own for frame in sign.frames)[:12],
            summary=f"{needless} of {resent} resent packets between {client} and {server} were needless, the originals had arrived: {why}",
            contrast="a lost packet is acknowledged once, by its resend; these were reported twice or acknowledged without it",
            details={
                "variant": variant, "needless": needless, "resent": resent, "acks_lost": lost, "overtaken": overtaken,
                "by_timer": sum(fact.by_timer for fact in facts),
            },
        )  # fmt: skip


def _variant(needless: int, lost: int, overtaken: int) -> tuple[str, str]:
    """What most of them come from, and the words for it."""
    if 2 * lost > needless:
        return "ack-lost", f"{lost} of the acknowledgments were lost on their way back"
    if 2 * overtaken > needless:
        return "reordered", "packets overtook each other, and the sender took that for loss"
    return "late", "packets or their acknowledgments were late, later than the sender's patience"


DETECTOR = Detector(
    code=_NO_TIME.code,
    title="Packets resent without need",
    domain=Domain.NETWORK,
    label=None,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Steady the delay: fq_codel or cake on the bottleneck, per-flow hashing on ECMP and LAG.",
        "Look for loss in the direction of the acknowledgments: mtr from the other end.",
        "Keep what recognises needless resends: sysctl net.ipv4.tcp_timestamps=1 net.ipv4.tcp_sack=1 net.ipv4.tcp_frto=2",
        "On the sender, watch: nstat -az TcpExtTCPDSACKRecv TcpExtTCPSpuriousRTOs",
    ),
    references=("RFC 2883", "RFC 3522", "RFC 3708", "RFC 5682"),
    wireshark_filter="tcp.analysis.spurious_retransmission || tcp.options.sack.dsack_le",
)
