"""What the pcapng blocks say that hold no packet: sections, interfaces, their clocks and counters, names, secrets.

Format: draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from pcapdiag.capture.frames import Interface
from pcapdiag.columns import I64, U64
from pcapdiag.losses import Loss

FARTHEST_NS: Final = (1 << 62) - 1
"""Times are kept within this of the epoch (the year 2116): differences and sums of two still fit 64 bits."""
_NS_PER_S: Final = 1_000_000_000

_COMMENT, _END = 1, 0  # every block
_IF_NAME, _IF_DESCRIPTION, _IF_SPEED, _IF_TSRESOL, _IF_FILTER, _IF_TSOFFSET, _IF_HARDWARE = 2, 3, 8, 9, 11, 14, 15  # section 4.2
_STATISTICS = _ISB_IFRECV, _ISB_IFDROP, _ISB_OSDROP = 4, 5, 7  # section 4.6
TLS_KEY_LOG: Final = 0x544C534B  # section 4.7
_ADDRESS_LENS: Final = {1: 4, 2: 16}  # nrb_record_ipv4, nrb_record_ipv6 (section 4.5)

MAX_COMMENTS: Final = 100
MAX_COMMENT_LEN: Final = 4_096
MAX_NAMES: Final = 100_000
MAX_NAME_LEN: Final = 255  # RFC 1035 section 2.3.4

Count = Callable[[Loss, int], None]


@dataclass(frozen=True, slots=True)
class Clock:
    """How an interface writes time: units of 10^-exponent or 2^-exponent s, counted from `offset_s` after the epoch."""

    exponent: int = 6
    binary: bool = False
    offset_s: int = 0

    def to_ns(self, raw: U64) -> tuple[I64, int]:
        """Nanoseconds since the epoch, rounded down, and how many times lay too far off and were set to the farthest."""
        ns, too_far = self._binary_ns(raw) if self.binary else self._decimal_ns(raw)
        if not self.offset_s:
            return ns, too_far
        offset_ns = self.offset_s * _NS_PER_S
        if abs(offset_ns) > FARTHEST_NS:
            return np.full(len(raw), FARTHEST_NS if offset_ns > 0 else -FARTHEST_NS), len(raw)
        ns += np.int64(offset_ns)
        return np.minimum(ns, FARTHEST_NS), max(too_far, int((ns > FARTHEST_NS).sum()))

    def _decimal_ns(self, raw: U64) -> tuple[I64, int]:
        if self.exponent > 9:
            divisor = 10 ** (self.exponent - 9)
            return (raw // np.uint64(divisor) if divisor < 1 << 64 else raw * np.uint64(0)).astype(np.int64), 0
        factor = 10 ** (9 - self.exponent)
        return _times(raw, factor, FARTHEST_NS // factor)

    def _binary_ns(self, raw: U64) -> tuple[I64, int]:
        low32 = np.uint64(0xFFFFFFFF)
        if self.exponent >= 32:
            # raw * 10^9 has up to 94 bits: by halves, of which the lower one only matters as a carry
            whole = (raw >> np.uint64(32)) * np.uint64(_NS_PER_S) + ((raw & low32) * np.uint64(_NS_PER_S) >> np.uint64(32))
            return (whole >> np.uint64(self.exponent - 32) if self.exponent < 96 else whole * np.uint64(0)).astype(np.int64), 0
        fraction = raw & np.uint64((1 << self.exponent) - 1)
        seconds, too_far = _times(raw >> np.uint64(self.exponent), _NS_PER_S, FARTHEST_NS // _NS_PER_S)
        ns = seconds + (fraction * np.uint64(_NS_PER_S) >> np.uint64(self.exponent)).astype(np.int64)
        return np.minimum(ns, FARTHEST_NS), too_far


def _times(raw: U64, factor: int, most: int) -> tuple[I64, int]:
    too_far = int((raw > np.uint64(most)).sum())
    return (np.minimum(raw, np.uint64(most)) * np.uint64(factor)).astype(np.int64), too_far


def read_options(body: bytes, order: str, count: Count) -> list[tuple[int, bytes]]:
    """Code and value of each option (section 3.5), up to the end mark or the first one that does not fit."""
    options = []
    at = 0
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        if code == _END:
            break
        at += 4
        if at + length > len(body):
            count(Loss.BAD_BLOCK_OPTION, 1)
            break
        options.append((code, body[at : at + length]))
        at += length + -length % 4
    return options


def read_comments(options: list[tuple[int, bytes]]) -> list[str]:
    """The comments of a block, each cut at MAX_COMMENT_LEN characters."""
    texts = [_text(value) for code, value in options if code == _COMMENT]
    return [text if len(text) <= MAX_COMMENT_LEN else f"{text[:MAX_COMMENT_LEN]} (cut)" for text in texts]


def read_interface(body: bytes, order: str, count: Count) -> tuple[Interface, Clock] | None:
    """An interface description (section 4.2) and its clock; None if the block is too short to be one."""
    if len(body) < 8:
        return None
    link_type, _, snaplen = struct.unpack_from(f"{order}HHI", body)
    interface, clock = Interface(link_type=link_type, snaplen=snaplen), Clock()
    for code, value in read_options(body[8:], order, count):
        if code == _IF_NAME:
            interface = replace(interface, name=_text(value))
        elif code == _IF_DESCRIPTION:
            interface = replace(interface, description=_text(value))
        elif code == _IF_HARDWARE:
            interface = replace(interface, hardware=_text(value))
        elif code == _IF_FILTER and value[:1] == b"\0":  # others are not text: BPF byte code
            interface = replace(interface, filter=_text(value[1:]))
        elif code == _IF_SPEED and len(value) == 8:
            interface = replace(interface, speed_bps=struct.unpack(f"{order}Q", value)[0])
        elif code == _IF_TSRESOL and len(value) == 1:
            clock = replace(clock, exponent=value[0] & 0x7F, binary=value[0] >= 0x80)
        elif code == _IF_TSOFFSET and len(value) == 8:
            clock = replace(clock, offset_s=struct.unpack(f"{order}q", value)[0])
        elif code in (_IF_SPEED, _IF_TSRESOL, _IF_TSOFFSET):
            count(Loss.BAD_BLOCK_OPTION, 1)
    return interface, clock


def read_statistics(body: bytes, order: str, count: Count) -> tuple[int, dict[int, int]] | None:
    """The interface a statistics block (section 4.6) is about, and its counters by option code; None if too short."""
    if len(body) < 12:
        return None
    counters = {}
    for code, value in read_options(body[12:], order, count):
        if code in _STATISTICS and len(value) == 8:
            counters[code] = int.from_bytes(value, "little" if order == "<" else "big")
        elif code in _STATISTICS:
            count(Loss.BAD_BLOCK_OPTION, 1)
    return struct.unpack_from(f"{order}I", body)[0], counters


def with_statistics(interface: Interface, counters: dict[int, int]) -> Interface:
    """The interface with the counters of a later statistics block; what that does not say stays."""
    return replace(
        interface,
        received_count=counters.get(_ISB_IFRECV, interface.received_count),
        dropped_by_interface_count=counters.get(_ISB_IFDROP, interface.dropped_by_interface_count),
        dropped_by_os_count=counters.get(_ISB_OSDROP, interface.dropped_by_os_count),
    )


def read_secrets(body: bytes, order: str) -> tuple[int, bytes] | None:
    """Type and bytes of a decryption secrets block (section 4.7); None if it does not hold all of them."""
    if len(body) < 8:
        return None
    kind, length = struct.unpack_from(f"{order}II", body)
    return (kind, body[8 : 8 + length]) if length <= len(body) - 8 else None


def read_names(body: bytes, order: str) -> list[tuple[bytes, str]] | None:
    """Addresses (4 or 16 bytes) and their names of a name resolution block (section 4.5); None if a record does not fit."""
    names: list[tuple[bytes, str]] = []
    at = 0
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(f"{order}HH", body, at)
        if kind == _END:
            return names
        at += 4
        address_len = _ADDRESS_LENS.get(kind, 0)
        if at + length > len(body) or length < address_len:
            return names or None
        if address_len:
            address = body[at : at + address_len]
            texts = body[at + address_len : at + length].split(b"\0")
            names += [(address, _text(text)[:MAX_NAME_LEN]) for text in texts if text]
        at += length + -length % 4
    return names


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
