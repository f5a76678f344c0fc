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
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from tests.packet_rows import MS, capture, packets, row
from tests.tcp_model import Seen, Sent, as_packets, observe

if TYPE_CHECKING:
    from tests.tcp_model import Stream

ISNS = st.sampled_from([0, 1, 77, 2**31 - 5, 2**32 - 30, 2**32 - 1])
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["new", "new", "skip", "back", "back", "around", "probe", "pure", "ack ahead", "ack less", "fin", "far fin", "rst", "syn"]),
        st.integers(1, 12),
        st.integers(1, 9),
    ),
    max_size=40,
)
"""(side, what it does, how far, how many bytes)."""


def told(actions: list[tuple[int, str, int, int]], *, handshake: bool) -> list[Sent]:
    """Two hosts that send, skip, repeat and acknowledge as the actions say; each ends its stream at most once."""
    sent = [Sent(0, -1, 0, SYN), Sent(1, -1, 0, SYN | ACK, 0)] if handshake else [Sent(0, 0, 0, ACK, 0), Sent(1, 0, 0, ACK, 0)]
    following, ends, acked = [0, 0], [None, None], [0, 0]
    for side, what, far, length in actions:
        top, end, ack = following[side], ends[side], following[1 - side]
        at, flags = {"back": max(top - far, 0), "around": max(top - far, 0), "probe": top - 1, "skip": top + far}.get(what, top), ACK
        if end is not None:  # nothing lies behind a FIN
            at = min(at, end)
            length = min(length, end - at) if what != "probe" else length
        if what == "back" and end is None:
            length = min(length, top - at)
        if what in {"pure", "ack ahead", "ack less", "rst", "syn"} or (what == "probe" and top <= 0):
            at, length = top, 0
        if what == "ack less":
            ack = max(acked[side] - far, 0)
        elif what == "ack ahead":
            ack += far
        elif what == "rst":
            at, flags = top + far * 10_000, RST
        elif what == "syn":
            at, flags = (-1, SYN | (ACK if side else 0)) if handshake else (top, ACK)
        elif what == "probe":
            length = min(length, 2) - 1
        elif what == "fin":
            ends[side] = end = end if end is not None else at + length
            at, length, flags = end - min(length, end), min(length, end), ACK | FIN
        elif what == "far fin":
            ends[side] = at = end if end is not None else top + far
            length, flags = 0, ACK | FIN
        sent.append(Sent(side, at, length, flags, ack))
        acked[side] = max(acked[side], ack)
        if not flags & (RST | SYN):
            following[side] = max(top, at + length + bool(flags & FIN))
    return sent


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


@given(ACTIONS, st.booleans(), ISNS, ISNS)
def test_every_column_is_what_counting_bytes_gives(
    actions: list[tuple[int, str, int, int]], handshake: bool, client_isn: int, server_isn: int
) -> None:
    sent = told(actions, handshake=handshake)
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
