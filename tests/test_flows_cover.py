"""Ranges named one after the other: whatever they are, the answer is that of going through them one by one."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pcapdiag.flows.cover import earlier_at_most, first_cover
from pcapdiag.flows.sequence import sequence_packets
from pcapdiag.flows.table import Kind
from pcapdiag.packets.table import ACK

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 9)), max_size=14)
"""(start, length, entry)."""


@given(RANGES)
@example([(0, 10, 1), (2, 3, 0), (4, 9, 2)])
@example([(5, 5, 3), (5, 5, 2), (5, 7, 4)])
def test_a_byte_belongs_to_the_lowest_entry_that_covers_it(ranges: list[tuple[int, int, int]]) -> None:
    expected: dict[int, int] = {}
    for start, length, entry in sorted(ranges, key=lambda one: one[2]):
        for byte in range(start, start + length):
            expected.setdefault(byte, entry)
    starts, lengths, entries = (np.array([one[k] for one in ranges], np.int64) for k in range(3))
    found = first_cover(starts, starts + lengths, entries)
    parts = list(zip(*(column.tolist() for column in found), strict=True))
    assert parts == sorted(parts)
    assert [byte for a, b, _ in parts for byte in range(a, b)] == sorted(expected), "disjoint, and all of it"
    assert {byte: of for a, b, of in parts for byte in range(a, b)} == expected


@given(st.lists(st.tuples(st.integers(-5, 20), st.integers(-6, 21)), max_size=40))
def test_how_many_earlier_values_are_at_most_a_limit(pairs: list[tuple[int, int]]) -> None:
    values, limits = (np.array([pair[k] for pair in pairs], np.int64) for k in (0, 1))
    expected = [sum(value <= limit for value, _ in pairs[:i]) for i, (_, limit) in enumerate(pairs)]
    assert earlier_at_most(values, limits).tolist() == expected


def test_a_stream_sent_backwards_takes_no_longer_than_one_in_order() -> None:
    """Every segment fills the hole that the first one opened."""
    count = 100_000
    seq = np.concatenate([[0], np.arange(count, 0, -1) * 100]).astype(np.uint32)
    zeros = np.zeros(len(seq), np.int64)
    begin = time.process_time()
    found = sequence_packets(
        fd=zeros, seq=seq, ack=zeros.astype(np.uint32), flags=np.full(len(seq), ACK, np.uint8), payload_len=zeros + 100, fd_count=2
    )
    assert time.process_time() - begin < 2, "in order it takes hundredths of a second; each one a walk through the others, minutes"
    assert (len(found.fills), found.holes) == (count - 1, ())
    assert (found.kind[2:] == Kind.FILL).all()
    assert (found.sends == 1).all()
