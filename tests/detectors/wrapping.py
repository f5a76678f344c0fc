"""Conversations as a tap outside a tunnel sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.frame_bytes import ether, ipv4, udp, vxlan
from tests.wire_recording import Recording

ENDS = {b"\x02\0\0\0\0\x01": "192.0.2.10", b"\x02\0\0\0\0\x02": "192.0.2.20"}
"""Sender's MAC -> its tunnel endpoint."""


def in_vxlan(frame: bytes) -> bytes:
    """A frame in VXLAN between the endpoints of its two hosts, on a link of its own for each direction."""
    destination, source = frame[:6], frame[6:12]
    there = ENDS.get(destination, "192.0.2.20")
    return ether(ipv4(udp(vxlan(frame), dport=4789), 17, src=ENDS.get(source, "192.0.2.10"), dst=there), src=source, dst=destination)


def mirrored(frame: bytes) -> bytes:
    """A frame in VXLAN from a mirroring cloud to an analyser: whatever its direction, the same link and endpoints."""
    return ether(ipv4(udp(vxlan(frame, 7_777), dport=4789), 17, src="192.0.2.99", dst="192.0.2.100"))


@dataclass(frozen=True)
class Wrapped(Recording):
    """A recording whose frames are wrapped, or some of them."""

    inner: Recording
    wrap: Callable[[bytes], bytes] = in_vxlan
    keep: Callable[[bytes], bool] = lambda _: False
    """Frames that stay as they are."""

    def sights(self) -> list[tuple[int, int, bytes]]:
        """The same times, other bytes."""
        return [(true_ns, shown_ns, data if self.keep(data) else self.wrap(data)) for true_ns, shown_ns, data in self.inner.sights()]
