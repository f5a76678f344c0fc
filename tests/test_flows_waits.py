"""From when to when somebody waited: for lost bytes, for a silent host, for a congestion window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pcapdiag.flows import group_flows
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.sends import sends_of
from pcapdiag.flows.table import TcpTables
from pcapdiag.flows.waits import backlogs, bulk_intervals, silence_around, wait_of
from tests.packet_rows import BEGIN_NS, MS, Row, capture, packets, row
from tests.wire import START_NS, Recording, Wire, merge


def waits(told: Recording) -> list[tuple[int, int, bool]]:
    """(start, end, a lower bound) of each loss, in ms."""
    tcp = told.trace().tcp
    trips = RoundTrips(tcp)
    found = [wait_of(tcp, trips, i) for i in range(len(tcp.recoveries))]
    return [(round((one.start_ns - START_NS) / 1e6), round((one.end_ns - START_NS) / 1e6), one.at_least) for one in found]


def test_lost_request_bytes_are_missed_from_when_they_were_due_to_when_they_came() -> None:
    """Sent at 20 ms and due at 30; resent at 240, there at 250, acknowledged at 260."""
    assert waits(Wire(rtt_ms=20).handshake().send(100, lose="after").wait(ms=220).resend().reply(10)) == [(30, 250, False)]


def test_lost_response_bytes_count_in_the_time_of_the_tap() -> None:
    """The server's tap sees them leave at 40 ms, and the resend that came through at 270."""
    told = Wire(vantage="server", rtt_ms=20).handshake().send(100).reply(100, lose="after").wait(ms=230).resend()
    ((start, end, bound),) = waits(told.send(10))
    assert (end - start, bound) == (230, False)


def test_a_hole_is_waited_for_from_when_later_bytes_came() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1]).wait(ms=40).resend(1_448, 2_896, by="client")
    assert waits(told) == [(30, 70, False)]


def test_what_never_came_is_waited_for_to_the_end_and_longer() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1]).wait(ms=300).send(10)
    assert waits(told) == [(30, 330, True)]


def test_a_tail_lost_before_the_tap_has_no_visible_begin() -> None:
    told = Wire(vantage="server").handshake().send(100).reply(50).send(100).reply(50).send(100).reply(50)
    ((_, end, bound),) = waits(told.send(100, lose="before").wait(ms=220).resend())
    assert (end, bound) == (310, True)


# --- silences and backlogs ---------------------------------------------------------------------------------------------


def tables(*rows: Row) -> TcpTables:
    return group_flows(packets(*rows), (capture(),))


def to(at_ms: int, seq: int, length: int = 100) -> Row:
    return row(at_ms * MS, seq=seq, payload_len=length)


def back(at_ms: int, ack: int, **more: Any) -> Row:
    return row(at_ms * MS, back=True, seq=9, ack=ack, **more)


CONVERSATION = tables(to(0, 0), back(10, 100), to(20, 100), to(500, 200), back(510, 300))


@pytest.mark.parametrize(("at", "start", "end", "last", "following"), [
    (300, 20, 500, 2, 3),
    (500, 20, 500, 2, 3),
    (501, 500, 510, 3, -1),
    (0, 0, 0, -1, 0),
    (-5, 0, 0, -1, 0),
], ids=["inside", "its end ends it", "nothing comes any more", "at the first packet", "before all"])  # fmt: skip
def test_a_silence_lies_between_two_packets_of_one_direction(at: int, start: int, end: int, last: int, following: int) -> None:
    found = silence_around(CONVERSATION, 0, heard=0, ts_ns=BEGIN_NS + at * MS)
    assert ((found.start_ns - BEGIN_NS) // MS, (found.end_ns - BEGIN_NS) // MS, found.last, found.next) == (start, end, last, following)


def test_a_direction_that_never_spoke_was_silent_all_the_time() -> None:
    found = silence_around(tables(to(0, 0), to(40, 100)), 0, heard=1, ts_ns=BEGIN_NS + 5 * MS)
    assert ((found.start_ns - BEGIN_NS) // MS, (found.end_ns - BEGIN_NS) // MS, found.last, found.next) == (0, 40, -1, -1)


def bulk(within_ms: int, *rows: Row) -> list[tuple[int, int]]:
    starts, ends = bulk_intervals(tables(*rows), 0, within_ms * MS)
    return [((a - BEGIN_NS) // MS, (b - BEGIN_NS) // MS) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def test_a_backlog_is_a_run_of_full_packets() -> None:
    sent = [to(at, at * 1_448, 1_448) for at in (0, 1, 20, 21, 90, 91)]
    assert bulk(25, *sent) == [(0, 21), (90, 91)]
    assert bulk(10, *sent) == [(0, 1), (20, 21), (90, 91)]
    assert bulk(25, *sent, to(10, 10**6, 600), back(12, 0, payload_len=1_448)) == [(0, 21), (90, 91)], "neither short ones nor the peer's"


def test_a_super_segment_makes_no_full_packet_a_short_one() -> None:
    sent = [to(at, at * 14_480, 14_480 if at == 20 else 1_448) for at in (0, 1, 20, 21, 90, 91)]
    assert bulk(25, *sent) == [(0, 21), (90, 91)]
    told = Wire().handshake().send(300)
    for length in (9_000, 1_448, 9_000, 1_448):
        told.supersegment(length, by="server").wait(ms=10)
    tcp = told.trace().tcp
    for starts, ends in (bulk_intervals(tcp, 1, 15 * MS), backlogs(tcp, 1, np.array([15 * MS]), 0, 1)[1:]):
        assert [round((end - start) / MS) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)] == [30]


def test_small_packets_are_no_backlog() -> None:
    assert bulk(25, *(to(at, 100 * at) for at in range(9))) == []
    assert bulk(25, back(0, 0)) == []


# --- sends of one byte -------------------------------------------------------------------------------------------------


def test_every_packet_that_carried_a_byte() -> None:
    sent = tables(to(0, 0), back(5, 0), to(10, 50, 20), to(20, 0), to(30, 100), to(40, 0, 60), row(50 * MS, seq=55, payload_len=0))

    def at(offset: int, begin: int = 0, end: int = 99) -> list[int]:
        return sends_of(sent, 0, offset, from_ns=BEGIN_NS + begin * MS, until_ns=BEGIN_NS + end * MS).tolist()  # type: ignore[no-any-return]  # rows

    assert at(55) == [0, 2, 3, 5]
    assert at(70) == [0, 3], "behind the last byte of the short one"
    assert at(99) == [0, 3]
    assert at(100) == [4]
    assert at(55, 10, 20) == [2, 3], "both ends of the time included"
    assert at(500) == []
    assert sends_of(sent, 1, 0, from_ns=0, until_ns=2**62).tolist() == []


def test_backlogs_of_all_flows_are_those_of_each() -> None:
    first = Wire().handshake().send(300).reply(40_000).wait(ms=90).reply(20_000).wait(ms=4).reply(300)
    second = Wire(cport=50_001).handshake().send(9_000).reply(200)
    tcp = merge(first, second, Wire(cport=50_002).handshake()).trace().tcp
    within = np.array([30, 1, 5]) * MS
    for direction in (0, 1):
        found = backlogs(tcp, direction, within, 0, 3)
        some = backlogs(tcp, direction, within[1:], 1, 3)
        assert some.start_ns.tolist() == found.start_ns[found.begin[1] :].tolist()
        assert some.begin.tolist() == (found.begin[1:] - found.begin[1]).tolist()
        for flow in range(3):
            mine = slice(int(found.begin[flow]), int(found.begin[flow + 1]))
            starts, ends = bulk_intervals(tcp, 2 * flow + direction, int(within[flow]))
            assert (found.start_ns[mine].tolist(), found.end_ns[mine].tolist()) == (starts.tolist(), ends.tolist())
    assert int(np.diff(backlogs(tcp, 1, within, 0, 3).begin)[0]) == 2
