"""SseReader: events and comments of token streams, in any cuts, with holes, and without their content."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.events import Event, Fault, SseCommentReceived, SseEventReceived
from pcapdiag.protocols.sse import SseReader

LINES = st.sampled_from(
    [b"data: a", b"data:bc", b"data", b": ping", b":", b"event: x", b"id: 7", b"retry: 5", b"data: [DONE]", b"", b"", b""]
)


def read(body: bytes) -> list[Event]:
    reader = SseReader()
    return reader.feed(body, 0) + reader.finish()


def read_in_cuts(body: bytes, cuts: set[int]) -> list[Event]:
    reader = SseReader()
    edges = sorted({0, len(body), *(c for c in cuts if c < len(body))})
    return [e for a, b in pairwise(edges) for e in reader.feed(memoryview(body)[a:b], a)] + reader.finish()


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12), st.sets(st.integers(0, 90)), st.booleans())
def test_cuts_do_not_change_events(lines: list[tuple[bytes, bytes]], cuts: set[int], bom: bool) -> None:
    body = b"\xef\xbb\xbf" * bom + b"".join(text + end for text, end in lines)
    whole = read(body)
    assert read_in_cuts(body, cuts) == whole
    assert read_in_cuts(body, set(range(len(body)))) == whole


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_token_stream(end: bytes) -> None:
    lines = [b": keep-alive", b"", b'data: {"t": 1}', b"", b"event: ping", b"data: {}", b"data: xy", b"", b"data: [DONE]", b""]
    body = end.join([*lines, b""])
    offset = [body.index(mark) for mark in (b"data: {", b"event", b"data: [")]
    blank = [body.index(mark) + len(mark) for mark in (b"1}" + end, b"xy" + end, b"[DONE]" + end)]
    assert read(body) == [
        SseCommentReceived(0, 13),
        SseEventReceived(offset[0], blank[0] + 1, "", 8, done=False, error=False),
        SseEventReceived(offset[1], blank[1] + 1, "ping", 5, done=False, error=False),
        SseEventReceived(offset[2], blank[2] + 1, "", 6, done=True, error=False),
    ]


def test_the_end_and_an_error_are_told_by_name() -> None:
    events = read(b"event: message_stop\ndata: {}\n\nevent: error\ndata: {}\n\ndata: not [DONE]\n\n")
    flags = [(e.done, e.error) for e in events if isinstance(e, SseEventReceived)]
    assert flags == [(True, False), (False, True), (False, False)]


def test_offsets_follow_the_pieces_over_chunk_framing() -> None:
    reader = SseReader()
    events = reader.feed(b"data: a", 100) + reader.feed(b"b\n", 120) + reader.feed(b"\ndata: c\n\n", 140)
    assert [(e.at, e.end) for e in events] == [(100, 141), (141, 150)]
    assert [e.data_len for e in events if isinstance(e, SseEventReceived)] == [2, 1]


def test_a_hole_gives_up_one_event_and_finds_the_next() -> None:
    body = b"data: one\n\ndata: two\n\ndata: three\n\ndata: four\n\n"
    for hole in range(1, 29):
        reader = SseReader()
        events = reader.feed(body[:hole], 0) + reader.skip(hole, 5) + reader.feed(body[hole + 5 :], hole + 5) + reader.finish()
        assert Fault(hole, hole + 5, "bytes missing inside an event stream") in events
        assert events[-1] == SseEventReceived(35, 47, "", 4, done=False, error=False)
        assert all(e.end <= hole or e.at >= hole for e in events)


def test_an_event_without_its_blank_line_is_none() -> None:
    assert read(b"data: a\n\ndata: b\n")[1:] == [Fault(9, 17, "event stream ends inside an event")]
    assert read(b"data: a\n\nda")[1:] == [Fault(9, 11, "event stream ends inside an event")]


def test_content_is_never_kept_and_long_lines_cost_no_memory() -> None:
    secret = b"the secret words"
    long = b"data: " + secret * 100_000
    events = read(b"data: " + secret + b"\n\n" + long + b"\n\n: " + secret + b"\nevent: e\x1b" + b"n" * 90 + b"\ndata: 1\n\n")
    assert "secret" not in repr(events)
    assert [e.data_len for e in events if isinstance(e, SseEventReceived)] == [16, 1_600_000, 1]
    assert isinstance(events[-1], SseEventReceived)
    assert events[-1].name == "e?" + "n" * 62


@pytest.mark.parametrize("body", [b"\n" * 1_000_000, b"\r" * 1_000_000, b"a" * (8 << 20), b":\n" * 400_000, b"data\n" * 400_000])
@pytest.mark.parametrize("piece", [1 << 24, 1_000])
def test_hostile_streams_are_read_in_linear_time(body: bytes, piece: int) -> None:
    began = time.perf_counter()
    reader = SseReader()
    for at in range(0, len(body), piece):
        reader.feed(body[at : at + piece], at)
    reader.finish()
    assert time.perf_counter() - began < 8
