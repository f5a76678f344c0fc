"""The offset between the clocks of two captures, its drift and its steps, from packets that both saw, in both directions.

A packet's far time minus its near time is the offset plus its delay one way, and minus it the other way. The least delays
are taken as equal (as NTP does, RFC 5905 section 8); the drift is the slope of the straight line that hugs the lower hull
of one direction and the upper hull of the other (Moon, Skelly, Towsley 1999), and steps are jumps that both directions
make together (Paxson 1997). All times are integer nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.pair.table import Clocks, ClockStep

_BILLION = 1_000_000_000
_WINDOWS = 256
_WINDOW_LEAST = 16
_STEP_LEAST_NS = 1_000_000
"""A smaller jump is within what queues and interrupts do."""
_STEP_NOISE = 8
_HULL_BINS = 2_048
_DRIFT_LEAST_NS = 200_000
"""Drift that adds up to less over the whole capture is a scheduler's noise."""
_JITTER_NS = 20_000
_DRIFT_NOISE = 4
_DRIFT_MOST_PPB = 1_000_000
"""No clock runs 1,000 ppm wrong."""
_DRIFT_WINDOWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """Packets that both captures saw, in the order of the near file."""

    near_ns: I64
    far_ns: I64
    direction: I64
    near_frame: I64
    far_frame: I64

    def __len__(self) -> int:
        return len(self.near_ns)


def round_trip_sign(sights: Sights) -> tuple[int, int]:
    """(median, count) of the round trips between the taps that neighbouring packets of opposite directions show.

    It is positive when the near capture really is nearer to the client: clocks cancel out.
    """
    gap = sights.far_ns - sights.near_ns
    forth = np.flatnonzero((sights.direction[:-1] == 0) & (sights.direction[1:] == 1))
    back = np.flatnonzero((sights.direction[:-1] == 1) & (sights.direction[1:] == 0))
    trips = np.concatenate([gap[forth] - gap[forth + 1], gap[back + 1] - gap[back]])
    return (int(np.median(trips)), len(trips)) if len(trips) else (0, 0)


def compare_clocks(sights: Sights) -> Clocks:
    """Offset, drift and steps; all zero without any packet in common."""
    gap = sights.far_ns - sights.near_ns
    two_way = len(np.unique(sights.direction)) == 2
    reference_ns = int(sights.near_ns.min()) if len(sights) else 0
    none = Clocks(
        reference_ns=reference_ns, offset_ns=0, drift_ppb=0, drift_error_ppb=0, uncertainty_ns=0, steps=(), two_way=two_way
    )  # fmt: skip
    if not len(sights):
        return none
    if not two_way:
        least = gap.min() if sights.direction[0] == 0 else gap.max()
        return replace(none, offset_ns=int(least))
    steps = _steps(sights, gap)
    level = gap - _stepped(steps, sights.near_frame, far=False)
    elapsed = sights.near_ns - reference_ns
    drift, error = _drift(elapsed, level, sights.direction)
    level = level - _drifted(elapsed, drift)
    low, high = int(level[sights.direction == 0].min()), int(level[sights.direction == 1].max())
    bound = (low - high + 1) // 2
    return replace(none, offset_ns=(low + high) // 2, drift_ppb=drift, drift_error_ppb=error, uncertainty_ns=bound, steps=steps)


def to_far(clocks: Clocks, near_ns: I64, near_frame: I64) -> I64:
    """The far clock at times of the near one; the frames tell on which side of a step they lie."""
    drifted = _drifted(near_ns - clocks.reference_ns, clocks.drift_ppb)
    return near_ns + clocks.offset_ns + drifted + _stepped(clocks.steps, near_frame, far=False)


def to_near(clocks: Clocks, far_ns: I64, far_frame: I64) -> I64:
    """The near clock at times of the far one."""
    elapsed = far_ns - clocks.reference_ns - clocks.offset_ns - _stepped(clocks.steps, far_frame, far=True)
    # elapsed = t + drift * t; one correction by the drift of the drift leaves less than a nanosecond a day.
    near = elapsed - _drifted(elapsed, clocks.drift_ppb)
    near += elapsed - near - _drifted(near, clocks.drift_ppb)
    return near + clocks.reference_ns


def _drifted(elapsed_ns: I64, drift_ppb: int) -> I64:
    """The product elapsed * ppb / 1e9 without overflow: whole microseconds are exact enough to multiply."""
    return (elapsed_ns // 1_000) * drift_ppb // 1_000_000


def _stepped(steps: tuple[ClockStep, ...], frame: I64, *, far: bool) -> I64:
    total = np.zeros(len(frame), np.int64)
    for step in steps:
        total[frame > (step.far_frame if far else step.near_frame)] += step.by_ns
    return total


def _steps(sights: Sights, gap: I64) -> tuple[ClockStep, ...]:
    """Jumps that the lower edge of one direction and the upper edge of the other make together."""
    size = max(_WINDOW_LEAST, len(gap) // _WINDOWS)
    begins, low, high = _edges(gap, sights.direction, size)
    if len(begins) < 3:
        return ()
    noise = int(np.median(np.abs(np.diff(low))) + np.median(np.abs(np.diff(high))))
    least = max(_STEP_LEAST_NS, _STEP_NOISE * noise)
    steps: list[ClockStep] = []
    last = -2
    for at in range(1, len(begins)):
        # The window in which the clock jumps shows the old edge on one side and the new one on the other: look across it.
        before, after = at - 1, min(at + 1, len(begins) - 1)
        if before <= last:
            continue
        rise, lift = int(low[after] - low[before]), int(high[after] - high[before])
        if rise * lift <= 0 or min(abs(rise), abs(lift)) < least or abs(rise - lift) > min(abs(rise), abs(lift)) // 4 + noise:
            continue
        end = int(begins[after + 1]) if after + 1 < len(begins) else len(gap)
        levels = (int(low[before]), int(low[after])), (int(high[before]), int(high[after]))
        split = _split(gap, sights.direction, int(begins[before]), end, levels)
        steps.append(_step_at(sights, split, (rise + lift) // 2))
        last = at
    return tuple(steps)


def _edges(gap: I64, direction: I64, size: int) -> tuple[I64, I64, I64]:
    """Windows that hold both directions: their first sights, the least gap forth and the largest gap back."""
    begins = np.arange(0, len(gap), size)
    none = np.iinfo(np.int64).max
    low = np.minimum.reduceat(np.where(direction == 0, gap, none), begins)
    high = np.maximum.reduceat(np.where(direction == 1, gap, -none), begins)
    both = (low < none) & (high > -none)
    return begins[both], low[both], high[both]


def _split(gap: I64, direction: I64, begin: int, end: int, levels: tuple[tuple[int, int], tuple[int, int]]) -> int:
    """The sight from which on most lie nearer to the levels after the step."""
    before = np.where(direction[begin:end] == 0, levels[0][0], levels[1][0])
    after = np.where(direction[begin:end] == 0, levels[0][1], levels[1][1])
    vote = np.where(np.abs(gap[begin:end] - after) < np.abs(gap[begin:end] - before), -1, 1)
    return begin + int(np.argmax(np.concatenate([[0], np.cumsum(vote)])))


def _step_at(sights: Sights, split: int, by_ns: int) -> ClockStep:
    split = min(max(split, 1), len(sights) - 1)
    return ClockStep(
        at_ns=int(sights.near_ns[split]), by_ns=by_ns, near_frame=int(sights.near_frame[split]) - 1,
        far_frame=int(sights.far_frame[split]) - 1,
    )  # fmt: skip


def _drift(elapsed: I64, level: I64, direction: I64) -> tuple[int, int]:
    """(drift, what noise alone would show), parts per billion; (0, error) when it is not more than noise."""
    span = int(elapsed.max() - elapsed.min())
    begins, low, high = _edges(level, direction, max(_WINDOW_LEAST, len(level) // _WINDOWS))
    trip = low - high
    if span <= 0 or not len(begins):
        return 0, 0
    clean = trip <= trip.min() * 5 // 4 + _JITTER_NS  # a window in a queue's shadow says nothing of clocks
    if clean.sum() < _DRIFT_WINDOWS:
        return 0, 0
    middle, at = (low[clean] + high[clean]) // 2, elapsed[begins[clean]]
    drift = _slope(elapsed, level, direction)
    rest = middle - _drifted(at, drift)
    noise = _DRIFT_NOISE * int(np.median(np.abs(rest - int(np.median(rest)))))
    covered = max(int(at.max() - at.min()), 1)
    error = max(noise, _DRIFT_LEAST_NS) * _BILLION // covered
    return (drift, error) if error < abs(drift) <= _DRIFT_MOST_PPB else (0, error)


def _slope(elapsed: I64, level: I64, direction: I64) -> int:
    """The common slope, in ppb, of the lines that lie closest below the one direction and above the other."""
    hulls, means = [], []
    for way, sign in ((0, 1), (1, -1)):
        t, d = elapsed[direction == way], sign * level[direction == way]
        hulls.append([(x, sign * y) for x, y in _lower_hull(t, d)])
        means.append((int(t.mean()), int(level[direction == way].mean())))
    slopes = sorted({(b[1] - a[1]) * _BILLION // (b[0] - a[0]) for hull in hulls for a, b in pairwise(hull)} | {0})

    def slack(ppb: int) -> int:
        below = min(y - x * ppb // _BILLION for x, y in hulls[0])
        above = max(y - x * ppb // _BILLION for x, y in hulls[1])
        (t0, d0), (t1, d1) = means
        return (d0 - t0 * ppb // _BILLION) - below + above - (d1 - t1 * ppb // _BILLION)

    low, high = 0, len(slopes) - 1
    while low < high:  # convex in the slope
        middle = (low + high) // 2
        if slack(slopes[middle]) <= slack(slopes[middle + 1]):
            high = middle
        else:
            low = middle + 1
    return slopes[low]


def _lower_hull(t: I64, d: I64) -> list[tuple[int, int]]:
    """The lower convex hull (monotone chain, Andrew 1979), of the least point of each of at most 2,048 bins of time."""
    bins = (t - t.min()) * (_HULL_BINS - 1) // max(int(t.max() - t.min()), 1)
    order = np.lexsort((d, bins))
    first = np.ones(len(order), np.bool_)
    first[1:] = bins[order][1:] != bins[order][:-1]
    hull: list[tuple[int, int]] = []
    for x, y in sorted(zip(t[order[first]].tolist(), d[order[first]].tolist(), strict=True)):
        while len(hull) >= 2 and (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1]) <= (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]):
            hull.pop()
        if hull and hull[-1][0] == x:
            continue
        hull.append((x, y))
    return hull
