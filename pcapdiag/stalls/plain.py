"""The parts of phases.py for exchanges of which no sign speaks and in which nothing paused: all of them at once, as columns.

Most exchanges of a capture are such. What is laid here is what Phases.parts lays for the same exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pcapdiag.columns import I16, I32, I64, NEVER, Bools, Rows
from pcapdiag.exchanges.table import CODES, Outcome, Protocol
from pcapdiag.flows.rtt import AllRoundTrips
from pcapdiag.flows.segmented import concatenated_ranges, group_starts, running_max, shifted
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Vantage
from pcapdiag.flows.waits import backlogs, spoken_of_ns
from pcapdiag.flows.within import search_within
from pcapdiag.stalls.phases import (
    ACK_SLACK_NS,
    BULK_TRIPS,
    DNS_SLOW_NS,
    LONGEST_NS,
    ONE_TRIP_TLS,
    STALL_FLOOR_NS,
    TLS_SLOW_NS,
)
from pcapdiag.stalls.sign import (
    CLIENT_PRODUCE,
    DELIVERY,
    DNS_SLOW,
    PROPAGATION,
    QUEUEING,
    SERVER_THINK,
    TLS_SLOW,
    TRANSFER,
    UNATTRIBUTED,
)

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.streams import Streams

LABELS: Final = (PROPAGATION, QUEUEING, TRANSFER, DELIVERY, SERVER_THINK, CLIENT_PRODUCE, UNATTRIBUTED, DNS_SLOW, TLS_SLOW)
"""What the ledger says by itself here; columns hold places in it."""
_PROPAGATION, _QUEUEING, _TRANSFER, _DELIVERY, _THINK, _PRODUCE, _UNATTRIBUTED, _DNS_SLOW, _TLS_SLOW = range(len(LABELS))


class Laid(NamedTuple):
    """Parts: [start_ns, end_ns) of an exchange, and the place of its label in LABELS."""

    owner: I64
    start_ns: I64
    end_ns: I64
    label: I64


class Entries(NamedTuple):
    """The same, kept small: there are several for each exchange of a capture."""

    owner: I32
    start_ns: I64
    end_ns: I64
    label: I16


class Scales:
    """What the time of exchanges is measured by; worked out once for all of a capture."""

    __slots__ = ("exchanges", "one_trip", "tcp", "trigger_ns", "trips", "tunnel", "within_ns")

    def __init__(self, exchanges: Exchanges, tcp: TcpTables) -> None:
        self.exchanges, self.tcp, self.trips = exchanges, tcp, AllRoundTrips(tcp)
        trip = np.where(exchanges.is_any(Protocol.DNS), 0, np.maximum(self.trips.whole_ns[exchanges.flow], 0))
        self.trigger_ns: I64 = np.maximum(2 * trip, STALL_FLOOR_NS)
        """Per exchange the stall trigger: max(2 SRTT, 200 ms)."""
        self.within_ns = (BULK_TRIPS * np.maximum(self.trips.whole_ns, 0) + ACK_SLACK_NS).astype(np.int64)
        """Per flow: packets this close together are one backlog's."""
        self.one_trip = np.array([*(text in ONE_TRIP_TLS for text in exchanges.texts), None in ONE_TRIP_TLS])
        """Per text (and for none, at the end): a TLS version whose handshake takes one round trip."""
        self.tunnel = np.array(["tunnel_request_len" in facts for facts in exchanges.facts], np.bool_)
        """Per set of facts: of a tunnel through a proxy."""


class Plain:
    """Lays out plain ones among some exchanges of the flows [first, stop)."""

    __slots__ = ("_busy", "_exchanges", "_first", "_rows", "_scales", "_server_trips", "_streams", "_tcp", "_trigger_ns", "_trips")

    def __init__(self, scales: Scales, streams: Streams, rows: Rows, first: int, stop: int) -> None:
        """Takes the exchanges, by id ascending, and the streams of their flows."""
        self._scales, self._exchanges, self._rows = scales, scales.exchanges.take(rows), rows
        self._tcp, self._streams, self._first = scales.tcp, streams, first
        self._trips, self._trigger_ns = scales.trips, scales.trigger_ns[rows]
        self._server_trips = scales.trips.to_servers(first, stop)
        self._busy = backlogs(scales.tcp, SERVER_TO_CLIENT, scales.within_ns[first:stop], first, stop)

    def lay(self) -> tuple[Entries, Rows]:
        """The entries of the exchanges in which nothing paused, by exchange, then time; and the other exchanges."""
        laid, paused = self._lay(np.arange(len(self._rows)))
        return laid._replace(owner=self._rows[laid.owner].astype(np.int32)), self._rows[paused]

    def _lay(self, rows: Rows) -> tuple[Entries, Rows]:
        setup = self._exchanges.is_setup[rows]
        asked = rows[~setup]
        asked = asked[self._exchanges.request_start_ns[asked] <= np.minimum(self._exchanges.end_ns[asked], NEVER - 1)]
        sent_ns = np.minimum(self._exchanges.request_end_ns[asked], self._exchanges.end_ns[asked])
        sending = self._is_steady(asked, self._exchanges.request_start_ns[asked], sent_ns)
        receiving, last_ns = self._received(asked, self._answered(asked, sent_ns))
        plain = sending & receiving
        paused = asked[~plain]
        kept = rows[~np.isin(rows, paused)]
        asked, sent_ns, last_ns = asked[plain], sent_ns[plain], last_ns[plain]
        others, steps = kept[~self._exchanges.is_setup[kept]], kept[self._exchanges.is_setup[kept]]
        phases = self._exchanges.setup.take(others)
        parts = [
            self._setups(np.concatenate([steps, np.repeat(others, phases.counts)]), np.concatenate([self._rows[steps], phases.values])),
            Laid(asked, self._exchanges.request_start_ns[asked], sent_ns, np.full(len(asked), _TRANSFER)),
            *self._waits(asked, sent_ns, self._answered(asked, sent_ns)),
            *self._receives(asked, self._answered(asked, sent_ns), last_ns),
        ]
        laid = Laid(*(np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)))
        return _tiled(laid, kept, self._exchanges.start_ns, self._exchanges.end_ns), paused

    def _answered(self, rows: Rows, sent_ns: I64) -> I64:
        exchanges = self._exchanges
        return np.minimum(np.maximum(exchanges.first_byte_ns[rows], sent_ns), exchanges.end_ns[rows])

    # what paused

    def _is_steady(self, rows: Rows, start_ns: I64, end_ns: I64) -> Bools:
        """Did request bytes keep coming: no gap above the trigger from the first of them to the last?"""
        steady = end_ns - start_ns <= self._trigger_ns[rows]
        long = np.flatnonzero(~steady)
        begin, times = self._times(rows[long], CLIENT_TO_SERVER, start_ns[long], end_ns[long] - 1)
        gap_ns, last_ns = _gaps(begin, times, start_ns[long])
        steady[long] = np.maximum(gap_ns, end_ns[long] - last_ns) <= self._trigger_ns[rows[long]]
        return steady

    def _received(self, rows: Rows, start_ns: I64) -> tuple[Bools, I64]:
        """Did response bytes keep coming, and when did the last of them come? NEVER where there is no response."""
        exchanges = self._exchanges
        answered = np.flatnonzero(exchanges.first_byte_ns[rows] < NEVER)
        steady, last_ns = np.ones(len(rows), np.bool_), np.full(len(rows), NEVER)
        mine, begun_ns = rows[answered], start_ns[answered]
        begin, times = self._times(mine, SERVER_TO_CLIENT, begun_ns, exchanges.end_ns[mine])
        gap_ns, last_ns[answered] = _gaps(begin, times, begun_ns)
        steady[answered] = (gap_ns <= self._trigger_ns[mine]) | self._speaks_freely(mine)
        return steady, last_ns

    def _times(self, rows: Rows, direction: int, after_ns: I64, until_ns: I64) -> tuple[I64, I64]:
        """Arrivals of the request or response bytes of exchanges within (after_ns, until_ns]."""
        spans = (self._exchanges.response if direction else self._exchanges.request).take(rows)
        begin, times = self._streams.arrivals(2 * self._exchanges.flow[rows].astype(np.int64) + direction, spans.begin, spans.values)
        count = np.diff(begin)
        inside = (times > np.repeat(after_ns, count)) & (times <= np.repeat(until_ns, count))
        return np.concatenate([[0], np.cumsum(inside)])[begin], times[inside]

    def _speaks_freely(self, rows: Rows) -> Bools:
        """Both sides speak when they like: no pause is anybody's turn."""
        return self._exchanges.is_any(Protocol.WEBSOCKET)[rows] | self._scales.tunnel[self._exchanges.fact[rows]]

    # phase by phase

    def _setups(self, owner: I64, row: I64) -> Laid:
        """Lookups, connects and handshakes (`row`, of all exchanges) as phases of their owners: two parts each."""
        exchanges, trips = self._scales.exchanges, self._trips
        flow, start, end = exchanges.flow[row], exchanges.start_ns[row], exchanges.end_ns[row]
        dns, connect = (exchanges.protocol[row] == CODES[protocol] for protocol in (Protocol.DNS, Protocol.CONNECT))
        floor = np.maximum(trips.far_floor_ns[flow], 0) + np.maximum(trips.near_floor_ns[flow], 0)
        one_trip = self._scales.one_trip[exchanges.status[row]]
        floor *= np.where(connect | one_trip, 1, 2)
        middle = np.where(dns, end, np.minimum(start + floor, end))
        failed = (exchanges.tries.counts_of(row) > 1) | (exchanges.outcome[row] != CODES[Outcome.OK])
        slow = end - start > DNS_SLOW_NS
        lookup = np.where(slow, np.where(failed, _UNATTRIBUTED, _DNS_SLOW), _PROPAGATION)
        trip = floor // np.where(connect | one_trip, 1, 2)
        handshake = np.where(end - start - floor > np.maximum(3 * trip, TLS_SLOW_NS), _TLS_SLOW, _THINK)
        late = np.where(connect, np.where(failed, _UNATTRIBUTED, _QUEUEING), handshake)
        return Laid(
            np.repeat(owner, 2),
            np.stack([start, middle], axis=1).ravel(),
            np.stack([middle, end], axis=1).ravel(),
            np.stack([np.where(dns, lookup, _PROPAGATION), late], axis=1).ravel(),
        )

    def _waits(self, rows: Rows, sent_ns: I64, answered_ns: I64) -> list[Laid]:
        """The gap model: P/2, Q, H, P/2 between the last request byte and the first response byte."""
        exchanges, waited = self._exchanges, answered_ns - sent_ns
        some = np.flatnonzero(waited > 0)
        rows, sent_ns, answered_ns, waited = rows[some], sent_ns[some], answered_ns[some], waited[some]
        flow, acked = exchanges.flow[rows].astype(np.int64), exchanges.request_acked_ns[rows]
        trip = self._server_trips.at(flow, sent_ns)
        floor = np.where(trip > 0, self._trips.far_floor_ns[flow], 0)
        trip = np.maximum(trip, 0)
        on_time = (trip > 0) & (sent_ns < acked) & (acked <= np.minimum(sent_ns + trip + ACK_SLACK_NS, answered_ns))
        path = np.minimum(np.where(on_time, acked - sent_ns, trip), waited)
        propagation = np.minimum(floor, path)
        half = propagation // 2
        way_back = propagation - half
        arrived, turn, back = sent_ns + half, sent_ns + half + path - propagation, answered_ns - way_back
        return [
            Laid(rows, sent_ns, arrived, np.full(len(rows), _PROPAGATION)),
            Laid(rows, arrived, turn, np.full(len(rows), _QUEUEING)),
            *self._turns(rows, turn, back, way_back),
            Laid(rows, back, answered_ns, np.full(len(rows), _PROPAGATION)),
        ]

    def _turns(self, rows: Rows, start_ns: I64, end_ns: I64, ago_ns: I64) -> list[Laid]:
        """The server's turns, but for the time in which it was busy sending other answers on a shared connection."""
        exchanges = self._exchanges
        busy = self._busy
        flow = np.where((exchanges.h2_stream[rows] > 0) & (end_ns > start_ns), exchanges.flow[rows], -1)
        own = np.maximum(flow - self._first, 0)
        begin, stop = np.where(flow < 0, 0, busy.begin[own]), np.where(flow < 0, 0, busy.begin[own + 1])
        low = search_within(busy.end_ns, begin, stop, start_ns + ago_ns, right=True)
        high = search_within(busy.start_ns, begin, stop, end_ns + ago_ns)
        count = np.maximum(high - low, 0)
        of, at = np.repeat(np.arange(len(rows)), count), concatenated_ranges(low, count)
        a, b = np.maximum(busy.start_ns[at] - ago_ns[of], start_ns[of]), np.minimum(busy.end_ns[at] - ago_ns[of], end_ns[of])
        of, a, b = of[a < b], a[a < b], b[a < b]
        # Between two busy intervals, before the first and behind the last the turn is the server's own.
        everyone = np.concatenate([of, np.arange(len(rows))])
        order = np.argsort(everyone, kind="stable")
        idle_end = np.concatenate([a, end_ns])[order]
        idle_start = shifted(np.concatenate([b, end_ns])[order], group_starts(everyone[order]))
        first = np.flatnonzero(group_starts(everyone[order]))
        idle_start[first] = start_ns
        host = self._host(rows, end_ns - start_ns)
        return [
            Laid(rows[everyone[order]], idle_start, idle_end, host[everyone[order]]),
            Laid(rows[of], a, b, np.full(len(of), _TRANSFER)),
        ]

    def _host(self, rows: Rows, turn_ns: I64) -> I64:
        """Whose time a wait is: the server's once it can have the request; nobody's if it may never have, or its answer never came."""
        exchanges = self._exchanges
        had_it = (exchanges.request_acked_ns[rows] < NEVER) | (exchanges.first_byte_ns[rows] < NEVER)
        had_it |= self._tcp.flows.vantage[exchanges.flow[rows]] == Vantage.SERVER
        had_it &= exchanges.end_ns[rows] - exchanges.start_ns[rows] <= LONGEST_NS
        open_ = np.flatnonzero(had_it & (exchanges.first_byte_ns[rows] == NEVER) & (turn_ns > self._trigger_ns[rows]))
        spoken_ns = {flow: spoken_of_ns(self._tcp, flow) for flow in np.unique(exchanges.flow[rows[open_]]).tolist()}
        for at in open_.tolist():
            heard_ns = exchanges.end_ns[rows[at]] + self._trigger_ns[rows[at]]
            had_it[at] = spoken_ns[int(exchanges.flow[rows[at]])] >= heard_ns
        return np.where(had_it, _THINK, _UNATTRIBUTED)

    def _receives(self, rows: Rows, start_ns: I64, last_ns: I64) -> list[Laid]:
        """While the response comes, and behind its last byte: its way to the client (tap at the server), or an open end."""
        some = np.flatnonzero(last_ns < NEVER)
        rows, start_ns, last_ns = rows[some], start_ns[some], last_ns[some]
        exchanges, free = self._exchanges, self._speaks_freely(rows)
        end_ns, flow = exchanges.end_ns[rows], exchanges.flow[rows]
        last_ns = np.where(free, end_ns, last_ns)
        fine = exchanges.outcome[rows] == CODES[Outcome.OK]
        has_way = fine | (self._tcp.flows.vantage[flow] == Vantage.SERVER)
        way = np.minimum(np.where(has_way, np.maximum(self._trips.near_floor_ns[flow], 0), 0), end_ns - last_ns)
        return [
            Laid(rows, start_ns, last_ns, np.where(free | exchanges.is_stream[rows], _DELIVERY, _TRANSFER)),
            Laid(rows, last_ns, last_ns + way, np.full(len(rows), _PROPAGATION)),
            Laid(rows, last_ns + way, end_ns, np.where(fine, _TRANSFER, _UNATTRIBUTED)),
        ]


def _gaps(begin: I64, times: I64, start_ns: I64) -> tuple[I64, I64]:
    """Per list of ascending times the longest gap between its start and the last of them, and the last (the start for none)."""
    count = np.diff(begin)
    some = np.flatnonzero(count)
    gap_ns, last_ns = np.zeros(len(count), np.int64), start_ns.copy()
    if len(some):
        before = np.empty_like(times)
        before[1:] = times[:-1]
        before[begin[some]] = start_ns[some]
        gap_ns[some] = np.maximum.reduceat(times - before, begin[some])
        last_ns[some] = times[begin[some + 1] - 1]
    return gap_ns, last_ns


def _tiled(laid: Laid, rows: Rows, start_ns: I64, end_ns: I64) -> Entries:
    """Parts without overlaps (the earlier one keeps the time), with what lies between them, equal neighbours as one."""
    order = np.lexsort((laid.end_ns, laid.start_ns, laid.owner))
    owner, label = laid.owner[order], laid.label[order]
    start, stop = np.maximum(laid.start_ns[order], start_ns[owner]), np.minimum(laid.end_ns[order], end_ns[owner])
    some = start < stop
    owner, label, start, stop = owner[some], label[some], start[some], stop[some]
    first = group_starts(owner)
    reached = shifted(_reached(stop, first), first)
    reached[first] = start_ns[owner[first]]
    kept = stop > reached
    owner, label, start, stop, reached = owner[kept], label[kept], start[kept], stop[kept], reached[kept]
    start = np.maximum(start, reached)
    gap = start > reached
    done, last = start_ns.copy(), np.flatnonzero(group_starts(owner[::-1])[::-1])
    done[owner[last]] = stop[last]
    open_ = rows[done[rows] < end_ns[rows]]
    columns = (
        (owner, owner[gap], open_), (start, reached[gap], done[open_]), (stop, start[gap], end_ns[open_]),
        (label, np.full(int(gap.sum()), _PRODUCE), np.full(len(open_), _UNATTRIBUTED)),
    )  # fmt: skip
    whole = Laid(*(np.concatenate(column) for column in columns))
    order = np.lexsort((whole.start_ns, whole.owner))
    whole = Laid(*(column[order] for column in whole))
    begins = np.flatnonzero(group_starts(whole.owner) | group_starts(whole.label))
    ends = np.append(begins[1:], len(whole.owner))[: len(begins)] - 1
    return Entries(whole.owner[begins].astype(np.int32), whole.start_ns[begins], whole.end_ns[ends], whole.label[begins].astype(np.int16))


def _reached(stop: I64, first: Bools) -> I64:
    """The latest stop of the group up to and including each row."""
    if not ((stop[1:] < stop[:-1]) & ~first[1:]).any():
        return stop
    values, rank = np.unique(stop, return_inverse=True)  # ranks are small numbers, whatever the times are
    return values[running_max(rank.astype(np.int64), first)]
