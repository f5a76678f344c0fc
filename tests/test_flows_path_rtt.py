"""The round trip between two hosts over time: levels, queues, and what correlates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pcapdiag.columns import I64
from pcapdiag.flows.path_rtt import History, bloated, histories, in_flight, rank_correlation
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT
from tests.wire import Wire, merge

MS = 1_000_000


def history(rtts_ms: Sequence[float], *, every_ms: int = 100) -> History:
    count = len(rtts_ms)
    return History(
        client=0, server=1, direction=CLIENT_TO_SERVER, sent_ns=np.arange(count, dtype=np.int64) * every_ms * MS,
        rtt_ns=(np.array(rtts_ms) * MS).astype(np.int64), flow=np.zeros(count, np.int64), segment=np.arange(count, dtype=np.int64),
        flows=np.array([0]),
    )  # fmt: skip


def floors_ms(one: History) -> list[float]:
    return [level.floor_ns / MS for level in one.levels(least_ns=5 * MS, share=0.2)]


def test_a_sharp_step_parts_two_levels() -> None:
    assert floors_ms(history([40] * 12 + [120] * 12)) == [40, 120]
    assert floors_ms(history([120] * 12 + [40] * 12)) == [120, 40]


def test_an_excursion_gives_three_levels() -> None:
    levels = history([60] * 20 + [500] * 40 + [60] * 20).levels(least_ns=5 * MS, share=0.2)
    assert [(level.begin, level.stop, level.floor_ns // MS) for level in levels] == [(0, 20, 60), (20, 60, 500), (60, 80, 60)]
    assert levels[0].end_ns == levels[1].start_ns == 20 * 100 * MS


def test_late_acks_within_a_level_do_not_matter() -> None:
    noisy = [40 if turn % 3 else 81 for turn in range(30)] + [120 if turn % 3 else 161 for turn in range(30)]
    assert floors_ms(history(noisy)) == [40, 120]


@pytest.mark.parametrize(
    "rtts",
    [
        [40.0] * 30,
        [40.0] * 12 + [120.0] * 9,
        [40.0] * 12 + [44.0] * 12,
        [40.0] * 12 + [40 + 10 * turn for turn in range(30)] + [40.0] * 12,
        [40.0] * 12 + [120.0] * 3 + [40.0] * 12,
    ],
    ids=["flat", "too short", "too small", "a queue that fills", "a few late packets"],
)
def test_what_is_no_step(rtts: list[float]) -> None:
    assert len(floors_ms(history(rtts))) == 1


def test_a_level_needs_three_round_trips() -> None:
    """Ten samples within one round trip are one moment, seen ten times."""
    assert len(floors_ms(history([40] * 12 + [120] * 12, every_ms=1))) == 1


def test_a_queue_is_what_remains_in_the_least_of_its_neighbours() -> None:
    one = history([30] * 10 + [200] * 10 + [30, 200, 30, 200, 30], every_ms=20)
    deep = bloated(one, np.full(len(one.rtt_ns), 30 * MS), 50 * MS)
    assert deep[12:18].all()
    assert not deep[:8].any()
    assert not deep[20:].any(), "single late ACKs between quick ones are no queue"


def test_around_a_moment() -> None:
    one = history([30, 40, 50, 60], every_ms=400)
    assert one.around(400 * MS).tolist() == [40 * MS, 30 * MS, 50 * MS], "too sparse for 50 ms: the three nearest within 1 s"
    assert len(one.around(9_000 * MS)) == 0
    assert history([30, 40, 50, 60, 70], every_ms=20).around(40 * MS).tolist() == [30 * MS, 40 * MS, 50 * MS, 60 * MS, 70 * MS]


def test_connections_between_two_hosts_are_pooled_and_the_near_half_left_out() -> None:
    parts = [Wire(rtt_ms=40, cport=50_000 + number, start_ms=number * 300) for number in range(4)]
    trace = merge(*(wire.handshake().http_get().http_get() for wire in parts)).trace()
    (one,) = histories(trace.tcp)
    assert (one.direction, len(one.sent_ns), one.flows.tolist()) == (CLIENT_TO_SERVER, 12, [0, 1, 2, 3])
    assert (np.diff(one.sent_ns) >= 0).all()
    assert (one.segment == -1).sum() == 4, "handshakes"
    assert one.rtt_ns // MS == pytest.approx(40, abs=1)


def test_a_tap_in_the_middle_sees_both_halves() -> None:
    wire = Wire(rtt_ms=40, vantage="middle").handshake()
    for _ in range(12):
        wire.http_get()
    assert sorted(one.direction for one in histories(wire.trace().tcp)) == [CLIENT_TO_SERVER, SERVER_TO_CLIENT]


def test_no_samples_no_history() -> None:
    assert list(histories(Wire(cport=53, sport=53).udp(b"x").trace().tcp)) == []


def test_bytes_in_flight_rise_with_data_and_fall_with_acks() -> None:
    trace = Wire(rtt_ms=40).handshake().send(4_000).wait(ms=100).send(1_000).trace()
    (one,) = histories(trace.tcp, samples=1)
    times, flying = in_flight(trace.tcp, one)
    assert flying.max() == 4_000
    assert flying[-1] == 0
    assert (np.diff(times) >= 0).all()


def test_rank_correlation() -> None:
    rising: I64 = np.arange(10)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert rank_correlation(rising, np.ones(10)) == 0
    assert rank_correlation(np.array([1, 1, 2, 2]), np.array([1, 1, 5, 5])) == pytest.approx(1), "ties share a rank"
    assert rank_correlation(rising[:0], rising[:0]) == 0


def test_no_round_trip_is_longer_than_any_timer_waits() -> None:
    """The capturing host slept for an hour, or its clock was put forward by one; two minutes are the longest timer."""
    for slept_ms, expected in ((100_000, 2), (3_600_000, 1)):
        wire = Wire(rtt_ms=30).handshake().send(100).wait(ms=20).acks("none").send(100).wait(ms=slept_ms).ack("server")
        (one,) = histories(wire.trace().tcp, samples=1)
        assert len(one.rtt_ns) == expected
