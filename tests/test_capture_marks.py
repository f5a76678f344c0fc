"""Two captures of one path are two, whatever their link, and so are captures of two hosts, however far apart in time they are."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pcapdiag.capture import Recordings, gather_inputs
from pcapdiag.losses import Losses
from tests.wire import Wire
from tests.wire_bytes import pcap
from tests.wire_line import Vantage

if TYPE_CHECKING:
    from pathlib import Path

Frames = list[tuple[int, bytes]]

LINKS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "ethernet": (1, bytes),
    "vlan": (1, lambda frame: frame[:12] + b"\x81\x00\x00\x05" + frame[12:]),
    "loopback": (0, lambda frame: b"\x02\0\0\0" + frame[14:]),
    "raw": (101, lambda frame: frame[14:]),
    "any": (113, lambda frame: b"\0\0\0\x01\0\x06" + frame[6:12] + b"\0\0" + frame[12:]),
    "any-2": (276, lambda frame: frame[12:14] + b"\0\0\0\0\0\x02\0\x01\0\x06" + frame[6:12] + b"\0\0" + frame[14:]),
}


def talk(vantage: Vantage, *, cport: int = 50_000, ipv6: bool = False) -> Wire:
    wire = Wire(vantage=vantage, cport=cport, ipv6=ipv6).handshake()
    for _ in range(8):
        wire.http_get(think_ms=50, body=6_000).wait(ms=300)
    return wire.close()


def captures(folder: Path, *parts: Frames, link: str = "ethernet") -> list[int]:
    """How many files each capture has."""
    link_type, framed = LINKS[link]
    for number, frames in enumerate(parts):
        data = pcap([(ns, framed(frame)) for ns, frame in frames])
        (folder / f"{number}.pcap").write_bytes(data[:20] + struct.pack("<I", link_type) + data[24:])
    with gather_inputs([str(folder)]) as inputs:
        recordings = Recordings(inputs.captures, Losses())
        for _ in recordings:
            pass
    return [len(capture.each) for capture in recordings.captures]


def later(frames: Frames, seconds: float) -> Frames:
    return [(ns + round(seconds * 1e9), frame) for ns, frame in frames]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("ipv6", [False, True])
def test_two_captures_of_one_path_are_two(tmp_path: Path, link: str, ipv6: bool) -> None:
    near, far = talk("client", ipv6=ipv6).frames(), talk("server", ipv6=ipv6).frames()
    assert captures(tmp_path, near, later(far, 10), link=link) == [1, 1]


@pytest.mark.parametrize("link", LINKS)
def test_a_ring_is_one(tmp_path: Path, link: str) -> None:
    frames = talk("middle").frames()
    assert captures(tmp_path, frames[:40], frames[40:80], frames[80:], link=link) == [3]


def test_captures_of_two_hosts_are_two_even_of_different_traffic(tmp_path: Path) -> None:
    """Times to live say at which end a capture was taken."""
    near, far = talk("client").frames(), talk("server", cport=50_001).frames()
    assert captures(tmp_path, near, later(far, 10)) == [1, 1]
    assert captures(tmp_path, near, later(talk("client", cport=50_001).frames(), 10)) == [2]
    assert captures(tmp_path, near, later(talk("middle", cport=50_001).frames(), 10)) == [2], "routes change"


def test_what_is_no_usual_packet_says_nothing(tmp_path: Path) -> None:
    odd = [
        (1_000_000_000 * n, frame)
        for n, frame in enumerate((b"", b"\x45", bytes(14), bytes(12) + b"\x81\0" * 20, bytes(12) + b"\x86\xdd\x60"))
    ]
    assert captures(tmp_path, odd, later(odd, 10)) == [2]
