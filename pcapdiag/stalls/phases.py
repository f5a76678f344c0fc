"""An exchange's wall time where no sign speaks: set-up, sending, waiting, receiving, and who owned the turn in each.

CAUSES section 11, steps 3 and 5: propagation (P), queueing (Q) and host time (H) of a wait; transfer and delivery while
bytes arrive. The parts are adjacent and cover the wall time exactly.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Vantage
from pcapdiag.flows.waits import bulk_intervals, spoken_of_ns
from pcapdiag.stalls.sign import (
    CLIENT_PRODUCE,
    DELIVERY,
    DNS_SLOW,
    INTER_TOKEN_GAP,
    PROPAGATION,
    QUEUEING,
    SERVER_THINK,
    TLS_SLOW,
    TRANSFER,
    UNATTRIBUTED,
    Label,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.streams import Streams

STALL_FLOOR_NS = 200_000_000
"""Shorter waits are no stall whatever the path: the least retransmission timeout and delayed-ACK time of Linux."""
ACK_SLACK_NS = 5_000_000
"""An ACK later than the round trip by more than this was delayed and does not date the request's arrival."""
DNS_SLOW_NS = 100_000_000
TLS_SLOW_NS = 300_000_000
BULK_TRIPS = 1.25
"""Flights of a window-limited sender follow each other within a round trip and some jitter."""
LONGEST_NS = 7_440_000_000_000
"""2 h 4 min (RFC 5382 REQ-5): no path need keep a silent connection longer; such a wait is a spliced file or a clock step."""
ONE_TRIP_TLS = frozenset({None, "TLSv1.3", "1.3"})
"""RFC 8446 section 2: one round trip; older versions take two."""
_TOKEN_FACTOR = 5
"""A pause in a token stream is a gap of the producer when it exceeds five median gaps (and the trigger)."""


class Phase(IntEnum):
    """What an exchange is doing; signs are eligible by phase and direction."""

    DNS = 0
    CONNECT = 1
    TLS = 2
    SEND = 3
    WAIT = 4
    RECV = 5
    CLIENT = 6


@dataclass(frozen=True, slots=True)
class Part:
    """[start_ns, end_ns) of an exchange with the label that holds when no sign covers it."""

    start_ns: int
    end_ns: int
    phase: Phase
    label: Label


_SETUP_PHASE = {Protocol.DNS: Phase.DNS, Protocol.CONNECT: Phase.CONNECT, Protocol.TLS_HANDSHAKE: Phase.TLS}


class Phases:
    """Cuts exchanges into parts."""

    __slots__ = ("_bulk_cache", "_exchanges", "_streams", "_tcp", "_trips")

    def __init__(self, exchanges: Exchanges, tcp: TcpTables, streams: Streams) -> None:
        self._exchanges = exchanges
        self._tcp = tcp
        self._streams = streams
        self._trips = RoundTrips(tcp)
        self._bulk_cache: dict[int, tuple[list[int], list[int]]] = {}

    def trigger_ns(self, exchange: Exchange) -> int:
        """The stall trigger: max(2 SRTT, 200 ms)."""
        return max(2 * self._round_trip(exchange), STALL_FLOOR_NS)

    def _round_trip(self, exchange: Exchange) -> int:
        return 0 if exchange.protocol is Protocol.DNS else max(self._trips.whole_ns(exchange.flow), 0)

    def parts(self, exchange: Exchange, covered: Sequence[tuple[int, int]] = ()) -> list[Part]:
        """Adjacent parts from start_ns to end_ns.

        Args:
            exchange: the exchange.
            covered: disjoint ascending intervals that signs claim because nothing could progress in them; the model of a
                wait (round trip, server's turn) is laid over the rest.
        """
        drafts = list(self._setup(exchange)) if exchange.is_setup else [*self._setups_of(exchange), *self._application(exchange, covered)]
        return _tiled(drafts, exchange.start_ns, exchange.end_ns)

    def _setups_of(self, exchange: Exchange) -> Iterator[Part]:
        for setup in exchange.setup:
            yield from self._setup(self._exchanges[setup])

    def _setup(self, exchange: Exchange) -> Iterator[Part]:
        """A lookup, connect or handshake: its round trips are propagation; what exceeds them is the peer's."""
        start, end, phase = exchange.start_ns, exchange.end_ns, _SETUP_PHASE[exchange.protocol]
        if exchange.protocol is Protocol.DNS:
            slow = end - start > DNS_SLOW_NS
            label = UNATTRIBUTED if len(exchange.tries) > 1 or exchange.outcome is not Outcome.OK else DNS_SLOW
            yield Part(start, end, phase, label if slow else PROPAGATION)
            return
        floor = max(self._trips.far(exchange.flow).floor_ns(), 0) + max(self._trips.near(exchange.flow).floor_ns(), 0)
        if exchange.protocol is Protocol.CONNECT:
            late = UNATTRIBUTED if len(exchange.tries) > 1 or exchange.outcome is not Outcome.OK else QUEUEING
            yield Part(start, min(start + floor, end), phase, PROPAGATION)
            yield Part(min(start + floor, end), end, phase, late)
            return
        trips = 1 if exchange.status in ONE_TRIP_TLS else 2
        residual = end - start - trips * floor
        label = TLS_SLOW if residual > max(3 * floor, TLS_SLOW_NS) else SERVER_THINK
        yield Part(start, min(start + trips * floor, end), phase, PROPAGATION)
        yield Part(min(start + trips * floor, end), end, phase, label)

    def _application(self, exchange: Exchange, covered: Sequence[tuple[int, int]]) -> Iterator[Part]:
        if exchange.request_start_ns >= NEVER or exchange.request_start_ns > exchange.end_ns:
            return
        sent = min(exchange.request_end_ns, exchange.end_ns)
        answered = min(max(exchange.first_byte_ns, sent), exchange.end_ns)
        yield from self._send(exchange, exchange.request_start_ns, sent)
        yield from self._wait(exchange, sent, answered, covered)
        if exchange.first_byte_ns < NEVER:
            yield from self._receive(exchange, answered, exchange.end_ns)

    def _send(self, exchange: Exchange, start: int, end: int) -> Iterator[Part]:
        """While request bytes leave: transfer, but for pauses in which nothing was in flight."""
        fd = 2 * exchange.flow + CLIENT_TO_SERVER
        trigger = self.trigger_ns(exchange)
        times = self._streams.progress(fd, exchange.request)
        instants = [start, *times[(times > start) & (times < end)].tolist(), end]
        at = start
        for i in np.flatnonzero(np.diff(instants) > trigger).tolist():
            yield Part(at, instants[i], Phase.SEND, TRANSFER)
            yield Part(instants[i], at := instants[i + 1], Phase.SEND, CLIENT_PRODUCE)
        yield Part(at, end, Phase.SEND, TRANSFER)

    def _wait(self, exchange: Exchange, start: int, end: int, covered: Sequence[tuple[int, int]]) -> Iterator[Part]:
        """The gap model: P/2, Q, H, P/2 between the last request byte and the first response byte."""
        free = _outside(start, end, covered)
        waited = sum(b - a for a, b in free)
        if waited <= 0:
            return
        trip = self._trips.server_ns(exchange.flow, start)
        floor = 0 if trip == 0 else self._trips.far(exchange.flow).floor_ns()
        if trip < 0:  # no round trip known: host time and path cannot be told apart
            trip = floor = 0
        acked = exchange.request_acked_ns
        on_time = trip > 0 and start < acked <= min(start + trip + ACK_SLACK_NS, free[0][1])
        path = min(acked - start if on_time else trip, waited)
        propagation = min(floor, path)
        half = propagation // 2
        shares = ((PROPAGATION, half), (QUEUEING, path - propagation), (None, waited - path), (PROPAGATION, propagation - half))
        for label, a, b in _laid(shares, free):
            if label is not None:
                yield Part(a, b, Phase.WAIT, label)
            else:
                yield from self._turn(exchange, a, b, ago_ns=propagation - half)

    def _turn(self, exchange: Exchange, start: int, end: int, *, ago_ns: int) -> Iterator[Part]:
        """The server's turn; on a shared connection only while it is not busy sending other answers as fast as TCP lets it.

        What arrives at the tap left the server `ago_ns` earlier; the turn is laid out in the server's time.
        """
        host = self._host(exchange, end - start)
        if exchange.h2_stream:
            within = BULK_TRIPS * self._round_trip(exchange) + ACK_SLACK_NS
            starts, ends = self._bulk(exchange.flow, int(within))
            near = slice(bisect_right(ends, start + ago_ns), bisect_left(starts, end + ago_ns))
            for a, b in zip(starts[near], ends[near], strict=True):
                busy, idle = max(a - ago_ns, start), min(b - ago_ns, end)
                if busy < idle:
                    yield Part(start, busy, Phase.WAIT, host)
                    yield Part(busy, idle, Phase.WAIT, TRANSFER)
                    start = idle
        yield Part(start, end, Phase.WAIT, host)

    def _bulk(self, flow: int, within_ns: int) -> tuple[list[int], list[int]]:
        found = self._bulk_cache.get(flow)
        if found is None:
            starts, ends = bulk_intervals(self._tcp, 2 * flow + SERVER_TO_CLIENT, within_ns)
            found = self._bulk_cache[flow] = starts.tolist(), ends.tolist()
        return found

    def _host(self, exchange: Exchange, turn_ns: int) -> Label:
        """Whose time a wait is: the server's once it can have the request.

        Nobody's when it may never have got it, and no stall when it had answered and the answer never came.
        """
        answered = exchange.first_byte_ns < NEVER
        had_it = exchange.request_acked_ns < NEVER or answered
        at_server = int(self._tcp.flows.vantage[exchange.flow]) == Vantage.SERVER
        believable = exchange.duration_ns <= LONGEST_NS
        if not ((had_it or at_server) and believable):
            return UNATTRIBUTED
        # Of what it sent before the end it speaks in the ACK of whatever ended the exchange.
        trigger = self.trigger_ns(exchange)
        sent = not answered and turn_ns > trigger and spoken_of_ns(self._tcp, exchange.flow) < exchange.end_ns + trigger
        return UNATTRIBUTED if sent else SERVER_THINK

    def _receive(self, exchange: Exchange, start: int, end: int) -> Iterator[Part]:
        """While the response comes: its own pace, pauses of its producer, and at the server the way to the client."""
        fd = 2 * exchange.flow + SERVER_TO_CLIENT
        times = self._streams.progress(fd, exchange.response)
        times = times[(times > start) & (times <= end)]
        instants = [start, *times.tolist()]
        gaps = np.diff(instants)
        usual = int(np.median(gaps)) if len(gaps) else 0
        if exchange.protocol is Protocol.WEBSOCKET or "tunnel_request_len" in exchange.facts:
            yield Part(start, end, Phase.RECV, DELIVERY)  # both sides speak when they like: no pause is anybody's turn
            return
        is_stream, trigger = exchange.is_stream, self.trigger_ns(exchange)
        flowing = DELIVERY if is_stream else TRANSFER
        allowed = usual if is_stream else max(self._round_trip(exchange), usual)
        at = start
        for i in np.flatnonzero(gaps > max(trigger, _TOKEN_FACTOR * usual if is_stream else 0)).tolist():
            paused, resumed = instants[i] + allowed, instants[i + 1]
            yield Part(at, paused, Phase.RECV, flowing)
            # Before the first token (headers came early) and before the closing status the server thinks; between tokens it pauses.
            producer = INTER_TOKEN_GAP if is_stream and 0 < i < len(gaps) - 1 else SERVER_THINK
            yield Part(paused, resumed, Phase.RECV, UNATTRIBUTED if self._packets_missing(exchange, resumed) else producer)
            at = resumed
        yield Part(at, instants[-1], Phase.RECV, flowing)
        if instants[-1] < end:
            yield from self._tail(exchange, instants[-1], end)

    def _packets_missing(self, exchange: Exchange, ts_ns: int) -> bool:
        """Do skipped IP-IDs say that packets of the server never reached the tap before this arrival?"""
        flows, segments = self._tcp.flows, self._tcp.segments
        rows = slice(int(flows.begin[exchange.flow]), int(flows.stop[exchange.flow]))
        low, high = np.searchsorted(segments.ts_ns[rows], [ts_ns, ts_ns + 1])
        here = slice(rows.start + int(low), rows.start + int(high))
        return bool(((segments.direction[here] == SERVER_TO_CLIENT) & (segments.id_gap[here] > 0)).any())

    def _tail(self, exchange: Exchange, start: int, end: int) -> Iterator[Part]:
        """Behind the last response byte at the tap: its way to the client (tap at the server), or an open end."""
        if exchange.outcome is Outcome.OK or int(self._tcp.flows.vantage[exchange.flow]) == Vantage.SERVER:
            way = min(max(self._trips.near(exchange.flow).floor_ns(), 0), end - start)
            yield Part(start, start + way, Phase.RECV, PROPAGATION)
            yield Part(start + way, end, Phase.RECV, TRANSFER if exchange.outcome is Outcome.OK else UNATTRIBUTED)
        else:
            yield Part(start, end, Phase.RECV, UNATTRIBUTED)


def _outside(start: int, end: int, covered: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of [start, end) no covered interval claims."""
    free, at = [], start
    for a, b in covered:
        if b <= at or a >= end:
            continue
        if a > at:
            free.append((at, a))
        at = max(at, b)
    return [*free, (at, end)] if at < end else free


def _laid(shares: Iterable[tuple[Label | None, int]], free: list[tuple[int, int]]) -> Iterator[tuple[Label | None, int, int]]:
    """Shares of time, laid one behind the other over the free intervals."""
    rest = iter(free)
    at, end = next(rest)
    for label, length in shares:
        left = length
        while left > 0:
            if at == end:
                at, end = next(rest)
            step = min(left, end - at)
            yield label, at, at + step
            at, left = at + step, left - step


def _tiled(drafts: list[Part], start: int, end: int) -> list[Part]:
    """The drafts without overlaps (the earlier one keeps the time) and with the client's time between them."""
    parts: list[Part] = []
    at = start
    for draft in sorted(drafts, key=lambda part: (part.start_ns, part.end_ns)):
        begin, stop = max(draft.start_ns, at), min(draft.end_ns, end)
        if stop <= begin:
            continue
        if begin > at:
            parts.append(Part(at, begin, Phase.CLIENT, CLIENT_PRODUCE))
        parts.append(Part(begin, stop, draft.phase, draft.label))
        at = stop
    if at < end:
        parts.append(Part(at, end, Phase.CLIENT if not parts else parts[-1].phase, UNATTRIBUTED))
    return parts
