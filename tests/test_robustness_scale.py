"""Four times the packets take about four times the time, whatever the packets are made to do."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pcapdiag.pipeline import diagnose_files
from pcapdiag.reporters import REPORTERS
from tests import test_protocols_dns as dns
from tests.wire import START_NS, Wire, merge
from tests.wire_bytes import Ip, ethernet, pcap
from tests.wire_h2 import PREFACE, RESPONSE, Blocks, data, settings

FEW: Final = 1_500
_MACS: Final = (bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2]))


def shut_windows(count: int) -> bytes:
    """A receiver that shuts its window `count` times during one request."""
    wire = Wire(rtt_ms=2).acks("none").handshake()
    for _ in range(count):
        wire.send(100).ack("server", window=0).wait(ms=8).ack("server", window=9_000)
    return wire.pcap()


def streams(count: int) -> bytes:
    """As many h2 streams on one connection, fifty of them open at a time."""
    asks, answers = Blocks(), Blocks()
    wire = Wire(rtt_ms=2).acks("none").handshake().send(PREFACE + settings()).reply(settings())
    for number in range(count):
        request = [(":method", "GET"), (":scheme", "http"), (":path", f"/{number}"), (":authority", "a")]
        wire.send(asks.headers(2 * number + 1, request, end_stream=True))
        if number >= 50:
            stream_id = 2 * (number - 50) + 1
            wire.reply(answers.headers(stream_id, RESPONSE) + data(stream_id, b"hello", end_stream=True))
    return wire.pcap()


def questions(count: int) -> bytes:
    """One client asks the same from ever other ports, a thousand times a second, and nobody answers."""
    payload = dns.message([dns.question("a.test")])
    ip = Ip(src="10.0.0.1", dst="10.0.0.53", proto=17)
    frames = []
    for number in range(count):
        datagram = struct.pack("!HHHH", 1_024 + number % 60_000, 53, 8 + len(payload), 0) + payload
        frames.append((START_NS + number * 1_000_000, ethernet(*_MACS, ip.packet(datagram))))
    return pcap(frames)


def one_question(count: int) -> bytes:
    """One question, repeated."""
    wire = Wire(sport=53)
    for _ in range(count):
        wire.udp(dns.message([dns.question("a.test")])).wait(ms=3)
    return wire.pcap()


def holes(count: int) -> bytes:
    """Every twentieth packet is lost and resent a little later."""
    wire = Wire(rtt_ms=2).acks("none").handshake().send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")
    for _ in range(count // 20):
        wire.send(28_960, lose="after", only=[3]).wait(ms=1).ack("server").resend(5_000, 6_448)
    return wire.pcap()


def connections(count: int) -> bytes:
    """Connections with one request each."""
    return merge(*(Wire(cport=1_024 + number, start_ms=number).handshake().http_get().close() for number in range(count // 10))).pcap()


CASES: Final[list[Callable[[int], bytes]]] = [shut_windows, streams, questions, one_question, holes, connections]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_time_grows_with_the_packets_and_not_with_their_square(make: Callable[[int], bytes], tmp_path: Path) -> None:
    took = []
    for count in (FEW, 4 * FEW):
        path = tmp_path / f"{count}.pcap"
        path.write_bytes(make(count))
        begun = time.process_time()
        REPORTERS["json"](diagnose_files([str(path)]), width=80)
        took.append(time.process_time() - begun)
    assert took[1] < 8 * took[0] + 0.2
