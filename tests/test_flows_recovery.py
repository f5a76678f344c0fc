"""Losses and what repaired them: every way bytes come in the end, seen from their sender's side and from their receiver's."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.flows.table import Repair
from tests.wire import START_NS, Recording, Wire

MSS = 1_448


class Loss(NamedTuple):
    """A row of Recoveries; times are whole milliseconds since the begin, None for what did not happen."""

    direction: int
    start: int
    stop: int
    at_sender: bool
    first: int | None
    resent: int | None
    done: int | None
    repair: Repair
    resends: int
    spurious: bool = False
    tail: bool = False


def losses(told: Recording) -> list[Loss]:
    found = told.trace().tcp.recoveries

    def ms(ns: int) -> int | None:
        return None if ns == NEVER else round((ns - START_NS) / 1e6)

    return [
        Loss(
            int(found.fd[i]) % 2, int(found.start[i]), int(found.stop[i]), bool(found.at_sender[i]), ms(int(found.first_ns[i])),
            ms(int(found.resent_ns[i])), ms(int(found.done_ns[i])), Repair(found.repair[i]), int(found.resends[i]),
            bool(found.spurious[i]), bool(found.tail[i]),
        )
        for i in range(len(found))
    ]  # fmt: skip


# --- each repair, from both sides --------------------------------------------------------------------------------------


def test_resent_on_sack_seen_where_it_was_sent() -> None:
    told = Wire().handshake().send(8_000, lose="after", only=[1]).wait(ms=25).resend(MSS, 2 * MSS, by="client").reply(100)
    assert losses(told) == [Loss(0, MSS, 2 * MSS, True, 20, 45, 65, Repair.FAST, 1)]


def test_resent_on_sack_seen_where_it_was_missed() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1]).wait(ms=25).resend(MSS, 2 * MSS, by="client").reply(100)
    assert losses(told) == [Loss(0, MSS, 2 * MSS, False, 30, 55, 55, Repair.FAST, 1)], "the hole opened when the next segment came"


def test_a_probe_of_the_tail_seen_where_it_was_sent() -> None:
    told = Wire().handshake().send(3_000, lose="after", only=[2]).wait(ms=45).resend(by="client").reply(100)
    assert losses(told) == [Loss(0, 2 * MSS, 3_000, True, 20, 65, 85, Repair.PROBE, 1, tail=True)]


def test_the_only_segment_in_flight_is_probed_when_its_timer_would_fire() -> None:
    """RFC 8985 section 7.2: with one segment outstanding the probe waits as long as the timer."""
    told = Wire().handshake().send(100, lose="after").wait(ms=220).resend().reply(100)
    assert losses(told) == [Loss(0, 0, 100, True, 20, 240, 260, Repair.PROBE, 1, tail=True)]


def test_a_timeout_seen_where_it_was_sent() -> None:
    """Without SACK there are no probes (RFC 8985 section 3)."""
    told = Wire(sack=False).handshake().send(100, lose="after").wait(ms=220).resend().reply(100)
    assert losses(told) == [Loss(0, 0, 100, True, 20, 240, 260, Repair.TIMEOUT, 1, tail=True)]


def test_a_timeout_that_filled_a_hole() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1]).wait(ms=240).resend(MSS, 2 * MSS, by="client")
    assert losses(told) == [Loss(0, MSS, 2 * MSS, False, 30, 270, 270, Repair.TIMEOUT, 1)]


@pytest.mark.parametrize("told", [
    Wire(vantage="server").handshake().send(8_000, late_ms=1, only=[1]),
    Wire(vantage="server", ip_id=False).handshake().send(8_000, late_ms=1, only=[1]),
    Wire(vantage="server", ip_id=False, timestamps=False).handshake().send(8_000, late_ms=1, only=[1]),
], ids=["by IP-ID", "by timestamp", "by its lateness"])  # fmt: skip
def test_an_overtaken_original_is_no_loss(told: Wire) -> None:
    (row,) = losses(told)
    assert (row.at_sender, row.first, row.done, row.repair) == (False, 30, 31, Repair.REORDERED)


@pytest.mark.parametrize(("lose", "start", "resent", "repair"), [("before", MSS, 75, Repair.FAST), (None, 2 * MSS, 42, Repair.REORDERED)])
def test_a_hole_that_overtaken_packets_filled_in_part_was_a_loss(
    lose: Literal["before"] | None, start: int, resent: int, repair: Repair
) -> None:
    told = Wire().handshake().reply(2 * MSS, lose=lose, only=[1]).reply(2 * MSS, late_ms=2, only=[0])
    if lose:
        told.wait(ms=35).resend(MSS, 2 * MSS, by="server")
    (found,) = losses(told)
    assert (found.start, found.stop, found.resent, found.done, found.repair) == (start, 3 * MSS, resent, resent, repair)


def test_a_filler_of_a_later_time_stamp_is_a_resend_however_soon_it_comes() -> None:
    told = Wire(vantage="server", ip_id=False, rtt_ms=2).handshake().send(8_000, lose="before", only=[1])
    assert [row.repair for row in losses(told.wait(ms=2).resend(MSS, 2 * MSS, by="client"))] == [Repair.FAST]


def test_bytes_that_never_came() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1])
    assert losses(told) == [Loss(0, MSS, 2 * MSS, False, 30, None, None, Repair.NONE, 0)]


def test_resends_that_nobody_answered() -> None:
    told = Wire().handshake().send(100, lose="after").wait(ms=220).resend(lose="after").wait(ms=440).resend(lose="after")
    assert losses(told) == [Loss(0, 0, 100, True, 20, 240, None, Repair.TIMEOUT, 2, tail=True)]


def test_the_last_resend_decides_what_repaired_it() -> None:
    """Resent on SACK, lost again, then by timer."""
    told = Wire().handshake().send(8_000, lose="after", only=[1]).wait(ms=25).resend(MSS, 2 * MSS, by="client", lose="after")
    told.wait(ms=230).resend(MSS, 2 * MSS, by="client").reply(10)
    assert losses(told) == [Loss(0, MSS, 2 * MSS, True, 20, 45, 295, Repair.TIMEOUT, 2)]


# --- resends that were not needed --------------------------------------------------------------------------------------


def test_a_resend_after_its_ack_was_seen_is_spurious() -> None:
    told = Wire(sack=False).handshake().send(300).wait(ms=250).resend().reply(10)
    assert losses(told) == [Loss(0, 0, 300, True, 20, 270, 40, Repair.TIMEOUT, 1, spurious=True, tail=True)]


def slow() -> Wire:
    """A path so long that the timer fires before the ACK comes."""
    return Wire(rtt_ms=300).handshake().send(300).wait(ms=250).resend()


def test_a_dsack_says_that_the_original_had_arrived() -> None:
    (row,) = losses(slow())
    assert (row.resent, row.done, row.spurious) == (550, 600, True)


def test_an_ack_that_echoes_the_original_says_so_too() -> None:
    (row,) = losses(Wire(rtt_ms=300, sack=False).handshake().send(300).wait(ms=250).resend())
    assert row.spurious
    (row,) = losses(Wire(rtt_ms=300, sack=False).handshake().send(300, lose="after").wait(ms=250).resend())
    assert not row.spurious, "here the ACK echoes the resend"


def test_an_ack_sooner_than_a_round_trip_after_the_resend_says_so_too() -> None:
    (row,) = losses(Wire(rtt_ms=300, sack=False, timestamps=False).handshake().send(300).wait(ms=250).resend())
    assert row.spurious


def test_without_dsack_and_time_stamps_nothing_shows_that_only_the_ack_was_lost() -> None:
    told = Wire(sack=False, timestamps=False).handshake().acks("none", "server").send(300).wait(ms=250).resend().ack("server")
    (row,) = losses(told)
    assert not row.spurious


def test_data_refused_by_a_closed_socket_had_arrived() -> None:
    told = Wire().handshake().send(100).close().send(50, lose="after").rst("server", flags=4).wait(ms=230).resend(lose="after")
    assert [row.spurious for row in losses(told)] == [True]


# --- a tail that leaves no hole ----------------------------------------------------------------------------------------


def lost_tail(*, ip_id: bool = True, wait_ms: float = 220, lose: bool = True) -> Wire:
    """Four requests; the last one, when lost before the tap, comes again by timer: nothing is missing from the sequence."""
    told = Wire(vantage="server", ip_id=ip_id).handshake()
    for _ in range(3):
        told.send(100).reply(50)
    told = told.send(100, lose="before").wait(ms=wait_ms).resend() if lose else told.wait(ms=wait_ms).send(100)
    return told.reply(100)


def test_skipped_ip_ids_before_late_data_are_a_tail_resent_by_timer() -> None:
    (row,) = losses(lost_tail())
    assert (row.start, row.stop, row.at_sender, row.done, row.repair, row.tail) == (300, 400, False, 310, Repair.TIMEOUT, True)


def test_late_data_without_skipped_ids_is_a_quiet_sender() -> None:
    assert losses(lost_tail(lose=False)) == []


def test_without_ip_ids_nobody_can_tell() -> None:
    assert losses(lost_tail(ip_id=False)) == []


def test_one_loss_explains_one_timeout_and_not_minutes() -> None:
    assert losses(lost_tail(wait_ms=30_000)) == []
    (row,) = losses(lost_tail(wait_ms=400))
    assert row.done is not None
    assert row.first is not None
    assert row.done - row.first < 300, "the wait is cut to what one timeout and a round trip explain"


def test_a_probe_that_counts_more_than_came_announces_a_loss() -> None:
    told = Wire(vantage="server", ip_id=False).handshake().send(100).send(200, lose="before").wait(ms=50).keepalive()
    (row,) = losses(told.wait(ms=300).resend(100, 300, by="client"))
    assert (row.start, row.stop, row.at_sender, row.tail, row.repair) == (100, 300 - 1, False, True, Repair.TIMEOUT)


# --- the capture's own losses, bursts, parts ---------------------------------------------------------------------------


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_what_only_the_capture_lost_is_a_gap_and_no_loss(vantage: str) -> None:
    told = Wire(vantage="client" if vantage == "client" else "server").handshake().send(8_000, lose="capture", only=[1]).reply(10)
    trace = told.trace()
    assert len(trace.tcp.recoveries) == 0
    assert list(zip(trace.tcp.gaps.start.tolist(), trace.tcp.gaps.stop.tolist(), strict=True)) == [(MSS, 2 * MSS)]


def test_neighbours_lost_together_and_acknowledged_together_are_one_loss() -> None:
    told = Wire().handshake().send(12_000, lose="after", only=[2, 3, 4]).wait(ms=25)
    (row,) = losses(told.acks("none", "server").resend(2 * MSS, 5 * MSS, by="client").ack("server"))
    assert (row.start, row.stop, row.resends) == (2 * MSS, 5 * MSS, 3)
    told = Wire(vantage="server").handshake().send(12_000, lose="before", only=[2, 3, 4]).wait(ms=25).resend(2 * MSS, 5 * MSS, by="client")
    assert [(row.start, row.stop, row.resends) for row in losses(told)] == [(2 * MSS, 5 * MSS, 3)]


def test_losses_apart_are_two() -> None:
    told = Wire(vantage="server").handshake().send(12_000, lose="before", only=[1, 4])
    told.wait(ms=25).resend(MSS, 2 * MSS, by="client").resend(4 * MSS, 5 * MSS, by="client")
    assert [(row.start, row.stop) for row in losses(told)] == [(MSS, 2 * MSS), (4 * MSS, 5 * MSS)]


def test_a_hole_filled_in_parts_is_done_with_the_last_one() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1, 2])
    told.wait(ms=25).resend(MSS, MSS + 700, by="client").wait(ms=40).resend(MSS + 700, 3 * MSS, by="client")
    (row,) = losses(told)
    assert (row.start, row.stop, row.resent, row.done) == (MSS, 3 * MSS, 55, 95)


def test_a_hole_filled_in_part_stays_open() -> None:
    told = Wire(vantage="server").handshake().send(8_000, lose="before", only=[1, 2]).wait(ms=25).resend(MSS, 2 * MSS, by="client")
    (row,) = losses(told)
    assert (row.start, row.stop, row.resends, row.done) == (MSS, 3 * MSS, 1, None)


def test_both_directions_and_several_flows_keep_apart() -> None:
    told = Wire().handshake().send(100, lose="after").wait(ms=220).resend().wait(ms=10).reply(4_000, lose="before", only=[0])
    told.wait(ms=30).resend(0, MSS, by="server")
    assert [(row.direction, row.at_sender) for row in losses(told)] == [(0, True), (1, False)]


def test_no_loss_no_row() -> None:
    assert losses(Wire().handshake().http_get(body=50_000).close()) == []


def test_bytes_from_before_the_capture_are_not_known_to_be_lost() -> None:
    """A capture that starts with a FIN and then shows older data: nothing was seen twice."""
    told = Wire().acks("none").fin().send(50, seq=0)
    assert losses(told) == []
