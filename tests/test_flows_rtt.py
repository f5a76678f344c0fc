"""The round trip around a moment."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.flows.rtt import AllRoundTrips, RoundTrips, Samples
from pcapdiag.flows.within import least_within, search_within
from tests.exchange_cases import moments, scene

MS = 1_000_000


def samples(*sent_and_rtt_ms: tuple[int, int]) -> Samples:
    """Samples by when their packets were sent."""
    pairs = sorted((sent + rtt, rtt) for sent, rtt in sent_and_rtt_ms)
    acked, rtt = np.array(pairs, np.int64).reshape(-1, 2).T * MS
    return Samples(acked, rtt)


def test_in_a_growing_queue_the_packet_sent_then_counts_not_the_ack_that_arrives_then() -> None:
    queue = samples((0, 30), (300, 300), (600, 900), (1_200, 1_200))
    assert queue.at(600 * MS) == 900 * MS, "at 600 ms the ACK of the packet sent at 300 ms arrives"


def test_of_close_samples_the_least_carries_no_delayed_ack() -> None:
    assert samples((0, 30), (20, 70), (90, 31)).at(10 * MS) == 30 * MS


def test_the_nearest_within_a_second_else_the_median() -> None:
    sparse = samples((0, 30), (900, 50), (5_000, 90))
    assert sparse.at(1_500 * MS) == 50 * MS
    assert sparse.at(3_000 * MS) == 50 * MS == sparse.median_ns()
    assert sparse.at(5_500 * MS) == 90 * MS


def test_without_samples_nothing_is_known() -> None:
    none = samples()
    assert (none.at(0), none.floor_ns(), none.median_ns()) == (-1, -1, -1)


@pytest.mark.parametrize("vantage", range(5))
@given(st.lists(st.tuples(st.integers(0, 1), moments()), max_size=8))
def test_all_flows_at_once_is_one_by_one(vantage: int, asked: list[tuple[int, int]]) -> None:
    tcp = scene().tcp
    tcp = replace(tcp, flows=replace(tcp.flows, vantage=np.full(len(tcp.flows), vantage, np.uint8)))
    flows = np.flatnonzero(tcp.flows.proto == 6)
    every, one = AllRoundTrips(tcp), RoundTrips(tcp)
    for flow in flows.tolist():
        assert every.whole_ns[flow] == one.whole_ns(flow)
        assert every.far_floor_ns[flow] == one.far(flow).floor_ns()
        assert every.near_floor_ns[flow] == one.near(flow).floor_ns()
    pairs = [(int(flows[number % len(flows)]), ns + offset) for number, ns in asked for offset in (0, 700 * MS, 5_000 * MS)]
    asking = np.array(pairs, np.int64).reshape(-1, 2)
    expected = [one.server_ns(number, ns) for number, ns in pairs]
    assert every.to_servers(0, len(tcp.flows)).at(asking[:, 0], asking[:, 1]).tolist() == expected
    for flow in flows.tolist():
        mine = asking[:, 0] == flow
        some = every.to_servers(flow, flow + 1).at(asking[mine, 0], asking[mine, 1])
        assert some.tolist() == [ns for (number, _), ns in zip(pairs, expected, strict=True) if number == flow]


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=7), st.integers(-1, 10)), max_size=6), st.booleans())
def test_searching_many_slices_is_searching_each(asked: list[tuple[list[int], int]], right: bool) -> None:
    slices = [sorted(values) for values, _ in asked]
    values = np.array([value for one in slices for value in one], np.int64)
    ends = np.cumsum([0, *map(len, slices)])
    wanted = np.array([number for _, number in asked], np.int64)
    found = search_within(values, ends[:-1], ends[1:], wanted, right=right)
    bisect = bisect_right if right else bisect_left
    assert (found - ends[:-1]).tolist() == [bisect(one, number) for one, (_, number) in zip(slices, asked, strict=True)]
    some = [index for index, one in enumerate(slices) if one][::-1]
    assert least_within(values, ends[some], ends[1:][some]).tolist() == [min(slices[index]) for index in some]
