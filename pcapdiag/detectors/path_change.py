"""path-change: the round trip between two hosts took a step and stayed there, as after a change of route.

## What it does
It pools the RTT samples of all connections between two hosts and looks for a sharp step of their floor, by at least 5 ms
and a fifth, with ten samples and a steady floor on each side. Every round trip behind the step is charged with what it
takes longer than before. A change of the received TTL at the step makes it nearly certain.

## Why it matters
Agents wait for one call before they make the next: 80 ms more per round trip are 80 ms more per call, hundreds of times
an hour, and connects and TLS handshakes pay them again.

## When it is wrong
A queue fills and drains and follows the load; a floor that moves with the bytes in flight is not counted (bufferbloat).
When no connection lived through the step, another server behind the same address may have taken over. A receiver that
begins to delay its ACKs looks like a step of 40 or 200 ms: such steps need a handshake or another TTL that confirms them.

## Remedy
Compare `mtr` before and after; pin the region or egress; raise it with the provider. Fewer round trips per task (batch,
reuse connections) shrink the cost of any distance.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits, shares
from pcapdiag.flows.path_rtt import History, Level, histories, in_flight
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import CLIENT_TO_SERVER, Vantage
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.late import late_intervals
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfExchange, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LATE, 2, "path-change")
LIMITS = Limits(
    least_step=Limit(5, "ms", "below that, scheduling and Wi-Fi jitter move the floor too"),
    share=Limit(0.2, "", "of the old floor: a step that a path of this length does not make by itself"),
    load=Limit(2, "", "times the bytes in flight: the step came with load, it may be a queue"),
    packets=Limit(10, "", "packets in flight, the initial window of RFC 6928: less fills no queue"),
    short=Limit(2, "s", "a level seen for less than this is worth confidence 0.5"),
    long=Limit(10, "s", "a level seen for this long is no passing event"),
)
_ACK_TIMERS_NS = ((38_000_000, 52_000_000), (95_000_000, 110_000_000), (190_000_000, 215_000_000))
"""Delayed ACKs: 40 ms on Linux and up to its tick more, 100 ms on macOS, 200 ms on Windows and BSD."""
_PACKET_LEN = 1_460


@dataclass(frozen=True, slots=True)
class Facts:
    """The step that made a round trip late."""

    at_ns: int
    old_ns: int
    new_ns: int
    ttl: tuple[int, int]
    """Received TTL before and behind; (0, 0): the same."""
    outside: bool
    """The wait lies behind the end of the exchange as this tap sees it: on the way to the client."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step up from the lowest floor known so far, and how long it held."""

    level: Level
    usual_ns: int
    sure: Confidence
    frames: tuple[Frame, ...]
    facts: Facts


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per late round trip of an exchange."""
    trips = RoundTrips(trace.tcp)
    for history in histories(trace.tcp, samples=20):
        levels = history.levels(least_ns=limits.ns("least_step"), share=limits.share)
        if len(levels) == 1:
            continue
        steps = list(_steps(trace, history, levels, limits))
        starts = [step.level.start_ns for step in steps]
        exchanges = trace.exchanges
        mine = np.flatnonzero(np.isin(exchanges.flow, history.flows)) if steps else np.empty(0, np.intp)
        for number, request_end_ns in zip(mine.tolist(), exchanges.request_end_ns[mine].tolist(), strict=True):
            at = bisect_right(starts, request_end_ns) - 1
            if at >= 0 and request_end_ns < steps[at].level.end_ns:
                yield from _late(trace, history, trips, steps[at], number)


def _steps(trace: Trace, history: History, levels: list[Level], limits: Limits) -> Iterator[Step]:
    usual = levels[0].floor_ns
    flying = in_flight(trace.tcp, history)
    for before, level in pairwise(levels):
        usual = min(usual, before.floor_ns)
        step_ns = level.floor_ns - usual
        if step_ns < max(limits.ns("least_step"), limits.share * usual):
            continue
        ttl = _ttl_change(trace, history, before, level)
        if ttl == (0, 0) and (_came_with_load(flying, history, before, level, limits) or _may_be_timer(history, before, level)):
            continue
        rows = history.segment
        frames = frames_of(trace, (
            *((int(rows[at]), f"round trip {history.rtt_ns[at] / 1e6:.1f} ms") for at in _lowest(history, before)),
            *((int(rows[at]), f"round trip {history.rtt_ns[at] / 1e6:.1f} ms") for at in _lowest(history, level)),
        ))  # fmt: skip
        facts = Facts(int(history.sent_ns[level.begin]), usual, level.floor_ns, ttl, outside=False)
        yield Step(level, usual, _confidence(history, before, level, ttl, limits), frames, facts)


def _lowest(history: History, level: Level) -> list[int]:
    """Three samples close to the floor of a level, with an ACK to show, by time."""
    span = np.arange(level.begin, level.stop)
    shown = span[history.segment[span] >= 0]
    best = shown[np.argsort(np.abs(history.rtt_ns[shown] - level.floor_ns), kind="stable")[:3]]
    return sorted(int(at) for at in best)


def _ttl_change(trace: Trace, history: History, before: Level, level: Level) -> tuple[int, int]:
    """The most frequent TTL of the ACKs in each level; (0, 0) when it is the same or unknown."""
    usual = []
    for one in (before, level):
        rows = history.segment[one.begin : one.stop]
        ttls = trace.packets.ttl[trace.segments.row[rows[rows >= 0]]]
        if not len(ttls):
            return 0, 0
        usual.append(int(np.bincount(ttls).argmax()))
    return (usual[0], usual[1]) if usual[0] != usual[1] else (0, 0)


def _came_with_load(in_flight_at: tuple[I64, I64], history: History, before: Level, level: Level, limits: Limits) -> bool:
    """Did the bytes in flight grow with the round trip, beyond what an idle agent sends?"""
    times, flying = in_flight_at
    typical = []
    for one in (before, level):
        low, high = np.searchsorted(times, [history.sent_ns[one.begin], history.sent_ns[one.stop - 1] + 1])
        typical.append(float(np.median(flying[low:high])) if low < high else 0.0)
    return typical[1] >= limits.packets * _PACKET_LEN and typical[1] >= limits.load * typical[0]


def _may_be_timer(history: History, before: Level, level: Level) -> bool:
    """Is the step as high as a delayed-ACK timer, and no handshake confirms it?"""
    step = level.floor_ns - before.floor_ns
    shaken = history.rtt_ns[level.begin : level.stop][history.segment[level.begin : level.stop] < 0]
    confirmed = bool((shaken >= before.floor_ns + step // 2).any())
    return not confirmed and any(low <= step <= high for low, high in _ACK_TIMERS_NS)


def _confidence(history: History, before: Level, level: Level, ttl: tuple[int, int], limits: Limits) -> Confidence:
    shared = np.intersect1d(history.flow[before.begin : before.stop], history.flow[level.begin : level.stop])
    spans = [int(history.sent_ns[one.stop - 1] - history.sent_ns[one.begin]) for one in (before, level)]
    stable = min(max((min(spans) - limits.ns("short")) / (limits.ns("long") - limits.ns("short")), 0.0), 1.0)
    evidence = [f"steady floors for {min(spans) / 1e9:.1f} s or more on each side"]
    value = 0.5 + 0.35 * stable
    if len(shared) > 1:
        value = max(value, 0.7)
        evidence.append(f"{len(shared)} connections saw the step together")
    if ttl != (0, 0):
        value = 0.9
        evidence.append(f"received TTL changed from {ttl[0]} to {ttl[1]}")
    sure = Confidence(value, tuple(evidence))
    return sure if len(shared) else sure.capped(0.4, "no connection lived through the step; another server may answer at this address")


def _late(trace: Trace, history: History, trips: RoundTrips, step: Step, number: int) -> Iterator[Sign]:
    """What an exchange's round trips take longer than before the step."""
    exchange = trace.exchanges[number]
    late_ns = step.level.floor_ns - step.usual_ns
    at_server = history.direction != CLIENT_TO_SERVER
    facts = step.facts
    half = trips.near(exchange.flow) if at_server else trips.far(exchange.flow)
    if at_server and not exchange.is_setup:
        # Request and answer each take half of it longer, before the first and behind the last packet that this tap can see.
        facts = Facts(facts.at_ns, facts.old_ns, facts.new_ns, facts.ttl, outside=True)
        intervals = [(exchange.end_ns, exchange.end_ns + late_ns)] if int(trace.flows.vantage[exchange.flow]) == Vantage.SERVER else []
    else:
        intervals = list(late_intervals(exchange, usual_ns=step.usual_ns, late_ns=late_ns, floor_ns=max(half.floor_ns(), 0)))
    for start, end in intervals:
        yield Sign(
            label=LABEL, scope=OfExchange(exchange.id), start_ns=start, end_ns=end, confidence=step.sure, frames=step.frames, facts=facts,
        )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server; at the server, from the waits that lie between its exchanges."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        worst = max(facts, key=lambda fact: fact.new_ns - fact.old_ns)
        yield share.concluded(
            LABEL.code,
            summary=f"{_step_text(worst, share.client, share.server, tables)}: {share.stall_ns / 1e9:.2f} s more for the round trips of "
            f"{share.requests}",
            contrast=_contrast(worst),
            details=_details(worst),
            identity=("ttl",) if worst.ttl != (0, 0) else (),
        )
    yield from _seen_at_server(ledger, signs, tables)


def _seen_at_server(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterator[Conclusion]:
    """The clients' waits: measured at this end, though no exchange as seen here contains them."""
    groups: dict[tuple[str, str], list[tuple[int, Sign]]] = {}
    for sign in signs:
        if not (isinstance(sign.facts, Facts) and sign.facts.outside and isinstance(sign.scope, OfExchange)):
            continue
        if ledger.counted[exchange := sign.scope.exchange]:
            flow = tables.exchanges[exchange].flow
            pair = tables.addresses.text(int(tables.flows.client[flow])), tables.server(flow)
            groups.setdefault(pair, []).append((exchange, sign))
    for (client, server), members in sorted(groups.items()):
        worst = max((s.facts for _, s in members if isinstance(s.facts, Facts)), key=lambda fact: fact.new_ns - fact.old_ns)
        waited = sum(sign.end_ns - sign.start_ns for _, sign in members)
        yield Conclusion(
            code=LABEL.code, kind=FindingKind.CAUSE, confidence=members[0][1].confidence, frames=members[0][1].frames,
            intervals=tuple((exchange, sign.start_ns, sign.end_ns) for exchange, sign in members),
            exchanges=tuple(sorted({exchange for exchange, _ in members})),
            flows=tuple(sorted({tables.exchanges[exchange].flow for exchange, _ in members})),
            summary=f"{_step_text(worst, client, server, tables)}: clients waited {waited / 1e9:.2f} s more for {len(members)} answers, "
            "outside of what the server itself sees",
            contrast=_contrast(worst), details=_details(worst) | {"waited_s": round(waited / 1e9, 6)},
            identity=("ttl",) if worst.ttl != (0, 0) else (),
        )  # fmt: skip


def _step_text(fact: Facts, client: str, server: str, tables: Tables) -> str:
    return (
        f"at {(fact.at_ns - tables.start_ns) / 1e9:.2f} s the round trip between {client} and {server} rose from "
        f"{fact.old_ns / 1e6:.0f} to {fact.new_ns / 1e6:.0f} ms"
    )


def _contrast(fact: Facts) -> str:
    if fact.ttl != (0, 0):
        return f"a queue keeps the TTL; here it changed from {fact.ttl[0]} to {fact.ttl[1]}"
    return "a queue rises and falls with the bytes in flight; this floor took one sharp step and then stayed"


def _details(fact: Facts) -> dict[str, float | int]:
    return {
        "old_rtt_s": round(fact.old_ns / 1e9, 6),
        "new_rtt_s": round(fact.new_ns / 1e9, 6),
        "ttl_before": fact.ttl[0],
        "ttl_behind": fact.ttl[1],
    }


DETECTOR = Detector(
    code=LABEL.code,
    title="The path became longer",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Compare the routes: mtr -n -c 20 <server> now and from a place or time without the step; both directions.",
        "Pin the region or egress: the nearest endpoint of the provider, a fixed gateway, no failover to a distant site.",
        "Raise it with the ISP or the cloud's transit team, with the time of the step.",
        "Spend fewer round trips: batch calls, keep connections open, resume TLS sessions.",
    ),
    references=("RFC 9312 section 3.8", "RFC 6298 section 3"),
    wireshark_filter="tcp.analysis.ack_rtt > 0",
)
