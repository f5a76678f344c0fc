"""Peaks and averages of what flows towards one host."""

from __future__ import annotations

import pytest

from pcapdiag.flows.bursts import BIN_NS, Load, Loads
from pcapdiag.trace import Trace
from tests.wire import START_NS, Wire


def towards_client(trace: Trace) -> Load:
    return Loads(trace.packets, trace.captures, aside=trace.tcp.aside).towards(0, int(trace.flows.client[0]))


def bulk(count: int = 2) -> Trace:
    wire = Wire(vantage="server", rtt_ms=40).handshake()
    for _ in range(count):
        wire.wait(ms=500).reply(14_480)
    return wire.trace()


def test_rates_are_of_bytes_on_the_wire() -> None:
    trace = bulk()
    load = towards_client(trace)
    lengths = int(trace.packets.frame_len[trace.packets.dst == trace.flows.client[0]].sum())
    assert load.bytes_in(0, 2**62) == lengths
    assert load.mean_bps(START_NS, START_NS + 1_000_000_000) == pytest.approx(lengths * 8, rel=0.6)
    assert load.peak_bps(0, len(load.rows)) == 10 * 1_514 * 8 * 1_000, "ten packets within one millisecond"
    assert load.measured
    assert load.link_bps == 10 * 1_514 * 8 * 100, "the same ten packets over ten milliseconds"


def test_bursts_are_runs_of_hot_milliseconds() -> None:
    load = towards_client(bulk(3))
    bursts = load.bursts(0.5, 5_000_000)
    assert [stop - begin for begin, stop in bursts] == [10, 10, 10]
    assert load.bursts(20.0, 5_000_000) == []


def test_nothing_towards_a_host() -> None:
    trace = Wire().syn().trace()
    load = towards_client(trace)
    assert (len(load.rows), load.link_bps, load.peak_bps(0, 0), load.bursts(0.5, BIN_NS)) == (0, 0, 0, [])
