"""Bytes lost before the tap that come in sequence: what proves them lost."""

from __future__ import annotations

import pytest

from pcapdiag.flows.resend_table import Evidence
from tests.wire import Recording, Wire


def starts(told: Recording) -> list[int]:
    """Offsets of the bytes that came late without a hole."""
    found = told.trace().tcp.resends
    return [start for start, bits in zip(found.start.tolist(), found.evidence.tolist(), strict=True) if Evidence.ANNOUNCED & bits]


def late(*, lose: bool = True, ip_id: bool = True, timestamps: bool = True, wait_ms: float = 240) -> Wire:
    """Four requests; the last one comes late, after a loss or not."""
    told = Wire(vantage="server", ip_id=ip_id, timestamps=timestamps).handshake()
    for _ in range(3):
        told.send(100).reply(50).wait(ms=30)
    return (told.send(100, lose="before").wait(ms=wait_ms).resend() if lose else told.wait(ms=wait_ms).send(100)).reply(10)


def test_skipped_ip_ids_prove_it() -> None:
    assert starts(late()) == [300]


@pytest.mark.parametrize("told", [
    late(lose=False), late(ip_id=False), late(timestamps=False), late(wait_ms=100), late(wait_ms=30_000),
], ids=["none skipped", "no IP-IDs", "IP-IDs of a whole host", "too soon for a timer", "too long for one loss"])  # fmt: skip
def test_nothing_else_does(told: Wire) -> None:
    assert starts(told) == []


def test_a_host_whose_other_traffic_takes_ids_proves_nothing() -> None:
    told = Wire(vantage="server").handshake()
    for number in range(8):
        told.wait(ms=240).send(100, ip_id=300 + 3 * number).reply(50)
    assert starts(told) == []


def test_a_packet_that_counts_further_than_came_proves_it_without_ip_ids() -> None:
    told = Wire(vantage="server", ip_id=False).handshake().send(100).send(200, lose="before").wait(ms=50).keepalive()
    assert starts(told.wait(ms=300).resend(100, 300, by="client")) == [100]
    assert starts(Wire(vantage="server", ip_id=False).handshake().send(100).wait(ms=50).keepalive().wait(ms=300).send(200)) == []


def test_what_was_lost_may_have_been_an_ack_that_the_sender_owed() -> None:
    """Every packet received may be answered by one without bytes, and it uses an IP-ID."""
    told = Wire(vantage="server").handshake()
    for _ in range(4):
        told.send(100).reply(50).wait(ms=60)
    told.acks("none", "client").reply(50).ack("client", lose="before").acks("quick", "client")
    assert starts(told.wait(ms=240).send(100).reply(10)) == []


def test_bytes_overtaken_by_the_packet_that_counts_them_were_not_lost() -> None:
    told = Wire(vantage="server").handshake().send(100).reply(10).wait(ms=20).send(200, late_ms=30).wait(ms=2).ack("client")
    assert starts(told.wait(ms=60).send(10)) == []
