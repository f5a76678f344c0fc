"""The round trip around a moment."""

from __future__ import annotations

import numpy as np

from pcapdiag.flows.rtt import Samples

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
