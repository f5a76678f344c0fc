"""The numbers that each direction of a flow comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.flows.summary import super_segments
from pcapdiag.flows.table import Tallies
from pcapdiag.flows.tally import tally
from tests.wire import Wire, merge

if TYPE_CHECKING:
    from tests.wire import Recording


def counted(told: Recording, *, ethernet: bool = True) -> Tallies:
    trace = told.trace()
    tcp, flows = trace.tcp, trace.flows
    return tally(
        trace.packets, tcp.segments, tcp.acks, tcp.pieces, tcp.gaps, tcp.resends, ethernet=np.array([ethernet]),
        supers=super_segments(trace.packets, tcp.segments, (flows.client_mss, flows.server_mss)),
        opened=(flows.syn_count > 0) | (flows.syn_ack_count > 0),
    )  # fmt: skip


def test_packets_by_what_they_are() -> None:
    trace = (told := Wire().handshake().http_get(body=4_000).close()).trace()
    found, seg = counted(told), trace.segments
    for direction in (0, 1):
        own = seg.direction == direction
        assert found.packet_count[direction] == own.sum()
        assert found.data_count[direction] == (seg.payload_len[own] > 0).sum()
        assert found.acking_count[direction] == (seg.ack[own] >= 0).sum()
        assert found.ending_count[direction] == ((seg.flags[own] & 7) > 0).sum()
    assert found.seen_len.tolist() == [int(trace.tcp.pieces.stop[trace.tcp.pieces.fd == fd].max()) for fd in (0, 1)]
    assert found.closing_count.tolist() == [1, 1]
    assert found.pure_count.sum() > 0
    assert found.longest_run.tolist() == [0, 0], "nobody asks for runs where acknowledgments are"


def test_resends_and_holes_are_told_apart() -> None:
    again = counted(Wire().handshake().send(4_344, lose="after", only=[1]).wait(ms=40).resend(1_448, 2_896))
    filled = counted(Wire().handshake().send(4_344, lose="before", only=[1]).wait(ms=40).resend(1_448, 2_896))
    assert (again.resent_count[0], again.fill_count[0], again.broken_count[0]) == (1, 0, 0)
    assert (filled.resent_count[0], filled.fill_count[0]) == (0, 1)


def test_flows_are_counted_apart_as_together() -> None:
    one, other = (Wire(cport=50_000 + i, start_ms=i).handshake().http_get(body=3_000 * (i + 1)) for i in range(2))
    both = counted(merge(one, other))
    for fd, alone in ((slice(0, 2), counted(one)), (slice(2, 4), counted(other))):
        for name in Tallies.columns():
            assert getattr(both, name)[fd].tolist() == getattr(alone, name).tolist(), name


def test_the_least_time_until_an_answer() -> None:
    found = counted(Wire(rtt_ms=30, vantage="client").handshake().send(1_000).wait(ms=50).reply(1_000))
    assert 29_000_000 < found.turnaround_ns[1] < 31_000_000, "the server is a round trip away"
    assert found.turnaround_ns[0] < 1_000_000, "the client is here"
    silent = counted(Wire().handshake().acks("none").send(1_000))
    assert silent.turnaround_ns.tolist() == [NEVER, NEVER]


def test_without_acknowledgments_runs_are_counted() -> None:
    found = counted(Wire().acks("none").send(5 * 1_448).reply(3 * 1_448).send(2 * 1_448))
    assert found.pure_count.tolist() == [0, 0]
    assert found.longest_run.tolist() == [5, 3]


def test_frames_that_no_wire_carries_count_on_ethernet_only() -> None:
    told = Wire().handshake().http_get()
    assert counted(told, ethernet=False).short_count.sum() == 0
