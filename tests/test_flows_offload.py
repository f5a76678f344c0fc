"""What a packet longer than any wire carries means for the columns: the packets it became are thought of, never seen."""

from __future__ import annotations

from typing import Any

import pytest

from pcapdiag.findings import FindingKind
from pcapdiag.flows import group_flows
from pcapdiag.flows.oversize import find_oversize
from pcapdiag.flows.table import Kind, Repair, TcpTables
from pcapdiag.packets.table import ACK, SYN
from pcapdiag.pipeline import diagnose
from tests.packet_rows import MS, Row, capture, packets, row
from tests.wire import Recording, Wire

TRAIN = 14_480
"""Ten segments in one."""
ROOM = 1_448
STAMPED: dict[str, Any] = {"has_ts": True}


def sender(*rows: Row) -> TcpTables:
    """The client sends; MSS 1,460 both ways, 20 ms from the tap to the server."""
    opening = [
        row(0, seq=-1, flags=SYN, mss=1_460, sack_permitted=True, ip_id=100, **STAMPED),
        row(20 * MS, back=True, seq=-1, ack=0, flags=SYN | ACK, mss=1_460, sack_permitted=True, **STAMPED),
        row(20 * MS + 9, ack=0, ip_id=101, **STAMPED),
    ]
    return group_flows(packets(*opening, *rows), (capture(frame_count=3 + len(rows)),))


def train(at_ms: float, seq: int, ip_id: int, length: int = TRAIN) -> Row:
    return row(round(at_ms * MS), seq=seq, ack=0, payload_len=length, ip_id=ip_id, **STAMPED)


def answer(at_ms: float, ack: int, *sack: tuple[int, int]) -> Row:
    return row(round(at_ms * MS), back=True, seq=0, ack=ack, sack=sack, **STAMPED)


def test_a_piece_sent_again_is_the_piece_not_the_train() -> None:
    hole = (2 * ROOM, 3 * ROOM)
    reports = [answer(50 + i, hole[0], (hole[1], hole[1] + (3 + i) * ROOM)) for i in range(4)]
    found = sender(train(30, 0, 102), *reports, train(54, hole[0], 112, ROOM), answer(74, TRAIN))
    assert found.segments.kind[-2] == Kind.SEEN_AGAIN
    lost = found.recoveries
    assert (lost.start.tolist(), lost.stop.tolist(), lost.repair.tolist()) == ([hole[0]], [hole[1]], [Repair.FAST])
    assert found.segments.sends[found.segments.payload_len > 0].tolist() == [1, 2]
    assert found.segments.in_flight_len[found.segments.payload_len > 0].tolist() == [TRAIN, TRAIN - hole[0]]
    assert found.quality[0].super_segments == 1


def test_a_train_takes_the_numbers_of_its_packets() -> None:
    found = sender(
        train(30, 0, 102), train(31, TRAIN, 112), train(32, 2 * TRAIN, 122, 100), train(33, 2 * TRAIN + 100, 123), answer(53, 100)
    )
    assert found.segments.id_gap[found.segments.payload_len > 0].tolist() == [0, 0, 0, 0]
    lost = sender(
        train(30, 0, 102),
        train(31, TRAIN, 112),
        train(32, 2 * TRAIN, 122),
        train(33, 3 * TRAIN, 135, 100),
        train(34, 3 * TRAIN + 100, 136, 9),
    )
    assert lost.segments.id_gap[lost.segments.payload_len > 0].tolist() == [0, 0, 0, 3, 0]


def test_every_acknowledgment_within_a_train_measures_the_round_trip() -> None:
    found = sender(train(30, 0, 102), *(answer(50 + i, (i + 1) * 2 * ROOM) for i in range(5)))
    assert [ns // MS for ns in found.segments.rtt_ns[-5:].tolist()] == [20, 21, 22, 23, 24]
    assert found.segments.acked_len[-5:].tolist() == [2 * ROOM] * 5
    assert (found.segments.dup_ack == 0).all()


def test_trains_that_were_cut_elsewhere_again_are_partly_new() -> None:
    """A resend may begin within one train and end in the next."""
    found = sender(
        train(30, 0, 102), train(31, TRAIN, 112), answer(51, 8 * ROOM), train(260, 8 * ROOM, 130, 4 * ROOM), answer(280, 2 * TRAIN)
    )
    assert found.segments.kind[-2] == Kind.SEEN_AGAIN
    assert (found.recoveries.start.tolist(), found.recoveries.stop.tolist()) == ([8 * ROOM], [12 * ROOM])


class Unmeasured(Recording):
    """The same with IP lengths of 0 where they are not the wire's, as some kernels show them."""

    def __init__(self, whole: Recording) -> None:
        self._whole = whole

    def sights(self) -> list[tuple[int, int, bytes]]:
        return [(true_ns, ns, data[:16] + b"\0\0" + data[18:] if len(data) > 1_514 else data) for true_ns, ns, data in self._whole.sights()]


@pytest.mark.parametrize("unmeasured", [False, True])
@pytest.mark.parametrize("length", [2 * ROOM, 60_000])
def test_trains_are_no_fault(length: int, unmeasured: bool) -> None:
    """With the length they have, and with none."""
    wire = Wire(rtt_ms=30).handshake().send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (3 * length))
    for _ in range(3):
        wire.supersegment(length)
    wire.wait(ms=10).reply(b"HTTP/1.1 204 No Content\r\n\r\n").close()
    trace = (Unmeasured(wire) if unmeasured else wire).trace()
    assert trace.packets.ip_len_zero.sum() == 3 * unmeasured
    assert trace.segments.payload_len.max() == length
    assert (trace.quality[0].super_segments, trace.quality[0].unseen_bytes) == (3, 0)
    findings = diagnose(trace).findings
    assert [
        finding.code for finding in findings if finding.conclusion.kind is not FindingKind.CAPTURE and finding.domain.value == "network"
    ] == []
    assert "offload-segments" in {finding.code for finding in findings}


def test_the_size_that_fails_is_that_of_the_packets_on_the_wire() -> None:
    """A sender beside the tap: the train vanishes, its first packet is sent again and again, small requests pass."""
    wire = Wire(rtt_ms=40, vantage="server").handshake()
    for _ in range(3):
        wire.http_get(body=300, think_ms=20).wait(ms=50)
    wire.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").wait(ms=20).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 14580\r\n\r\n")
    begin = wire._hosts["server"].next_start
    wire.supersegment(TRAIN, by="server", lose="after").reply(100)
    for number in range(4):
        wire.wait(ms=240 * 2**number).resend(begin, begin + ROOM, by="server", lose="after")
    trace = wire.wait(ms=4_000).fin("client").ack("server").trace()
    (found,) = find_oversize(trace.packets, trace.tcp)
    assert (found.failed_min_len, found.failed_sends, found.passed_max_len < 200) == (1_500, 5, True)
