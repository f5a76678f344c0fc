"""h2-flow-control-stall: streams that wait for credit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from pcapdiag.detectors.h2_flow_control_stall import DETECTOR
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire
from tests.wire_bytes import pcap
from tests.wire_h2 import PREFACE, Blocks, data, reset, settings, window_update
from tests.wire_line import Vantage

S = 1_000_000_000
WINDOW = 65_535
ASK = [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "a")]
ANSWER = [(":status", "200"), ("content-type", "application/json")]
ROOMY = window_update(0, 1 << 20)
"""A connection window that no test fills."""


def body(stream: int, length: int, *, end: bool = False) -> bytes:
    """DATA frames of 16,384 bytes and less."""
    cuts = [*range(0, length, 16_384), length]
    return b"".join(data(stream, b"x" * (b - a), end_stream=end and b == length) for a, b in pairwise(cuts))


class Talk:
    """A connection with its header tables."""

    def __init__(self, credit: bytes = ROOMY, *, vantage: Vantage = "client", streams: tuple[int, ...] = (1,)) -> None:
        asked, self.answers = Blocks(), Blocks()
        ask = b"".join(asked.headers(stream, ASK, end_stream=True) for stream in streams)
        self.wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(PREFACE + settings() + credit + ask)
        self.wire.reply(settings() + settings(ack=True) + b"".join(self.answers.headers(stream, ANSWER) for stream in streams))


def stalled(level: Literal["stream", "connection"] = "stream", *, vantage: Vantage = "client", wait_ms: float = 1_000) -> Wire:
    """An answer that fills a window; the client gives credit late."""
    wire = Talk(ROOMY if level == "stream" else settings({4: 1 << 20}), vantage=vantage).wire
    wire.reply(body(1, WINDOW)).wait(ms=wait_ms)
    return wire.send(window_update(1 if level == "stream" else 0, 50_000)).reply(body(1, 30_000, end=True))


@pytest.mark.parametrize("vantage", ["client", "server"])
@pytest.mark.parametrize("level", ["stream", "connection"])
def test_a_reader_that_gives_no_credit_fires(level: Literal["stream", "connection"], vantage: Vantage) -> None:
    (found,) = conclusions(DETECTOR, stalled(level, vantage=vantage).trace())
    assert found.stall_ns == pytest.approx(1.04 * S, abs=0.05 * S)
    assert found.confidence.value == 0.95
    assert (found.details["level"], found.details["receiver"], found.details["variant"]) == (level, "client", "consumer-bound")
    assert [frame.note.split()[0] for frame in found.frames] == ["last", "WINDOW_UPDATE", "stream"]


def test_an_empty_connection_window_blocks_all_its_streams() -> None:
    wire = Talk(settings({4: 1 << 20}), streams=(1, 3)).wire
    wire.reply(body(3, 20_000) + body(1, WINDOW - 20_000)).wait(ms=1_000).send(window_update(0, 1 << 20))
    (found,) = conclusions(DETECTOR, wire.reply(body(1, 9_000, end=True) + body(3, 9_000, end=True)).trace())
    assert len(found.exchanges) == 2
    assert found.stall_ns == pytest.approx(2.08 * S, abs=0.1 * S)


def test_a_server_that_gives_no_credit_for_an_upload_is_named() -> None:
    asked = Blocks()
    wire = Wire(rtt_ms=40).handshake().send(PREFACE + settings() + asked.headers(1, ASK) + body(1, WINDOW)).reply(settings())
    wire.wait(ms=1_000).reply(window_update(0, 50_000) + window_update(1, 50_000)).send(body(1, 9_000, end=True))
    (found,) = conclusions(DETECTOR, wire.reply(Blocks().headers(1, ANSWER, end_stream=True)).trace())
    assert found.details["receiver"] == "server"


def test_settings_that_enlarge_open_streams_end_a_stall() -> None:
    wire = Talk().wire.reply(body(1, WINDOW)).wait(ms=1_000).send(settings({4: 1 << 20}))
    (found,) = conclusions(DETECTOR, wire.reply(body(1, 9_000, end=True)).trace())
    assert found.stall_ns == pytest.approx(1.04 * S, abs=0.05 * S)


def test_a_sender_that_waits_for_a_whole_frame_fires_less_surely() -> None:
    wire = Talk().wire.reply(body(1, WINDOW - 100)).wait(ms=1_000).send(window_update(1, 50_000))
    (found,) = conclusions(DETECTOR, wire.reply(body(1, 9_000, end=True)).trace())
    assert (found.confidence.value, found.details["window_left"]) == (0.8, 100)


def test_a_stream_that_is_reset_without_ever_getting_credit_is_a_lower_bound() -> None:
    wire = Talk().wire.reply(body(1, WINDOW)).wait(ms=2_000).send(reset(1, 8))
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.at_least
    assert found.confidence.value == 0.8


def test_without_the_beginning_only_the_pattern_speaks(tmp_path: Path) -> None:
    whole = stalled()
    path = tmp_path / "late.pcap"
    path.write_bytes(pcap(whole.frames()[3:]))
    found = conclusions(DETECTOR, load(str(path)))
    assert [one.confidence.value for one in found] == [0.3]


def test_a_slow_server_with_credit_stays_quiet() -> None:
    wire = Talk().wire.reply(body(1, 20_000)).send(window_update(1, 20_000)).wait(ms=1_500)
    assert conclusions(DETECTOR, wire.reply(body(1, 20_000, end=True)).trace()) == []


def test_credit_that_comes_just_before_more_data_but_was_not_needed_stays_quiet() -> None:
    wire = Talk().wire.reply(body(1, 30_000)).wait(ms=1_500).send(window_update(1, 30_000))
    assert conclusions(DETECTOR, wire.reply(body(1, 30_000, end=True)).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_download_at_one_window_per_round_trip_stays_quiet(vantage: Vantage) -> None:
    wire = Talk(vantage=vantage).wire
    for _ in range(8):
        wire.reply(body(1, WINDOW)).send(window_update(1, WINDOW))
    assert conclusions(DETECTOR, wire.reply(body(1, 9_000, end=True)).trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, stalled(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "h2-flow-control" / f"{end}.pcap")))
    assert found.stall_ns == pytest.approx(2.504 * S, rel=0.1)
    for quiet in ("clean-control", "capture-loss", "reordering-control", "h2-hol", "zero-window", "pmtu-blackhole-download"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
