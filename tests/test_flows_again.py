"""Which packets carry bytes again, the copy before each, and what its sender had heard."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.flows.again import last_until
from tests.wire import Recording, Wire

MSS = 1_448


def pairs(told: Recording) -> list[tuple[int, int]]:
    """(frame of the copy before it, its own frame) of each resend; 0 where none was seen."""
    trace = told.trace()
    found, frame = trace.tcp.resends, trace.packets.frame[trace.segments.row]
    return [
        (int(frame[before]) if before >= 0 else 0, int(frame[at]))
        for before, at in zip(found.before_segment.tolist(), found.segment.tolist(), strict=True)
    ]


def test_a_copy_follows_the_last_one() -> None:
    told = Wire().handshake().send(100, lose="after").wait(ms=220).resend(lose="after").wait(ms=230).resend(lose="after")
    assert pairs(told) == [(4, 5), (5, 6)]


def test_a_filler_follows_the_packet_that_showed_its_hole() -> None:
    told = Wire(vantage="server").handshake().send(3 * MSS, lose="before", only=[1]).acks("none").wait(ms=25)
    assert pairs(told.resend(MSS, 2 * MSS, by="client")) == [(5, 6)]


def test_packets_cut_anew_follow_the_larger_one_that_held_their_bytes() -> None:
    told = Wire().handshake().send(1_000, lose="after").wait(ms=230).resend(0, 1_000, by="client", lose="after")
    told.wait(ms=230).resend(400, 1_000, by="client", lose="after")
    assert pairs(told) == [(4, 5), (5, 6)]


def test_a_syn_and_a_fin_follow_the_ones_before() -> None:
    told = (
        Wire().syn(lose="after").wait(ms=1_000).syn(lose="after").wait(ms=1_000).syn().syn_ack().ack().fin(lose="after").wait(ms=300).fin()
    )
    assert pairs(told) == [(1, 2), (2, 3), (6, 7)]


def test_what_was_never_seen_before_follows_nothing() -> None:
    assert pairs(Wire().acks("none").fin().send(50, seq=0)) == [(0, 2)]


@given(st.lists(st.lists(st.integers(0, 30), max_size=9), min_size=1, max_size=5), st.data())
def test_last_until_finds_what_a_search_by_eye_finds(groups: list[list[int]], data: st.DataObject) -> None:
    times = [sorted(group) for group in groups]
    flat = np.array([time for group in times for time in group], np.int64)
    stops = np.cumsum([len(group) for group in times])
    begins = stops - [len(group) for group in times]
    until = np.array(data.draw(st.lists(st.integers(-1, 31), min_size=len(times), max_size=len(times))), np.int64)
    expected = [
        begin + max(i for i, time in enumerate(group) if time <= limit) if any(time <= limit for time in group) else -1
        for begin, group, limit in zip(begins.tolist(), times, until.tolist(), strict=True)
    ]
    assert last_until(flat, begins, stops, until).tolist() == expected
