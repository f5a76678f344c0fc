"""Reads the records of a pcap file: both byte orders, microseconds and nanoseconds, versions 2.0 to 2.x, and its odd relatives.

Format: draft-ietf-opsawg-pcap. A file header of 24 bytes, then records of 16 bytes and the captured bytes. Files that were put one
behind the other (`cat`, `tcpdump -w - >>`, members of a gzip file) are read on: no record begins like a file header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from pcapdiag.capture.chain import LANES, Links, first_true, gather, walk
from pcapdiag.capture.frames import Frames, Interface
from pcapdiag.columns import I64, U8, U32
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Loss

FILE_HEADER_LEN: Final = 24

_MICRO, _NANO = 1_000, 1
_MICROS_PER_S: Final = 1_000_000
_NANOS_PER_S: Final = 1_000_000_000
_SEVERAL: Final = 2
_PATCHED_LEN: Final = 24
_PACKET_TYPE_AT: Final = 22  # in a patched record header
_OUTGOING: Final = 4  # PACKET_OUTGOING of <linux/if_packet.h>; 0 to 2 came in, 3 was for another host
_INBOUND_FLAG, _OUTBOUND_FLAG = 1, 2  # epb_flags, bits 0-1
# magic as it lies in the file -> byte order, nanoseconds per unit of the second half of a timestamp, record header length
MAGICS: Final = {
    bytes.fromhex("d4c3b2a1"): ("<", _MICRO, 16),
    bytes.fromhex("a1b2c3d4"): (">", _MICRO, 16),
    bytes.fromhex("4d3cb2a1"): ("<", _NANO, 16),
    bytes.fromhex("a1b23c4d"): (">", _NANO, 16),
    # Kuznetsov's patched libpcap: 8 more bytes a record (interface index, protocol, packet type)
    bytes.fromhex("34cdb2a1"): ("<", _MICRO, _PATCHED_LEN),
    bytes.fromhex("a1b2cd34"): (">", _MICRO, _PATCHED_LEN),
    # IXIA's lcap, hardware and software: 4 more bytes of file header (the size of all records). Hardware is said to count
    # nanoseconds, Wireshark reads microseconds: the fractions decide.
    bytes.fromhex("ac01001c"): ("<", _MICRO, 16),
    bytes.fromhex("1c0001ac"): (">", _MICRO, 16),
    bytes.fromhex("ab01001c"): ("<", _MICRO, 16),
    bytes.fromhex("1c0001ab"): (">", _MICRO, 16),
}
_LONG_HEADERS: Final = {bytes.fromhex(magic) for magic in ("ac01001c", "1c0001ac", "ab01001c", "1c0001ab")}

MAX_CAPTURED_LEN: Final = 262_144
"""What libpcap accepts of most link types (MAXIMUM_SNAPLEN)."""
_MAX_CAPTURED_LEN_OF: Final = {
    189: 128 << 20,  # USB_LINUX
    220: 128 << 20,  # USB_LINUX_MMAPPED
    231: 128 << 20,  # DBUS
    249: 128 << 20,  # USBPCAP
    279: 8 << 20,  # EBHSCR
}
_MAX_SNAPLEN: Final = 128 << 20
"""A header that claims a larger snaplen says nothing about the packets."""


class PcapReader:
    """Turns windows of pcap records into frames; it does no input of its own."""

    def __init__(self, head: bytes, name: str, capture: int, count: Callable[[Loss, int], None]) -> None:
        """`head`: the first bytes of the file, 24 or more if it has them."""
        self.header_len = FILE_HEADER_LEN + 4 * (head[:4] in _LONG_HEADERS)
        if len(head) < self.header_len:
            raise CaptureError(f"{name}: ends inside the pcap file header ({len(head)} of {self.header_len} bytes)")
        self._order, self._fraction_ns, self._header_len = MAGICS[head[:4]]
        self._begin = bytes(head[:8])
        major, minor, _, _, snaplen, link_type = struct.unpack_from(f"{self._order}HHiIII", head, 4)
        if not (major == 2 or (major, minor) == (543, 0)):
            raise CaptureError(f"{name}: pcap version {major}.{minor} at offset 4 is not supported (2.x is)")
        # Until 2.3, and in DG/UX's 543.0, the wire length came first; of 2.3 both kinds exist.
        self._captured_at: int | None = None if (major, minor) == (2, 3) else 12 if (major, minor) < (2, 3) or major == 543 else 8
        self._link_type = link_type & 0xFFFF  # above: reserved bits and the length of a frame check sequence
        self._limit = _limit_of(self._link_type, snaplen)
        self._capture, self._count = capture, count
        self.format = "pcap-ns" if self._fraction_ns == _NANO else "pcap"
        self.interfaces: tuple[Interface, ...] = (Interface(link_type=self._link_type, snaplen=snaplen),)
        self._interface = 0
        self.comments: tuple[str, ...] = ()
        self.secrets: tuple[bytes, ...] = ()
        self.other_secrets: tuple[tuple[int, bytes], ...] = ()
        self.names: tuple[tuple[bytes, str], ...] = ()
        self.frame_count = 0
        self.broken: str | None = None

    @property
    def numbered_count(self) -> int:
        """Frame numbers used so far: one for each frame."""
        return self.frame_count

    def read(self, window: U8) -> tuple[Frames | None, int]:
        """The frames that lie whole in the window, and how many of its bytes they take."""
        if self._captured_at is None:
            self._captured_at = _captured_at_of_2_3(window, self._order)
        parts: list[Frames] = []
        used, lanes = 0, LANES
        while self.broken is None:
            frames, taken = self._read_records(window, used, self._captured_at, lanes)
            lanes = 1  # a further file begins here: short files would pay for all lanes of the window each
            used += taken
            if frames is not None:
                parts.append(frames)
            if len(window) - used < self.header_len or window[used : used + 8].tobytes() != self._begin:
                break
            self._begin_file(window[used : used + FILE_HEADER_LEN])
            used += self.header_len
        if len(parts) < _SEVERAL:
            return (parts[0] if parts else None), used
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Frames.columns()}
        return Frames(**columns, data=window[:used], capture=self._capture), used

    def _begin_file(self, head: U8) -> None:
        """Reads the header of a further file: of the same kind, perhaps of another link type."""
        snaplen, link_type = struct.unpack_from(f"{self._order}II", head.data, 16)
        self._link_type = link_type & 0xFFFF
        link_types = [interface.link_type for interface in self.interfaces]
        if self._link_type not in link_types:
            self.interfaces += (Interface(link_type=self._link_type, snaplen=snaplen),)
        self._interface = [interface.link_type for interface in self.interfaces].index(self._link_type)
        self._limit = max(self._limit, _limit_of(self._link_type, snaplen))

    def _read_records(self, window: U8, start: int, captured_at: int, lanes: int) -> tuple[Frames | None, int]:
        """The frames from `start` up to the end, what is broken, or the header of a further file; how many bytes they take."""
        at = walk(window, start, self._links(window[start:], captured_at), lanes=lanes)
        words = gather(window, at, f"{self._order}u4", 4)
        magic, version = struct.unpack(f"{self._order}II", self._begin)
        further = first_true((words[:, 0] == magic) & (words[:, 1] == version))
        at, words = at[:further], words[:further]
        captured = words[:, captured_at // 4].astype(np.uint32)
        length = words[:, 5 - captured_at // 4].astype(np.uint32)
        good = first_true(captured > self._limit)
        at, words, captured, length = at[:good], words[:good], captured[:good], length[:good]
        used = int(at[-1]) + self._header_len + int(captured[-1]) if good else start
        self._look_behind(window[used : used + self._header_len])
        if not good:
            return None, 0
        are_nanoseconds = (words[:, 1] >= _MICROS_PER_S) & (words[:, 1] < _NANOS_PER_S)
        if not self.frame_count and self._fraction_ns == _MICRO and 2 * int(are_nanoseconds.sum()) > good:
            self._fraction_ns, self.format = _NANO, "pcap-ns"  # a magic that lies, as some exporters write
        ts_ns = words[:, 0] * np.int64(_NANOS_PER_S)
        ts_ns += words[:, 1] * np.int64(self._fraction_ns)
        return self._frames(window[:used], at, ts_ns, captured, np.maximum(length, captured)), used - start

    def _frames(self, data: U8, at: I64, ts_ns: I64, captured: U32, length: U32) -> Frames:
        first = self.frame_count + 1
        self.frame_count += len(at)
        return Frames(
            number=np.arange(first, first + len(at), dtype=np.int64),
            ts_ns=ts_ns,
            link_type=np.full(len(at), self._link_type, np.uint16),
            interface=np.full(len(at), self._interface, np.uint16),
            length=length,
            captured=captured,
            flags=np.zeros(len(at), np.uint32) if self._header_len != _PATCHED_LEN else _direction_flags(data[at + _PACKET_TYPE_AT]),
            data_at=at + self._header_len,
            data=data,
            capture=self._capture,
        )

    def _links(self, window: U8, captured_at: int) -> Links:
        return Links(
            order=self._order,
            length_at=captured_at,
            least_len=self._header_len,
            least_value=0,
            begin=_usual_record(bytes(window[:4]), self._order, self._fraction_ns),
            begin_at=3 if self._order == "<" else 0,
        )

    def _look_behind(self, header: U8) -> None:
        """Stops reading if the record behind the whole ones claims a length no packet has."""
        if len(header) < self._header_len or self._captured_at is None or header[:8].tobytes() == self._begin:
            return
        (captured,) = struct.unpack_from(f"{self._order}I", header.data, self._captured_at)
        if captured > self._limit:
            self.broken = f"a record claims {captured:,} captured bytes, more than the {self._limit:,} a capture of its kind can have"
            self._count(Loss.BAD_RECORD_LENGTH, 1)

    def rest_note(self, rest: U8) -> str:
        """What the last bytes of a file are that are no whole record."""
        if rest[:8].tobytes() == self._begin:
            return f"the file ends inside the header of a further file ({len(rest)} of {self.header_len} bytes)"
        if len(rest) < self._header_len or self._captured_at is None:
            return f"the file ends inside a record header ({len(rest)} of {self._header_len} bytes)"
        (captured,) = struct.unpack_from(f"{self._order}I", rest.data, self._captured_at)
        return f"the file ends inside a packet ({len(rest) - self._header_len:,} of {captured:,} bytes)"


def _limit_of(link_type: int, snaplen: int) -> int:
    """The most captured bytes a record may claim."""
    return max(_MAX_CAPTURED_LEN_OF.get(link_type, MAX_CAPTURED_LEN), snaplen if snaplen <= _MAX_SNAPLEN else 0)


def _direction_flags(packet_type: U8) -> U32:
    """What a patched record says of the packet's direction, as pcapng says it."""
    inbound = np.where(packet_type < _OUTGOING - 1, _INBOUND_FLAG, 0)
    return np.where(packet_type == _OUTGOING, _OUTBOUND_FLAG, inbound).astype(np.uint32)


def _usual_record(first: bytes, order: str, fraction_ns: int) -> re.Pattern[bytes]:
    """Record headers within 194 days of `first`, a seconds field, and of lengths a network has.

    The pattern begins with the highest byte of the seconds, a literal: that is what makes the search fast.
    """
    fraction = rb"[\x00-\x3b].." if fraction_ns == _NANO else rb"\x00[\x00-\x0f]."
    length = rb"\x00[\x00-\x04].."
    if order == ">":
        return re.compile(re.escape(first[:1]) + b"..." + fraction + b"." + length + length, re.DOTALL)
    fraction = rb"..[\x00-\x3b]" if fraction_ns == _NANO else rb".[\x00-\x0f]\x00"
    length = rb"..[\x00-\x04]\x00"
    return re.compile(re.escape(first[3:4]) + b"." + fraction + length + length, re.DOTALL)


def _captured_at_of_2_3(window: U8, order: str) -> int:
    """Where records of a version 2.3 file keep the captured length: 8, or 12 if a record would be longer than its packet."""
    view, pos = window.data, 0
    for _ in range(10_000):
        if pos + 16 > len(view):
            break
        first, second = struct.unpack_from(f"{order}II", view, pos + 8)
        if first > second:
            return 12
        pos += 16 + first
    return 8
