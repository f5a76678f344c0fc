"""Selective acknowledgements: whatever blocks come, each byte has the time of the first one that named it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pcapdiag.flows import group_flows
from pcapdiag.flows.table import Sacked
from tests.packet_rows import BEGIN_NS, MS, Row, capture, packets, row

OTHER = ("10.0.0.1", 50_001)
ISN = 2**32 - 20  # so that blocks wrap
BLOCKS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(1, 20),
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda block: (block[0], sum(block))), max_size=3),
    ),
    max_size=25,
)
"""Per ACK: (of the other flow, acknowledged, blocks); bytes 1 to 60."""


def sacked(*rows: Row) -> Sacked:
    return group_flows(packets(*rows), (capture(),)).sacked


def sack(at: int, ack: int, blocks: list[tuple[int, int]], **more: Any) -> Row:
    """An ACK of the server with blocks of stream offsets."""
    edges = tuple((ISN + a, ISN + b) for a, b in blocks)
    return row(at * MS, back=True, seq=1, ack=ISN + ack, sack=edges, **more)


def begin() -> list[Row]:
    """Both connections from their first byte on."""
    return [row(-2 * MS, seq=ISN, payload_len=60), row(-1 * MS, src=OTHER, seq=ISN, payload_len=60)]


def is_duplicate(ack: int, blocks: list[tuple[int, int]]) -> bool:
    """RFC 2883 section 4: the first block lies below the ACK, or inside the second one."""
    (a, b), rest = blocks[0], blocks[1:]
    return b <= ack or bool(rest and rest[0][0] <= a and b <= rest[0][1])


@given(BLOCKS)
@example([(False, 10, [(5, 10)]), (False, 10, [(5, 11)])])
def test_a_byte_is_sacked_by_the_first_block_that_names_it(acks: list[tuple[bool, int, list[tuple[int, int]]]]) -> None:
    first: dict[tuple[int, int], int] = {}
    duplicates = []
    for i, (other, ack, blocks) in enumerate(acks):
        for index, (a, b) in enumerate(blocks):
            if index == 0 and is_duplicate(ack, blocks):
                duplicates.append((int(other), a, b, i))
                continue
            for byte in range(a, b):
                first.setdefault((int(other), byte), i)
    found = sacked(*begin(), *(sack(i, ack, blocks, **({"dst": OTHER} if other else {})) for i, (other, ack, blocks) in enumerate(acks)))
    assert (found.fd % 2 == 0).all()
    at = ((found.ts_ns - BEGIN_NS) // MS).tolist()
    rows = list(zip((found.fd // 2).tolist(), found.start.tolist(), found.stop.tolist(), at, found.duplicate.tolist(), strict=True))
    named = [((flow, byte), i) for flow, start, stop, i, again in rows if not again for byte in range(start, stop)]
    assert len(named) == len(dict(named)), "disjoint"
    assert dict(named) == first
    assert sorted((flow, start, stop, i) for flow, start, stop, i, again in rows if again) == sorted(duplicates)
    assert (np.diff(found.fd * 1_000 + found.start) >= 0).all()


def test_a_block_names_the_acknowledgment_that_carried_it() -> None:
    tables = group_flows(packets(*begin(), sack(0, 10, [(20, 30)]), sack(1, 10, [(20, 40)])), (capture(),))
    assert tables.sacked.segment.tolist() == [1, 2]
    assert tables.segments.has_sack.tolist() == [False, True, True, False]


@pytest.mark.parametrize("block", [(30, 20), (20, 20), (20, 20 + 2**30)])
def test_a_block_that_makes_no_sense_names_nothing(block: tuple[int, int]) -> None:
    assert len(sacked(*begin(), sack(0, 10, [block]))) == 0


def test_without_blocks_there_is_nothing() -> None:
    assert len(sacked(*begin())) == 0
