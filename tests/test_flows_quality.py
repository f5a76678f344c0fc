"""What a capture did to the traffic: measured, repaired where it can be, graded where it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pcapdiag.capture.frames import Interface
from pcapdiag.flows import group_flows
from pcapdiag.flows.aside import set_aside
from pcapdiag.flows.table import Quality, TcpTables
from pcapdiag.packets.table import ACK, ICMP, SYN, UDP
from pcapdiag.pipeline import load
from tests.packet_rows import MS, Row, capture, packets, row
from tests.wire import Wire


def tables(*rows: Row, **known: Any) -> TcpTables:
    return group_flows(packets(*rows), (capture(**{"frame_count": len(rows), **known}),))


def quality(*rows: Row, **known: Any) -> Quality:
    return tables(*rows, **known).quality[0]


def wire_quality(told: Wire) -> Quality:
    return told.trace().quality[0]


HANDSHAKE = [row(0, seq=0, flags=SYN), row(MS, back=True, seq=0, ack=1, flags=SYN | ACK), row(2 * MS, seq=1, ack=1)]


# --- copies ------------------------------------------------------------------------------------------------------------


def copies(*rows: Row) -> list[int]:
    """Packets (from 0) set aside."""
    aside = set_aside(packets(*rows), 1)
    assert aside.rows.tolist() == sorted(aside.copies.row.tolist())
    return aside.copies.row.tolist()  # type: ignore[no-any-return]  # of an array of rows


DATA: dict[str, Any] = {"seq": 7, "ack": 3, "payload_len": 100, "ip_id": 40}


def test_a_mirrored_conversation_is_the_same_conversation() -> None:
    plain = Wire().handshake().send(9_000, lose="after", only=[2]).wait(ms=30).resend(2_896, 4_344).reply(3_000).close()
    twice = Wire().duplicate().handshake().send(9_000, lose="after", only=[2]).wait(ms=30).resend(2_896, 4_344).reply(3_000).close()
    a, b = plain.trace(), twice.trace()
    assert len(a.segments) == len(b.segments) == b.quality[0].copies
    for name in ("seq", "ack", "kind", "sends", "dup_ack", "rtt_ns"):
        assert getattr(a.segments, name).tolist() == getattr(b.segments, name).tolist()
    assert (b.quality[0].issues, b.quality[0].grade) == (("duplicate-packets",), "C")


def test_a_copy_has_the_same_id_and_comes_soon() -> None:
    assert copies(row(0, **DATA), row(9 * MS, **DATA)) == [1]
    assert copies(row(0, **DATA), row(11 * MS, **DATA)) == []
    assert copies(row(0, **DATA), row(5_000, **DATA), row(9_000, **DATA)) == [1, 2], "`any` shows some packets three times"


@pytest.mark.parametrize(
    "change", [{"ip_id": 41}, {"seq": 8}, {"ack": 4}, {"payload_len": 99}, {"window": 1}, {"flags": 24}, {"ts_val": 1}, {"proto": UDP}]
)
def test_what_differs_is_no_copy(change: dict[str, Any]) -> None:
    assert copies(row(0, **DATA), row(5_000, **{**DATA, **change})) == []


def test_other_endpoints_are_no_copy() -> None:
    assert copies(row(0, **DATA), row(5_000, **DATA, src=("10.0.0.9", 50_000)), row(9_000, **DATA, dst=("10.0.0.2", 81))) == []


def test_without_an_id_only_stamped_data_within_a_tick_is_surely_a_copy() -> None:
    stamped = {**DATA, "ip_id": 0, "has_ts": True, "ts_val": 5}
    others = [row((20 + i) * MS, seq=10_000 * i + 900, payload_len=5) for i in range(200)]
    assert copies(row(0, **stamped), row(MS, **stamped), *others) == [1]
    assert copies(row(0, **stamped), row(2 * MS, **stamped), *others) == [], "a resend within one tick of the sender's clock"
    assert copies(row(0, **{**stamped, "has_ts": False}), row(5_000, **{**stamped, "has_ts": False}), *others) == []


def test_in_a_capture_that_copies_anyway_likenesses_without_an_id_are_copies_too() -> None:
    pure: dict[str, Any] = {"seq": 7, "ack": 3, "ip_id": 0}
    assert copies(row(0, **DATA), row(3_000, **DATA), row(5 * MS, **pure), row(8 * MS, **pure)) == [1, 3]


def test_the_first_sight_stays_and_a_few_copies_are_named() -> None:
    found = quality(*HANDSHAKE, row(3 * MS, **DATA), row(4 * MS, **DATA))
    assert (found.copies, found.copy_frames) == (1, (5,))


def test_two_captures_of_one_path_count_a_packet_once() -> None:
    table = packets(*(one for i, first in enumerate(HANDSHAKE) for one in (replace(first, rest=(("ip_id", 70 + i),)), replace(
        first, at_ns=first.at_ns + 15 * MS, rest=(("ip_id", 70 + i), ("capture", 1))))))  # fmt: skip
    found = group_flows(table, (capture(), capture()))
    assert len(found.segments) == 3
    assert sum(one.view_packets for one in found.quality) == 3


def test_copies_behind_a_router_are_told_apart() -> None:
    found = quality(*HANDSHAKE, row(3 * MS, **DATA, ttl=64), row(4 * MS, **DATA, ttl=63), row(5 * MS, **DATA, ttl=63))
    assert (found.copies, found.routed_copies, found.leg_packets) == (2, 1, 0)


def test_what_was_set_aside_belongs_to_no_flow() -> None:
    found = tables(*HANDSHAKE, row(3 * MS, **DATA), row(4 * MS, **DATA))
    assert found.aside.tolist() == [4]
    assert found.flow_of_row.tolist() == [0, 0, 0, 0, -1]
    assert len(found.legs) == 0


# --- order -------------------------------------------------------------------------------------------------------------


def test_records_out_of_order_are_put_in_order_and_counted() -> None:
    rows = [*HANDSHAKE, row(9 * MS, seq=101, payload_len=100), row(5 * MS, seq=1, payload_len=100), row(10 * MS, seq=201, payload_len=100)]
    found = tables(*rows)
    assert found.segments.seq[found.segments.payload_len > 0].tolist() == [0, 100, 200]
    assert (found.segments.gap_len == 0).all()
    one = found.quality[0]
    assert (one.backward_steps, one.backward_max_ns, one.issues, one.grade) == (1, 4 * MS, ("misordered-packets",), "B")
    assert (one.backward_frames, one.advice.startswith("Let one clock")) == ((5,), True)


def test_a_clock_that_jumps_back_steps_once() -> None:
    found = wire_quality(Wire().handshake().wait(ms=500).clock_step(ms=-100).send(10).reply(10))
    assert found.backward_steps == 0, "time went on further than the clock went back"
    found = wire_quality(Wire().handshake().send(10).clock_step(ms=-5_000).reply(10).send(10))
    assert (found.backward_steps, round(found.backward_max_ns / 1e9)) == (1, 5)


# --- super-segments, cuts, directions, starts --------------------------------------------------------------------------


def test_packets_above_the_segment_size_are_the_hosts_doing() -> None:
    told = Wire().handshake().supersegment(20_000)
    found = wire_quality(told)
    assert (found.super_segments, found.super_segment_frames, found.issues, found.grade) == (1, (4,), ("offload-segments",), "B")
    assert wire_quality(Wire().handshake().send(20_000)).super_segments == 0


def test_without_a_known_segment_size_only_what_no_link_carries_is_one() -> None:
    middle = [row(i * MS, seq=10_000 * i, ack=1, payload_len=8_900) for i in range(3)]
    assert quality(*middle).super_segments == 0
    assert quality(*middle, row(9 * MS, seq=40_000, payload_len=9_001)).super_segments == 1
    assert quality(*middle, row(9 * MS, seq=40_000, payload_len=10, ip_len_zero=True)).super_segments == 1


def test_cut_frames_are_counted(tmp_path: Any) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes(Wire().handshake().http_get(body=3_000).pcap(snaplen=96))
    found = load(str(path)).quality[0]
    assert found.cut_frames == 4, "the request, and three segments of the response"
    assert (found.issues, found.grade) == (("snaplen-cut",), "C")


def test_a_capture_of_one_direction() -> None:
    spoken = [row(i * MS, seq=100 * i, ack=1 + 50 * i, payload_len=100) for i in range(5)]
    found = quality(*spoken)
    assert (found.one_way_flows, found.tcp_flows, found.grade) == (1, 1, "F")
    assert "one-way-capture" in found.issues
    assert quality(*(row(i * MS, seq=0, flags=SYN) for i in range(9))).one_way_flows == 0, "nobody answered: nothing says somebody did"


def test_connections_older_than_the_capture() -> None:
    older = [row(0, seq=1, ack=1, payload_len=10), row(MS, back=True, seq=1, ack=11)]
    assert (quality(*older).midstream_flows, quality(*older).issues) == (1, ("mid-stream-start",))
    assert quality(*HANDSHAKE, row(9 * MS, seq=1, ack=1, payload_len=10)).midstream_flows == 0
    assert quality(row(0, seq=1, ack=1)).midstream_flows == 0, "no data: an acknowledgment left over"


# --- what the capture lost ---------------------------------------------------------------------------------------------


def test_bytes_acknowledged_and_never_captured_are_the_captures_loss() -> None:
    found = wire_quality(Wire().handshake().send(14_480, lose="capture", only=[3]).reply(10))
    assert (found.unseen_bytes, found.seen_bytes) == (1_448, 14_480 - 1_448 + 10)
    assert found.tcp_data_packets == 9 + 1
    assert found.capture_loss_ratio == pytest.approx(0.1, abs=0.001)
    assert (found.issues, found.grade) == (("capture-loss",), "D")
    assert wire_quality(Wire().handshake().send(14_480, lose="after", only=[3]).wait(ms=25).resend(4_344, 5_792)).unseen_bytes == 0


def test_drops_that_the_capturing_system_admits() -> None:
    def admitted(*interfaces: Interface) -> Quality:
        return quality(*HANDSHAKE, interfaces=interfaces, frame_count=100)

    assert admitted(Interface(link_type=1, snaplen=0)).dropped_count is None
    nothing = admitted(Interface(link_type=1, snaplen=0, dropped_by_interface_count=0))
    assert (nothing.dropped_count, nothing.issues) == (0, ())
    some = admitted(
        Interface(link_type=1, snaplen=0, dropped_by_os_count=3), Interface(link_type=1, snaplen=0, dropped_by_interface_count=4)
    )
    assert (some.dropped_count, some.issues, some.grade) == (7, ("capture-loss",), "D")
    both = admitted(Interface(link_type=1, snaplen=0, dropped_by_os_count=3, dropped_by_interface_count=2))
    assert both.dropped_count == 5, "the card's drops and the system's are counted apart"


def test_what_the_capture_could_have_shown() -> None:
    plain = quality(*HANDSHAKE)
    assert (plain.saw_icmp, plain.saw_dns, plain.saw_fragments) == (False, False, False)
    more = quality(*HANDSHAKE, row(9, proto=ICMP), row(9, dst=("10.0.0.53", 53), proto=UDP, flags=0), row(9, more_fragments=True))
    assert (more.saw_icmp, more.saw_dns, more.saw_fragments) == (True, True, True)


# --- grades ------------------------------------------------------------------------------------------------------------


def test_a_perfect_capture_is_an_a_and_an_empty_one_an_f() -> None:
    found = wire_quality(Wire().handshake().http_get(body=9_000).close())
    assert (found.grade, found.issues) == ("A", ())
    assert (quality().grade, quality().capture_loss_ratio) == ("F", 0.0)


@pytest.mark.parametrize(("lost", "grade"), [(0, "A"), (1, "B"), (3, "C"), (15, "D"), (60, "F")])
def test_the_share_of_lost_bytes_decides(lost: int, grade: str) -> None:
    """Of 200 equal packets so many, all acknowledged."""
    sent = [row((3 + i) * MS, seq=1 + 100 * i, ack=1, payload_len=100) for i in range(200) if not 50 <= i < 50 + lost]
    assert quality(*HANDSHAKE, *sent, row(900 * MS, back=True, seq=1, ack=20_001)).grade == grade


def test_a_file_that_ends_in_the_middle_is_no_a() -> None:
    assert quality(*HANDSHAKE, cut_at=1_234).grade == "B"
