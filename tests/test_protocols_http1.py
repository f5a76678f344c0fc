"""Http1Reader: valid messages in any cuts, body framing, faults, holes, hostile bytes, and what must never be kept."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.events import (
    BodyReceived,
    BytesUnread,
    Event,
    Fault,
    FrozenMap,
    MessageEnded,
    RequestStarted,
    ResponseStarted,
    Side,
    TunnelStarted,
)
from pcapdiag.protocols.http1 import Http1Reader

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
POST = b"POST /v1/chat HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\n{}"


def chunked(*chunks: bytes, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    sized = b"".join(b"%x%s\r\n%s\r\n" % (len(c), extension, c) for c in chunks)
    return sized + b"0\r\n" + trailers + b"\r\n"


def read(
    data: bytes, side: Side = Side.SERVER, methods: list[str] | None = None, *, synced: bool = True, closed: bool = True
) -> list[Event]:
    reader = Http1Reader(side, methods, synced=synced)
    return reader.feed(data) + reader.finish(closed=closed)


def read_in_cuts(data: bytes, side: Side, cuts: set[int], *, synced: bool = True) -> list[Event]:
    reader = Http1Reader(side, synced=synced)
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    return [e for a, b in pairwise(edges) for e in reader.feed(memoryview(data)[a:b])] + reader.finish()


def faults(events: list[Event]) -> list[str]:
    return [e.what for e in events if isinstance(e, Fault)]


def starts(events: list[Event]) -> list[RequestStarted | ResponseStarted]:
    return [e for e in events if isinstance(e, RequestStarted | ResponseStarted)]


def bodies(side: Side) -> st.SearchStrategy[tuple[bytes, bytes]]:
    """Header fields that frame a body, and the body."""
    payload = st.binary(max_size=40)
    return st.one_of(
        payload.map(lambda body: (b"Content-Length: %d\r\n" % len(body), body)),
        st.builds(
            lambda chunks, trailers, extension: (
                b"Transfer-Encoding: chunked\r\n",
                chunked(*chunks, trailers=trailers, extension=extension),
            ),
            st.lists(st.binary(min_size=1, max_size=30), max_size=4),
            st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: b\r\nC: d\r\n"]),
            st.sampled_from([b"", b";name=value", b' ; q="x"']),
        ),
        st.just((b"", b"") if side is Side.CLIENT else (b"Content-Length: 0\r\n", b"")),
    )


def messages(side: Side) -> st.SearchStrategy[bytes]:
    if side is Side.CLIENT:
        lines = st.sampled_from([b"GET / HTTP/1.1", b"POST /a?b=c HTTP/1.1", b"PUT http://h/x HTTP/1.0", b"OPTIONS * HTTP/1.1"])
    else:
        lines = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 404", b"HTTP/1.1 529 Busy now", b"HTTP/1.1 503 "])
    extra = st.sampled_from([b"", b"Server: x\r\n", b"Via: a\r\n b\r\n", b"X-Fold: 1\r\n\t2\r\n", b"Retry-After:3\r\n"])
    wire = st.builds(lambda line, field, body: line + b"\r\n" + field + body[0] + b"\r\n" + body[1], lines, extra, bodies(side))
    bare = wire.map(lambda raw: raw.replace(b"\r\n", b"\n") if b"chunked" not in raw and raw.count(b"\r") < 5 else raw)
    return wire | bare | wire.map(lambda raw: b"\r\n" + raw)


@pytest.mark.parametrize("side", Side)
@given(data=st.data(), cuts=st.sets(st.integers(0, 700), max_size=12))
def test_cuts_do_not_change_events(side: Side, data: st.DataObject, cuts: set[int]) -> None:
    stream = b"".join(data.draw(st.lists(messages(side), min_size=1, max_size=4)))
    whole = read(stream, side)
    assert read_in_cuts(stream, side, cuts) == whole
    assert read_in_cuts(stream, side, set(range(len(stream)))) == whole


@pytest.mark.parametrize("side", Side)
@given(data=st.data(), begin=st.integers(0, 90), cuts=st.sets(st.integers(0, 700), max_size=12))
def test_cuts_do_not_change_a_start_in_the_middle(side: Side, data: st.DataObject, begin: int, cuts: set[int]) -> None:
    stream = b"".join(data.draw(st.lists(messages(side), min_size=1, max_size=4)))[begin:]
    assert read_in_cuts(stream, side, cuts, synced=False) == read(stream, side, synced=False)


@pytest.mark.parametrize("side", Side)
@given(data=st.data())
def test_every_valid_message_starts_and_ends_without_a_fault(side: Side, data: st.DataObject) -> None:
    parts = data.draw(st.lists(messages(side), min_size=1, max_size=4))
    events = read(b"".join(parts), side)
    assert faults(events) == []
    assert len(starts(events)) == len(parts)
    assert len([e for e in events if isinstance(e, MessageEnded)]) == len(parts)


@pytest.mark.parametrize("side", Side)
@given(data=st.data(), synced=st.booleans())
def test_cuts_around_holes_and_damage_do_not_change_events(side: Side, data: st.DataObject, synced: bool) -> None:
    stream = bytearray(b"".join(data.draw(st.lists(messages(side), min_size=1, max_size=4))))
    for at in data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=2)):
        stream[at : at + 3] = data.draw(st.sampled_from([b"", b"\r", b"\n", b"\x00", b"HTTP/1.1", b"0\r\n"]))
    edges = sorted({0, len(stream), *data.draw(st.sets(st.integers(0, len(stream)), max_size=5))})
    whole, cut = Http1Reader(side, synced=synced), Http1Reader(side, synced=synced)
    seen, seen_cut = list[Event](), list[Event]()
    for number, (a, b) in enumerate(pairwise(edges)):
        if number % 2:
            seen += whole.skip(b - a)
            seen_cut += cut.skip(b - a)
        else:
            seen += whole.feed(bytes(stream[a:b]))
            seen_cut += [e for at in range(a, b) for e in cut.feed(bytes(stream[at : at + 1]))]
    assert seen_cut + cut.finish() == seen + whole.finish()


def test_a_request_and_a_response_say_where_their_parts_lie() -> None:
    head = POST.index(b"{")
    assert read(POST, Side.CLIENT) == [
        RequestStarted(0, head, "POST", "/v1/chat", "1.1", FrozenMap({"host": "api", "content-length": "2"})),
        BodyReceived(head, head + 2),
        MessageEnded(head + 2, head + 2),
    ]
    assert read(OK) == [
        ResponseStarted(0, 38, 200, "1.1", FrozenMap({"content-length": "5"})),
        BodyReceived(38, 43),
        MessageEnded(43, 43),
    ]


def test_each_chunk_is_one_event_without_its_framing() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    stream = head + chunked(b"abc", b"defg", trailers=b"X-T: 1\r\n")
    pieces = [stream[e.at : e.end] for e in read(stream) if isinstance(e, BodyReceived)]
    assert pieces == [b"abc", b"defg"]
    assert read(stream)[-1] == MessageEnded(len(stream), len(stream))


@pytest.mark.parametrize(
    ("fields", "method", "status", "body_len"),
    [
        (b"Content-Length: 9\r\n", "HEAD", b"200", 0),
        (b"Content-Length: 9\r\n", "GET", b"304", 0),
        (b"Content-Length: 9\r\n", "GET", b"204", 0),
        (b"Content-Length: 2\r\n", "GET", b"200", 2),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n", "GET", b"200", 2),
        (b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n", "GET", b"200", 3),
        (b"Transfer-Encoding: Chunked\r\n", "GET", b"200", 3),
        (b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n", "GET", b"200", 3),
        (b"Content-Length: 2\r\n", "CONNECT", b"407", 2),
    ],
)
def test_the_length_of_a_response_body(fields: bytes, method: str, status: bytes, body_len: int) -> None:
    body = b"3\r\nabc\r\n0\r\n\r\n" if b"hunked" in fields else b"x" * body_len
    events = read(b"HTTP/1.1 %s X\r\n%s\r\n%s" % (status, fields, body) + OK, methods=[method, "GET"])
    assert faults(events) == []
    assert [e.end - e.at for e in events if isinstance(e, BodyReceived)] == ([body_len] if body_len else []) + [5]


def test_methods_may_come_while_responses_are_read() -> None:
    methods: list[str] = []
    reader = Http1Reader(Side.SERVER, methods)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    methods.append("HEAD")
    events = reader.feed(head)
    methods.append("GET")
    events += reader.feed(OK) + reader.finish()
    assert faults(events) == []
    assert len([e for e in events if isinstance(e, BodyReceived)]) == 1


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    stream = b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
    assert read(stream)[1:] == [BodyReceived(19, 32), MessageEnded(32, 32)]
    assert read(stream, closed=False)[1:] == [BodyReceived(19, 32)]


def test_interim_responses_have_no_end_of_their_own() -> None:
    events = read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, methods=["POST"])
    assert [e.status for e in starts(events) if isinstance(e, ResponseStarted)] == [100, 103, 200]
    assert len([e for e in events if isinstance(e, MessageEnded)]) == 1


def test_an_upgrade_and_a_tunnel_make_the_rest_opaque() -> None:
    upgraded = read(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi")
    assert upgraded[1:] == [TunnelStarted(56, 56), BodyReceived(56, 60)]
    connected = read(b"HTTP/1.1 200 Connection established\r\n\r\n\x16\x03\x01", methods=["CONNECT"])
    assert connected[1:] == [TunnelStarted(39, 39), BodyReceived(39, 42)]


@pytest.mark.parametrize("opaque", [b"\x16\x03\x01\x02\x00\x01\n\x00", b"\x81\x02hi", b"\n", b"x" * 100_000])
def test_the_client_side_of_a_tunnel_is_told_by_what_follows(opaque: bytes) -> None:
    connect = b"CONNECT api:443 HTTP/1.1\r\nHost: api:443\r\n\r\n"
    events = read(connect + opaque, Side.CLIENT)
    assert faults(events) == []
    assert [type(e) for e in events[2:]] == ([] if opaque == b"\n" else [TunnelStarted, BodyReceived])
    again = read(connect + connect + opaque, Side.CLIENT)
    assert len(starts(again)) == 2


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "content-length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", "content-length is no number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", "content-length is no number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no chunk size where a chunk should start"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", "chunk longer than its size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n", "chunk of an impossible size"),
        (b"not http\r\n", "no start line where a message should start"),
        (b"HTTP/1.1 200 OK\r\nbroken line\r\nContent-Length: 0\r\n\r\n", "header section with a line that is no field"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", "header section too long to be read"),
    ],
)
def test_a_fault_is_an_event_and_later_messages_are_found(bad: bytes, what: str) -> None:
    for cuts in (set(), set(range(0, len(bad), 7))):
        events = read_in_cuts(bad + OK, Side.SERVER, cuts)
        assert faults(events) == [what]
        assert events[-3:] == [
            ResponseStarted(len(bad), len(bad) + 38, 200, "1.1", FrozenMap({"content-length": "5"})),
            BodyReceived(len(bad) + 38, len(bad) + 43),
            MessageEnded(len(bad) + 43, len(bad) + 43),
        ]


def test_a_request_whose_transfer_coding_is_not_chunked_is_a_fault() -> None:
    events = read(b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nzzzz" + POST, Side.CLIENT)
    assert faults(events) == ["transfer coding of a request does not end in chunked"]
    assert [e.target for e in starts(events) if isinstance(e, RequestStarted)] == ["/", "/v1/chat"]


def test_a_start_in_the_middle_of_a_body_finds_the_next_message() -> None:
    events = read(b'le HTTP/1.1 text"}' + OK, synced=False)
    assert events[0] == BytesUnread(0, 18)
    assert [e.at for e in starts(events)] == [18]
    events = read(b'POST /not HTTP/1.1 a message"}' + POST, Side.CLIENT, synced=False)
    assert [e.at for e in starts(events)] == [30]


def test_a_hole_in_a_body_is_counted() -> None:
    stream = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5_000 + OK
    reader = Http1Reader(Side.SERVER)
    events = reader.feed(stream[:100]) + reader.skip(4_000) + reader.feed(stream[4_100:]) + reader.finish()
    assert events == read(stream)


def test_a_hole_over_the_end_of_a_body_ends_it_and_loses_only_what_follows() -> None:
    stream = OK + OK + OK
    reader = Http1Reader(Side.SERVER)
    events = reader.feed(stream[:40]) + reader.skip(10) + reader.feed(stream[50:]) + reader.finish()
    assert events[1:3] == [BodyReceived(38, 43), MessageEnded(43, 43)]
    assert [e.at for e in starts(events)] == [0, 86]
    assert faults(events) == ["bytes missing where a message starts"]


def test_a_hole_over_chunk_framing_takes_up_at_a_later_chunk() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream = head + chunked(*(b'data: {"n": %d}\n\n' % n for n in range(100, 120))) + OK
    for hole in range(len(head), len(head) + 40):
        reader = Http1Reader(Side.SERVER)
        events = reader.feed(stream[:hole]) + reader.skip(60) + reader.feed(stream[hole + 60 :]) + reader.finish()
        assert len([e for e in events if isinstance(e, BodyReceived)]) >= 15
        assert len(starts(events)) == 2
        assert len([e for e in events if isinstance(e, MessageEnded)]) == 2


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("length", [1, 7, 60])
@pytest.mark.parametrize("synced", [True, False])
def test_a_hole_at_every_position_of_an_exchange(side: Side, length: int, *, synced: bool) -> None:
    line = b"POST /a HTTP/1.1" if side is Side.CLIENT else b"HTTP/1.1 200 OK"
    first = line + b"\r\nContent-Length: 4\r\nServer: x\r\n\r\nabcd"
    second = line + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", b"world" * 9, trailers=b"A: b\r\n")
    later = line + b"\r\nVia: later\r\nContent-Length: 3\r\n\r\nxyz"
    stream = first + second
    for position in range(len(stream) - length):
        reader = Http1Reader(side, synced=synced)
        events = reader.feed(stream[:position]) + reader.skip(length)
        events += reader.feed(stream[position + length :] + later) + reader.finish()
        last = starts(events)[-1]
        assert (last.at, last.headers["via"]) == (len(stream), "later")
        assert events[-1] == MessageEnded(len(stream) + len(later), len(stream) + len(later))


@given(st.binary(max_size=300) | st.text("HTP/1. 20GE\r\n:a", max_size=300).map(str.encode), st.sampled_from(Side), st.booleans())
def test_any_bytes_never_raise(data: bytes, side: Side, synced: bool) -> None:
    reader = Http1Reader(side, ["CONNECT"], synced=synced)
    events = reader.feed(data) + reader.skip(3) + reader.feed(data) + reader.finish(closed=False)
    assert all(0 <= e.at <= e.end <= 2 * len(data) + 3 for e in events if not isinstance(e, Fault))


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (OK[:20], "stream ends inside a header section"),
        (OK[:40], "stream ends inside a body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "stream ends inside a body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "stream ends inside a body"),
    ],
)
def test_the_end_inside_a_message_is_a_fault_only_when_the_stream_was_closed(stream: bytes, what: str) -> None:
    assert faults(read(stream)) == [what]
    assert faults(read(stream, closed=False)) == []


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    "data",
    [
        OK[:17] + b"X: " + b"a" * (10 << 20),
        bytes(4 << 20),
        random.Random(1).randbytes(4 << 20),
        b"GET / HTTP/1.1\nA:" * 100_000,
        b"\r\n" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n" + b"\r\n3ffff\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100_000,
    ],
    ids=["endless-field", "zeros", "random", "starts-everywhere", "blank-lines", "chunks-everywhere", "tiny-chunks"],
)
@pytest.mark.parametrize("piece", [1 << 24, 1_460])
def test_hostile_streams_are_read_in_linear_time(side: Side, data: bytes, piece: int) -> None:
    began = time.perf_counter()
    reader = Http1Reader(side)
    for at in range(0, len(data), piece):
        reader.feed(data[at : at + piece])
    reader.finish()
    assert time.perf_counter() - began < 8


SECRETS = ["hunter2", "sk-live", "c00kie", "topsecret", "private words"]


def test_secrets_reach_no_event() -> None:
    request = (
        b"POST /v1/chat?key=sk-live#hunter2 HTTP/1.1\r\nHost: me:hunter2@api.test\r\nAuthorization: Bearer sk-live\r\n"
        b"X-Api-Key: sk-live\r\nCookie: c00kie\r\nIdempotency-Key: topsecret\r\nReferer: http://x/?k=topsecret\r\n"
        b"Content-Length: 13\r\n\r\nprivate words"
        b"GET http://me:hunter2@api.test/p;session=topsecret?token=sk-live HTTP/1.1\r\n\r\n"
    )
    response = (
        b"HTTP/1.1 302 private words\r\nSet-Cookie: c00kie\r\nLocation: https://me:hunter2@api.test/n?t=sk-live\r\n"
        b"Content-Length: 13\r\n\r\nprivate words"
    )
    events = [*read(request, Side.CLIENT), *read(response)]
    assert faults(events) == []
    assert not [secret for secret in SECRETS if secret in repr(events)]
    targets = [e.target for e in events if isinstance(e, RequestStarted)]
    assert targets == ["/v1/chat", "http://api.test/p"]
    assert [dict(e.headers) for e in starts(events)][::2] == [
        {"host": "api.test", "idempotency-key": "present", "content-length": "13"},
        {"location": "https://api.test/n", "content-length": "13"},
    ]
