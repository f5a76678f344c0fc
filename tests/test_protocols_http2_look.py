"""A reader that looks bytes up gives the rows of one that is fed all of them, whatever is missing or damaged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges import tape as tapes
from pcapdiag.exchanges.tape import Piece, Tape
from pcapdiag.protocols.events import DataReceived, Event, HeadersReceived, Side, WindowUpdated
from pcapdiag.protocols.http2 import Http2Reader
from pcapdiag.protocols.http2_look import LookingHttp2Reader
from pcapdiag.protocols.http2_rows import ROW_LEN, FrameRows, H2Kind
from tests import wire_h2 as wire

Told = tuple[list[tuple[int, ...]], list[Event]]
"""Rows, header sections in place of their numbers; and the events that are more than rows."""


def told(rows: FrameRows, events: list[Event]) -> Told:
    numbers = [tuple(rows.numbers[at : at + ROW_LEN]) for at in range(0, len(rows.numbers), ROW_LEN)]
    bodies = [rows.bodies.get(number, ()) for number in range(len(rows))]
    sections = [rows.sections[row[4]] if row[2] == H2Kind.HEADERS else row[4] for row in numbers]
    more = [event for event in events if not isinstance(event, DataReceived | HeadersReceived | WindowUpdated)]
    return [(*row[:4], section, *row[5:], *body) for row, section, body in zip(numbers, sections, bodies, strict=True)], more


def fed(pieces: list[Piece], side: Side, *, start: bool) -> Told:
    reader, rows = Http2Reader(side, preface_expected=start, at=pieces[0][0]), FrameRows()
    events = [e for a, b, data in pieces for e in (reader.skip(b - a) if data is None else reader.feed(data))]
    return told(rows, rows.taken(events + reader.finish()))


def shown(pieces: list[Piece], side: Side, *, start: bool) -> Told:
    reader, rows = LookingHttp2Reader(side, preface_expected=start, at=pieces[0][0]), FrameRows()
    return told(rows, list(Tape.of_bytes(pieces).show(reader, rows)))


@pytest.fixture(params=[1 << 20, 40])
def fed_len(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes fed at once: a fed reader must give back what it looks up again, however little that is."""
    monkeypatch.setattr(tapes, "_FED_LEN", request.param)


@given(st.lists(wire.makers(), min_size=1, max_size=8), st.data(), st.booleans(), st.sampled_from(Side))
def test_looking_is_feeding(parts: list[wire.Maker], draw: st.DataObject, start: bool, side: Side) -> None:
    data = bytearray(wire.connection(parts))
    if side is Side.SERVER and start:
        data = data[len(wire.PREFACE) :]
    for at in draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[at : at + 2] = draw.draw(st.binary(max_size=3))
    edges = sorted({0, len(data), *draw.draw(st.sets(st.integers(0, len(data)), max_size=8))})
    holes = draw.draw(st.sets(st.integers(0, len(edges)), max_size=2))
    pieces: list[Piece] = []
    for number, (a, b) in enumerate(pairwise(edges)):
        missing = number in holes and not (pieces and pieces[-1][2] is None)
        pieces.append((a + 5, b + 5, None if missing else bytes(data[a:b])))
    assert shown(pieces, side, start=start) == fed(pieces, side, start=start)


@pytest.mark.usefixtures("fed_len")
@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("length", [1, 9, 20, 100])
def test_a_hole_at_every_position(length: int, *, start: bool) -> None:
    blocks = wire.Blocks()
    exchange = wire.PREFACE + wire.settings({4: 1}) + blocks.headers(1, wire.REQUEST, cuts=(9,)) + wire.data(1, b"abcde" * 9, pad=3)
    whole = exchange + wire.data(3, b"later" * 30) + wire.window_update(3, 99) + wire.ping(b"laterlat") + wire.settings(ack=True) * 4
    for at in range(len(exchange) - length):
        pieces: list[Piece] = [(0, at, whole[:at]), (at, at + length, None), (at + length, len(whole), whole[at + length :])]
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
        assert shown(pieces, Side.CLIENT, start=start) == fed(pieces, Side.CLIENT, start=start)


def test_the_payload_of_data_is_never_looked_at() -> None:
    blocks = wire.Blocks()
    start, end = wire.PREFACE + wire.settings() + blocks.headers(1, wire.REQUEST), blocks.headers(3, wire.REQUEST)
    data = start + wire.data(1, bytes(16_000)) * 3 + end
    looked_at: list[int] = []

    class Counted(Tape):
        """Counts the packets that are looked at."""

        def around(self, at: int) -> tuple[int, memoryview]:
            looked_at.append(at)
            return super().around(at)

    strips = [(at, min(at + 1_448, len(data)), data[at : at + 1_448]) for at in range(0, len(data), 1_448)]
    rows = FrameRows()
    list(Counted.of_bytes(strips).show(LookingHttp2Reader(Side.CLIENT, preface_expected=True), rows))
    assert [row[2] for row in told(rows, [])[0]] == [H2Kind.SETTINGS, H2Kind.HEADERS, *[H2Kind.DATA] * 3, H2Kind.HEADERS]
    assert (len(looked_at), len(strips)) == (4, 34)


def test_memory_of_blocks_is_shared_and_exact() -> None:
    """The second connection says what the first said, then something else."""
    first, second = wire.Blocks(), wire.Blocks()
    begin = wire.PREFACE + wire.settings()
    same = [begin + blocks.headers(1, wire.REQUEST) + blocks.headers(3, wire.REQUEST) for blocks in (first, second)]
    other = second.headers(5, [*wire.REQUEST, ("x-request-id", "7")]) + second.headers(7, wire.REQUEST)
    memo = LookingHttp2Reader(Side.CLIENT, preface_expected=True)._memo
    reads = [
        [e for e in LookingHttp2Reader(Side.CLIENT, preface_expected=True, memo=memo).feed(data) if isinstance(e, HeadersReceived)]
        for data in (same[0], same[1] + other)
    ]
    assert reads[0] == reads[1][:2]
    assert reads[0][1].headers is reads[1][1].headers, "decoded once"
    alone = LookingHttp2Reader(Side.CLIENT, preface_expected=True).feed(same[1] + other)
    assert reads[1] == [e for e in alone if isinstance(e, HeadersReceived)]
