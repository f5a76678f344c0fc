"""Every packet that carries bytes again: what sent it, whether it was needed, and where the loss was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.flows import group_flows
from pcapdiag.flows.resend_table import Evidence, Placement, ResendKind
from pcapdiag.flows.table import Kind
from pcapdiag.packets.table import FIN, SackBlocks
from pcapdiag.pipeline import load
from tests.packet_rows import capture
from tests.tcp_model import as_packets
from tests.tcp_talk import ACTIONS, Action, told
from tests.wire import Recording, Wire

if TYPE_CHECKING:
    from pcapdiag.trace import Trace

MSS = 1_448
LAB = Path(__file__).parents[2] / "shared" / "captures" / "lab"
K, P = ResendKind, Placement


class Resend(NamedTuple):
    """A row of Resends."""

    direction: int
    start: int
    stop: int
    kind: ResendKind
    placement: Placement
    trigger: ResendKind


def table(trace: Trace) -> list[Resend]:
    found = trace.tcp.resends
    columns = (found.fd, found.start, found.stop, found.kind, found.placement, found.trigger)
    return [
        Resend(fd % 2, start, stop, K(kind), P(placement), K(trigger))
        for fd, start, stop, kind, placement, trigger in zip(*(column.tolist() for column in columns), strict=True)
    ]


def resends(recording: Recording) -> list[Resend]:
    return table(recording.trace())


def judged(recording: Recording) -> list[tuple[ResendKind, Placement]]:
    return [(row.kind, row.placement) for row in resends(recording)]


def evidence(recording: Recording) -> list[Evidence]:
    return [Evidence(bits) for bits in recording.trace().tcp.resends.evidence.tolist()]


# --- what sent it ------------------------------------------------------------------------------------------------------


def sacked(vantage: str = "client") -> Wire:
    """The second of six segments is lost; the client resends it on SACK."""
    here = vantage == "client"
    told = Wire(vantage="client" if here else "server").handshake().send(8_000, lose="after" if here else "before", only=[1])
    return told.wait(ms=21).resend(MSS, 2 * MSS, by="client").reply(10)


@pytest.mark.parametrize(("vantage", "placement"), [("client", P.BEHIND_TAP), ("server", P.BEFORE_TAP)])
def test_on_sack(vantage: str, placement: Placement) -> None:
    assert resends(sacked(vantage)) == [Resend(0, MSS, 2 * MSS, K.FAST, placement, K.FAST)]


def test_on_duplicate_acks_without_sack() -> None:
    told = Wire(sack=False).handshake().send(10_000, lose="after", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client")
    assert judged(told) == [(K.FAST, P.BEHIND_TAP)]


def test_on_a_report_however_long_the_path_is() -> None:
    """A round trip longer than the least timeout does not make a timeout of it."""
    told = Wire(rtt_ms=400).handshake().send(8_000, lose="after", only=[1]).wait(ms=401).resend(MSS, 2 * MSS, by="client")
    assert judged(told) == [(K.FAST, P.BEHIND_TAP)]


def test_by_timer_though_a_report_had_come() -> None:
    """One SACK alone moves no sender without RACK; 250 ms later its timer does."""
    told = Wire().handshake().send(3 * MSS, lose="after", only=[1]).wait(ms=270).resend(MSS, 2 * MSS, by="client")
    assert judged(told) == [(K.RTO, P.BEHIND_TAP)]


def test_the_end_of_a_flight_is_probed_after_two_round_trips() -> None:
    told = Wire().handshake().send(3_000, lose="after", only=[2]).wait(ms=65).resend(by="client").reply(1)
    assert judged(told) == [(K.PROBE, P.BEHIND_TAP)]


def test_a_second_resend_of_the_end_is_by_timer() -> None:
    told = Wire().handshake().send(100, lose="after").wait(ms=220).resend(lose="after").wait(ms=225).resend(lose="after")
    assert [kind for kind, _ in judged(told.wait(ms=450).resend().reply(1))] == [K.PROBE, K.RTO, K.RTO]


def test_waits_that_double_at_once_are_timers_from_the_first_on() -> None:
    told = Wire().handshake().send(100, lose="after").wait(ms=220).resend(lose="after").wait(ms=440).resend().reply(1)
    assert [kind for kind, _ in judged(told)] == [K.RTO, K.RTO]


def test_what_a_timeout_found_missing_is_made_good_in_its_name() -> None:
    """Three segments lost: the timer brings the first, its ACK the others (RFC 5681 section 3.1)."""
    told = Wire(sack=False).handshake().send(5 * MSS, lose="after", only=[2, 3, 4]).wait(ms=320).resend(2 * MSS, 3 * MSS, by="client")
    told.wait(ms=60).resend(3 * MSS, 5 * MSS, by="client")
    assert judged(told) == [(K.RTO, P.BEHIND_TAP)] * 3


def test_a_spurious_timeout_makes_no_timeouts_of_what_follows() -> None:
    told = Wire(rtt_ms=300).handshake().send(300).wait(ms=250).resend()  # its original arrived: the sender goes back to what it did
    told.wait(ms=400).send(8_000, lose="after", only=[1]).wait(ms=301).resend(300 + MSS, 300 + 2 * MSS, by="client")
    assert [kind for kind, _ in judged(told)] == [K.SPURIOUS, K.FAST]


def test_data_of_the_receiver_is_no_duplicate_ack() -> None:
    """It repeats the same acknowledgment in every packet, and reports nothing (RFC 5681 section 2)."""
    told = (
        Wire().handshake().send(100).reply(10).wait(ms=20).send(200, lose="after").reply(6_000).wait(ms=230).resend(100, 300, by="client")
    )
    assert judged(told.reply(1)) == [(K.PROBE, P.BEHIND_TAP)]
    told = Wire().handshake().send(100).reply(10).wait(ms=20).send(6_000, lose="after").reply(5_000)
    told.wait(ms=230).reply(100).resend(100, 100 + MSS, by="client")
    assert judged(told.reply(1)) == [(K.RTO, P.BEHIND_TAP)]


# --- probes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1])
def test_a_keep_alive(length: int) -> None:
    assert judged(Wire().handshake().send(100).reply(10).wait(ms=15_000).keepalive(length=length)) == [(K.KEEP_ALIVE, P.NOT_LOST)]


def test_a_probe_of_a_closed_window() -> None:
    told = Wire().handshake().send(100).ack("server", window=0).wait(ms=220).keepalive().wait(ms=440).keepalive()
    assert judged(told) == [(K.ZERO_WINDOW_PROBE, P.NOT_LOST)] * 2


def test_a_timer_behind_a_reset_is_no_probe_of_its_window() -> None:
    """A RST has a window of 0 as often as not; it opens and closes nothing."""
    told = Wire().handshake().send(100).acks("none").reply(200).wait(ms=10).rst(window=0).wait(ms=230).resend(0, 200, by="server")
    assert K.ZERO_WINDOW_PROBE not in [kind for kind, _ in judged(told)]


def test_a_keep_alive_when_the_window_is_open_again() -> None:
    told = Wire().handshake().send(100).ack("server", window=0).wait(ms=100).ack("server", window=50_000).wait(ms=9_000).keepalive("client")
    assert judged(told) == [(K.KEEP_ALIVE, P.NOT_LOST)]


# --- late originals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marks", [{}, {"ip_id": False}, {"timestamps": False}, {"ip_id": False, "timestamps": False}])
def test_an_overtaken_original_is_none(marks: dict[str, bool]) -> None:
    told = Wire(vantage="server", **marks).handshake().send(8_000, late_ms=1.5, only=[1])  # type: ignore[arg-type] # both are flags
    assert judged(told) == [(K.REORDERED, P.NOT_LOST)]


def test_an_original_that_comes_after_its_resend() -> None:
    told = (
        Wire(vantage="server").handshake().send(8_000, late_ms=60, only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client").wait(ms=80).ack()
    )
    assert judged(told) == [(K.SPURIOUS, P.NOT_LOST), (K.REORDERED, P.NOT_LOST)]
    assert Evidence.LATE_ORIGINAL in evidence(told)[0]


def test_within_one_tick_of_a_coarse_clock_lateness_decides() -> None:
    """A clock of 2 Hz stamps the resend like the packet that showed the hole."""
    told = Wire(vantage="server", ip_id=False).handshake().send(8_000, lose="before", only=[1], ts_val=500)
    assert judged(told.wait(ms=25).resend(MSS, 2 * MSS, by="client", ts_val=500)) == [(K.FAST, P.BEFORE_TAP)]


def test_a_copy_that_the_network_made_is_no_resend() -> None:
    told = Wire(vantage="server").handshake().send(100, ip_id=77, ts_val=9).wait(ms=3_000).resend(ip_id=77, ts_val=9)
    assert judged(told) == [(K.UNKNOWN, P.NOT_LOST)]


# --- needless ones, and what became of the ACK -------------------------------------------------------------------------


def unheard(vantage: str) -> Wire:
    """The server acknowledges; its ACK is lost."""
    told = Wire(vantage="client" if vantage == "client" else "server").handshake().acks("none", "server").send(300)
    told.ack("server", lose="before" if vantage == "client" else "after").acks("quick", "server").wait(ms=230)
    return told.resend(by="client").wait(ms=2).reply(10).send(10)


@pytest.mark.parametrize(("vantage", "proof"), [("client", Evidence.DSACK), ("server", Evidence.ACKED)])
def test_the_ack_was_lost(vantage: str, proof: Evidence) -> None:
    ((kind, placement),) = judged(unheard(vantage))
    assert (kind, placement) == (K.SPURIOUS, P.ACK_LOST)
    assert proof in evidence(unheard(vantage))[0]


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_the_ack_was_only_late(vantage: str) -> None:
    told = Wire(vantage="client" if vantage == "client" else "server", rtt_ms=300).handshake().send(300).wait(ms=250).resend().wait(ms=300)
    assert judged(told.send(10)) == [(K.SPURIOUS, P.NOT_LOST)]


def test_a_dsack_of_a_part_does_not_make_all_of_it_needless() -> None:
    """Two small packets, the second lost, are resent as one."""
    told = Wire().handshake().acks("none", "server").send(100).send(100, lose="after").acks("quick", "server").wait(ms=230)
    told.resend(0, 200, by="client", lose="capture").resend(0, 200, by="client", lose="after").wait(ms=21).ack("server", sack=[(0, 100)])
    assert [kind for kind, _ in judged(told)] != [K.SPURIOUS]


def test_a_delayed_ack_that_echoes_the_segment_before_proves_nothing() -> None:
    """The receiver still holds back the ACK of the first segment when the resend of the second arrives (RFC 7323 section 4.3)."""
    told = (
        Wire(rtt_ms=4)
        .handshake()
        .acks("none", "server")
        .send(100)
        .wait(ms=1)
        .send(100, lose="after")
        .wait(ms=10)
        .resend(100, 200, by="client")
    )
    ack = told.ack("server", ts_ecr=70_004)
    assert judged(ack) == [(K.PROBE, P.BEHIND_TAP)]


def test_a_needless_first_resend_makes_the_later_ones_needless() -> None:
    told = Wire(rtt_ms=600).handshake().send(300).wait(ms=250).resend().wait(ms=250).resend()
    assert [kind for kind, _ in judged(told)] == [K.SPURIOUS, K.SPURIOUS]


# --- control packets, parts, one way -----------------------------------------------------------------------------------


def test_a_syn_and_a_fin_are_resent_by_timer() -> None:
    told = Wire().syn(lose="after").wait(ms=1_000).syn().syn_ack().ack().send(10).reply(10).fin(lose="after").wait(ms=230).fin()
    assert resends(told) == [
        Resend(0, -1, 0, K.RTO, P.BEHIND_TAP, K.RTO),
        Resend(0, 10, 11, K.PROBE, P.BEHIND_TAP, K.PROBE),
    ]


def test_bytes_repeated_with_new_ones_are_one_row() -> None:
    told = Wire().handshake().send(100, lose="after").wait(ms=300).send(300, seq=0)
    (row,) = resends(told)
    assert (row.start, row.stop, row.placement) == (0, 100, P.BEHIND_TAP)


def test_bytes_lost_without_a_hole_have_a_row() -> None:
    told = Wire(vantage="server", ip_id=False).handshake().send(100).send(200, lose="before").wait(ms=50).keepalive()
    rows = resends(told.wait(ms=300).resend(100, 300, by="client"))
    assert rows[-1] == Resend(0, 100, 300, K.RTO, P.BEFORE_TAP, K.RTO)


def numbered() -> Wire:
    """A server's tap beside a client whose IP-IDs count on through its pauses."""
    told = Wire(vantage="server").handshake()
    for _ in range(5):
        told.send(100).reply(10).wait(ms=60)
    return told


@pytest.mark.parametrize(("tries", "trigger"), [(1, K.PROBE), (2, K.RTO)])
def test_one_packet_missing_before_a_late_one_was_the_tail_and_this_its_probe(tries: int, trigger: ResendKind) -> None:
    told = numbered().send(200, lose="before")
    for _ in range(tries - 1):
        told.wait(ms=230).resend(by="client", lose="before")
    assert resends(told.wait(ms=230).resend(by="client").reply(10))[-1] == Resend(0, 500, 700, trigger, P.BEFORE_TAP, trigger)


def test_bytes_from_before_the_capture_are_placed_nowhere() -> None:
    told = Wire().acks("none").fin().send(50, seq=0)
    assert [row.placement for row in resends(told)] == [P.UNKNOWN]


def test_without_the_receivers_packets_little_is_sure() -> None:
    told = Wire().handshake().send(8_000, lose="after", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client")
    whole = told.trace()
    one_way = replace(whole.packets.take(whole.packets.src == whole.packets.src[0]), sacks=SackBlocks.empty())
    found = group_flows(one_way, whole.captures).resends
    assert found.placement.tolist() == [P.UNKNOWN]
    assert found.confidence.max() <= 0.4


# --- all of them, once -------------------------------------------------------------------------------------------------


@given(ACTIONS, st.sampled_from([None, 0, 5]))
def test_every_packet_that_repeats_or_fills_or_probes_has_one_row(actions: list[Action], early: int | None) -> None:
    tables = group_flows(as_packets(told(actions, handshake=early is not None, early=early or 0), (7, 2**32 - 9)), (capture(),))
    seg, found = tables.segments, tables.resends
    again = np.isin(seg.kind, (Kind.SEEN_AGAIN, Kind.FILL, Kind.KEEP_ALIVE, Kind.SYN_AGAIN))
    again |= (seg.kind == Kind.FIN) & (seg.sends > 1)
    assert len(set(found.segment.tolist())) == len(found)
    assert set(np.flatnonzero(again).tolist()) <= set(found.segment.tolist())
    assert (found.fd == 2 * seg.flow[found.segment].astype(np.int64) + seg.direction[found.segment]).all()
    assert (found.before_segment < found.segment).all()
    assert sorted(zip(found.fd.tolist(), found.segment.tolist(), strict=True)) == list(
        zip(found.fd.tolist(), found.segment.tolist(), strict=True)
    )
    assert ((found.confidence > 0) & (found.confidence < 1)).all()
    assert (found.trigger[found.kind != K.SPURIOUS] == found.kind[found.kind != K.SPURIOUS]).all()


# --- two taps of one run -----------------------------------------------------------------------------------------------


def arrived(sender: Trace, receiver: Trace) -> dict[tuple[int, ...], bool]:
    """Packet of the sender's tap -> was it seen at the receiver's?"""

    def keys(trace: Trace) -> list[tuple[int, ...]]:
        rows = trace.segments.row
        columns = ("sport", "dport", "seq", "ack", "flags", "payload_len", "ip_id", "ts_val")
        return list(zip(*(getattr(trace.packets, name)[rows].tolist() for name in columns), strict=True))

    there = set(keys(receiver))
    return {one: one in there for one in keys(sender)}


@pytest.mark.skipif(not LAB.is_dir(), reason="needs the labelled captures")
@pytest.mark.parametrize("case", ["h2-hol", "microburst-loss", "tail-loss-rto", "tls-sse-loss", "pmtu-icmp-honoured", "reordering-control"])
def test_what_the_other_tap_saw_agrees(case: str) -> None:
    """Sent twice and placed behind the tap: the copies before it are not in the other capture. Needless: one of them is."""
    client, server = load(str(LAB / case / "client.pcap")), load(str(LAB / case / "server.pcap"))
    checked = 0
    for near, far, direction in ((client, server, 0), (server, client, 1)):
        seen, seg, found = arrived(near, far), near.segments, near.tcp.resends
        rows = seg.row
        for i in np.flatnonzero((found.fd % 2 == direction) & (near.segments.kind[found.segment] == Kind.SEEN_AGAIN)).tolist():
            at = int(found.segment[i])
            mine = (seg.flow == seg.flow[at]) & (seg.direction == direction) & ((seg.flags & FIN) == 0) & (np.arange(len(seg)) < at)
            copies = np.flatnonzero(mine & (seg.seq <= found.start[i]) & (seg.seq + seg.payload_len >= found.stop[i]))
            packed = near.packets
            keys = [
                tuple(
                    int(getattr(packed, name)[rows[copy]])
                    for name in ("sport", "dport", "seq", "ack", "flags", "payload_len", "ip_id", "ts_val")
                )
                for copy in copies.tolist()
            ]
            if keys and all(key in seen for key in keys):
                came = any(seen[key] for key in keys)
                assert (K(int(found.kind[i])) is K.SPURIOUS) == came, f"{case}: frame {int(packed.frame[rows[at]])}"
                assert (P(int(found.placement[i])) is P.BEHIND_TAP) == (not came)
                checked += 1
    assert checked > 0
