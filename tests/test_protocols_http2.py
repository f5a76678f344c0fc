"""Http2Reader: valid frames in any cuts, faults, holes, hostile bytes, and what must never be kept."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.events import (
    BytesUnread,
    DataReceived,
    Event,
    Fault,
    FrozenMap,
    GoawayReceived,
    HeadersReceived,
    PingReceived,
    PrefaceReceived,
    PriorityReceived,
    SettingsReceived,
    Side,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from pcapdiag.protocols.http2 import Http2Reader
from tests import wire_h2 as wire


def read(data: bytes, *, start: bool = True, side: Side = Side.CLIENT) -> list[Event]:
    reader = Http2Reader(side, preface_expected=start)
    return reader.feed(data) + reader.finish()


def read_in_cuts(data: bytes, cuts: set[int], *, start: bool = True) -> list[Event]:
    reader = Http2Reader(Side.CLIENT, preface_expected=start)
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    return [e for a, b in pairwise(edges) for e in reader.feed(memoryview(data)[a:b])] + reader.finish()


def faults(events: list[Event]) -> list[str]:
    return [e.what for e in events if isinstance(e, Fault)]


def of(kind: type[Event], events: list[Event]) -> list[Event]:
    return [e for e in events if isinstance(e, kind)]


@given(st.lists(wire.makers(), min_size=1, max_size=8), st.sets(st.integers(0, 600), max_size=12))
def test_cuts_do_not_change_events(parts: list[wire.Maker], cuts: set[int]) -> None:
    data = wire.connection(parts)
    whole = read(data)
    assert faults(whole) == []
    assert read_in_cuts(data, cuts) == whole
    assert read_in_cuts(data, set(range(len(data)))) == whole


@given(st.lists(wire.makers(), min_size=1, max_size=8), st.integers(0, 80), st.sets(st.integers(0, 600), max_size=12))
def test_cuts_do_not_change_a_start_in_the_middle(parts: list[wire.Maker], begin: int, cuts: set[int]) -> None:
    data = wire.connection(parts)[begin:]
    assert read_in_cuts(data, cuts, start=False) == read(data, start=False)


@given(st.lists(wire.makers(), min_size=1, max_size=6))
def test_events_lie_behind_each_other_and_cover_every_byte(parts: list[wire.Maker]) -> None:
    data = wire.connection(parts)
    at = 0
    for event in read(data):
        assert event.at == at
        at = event.end
    assert at == len(data)


def test_every_frame_type_says_what_it_said() -> None:
    blocks = wire.Blocks()
    parts = [
        wire.PREFACE,
        wire.settings({3: 100, 4: 1_048_576}),
        wire.settings(ack=True),
        blocks.headers(1, wire.REQUEST, cuts=(5, 9), pad=3, priority=True),
        wire.data(1, b"hello", end_stream=True, pad=4),
        wire.frame(2, 0, 1, bytes(5)),
        wire.reset(3, 8),
        wire.ping(b"abcdefgh", ack=True),
        wire.goaway(1, 11, b"too_many_pings\x1b\xff"),
        wire.window_update(0, 70_000),
        wire.frame(0x10, 0, 0, b"1u=3"),
    ]
    edges = [0]
    for part in parts:
        edges.append(edges[-1] + len(part))
    spans = list(pairwise(edges))
    headers = FrozenMap(
        {":method": "POST", ":scheme": "http", ":path": "/agent.Tools/Call", ":authority": "tools:50051"},
    )
    data_at = spans[4][0]
    assert read(b"".join(parts)) == [
        PrefaceReceived(*spans[0]),
        SettingsReceived(*spans[1], FrozenMap({3: 100, 4: 1_048_576}), ack=False),
        SettingsReceived(*spans[2], FrozenMap(), ack=True),
        HeadersReceived(*spans[3], 1, headers, 0, end_stream=False, promised_stream_id=None),
        DataReceived(*spans[4], 1, data_at + 10, data_at + 15, end_stream=True),
        PriorityReceived(*spans[5], 1),
        StreamReset(*spans[6], 3, 8),
        PingReceived(*spans[7], ack=True, opaque=b"abcdefgh"),
        GoawayReceived(*spans[8], 1, 11, "too_many_pings??"),
        WindowUpdated(*spans[9], 0, 70_000),
        UnknownFrameReceived(*spans[10], 0x10, 0),
    ]


def test_padding_counts_against_the_window() -> None:
    event = of(DataReceived, read(wire.PREFACE + wire.settings() + wire.data(1, b"abc", pad=6)))[0]
    assert isinstance(event, DataReceived)
    assert (event.flow_len, event.payload_end - event.payload_at) == (10, 3)


def test_a_push_promise_names_the_promised_stream() -> None:
    promise = wire.Blocks().headers(1, wire.REQUEST, promised_id=2, pad=2)
    event = of(HeadersReceived, read(wire.settings() + promise, side=Side.SERVER))[0]
    assert isinstance(event, HeadersReceived)
    assert (event.stream_id, event.promised_stream_id, event.end_stream) == (1, 2, False)
    assert event.headers is not None
    assert event.headers[":path"] == "/agent.Tools/Call"


def test_offsets_begin_where_the_reader_is_told() -> None:
    reader = Http2Reader(Side.SERVER, preface_expected=True, at=1_000)
    assert [(e.at, e.end) for e in reader.feed(wire.settings())] == [(1_000, 1_009)]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (wire.frame(0, 0, 0, b"x"), "DATA frame without a stream"),
        (wire.frame(4, 0, 1, bytes(6)), "SETTINGS frame on a stream"),
        (wire.frame(4, 0, 0, bytes(5)), "SETTINGS frame of an impossible length"),
        (wire.frame(8, 0, 1, bytes(3)), "WINDOW_UPDATE frame of an impossible length"),
        (wire.frame(6, 0, 0, bytes(9)), "PING frame of an impossible length"),
        (wire.frame(7, 0, 0, bytes(7)), "GOAWAY frame of an impossible length"),
        (wire.frame(3, 0, 0, bytes(4)), "RST_STREAM frame without a stream"),
        (wire.frame(0, 8, 1, b"\x05abcd"), "padding longer than its DATA frame"),
        (wire.frame(0, 8, 1), "padding longer than its DATA frame"),
        (wire.frame(1, 12, 1, b"\x05\x82"), "padding longer than its HEADERS frame"),
        (wire.frame(1, 0x2C, 1, b"\x00ab"), "padding longer than its HEADERS frame"),
        (wire.frame(9, 4, 1, b"\x82"), "CONTINUATION frame without a header block"),
        (wire.frame(1, 4, 1, b"\x40\x7f"), "a header block ends inside a field"),
        (wire.frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff"), "an integer of a header block does not fit into 32 bits"),
        (wire.frame(1, 4, 1, b"\xbe"), "a header block refers to an entry its table never had"),
        (wire.frame(1, 4, 1, b"\x80"), "a header block refers to an entry its table never had"),
        (wire.frame(1, 4, 1, b"\x00\x81\x00\x01a"), "invalid Huffman code in a header block"),
        (wire.frame(1, 0, 1, b"\x82") + wire.ping(), "header block interrupted by another frame"),
        (wire.frame(4, 0, 0, bytes(6 * 20_000)), "SETTINGS frame too long to be read"),
    ],
)
def test_a_fault_is_an_event_and_reading_goes_on(bad: bytes, what: str) -> None:
    events = read(wire.PREFACE + wire.settings() + bad + wire.window_update(1, 7))
    assert faults(events) == [what]
    assert isinstance(events[-1], WindowUpdated)


def test_a_block_that_cannot_be_decoded_still_tells_its_stream() -> None:
    events = read(wire.PREFACE + wire.settings() + wire.frame(1, 5, 7, b"\xbe"))
    assert isinstance(events[-1], HeadersReceived)
    assert (events[-1].stream_id, events[-1].headers, events[-1].end_stream) == (7, None, True)


def test_a_table_larger_than_the_peer_allows_is_a_fault_once_the_limit_is_known() -> None:
    grow = wire.frame(1, 5, 1, b"\x3f\xe1\x7f\x82")  # to 16,352 bytes
    reader = Http2Reader(Side.CLIENT, preface_expected=True)
    assert faults(reader.feed(wire.PREFACE + wire.settings() + grow)) == []
    reader.set_header_table_size(4_096)
    assert faults(reader.feed(grow)) == ["a header block asks for a larger table than its peer allows"]
    reader.set_header_table_size(65_536)
    assert faults(reader.feed(grow)) == []


def test_after_a_start_in_the_middle_static_and_new_fields_are_known() -> None:
    blocks = wire.Blocks()
    blocks.headers(1, wire.REQUEST)  # not captured: its fields are in the table from now on
    events = read(
        wire.window_update(0, 9)
        + blocks.headers(3, wire.REQUEST)
        + blocks.headers(5, [*wire.REQUEST, ("grpc-timeout", "3S")])
        + blocks.headers(7, [*wire.REQUEST, ("grpc-timeout", "3S")])
        + wire.settings(ack=True),
        start=False,
    )
    assert faults(events) == []
    first, second, third = (e for e in events if isinstance(e, HeadersReceived))
    assert first.headers == FrozenMap({":method": "POST", ":scheme": "http"})
    assert first.unknown_count == 2
    for event in (second, third):
        assert event.headers is not None
        assert event.headers["grpc-timeout"] == "3S"
        assert event.unknown_count == 2


def test_a_table_emptied_by_its_sender_is_known_again() -> None:
    events = read(wire.window_update(0, 1) + wire.frame(1, 5, 1, b"\x20\x3f\xe1\x1f\xbe") + wire.settings() * 3, start=False)
    assert faults(events) == ["a header block refers to an entry its table never had"]


def test_a_start_in_the_middle_of_a_frame_finds_the_next() -> None:
    data = wire.data(1, bytes(range(200))) + wire.ping() * 4
    events = read(data[50:], start=False)
    assert events[0] == BytesUnread(0, 159)
    assert len(of(PingReceived, events)) == 4


def test_a_frame_longer_than_the_default_is_found_after_a_hole_once_one_was_seen() -> None:
    big = wire.data(1, b"\xaa" * 60_000)
    reader = Http2Reader(Side.SERVER, preface_expected=True)
    events = reader.feed(wire.settings() + big) + reader.skip(100) + reader.feed(b"\xaa" * 500 + big * 4) + reader.finish()
    assert len(of(DataReceived, events)) == 5


def test_a_hole_inside_data_is_counted_and_costs_nothing() -> None:
    reader = Http2Reader(Side.SERVER, preface_expected=True)
    start = wire.settings() + wire.data(1, bytes(5_000))
    events = reader.feed(start[:1_000]) + reader.skip(3_000) + reader.feed(start[4_000:] + wire.ping()) + reader.finish()
    assert events == read(start + wire.ping(), side=Side.SERVER)


def test_a_hole_inside_a_header_block_keeps_the_frames_in_step() -> None:
    blocks = wire.Blocks()
    data = wire.PREFACE + wire.settings() + blocks.headers(1, wire.REQUEST, end_stream=True)
    reader = Http2Reader(Side.CLIENT, preface_expected=True)
    events = reader.feed(data[:-10]) + reader.skip(10) + reader.feed(blocks.headers(3, wire.REQUEST)) + reader.finish()
    first, second = (e for e in events if isinstance(e, HeadersReceived))
    assert (first.headers, first.end_stream, first.end) == (None, True, len(data))
    assert (second.stream_id, second.unknown_count) == (3, 2)
    assert faults(events) == ["bytes missing in a HEADERS frame"]


@pytest.mark.parametrize("length", [1, 9, 20, 100])
@pytest.mark.parametrize("start", [True, False])
def test_a_hole_at_every_position_of_an_exchange(length: int, *, start: bool) -> None:
    blocks = wire.Blocks()
    exchange = wire.PREFACE + wire.settings({4: 1}) + blocks.headers(1, wire.REQUEST, cuts=(9,)) + wire.data(1, b"abcde" * 9, pad=3)
    later = wire.data(3, b"later" * 10) + wire.window_update(3, 99) + wire.ping(b"laterlat") + wire.reset(3, 8) + wire.settings(ack=True)
    for position in range(len(exchange) - length):
        reader = Http2Reader(Side.CLIENT, preface_expected=start)
        events = reader.feed(exchange[:position]) + reader.skip(length)
        events += reader.feed(exchange[position + length :] + later) + reader.finish()
        assert PingReceived(len(exchange) + 59 + 13, len(exchange) + 59 + 30, ack=False, opaque=b"laterlat") in events
        assert StreamReset(len(exchange) + 59 + 30, len(exchange) + 59 + 43, 3, 8) in events


@given(st.lists(wire.makers(), min_size=1, max_size=6), st.data(), st.booleans())
def test_cuts_around_holes_and_damage_do_not_change_events(parts: list[wire.Maker], draw: st.DataObject, start: bool) -> None:
    data = bytearray(wire.connection(parts))
    for at in draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=2)):
        data[at : at + 2] = draw.draw(st.binary(max_size=3))
    edges = sorted({0, len(data), *draw.draw(st.sets(st.integers(0, len(data)), max_size=5))})
    whole, cut = (Http2Reader(Side.CLIENT, preface_expected=start) for _ in range(2))
    seen, seen_cut = list[Event](), list[Event]()
    for number, (a, b) in enumerate(pairwise(edges)):
        if number % 2:
            seen += whole.skip(b - a)
            seen_cut += cut.skip(b - a)
        else:
            seen += whole.feed(bytes(data[a:b]))
            seen_cut += [e for at in range(a, b) for e in cut.feed(bytes(data[at : at + 1]))]
    assert seen_cut + cut.finish() == seen + whole.finish()
    assert all(0 <= e.at <= e.end <= len(data) for e in seen)
    ends = [e.end for e in seen if not isinstance(e, Fault)]
    assert ends == sorted(ends)


@given(st.binary(max_size=400), st.booleans(), st.sampled_from(Side))
def test_random_bytes_never_raise(data: bytes, start: bool, side: Side) -> None:
    reader = Http2Reader(side, preface_expected=start)
    reader.feed(data)
    reader.skip(3)
    reader.feed(data)
    reader.finish(closed=False)


def test_the_end_inside_a_frame_is_a_fault_only_when_the_stream_was_closed() -> None:
    data = wire.settings() + wire.data(1, bytes(100), end_stream=True)[:50]
    for closed in (True, False):
        reader = Http2Reader(Side.SERVER, preface_expected=True)
        events = reader.feed(data) + reader.finish(closed=closed)
        assert DataReceived(9, 59, 1, 18, 59, end_stream=False) in events
        assert faults(events) == (["stream ends inside a frame"] if closed else [])


def test_a_stream_without_its_preface_is_searched_for_frames() -> None:
    events = read(wire.ping() * 5)
    assert faults(events) == ["connection does not begin with its preface"]
    assert len(of(PingReceived, events)) == 5


def test_another_protocol_yields_nothing() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" * 50
    events = read(text, side=Side.SERVER)
    assert [type(e) for e in events] == [Fault, BytesUnread]


@pytest.mark.parametrize(
    "data",
    [
        bytes(3 << 20),
        random.Random(1).randbytes(3 << 20),
        wire.settings() + b"\x00\x00\x00\x09\x00\x00\x00\x00\x01" * 100_000,
        wire.settings() + wire.frame(1, 0, 1, b"") + wire.frame(9, 0, 1, b"") * 100_000,
        wire.settings() + wire.frame(1, 0, 1, b"") + wire.frame(9, 0, 1, b"\x82" * 16_000) * 100,
        b"\x00\x40\x00\x00\x00\x00\x00\x00\x01" * 100_000,
    ],
    ids=["zeros", "random", "continuations-alone", "empty-continuations", "endless-block", "frames-everywhere"],
)
@pytest.mark.parametrize("piece", [1 << 22, 1_460])
def test_hostile_streams_are_read_in_linear_time_and_bounded_memory(data: bytes, piece: int) -> None:
    began = time.perf_counter()
    for start in (True, False):
        reader = Http2Reader(Side.SERVER, preface_expected=start)
        for at in range(0, len(data), piece):
            reader.feed(data[at : at + piece])
        reader.finish()
    assert time.perf_counter() - began < 8


def test_a_header_bomb_stays_small() -> None:
    table = b"\x40\x04host\x7f\x80\x1f" + b"a" * 4_095  # one entry that is almost the table
    bomb = table[:9] + b"a" * (127 + 0xF80) + b"\xbe" * 16_000
    events = read(wire.PREFACE + wire.settings() + b"".join(wire.frame(1, 5, 2 * n + 1, bomb) for n in range(20)))
    assert max(len(repr(e)) for e in events) < 2_000


SECRETS = ["hunter2", "sk-live", "c00kie", "topsecret", "private words"]


@pytest.mark.parametrize("huffman", [True, False])
def test_secrets_reach_no_event(*, huffman: bool) -> None:
    fields = [
        *wire.REQUEST[:2],
        (":path", "/v1/chat?key=sk-live#hunter2"),
        (":authority", "me:hunter2@api.test"),
        ("authorization", "Bearer sk-live"),
        ("x-api-key", "sk-live"),
        ("cookie", "c00kie"),
        ("grpc-message", "private words"),
        ("idempotency-key", "topsecret"),
        ("location", "https://me:hunter2@api.test/next?token=topsecret"),
    ]
    blocks = wire.Blocks()
    data = b"".join(blocks.headers(n, fields, huffman=huffman) + wire.data(n, b"private words") for n in (1, 3))
    events = read(wire.PREFACE + wire.settings() + data)
    assert faults(events) == []
    seen = repr(events)
    assert not [secret for secret in SECRETS if secret in seen]
    for event in of(HeadersReceived, events):
        assert isinstance(event, HeadersReceived)
        assert event.headers is not None
        assert event.headers[":path"] == "/v1/chat"
        assert event.headers[":authority"] == "api.test"
        assert event.headers["location"] == "https://api.test/next"
        assert event.headers["idempotency-key"] == "present"
