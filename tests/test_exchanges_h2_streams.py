"""Streams sorted out all at once are those that come of taking frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges.draft import Ending, Span, add_span
from pcapdiag.exchanges.drafted import ENDING_OF
from pcapdiag.exchanges.h2_streams import H2Streams
from pcapdiag.exchanges.said import Said
from pcapdiag.exchanges.table import CODES, Outcome
from pcapdiag.exchanges.tape import Tape
from pcapdiag.protocols.events import FrozenMap, Headers
from pcapdiag.protocols.http2_rows import ROW_LEN, H2Kind

SECTIONS: list[Headers] = [
    FrozenMap(),
    FrozenMap({":method": "GET", ":path": "/a"}),
    FrozenMap({":method": "POST", ":path": "/a.B/C", "content-type": "application/grpc"}),
    FrozenMap({":status": "103"}),
    FrozenMap({":status": "200", "content-type": "text/plain"}),
    FrozenMap({":status": "429", "retry-after": "1"}),
    FrozenMap({":status": "200", "content-type": "application/grpc"}),
    FrozenMap({"grpc-status": "0"}),
    FrozenMap({"grpc-status": "14"}),
]
Row = tuple[int, int, int, int, int, int]


@dataclass
class Plain:
    """One stream, taken frame by frame."""

    request: list[Span] = field(default_factory=list)
    response: list[Span] = field(default_factory=list)
    asked: Headers | None = None
    answers: list[Headers] = field(default_factory=list)
    ended: bool = False
    cuts: list[tuple[int, int, int]] = field(default_factory=list)
    extra: dict[str, int] = field(default_factory=dict)
    spared_no_more: bool = False
    """A GOAWAY has left it out."""


def taken(flow: int, client: list[Row], server: list[Row]) -> tuple[dict[int, Plain], list[int]]:
    """The streams of one connection by id, and the values of the rows that the log keeps."""
    streams: dict[int, Plain] = {}
    values: list[int] = []
    for fd, (at, stop, kind, number, value, ends) in [(2 * flow, row) for row in client] + [(2 * flow + 1, row) for row in server]:
        own = number & 1 and kind in (H2Kind.HEADERS, H2Kind.DATA, H2Kind.RST)
        stream = streams.setdefault(number, Plain()) if own else Plain()
        if kind == H2Kind.HEADERS and not own:
            continue
        section = SECTIONS[value] if kind == H2Kind.HEADERS else FrozenMap()
        if kind == H2Kind.HEADERS and fd & 1 == 0:
            values.append(int(stream.asked is not None))
            stream.asked = section if stream.asked is None else stream.asked
        elif kind == H2Kind.HEADERS:
            values.append(int(bool(stream.answers)))
            if section.get(":status") == "103" and not ends:
                stream.extra.setdefault("interim_at", at)
                continue
            stream.answers.append(section)
        else:
            values.append(value)
        if kind == H2Kind.RST:
            refused = fd & 1 and not stream.answers
            stream.cuts.append((fd, stop - 1, CODES[Outcome.ERROR if refused else Outcome.ABORTED]))
            stream.extra.setdefault("h2_error", value)
        elif kind == H2Kind.GOAWAY and fd & 1:
            for left_out in (other for opened, other in streams.items() if opened > number and not other.spared_no_more):
                left_out.spared_no_more = True
                left_out.cuts.append((fd, stop - 1, CODES[Outcome.ABORTED]))
                left_out.extra.setdefault("goaway", value)
        elif kind in (H2Kind.HEADERS, H2Kind.DATA):
            add_span(stream.response if fd & 1 else stream.request, at, stop)
            stream.ended |= bool(fd & 1 and ends)
    return streams, values


@st.composite
def directions(draw: st.DrawFn, *, server: bool) -> list[Row]:
    """Frames of one direction; GOAWAY, if any, comes last, as streams that it does not know come no more."""
    rows, at = [], draw(st.integers(0, 50))
    sections = range(3, len(SECTIONS)) if server else range(3)
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from([H2Kind.HEADERS, H2Kind.DATA, H2Kind.RST, H2Kind.WINDOW_UPDATE, H2Kind.HEADERS, H2Kind.DATA]))
        stop = at + 9 + draw(st.integers(0, 20))
        value = draw(st.sampled_from([*sections, 0])) if kind == H2Kind.HEADERS else draw(st.integers(0, 9))
        rows.append((at, stop, int(kind), draw(st.integers(1, 6)), value, int(draw(st.booleans()))))
        at = stop + draw(st.sampled_from([0, 0, 7]))
    if server and draw(st.booleans()):
        rows.append((at, at + 17, int(H2Kind.GOAWAY), draw(st.integers(0, 6)), draw(st.integers(0, 9)), 0))
    return rows


@given(st.lists(st.tuples(directions(server=False), directions(server=True)), max_size=3), st.booleans())
def test_all_at_once_is_one_by_one(connections: list[tuple[list[Row], list[Row]]], one_way: bool) -> None:
    rows = [row for sides in connections for side in sides for row in side]
    fd = np.array([2 * flow + down for flow, sides in enumerate(connections) for down, side in enumerate(sides) for _ in side], np.int64)
    streams = H2Streams(fd, np.array(rows, np.int64).reshape(-1, ROW_LEN), SECTIONS, {}, {})
    drafted = streams.exchanges(lambda _: Tape.of_bytes([]), np.full(len(connections), one_way))
    wanted = [taken(flow, *sides) for flow, sides in enumerate(connections)]
    assert streams.logged()[4].tolist() == [value for _, values in wanted for value in values]
    plain = [(flow, number, found[number]) for flow, (found, _) in enumerate(wanted) for number in sorted(found)]
    table = drafted.exchanges
    assert [(row.flow, row.h2_stream, row.request, row.response) for row in table] == [
        (flow, number, tuple(one.request), tuple(one.response)) for flow, number, one in plain
    ]
    for row, (_, _, one) in zip(table, plain, strict=True):
        said = Said.by(one.asked, one.answers)
        outcome = Outcome.ERROR if one.ended and said.lacks_status else said.outcome
        assert (row.name, row.protocol, row.status, row.outcome) == (said.name, said.protocol, said.status, outcome)
        assert row.facts == {**said.facts, **one.extra}
        open_yet = Ending.UNSEEN if one_way and not one.response else Ending.OPEN
        assert ENDING_OF[drafted.ending[row.id]] is (Ending.RESPONSE if one.ended else open_yet)
        assert [tuple(cut) for cut in drafted.cuts[row.id].tolist()] == one.cuts
        assert (row.request_len, row.response_len) == tuple(sum(b - a for a, b in spans) for spans in (one.request, one.response))


def test_the_bytes_of_a_connection_are_put_together_once_for_all_its_token_streams() -> None:
    events = FrozenMap({":status": "200", "content-type": "text/event-stream"})
    rows = [row for number in (1, 3, 5) for row in ((number * 100, number * 100 + 9, int(H2Kind.HEADERS), number, 0, 0),)]
    rows += [(at, at + 20, int(H2Kind.DATA), 1 + 2 * (at // 20 % 3), 11, 0) for at in range(1_000, 1_400, 20)]
    streams = H2Streams(np.full(len(rows), 1), np.array(rows, np.int64), [events], {}, {})
    asked: list[int] = []

    def tape(fd: int) -> Tape:
        asked.append(fd)
        return Tape.of_bytes([(0, 1_400, b"data: x\n\n\n\n" * 117)])

    drafted = streams.exchanges(tape, np.zeros(1, np.bool_))
    assert (drafted.exchanges.messages.counts > 0).all()
    assert asked == [1]


def test_goaways_that_leave_out_ever_more_cut_each_stream_once() -> None:
    client = [(at, at + 9, int(H2Kind.HEADERS), 1 + at // 9 * 2, 1, 1) for at in range(0, 9 * 50, 9)]
    server = [(at, at + 17, int(H2Kind.GOAWAY), last, 0, 0) for at, last in zip(range(0, 17 * 6, 17), (99, 81, 81, 90, 41, 0), strict=True)]
    fd = np.array([0] * len(client) + [1] * len(server))
    drafted = H2Streams(fd, np.array(client + server, np.int64), SECTIONS, {}, {}).exchanges(
        lambda _: Tape.of_bytes([]), np.zeros(1, np.bool_)
    )
    assert drafted.cuts.counts.tolist() == [1] * 50
    assert sorted(set(drafted.cuts.values[:, 1].tolist())) == [33, 84, 101]
