"""Clock offsets, drifts and steps are recovered from packets that both taps saw, whatever queues did to them."""

from __future__ import annotations

import numpy as np
import pytest

from pcapdiag.pair.clock import Sights, compare_clocks, round_trip_sign, to_far, to_near

SECOND, MS, US = 1_000_000_000, 1_000_000, 1_000
BEGIN_NS = 1_700_000_000 * SECOND


def sights(
    *, offset_ns: int = 0, drift_ppb: int = 0, step_ns: int = 0, count: int = 4_000, span_s: int = 60, forth_ns: int = 5 * MS,
    back_ns: int = 5 * MS, queue_ns: int = 2 * MS, both: bool = True, seed: int = 1,
) -> Sights:  # fmt: skip
    """Packets evenly in time, alternating in direction; each waited in a queue for a random while. The step comes in the middle."""
    random = np.random.default_rng(seed)
    true_ns = np.arange(count) * (span_s * SECOND // count)
    direction = np.arange(count) % 2 if both else np.zeros(count, np.int64)
    delay = np.where(direction == 0, forth_ns, back_ns) + (random.exponential(1, count) * queue_ns).astype(np.int64)
    delay[::7] = np.where(direction[::7] == 0, forth_ns, back_ns)  # now and then the queue is empty
    near_ns = true_ns + np.where(direction == 1, delay, 0)
    far_true = true_ns + np.where(direction == 0, delay, 0)
    behind = np.where(true_ns >= span_s * SECOND // 2, step_ns, 0)
    far_ns = far_true + offset_ns + far_true // 1_000 * drift_ppb // 1_000_000 + behind
    near_order, far_order = np.argsort(near_ns, kind="stable"), np.argsort(far_true, kind="stable")
    frames = np.empty((2, count), np.int64)
    frames[0][near_order], frames[1][far_order] = np.arange(1, count + 1), np.arange(1, count + 1)
    return Sights(
        near_ns=BEGIN_NS + near_ns[near_order], far_ns=BEGIN_NS + far_ns[near_order], direction=direction[near_order],
        near_frame=frames[0][near_order], far_frame=frames[1][near_order],
    )  # fmt: skip


@pytest.mark.parametrize("offset_ns", [0, 1, -37 * US, 3_600 * SECOND, -86_400 * SECOND])
def test_an_offset_is_found_to_the_nanosecond_when_queues_were_empty_once(offset_ns: int) -> None:
    clocks = compare_clocks(sights(offset_ns=offset_ns))
    assert (clocks.offset_ns, clocks.drift_ppb, clocks.steps) == (offset_ns, 0, ())
    assert clocks.uncertainty_ns == 5 * MS


def test_the_bound_holds_however_unequal_the_ways_are() -> None:
    clocks = compare_clocks(sights(offset_ns=7 * MS, forth_ns=1 * MS, back_ns=19 * MS))
    assert clocks.uncertainty_ns == 10 * MS
    assert abs(clocks.offset_ns - 7 * MS) <= clocks.uncertainty_ns


@pytest.mark.parametrize("drift_ppb", [40_000, -40_000, 1_500, -250_000])
@pytest.mark.parametrize("offset_ns", [0, 3_600 * SECOND])
def test_a_drift_is_found(drift_ppb: int, offset_ns: int) -> None:
    clocks = compare_clocks(sights(offset_ns=offset_ns, drift_ppb=drift_ppb, span_s=600))
    assert clocks.drift_ppb == pytest.approx(drift_ppb, abs=max(200, abs(drift_ppb) // 100))
    assert clocks.drift_error_ppb < abs(drift_ppb)
    assert abs(clocks.offset_ns - offset_ns) < 100 * US


@pytest.mark.parametrize("seed", range(8))
def test_clocks_that_do_not_drift_are_not_said_to(seed: int) -> None:
    assert compare_clocks(sights(seed=seed, count=400, span_s=5)).drift_ppb == 0


@pytest.mark.parametrize("step_ns", [250 * MS, -250 * MS, 30 * SECOND, 20 * MS])
def test_a_step_is_found_with_its_place_and_size(step_ns: int) -> None:
    told = sights(offset_ns=MS, step_ns=step_ns, queue_ns=200 * US)
    clocks = compare_clocks(told)
    assert [step.by_ns for step in clocks.steps] == [pytest.approx(step_ns, abs=MS)]
    assert abs(clocks.steps[0].at_ns - BEGIN_NS - 30 * SECOND) < SECOND // 10
    assert abs(clocks.offset_ns - MS) < MS
    away = told.far_ns - to_far(clocks, told.near_ns, told.near_frame)
    assert np.median(np.abs(away)) < 7 * MS


def test_a_longer_path_in_both_directions_is_no_step() -> None:
    short, long = sights(count=2_000, span_s=30), sights(count=2_000, span_s=30, forth_ns=40 * MS, back_ns=40 * MS)
    later = 31 * SECOND
    both = Sights(
        near_ns=np.concatenate([short.near_ns, long.near_ns + later]), far_ns=np.concatenate([short.far_ns, long.far_ns + later]),
        direction=np.concatenate([short.direction, long.direction]), near_frame=np.concatenate([short.near_frame, long.near_frame + 2_000]),
        far_frame=np.concatenate([short.far_frame, long.far_frame + 2_000]),
    )  # fmt: skip
    clocks = compare_clocks(both)
    assert (clocks.offset_ns, clocks.drift_ppb, clocks.steps) == (0, 0, ())


@pytest.mark.parametrize("drift_ppb", [0, 50_000, -120_000])
def test_times_of_one_clock_turn_into_those_of_the_other_and_back(drift_ppb: int) -> None:
    clocks = compare_clocks(sights(offset_ns=5_000 * SECOND, drift_ppb=drift_ppb, span_s=86_400))
    near_ns = BEGIN_NS + np.arange(0, 86_400, 997) * SECOND + 123
    frame = np.ones(len(near_ns), np.int64)
    again = to_near(clocks, to_far(clocks, near_ns, frame), frame)
    assert np.abs(again - near_ns).max() <= 2


def test_packets_of_one_direction_bound_nothing() -> None:
    clocks = compare_clocks(sights(offset_ns=3 * MS, both=False))
    assert not clocks.two_way
    assert (clocks.offset_ns, clocks.uncertainty_ns) == (8 * MS, 0)


def test_nothing_in_common_gives_nothing() -> None:
    none = np.empty(0, np.int64)
    assert compare_clocks(Sights(near_ns=none, far_ns=none, direction=none, near_frame=none, far_frame=none)).offset_ns == 0


@pytest.mark.parametrize("offset_ns", [0, -5_000 * SECOND])
def test_the_wrong_order_shows_as_a_negative_round_trip(offset_ns: int) -> None:
    told = sights(offset_ns=offset_ns)
    wrong = Sights(near_ns=told.far_ns, far_ns=told.near_ns, direction=told.direction, near_frame=told.far_frame, far_frame=told.near_frame)
    assert round_trip_sign(told)[0] > 0 > round_trip_sign(wrong)[0]
