"""bufferbloat: packets waited in a long queue on the path, behind traffic that keeps its buffer full.

## What it does
It takes the part of each round trip that exceeds the floor of the path between two hosts (all their connections
together, least of 100 ms of samples, so that delayed ACKs do not count) and charges it to the requests that were sent
meanwhile, when it is 50 ms or more and the capture shows what fills the queue: the round trip follows the bytes in
flight (self-inflicted), or several connections slow down and recover together (cross-traffic).

## Why it matters
One upload through an oversized buffer delays every small request beside it by the time the buffer holds, often
seconds: agents that send long contexts do this to their own tool calls.

## When it is wrong
A change of route is a sharp step that stays, and is path-change. A busy receiver that acknowledges late looks alike from
one end. A bulk transfer that fills the queue itself is limited by its rate, and is not charged.

## Remedy
Manage the queue where it stands: `tc qdisc replace dev X root cake bandwidth N` with N at 90 to 95 % of the uplink, or
fq_codel; do not upload in parallel with interactive calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, Bools
from pcapdiag.exchanges.table import Exchange
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.path_rtt import History, bloated, histories, in_flight, rank_correlation
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import CLIENT_TO_SERVER
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.late import late_intervals
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfExchange, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LATE, 1, "bufferbloat")
LIMITS = Limits(
    queue=Limit(50, "ms", "bufferbloat.net: more than this under load is felt; CoDel's target is 5 ms (RFC 8289)"),
    correlation=Limit(0.6, "", "Spearman's coefficient of bytes in flight and round trip: the queue is made of them"),
    samples=Limit(10, "", "fewer samples of a queue give no correlation"),
    breath=Limit(0.25, "", "a queue of others varies by at least this share of its median; a longer route does not"),
    own_share=Limit(0.25, "", "share of the bytes sent while the queue stood: whoever sent that many made it"),
    initial_window=Limit(14_600, "bytes", "RFC 6928: ten packets leave at once, smaller requests fill no queue"),
    release=Limit(0.05, "", "of the round trip: an ACK that arrives this close before an answer let it go"),
    step=Limit(5, "ms", "steps of the floor this large are changes of route (path-change)"),
    step_share=Limit(0.2, "", "the same, relative to the floor"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The queue one request waited in."""

    queue_ns: int
    floor_ns: int
    largest_ns: int
    """Largest queueing delay on this path."""
    correlation: float
    variant: str
    """self-inflicted or cross-traffic."""


@dataclass(frozen=True, slots=True)
class _Queue:
    """A path with a queue."""

    history: History
    floors: I64
    """Floor of the level that each sample belongs to."""
    deep: Bools
    """Per sample: a material queue around it."""
    frames: tuple[Frame, ...]
    sure: Confidence
    correlation: float
    variant: str


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per request (and set-up) that waited in a queue it did not fill itself."""
    trips = RoundTrips(trace.tcp)
    for history in histories(trace.tcp):
        queue = _queue(trace, history, limits) if history.direction == CLIENT_TO_SERVER else None
        if queue is None:
            continue
        first, last = (int(history.sent_ns[queue.deep][at]) for at in (0, -1))
        exchanges = trace.exchanges
        mine = np.isin(exchanges.flow, history.flows) & (exchanges.start_ns <= last) & (exchanges.end_ns >= first)
        for exchange in trace.paced(exchanges.where(mine)):
            yield from _delayed(trace, queue, trips, exchange, limits)


def _queue(trace: Trace, history: History, limits: Limits) -> _Queue | None:
    """The queue of a path, if it is long enough and the capture shows that it is one."""
    if int(history.rtt_ns.max() - history.rtt_ns.min()) < limits.ns("queue"):
        return None
    levels = history.levels(least_ns=limits.ns("step"), share=limits.step_share)
    floors = np.concatenate([np.full(level.stop - level.begin, level.floor_ns) for level in levels])
    deep = bloated(history, floors, limits.ns("queue"))
    if int(deep.sum()) < 2:
        return None
    correlation = _correlation(trace, history, deep, limits)
    delays = (history.rtt_ns - floors)[deep]
    together = len(np.unique(history.flow[deep]))
    if correlation >= limits.correlation:
        variant = "self-inflicted"
        sure = Confidence(0.85, (f"round trip follows the bytes in flight (rank correlation {correlation:.2f})",))
    elif together > 1 and len(delays) >= limits.samples and _breathes(delays, limits):
        variant = "cross-traffic"
        sure = Confidence(0.6, (f"{together} connections slow down and recover together",))
    else:
        return None
    shown = np.flatnonzero(deep & (history.segment >= 0))
    rows = shown[np.linspace(0, len(shown) - 1, min(len(shown), 4)).astype(np.int64)] if len(shown) else shown
    rows = np.unique(np.append(rows, shown[np.argmax(history.rtt_ns[shown])])) if len(shown) else rows
    frames = frames_of(trace, [(int(history.segment[at]), f"round trip {history.rtt_ns[at] / 1e6:.0f} ms") for at in rows])
    return _Queue(history, floors, deep, frames, sure, correlation, variant)


def _correlation(trace: Trace, history: History, deep: Bools, limits: Limits) -> float:
    """Of round trips with the bytes in flight when the measured packet left, from the first to the last sample of the queue."""
    span = slice(*(np.flatnonzero(deep)[[0, -1]] + (0, 1)))
    times, flying = in_flight(trace.tcp, history)
    at = np.searchsorted(times, history.sent_ns[span], side="right") - 1
    if len(at) < limits.samples or int(flying[at].max(initial=0)) < limits.initial_window:
        return 0.0
    return rank_correlation(flying[at], history.rtt_ns[span])


def _breathes(delays: I64, limits: Limits) -> bool:
    low, middle, high = np.percentile(delays, [10, 50, 90])
    return bool(high - low >= limits.breath * middle)


def _delayed(trace: Trace, queue: _Queue, trips: RoundTrips, exchange: Exchange, limits: Limits) -> Iterator[Sign]:
    history = queue.history
    sent_ns = exchange.start_ns if exchange.is_setup else exchange.request_end_ns
    at = min(int(np.searchsorted(history.sent_ns, sent_ns)), len(history.sent_ns) - 1)
    floor_ns = int(queue.floors[at])
    around = history.around(sent_ns)
    if not len(around) or int(around.min()) - floor_ns < limits.ns("queue"):
        return
    delay_ns = int(np.median(around)) - floor_ns
    if sent_ns < exchange.request_acked_ns <= exchange.end_ns:  # its own ACK knows best, unless it was delayed
        delay_ns = min(delay_ns, exchange.request_acked_ns - sent_ns - floor_ns)
    if delay_ns < limits.ns("queue") or _fills(trace, queue, exchange, sent_ns, delay_ns, limits):
        return
    delay_ns = _until_released(trace, queue, exchange, sent_ns, delay_ns, floor_ns, limits)
    facts = Facts(delay_ns, floor_ns, int((history.rtt_ns - queue.floors)[queue.deep].max()), queue.correlation, queue.variant)
    own_floor = max(trips.far(exchange.flow).floor_ns(), 0)
    for start, end in late_intervals(exchange, usual_ns=floor_ns, late_ns=delay_ns, floor_ns=own_floor):
        yield Sign(
            label=LABEL, scope=OfExchange(exchange.id), start_ns=start, end_ns=end, confidence=queue.sure, facts=facts,
            frames=_with_own(exchange, sent_ns, queue.frames),
        )  # fmt: skip


def _fills(trace: Trace, queue: _Queue, exchange: Exchange, sent_ns: int, delay_ns: int, limits: Limits) -> bool:
    """Is the queue made of this request's own bytes? Then it is limited by the rate of the path, not a victim of it."""
    if exchange.request_len <= limits.initial_window:
        return False
    fd = 2 * exchange.flow + queue.history.direction
    low, high = np.searchsorted(trace.tcp.pieces.fd, [fd, fd + 1])
    pieces = trace.tcp.pieces.take(slice(int(low), int(high)))
    recent = (pieces.ts_ns > sent_ns - delay_ns) & (pieces.ts_ns <= sent_ns)
    own = sum(
        int(np.clip(np.minimum(pieces.stop[recent], stop) - np.maximum(pieces.start[recent], start), 0, None).sum())
        for start, stop in exchange.request
    )
    rows = np.isin(trace.tcp.pieces.fd, 2 * queue.history.flows + queue.history.direction)
    rows &= (trace.tcp.pieces.ts_ns > sent_ns - delay_ns) & (trace.tcp.pieces.ts_ns <= sent_ns)
    total = int((trace.tcp.pieces.stop[rows] - trace.tcp.pieces.start[rows]).sum())
    return own >= limits.own_share * total


def _until_released(trace: Trace, queue: _Queue, exchange: Exchange, sent_ns: int, delay_ns: int, floor_ns: int, limits: Limits) -> int:
    """The delay, up to the answer when that had to wait for an ACK that stood in the queue as well.

    A server whose timer ran out because of the queue resends in vain and may then send only what ACKs allow (RFC 5681
    section 3.1): its answer leaves when a packet of the client, sent a queue's length ago, arrives.
    """
    answered_ns = exchange.first_byte_ns
    rest_ns = answered_ns - sent_ns - delay_ns - floor_ns
    if exchange.is_setup or answered_ns > exchange.end_ns or rest_ns < limits.ns("queue"):
        return delay_ns
    resent = trace.tcp.recoveries
    in_vain = resent.spurious & (resent.fd == 2 * exchange.flow + 1) & (resent.resent_ns < answered_ns)
    since_ns = answered_ns - 2 * (delay_ns + floor_ns)
    if not (in_vain & (resent.resent_ns > since_ns)).any():
        return delay_ns
    rows = slice(int(trace.flows.begin[exchange.flow]), int(trace.flows.stop[exchange.flow]))
    segments = trace.segments
    own = (segments.direction[rows] == CLIENT_TO_SERVER) & (segments.ts_ns[rows] > since_ns) & (segments.ts_ns[rows] < answered_ns)
    for left_ns in segments.ts_ns[rows][own].tolist():
        around = queue.history.around(left_ns)
        if len(around) and abs(left_ns + int(np.median(around)) - answered_ns) <= limits.release * int(np.median(around)):
            return delay_ns + rest_ns
    return delay_ns


def _with_own(exchange: Exchange, sent_ns: int, frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    own = tuple(Frame(capture, number, sent_ns, "request sent into the queue") for capture, number in exchange.frames[:1])
    return (*own, *frames)


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        worst = max(facts, key=lambda fact: fact.queue_ns)
        cause = "its own traffic fills" if worst.variant == "self-inflicted" else "other traffic fills"
        yield share.concluded(
            LABEL.code,
            summary=f"{share.requests} from {share.client} to {share.server} waited {share.stall_ns / 1e9:.2f} s in a queue "
            f"that {cause}: round trips of up to {(worst.queue_ns + worst.floor_ns) / 1e6:.0f} ms "
            f"on a path of {worst.floor_ns / 1e6:.0f} ms",
            contrast=_contrast(worst),
            details={
                "variant": worst.variant, "floor_s": round(worst.floor_ns / 1e9, 6), "queue_max_s": round(worst.largest_ns / 1e9, 6),
                "rank_correlation": round(worst.correlation, 2),
            },
        )  # fmt: skip


def _contrast(fact: Facts) -> str:
    if fact.variant == "self-inflicted":
        return f"a longer route keeps its length whatever is sent; this round trip follows the bytes in flight ({fact.correlation:.2f})"
    return "a longer route keeps its length; this round trip swells and shrinks on several connections together"


DETECTOR = Detector(
    code=LABEL.code,
    title="Requests waited in a bloated queue",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "On the router or host before the bottleneck: tc qdisc replace dev <if> root cake bandwidth <90-95 % of the uplink>",
        "Without cake: tc qdisc replace dev <if> root fq_codel, and shape below the link's rate so that the queue stands there.",
        "Do not upload in parallel with interactive calls, or pace the upload: SO_MAX_PACING_RATE, tc ... fq maxrate.",
        "BBR keeps queues short: sysctl -w net.ipv4.tcp_congestion_control=bbr",
    ),
    references=("RFC 8289", "RFC 7567", "Gettys and Nichols, Bufferbloat: Dark Buffers in the Internet (2012)"),
    wireshark_filter="tcp.analysis.ack_rtt > 0.2",
)
