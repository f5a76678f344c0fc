"""packet-reordering: packets overtook each other on the way; none was lost.

## What it does
It counts holes that the original packet itself filled a moment later: its timestamp or IP-ID is older than that of the
packet that overtook it (RFC 4737); and holes that a resend filled before the original came. The time the bytes behind it
waited is charged to the requests that own them, and resends that reordering triggered without need are counted.

## Why it matters
A receiver hands out nothing while a hole is open, and answers with duplicate ACKs; enough of them make a sender resend
and halve its rate though nothing was lost. Tools that count "out of order" and "retransmission" call this loss.

## When it is wrong
Captures on several queues or interfaces can misorder packets that the wire had in order; those differ by less than a
millisecond. Where neither timestamps nor IP-IDs are present, only lags under 3 ms count, with confidence 0.5.

## Remedy
Hash per flow on ECMP and LAG, not per packet; switch packet spraying or round-robin bonding off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits, shares
from pcapdiag.flows.resent_stretches import late_originals
from pcapdiag.flows.table import Repair
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LOSS, 8, "packet-reordering")
LIMITS = Limits(
    artefact=Limit(200, "us", "interrupt coalescing and multi-queue captures misorder by less; shorter lags are not the wire's"),
    worth=Limit(50, "ms", "less waiting in a whole capture is not worth a line, unless it made a sender resend"),
    several=Limit(3, "", "one overtaken packet is an accident, three are a habit of the path"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One overtaken stretch."""

    lag_ns: int
    resent: bool
    """The receiver later got the bytes again: the sender took the reordering for loss."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per overtaken stretch of bytes."""
    found = trace.tcp.recoveries
    needless = {(fd, start) for fd, start in zip(found.fd[found.spurious].tolist(), found.start[found.spurious].tolist(), strict=True)}
    outrun = late_originals(trace.tcp)
    overtaken = ((found.repair == Repair.REORDERED) | outrun) & (found.done_ns < NEVER)
    lag_ns = np.where(overtaken, found.done_ns, 0) - np.where(overtaken, found.first_ns, 0)
    for row in trace.paced(np.flatnonzero(overtaken & (lag_ns >= limits.ns("artefact"))).tolist()):
        flow, direction = divmod(int(found.fd[row]), 2)
        start, lag = int(found.start[row]), int(lag_ns[row])
        stamped = bool(trace.flows.timestamps[flow]) or int(trace.segments.id_gap[int(found.first_segment[row])]) >= 0
        sure = Confidence(0.9, ("the late packet is older by timestamp or IP-ID",)) if stamped else Confidence(0.5, ("timing only",))
        late = "resent; the original comes later still" if outrun[row] else f"the original, {lag / 1e6:.1f} ms late"
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction, start, int(found.stop[row])), start_ns=int(found.first_ns[row]),
            end_ns=int(found.done_ns[row]), facts=Facts(lag, bool(outrun[row]) or (int(found.fd[row]), start) in needless),
            confidence=sure,
            frames=frames_of(trace, (
                (int(found.first_segment[row]), "overtakes"),
                (int(found.resent_segment[row]), late),
            )),
        )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server: a cause when requests waited for it, a risk when it only could cost."""
    by_path = {(share.client, share.server): share for share in shares(ledger, LABEL.code, tables)}
    seen: dict[tuple[str, str], list[Sign]] = {}
    for sign in signs:
        if isinstance(sign.scope, OfFlow):
            flow = sign.scope.flow
            seen.setdefault((tables.addresses.text(int(tables.flows.client[flow])), tables.server(flow)), []).append(sign)
    for path, own in sorted(seen.items()):
        facts = [sign.facts for sign in own if isinstance(sign.facts, Facts)]
        lag_ns, resent = sum(fact.lag_ns for fact in facts), sum(fact.resent for fact in facts)
        if len(own) < LIMITS.several or (lag_ns < LIMITS.ns("worth") and not resent):
            continue
        share = by_path.get(path)
        flows = tuple(sorted({sign.scope.flow for sign in own if isinstance(sign.scope, OfFlow)}))
        yield Conclusion(
            code=LABEL.code, kind=FindingKind.CAUSE if share else FindingKind.RISK, stall_ns=share.stall_ns if share else 0,
            intervals=share.intervals if share else (), confidence=max((sign.confidence for sign in own), key=lambda c: c.value),
            exchanges=share.exchanges if share else (), flows=flows,
            frames=tuple(frame for sign in sorted(own, key=lambda s: s.start_ns - s.end_ns)[:5] for frame in sign.frames),
            summary=f"{len(own)} times packets between {path[0]} and {path[1]} overtook each other, by up to "
            f"{max(fact.lag_ns for fact in facts) / 1e6:.1f} ms; none was lost"
            + (f", yet {resent} were resent without need" if resent else ""),
            contrast="a lost packet would have come back with a newer timestamp; these carry their original one",
            details={"overtaken": len(own), "needless_resends": resent},
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Packets overtake each other",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Use per-flow hashing on ECMP and LAG links; switch per-packet load balancing off.",
        "On a bonded host use mode 802.3ad with xmit_hash_policy layer3+4, not balance-rr.",
    ),
    references=("RFC 4737", "RFC 5236", "RFC 8985 section 6.2"),
    wireshark_filter="tcp.analysis.out_of_order",
)
