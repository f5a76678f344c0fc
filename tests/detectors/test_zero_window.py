"""zero-window: a receiver that does not read, on either side."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.zero_window import DETECTOR
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire
from tests.wire_line import Vantage

GET = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n"
OPEN = 64_000
S = 1_000_000_000


def download(*, vantage: Vantage = "client", shut_ms: float = 1_500, probes: int = 2, handshake: bool = True) -> Wire:
    """The client shuts its window in the middle of an answer; the server probes it."""
    wire = Wire(vantage=vantage)
    if handshake:
        wire.handshake()
    wire.send(GET).reply(HEAD + b"x" * 10_000).ack(window=0)
    for _ in range(probes):
        wire.wait(ms=shut_ms / (probes + 1)).keepalive("server").ack(window=0)
    return wire.wait(ms=shut_ms / (probes + 1)).ack(window=OPEN).reply(b"x" * 20_000)


@pytest.mark.parametrize("vantage", ["client", "server", "middle"])
def test_a_client_that_stops_reading_fires(vantage: Vantage) -> None:
    (found,) = conclusions(DETECTOR, download(vantage=vantage).trace())
    assert found.stall_ns == pytest.approx(1.5 * S, abs=0.1 * S)
    assert found.confidence.value == 0.98
    assert (found.details["receiver"], found.details["receiver_host"]) == ("client", "10.0.0.1")
    assert (found.details["stalls"], found.details["probes"], found.details["variant"]) == (1, 2, None)
    assert {"window 0", "window probe", "data flows again"} <= {frame.note for frame in found.frames}


def test_both_ends_see_the_same_seconds() -> None:
    client, server = (conclusions(DETECTOR, download(vantage=end).trace())[0].stall_ns for end in ("client", "server"))
    assert client == pytest.approx(server, abs=0.025 * S)


def test_a_server_that_stops_reading_an_upload_fires() -> None:
    wire = Wire().handshake().send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + b"x" * 10_000).ack("server", window=0)
    wire.wait(ms=900).ack("server", window=OPEN).send(20_000).reply(b"HTTP/1.1 204 No Content\r\n\r\n")
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.details["receiver"] == "server"
    assert found.summary.startswith("The server 10.0.0.2:80 stopped reading")
    assert found.stall_ns == pytest.approx(0.9 * S, abs=0.1 * S)


def test_many_short_stalls_fire_together() -> None:
    wire = Wire(rtt_ms=10).handshake().send(GET).reply(HEAD + b"x" * 2_000)
    for _ in range(6):
        wire.ack(window=0).wait(ms=60).ack(window=OPEN).reply(b"x" * 4_000)
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.details["stalls"] == 6


def test_without_the_handshake_zero_is_still_zero_but_a_lower_bound() -> None:
    (found,) = conclusions(DETECTOR, download(handshake=False).trace())
    assert found.at_least
    assert not found.details["window_scale_known"]


def test_a_window_shut_to_the_end_is_a_lower_bound() -> None:
    wire = Wire().handshake().send(GET).reply(HEAD + b"x" * 10_000).ack(window=0)
    wire.wait(ms=400).keepalive("server").ack(window=0).wait(ms=800).keepalive("server").ack(window=0)
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.at_least
    assert found.stall_ns > 1.1 * S


def test_a_window_that_only_a_probe_opens_accuses_nobody() -> None:
    wire = Wire(rtt_ms=30).handshake().send(GET).reply(HEAD + b"x" * 10_000).ack(window=0)
    wire.wait(ms=2_000).keepalive("server").ack(window=OPEN).reply(b"x" * 20_000)
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.details["variant"] == "window-update-lost"
    assert "stopped reading" not in found.summary


def test_a_shut_window_with_nothing_to_send_stays_quiet() -> None:
    wire = Wire().handshake().http_get(body=9_000).ack(window=0).wait(ms=3_000).ack(window=OPEN)
    assert conclusions(DETECTOR, wire.wait(ms=500).http_get(body=9_000).trace()) == []


def test_a_window_that_reopens_at_once_stays_quiet() -> None:
    assert conclusions(DETECTOR, download(shut_ms=60, probes=0).trace()) == []


def test_a_full_window_that_never_reads_zero_stays_quiet() -> None:
    wire = Wire(rtt_ms=300).advertise("client", 2_896).handshake().send(GET).reply(HEAD)
    for _ in range(10):
        wire.reply(b"x" * 2_896).ack()
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_proxy_that_answers_syns_with_window_zero_stays_quiet() -> None:
    wire = Wire().syn().syn_ack(window=0).ack().wait(ms=700).ack("server", window=OPEN).http_get(body=9_000)
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, download(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "zero-window" / f"{end}.pcap")))
    assert found.stall_ns == pytest.approx(3.013 * S, rel=0.1)
    (slow,) = conclusions(DETECTOR, load(str(LAB / "slow-client" / f"{end}.pcap")))
    assert slow.details["stalls"] > 3
    for quiet in ("clean-control", "capture-loss", "reordering-control", "h2-flow-control", "link-blackout", "bufferbloat"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
