"""GrpcMessageReader and grpc-timeout."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.events import Event, Fault, GrpcMessageReceived
from pcapdiag.protocols.grpc import GrpcMessageReader, parse_timeout


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(payload).to_bytes(4, "big") + payload


@given(st.lists(st.builds(lambda p, c: message(p, compressed=c), st.binary(max_size=30), st.booleans())), st.sets(st.integers(0, 200)))
def test_cuts_do_not_change_events(parts: list[bytes], cuts: set[int]) -> None:
    data = b"".join(parts)
    edges = [0]
    for part in parts:
        edges.append(edges[-1] + len(part))
    expected: list[Event] = [
        GrpcMessageReceived(a, b, b - a - 5, part[0] == 1) for (a, b), part in zip(pairwise(edges), parts, strict=True)
    ]
    for wanted in (cuts, set(range(len(data))), set[int]()):
        reader, at = GrpcMessageReader(), sorted({0, len(data), *(c for c in wanted if c < len(data))})
        events = [e for a, b in pairwise(at) for e in reader.feed(memoryview(data)[a:b], a)] + reader.finish()
        assert events == expected


def test_offsets_follow_the_frames() -> None:
    data, reader = message(b"x" * 20), GrpcMessageReader()
    events = reader.feed(data[:3], 9) + reader.feed(data[3:10], 30) + reader.feed(data[10:], 50)
    assert events == [GrpcMessageReceived(9, 65, 20, compressed=False)]


def test_a_hole_inside_a_message_is_counted() -> None:
    data, reader = message(b"x" * 100), GrpcMessageReader()
    events = reader.feed(data[:10], 0) + reader.skip(10, 60) + reader.feed(data[70:], 70) + reader.finish()
    assert events == [GrpcMessageReceived(0, 105, 100, compressed=False)]


def test_a_hole_over_the_end_of_a_message_ends_it() -> None:
    reader = GrpcMessageReader()
    events = reader.feed(message(b"x" * 20)[:10], 0) + reader.skip(10, 20)
    assert events == [GrpcMessageReceived(0, 25, 20, compressed=False), Fault(10, 30, "bytes missing where a gRPC message starts")]


def test_a_hole_at_every_position_never_raises_and_a_later_frame_is_found() -> None:
    data, later = message(b"abcdef") + message(b"ghijkl", compressed=True), message(b"later")
    for position in range(len(data)):
        reader = GrpcMessageReader()
        events = reader.feed(data[:position], 0) + reader.skip(position, 1) + reader.feed(data[position + 1 :], position + 1)
        events += reader.skip(22, 3) + reader.feed(later, 25) + reader.finish()
        assert events[-1] == GrpcMessageReceived(25, 35, 5, compressed=False)


def test_what_is_no_message_is_a_fault_and_the_rest_is_left() -> None:
    reader = GrpcMessageReader()
    events = reader.feed(b"<html>no gRPC</html>", 7) + reader.feed(b"\xff" * 50, 27) + reader.finish()
    assert events == [Fault(7, 12, "no gRPC message where one should start")]


def test_an_end_inside_a_message_is_a_fault() -> None:
    reader = GrpcMessageReader()
    assert reader.feed(message(b"x" * 20)[:-1], 0) == []
    assert reader.finish() == [Fault(0, 24, "stream ends inside a gRPC message")]


@given(st.binary(max_size=200), st.integers(1, 9))
def test_any_bytes_never_raise(data: bytes, hole: int) -> None:
    reader = GrpcMessageReader()
    reader.feed(data, 0)
    reader.skip(len(data), hole)
    reader.feed(data, len(data) + hole)
    reader.finish()


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1500m", 1_500_000_000),
        ("1H", 3_600_000_000_000),
        ("2M", 120_000_000_000),
        ("20S", 20_000_000_000),
        ("7u", 7_000),
        ("99999999n", 99_999_999),
        ("0S", 0),
        ("999999999n", None),
        ("S", None),
        ("1.5S", None),
        ("-1S", None),
        ("1s", None),
        ("\u0661S", None),
        ("1S\n", None),
        ("", None),
    ],
)
def test_timeouts(text: str, ns: int | None) -> None:
    assert parse_timeout(text) == ns
