"""syn-loss: a connection that opened only at a later try."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.syn_loss import DETECTOR
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire

SECOND = 1_000_000_000


def lost_syn(tries: int = 1) -> Wire:
    wire = Wire(rtt_ms=40)
    for turn in range(tries):
        wire.syn(lose="after").wait(ms=1000 << turn)
    return wire.syn().syn_ack().ack().http_get(think_ms=50)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 1), (2, 3)])
def test_a_lost_syn_fires(tries: int, seconds: int) -> None:
    (found,) = conclusions(DETECTOR, lost_syn(tries).trace())
    assert found.stall_ns == pytest.approx(seconds * SECOND, abs=5_000_000), "the round trip itself is not charged"
    assert (found.details["variant"], found.confidence.value) == ("syn-or-synack-loss", 0.9)
    assert len(found.frames) == tries + 2


def test_a_lost_syn_ack_fires_at_the_server() -> None:
    wire = Wire(vantage="server", rtt_ms=40).syn().syn_ack(lose="after").wait(ms=1000).syn_ack().ack().http_get()
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.details["variant"] == "synack-loss"
    assert found.stall_ns == pytest.approx(SECOND, abs=5_000_000)


def test_a_server_that_repeats_its_syn_ack_behind_the_ack_stays_quiet() -> None:
    """A full accept queue ignores the ACK: nothing was lost."""
    wire = Wire(vantage="server").handshake().wait(ms=1000).syn_ack().ack().http_get()
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_refused_connection_stays_quiet() -> None:
    assert conclusions(DETECTOR, Wire().syn(lose="after").wait(ms=1000).syn().rst("server").trace()) == []


def test_tries_that_nobody_answered_stay_quiet() -> None:
    assert conclusions(DETECTOR, Wire().syn(lose="after").wait(ms=1000).syn(lose="after").wait(ms=2000).syn(lose="after").trace()) == []


def test_a_healthy_connection_is_quiet() -> None:
    assert conclusions(DETECTOR, Wire(rtt_ms=900).handshake().http_get().trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, lost_syn(2), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    from pcapdiag.pipeline import load  # noqa: PLC0415 - only here

    (client,) = conclusions(DETECTOR, load(str(LAB / "syn-loss" / "client.pcap")))
    (server,) = conclusions(DETECTOR, load(str(LAB / "syn-loss" / "server.pcap")))
    assert client.stall_ns == pytest.approx(4.078 * SECOND, rel=0.1)
    assert (client.details["connections"], server.details["connections"]) == (3, 1)
