"""path-outage: for a while nothing crossed the path, on every connection that used it.

## What it does
It looks for connections on which, over the same interval, nothing came from the other end although packets were sent:
at the sender the same bytes go out at least three times and not a single packet returns; at the receiver the stream
falls silent and goes on with skipped IP-IDs, which proves that packets were sent and lost. When two or more connections
of one host fall silent together, none on that path makes progress meanwhile, and they come back together, the path was
down.

## Why it matters
An outage of a few seconds (failover, roaming, a flapping link) lasts longer for TCP than for the link: timers have
doubled, and the next try comes only after up to the same time again.

## When it is wrong
Hosts that stop together without losing anything (a paused virtual machine) skip no IP-IDs and resend nothing. When
small packets pass while large ones vanish, it is pmtu-black-hole.

## Remedy
Find the hop that all affected connections share (`mtr` in both directions, link logs, roaming, failover); set
TCP_USER_TIMEOUT; retry with jitter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Protocol
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.sends import sends_of
from pcapdiag.flows.table import Repair
from pcapdiag.flows.waits import silence_around
from pcapdiag.packets.table import TCP
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.DEAD, 2, "path-outage")
LIMITS = Limits(
    sends=Limit(3, "", "transmissions in a row without an answer: more than chance on any usable path"),
    shortest=Limit(500, "ms", "two doublings of the least timer (RFC 6298); shorter gaps are plain loss"),
    overlap=Limit(0.8, "", "share of the shorter silence that the others must cover: one event, not several"),
    flows=Limit(2, "", "one silent connection may have a dead peer; two share only the path"),
)


@dataclass(frozen=True, slots=True)
class Silence:
    """One connection that heard nothing while packets were sent."""

    flow: int
    heard_ns: int
    """The last packet before it."""
    start_ns: int
    """From when on packets are known to be lost: at the sender not before one was sent."""
    end_ns: int
    sends: int
    """Transmissions seen (at the sender) or skipped IP-IDs (at the receiver)."""
    at_sender: bool
    rows: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """The outage a sign belongs to."""

    start_ns: int
    flows: int
    sends: int


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per silent connection of each outage."""
    silences = sorted([*_of_flows(trace, limits), *_of_connects(trace, limits)], key=lambda one: (one.start_ns, one.flow))
    for group in _together(silences, limits):
        core = max(one.start_ns for one in group), min(one.end_ns for one in group)
        if len({one.flow for one in group}) < limits.flows or _progress_elsewhere(trace, group, core):
            continue
        sure = _confidence(group)
        for one in group:
            yield Sign(
                label=LABEL, scope=OfFlow(one.flow), confidence=sure,
                start_ns=max(one.heard_ns, group[0].start_ns), end_ns=_recovered(trace, one),
                facts=Facts(group[0].start_ns, len(group), sum(other.sends for other in group)), frames=frames_of(trace, one.rows),
            )  # fmt: skip


def _of_flows(trace: Trace, limits: Limits) -> Iterable[Silence]:
    """Established connections that went silent; the longest silence of each around every unanswered stretch."""
    found = trace.tcp.recoveries
    best: dict[tuple[int, int], Silence] = {}
    candidates = ~found.spurious & (
        (found.at_sender & (found.resends + 1 >= limits.sends)) | (found.tail & (found.repair == Repair.TIMEOUT))
    )
    for row in trace.paced(np.flatnonzero(candidates).tolist()):
        flow, direction = divmod(int(found.fd[row]), 2)
        here = bool(found.at_sender[row])
        quiet = silence_around(trace.tcp, flow, heard=1 - direction if here else direction, ts_ns=int(found.resent_ns[row]))
        start_ns = max(quiet.start_ns, int(found.first_ns[row])) if here else quiet.start_ns
        if quiet.end_ns - start_ns < limits.ns("shortest"):
            continue
        resumed = (quiet.last, "last packet before the silence"), (quiet.next, "first packet after it")
        if here:
            sent = sends_of(trace.tcp, int(found.fd[row]), int(found.start[row]), from_ns=start_ns, until_ns=quiet.end_ns)
            count, rows = len(sent), tuple((int(s), "sent without an answer") for s in sent[:4])
        else:
            count, rows = int(trace.segments.id_gap[int(found.resent_segment[row])]), ()
        if count < limits.sends - (0 if here else 1):
            continue
        one = Silence(flow, quiet.start_ns, start_ns, quiet.end_ns, count, here, (resumed[0], *rows, resumed[1]))
        known = best.get((flow, quiet.start_ns))
        if known is None or (one.at_sender, one.sends) > (known.at_sender, known.sends):
            best[flow, quiet.start_ns] = one
    return best.values()


def _of_connects(trace: Trace, limits: Limits) -> Iterable[Silence]:
    """Connection attempts whose SYNs went unanswered."""
    exchanges = trace.exchanges
    for exchange in exchanges.where(exchanges.is_any(Protocol.CONNECT) & (exchanges.tries.counts >= limits.sends)):
        rows = slice(int(trace.flows.begin[exchange.flow]), int(trace.flows.stop[exchange.flow]))
        syns = [(row, "SYN, unanswered") for row in range(rows.start, min(rows.stop, rows.start + 4))]
        yield Silence(
            exchange.flow, exchange.tries[0], exchange.tries[0], exchange.end_ns, len(exchange.tries), at_sender=True, rows=tuple(syns)
        )


def _together(silences: list[Silence], limits: Limits) -> list[list[Silence]]:
    """Silences that are one event: each covers most of the shorter of it and the group's common time."""
    groups: list[list[Silence]] = []
    for one in silences:
        for group in groups:
            low, high = max(other.start_ns for other in group), min(other.end_ns for other in group)
            common = min(high, one.end_ns) - max(low, one.start_ns)
            if common >= limits.overlap * min(high - low, one.end_ns - one.start_ns):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _progress_elsewhere(trace: Trace, group: list[Silence], core: tuple[int, int]) -> bool:
    """Did another connection between the same two hosts get through in both directions meanwhile?"""
    seg, flows = trace.segments, trace.flows
    silent = np.array([one.flow for one in group])
    pairs = (flows.client.astype(np.int64) << 32) | flows.server
    others = np.isin(pairs, pairs[silent]) & (flows.proto == TCP) & (flows.first_ns < core[1]) & (flows.last_ns > core[0])
    others[silent] = False
    for flow in trace.paced(np.flatnonzero(others).tolist()):
        begin, stop = int(flows.begin[flow]), int(flows.stop[flow])
        low, high = np.searchsorted(seg.ts_ns[begin:stop], [core[0] + 1, core[1]])
        if (seg.acked_len[begin + int(low) : begin + int(high)] > 0).any():
            return True
    return False


def _recovered(trace: Trace, one: Silence) -> int:
    """When what was lost in the silence had come: timers that had doubled make a connection wait beyond the outage."""
    found = trace.tcp.recoveries
    mine = (found.fd // 2 == one.flow) & ~found.spurious & (found.first_ns >= one.start_ns) & (found.first_ns <= one.end_ns)
    done = found.done_ns[mine & (found.done_ns < NEVER)]
    return max(one.end_ns, int(done.max(initial=one.end_ns)))


def _confidence(group: list[Silence]) -> Confidence:
    """Fixed by how many connections fell silent and how they show it."""
    seen = sum(one.at_sender for one in group)
    if seen >= 3:
        return Confidence(0.95, (f"{seen} connections resent without any answer at the same time",))
    if seen == 2:
        return Confidence(0.85, ("2 connections resent without any answer at the same time",))
    return Confidence(0.7, (f"{len(group)} connections fell silent together and skipped IP-IDs",))


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        flows = max(fact.flows for fact in facts)
        start = min(fact.start_ns for fact in facts) - tables.start_ns
        longest = max(sign.end_ns - sign.start_ns for sign in share.signs)
        yield share.concluded(
            LABEL.code,
            summary=f"from {start / 1e9:.2f} s on nothing crossed the path between {share.client} and {share.server} for up to "
            f"{longest / 1e9:.2f} s: {flows} connections fell silent together, and {share.requests} waited "
            f"{share.stall_ns / 1e9:.2f} s in all",
            contrast="a size-dependent fault would have let small packets pass; not one packet of any size came back",
            details={"connections": flows, "longest_silence_s": round(longest / 1e9, 6)},
        )


DETECTOR = Detector(
    code=LABEL.code,
    title="The path was down",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Find the hop all affected connections share: mtr from both ends, link and failover logs, roaming events.",
        "Let clients fail over: TCP_USER_TIMEOUT (for example 20,000 ms), retry with jitter.",
    ),
    references=("RFC 6298 section 5.5", "RFC 5482"),
    wireshark_filter="tcp.analysis.rto > 1",
)
