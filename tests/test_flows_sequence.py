"""Offsets and kinds of TCP packets: whatever two hosts send, the columns agree with a model that counts byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pcapdiag.flows import group_flows
from pcapdiag.flows.sequence import Fill, Hole, sequence_packets
from pcapdiag.flows.table import Kind, TcpTables
from pcapdiag.packets.table import ACK, RST, SYN
from tests.packet_rows import MS, capture, packets, row
from tests.tcp_model import Seen, Sent, as_packets, observe
from tests.tcp_talk import ACTIONS, Action, told

if TYPE_CHECKING:
    from tests.tcp_model import Stream

ISNS = st.sampled_from([0, 1, 77, 2**31 - 5, 2**32 - 30, 2**32 - 1])


def analysed(sent: list[Sent], isns: tuple[int, int]) -> TcpTables:
    return group_flows(as_packets(sent, isns), (capture(),))


def columns(tables: TcpTables) -> list[Seen]:
    """Segments by time, under the model's names."""
    seg = tables.segments
    names = ("seq", "ack", "kind", "gap_len", "sends", "acked_len", "in_flight_len")
    return [Seen(*values) for values in zip(*(getattr(seg, name).tolist() for name in names), strict=True)]


def timeline(tables: TcpTables, side: int) -> dict[int, tuple[int, int]]:
    """Byte -> (first seen, deliverable in order)."""
    pieces = tables.pieces.take(tables.pieces.fd % 2 == side)
    assert (pieces.stop > pieces.start).all()
    assert (pieces.start[1:] >= pieces.stop[:-1]).all(), "disjoint and ascending"
    return {
        byte: (seen, ready)
        for start, stop, seen, ready in zip(
            pieces.start.tolist(), pieces.stop.tolist(), pieces.ts_ns.tolist(), pieces.in_order_ns.tolist(), strict=True
        )
        for byte in range(start, stop)
    }


def of_model(stream: Stream) -> dict[int, tuple[int, int]]:
    ready = stream.in_order()
    return {byte: (seen, ready[byte]) for byte, seen in stream.first_ns.items()}


@given(ACTIONS, st.sampled_from([None, 0, 0, 5]), ISNS, ISNS)
@example([(0, "new", 1, 3), (0, "skip", 3, 3), (0, "back", 6, 3), (0, "back", 3, 2)], 0, 0, 0)
@example([(0, "back", 4, 3)], 5, 2**32 - 3, 0)
@example([(0, "new", 1, 9), (0, "far fin", 7, 1), (0, "back", 5, 3), (1, "pure", 1, 1)], 0, 0, 2**32 - 1)
@example([(0, "far fin", 1, 1), (0, "back", 2, 1)], None, 0, 0)
@example([(1, "far fin", 9, 1), (0, "ack ahead", 1, 1)], 0, 0, 0)
def test_every_column_is_what_counting_bytes_gives(actions: list[Action], early: int | None, client_isn: int, server_isn: int) -> None:
    """`early`: bytes with the SYN; None: the capture starts in the middle."""
    sent = told(actions, handshake=early is not None, early=early or 0)
    expected, streams = observe(sent)
    tables = analysed(sent, (client_isn, server_isn))
    assert columns(tables) == expected
    for side, stream in enumerate(streams):
        assert timeline(tables, side) == of_model(stream)
        gaps = tables.gaps.take(tables.gaps.fd % 2 == side)
        assert list(zip(gaps.start.tolist(), gaps.stop.tolist(), strict=True)) == stream.gaps()
        acks = tables.acks.take(tables.acks.fd % 2 == side)
        advances = [(offset, ts_ns) for offset, ts_ns in stream.acks if offset >= 0]
        assert list(zip(acks.offset.tolist(), acks.ts_ns.tolist(), strict=True)) == advances


def sequenced(*packets_: tuple[int, int, int, int, int]) -> tuple[list[int], list[int], tuple[Fill, ...], tuple[Hole, ...]]:
    """Of (fd, seq, ack, flags, payload length): offsets, acknowledged offsets, what filled holes, and the holes left."""
    fd, seq, ack, flags, payload_len = (np.array(column, np.int64) for column in zip(*packets_, strict=True))
    found = sequence_packets(
        fd=fd, seq=(seq % 2**32).astype(np.uint32), ack=(ack % 2**32).astype(np.uint32), flags=flags.astype(np.uint8),
        payload_len=payload_len, fd_count=int(fd.max() | 1) + 1,
    )  # fmt: skip
    return found.seq.tolist(), found.ack.tolist(), found.fills, found.holes


@given(st.lists(st.integers(1 - 2**31, 2**31 - 2), min_size=1, max_size=20), ISNS)
def test_a_number_is_taken_as_the_nearest_to_the_one_before_it(steps: list[int], isn: int) -> None:
    offsets = np.cumsum(steps).tolist()
    seq, _, _, _ = sequenced((0, isn, 0, SYN, 0), *((0, isn + 1 + offset, 0, ACK, 1) for offset in offsets))
    assert seq == [-1, *offsets]


def test_a_stream_longer_than_the_number_space_does_not_wrap() -> None:
    steps = range(0, 3 * 2**32, 2**30)
    seq, ack, _, _ = sequenced(*((0, 5 + at, 0, ACK, 1) for at in steps), *((1, 9, 5 + at, ACK, 0) for at in steps))
    assert seq[: len(steps)] == list(steps)
    assert ack[len(steps) :] == list(steps)


@given(st.integers(0, 2**32 - 1))
def test_whatever_number_a_reset_has_it_moves_nothing(number: int) -> None:
    seq, ack, _, holes = sequenced((0, 100, 0, ACK, 10), (0, number, number, RST | ACK, 0), (0, 110, 0, ACK, 10))
    assert (seq[0], seq[2], ack[1], holes) == (0, 10, -1, ())
    assert (seq[1] - number) % 2**32 == (-100) % 2**32


def test_a_direction_without_packets_is_counted_from_its_first_acknowledgment() -> None:
    _, ack, _, _ = sequenced((1, 9, 2**32 - 10, ACK, 0), (1, 9, 20, ACK, 0))
    assert ack == [0, 30]


def test_fillers_name_the_packet_that_showed_the_hole() -> None:
    _, _, fills, holes = sequenced(
        (0, 0, 0, ACK, 10), (0, 20, 0, ACK, 10), (0, 40, 0, ACK, 10), (0, 5, 0, ACK, 10), (0, 18, 0, ACK, 30), (2, 0, 0, ACK, 1)
    )
    assert fills == (Fill(0, 10, 15, 3, 1), Fill(0, 18, 20, 4, 1), Fill(0, 30, 40, 4, 2))
    assert holes == (Hole(0, 15, 18, 1),)


@pytest.mark.parametrize(("payload_len", "kind"), [(0, Kind.KEEP_ALIVE), (1, Kind.KEEP_ALIVE), (2, Kind.NEW)])
def test_a_probe_lies_one_below_the_next_byte_and_holds_at_most_one(payload_len: int, kind: Kind) -> None:
    tables = group_flows(packets(row(0, seq=0, payload_len=10), row(MS, seq=9, payload_len=payload_len)), (capture(),))
    assert tables.segments.kind.tolist() == [Kind.NEW, kind]


def test_nothing_is_an_answer_too() -> None:
    assert len(group_flows(packets(), (capture(),)).segments) == 0
