"""Trains of segments and the packets they became, both in one capture."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pcapdiag.flows.copies import COPY_NS, find_copies
from pcapdiag.flows.trains import with_cars
from pcapdiag.packets.table import Blob
from pcapdiag.pipeline import diagnose, load
from tests.capture_files import NANO, pcap_header, pcap_record
from tests.frame_bytes import ether, ipv4, udp, vxlan
from tests.packet_rows import MS, Row, packets, row
from tests.wire import Wire

Frames = list[tuple[int, bytes]]
SERVER: Final = bytes([10, 0, 0, 2])
SEQ_AT, LENGTH_AT, HEADERS_LEN = 38, 16, 66


def wrapped(frame: bytes) -> bytes:
    return ether(ipv4(udp(vxlan(frame), dport=4789), 17, src="192.0.2.1", dst="192.0.2.2"))


def cars(count: int = 5) -> Frames:
    """Answers of ten segments each."""
    wire = Wire(mss=1_410).handshake()
    for _ in range(count):
        wire = wire.http_get(body=14_000).wait(ms=30)
    return list(wire.frames())


def coupled(frames: Frames) -> Frames:
    """The same where neighbouring segments of the server are trains."""
    trains: Frames = []
    for at_ns, frame in frames:
        before = trains[-1][1] if trains else b""
        follows = all(f[26:30] == SERVER and len(f) > HEADERS_LEN for f in (before, frame))
        if (
            follows
            and struct.unpack_from(">I", before, SEQ_AT)[0] + len(before) - HEADERS_LEN == struct.unpack_from(">I", frame, SEQ_AT)[0]
        ):
            train = bytearray(before + frame[HEADERS_LEN:])
            struct.pack_into(">H", train, LENGTH_AT, len(train) - 14)
            trains[-1] = trains[-1][0], bytes(train)
        else:
            trains.append((at_ns, frame))
    return trains


@pytest.mark.parametrize("later_ns", [20_000, -200_000], ids=["cut", "coupled"])
def test_what_a_host_shows_before_and_behind_its_card_is_analysed_once(later_ns: int, tmp_path: Path) -> None:
    """The `any` interface of a node: trains at a container's interface, packets in the tunnel between the nodes."""
    parts = cars()
    frames = sorted(coupled(parts) + [(at_ns + later_ns, wrapped(frame)) for at_ns, frame in parts])
    path = tmp_path / "any.pcap"
    records = [pcap_record(frame, sec=at_ns // 10**9, fraction=at_ns % 10**9) for at_ns, frame in frames]
    path.write_bytes(pcap_header(magic=NANO) + b"".join(records))
    trace = load(str(path))
    assert len(trace.flows) == 1
    assert len(trace.packets) - len(trace.tcp.aside) == len(coupled(parts) if later_ns > 0 else parts)
    assert len(trace.tcp.resends) == 0
    assert {finding.code for finding in diagnose(trace).findings} <= {"duplicate-packets", "offload-segments"}


ROAD: Final = {"link_hash": 9}
TRAIN: Final[dict[str, Any]] = {"seq": 1_000, "payload_len": 3_000, "ip_id": 50, "has_ts": True, "ts_val": 7}
ACKS: Final = [row(0, back=True, seq=1, ack=9, ip_id=3), row(1_000, back=True, seq=1, ack=9, ip_id=3, **ROAD)]
"""One packet both roads show."""


def aside(*rows: Row) -> list[int]:
    """Which of the packets behind the two acknowledgments are copies."""
    table = packets(*ACKS, *rows)
    return [number - len(ACKS) for number in with_cars(table, find_copies(table)).row.tolist() if number >= len(ACKS)]


def train(at_ns: int, **changes: Any) -> Row:
    return row(MS + at_ns, **{**TRAIN, **changes})


def car(at_ns: int, number: int, **changes: Any) -> Row:
    return train(at_ns, **{"seq": 1_000 + 1_000 * number, "payload_len": 1_000, "ip_id": 50 + number, **ROAD, **changes})


def test_of_trains_and_cars_the_first_sight_stays() -> None:
    assert aside(train(0), car(1, 0), car(2, 1), car(3, 2)) == [1, 2, 3]
    assert aside(car(1, 0), car(2, 1), car(3, 2), train(9)) == [3]
    assert aside(car(1, 0), car(3, 2), train(9)) == [0, 1], "the train shows more"
    assert aside(train(0), car(1, 0), car(2, 2, payload_len=500)) == [1, 2]


@pytest.mark.parametrize("changes", [
    {"link_hash": 0}, {"ip_id": 60, "seq": 1_000}, {"ip_id": 50, "seq": 2_000}, {"ip_id": 49}, {"ts_val": 8}, {"ack": 77}, {"seq": 3_500},
    {"ip_id": 0, "has_ts": False},
])  # fmt: skip
def test_resends_are_no_cars(changes: dict[str, Any]) -> None:
    """They come by the same road, with a number or a time stamp of their own; or nothing tells."""
    assert aside(train(0), car(1, 0, **changes)) == []


def test_without_numbers_the_stamp_decides() -> None:
    assert aside(train(0, ip_id=0), car(1, 1, ip_id=0)) == [1]


def test_late_packets_are_no_cars() -> None:
    assert aside(train(0), car(COPY_NS, 1)) == [1]
    assert aside(train(0), car(COPY_NS + 1, 1)) == []


def test_without_other_copies_nothing_is_looked_for() -> None:
    table = packets(train(0), car(1, 0))
    found = find_copies(table)
    assert with_cars(table, found) is found
    assert not len(found.row)


def test_sequence_numbers_wrap() -> None:
    high = (1 << 32) - 500
    assert aside(train(0, seq=high), car(1, 0, seq=high), car(2, 1, seq=500), car(3, 2, seq=1_500)) == [1, 2, 3]


def test_bytes_have_to_be_the_trains() -> None:
    table = packets(*ACKS, train(0, payload_len=300), car(1, 1, seq=1_100, payload_len=100))
    whole = bytes(range(200)) + bytes(100)
    for octets, expected in ((whole[100:200], [3]), (whole[100:107] + b"X" + whole[108:200], [])):
        placed = replace(table, blob=Blob.of([np.frombuffer(whole + octets, np.uint8)]), payload_at=np.array([0, 0, 0, 300]))
        assert with_cars(placed, find_copies(placed)).row.tolist()[1:] == expected
