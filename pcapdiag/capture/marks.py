"""What the first packets of a file say about where and when it was captured, whatever the link: enough to tell two captures apart.

This looks at usual TCP packets only, and knows no more of headers than that takes; decoding is the next step's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pcapdiag.capture.frames import Frames

_LOOKED_AT: Final = 256
_HEADER_LEN: Final = 32
"""A TCP header with timestamps; shorter ones hold too few numbers that no later one repeats."""
_TAIL_LEN: Final = 24
_TCP: Final = 6
_IP_AT: Final = {0: 4, 1: 14, 12: 0, 14: 0, 101: 0, 108: 4, 113: 16, 228: 0, 229: 0, 276: 20}
"""Link type -> where the IP header begins, tags aside: loopback, Ethernet, raw IP, OpenBSD loopback, Linux cooked 1 and 2."""
_TAGS: Final = frozenset({b"\x81\x00", b"\x88\xa8", b"\x91\x00"})
_FIRST_TTLS: Final = frozenset({64, 128, 255})
"""What hosts send with; any other value has crossed a router."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Of the first packets of a file."""

    packets: frozenset[bytes] = frozenset()
    """Bytes of each TCP packet that two captures of one path share, and two stretches of time do not."""
    near: frozenset[bytes] = frozenset()
    """Addresses whose packets had crossed no router."""
    far: frozenset[bytes] = frozenset()
    """Addresses all of whose packets had."""

    def turns(self, other: Marks) -> bool:
        """Was the other file captured at the far end of what this one was captured at the near end of?"""
        return bool(self.near & other.far and self.far & other.near)


def read_marks(frames: Frames) -> Marks:
    """Of the first frames of a batch."""
    packets, near, far = set[bytes](), set[bytes](), set[bytes]()
    columns = (frames.data_at, frames.captured, frames.link_type)
    for at, captured, link_type in zip(*(column[:_LOOKED_AT].tolist() for column in columns), strict=True):
        frame = frames.data[at : at + captured].tobytes()
        found = _tcp_of(frame, link_type)
        if found is None:
            continue
        tcp, source, ttl = found
        (near if ttl in _FIRST_TTLS else far).add(source)
        if len(frame) - tcp >= _HEADER_LEN:
            packets.add(frame[tcp : tcp + 16] + frame[tcp + 18 : tcp + _HEADER_LEN] + frame[-_TAIL_LEN:])
    return Marks(frozenset(packets), frozenset(near - far), frozenset(far - near))


def _tcp_of(frame: bytes, link_type: int) -> tuple[int, bytes, int] | None:
    """Where the TCP header begins, source address and TTL; None for anything else."""
    at = _IP_AT.get(link_type)
    if at is None:
        return None
    while link_type == 1 and frame[at - 2 : at] in _TAGS:
        at += 4
    version = frame[at] >> 4 if len(frame) > at else 0
    if version == 4 and len(frame) >= at + 20 and frame[at + 9] == _TCP and not (frame[at + 6] & 0x1F or frame[at + 7]):
        return at + 4 * (frame[at] & 0x0F), frame[at + 12 : at + 16], frame[at + 8]
    if version == 6 and len(frame) >= at + 40 and frame[at + 6] == _TCP:
        return at + 40, frame[at + 8 : at + 24], frame[at + 7]
    return None
