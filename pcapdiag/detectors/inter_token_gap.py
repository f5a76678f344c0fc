"""inter-token-gap: a token stream paused because its producer paused.

## What it does
In an answer that comes as a stream (server-sent events, gRPC messages) it takes pauses that are longer than the stall
trigger, max(2 round trips, 200 ms), and than five times the stream's usual gap, and that nothing on the wire explains:
no hole, no closed window, no packets missing by their IP-IDs. The usual gap is subtracted. The sender's own clock in
the TCP timestamps (RFC 7323) shows whether it was quiet: it must have run on through the pause.

## Why it matters
The user sees the text stop. It is the model, a tool inside the answer, or a proxy that collects; not the network.

## When it is wrong
Without TCP timestamps, seen from the client, packets held back on the way look the same: confidence 0.5. A sender that
waits for an acknowledgment that was lost holds its next tokens back (RFC 896): where that shows nothing is said. Pauses at the
borders of content blocks and tool calls are normal for many models.

## Remedy
Ask the provider with the times; send keep-alive events during long tool calls; switch proxy buffering off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits, shares
from pcapdiag.findings.shares import Share
from pcapdiag.flows.pieces import first_ack
from pcapdiag.flows.table import SERVER_TO_CLIENT, Vantage
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import INTER_TOKEN_GAP, Confidence, Frame, OfExchange, Sign
from pcapdiag.trace import Tables, Trace

LIMITS = Limits(
    least_gap=Limit(200, "ms", "stall trigger; shorter pauses are the stream's own pace"),
    material=Limit(50, "ms", "the severity floor: less than this per server is nobody's complaint"),
    clock=Limit(0.8, "", "a sender's clock that ran for four fifths of the pause shows a quiet sender; ticks are coarse"),
    shown=Limit(6, "", "pauses cited per stream, the longest"),
)
TICKS = 1 << 32


@dataclass(frozen=True, slots=True)
class Facts:
    """One pause."""

    gap_ns: int
    clock_ran: bool | None
    """Did the sender's timestamps run on through the pause? None: it sends none."""
    unheard: bool = False
    """The sender did not hear the acknowledgment of what it had sent last: its timer ended the pause, not its next token."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """Evidence for the longest pauses of each token stream: signs of no duration, so that they take no time from any label."""
    exchanges = trace.exchanges
    for exchange in trace.paced(exchanges.where(exchanges.is_stream & (exchanges.messages.counts > 1))):
        yield from _pauses(trace, exchange, limits)


def _pauses(trace: Trace, exchange: Exchange, limits: Limits) -> Iterable[Sign]:
    fd = 2 * exchange.flow + SERVER_TO_CLIENT
    streams = trace.streams.part(exchange.flow)
    times, segments = streams.in_order(fd, exchange.messages - 1), streams.segment_of(fd, exchange.messages - 1)
    known = (times < NEVER) & (segments >= 0)
    times, segments = times[known], segments[known]
    gaps = np.diff(times)
    long = np.flatnonzero(gaps > limits.ns("least_gap"))
    for at in long[np.argsort(-gaps[long], kind="stable")][: int(limits.shown)].tolist():
        before, after = int(segments[at]), int(segments[at + 1])
        ran = _clock_ran(trace, int(segments[0]), int(segments[-1]), before, after, limits.clock)
        unheard = _unheard(trace, fd, before, after)
        yield Sign(
            label=INTER_TOKEN_GAP, scope=OfExchange(exchange.id), start_ns=int(times[at + 1]), end_ns=int(times[at + 1]),
            confidence=Confidence(0.9 if ran else 0.5), facts=Facts(int(gaps[at]), ran, unheard),
            frames=frames_of(trace, ((before, "last token before the pause"), (after, f"the next, {gaps[at] / 1e9:.2f} s later"))),
        )  # fmt: skip


def _unheard(trace: Trace, fd: int, before: int, after: int) -> bool:
    """Was the packet `before` still unacknowledged for the sender when it sent `after` (rows in Segments)?

    What it has to send meanwhile is small and waits for that acknowledgment (RFC 896, RFC 9293 section 3.7.4). Either none
    passed the tap, or the sender still echoes an older timestamp than the one it bears (RFC 7323 section 4.3).
    """
    packets, segments = trace.packets, trace.segments
    last = int(segments.seq[before] + segments.payload_len[before] - 1)
    row = int(first_ack(trace.tcp.acks, np.array([fd]), np.array([last]))[0])
    if row == len(trace.tcp.acks) or trace.flows.one_way[fd >> 1]:
        return False
    if trace.tcp.acks.ts_ns[row] > segments.ts_ns[after]:
        return not (trace.tcp.gaps.fd == fd ^ 1).any()  # the capture may have lost it
    ack, answer = int(segments.row[trace.tcp.acks.segment[row]]), int(segments.row[after])
    if not (packets.has_ts[ack] and packets.has_ts[answer]):
        return False
    ahead = (int(packets.ts_val[ack]) - int(packets.ts_ecr[answer])) % TICKS
    return 0 < ahead < TICKS // 2


def _clock_ran(trace: Trace, first: int, last: int, before: int, after: int, share: float) -> bool | None:
    """Did the sender's clock run through [before, after] as fast as through the whole stream (rows in Segments)?"""
    packets, rows = trace.packets, trace.segments.row
    if not (packets.has_ts[rows[[first, last, before, after]]]).all():
        return None

    def ticks(a: int, b: int) -> int:
        return (int(packets.ts_val[rows[b]]) - int(packets.ts_val[rows[a]])) % TICKS

    def passed(a: int, b: int) -> int:
        return int(trace.segments.ts_ns[b] - trace.segments.ts_ns[a])

    return ticks(before, after) * passed(first, last) >= share * ticks(first, last) * passed(before, after)


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, INTER_TOKEN_GAP.code, tables):
        if share.stall_ns < LIMITS.ns("material"):  # what other causes left over of a pause that was theirs
            continue
        proof = _proof(share, signs)
        longest = share.intervals[int(np.lexsort((share.intervals.start_ns, -share.intervals.duration_ns))[0])]
        gaps, count = len(share.intervals), len(share.exchanges)
        yield Conclusion(
            code=INTER_TOKEN_GAP.code, kind=FindingKind.CAUSE, stall_ns=share.stall_ns, intervals=share.intervals,
            confidence=_confidence(share, proof, tables), exchanges=share.exchanges, flows=share.flows,
            frames=_frames(share, proof, tables),
            summary=f"{share.server} paused {gaps} {'time' if gaps == 1 else 'times'} inside {count} token "
            f"{'stream' if count == 1 else 'streams'} to {share.client}, {share.stall_ns / 1e9:.2f} s in all, "
            f"{(longest[2] - longest[1]) / 1e9:.2f} s at most ({tables.exchanges[longest[0]].name})",
            contrast="packets held up or lost on the way would carry older timestamps or leave a hole; the sender itself was quiet",
            details={"gaps": gaps, "longest_s": round((longest[2] - longest[1]) / 1e9, 6), "streams": count},
        )  # fmt: skip


def _proof(share: Share, signs: Sequence[Sign]) -> list[Sign]:
    """The signs that mark the ends of this share's pauses."""
    ends = {(exchange, end) for exchange, _, end in share.intervals}
    return [sign for sign in signs if isinstance(sign.scope, OfExchange) and (sign.scope.exchange, sign.end_ns) in ends]


def _confidence(share: Share, proof: Sequence[Sign], tables: Tables) -> Confidence:
    flow = tables.exchanges[share.longest.owner].flow
    facts = [sign.facts for sign in proof if isinstance(sign.facts, Facts)]
    if 2 * sum(fact.gap_ns for fact in facts if fact.unheard) > sum(fact.gap_ns for fact in facts):
        return Confidence(0.2, ("an acknowledgment did not come: the sender waited for its timer, not for a token",))
    ran = [fact.clock_ran for fact in facts]
    if int(tables.flows.vantage[flow]) == Vantage.SERVER:
        sure = Confidence(0.9, ("seen at the server: it sent nothing",))
    elif ran and all(ran):
        sure = Confidence(0.9, ("the sender's timestamps ran on through the pauses",))
    elif any(one is False for one in ran):
        sure = Confidence(0.4, ("the sender's timestamps stood still: packets were held up",))
    else:
        sure = Confidence(0.5, ("no hole, no closed window; no timestamps to tell a quiet sender from a slow path",))
    return sure.capped(0.4, "one direction captured") if tables.flows.one_way[flow] else sure


def _frames(share: Share, proof: Sequence[Sign], tables: Tables) -> tuple[Frame, ...]:
    """The packets around the longest pauses; the stream's landmarks where none is marked."""
    best = sorted(proof, key=lambda sign: -sign.facts.gap_ns if isinstance(sign.facts, Facts) else 0)[: int(LIMITS.shown)]
    frames = {(frame.capture, frame.number): frame for sign in best for frame in sign.frames}
    if not frames:
        row = tables.exchanges[share.longest.owner]
        frames = {place: Frame(*place, share.longest.end_ns, "the stream that paused") for place in row.frames[-1:]}
    return tuple(sorted(frames.values(), key=lambda frame: (frame.ts_ns, frame.capture, frame.number)))


DETECTOR = Detector(
    code=INTER_TOKEN_GAP.code,
    title="The token stream paused at its producer",
    domain=Domain.SERVER,
    label=INTER_TOKEN_GAP,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Give the provider the request ids and these times.",
        "Long tool calls inside a stream: send a comment or ping event every few seconds, so that clients see life.",
        "Between you and the server: proxy_buffering off, X-Accel-Buffering: no, no compression of event streams.",
    ),
    references=("RFC 7323 section 3", "WHATWG HTML, server-sent events"),
    wireshark_filter="tcp.len > 0 && tcp.time_delta > 0.2",
)
