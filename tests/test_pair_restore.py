"""Packets that the near capture lacks stand at the time at which they passed its tap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pcapdiag.options import Options
from pcapdiag.pipeline import scan
from tests.two_taps import Tapped, Taps, codes, counts, finding
from tests.wire_line import MS

REQUEST = b"POST /v1/messages HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\nhi"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3_000


def longer_way(wire: Tapped) -> None:
    """From the fourth request on the path is 300 ms longer."""
    wire.handshake()
    for number in range(8):
        wire.rtt(20 if number < 3 else 320).send(REQUEST).wait(ms=30).reply(RESPONSE).wait(ms=200)
    wire.close()


def too_big(wire: Tapped) -> None:
    """A router between the taps tells the server, which cuts its answer smaller."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1300\r\n\r\n" + b"x" * 1_300
    wire.handshake().send(REQUEST).wait(ms=20).reply(answer, lose=wire.between("server")).icmp_ptb(1_200, quoting="server")
    wire.resend(0, 1_000, by="server").resend(1_000, len(answer), by="server").wait(ms=50).close()


def test_what_a_router_told_the_far_side_alone_explains_what_the_near_side_lacked(tmp_path: Path) -> None:
    diagnosis = Taps.of(too_big, rtt_ms=60).diagnosed(tmp_path)
    assert codes(diagnosis, but={"server-think"}) == ["icmp-ptb-honoured"]
    assert (finding(diagnosis, "icmp-ptb-honoured").conclusion.details["mtu"], diagnosis.tables.captures[1].name) == (1_200, "server.pcap")
    pair = diagnosis.tables.pair
    assert pair is not None
    assert counts(pair) == ({}, {"between": 1}), "the report itself never was to pass the near tap"


@pytest.mark.parametrize("offset_ms", [0, 7_000])
@pytest.mark.parametrize("dropped", [(40,), (41, 42), (45, 49), (55,)])
def test_a_packet_took_as_long_as_those_around_it(tmp_path: Path, dropped: tuple[int, ...], offset_ms: int) -> None:
    taps = Taps.of(longer_way).clocked(lambda ns: ns + offset_ms * MS)
    assert max(dropped) < len(taps.client)
    trace, _ = scan(taps.without(client=dropped).write(tmp_path), Options(pair=True, jobs=1))
    assert trace.pair is not None
    assert trace.pair.restored_count == len(dropped)
    there = np.sort(np.array([ns for ns, _ in taps.client]))
    assert np.abs(np.sort(trace.packets.ts_ns) - there).max() < 5 * MS


def test_packets_behind_a_queue_do_not_overtake_each_other(tmp_path: Path) -> None:
    """A burst of 40 segments takes 10 ms each to get through, so that the last of them is 400 ms late."""
    begun = Taps.of(
        lambda wire: (
            wire.handshake()
            .send(REQUEST)
            .wait(ms=30)
            .reply(RESPONSE)
            .wait(ms=900)
            .acks("none")
            .send(b"y" * 1_448 * 40)
            .wait(ms=900)
            .close()
        )
    )
    first = next(at for at, (_, frame) in enumerate(begun.server) if b"y" * 1_000 in frame)
    queued = [(ns + (max(at - first, 0) * 10 * MS), frame) for at, (ns, frame) in enumerate(begun.server)]
    taps = replace(begun, server=queued)
    burst = [at for at, (_, frame) in enumerate(taps.client) if b"y" * 1_000 in frame]
    trace, _ = scan(taps.without(client=burst[5:30:5]).write(tmp_path), Options(pair=True, jobs=1))
    assert trace.pair is not None
    assert trace.pair.restored_count == 5
    assert np.abs(np.sort(trace.packets.ts_ns) - np.array([ns for ns, _ in taps.client])).max() < 5 * MS
