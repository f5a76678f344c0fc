"""h2-tcp-hol: one lost TCP segment held up HTTP/2 streams whose own bytes had arrived.

## What it does
TCP hands bytes out in order, so a hole blocks every HTTP/2 stream behind it, also those that lost nothing (head-of-line
blocking, RFC 9113 section 1). For each loss on a connection that carried several requests at once it finds the requests
that owned none of the missing bytes, yet had bytes above the hole, and charges them from when those bytes were there to
when the hole was filled. The owner of the bytes is charged to the loss itself.

## Why it matters
One lost packet in a thousand can stall twenty tool calls at once; no per-request log shows why all of them froze for
the same round trip. The stream-seconds here are what HTTP/3 would have saved.

## When it is wrong
At the sender's side of the connection arrival is taken from SACK and from the bytes sent above the hole; that is right
to within half a round trip. Encrypted connections without keys show no streams and no finding.

## Remedy
Fix the loss named as its cause; open two to four HTTP/2 connections per host instead of one, keep bulk uploads off the
connection that carries token streams, or use HTTP/3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange, Spans
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.waits import Wait, wait_of
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfExchange, Sign, Tier
from pcapdiag.streams import Streams
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.HOL, 0, "h2-tcp-hol")
LIMITS = Limits(
    streams=Limit(2, "", "one stream behind its own hole is plain loss; two make head-of-line blocking"),
    least_wait=Limit(1, "ms", "shorter waits than a scheduler tick cost nobody anything"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One blocked request."""

    hole: tuple[int, int]
    """fd and first missing byte: equal for all victims of one loss."""
    streams: int
    """Requests this loss held up, its owner included."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per loss and innocent request behind it."""
    found = trace.tcp.recoveries
    exchanges, trips = trace.exchanges, RoundTrips(trace.tcp)
    by_flow = exchanges.by_flow(exchanges.h2_stream > 0, len(trace.flows))
    seen = ~trace.flows.one_way[found.fd >> 1]  # one direction alone does not show what the receiver had
    for row in trace.paced(np.flatnonzero(~found.spurious & seen & (by_flow.counts[found.fd // 2] > 1)).tolist()):
        wait = wait_of(trace.tcp, trips, row)
        if wait.end_ns - wait.start_ns < limits.ns("least_wait"):
            continue
        mine = by_flow[int(found.fd[row]) // 2]
        near = mine[(exchanges.end_ns[mine] > wait.start_ns) & (exchanges.start_ns[mine] < wait.end_ns)]
        yield from _victims(trace, row, wait, [exchanges[number] for number in near.tolist()], limits)


def _victims(trace: Trace, row: int, wait: Wait, exchanges: list[Exchange], limits: Limits) -> Iterator[Sign]:
    found = trace.tcp.recoveries
    fd, start, stop = int(found.fd[row]), int(found.start[row]), int(found.stop[row])
    owners, blocked, streams = 0, [], trace.streams.part(fd >> 1)
    for exchange in exchanges:
        spans = exchange.response if fd % 2 else exchange.request
        if any(a < stop and b > start for a, b in spans):
            owners += 1
            continue
        since = _first_above(streams, fd, spans, stop, wait, at_sender=bool(found.at_sender[row]))
        if since < wait.end_ns:
            blocked.append((exchange, since))
    if owners + len(blocked) < limits.streams:
        return
    frames = frames_of(trace, (
        (int(found.first_segment[row]), "sent and lost" if found.at_sender[row] else "first packet behind the hole"),
        (int(found.resent_segment[row]), "the missing bytes"),
        (int(found.done_segment[row]) if found.at_sender[row] else -1, "acknowledged: everything behind may be read"),
    ))  # fmt: skip
    kind = "SACK and the cumulative ACK" if found.at_sender[row] else "arrival and delivery times"
    for exchange, since in blocked:
        yield Sign(
            label=LABEL, scope=OfExchange(exchange.id), start_ns=since, end_ns=wait.end_ns, frames=frames, at_least=wait.at_least,
            facts=Facts((fd, start), owners + len(blocked)), confidence=Confidence(0.95 if not found.at_sender[row] else 0.9, (kind,)),
        )  # fmt: skip


def _first_above(streams: Streams, fd: int, spans: Spans, stop: int, wait: Wait, *, at_sender: bool) -> int:
    """When the first of an exchange's bytes above the hole was there while it was open; NEVER when none was."""
    above = np.array([max(a, stop) for a, b in spans if b > stop], np.int64)
    if not len(above):
        return NEVER
    seen = streams.first_seen(fd, above)
    if at_sender:  # the receiver had it one half round trip later; what SACK names was surely there
        seen = np.where(seen < NEVER, np.maximum(seen, wait.start_ns), NEVER)
    delivered = streams.acked(fd, above) if at_sender else streams.in_order(fd, above)
    stuck = seen[(seen < wait.end_ns) & (delivered >= wait.end_ns)]
    return max(int(stuck.min()), wait.start_ns) if len(stuck) else NEVER


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        holes = {fact.hole for fact in facts}
        most = max(fact.streams for fact in facts)
        yield share.concluded(
            LABEL.code,
            summary=f"{len(holes)} lost {'stretch' if len(holes) == 1 else 'stretches'} of bytes on HTTP/2 connections between "
            f"{share.client} and {share.server} froze {share.requests} that had lost nothing, up to {most} at once, for "
            f"{share.stall_ns / 1e9:.2f} stream-seconds",
            contrast="a slow server would have left their bytes unsent; here they had arrived and waited for another stream's",
            details={"holes": len(holes), "most_streams": most, "stream_seconds": round(share.stall_ns / 1e9, 6)},
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="One lost packet froze many HTTP/2 streams",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Fix the loss itself: see the finding it is caused by.",
        "Open 2 to 4 HTTP/2 connections per host (gRPC: several channels with grpc.use_local_subchannel_pool=1).",
        "Keep bulk uploads and token streams on separate connections; HTTP/3 removes the effect.",
    ),
    references=("RFC 9113 section 1", "RFC 9000 section 2"),
    wireshark_filter="http2 && (tcp.analysis.out_of_order || tcp.analysis.lost_segment)",
)
