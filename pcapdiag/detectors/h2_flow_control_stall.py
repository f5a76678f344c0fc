"""h2-flow-control-stall: an HTTP/2 receiver gave no credit, so the sender had to keep its bytes.

## What it does
It keeps the windows of RFC 9113 section 5.2: the connection's window (65,535 bytes and its WINDOW_UPDATEs, less all DATA)
and each stream's (SETTINGS_INITIAL_WINDOW_SIZE, also when changed later, and its WINDOW_UPDATEs, less its DATA, padding
included). A stall is a pause on an unfinished stream, longer than max(2 round trips, 200 ms), that begins when a window
holds less than the next DATA frame needs and ends because credit comes: the DATA follows a round trip later. The
finding says which window was empty, the stream's or the connection's, and which side gave no credit.

## Why it matters
TCP flows and the server is ready; the reader of one stream is slow. With the connection's window empty, every stream on
the connection stands still, also those whose readers are quick.

## When it is wrong
If the capture begins after the handshake, or has lost packets, the windows are unknown and only the pattern speaks
(pause, WINDOW_UPDATE, DATA): confidence 0.3. A download that merely runs at window / round trip is not a stall.

## Remedy
Read every response body to its end or cancel it; never leave one unread on a shared connection. Give bigger windows:
gRPC `grpc.http2.lookahead_bytes` and BDP probing, Envoy `initial_stream_window_size`, `initial_connection_window_size`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER, rows_between
from pcapdiag.exchanges.h2log import H2Log
from pcapdiag.exchanges.h2windows import Pause, find_pauses
from pcapdiag.exchanges.table import Exchange
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.conversations import blocks
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.protocols.http2_rows import H2Kind
from pcapdiag.spool import WINDOW
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfExchange, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.FLOW_CONTROL, 1, "h2-flow-control-stall")
LIMITS = Limits(
    least_pause=Limit(200, "ms", "stall trigger: max(2 SRTT, 200 ms); a window-limited download pauses for one round trip"),
    round_trips=Limit(2, "", "stall trigger: max(2 SRTT, 200 ms); a window-limited download pauses for one round trip"),
    prompt=Limit(50, "ms", "a sender with bytes in hand uses new credit a round trip and one scheduling delay later"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """One pause of one stream."""

    receiver: int
    """Who gave no credit: 0 the client, 1 the server."""
    level: str
    """The empty window: stream, connection, or unknown."""
    left: int
    """Bytes that might still be sent; the next DATA frame had more."""
    at_once: bool
    """Credit came as soon as the bytes had arrived: the path's length, not the reader, made the pause."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per pause and stream that waited for credit."""
    suspects = _suspects(trace, limits)
    if not suspects:
        return
    exchanges, trips = trace.exchanges, RoundTrips(trace.tcp)
    by_flow = exchanges.by_flow(exchanges.h2_stream > 0, len(trace.flows))
    for flow in suspects:
        log = trace.h2.of_flow(flow)
        log = log.take(log.in_order_ns < NEVER)
        trigger = max(limits.ns("least_pause"), round(limits.round_trips * max(trips.whole_ns(flow), 0)))
        number = dict(zip(exchanges.h2_stream[by_flow[flow]].tolist(), by_flow[flow].tolist(), strict=True))
        for fd in (2 * flow, 2 * flow + 1):
            reach = _trip_to_sender(trips, fd) + limits.ns("prompt")
            for pause in find_pauses(log, fd, whole=_whole(trace, log, fd), least_ns=trigger, reach_ns=reach):
                if pause.stream not in number:
                    continue
                sign = _sign(trace, log, pause, exchanges[number[pause.stream]], trips, limits)
                if sign.end_ns - sign.start_ns >= trigger:
                    yield sign


def _suspects(trace: Trace, limits: Limits) -> list[int]:
    """Flows with a stream that paused before more DATA, or that ended in DATA without END_STREAM."""
    found: list[int] = []
    for flows in blocks(trace.flows.packet_count, WINDOW):
        found += _suspects_in(trace.h2.take(rows_between(trace.h2.flow, *flows)), limits)
        trace.release()
    return found


def _suspects_in(log: H2Log, limits: Limits) -> list[int]:
    rows = np.flatnonzero(((log.kind == H2Kind.DATA) | (log.kind == H2Kind.HEADERS)) & (log.in_order_ns < NEVER))
    rows = rows[np.lexsort((log.stream_id[rows], log.fd[rows]))]
    last, then = rows[:-1], rows[1:]
    goes_on = (log.fd[last] == log.fd[then]) & (log.stream_id[last] == log.stream_id[then])
    body = log.kind[rows] == H2Kind.DATA
    paused = goes_on & body[1:] & (log.in_order_ns[then] - log.in_order_ns[last] >= limits.ns("least_pause"))
    unended = body & ~log.end_stream[rows] & ~np.append(goes_on, False)[: len(rows)]
    flows: list[int] = np.unique(np.concatenate([log.flow[then[paused]], log.flow[rows[unended]]])).tolist()
    return flows


def _whole(trace: Trace, log: H2Log, fd: int) -> bool:
    """Are the windows known: was all of it captured, from the handshake and the first SETTINGS on?"""
    begun = trace.flows.syn_count[fd >> 1] > 0 or trace.flows.syn_ack_count[fd >> 1] > 0
    told = bool(((log.fd == fd ^ 1) & (log.kind == H2Kind.SETTINGS)).any())
    return bool(begun) and told and not bool((trace.tcp.gaps.fd >> 1 == fd >> 1).any())


def _trip_to_sender(trips: RoundTrips, fd: int) -> int:
    half = trips.far(fd >> 1) if fd & 1 else trips.near(fd >> 1)
    return max(half.floor_ns(), 0)


def _sign(trace: Trace, log: H2Log, pause: Pause, exchange: Exchange, trips: RoundTrips, limits: Limits) -> Sign:
    start, ended = int(log.in_order_ns[pause.last]), pause.credit >= 0
    opened, resumed = (int(log.in_order_ns[row]) if ended else exchange.end_ns for row in (pause.credit, pause.resumed))
    flow = pause.fd >> 1
    receiver = trips.near(flow) if pause.fd & 1 else trips.far(flow)
    left = "" if pause.level == "unknown" else f"; {pause.left} bytes of the {pause.level}'s window are left"
    frames = frames_of(trace, (
        (int(log.segment[pause.last]), f"last frame before the pause{left}"),
        (int(log.segment[pause.credit]) if ended else -1, _credit_note(log, pause.credit)),
        (int(log.segment[pause.resumed]) if ended else -1, f"stream {pause.stream} goes on"),
    ))  # fmt: skip
    return Sign(
        label=LABEL, scope=OfExchange(exchange.id), start_ns=start, end_ns=min(resumed, opened + _trip_to_sender(trips, pause.fd)),
        confidence=_confidence(trace, pause), frames=frames, at_least=not ended,
        facts=Facts(
            receiver=1 - (pause.fd & 1), level=pause.level, left=pause.left,
            at_once=ended and opened - start <= max(receiver.at(start), 0) + limits.ns("prompt"),
        ),
    )  # fmt: skip


def _credit_note(log: H2Log, row: int) -> str:
    where = f"stream {log.stream_id[row]}" if log.stream_id[row] else "the connection"
    if log.kind[row] == H2Kind.SETTINGS_INITIAL_WINDOW:
        return f"SETTINGS_INITIAL_WINDOW_SIZE {log.value[row]}"
    return f"WINDOW_UPDATE {log.value[row]} for {where}"


def _confidence(trace: Trace, pause: Pause) -> Confidence:
    if pause.level == "unknown":
        return Confidence(0.3, ("pause, credit, DATA; the windows before the capture began, or in its gaps, are unknown",))
    if pause.credit < 0:
        sure = Confidence(0.8, (f"{pause.level} window empty to the end, full history",))
    elif pause.left:
        sure = Confidence(0.8, (f"{pause.level} window below the next frame, full history",))
    else:
        sure = Confidence(0.95, (f"{pause.level} window empty, full history",))
    return sure.capped(0.4, "one direction captured") if trace.flows.one_way[pause.fd >> 1] else sure


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        worst = max(share.signs, key=lambda sign: (sign.end_ns - sign.start_ns, -sign.start_ns)).facts
        assert isinstance(worst, Facts)
        role, host = ("server", share.server) if worst.receiver else ("client", share.client)
        window = {"stream": "a stream's window", "connection": "the connection's window"}.get(worst.level, "a window of unknown size")
        count = len(share.exchanges)
        yield share.concluded(
            LABEL.code,
            summary=f"The {role} {host} gave no HTTP/2 credit on {window}: {count} {'request' if count == 1 else 'requests'} stood still "
            f"for {share.stall_ns / 1e9:.2f} s{'' if share.at_least else ', until credit came'}",
            contrast="a slow producer would have had credit and sent nothing; here the next DATA followed the WINDOW_UPDATE at once",
            details={
                "variant": "latency-bound" if all(fact.at_once for fact in facts) else "consumer-bound", "level": worst.level,
                "receiver": role, "receiver_host": host, "pauses": len(facts), "window_left": worst.left,
            },
            identity=(role, worst.level),
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="HTTP/2 receiver gave no flow-control credit",
    domain=Domain.CLIENT,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Read each response to its end, or cancel the stream; never leave one unread on a shared connection.",
        "Drain streams off the event loop: a reader task per stream and a queue.",
        "Bigger windows: gRPC grpc.http2.lookahead_bytes (BDP probing on), Envoy initial_stream_window_size and "
        "initial_connection_window_size, Go http2 MaxReceiveBufferPerStream and MaxReceiveBufferPerConnection.",
        "Keep bulk responses on a connection of their own.",
    ),
    references=("RFC 9113 section 5.2", "RFC 9113 section 6.9"),
    wireshark_filter="http2.type == 8 || http2.type == 0",
)
