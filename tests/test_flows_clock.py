"""Steps of the capture's clock: proven by the clocks of the hosts, taken out, and never found where something else stood still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pcapdiag.flows.clock import find_clock_steps, straighten
from pcapdiag.pipeline import diagnose
from tests.packet_rows import BEGIN_NS, MS, Row, packets, row
from tests.wire import Wire

if TYPE_CHECKING:
    from pcapdiag.flows.clock import ClockSteps
    from pcapdiag.trace import Trace


def exchanged(wire: Wire, times: int = 6) -> Wire:
    """So many requests and answers, a tenth of a second apart."""
    for _ in range(times):
        wire.http_get(body=2_000, think_ms=100)
    return wire


def talk(step_ms: float = 0, **host: Any) -> Wire:
    wire = exchanged(Wire(rtt_ms=30, **host).handshake())
    return exchanged(wire.clock_step(step_ms)).close()


def steps(trace: Trace) -> list[float]:
    """Sizes in seconds."""
    return [round(step_ns / 1e9, 2) for _, step_ns in trace.quality[0].clock_steps]


# --- found and taken out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_ms", [7_000, 800, -7_000, -400])
@pytest.mark.parametrize("vantage", ["client", "server", "middle"])
def test_a_step_is_measured_and_taken_out(step_ms: float, vantage: str) -> None:
    plain, stepped = talk(vantage=vantage).trace(), talk(step_ms, vantage=vantage).trace()
    assert steps(stepped) == [step_ms / 1e3]
    assert np.abs(stepped.packets.ts_ns - plain.packets.ts_ns).max() < 2 * MS
    assert [row.duration_ns // (5 * MS) for row in stepped.exchanges] == [row.duration_ns // (5 * MS) for row in plain.exchanges]
    assert (stepped.quality[0].grade, stepped.quality[0].issues) == ("C", ("clock-step",))


@pytest.mark.parametrize("step_ms", [5_000, 3_600_000, -2_000])
def test_a_step_amid_a_fast_transfer_is_found(step_ms: int) -> None:
    """So many packets a second that all those near the step bear the same few timestamps."""
    rows: list[Row] = []
    for i in range(6_000):
        at, back = i * 20_000, bool(i % 3)  # 50,000 packets a second
        tick = 70_000 + 1_000 * (i % 2) + at // MS
        shown = at + (step_ms * MS if i >= 3_000 else 0)
        ends = {"dst": ("10.0.0.1", 50_000 + i % 2)} if back else {"src": ("10.0.0.1", 50_000 + i % 2)}
        rows.append(row(shown, back=back, seq=1_000 * i, payload_len=1_000, has_ts=True, ts_val=tick + 9 * back, **ends))
    found = find_clock_steps(packets(*rows))
    assert found.row.tolist() == [3_000]
    assert found.stamped.tolist() == [True]
    assert abs(int(found.step_ns[0]) - step_ms * MS) <= 2 * MS


def test_the_frame_behind_the_step_is_named() -> None:
    before = exchanged(Wire(rtt_ms=30).handshake())
    count = len(before.frames())
    stepped = exchanged(before.clock_step(5_000)).trace()
    ((frame, _),) = stepped.quality[0].clock_steps
    assert abs(frame - count) <= 1, "the acknowledgment of the last answer may be on either side"


def test_two_steps() -> None:
    wire = exchanged(exchanged(Wire(rtt_ms=30).handshake()).clock_step(4_000))
    assert steps(exchanged(wire.clock_step(-3_000)).trace()) == [4.0, -3.0]


def test_backwards_without_timestamps_the_order_of_the_file_tells() -> None:
    stepped = talk(-5_000, timestamps=False).trace()
    assert [round(size) for size in steps(stepped)] == [-5]
    assert stepped.quality[0].unseen_bytes == 0
    assert (stepped.segments.gap_len == 0).all()


def test_fragments_move_with_their_packets() -> None:
    table = packets(row(0, seq=1))
    assert straighten(table, find_clock_steps(table)) is table, "nothing to move"


# --- near misses -------------------------------------------------------------------------------------------------------


def test_a_pause_is_no_step() -> None:
    wire = exchanged(Wire(rtt_ms=30).handshake()).wait(ms=9_000)
    assert steps(exchanged(wire).trace()) == []


def test_a_slow_server_is_no_step() -> None:
    trace = exchanged(exchanged(Wire(rtt_ms=30).handshake()).http_get(think_ms=8_000)).trace()
    assert steps(trace) == []
    assert {finding.code for finding in diagnose(trace).findings} == {"server-think"}


def test_forwards_without_timestamps_nothing_is_proven() -> None:
    assert steps(talk(7_000, timestamps=False).trace()) == []


def test_a_path_that_grew_longer_is_no_step() -> None:
    wire = exchanged(Wire(rtt_ms=30).handshake()).wait(ms=600).rtt(900)
    assert steps(exchanged(wire).trace()) == []


def stamped(*times: tuple[float, float, bool]) -> ClockSteps:
    """(capture time in ms, TSval, from the server) of each packet."""
    rows = [
        row(round(at * MS), back=back, seq=i, payload_len=1, has_ts=True, ts_val=round(ticks)) for i, (at, ticks, back) in enumerate(times)
    ]
    return find_clock_steps(packets(*rows))


def both(at_ms: float, client: float, server: float) -> list[tuple[float, float, bool]]:
    return [(at_ms, client, False), (at_ms + 1, server, True)]


def test_one_host_that_slept_is_no_step() -> None:
    before = [one for i in range(9) for one in both(20 * i, 20 * i, 20 * i)]
    slept = [one for i in range(9) for one in both(5_000 + 20 * i, 200 + 20 * i, 5_000 + 20 * i)]
    jumped = [one for i in range(9) for one in both(5_000 + 20 * i, 200 + 20 * i, 200 + 20 * i)]
    assert len(stamped(*before, *slept)) == 0, "the client's clock stood still, the server's went on"
    (size,) = stamped(*before, *jumped).step_ns.tolist()
    assert size / MS == pytest.approx(4_800, abs=5)


def test_packets_that_were_held_up_are_no_step() -> None:
    """Both hosts' first packets come late after a freeze; then their clocks agree with the capture's as before."""
    before = [one for i in range(9) for one in both(20 * i, 20 * i, 20 * i)]
    late = both(5_000, 200, 200)
    after = [one for i in range(1, 9) for one in both(5_000 + 20 * i, 5_000 + 20 * i, 5_000 + 20 * i)]
    assert len(stamped(*before, *late, *after)) == 0


@pytest.mark.parametrize("hertz", [10, 100, 250, 1_000])
def test_slow_clocks_count_too(hertz: int) -> None:
    scale = hertz / 1_000
    before = [one for i in range(60) for one in both(40 * i, 40 * i * scale, 40 * i * scale)]
    after = [one for i in range(60) for one in both(9_000 + 40 * i, (2_400 + 40 * i) * scale, (2_400 + 40 * i) * scale)]
    (size,) = stamped(*before, *after).step_ns.tolist()
    assert size / MS == pytest.approx(6_600, abs=120)


def test_one_record_out_of_order_is_no_step() -> None:
    rows = [row(i * MS, seq=100 * i, payload_len=100) for i in range(40)]
    assert len(find_clock_steps(packets(*rows[:20], row(800 * MS, seq=2_000, payload_len=100), *rows[21:]))) == 0


def test_files_strung_together_backwards_are_no_step() -> None:
    """Other connections, an hour earlier."""
    later = [row((3_600_000 + i) * MS, seq=100 * i, payload_len=100) for i in range(20)]
    earlier = [row(i * MS, src=("10.0.0.9", 50_000), seq=100 * i, payload_len=100) for i in range(20)]
    assert len(find_clock_steps(packets(*later, *earlier))) == 0


def test_queues_written_in_turns_are_no_steps() -> None:
    """Each connection goes on to the byte in its own queue, and the queues are flushed every second."""
    rows: list[Row] = []
    for second in range(4):
        for queue in range(2):
            src = ("10.0.0.1", 50_000 + queue)
            rows += [row((1_000 * second + 90 * i) * MS, src=src, seq=1_000 * second + 100 * i, payload_len=100) for i in range(10)]
    assert len(find_clock_steps(packets(*rows))) == 0


def test_a_step_concerns_its_own_capture() -> None:
    rows = [row((0 if i < 20 else -5_000) * MS + i * MS, seq=100 * i, payload_len=100) for i in range(40)]
    second = [row(i * MS, src=("10.0.0.7", 5), seq=i, payload_len=1, capture=1) for i in range(5)]
    table = packets(*rows, *second)
    found = find_clock_steps(table)
    assert (found.capture.tolist(), found.frame.tolist(), found.stamped.tolist()) == ([0], [21], [False])
    moved = straighten(table, found).ts_ns - BEGIN_NS
    assert (np.diff(moved[:40]) >= 0).all()
    assert moved[40:].tolist() == [i * MS for i in range(5)]
