"""microburst-loss: several connections lose packets in the same milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.microburst_loss import DETECTOR
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Merged, Wire, merge

BODY = 14_000
LOST = (7, 8)


def fan_out(
    *, connections: int = 4, rounds: int = 1, apart_ms: float = 0, lost: tuple[int, ...] = LOST, every_ms: float = 0, after_ms: float = 45
) -> Merged:
    """Answers of ten packets that leave within a millisecond, or apart_ms from each other, or paced."""
    wires = []
    for number in range(connections):
        wire = Wire(vantage="server", rtt_ms=40, cport=50_000 + number, start_ms=number * apart_ms).handshake()
        for _ in range(rounds):
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n".encode()
            wire.wait(ms=900).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").reply(
                head + b"x" * BODY, lose="after", only=lost, every_ms=every_ms
            )
            end = wire._hosts["server"].next_start
            room = 1_448
            begin = end - len(head) - BODY
            wire.wait(ms=after_ms).resend(begin + LOST[0] * room, begin + (LOST[1] + 1) * room, by="server")
        wires.append(wire)
    return merge(*wires)


def test_one_burst_that_hits_several_connections_fires() -> None:
    (found,) = conclusions(DETECTOR, fan_out().trace())
    assert (found.details["bursts"], found.details["connections"]) == (1, 4)
    assert found.confidence.value == 0.4
    assert found.stall_ns > 0
    assert len(found.exchanges) == 4


def test_repeated_bursts_are_surer() -> None:
    (found,) = conclusions(DETECTOR, fan_out(rounds=3).trace())
    assert (found.details["bursts"], found.confidence.value) == (3, 0.7)


def test_losses_one_after_the_other_stay_quiet() -> None:
    assert conclusions(DETECTOR, fan_out(apart_ms=200).trace()) == []


def test_simultaneous_losses_of_paced_senders_stay_quiet() -> None:
    assert conclusions(DETECTOR, fan_out(every_ms=5, apart_ms=1.25).trace()) == []


def test_random_loss_on_connections_that_send_together_stays_quiet() -> None:
    """One packet in forty, of whichever connection: some losses meet because the packets do."""
    wires, room = [], 1_448
    for number in range(4):
        wire = Wire(vantage="server", rtt_ms=40, cport=50_000 + number).handshake()
        for turn in range(4):
            body = b"HTTP/1.1 200 OK\r\nContent-Length: 57000\r\n\r\n" + b"x" * 57_000
            lost = (7 + 11 * number + 5 * turn) % 38
            begin = wire._hosts["server"].next_start
            wire.wait(ms=900).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").reply(body, lose="after", only=[lost])
            wire.wait(ms=45).resend(begin + lost * room, begin + (lost + 1) * room, by="server")
        wires.append(wire)
    assert conclusions(DETECTOR, merge(*wires).trace()) == []


def test_losses_that_nobody_could_repair_for_long_are_of_a_broken_link() -> None:
    assert conclusions(DETECTOR, fan_out(after_ms=400).trace()) != []
    assert conclusions(DETECTOR, fan_out(after_ms=900).trace()) == []


def test_losses_of_one_connection_stay_quiet() -> None:
    assert conclusions(DETECTOR, fan_out(connections=1, rounds=4).trace()) == []


def test_two_connections_once_may_be_chance_and_stay_quiet() -> None:
    assert conclusions(DETECTOR, fan_out(connections=2).trace()) == []


def test_a_burst_without_loss_stays_quiet() -> None:
    assert conclusions(DETECTOR, fan_out(lost=()).trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, fan_out(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "microburst-loss" / f"{end}.pcap")))
    assert found.confidence.value == 0.7
    assert found.stall_ns > 1_500_000_000
    for quiet in ("h2-hol", "tail-loss-rto", "link-blackout", "clean-control", "capture-loss", "reordering-control"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
