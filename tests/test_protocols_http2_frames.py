"""Frame headers: what RFC 9113 forbids, and finding them in bytes of unknown phase."""

from __future__ import annotations

import random

import pytest

from pcapdiag.protocols.http2_frames import Frame, find_start, header_fault
from tests import wire_h2 as wire

LARGEST = 16_384


def find(data: bytes, *, closed: bool = True) -> tuple[int, int]:
    return find_start(data, 0, largest=LARGEST, closed=closed)


@pytest.mark.parametrize(
    "raw",
    [
        wire.data(1),
        wire.data(3, b"abc", pad=2, end_stream=True),
        wire.settings(),
        wire.settings({1: 2}),
        wire.settings(ack=True),
        wire.window_update(0, 1),
        wire.window_update(5, 1),
        wire.ping(),
        wire.goaway(1, 2, b"bye"),
        wire.reset(7, 8),
        wire.Blocks().headers(1, wire.REQUEST, priority=True, pad=1),
        wire.frame(2, 0, 1, bytes(5)),
        wire.frame(9, 4, 1, b"x"),
    ],
)
def test_every_valid_frame_is_plausible(raw: bytes) -> None:
    assert header_fault(Frame.read(raw, 0, 0)) is None
    assert find(raw * 4) == (0, 0)
    assert find(b"\xff" * 20 + raw * 4, closed=False) == (20, 0)


def test_a_header_says_where_its_frame_ends() -> None:
    frame = Frame.read(b"??" + wire.frame(1, 4, 0x8000_0003, b"abc"), 2, 100)
    assert (frame.at, frame.end, frame.name, frame.flags, frame.stream_id) == (102, 114, "HEADERS", 4, 3)


def test_a_chain_is_needed_until_the_bytes_end() -> None:
    lone = wire.ping()
    assert find(lone) == (0, 0)
    assert find(lone, closed=False) == (0, 26)
    assert find(lone + b"\xff" * 20)[1] > 0
    assert find(lone * 2 + b"\x00\x00") == (0, 0)
    assert find(lone + b"\x00\x00")[1] > 0


def test_a_longer_frame_than_any_seen_is_not_plausible() -> None:
    data = wire.data(1, bytes(LARGEST + 1)) * 4
    assert find(data)[1] > 0
    assert find_start(data, 0, largest=LARGEST + 1, closed=True) == (0, 0)


def test_a_preface_is_a_start() -> None:
    assert find(b"junk" + wire.PREFACE, closed=False) == (4, 0)


@pytest.mark.parametrize("data", [bytes(5_000), b"x" * 5_000, random.Random(3).randbytes(500_000), b"HTTP/1.1 200 OK\r\n" * 500])
def test_no_frames_where_there_are_none(data: bytes) -> None:
    assert find(data) == (len(data), 1)
