"""Steps of the capturing host's clock: found by the clocks of the hosts it watched, and taken out again (CAUSES section 10).

A TCP timestamp (RFC 7323) is a clock that no capture can set. When the capture's clock jumps against the clocks of at
least two hosts, by the same amount and for good, it was the capture's. Silence, a frozen link or a sleeping host moves one
of them, or only for a moment. Records that merely lie out of order are no step: sorting mends them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, Bools, Col, Rows, Table
from pcapdiag.flows.untimely import find_untimely, times_of_neighbours
from pcapdiag.packets.table import ACK, FIN, RST, SYN, TCP, Packets
from pcapdiag.spool import WINDOW, column, windows

if TYPE_CHECKING:
    from pcapdiag.spool import Room

_SILENCE_NS = 500_000_000
"""A forward step shows as a silence of all flows; one shorter than two stall triggers hides no stall."""
_BACKWARD_NS = 100_000_000
"""Multi-queue cards and merged interfaces misorder by less."""
_LEAST_STEP_NS = 150_000_000
_OFTEN = 2
"""A capture whose time goes back again and again is a merge of several queues or files: without timestamps no step."""
_SIDE = 192
"""Packets looked at on each side of a suspicious place."""
_SUSPECTS = 32
_NEAR_NS = 60_000_000_000
"""And no further away in time: clocks drift apart by tens of milliseconds a quarter of an hour."""
_REACH, _SAMPLE = 1 << 17, 2_048
"""Where `_SIDE` packets pass within a few ticks, so many of so many tell the rate of the timestamps."""
_AT_ONCE = 24
"""Packets right behind it that must go on where connections stood, when no timestamps speak."""
_LEAST_STAMPS = 3
"""Packets of one sender needed on each side of it: one or two may just have been held up."""
_RATES_HZ = (1_000, 100, 250, 10, 2, 1_000_000)
"""Ticks a second of TCP timestamp clocks (RFC 7323 section 5.4 asks for 1 ms to 1 s; Linux may count microseconds)."""
_RATE_ERROR = 0.05
_AGREE_NS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSteps(Table):
    """One row per step, in the order of Packets."""

    row: Annotated[I64, Col("row in Packets: the first packet behind the step")]
    capture: Annotated[I64, Col("its capture")]
    frame: Annotated[I64, Col("its frame number")]
    step_ns: Annotated[I64, Col("how far the clock jumped; negative: backwards", "ns")]
    stamped: Annotated[Bools, Col("TCP timestamps say how far; else its size is a bound")]
    untimely: Rows = field(default_factory=lambda: np.empty(0, np.intp))
    """Rows of Packets whose own times are impossible, between others that are right."""


def find_clock_steps(packets: Packets, room: Room | None = None) -> ClockSteps:
    """All steps of the captures' clocks. `packets` in the order of their files."""
    found: list[tuple[int, int, bool]] = []
    odd = [np.empty(0, np.intp)]
    for rows in packets.captures(room):
        places, apart = _suspicious(packets.ts_ns, rows, room)
        backward = places[apart <= -_BACKWARD_NS]
        if len(places) > _SUSPECTS:
            most = np.sort(np.argsort(-np.abs(apart), kind="stable")[:_SUSPECTS])
            places, apart = places[most], apart[most]
        since = rows.start
        for place, apart_ns in zip(places.tolist(), apart.tolist(), strict=True):
            until = int(min(backward[backward > place], default=rows.stop))
            sides = _Sides.of(packets, np.arange(max(since, place - _REACH), place), np.arange(place, min(until, place + _REACH)))
            step = sides.step(often=len(backward) > _OFTEN)
            if step is not None:  # measured to a tick: what lies behind it does not come before what lies in front
                found.append((place, min(step[0], apart_ns), step[1]))
                since = place
        odd.append(find_untimely(packets, rows, room))
    row = np.array([one[0] for one in found], np.int64)
    return ClockSteps(
        row=row, capture=packets.capture[row].astype(np.int64), frame=packets.frame[row],
        step_ns=np.array([one[1] for one in found], np.int64), stamped=np.array([one[2] for one in found], np.bool_),
        untimely=np.concatenate(odd),
    )  # fmt: skip


def _suspicious(ts_ns: I64, rows: slice, room: Room | None) -> tuple[Rows, I64]:
    """Rows behind a long silence or a way back in time, and the time from the row before."""
    places, times = [np.empty(0, np.intp)], [np.empty(0, np.int64)]
    for begin in range(rows.start, rows.stop - 1, WINDOW):
        apart = np.diff(ts_ns[begin : min(begin + WINDOW + 1, rows.stop)])
        here = np.flatnonzero((apart >= _SILENCE_NS) | (apart <= -_BACKWARD_NS))
        places.append(begin + 1 + here)
        times.append(apart[here])
        if room is not None:
            room.release()
    return np.concatenate(places), np.concatenate(times)


def straighten(packets: Packets, steps: ClockSteps, room: Room | None = None) -> Packets:
    """The same packets on a clock that never stepped: times behind each step are moved by it, impossible ones mended."""
    if not len(steps) and not len(steps.untimely):
        return packets
    ts_ns: I64 = column(len(packets), np.int64, room)
    for part in windows(len(packets), room):
        ts_ns[part] = packets.ts_ns[part]
    ts_ns[steps.untimely] = times_of_neighbours(packets, steps.untimely)
    ends = {rows.start: rows.stop for rows in packets.captures(room)}
    for row, step_ns in zip(steps.row.tolist(), steps.step_ns.tolist(), strict=True):
        stop = min(end for begin, end in ends.items() if begin <= row < end)
        for part in windows(stop - row, room):
            ts_ns[row + part.start : row + part.stop] -= step_ns
    groups = packets.fragments
    fragments = replace(groups, first_ns=ts_ns[groups.first_row], last_ns=ts_ns[groups.last_row])
    return replace(packets, ts_ns=ts_ns, fragments=fragments)


Ends = tuple[int, ...]
"""Source, target and, of one connection, ports."""
Stamps = list[tuple[int, int]]
"""(time, TSval)."""


@dataclass(frozen=True, slots=True)
class _Sides:
    """The packets before and behind a suspicious place, in the order of the file."""

    packets: Packets
    before: Rows
    after: Rows
    samples: tuple[Rows, Rows]
    """A few packets from more of each side, evenly spread."""

    @classmethod
    def of(cls, packets: Packets, before: Rows, after: Rows) -> _Sides:
        """The nearest of all packets before it and behind it, and only what is near in time."""
        before = before[packets.ts_ns[before] >= packets.ts_ns[before[-1]] - _NEAR_NS]
        after = after[np.abs(packets.ts_ns[after] - packets.ts_ns[after[0]]) <= _NEAR_NS]
        samples = before[:: max(len(before) // _SAMPLE, 1)], after[:: max(len(after) // _SAMPLE, 1)]
        return cls(packets, before[-_SIDE:], after[:_SIDE], samples)

    def step(self, *, often: bool) -> tuple[int, bool] | None:
        """(size, whether timestamps gave it) of a step between them; None when there is none."""
        jumps = self._jumps(by_connection=True)
        if len(jumps) < 2:
            jumps = self._jumps(by_connection=False)
        sizes = [median(values) for values in jumps.values()]
        if len(sizes) >= 2:
            size = round(median(sizes))
            agreed = max(abs(one - size) for one in sizes) <= max(_AGREE_NS, abs(size) // 20)
            return (size, True) if agreed and abs(size) >= _LEAST_STEP_NS else None
        back_ns = int(self.packets.ts_ns[self.after[0]] - self.packets.ts_ns[self.before[-1]])
        if back_ns >= 0 or often or not self._goes_on():
            return None
        return (round(sizes[0]), True) if sizes and sizes[0] <= -_LEAST_STEP_NS else (back_ns, False)

    def _jumps(self, *, by_connection: bool) -> dict[int, list[int]]:
        """Sending address -> by how much the capture's clock jumped against its clock, for good, and between neighbours.

        Many hosts stamp all connections to one peer by one clock (Linux does): pairs of hosts then serve where no single
        connection spans the place; clocks that differ between connections show by their spread.
        """
        result = defaultdict[int, list[int]](list)
        early, late = self._stamps(self.before, by_connection), self._stamps(self.after, by_connection)
        wider: tuple[dict[Ends, Stamps], ...] | None = None
        for ends in early.keys() & late.keys():
            one, other = early[ends], late[ends]
            if min(len(one), len(other)) < _LEAST_STAMPS:
                continue
            rate = _rate(one) or _rate(other)
            if not rate:
                wider = wider or tuple(self._stamps(rows, by_connection) for rows in self.samples)
                rate = next((found for side in wider if (found := _rate(side.get(ends, []))) is not None), None)
            if not rate:
                continue
            old, new = _offsets(one, one[0], rate), _offsets(other, one[0], rate)
            jump = round(median(new) - median(old))
            spread = max(max(old) - min(old), max(new) - min(new))
            if (by_connection or spread <= _AGREE_NS) and abs(new[0] - old[-1] - jump) <= max(_AGREE_NS, abs(jump) // 4):
                result[ends[0]].append(jump)
        return result

    def _stamps(self, rows: Rows, by_connection: bool) -> dict[Ends, Stamps]:
        result = defaultdict[Ends, Stamps](list)
        rows = rows[self.packets.has_ts[rows]]
        for *ends, ts_ns, ticks in self._columns(rows, self.packets.ts_ns, self.packets.ts_val):
            result[tuple(ends) if by_connection else tuple(ends[:2])].append((ts_ns, ticks))
        return result

    def _columns(self, rows: Rows, *further: npt.NDArray[Any]) -> Iterator[tuple[Any, ...]]:
        packets = self.packets
        columns: tuple[npt.NDArray[Any], ...] = (packets.src, packets.dst, packets.sport, packets.dport, *further)
        return zip(*(column[rows].tolist() for column in columns), strict=True)

    def _goes_on(self) -> bool:
        """Without timestamps: do connections go on in the order of the file, although time went back and stays back?

        Right behind the place, at least three packets with data and most of them continue to the byte what came before it,
        at times before those last reached, and none repeats any. One odd time before it is no step.
        """
        packets, continued, others = self.packets, 0, 0
        reached, known = dict[Ends, int](), frozenset[Ends]()
        back_ns, limit_ns = int(packets.ts_ns[self.after[0]]), int(packets.ts_ns[self.before[-1]])
        if int((packets.ts_ns[self.before[-_AT_ONCE:]] > back_ns).sum()) < _LEAST_STAMPS:
            return False
        for stretch, is_after in ((self.before, False), (self.after[:_AT_ONCE], True)):
            rows = stretch[(packets.proto[stretch] == TCP) & ((packets.flags[stretch] & (SYN | FIN | RST | ACK)) == ACK)]
            for *ends, seq, length, ts_ns in self._columns(rows, packets.seq, packets.payload_len, packets.ts_ns):
                key = tuple(ends)
                if is_after and length:
                    if key in known and _ticks(seq - reached[key]) < 0:
                        return False
                    goes_on = key in known and seq == reached[key] and ts_ns < limit_ns
                    continued, others = continued + goes_on, others + (not goes_on)
                reached[key] = (seq + length) & 0xFFFFFFFF
            known = frozenset(reached)
        return continued >= max(_LEAST_STAMPS, others)


def _rate(stamps: Stamps) -> int | None:
    """Ticks a second, when these stamps show it."""
    if not stamps:
        return None
    apart_ns, ticks = stamps[-1][0] - stamps[0][0], _ticks(stamps[-1][1] - stamps[0][1])
    if apart_ns <= 0 or ticks < 5:
        return None
    measured = ticks * 1e9 / apart_ns
    near = min(_RATES_HZ, key=lambda rate: abs(measured / rate - 1))
    slack = _RATE_ERROR + 2 / ticks  # a tick at each end
    return near if abs(measured / near - 1) <= slack else None


def _ticks(difference: int) -> int:
    """Of two 32-bit counters."""
    return (difference + (1 << 31)) % (1 << 32) - (1 << 31)


def _offsets(stamps: Stamps, zero: tuple[int, int], rate: int) -> list[int]:
    """How far the capture's clock is ahead of the host's at each packet, counted from `zero`."""
    return [ts_ns - zero[0] - _ticks(ticks - zero[1]) * 1_000_000_000 // rate for ts_ns, ticks in stamps]
