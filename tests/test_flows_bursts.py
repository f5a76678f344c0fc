"""Peaks and averages of what flows towards one host."""

from __future__ import annotations

import numpy as np
import pytest

from pcapdiag.flows import bursts
from pcapdiag.flows.bursts import BIN_NS, Load, Loads, pairs_of_owners
from pcapdiag.trace import Trace
from tests.wire import START_NS, Wire, merge


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


@pytest.mark.parametrize("window", [1, 2, 7, 1_000])
def test_data_packets_are_counted_in_windows_that_cut_no_bin(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = merge(*(Wire(vantage="server", cport=50_000 + i, start_ms=i).handshake().wait(ms=5).reply(14_480) for i in range(3))).trace()
    load = towards_client(trace)
    rows = load.rows[trace.packets.payload_len[load.rows] > 0]
    whole = pairs_of_owners(trace.packets.ts_ns[rows], trace.tcp.flow_of_row[rows], 10 * BIN_NS)
    monkeypatch.setattr(bursts, "WINDOW", window)
    assert load.data_packets(trace.tcp.flow_of_row, 10 * BIN_NS) == (30, 1_448, whole)
    assert whole > 0


def test_nothing_towards_a_host() -> None:
    trace = Wire().syn().trace()
    load = towards_client(trace)
    assert (len(load.rows), load.link_bps, load.peak_bps(0, 0), load.bursts(0.5, BIN_NS)) == (0, 0, 0, [])


def test_pairs_of_different_owners_in_the_same_milliseconds() -> None:
    ts_ns, owner = np.array([0, 1, 2, 9, 10, 11]), np.array([7, 7, 8, 9, 7, 8])
    assert pairs_of_owners(ts_ns, owner, 10) == 5 + 1
    assert pairs_of_owners(ts_ns[:0], owner[:0], 10) == 0
