"""Drafts, tapes, header fields and message marks: the small parts that exchanges are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges.draft import Draft, Span, add_span, total_len
from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.fields import is_event_stream, is_grpc, keep_request, keep_response, outcome_of_http, request_words, response_words
from pcapdiag.exchanges.messages import MessageMarks
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.exchanges.tape import Piece, Tape
from pcapdiag.protocols.events import FrozenMap


def draft() -> Draft:
    return Draft(3, Protocol.HTTP1, "GET /", request=[(10, 20)], response=[(5, 7), (9, 30)])


def test_a_draft_becomes_an_exchange() -> None:
    made = draft()
    made.start_ns, made.end_ns = 100, 300
    exchange = gather([made]).exchanges[0]
    assert (exchange.setup, exchange.part_of, exchange.duration_ns) == ((), None, 200)
    assert (exchange.request_len, exchange.response_len) == (10, 23)
    assert len(exchange.messages) == 0


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_spans_stay_disjoint_and_ascending(lengths: list[int]) -> None:
    spans: list[Span] = []
    at = 0
    for index, length in enumerate(lengths):
        add_span(spans, at, at + length)
        at += length + index % 2
    assert all(start < stop for start, stop in spans)
    assert all(first[1] < second[0] for first, second in pairwise(spans))
    assert total_len(spans) == sum(lengths)


class Log:
    """A reader that writes down what it is given."""

    def feed(self, data: bytes | memoryview, /) -> Sequence[str]:
        return [bytes(data).decode()]

    def skip(self, length: int, /) -> Sequence[str]:
        return ["?" * length]


PIECES: list[Piece] = [(5, 8, b"abc"), (8, 10, None), (10, 13, b"def")]


def test_a_tape_plays_bytes_and_holes() -> None:
    assert list(Tape.of_bytes(PIECES).play(Log())) == ["abc", "??", "def"]
    assert list(Tape.of_bytes([]).play(Log())) == []


@pytest.mark.parametrize("start", range(14))
@pytest.mark.parametrize("stop", range(14))
def test_a_part_of_a_tape_is_that_part(start: int, stop: int) -> None:
    whole = "....." + "abc??def"
    between = Tape.of_bytes(PIECES).between(start, stop)
    assert "".join(Log().skip(b - a)[0] if data is None else bytes(data).decode() for a, b, data in between) == (
        whole[start:stop].replace(".", "")
    )


def test_a_tape_knows_where_it_begins() -> None:
    tape = Tape.of_bytes(PIECES)
    assert (tape.start, tape.stop, tape.head(2), tape.behind(9).start) == (5, 13, b"ab", 9)
    assert tape.begins_at(5)
    assert not tape.begins_at(0)
    assert not Tape.of_bytes([(0, 4, None), (4, 5, b"x")]).begins_at(0)
    assert Tape.of_bytes([]).begins_at(0)
    assert (Tape.of_bytes([]).start, Tape.of_bytes([]).stop, Tape.of_bytes([]).head(9)) == (0, 0, b"")


def test_header_fields_that_matter_are_kept() -> None:
    made = draft()
    keep_request(
        made,
        {":authority": "api", "connection": "Keep-Alive, Close", "grpc-timeout": "20S", "x-stainless-retry-count": "2", "te": "trailers"},
    )
    keep_response(made.facts, {"retry-after": "3", "x-ratelimit-remaining": "0", "content-type": "text/html", "date": "today"})
    assert made.facts == {
        "host": "api",
        "connection": "close",
        "retry-after": "3",
        "x-ratelimit-remaining": "0",
        "content-type": "text/html",
    }
    assert (made.deadline_ns, made.attempt) == (20_000_000_000, 2)


def test_what_a_header_section_says() -> None:
    said = request_words(
        FrozenMap({":method": "POST", ":path": "/a", "host": "h", "grpc-timeout": "1S", "content-type": "application/grpc"})
    )
    assert (said.name, said.facts, said.deadline_ns, said.attempt, said.is_grpc) == ("POST /a", {"host": "h"}, 1_000_000_000, None, True)
    answered = response_words(FrozenMap({":status": "200", "content-type": "text/event-stream", "content-encoding": "br"}))
    assert (answered.status, answered.grpc_status, answered.is_event_stream, answered.encoded) == ("200", None, True, True)


@pytest.mark.parametrize("count", ["", "x", "-1", "9" * 30])
def test_a_count_that_is_none_is_not_kept(count: str) -> None:
    made = draft()
    keep_request(made, {"x-stainless-retry-count": count})
    assert made.attempt is None


def test_content_types_and_status() -> None:
    assert is_grpc({"content-type": "application/grpc+proto"})
    assert not is_grpc({})
    assert is_event_stream({"content-type": "Text/Event-Stream; charset=utf-8"})
    assert not is_event_stream({"content-type": "application/json"})
    assert [outcome_of_http(status) for status in (200, 304, 399, 400, 599)] == [Outcome.OK] * 3 + [Outcome.ERROR] * 2


class TestMarks:
    def test_an_event_a_hole_touches_has_no_end(self) -> None:
        events = b"data: one\n\ndata: two\n\ndata: three\n\n"
        marks, made = MessageMarks.of_sse(encoded=False), draft()
        marks.read(Tape.of_bytes([(0, 14, events[:14]), (14, 16, None), (16, len(events), events[16:])]), 0, len(events))
        marks.conclude(made)
        assert made.messages == [11, len(events)]
        assert made.facts == {"sse_done": False}

    def test_a_coded_stream_has_a_message_a_piece(self) -> None:
        marks, made = MessageMarks.of_sse(encoded=True), draft()
        for stop in (10, 20):
            marks.read(Tape.of_bytes([]), stop - 10, stop)
        marks.conclude(made)
        assert made.messages == [10, 20]

    def test_grpc_messages_end_behind_their_last_byte(self) -> None:
        two = b"\x00\x00\x00\x00\x02ab" + b"\x00\x00\x00\x00\x01c"
        marks, made = MessageMarks.of_grpc(), draft()
        marks.read(Tape.of_bytes([(100, 100 + len(two), two)]), 100, 100 + len(two))
        marks.conclude(made)
        assert made.messages == [107, 113]
        assert made.facts == {}
