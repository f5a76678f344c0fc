"""microburst-loss: a burst of a few milliseconds overran a queue, and several connections lost packets in it at once.

## What it does
It gathers losses of different connections towards the same host that happened within the same round trip, and looks at
the milliseconds around them: more than half of the link's rate for a millisecond or longer, while the average over a
second is low, and part of the burst got through. The recoveries of these losses are then its own. One such event on
three connections is reported; two connections need three events.

## Why it matters
Averages hide it: a link used at 2 % drops packets when 12 tool calls answer in the same millisecond. Each loss costs its
request a round trip or a timer, and the synchronised senders often collide again.

## When it is wrong
The link's rate is taken from the file or else from the busiest 10 ms; bins are never shorter than 1 ms, because
interrupt coalescing and segmentation offload fabricate shorter bursts. A link that was down for a moment loses everything
and lets nothing through; a link that is busy all the time is congested, not hit by a burst. Random loss hits several of many
busy connections at once, too: their losses must meet oftener than the same share of all their packets would.

## Remedy
Spread the fan-out (jitter of a few ms), pace senders (`fq`), give the bottleneck deeper or actively managed queues.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, NEVER
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.bursts import BIN_NS, Load, Loads, pairs_of_owners
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import CLIENT_TO_SERVER, Repair
from pcapdiag.flows.waits import wait_of
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LOSS, 0, "microburst-loss")
LIMITS = Limits(
    hot=Limit(0.5, "", "share of the link rate that makes a bin hot (Zhang et al., IMC 2017)"),
    mean=Limit(0.25, "", "share of the link rate over a second; above it the link is busy, not hit by a burst"),
    flows=Limit(2, "", "one connection may lose packets for reasons of its own"),
    crowd=Limit(3, "", "this many connections at once do not lose packets by chance"),
    events=Limit(3, "", "with fewer events or connections it is no pattern"),
    least=Limit(4_000, "bytes", "in a hot millisecond: three packets; on slower links bins of 1 ms show nothing"),
    passed=Limit(0.1, "", "share of the burst that must get through; a broken link lets nothing pass"),
    down=Limit(600, "ms", "two timers of the least length, 200 and 400 ms: a queue has long drained by then, a broken link is still down"),
    together=Limit(50, "ms", "losses further apart than this, or a round trip, are not of one burst"),
    random=Limit(0.1, "", "share of all packets lost from which on nobody takes it for random loss (DSLReports: 12 % is the worst band)"),
    late_hole=Limit(200, "ms", "a lost tail shows at the receiver when the sender's timer (RFC 6298, Linux 200 ms) has fired"),
)
_HALF_SECOND_NS = 500_000_000
_PER_SECOND = 1_000_000_000 // BIN_NS
_TOGETHER_NS = 10_000_000
"""A queue that overflows does so for milliseconds."""
_SIGMAS = 4
_LEAST_PAIRS = 2
"""Two connections that lost a packet each in the same milliseconds are one pair; three are three."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The burst a loss belongs to."""

    start_ns: int
    peak_bps: int
    link_bps: int
    mean_bps: int
    flows: int
    measured: bool
    """The link rate was measured, not read from the file."""


@dataclass(frozen=True, slots=True)
class _Event:
    rows: tuple[int, ...]
    """Rows of Recoveries."""
    facts: Facts


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per loss in a burst, on the bytes that were missing."""
    found = trace.tcp.recoveries
    # What never came may have been filtered from the capture, and one direction alone shows holes only.
    lost = ~found.spurious & (found.repair != Repair.REORDERED) & (found.done_ns < NEVER)
    lost = np.flatnonzero(lost & ~trace.flows.one_way[found.fd >> 1])
    if len(np.unique(found.fd[lost])) < limits.flows:
        return
    trips = RoundTrips(trace.tcp)
    several = {where: rows for where, rows in _by_receiver(trace, lost).items() if len(np.unique(found.fd[rows])) >= limits.flows}
    loads = Loads(trace.packets, trace.captures, aside=trace.tcp.aside, room=trace.room) if several else None
    for (capture, receiver), rows in several.items():
        assert loads is not None
        load = loads.towards(capture, receiver)
        events = list(_events(trace, trips, load, rows, limits))
        crowded = any(event.facts.flows >= limits.crowd for event in events)
        if (not crowded and len(events) < limits.events) or _by_chance(trace, load, rows, limits):
            continue
        sure = Confidence(0.4, (f"{len(events)} bursts with losses on several connections", "bins of 1 ms"))
        if crowded and len(events) >= limits.events:
            sure = Confidence(0.7, sure.evidence)
        for event in events:
            for row in event.rows:
                yield _sign(trace, trips, row, event.facts, sure)


def _by_chance(trace: Trace, load: Load, rows: I64, limits: Limits) -> bool:
    """Do losses of different connections meet no oftener than if each packet towards the host were lost at random?

    Connections that send at the same time lose packets at the same time, too. With a share p lost, p squared of all pairs
    of their packets in the same milliseconds are; a queue that overflows loses many more pairs.
    """
    found = trace.tcp.recoveries
    sent = load.data_packets(trace.tcp.flow_of_row, _TOGETHER_NS)
    if not sent.packet_count:
        return False
    count = np.maximum(1, -(-(found.stop[rows] - found.start[rows]) // sent.usual_len))
    share = float(count.sum()) / (sent.packet_count + int(count[~found.at_sender[rows]].sum()))
    lost = pairs_of_owners(np.repeat(found.first_ns[rows], count), np.repeat(found.fd[rows], count), _TOGETHER_NS)
    expected = share**2 * sent.pairs
    return share < limits.random and lost <= expected + _SIGMAS * float(np.sqrt(expected)) + _LEAST_PAIRS


def _by_receiver(trace: Trace, rows: I64) -> dict[tuple[int, int], I64]:
    """Rows of Recoveries per capture and host that was to receive the bytes, by time."""
    found, flows = trace.tcp.recoveries, trace.flows
    flow, direction = found.fd[rows] >> 1, found.fd[rows] & 1
    receiver = np.where(direction == CLIENT_TO_SERVER, flows.server[flow], flows.client[flow])
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    order = np.argsort(found.first_ns[rows], kind="stable")
    for row, capture, host in zip(rows[order].tolist(), flows.capture[flow][order].tolist(), receiver[order].tolist(), strict=True):
        groups[capture, host].append(row)
    return {key: np.array(members, np.int64) for key, members in groups.items()}


def _events(trace: Trace, trips: RoundTrips, load: Load, rows: I64, limits: Limits) -> Iterator[_Event]:
    """Bursts that several connections lost packets in, with the losses that showed later."""
    found = trace.tcp.recoveries
    whole = [trips.whole_ns(flow) for flow in np.unique(found.fd[rows] >> 1).tolist()]
    trip_ns = max(min((trip for trip in whole if trip > 0), default=0), 0)
    # A hole that fills sooner than a resend can come was lost earlier: its resend was already on the way.
    rows = rows[found.at_sender[rows] | (found.resent_ns[rows] - found.first_ns[rows] >= trip_ns // 2)]
    apart_ns = min(limits.ns("together"), trip_ns) if trip_ns else limits.ns("together")
    times = found.first_ns[rows]
    cuts = np.flatnonzero(np.diff(times) > apart_ns) + 1
    groups = np.split(rows, cuts)
    bursts = [(group, facts) for group in groups if (facts := _burst(trace, load, group, trip_ns, limits)) is not None]
    if not bursts:
        return
    ends = [int(found.first_ns[group[-1]]) for group, _ in bursts]
    claimed = {int(row) for group, _ in bursts for row in group}
    for (group, facts), end, following in zip(bursts, ends, [*(facts.start_ns for _, facts in bursts[1:]), NEVER], strict=True):
        late = (times > end) & (times <= min(end + limits.ns("late_hole") + trip_ns, following)) & ~found.at_sender[rows]
        later = [row for row in rows[late].tolist() if row not in claimed]
        yield _Event((*group.tolist(), *later), facts)


def _burst(trace: Trace, load: Load, group: I64, trip_ns: int, limits: Limits) -> Facts | None:
    """The burst behind losses that came close together; None when there is none."""
    found = trace.tcp.recoveries
    # A tail that a timer repaired dates its loss only roughly: it joins a burst, but makes none.
    flows = len(np.unique(found.fd[group][found.at_sender[group] | ~found.tail[group]]))
    if flows < limits.flows:
        return None
    first, last = int(found.first_ns[group[0]]), int(found.first_ns[group[-1]])
    # A burst that took the tails of several flights opens holes at the receiver only with the next flight, or the next timer.
    tails = flows >= limits.crowd and not found.at_sender[group].any()
    peak = load.peak_bps(*load.span(first - trip_ns - (limits.ns("late_hole") if tails else 0), last))
    mean = load.mean_bps(first - _HALF_SECOND_NS, last + _HALF_SECOND_NS)
    if peak <= limits.hot * load.link_bps or peak < 8 * limits.least * _PER_SECOND or mean > limits.mean * load.link_bps:
        return None
    here = found.at_sender[group]
    if here.any():  # the tap saw what was lost, too: how much of the burst got through?
        lost = int((found.stop[group] - found.start[group])[here].sum())
        if lost > (1 - limits.passed) * load.bytes_in(first - trip_ns // 2, last + trip_ns // 2):
            return None
        if int((found.done_ns - found.first_ns)[group][here].min()) > limits.ns("down") + 2 * trip_ns:
            return None
    return Facts(first, peak, load.link_bps, mean, flows, load.measured)


def _sign(trace: Trace, trips: RoundTrips, row: int, facts: Facts, sure: Confidence) -> Sign:
    found = trace.tcp.recoveries
    wait = wait_of(trace.tcp, trips, row)
    flow, direction = divmod(int(found.fd[row]), 2)
    here = bool(found.at_sender[row])
    return Sign(
        label=LABEL, scope=OfFlow(flow, direction, int(found.start[row]), int(found.stop[row])), start_ns=wait.start_ns,
        end_ns=wait.end_ns, at_least=wait.at_least, facts=facts, confidence=sure,
        frames=frames_of(trace, (
            (int(found.first_segment[row]), "sent in the burst; lost" if here else "arrives in the burst; bytes before it are missing"),
            (int(found.resent_segment[row]), "the missing bytes, resent"),
        )),
    )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = {sign.facts.start_ns: sign.facts for sign in share.signs if isinstance(sign.facts, Facts)}
        worst = max(facts.values(), key=lambda fact: (fact.flows, fact.peak_bps))
        link = f"{_rate(worst.link_bps)}{' (busiest 10 ms)' if worst.measured else ''}"
        bursts = f"{len(facts)} {'burst' if len(facts) == 1 else 'bursts'}"
        yield share.concluded(
            LABEL.code,
            summary=f"{bursts} between {share.server} and {share.client} overran a queue: up to "
            f"{worst.flows} connections lost packets at once at {_rate(worst.peak_bps)} over 1 ms on a link of {link}, "
            f"used at {_rate(worst.mean_bps)} on average; {share.requests} waited {share.stall_ns / 1e9:.2f} s "
            "for the resends",
            contrast=f"random loss hits one connection at a time; here {worst.flows} lost packets within the same milliseconds",
            details={
                "variant": "loss-burst", "bursts": len(facts), "connections": worst.flows, "peak_bps": worst.peak_bps,
                "link_bps": worst.link_bps, "mean_bps": worst.mean_bps, "link_rate_measured": worst.measured,
            },
        )  # fmt: skip


def _rate(bps: int) -> str:
    return f"{bps / 1e6:.3g} Mbit/s"


DETECTOR = Detector(
    code=LABEL.code,
    title="Short bursts overran a queue",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Spread the fan-out: start parallel calls with a few milliseconds of jitter, or limit how many run at once.",
        "Pace senders: tc qdisc replace dev <if> root fq; SO_MAX_PACING_RATE on bulk sockets.",
        "At the bottleneck: a deeper queue, or fq_codel with ECN; look at its drop counters (tc -s qdisc, ethtool -S, switch port).",
    ),
    references=("Zhang et al., High-Resolution Measurement of Data Center Microbursts (IMC 2017)", "RFC 7567"),
    wireshark_filter="tcp.analysis.retransmission",
)
