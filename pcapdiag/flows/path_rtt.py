"""The round trip between two hosts over time, all their connections together: its floor, its steps, its queue."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools, Rows
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Kind, TcpTables, Vantage
from pcapdiag.flows.unseen_loss import RTO_MAX_NS
from pcapdiag.spool import Spool, rows_by_number, windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NEEDED = 10
"""Samples without which a level of the round trip is no level (CAUSES 3.6)."""
_WINDOW_NS = 50_000_000
"""Half of CoDel's interval (RFC 8289 section 3.2): a queue is what remains in the least of 100 ms of samples."""
_FRESH_NS = 1_000_000_000
_STEADY_NS = 2_000_000
"""Jitter of an idle path: a floor that wanders by less, or by a tenth, stays the same."""
_LEAST = 3
"""Samples of which the least carries no delayed ACK: at the latest every second segment is acknowledged at once (RFC 5681)."""


@dataclass(frozen=True, slots=True)
class Level:
    """Samples [begin, stop) of a History between two steps of its floor."""

    begin: int
    stop: int
    start_ns: int
    end_ns: int
    floor_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """RTT samples of one half of the path between two hosts, sorted by when the measured packet passed the tap."""

    client: int
    """Index into addresses."""
    server: int
    direction: int
    """Of the measured packets: 0 tap to server and back, 1 tap to client and back."""
    sent_ns: I64
    rtt_ns: I64
    flow: I64
    segment: I64
    """Row in Segments of the ACK; -1 for a handshake."""
    flows: Rows
    """All TCP flows between the two."""

    def levels(self, *, least_ns: int, share: float) -> list[Level]:
        """Stretches of samples between sharp steps of the floor of at least max(least_ns, share x old floor); one if there is none."""
        cuts = [0, *_steps(self.sent_ns, self.rtt_ns, least_ns, share), len(self.sent_ns)]
        levels = []
        for begin, stop in pairwise(cuts):
            start = int(self.sent_ns[begin]) if begin else -NEVER
            end = int(self.sent_ns[stop]) if stop < len(self.sent_ns) else NEVER
            inner = _settled(self.sent_ns[begin:stop], self.rtt_ns[begin:stop])
            levels.append(Level(begin, stop, start, end, int(self.rtt_ns[begin:stop][inner].min())))
        return levels

    def around(self, ts_ns: int) -> I64:
        """Samples of packets sent within 50 ms of a moment, or else the three nearest within 1 s; empty when there are fewer."""
        low, high = (int(at) for at in np.searchsorted(self.sent_ns, [ts_ns - _WINDOW_NS, ts_ns + _WINDOW_NS + 1]))
        if high - low < _LEAST:
            low, high = (int(at) for at in np.searchsorted(self.sent_ns, [ts_ns - _FRESH_NS, ts_ns + _FRESH_NS + 1]))
            nearest = np.argsort(np.abs(self.sent_ns[low:high] - ts_ns), kind="stable")[:_LEAST] + low
            return self.rtt_ns[nearest] if len(nearest) == _LEAST else self.rtt_ns[:0]
        return self.rtt_ns[low:high]


def histories(tcp: TcpTables, *, samples: int = NEEDED) -> Iterator[History]:
    """One per pair of hosts and half of their path with that many samples; not the half that lies inside the capturing host.

    Handshakes without resends count (their ACKs are never delayed); samples follow Karn's rule (RFC 6298 section 3),
    and none is longer than any timer waits.
    """
    if not len(tcp.flows):
        return
    hosts = (tcp.flows.client.astype(np.int64) << 32) | tcp.flows.server
    pairs, pair_of_flow = np.unique(hosts, return_inverse=True)
    found = _samples(tcp, 2 * pair_of_flow.reshape(-1).astype(np.int64))
    half_of, counts = found["half"], np.zeros(2 * len(pairs), np.int64)
    for part in windows(len(half_of), tcp.room):
        counts += np.bincount(half_of[part], minlength=len(counts))
    counts[counts < samples] = 0
    order = rows_by_number(half_of, counts, tcp.room)
    for half, (begin, stop) in enumerate(pairwise(np.cumsum([0, *counts.tolist()]).tolist())):
        if begin == stop:
            continue
        rows = order[begin:stop]
        rows = rows[np.argsort(found["sent_ns"][rows], kind="stable")]
        first = int(found["flow"][rows[0]])
        yield History(
            client=int(tcp.flows.client[first]), server=int(tcp.flows.server[first]), direction=half & 1,
            sent_ns=found["sent_ns"][rows], rtt_ns=found["rtt_ns"][rows], flow=found["flow"][rows].astype(np.int64),
            segment=found["segment"][rows], flows=np.flatnonzero(hosts == hosts[first]),
        )  # fmt: skip
        if tcp.room is not None:
            tcp.room.release()


def _samples(tcp: TcpTables, half_of_flow: I64) -> dict[str, NDArray[Any]]:
    """Every sample there is of halves outside the capturing host: which half, time sent, round trip, flow, and row of its ACK."""
    segments, flows = tcp.segments, tcp.flows
    spool = Spool(tcp.room)

    def add(flow: NDArray[Any], direction: NDArray[Any], sent_ns: I64, rtt_ns: I64, segment: Rows) -> None:
        vantage = flows.vantage[flow]
        usable = np.where(direction == CLIENT_TO_SERVER, vantage != Vantage.SERVER, vantage != Vantage.CLIENT) & (vantage != Vantage.LOCAL)
        usable &= rtt_ns <= RTO_MAX_NS  # longer without a resend: the host slept, or the capture's clock stepped
        half = (half_of_flow[flow] + direction).astype(np.int32)
        columns = {"half": half, "sent_ns": sent_ns, "rtt_ns": rtt_ns, "flow": flow.astype(np.int32), "segment": segment}
        spool.append({name: column[usable] for name, column in columns.items()})

    for part in windows(len(segments), tcp.room):
        rows = part.start + np.flatnonzero(segments.rtt_ns[part] >= 0)
        rtt_ns = segments.rtt_ns[rows]
        add(segments.flow[rows], 1 - segments.direction[rows], segments.ts_ns[rows] - rtt_ns, rtt_ns, rows)
    for direction, rtt_ns, at_ns in (
        (CLIENT_TO_SERVER, flows.far_rtt_ns, flows.syn_ack_ns),
        (SERVER_TO_CLIENT, flows.near_rtt_ns, flows.established_ns),
    ):
        shaken = np.flatnonzero((rtt_ns >= 0) & (at_ns < NEVER))
        same, none = np.full(len(shaken), direction), np.full(len(shaken), -1)
        add(shaken, same, at_ns[shaken] - rtt_ns[shaken], rtt_ns[shaken], none)
    return spool.finish()


def _steps(sent_ns: I64, rtt_ns: I64, least_ns: int, share: float) -> list[int]:
    """Positions at which a stable floor gives way to another stable one, at once and for NEEDED samples on each side."""
    if len(rtt_ns) < 2 * NEEDED:
        return []
    least = np.lib.stride_tricks.sliding_window_view(rtt_ns, NEEDED).min(axis=1)
    left, right = least[:-NEEDED], least[NEEDED:]
    at = np.arange(NEEDED, NEEDED + len(left))
    low = np.minimum(left, right)
    enough = np.abs(right - left) >= np.maximum(least_ns, (share * low).astype(np.int64))
    middle = low + np.abs(right - left) // 2
    # The last packet of the lower level stands right before a step up, its first one right behind a step down.
    sharp = np.where(right > left, rtt_ns[at - 1] < middle, rtt_ns[at] < middle)
    found: list[int] = []
    for cut in at[enough & sharp].tolist():
        if not found or cut - found[-1] >= NEEDED:
            found.append(cut)
    return _stable(sent_ns, rtt_ns, found)


def _stable(sent_ns: I64, rtt_ns: I64, cuts: list[int]) -> list[int]:
    """The cuts whose both sides are levels: a queue that fills or drains is none."""
    while cuts:
        edges = [0, *cuts, len(rtt_ns)]
        sides = [_is_level(sent_ns[a:b], rtt_ns[a:b]) for a, b in pairwise(edges)]
        kept = [cut for cut, before, after in zip(cuts, sides[:-1], sides[1:], strict=True) if before and after]
        if kept == cuts:
            return cuts
        cuts = kept
    return cuts


def _settled(sent_ns: I64, rtt_ns: I64) -> Bools:
    """Samples of packets that had the same path both ways: not those sent within a round trip of a step, if enough remain."""
    inner = (sent_ns >= sent_ns[0] + rtt_ns[0]) & (sent_ns <= sent_ns[-1] - rtt_ns[-1])
    return inner if int(inner.sum()) >= NEEDED else np.ones(len(sent_ns), np.bool_)


def _is_level(sent_ns: I64, rtt_ns: I64) -> bool:
    """Does the floor stay the same: in every NEEDED samples within a tenth, for three round trips or more?"""
    if len(rtt_ns) < NEEDED:
        return False
    inner = _settled(sent_ns, rtt_ns)
    settled = rtt_ns[inner]
    floors = np.lib.stride_tricks.sliding_window_view(settled, NEEDED).min(axis=1)
    floor, middle = int(floors.min()), len(settled) // 2
    tolerance = max(_STEADY_NS, floor // 10)
    wandered = max(int(floors.max()) - floor, abs(int(settled[:middle].min()) - int(settled[middle:].min())))
    return wandered <= tolerance and int(sent_ns[inner][-1] - sent_ns[inner][0]) >= _LEAST * floor


def in_flight(tcp: TcpTables, history: History) -> tuple[I64, I64]:
    """(times, bytes sent and not yet acknowledged by all connections of the pair) in the direction of the history."""
    segments = tcp.segments
    rows = np.concatenate([np.arange(int(tcp.flows.begin[f]), int(tcp.flows.stop[f])) for f in history.flows.tolist()])
    mine = segments.direction[rows] == history.direction
    new = mine & (segments.kind[rows] == Kind.NEW)
    change = np.where(new, segments.payload_len[rows], 0) - np.where(mine, 0, segments.acked_len[rows])
    order = np.argsort(segments.ts_ns[rows], kind="stable")
    return segments.ts_ns[rows][order], np.maximum(np.cumsum(change[order]), 0)


def rank_correlation(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Spearman's coefficient of two equally long columns; 0 when one is constant."""
    if len(a) < 2:
        return 0.0
    ranks = [_ranks(a), _ranks(b)]
    spread = [float(rank.std()) for rank in ranks]
    if min(spread) == 0.0:
        return 0.0
    return float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / (spread[0] * spread[1]))


def _ranks(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Rank of each value; equal ones share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def bloated(history: History, floors: I64, least_ns: int) -> Bools:
    """Per sample: is the queue at least that long in the least of the 100 ms of samples around it?"""
    queue = history.rtt_ns - floors
    low = np.searchsorted(history.sent_ns, history.sent_ns - _WINDOW_NS)
    high = np.searchsorted(history.sent_ns, history.sent_ns + _WINDOW_NS, side="right")
    quick = queue < least_ns
    beside = np.diff(history.sent_ns) <= _WINDOW_NS
    refuted = np.append(beside & quick[1:], False) | np.concatenate([[False], beside & quick[:-1]])
    suspects = np.flatnonzero(~quick & ~refuted)
    result = np.zeros(len(queue), np.bool_)
    for at in suspects.tolist():
        a, b = int(low[at]), int(high[at])
        if b - a < _LEAST:
            a, b = max(at - 1, 0), min(at + 2, len(queue))
        result[at] = b - a >= 2 and int(queue[a:b].min()) >= least_ns
    return result
