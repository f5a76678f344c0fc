"""When a window was shut, packet by packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.flows.window import shut_windows, window_shift
from tests.wire import Wire

if TYPE_CHECKING:
    from pcapdiag.trace import Trace

DOWN = 1
"""fd of the server's data."""


def shut(wire: Wire) -> tuple[Trace, list[list[int]]]:
    """The frame numbers of each time: first, opened, resumed, then zeros and probes."""
    trace = wire.trace()
    numbers = [
        [row if row < 0 else trace.frame_of(row)[1] for row in (one.first, one.opened, one.resumed, *one.zeros, *one.probes)]
        for one in shut_windows(trace.tcp, DOWN)
    ]
    return trace, numbers


def test_a_window_is_shut_from_the_zero_to_the_update() -> None:
    wire = Wire().handshake().acks("none").send(100).reply(1_000).ack(window=0).wait(ms=300).keepalive("server").ack(window=0)
    _, found = shut(wire.wait(ms=300).ack(window=64_000).reply(1_000))
    assert found == [[6, 9, 10, 6, 8, 7]]


def test_it_is_shut_before_the_zero_when_less_than_a_segment_fits() -> None:
    wire = Wire(wscale=0).handshake().acks("none").send(100).reply(1_000).ack(window=1_500).reply(1_000).wait(ms=200).ack(window=0)
    _, found = shut(wire.wait(ms=300).ack(window=64_000))
    assert [one[:2] for one in found] == [[7, 9]]


def test_a_window_that_is_full_but_never_zero_is_not_shut() -> None:
    _, found = shut(
        Wire(wscale=0).handshake().acks("none").send(100).reply(1_000).ack(window=1_448).reply(1_448).wait(ms=400).ack(window=1_448)
    )
    assert found == []


def test_a_window_that_stays_shut_has_no_end() -> None:
    _, found = shut(Wire().handshake().acks("none").send(100).reply(1_000).ack(window=0))
    assert found == [[6, -1, -1, 6]]


def test_without_a_handshake_the_scale_is_unknown() -> None:
    trace, found = shut(Wire().acks("none").send(100).reply(1_000).ack(window=0).wait(ms=300).ack(window=640).reply(1_000))
    assert window_shift(trace.tcp, DOWN) == -1
    assert [one[:2] for one in found] == [[3, 4]]
