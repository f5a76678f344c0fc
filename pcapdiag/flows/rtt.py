"""Round trips of a flow over time, in its two halves: tap to server and back (far), tap to client and back (near)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcapdiag.columns import I64, NEVER, rows_between
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, TcpTables, Vantage
from pcapdiag.flows.within import least_within, search_within

_NEAR_NS = 1_000_000_000
"""A sample further than this from the moment asked about does not speak for it (RFC 6298 asks for fresh samples)."""
_HELD = 256
"""Halves of flows that are looked at before the pages of their packets are given back."""
_AROUND_NS = 100_000_000
"""Samples this close compete, and the least of them wins: it carries no delayed ACK (RFC 1122 section 4.2.3.2)."""


class Samples:
    """RTT samples of one half of a flow, by time of the ACK. Every exchange of the flow asks for the same least and median one."""

    __slots__ = ("_by_sending", "_floor_ns", "_median_ns", "rtt_ns", "ts_ns")

    def __init__(self, ts_ns: I64, rtt_ns: I64) -> None:
        self.ts_ns = ts_ns
        self.rtt_ns = rtt_ns
        self._floor_ns = int(rtt_ns.min()) if len(rtt_ns) else -1
        self._median_ns: int | None = None
        self._by_sending: tuple[I64, I64] | None = None

    def floor_ns(self) -> int:
        """The least sample; -1 for none."""
        return self._floor_ns

    def median_ns(self) -> int:
        """The median sample; -1 for none."""
        if self._median_ns is None:
            self._median_ns = int(np.median(self.rtt_ns)) if len(self.rtt_ns) else -1
        return self._median_ns

    def at(self, ts_ns: int) -> int:
        """The round trip of packets sent around a moment; -1 for none.

        The least of those sent close to it, else of the nearest within 1 s, else the median. When they were acknowledged
        does not matter: in a queue that grows, the ACKs that arrive now tell how long it was a round trip ago.
        """
        if not len(self.ts_ns):
            return -1
        if self._by_sending is None:
            sent = self.ts_ns - self.rtt_ns
            order = np.argsort(sent, kind="stable")
            self._by_sending = sent[order], self.rtt_ns[order]
        sent_ns, rtt_ns = self._by_sending
        low, high = np.searchsorted(sent_ns, [ts_ns - _AROUND_NS, ts_ns + _AROUND_NS + 1])
        if low < high:
            return int(rtt_ns[low:high].min())
        near = [i for i in (int(low) - 1, int(low)) if 0 <= i < len(sent_ns)]
        best = min(near, key=lambda i: abs(int(sent_ns[i]) - ts_ns))
        return int(rtt_ns[best]) if abs(int(sent_ns[best]) - ts_ns) <= _NEAR_NS else self.median_ns()


class RoundTrips:
    """Samples of every flow, made when asked for. The handshake counts as a sample of each half."""

    __slots__ = ("_cache", "_tcp")

    def __init__(self, tcp: TcpTables) -> None:
        self._tcp = tcp
        self._cache: dict[tuple[int, int], Samples] = {}

    def far(self, flow: int) -> Samples:
        """Tap to server and back: ACKs of the server."""
        return self._half(flow, SERVER_TO_CLIENT)

    def near(self, flow: int) -> Samples:
        """Tap to client and back: ACKs of the client."""
        return self._half(flow, CLIENT_TO_SERVER)

    def whole_ns(self, flow: int) -> int:
        """The connection's least round trip between both ends; -1 unknown."""
        far, near = self.far(flow).floor_ns(), self.near(flow).floor_ns()
        vantage = int(self._tcp.flows.vantage[flow])
        if vantage == Vantage.CLIENT and far >= 0:
            return far + max(near, 0)
        if vantage == Vantage.SERVER and near >= 0:
            return near + max(far, 0)
        return far + near if far >= 0 and near >= 0 else -1

    def server_ns(self, flow: int, ts_ns: int) -> int:
        """Round trip between the tap and the server around a moment: 0 when the tap is at the server; -1 unknown."""
        return 0 if int(self._tcp.flows.vantage[flow]) == Vantage.SERVER else self.far(flow).at(ts_ns)

    def _half(self, flow: int, direction: int) -> Samples:
        found = self._cache.get((flow, direction))
        if found is None:
            if len(self._cache) % _HELD == _HELD - 1 and self._tcp.room is not None:
                self._tcp.room.release()
            found = self._cache[flow, direction] = self._collect(flow, direction)
        return found

    def _collect(self, flow: int, direction: int) -> Samples:
        flows, segments = self._tcp.flows, self._tcp.segments
        rows = slice(int(flows.begin[flow]), int(flows.stop[flow]))
        mine = np.flatnonzero((segments.direction[rows] == direction) & (segments.rtt_ns[rows] >= 0))
        ts_ns, rtt_ns = segments.ts_ns[rows][mine], segments.rtt_ns[rows][mine]
        shake = int(flows.far_rtt_ns[flow] if direction == SERVER_TO_CLIENT else flows.near_rtt_ns[flow])
        at = int(flows.syn_ack_ns[flow] if direction == SERVER_TO_CLIENT else flows.established_ns[flow])
        if shake >= 0 and at < NEVER:
            ts_ns, rtt_ns = np.concatenate([[at], ts_ns]), np.concatenate([[shake], rtt_ns])
        return Samples(ts_ns, rtt_ns)


class _Half(NamedTuple):
    """The samples of one half of every flow, by flow, then by when the measured packet was sent."""

    begin: I64
    """Per flow, and one behind the last: where its samples begin."""
    sent_ns: I64
    rtt_ns: I64


class AllRoundTrips:
    """The least round trips that RoundTrips gives, of all flows at once; -1 for what is unknown."""

    __slots__ = ("_tcp", "far_floor_ns", "near_floor_ns", "whole_ns")

    def __init__(self, tcp: TcpTables) -> None:
        self._tcp = tcp
        self.far_floor_ns = _floor(tcp, SERVER_TO_CLIENT)
        """Per flow the least round trip between the tap and the server."""
        self.near_floor_ns = _floor(tcp, CLIENT_TO_SERVER)
        """Per flow the least round trip between the tap and the client."""
        far, near, vantage = self.far_floor_ns, self.near_floor_ns, tcp.flows.vantage
        one_sided = ((vantage == Vantage.CLIENT) & (far >= 0)) | ((vantage == Vantage.SERVER) & (near >= 0))
        known = one_sided | ((far >= 0) & (near >= 0))
        self.whole_ns: I64 = np.where(known, np.maximum(far, 0) + np.maximum(near, 0), -1)
        """Per flow the least round trip between both ends."""

    def to_servers(self, first: int, stop: int) -> ServerTrips:
        """The samples of the flows [first, stop)."""
        return ServerTrips(self._tcp, first, stop)


class ServerTrips:
    """RoundTrips.server_ns of a run of flows at once."""

    __slots__ = ("_far", "_first", "_flows")

    def __init__(self, tcp: TcpTables, first: int, stop: int) -> None:
        self._flows, self._first = tcp.flows, first
        self._far = _half(tcp, SERVER_TO_CLIENT, first, stop)

    def at(self, flow: I64, ts_ns: I64) -> I64:
        """Round trips between the tap and the server of flows, each around its moment; see RoundTrips.server_ns."""
        far, trips, own = self._far, np.full(len(flow), -1), flow - self._first
        begin, stop = far.begin[own], far.begin[own + 1]
        low = search_within(far.sent_ns, begin, stop, ts_ns - _AROUND_NS)
        high = search_within(far.sent_ns, low, stop, ts_ns + _AROUND_NS + 1)
        some, near = low < high, np.flatnonzero((low == high) & (begin < stop))
        trips[some] = least_within(far.rtt_ns, low[some], high[some])
        if len(near):
            before, behind = np.maximum(low[near] - 1, begin[near]), np.minimum(low[near], stop[near] - 1)
            apart_before, apart_behind = (np.abs(far.sent_ns[at] - ts_ns[near]) for at in (before, behind))
            best = np.where(apart_before <= apart_behind, before, behind)
            trips[near] = far.rtt_ns[best]
            for i in near[np.minimum(apart_before, apart_behind) > _NEAR_NS].tolist():
                trips[i] = int(np.median(far.rtt_ns[begin[i] : stop[i]]))
        return np.where(self._flows.vantage[flow] == Vantage.SERVER, 0, trips)


def _shaken(tcp: TcpTables, direction: int) -> tuple[I64, I64]:
    """What the handshake says of one half of each flow, and when; the time is NEVER where it says nothing."""
    flows = tcp.flows
    shake, at = (flows.far_rtt_ns, flows.syn_ack_ns) if direction == SERVER_TO_CLIENT else (flows.near_rtt_ns, flows.established_ns)
    return shake, np.where(shake >= 0, at, NEVER)


def _floor(tcp: TcpTables, direction: int) -> I64:
    shake, at = _shaken(tcp, direction)
    least = np.minimum(tcp.tallies.turnaround_ns[direction::2], np.where(at < NEVER, shake, NEVER))
    return np.where(least < NEVER, least, -1)


def _half(tcp: TcpTables, direction: int, first: int, stop: int) -> _Half:
    """Samples of the flows [first, stop)."""
    here = rows_between(tcp.segments.flow, first, stop)
    rows = here.start + np.flatnonzero((tcp.segments.direction[here] == direction) & (tcp.segments.rtt_ns[here] >= 0))
    shake, at = (column[first:stop] for column in _shaken(tcp, direction))
    shaken = np.flatnonzero(at < NEVER)
    flow = np.concatenate([shaken, tcp.segments.flow[rows] - first])
    rtt_ns = np.concatenate([shake[shaken], tcp.segments.rtt_ns[rows]])
    sent_ns = np.concatenate([at[shaken], tcp.segments.ts_ns[rows]]) - rtt_ns
    order = np.lexsort((sent_ns, flow))
    return _Half(np.searchsorted(flow[order], np.arange(stop - first + 1)), sent_ns[order], rtt_ns[order])
