"""Frames that prove something, as Wireshark numbers them."""

from __future__ import annotations

from pcapdiag.stalls.evidence import frame_of, frames_of, frames_of_packets, mark, marked
from tests.wire import START_NS, Wire


def test_a_segment_becomes_the_frame_wireshark_shows() -> None:
    trace = Wire().handshake().send(10).trace()
    frame = frame_of(trace, 0, "the SYN")
    assert (frame.capture, frame.number, frame.note) == (0, 1, "the SYN")
    assert 0 <= frame.ts_ns - START_NS < 1_000_000


def test_what_was_not_seen_is_left_out() -> None:
    trace = Wire().handshake().send(10).trace()
    assert [frame.number for frame in frames_of(trace, ((0, "a"), (-1, "never seen"), (2, "b")))] == [1, 3]


def test_a_mark_takes_no_time_from_anybody() -> None:
    trace = Wire().handshake().send(10).trace()
    sign = mark("capture-loss", frames_of_packets(trace, (2, 1), "here"))
    assert sign.start_ns == sign.end_ns
    assert [frame.number for frame in marked([sign, sign], 0)] == [2, 3]
    assert marked([sign], 1) == ()
