"""RTT samples, bytes in flight, duplicate ACKs and IP-ID continuity, packet by packet."""

from __future__ import annotations

from typing import Any

import pytest

from pcapdiag.flows import group_flows
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import Segments, Vantage
from pcapdiag.packets.table import ACK, SYN
from pcapdiag.trace import Trace
from tests.packet_rows import MS, Row, capture, packets, row
from tests.wire import Wire


def segments(*rows: Row) -> Segments:
    return group_flows(packets(*rows), (capture(),)).segments


def data(at_ms: int, seq: int, length: int = 100) -> Row:
    return row(at_ms * MS, seq=seq, payload_len=length)


def answer(at_ms: int, ack: int, **more: Any) -> Row:
    return row(at_ms * MS, back=True, seq=5, ack=ack, **more)


# --- round trips -------------------------------------------------------------------------------------------------------


def samples(*rows: Row) -> list[int]:
    """RTT in ms of each packet that gives one."""
    return [ns // MS for ns in segments(*rows).rtt_ns.tolist() if ns >= 0]


def test_an_ack_measures_the_last_byte_it_covers() -> None:
    assert samples(data(0, 0), data(10, 100), answer(50, 200)) == [40]
    assert samples(data(0, 0), data(10, 100), answer(50, 100), answer(60, 200)) == [50, 50]


def test_a_packet_acknowledged_in_part_is_measured_by_that_ack() -> None:
    assert samples(data(0, 0), answer(30, 50), answer(70, 100)) == [30, 70]


@pytest.mark.parametrize("rows", [
    [data(0, 0), data(20, 0), answer(50, 100)],
    [data(0, 0), data(20, 0, 50), data(25, 100), answer(50, 200)],
    [data(0, 0), data(10, 200), data(20, 100), answer(50, 300)],
], ids=["resent", "resent in part, under a later byte", "behind a hole"])  # fmt: skip
def test_nothing_resent_or_behind_a_hole_is_measured(rows: list[Row]) -> None:
    assert samples(*rows) == []


def test_after_the_resent_bytes_samples_come_again() -> None:
    assert samples(data(0, 0), data(20, 0), answer(50, 100), data(60, 100), answer(80, 200)) == [20]


def test_an_ack_of_what_was_not_seen_measures_nothing() -> None:
    assert samples(data(0, 0), answer(50, 300)) == []
    assert samples(data(0, 0), answer(10, 100), answer(50, 100)) == [10], "a duplicate covers nothing new"


def round_trips(trace: Trace) -> RoundTrips:
    return RoundTrips(trace.tcp)


def test_both_halves_and_the_whole() -> None:
    for vantage, near, far in (("client", 0, 40), ("middle", 20, 20), ("server", 40, 0)):
        trips = round_trips(Wire(rtt_ms=40, vantage=vantage).handshake().http_get(body=3_000).trace())  # type: ignore[arg-type]  # one of three
        assert [round(ns / 1e6) for ns in (trips.near(0).floor_ns(), trips.far(0).floor_ns(), trips.whole_ns(0))] == [near, far, 40]


def test_a_delayed_ack_is_outbid_by_one_at_once() -> None:
    trips = round_trips(Wire(rtt_ms=20).acks("delayed", "server").handshake().send(100).wait(ms=100).send(3_000).trace())
    assert round(trips.far(0).median_ns() / 1e6) in {20, 40}
    assert round(trips.far(0).floor_ns() / 1e6) == 20


def test_at_the_server_the_way_to_the_server_takes_no_time() -> None:
    trace = Wire(rtt_ms=20, vantage="server").handshake().http_get().trace()
    assert trace.flows.vantage[0] == Vantage.SERVER
    assert round_trips(trace).server_ns(0, trace.start_ns) == 0
    trace = Wire(rtt_ms=20).handshake().http_get().trace()
    assert round(round_trips(trace).server_ns(0, trace.start_ns) / 1e6) == 20


def test_without_any_sample_the_round_trip_is_unknown() -> None:
    trace = Wire().acks("none").send(100).trace()
    assert round_trips(trace).whole_ns(0) == -1


# --- bytes in flight ---------------------------------------------------------------------------------------------------


def test_what_is_sent_and_not_acknowledged_is_in_flight() -> None:
    seg = segments(answer(0, 0), data(1, 0), data(2, 100), answer(3, 100), data(4, 200))
    assert seg.in_flight_len.tolist() == [-1, 100, 200, -1, 200]


def test_without_an_acknowledgment_it_is_unknown() -> None:
    assert segments(data(0, 0), data(1, 100)).in_flight_len.tolist() == [-1, -1]


# --- duplicate ACKs ----------------------------------------------------------------------------------------------------


def duplicates(*rows: Row) -> list[int]:
    seg = segments(*rows)
    found: list[int] = seg.dup_ack[seg.direction == 1].tolist()
    return found


HOLE = [data(0, 0), data(2, 200), data(3, 300), data(4, 400)]


def test_each_one_has_its_number_and_an_advance_begins_anew() -> None:
    rows = [*HOLE, *(answer(at, 100) for at in (5, 6, 7)), answer(8, 300), answer(9, 300)]
    assert duplicates(*rows) == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(("more", "number"), [
    ({}, 1), ({"window": 999}, 0), ({"window": 999, "sack": ((200, 300),)}, 1), ({"payload_len": 9}, 0), ({"flags": ACK | SYN}, 0),
    ({"seq": 4}, 0),
], ids=["plain", "a window update", "with SACK the window may change", "data", "a SYN-ACK", "an old one"])  # fmt: skip
def test_what_counts_as_one(more: dict[str, Any], number: int) -> None:
    before = [row(0, back=True, seq=0, ack=0, payload_len=5), *HOLE, answer(5, 100)]
    assert duplicates(*before, row(6 * MS, back=True, **{"seq": 5, "ack": 100, **more})) == [0, 0, number]


def test_a_closed_window_is_none() -> None:
    assert duplicates(*HOLE, answer(5, 100, window=0), answer(6, 100, window=0)) == [0, 0]


def test_the_answer_to_a_keep_alive_is_none() -> None:
    idle = [data(0, 0), answer(5, 100), row(6 * MS, seq=99, ack=5), answer(7, 100), row(8 * MS, seq=99, ack=5), answer(9, 100)]
    assert duplicates(*idle) == [0, 0, 0]


# --- IP-IDs ------------------------------------------------------------------------------------------------------------


def id_gaps(ids: list[int], lengths: list[int] | None = None, mss: int = 0) -> list[int]:
    lengths = lengths or [10] * len(ids)
    first = [row(0, flags=SYN, ip_id=60_000), row(1, back=True, flags=SYN | ACK, mss=mss, ip_id=1)] if mss else []
    rows = [row((2 + i) * MS, seq=sum(lengths[:i]) + 1, payload_len=lengths[i], ip_id=number) for i, number in enumerate(ids)]
    found: list[int] = segments(*first, *rows).id_gap.tolist()
    return found[len(first) :]


def test_skipped_ids_are_packets_that_were_never_seen() -> None:
    assert id_gaps([5, 6, 7, 8, 9, 12, 13]) == [0, 0, 0, 0, 0, 2, 0]
    assert id_gaps([5, 6, 7, 8]) == [0, 0, 0, 0], "four packets are enough"
    assert id_gaps([65_533, 65_534, 65_535, 1, 2, 3, 4]) == [0, 0, 0, 1, 0, 0, 0], "the counter wraps"


def test_a_super_segment_takes_an_id_for_each_of_its_packets() -> None:
    assert id_gaps([5, 6, 9, 10, 11, 12], [1_460, 3 * 1_460, 1_460, 10, 10, 10], mss=1_460) == [0] * 6


def test_an_id_that_goes_back_is_a_packet_overtaken_and_nothing_lost() -> None:
    assert id_gaps([5, 6, 8, 7, 9, 10, 11, 12]) == [0, 0, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("ids", [[0] * 6, [900, 17, 40_000, 3, 22_222, 8_000], [5, 9, 12, 20, 31, 40], [5, 6, 7]])
def test_zero_random_and_shared_counters_and_too_few_packets_say_nothing(ids: list[int]) -> None:
    assert id_gaps(ids) == [-1] * len(ids)
