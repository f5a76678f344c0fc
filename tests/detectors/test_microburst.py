"""microburst: bursts near the speed of an interface that the file names."""

from __future__ import annotations

import struct
from pathlib import Path

from pcapdiag.detectors.microburst import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import load
from pcapdiag.trace import Trace
from tests.capture_files import EPB, IDB, block, option, section
from tests.detectors.opinion import conclusions, of_cuts
from tests.wire import Recording, Wire, merge

BODY = 14_000


def fan_out(*, connections: int = 6, rounds: int = 4, apart_ms: float = 0) -> Recording:
    wires = []
    for number in range(connections):
        wire = Wire(vantage="server", rtt_ms=40, cport=50_000 + number, start_ms=number * apart_ms).handshake()
        for _ in range(rounds):
            wire.wait(ms=900).http_get(body=BODY)
        wires.append(wire)
    return merge(*wires)


def with_speed(recording: Recording, folder: Path, bps: int | None) -> Trace:
    """The same capture as pcapng, with if_speed (option 8) and nanoseconds (option 9)."""
    options = option(9, b"\x09") + (option(8, struct.pack("<Q", bps)) if bps else b"")
    blocks = [section(), block(IDB, struct.pack("<HHI", 1, 0, 0) + options)]
    for ts_ns, data in recording.frames():
        head = struct.pack("<IIIII", 0, ts_ns >> 32, ts_ns & 0xFFFFFFFF, len(data), len(data))
        blocks.append(block(EPB, head + data))
    path = folder / "speed.pcapng"
    path.write_bytes(b"".join(blocks))
    return load(str(path))


def test_bursts_of_a_fan_out_are_found(tmp_path: Path) -> None:
    (found,) = conclusions(DETECTOR, with_speed(fan_out(), tmp_path, 1_000_000_000))
    assert found.kind is FindingKind.RISK
    assert (found.details["bursts"], found.details["connections"], found.details["link_bps"]) == (4, 6, 1_000_000_000)


def test_without_a_known_speed_it_is_quiet(tmp_path: Path) -> None:
    assert conclusions(DETECTOR, with_speed(fan_out(), tmp_path, None)) == []


def test_a_fast_interface_is_quiet(tmp_path: Path) -> None:
    assert conclusions(DETECTOR, with_speed(fan_out(), tmp_path, 10_000_000_000)) == []


def test_answers_one_after_the_other_are_quiet(tmp_path: Path) -> None:
    assert conclusions(DETECTOR, with_speed(fan_out(apart_ms=30), tmp_path, 1_000_000_000)) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, fan_out(), tmp_path)) > 10
