"""syn-loss: a packet that opens a connection was lost, and the connection waited for a timer of a second or more.

## What it does
It takes every connection that was opened in the end but needed its SYN or its SYN-ACK sent again, and charges the time
by which the successful try came later. Seen from the client a lost SYN and a lost SYN-ACK look the same; seen from the
server a resent SYN-ACK that no ACK preceded proves that the SYN-ACK was lost (variant synack-loss).

## Why it matters
Before the first round trip there is no estimate of it, so the timer is a whole second (RFC 6298 section 2.1) and grows
with each try. One lost packet costs a new connection 20 to 100 times its round trip: agents that open one connection per
call pay it most.

## When it is wrong
A round trip above one second makes the client repeat a SYN that was not lost; the SYN-ACK then comes sooner than a round
trip after the repeat, and nothing is charged. A server whose accept queue is full ignores the ACK and repeats its
SYN-ACK: that is no loss. Tries that nobody ever answered are not called loss: a filter looks the same.

## Remedy
Look for drops on the path and in the listen queue of the server; keep connections open and reuse them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import Kind, Vantage
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfExchange, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.SETUP, 0, "syn-loss")
LIMITS = Limits(
    least_gap=Limit(0.9, "s", "RFC 6298 section 2.1: the first SYN timer is 1 s; ticks and jitter leave nine tenths"),
    echo=Limit(0.5, "", "a SYN-ACK sooner than half a round trip after a SYN answers an earlier one"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One connection."""

    syns: int
    syn_acks: int
    variant: str


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per connection that was opened late."""
    trips = RoundTrips(trace.tcp)
    flows = trace.flows
    exchanges = trace.exchanges
    opened = exchanges.is_any(Protocol.CONNECT) & exchanges.ended(Outcome.OK) & (flows.syn_ack_ns[exchanges.flow] < NEVER)
    for exchange in trace.paced(exchanges.where(opened & ((exchanges.tries.counts > 1) | (flows.syn_ack_count[exchanges.flow] > 1)))):
        sign = _at_client(trace, exchange, trips, limits) or _at_server(trace, exchange, trips, limits)
        if sign is not None:
            yield sign


def _at_client(trace: Trace, exchange: Exchange, trips: RoundTrips, limits: Limits) -> Sign | None:
    """The SYN was repeated before any SYN-ACK came by: one of the two was lost, or the SYN before the tap."""
    answered_ns = exchange.first_byte_ns
    tries = [at for at in exchange.tries if at < answered_ns]
    if len(tries) < 2 or tries[1] - tries[0] < limits.ns("least_gap"):
        return None
    trip = _usual_trip(trace, exchange, trips)
    if trip > 0 and answered_ns - tries[-1] < limits.echo * trip:
        return None  # it answers an earlier SYN: the round trip itself is that long
    at_server = int(trace.flows.vantage[exchange.flow]) == Vantage.SERVER
    variant = "ignored-syn" if at_server else "syn-or-synack-loss"
    sure = Confidence(0.9, (f"SYN sent {len(tries)} times before a SYN-ACK",))
    if at_server:  # the SYNs arrived: this host did not answer them, and why does not show here
        sure = sure.capped(0.5, "the SYN reached the server's side of the capture; a full listen queue looks the same")
    start_ns = tries[0] + min(max(answered_ns - tries[-1], 0), answered_ns - tries[0])
    return Sign(
        label=LABEL, scope=OfExchange(exchange.id), start_ns=start_ns, end_ns=answered_ns, confidence=sure,
        facts=Facts(len(tries), 1, variant), frames=frames_of(trace, _opening(trace, exchange, answered_ns)),
    )  # fmt: skip


def _at_server(trace: Trace, exchange: Exchange, trips: RoundTrips, limits: Limits) -> Sign | None:
    """The SYN-ACK was repeated, and no ACK had come: the SYN-ACK (or, as far as this tap can tell, its ACK) was lost behind it."""
    flow = exchange.flow
    rows = _syn_acks(trace, flow)
    established_ns = int(trace.flows.established_ns[flow])
    times = [int(at) for at in trace.segments.ts_ns[rows] if at < established_ns]
    if established_ns >= NEVER or len(times) < 2 or times[1] - times[0] < limits.ns("least_gap"):
        return None
    if int(trace.flows.vantage[flow]) == Vantage.CLIENT:
        return None  # it reached the client's side
    start_ns = times[0] + min(max(established_ns - times[-1], 0), established_ns - times[0])
    near = trips.near(flow).floor_ns()
    if near > 0 and established_ns - times[-1] < limits.echo * near:
        return None
    return Sign(
        label=LABEL, scope=OfExchange(exchange.id), start_ns=start_ns, end_ns=established_ns,
        confidence=Confidence(0.9, (f"SYN-ACK sent {len(times)} times before an ACK",)),
        facts=Facts(max(len(exchange.tries), 1), len(times), "synack-loss"),
        frames=frames_of(trace, _opening(trace, exchange, established_ns)),
    )  # fmt: skip


def _usual_trip(trace: Trace, exchange: Exchange, trips: RoundTrips) -> int:
    """Round trip to the server from this connection's later packets; -1 unknown (its handshake is ambiguous)."""
    return -1 if int(trace.flows.vantage[exchange.flow]) == Vantage.SERVER else trips.far(exchange.flow).floor_ns()


def _syn_acks(trace: Trace, flow: int) -> list[int]:
    begin, stop = int(trace.flows.begin[flow]), int(trace.flows.stop[flow])
    kind = trace.segments.kind[begin:stop]
    opening = ((kind == Kind.SYN) | (kind == Kind.SYN_AGAIN)) & (trace.segments.direction[begin:stop] == 1)
    return [begin + int(at) for at in np.flatnonzero(opening)]


def _opening(trace: Trace, exchange: Exchange, until_ns: int) -> list[tuple[int, str]]:
    """The packets that open the connection, with what each is."""
    begin, stop = int(trace.flows.begin[exchange.flow]), int(trace.flows.stop[exchange.flow])
    kind, direction = trace.segments.kind[begin:stop], trace.segments.direction[begin:stop]
    rows = np.flatnonzero(((kind == Kind.SYN) | (kind == Kind.SYN_AGAIN)) & (trace.segments.ts_ns[begin:stop] <= until_ns))
    names = {(0, False): "SYN", (0, True): "SYN, again", (1, False): "SYN-ACK", (1, True): "SYN-ACK, again"}
    return [(begin + int(at), names[int(direction[at]), bool(kind[at] == Kind.SYN_AGAIN)]) for at in rows[:12]]


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        known = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        variant = max((fact.variant for fact in known), key=[fact.variant for fact in known].count)
        side = {
            "synack-loss": "the SYN-ACK was lost between the capture and the client",
            "ignored-syn": "the server side did not answer the first SYN",
        }.get(variant, "the SYN or its SYN-ACK was lost beyond the capture")
        yield share.concluded(
            LABEL.code,
            summary=f"{len(known)} {'connection' if len(known) == 1 else 'connections'} from {share.client} to {share.server} took "
            f"{share.stall_ns / 1e9:.2f} s longer to open: {side}, and the next try waits at least a second",
            contrast="a refused connection answers with RST, a filter never answers; here a later try of the same connection succeeded",
            details={
                "variant": variant, "connections": len(known), "syns": sum(fact.syns for fact in known),
                "syn_acks": sum(fact.syn_acks for fact in known),
            },
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Lost packet while opening a connection",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "On the server: nstat -az TcpExtListenOverflows TcpExtListenDrops TcpExtTCPReqQFullDoCookies; ss -lnt (Recv-Q against Send-Q).",
        "If they count up: raise net.core.somaxconn and the application's backlog.",
        "On the path: mtr -T -P <port> <server>; conntrack -S (insert_failed, drop); security groups and ACLs in both directions.",
        "Keep connections open and reuse them: a call on an open connection cannot lose its SYN.",
    ),
    references=("RFC 9293 section 3.5", "RFC 6298 section 2.1", "RFC 6298 section 5.7"),
    wireshark_filter="tcp.flags.syn == 1 && tcp.analysis.retransmission",
)
