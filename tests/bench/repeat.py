"""A capture repeated: the same packets again and again, later each time and between other hosts; as fast as the disk takes it."""

from __future__ import annotations

import mmap
import struct
from array import array
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from tests.bench import BenchError

_MAGICS: Final = {0xA1B2C3D4, 0xA1B23C4D}
"""Classic pcap with micro- or nanoseconds, little-endian (draft-ietf-opsawg-pcap section 4)."""
_FILE_HEADER_LEN, _RECORD_HEADER_LEN = 24, 16
_LINK_ETHERNET: Final = 1
_ETHERTYPE_AT, _SOURCE_AT, _DESTINATION_AT = 12, 26, 30
"""In an Ethernet frame without a VLAN tag that holds IPv4 (RFC 894, RFC 791)."""
_PAUSE_S: Final = 60
"""Silence between two turns."""
_CHUNK_LEN: Final = 64 << 20
_MOST_TURNS: Final = 0xFFFF

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


class Recording:
    """A classic Ethernet pcap file, mapped, and where its records begin.

    Raises:
        BenchError: the file is something else.
    """

    def __init__(self, path: Path, *, packets: int | None = None) -> None:
        """Takes the first `packets` packets, or all."""
        with path.open("rb") as file:
            header = file.read(_FILE_HEADER_LEN).ljust(_FILE_HEADER_LEN, b"\0")
            magic, link = struct.unpack("<I16xI", header)
            if magic not in _MAGICS or link != _LINK_ETHERNET:
                raise BenchError(f"{path}: not a little-endian pcap file of Ethernet frames")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.header = header
        self.data: Bytes = np.frombuffer(mapped, dtype=np.uint8)
        self.starts, self.end = _records(mapped, packets)
        if not len(self.starts):
            raise BenchError(f"{path}: holds no packet")
        seconds = _read(self.data, self.starts, "<u4")
        self.period_s = int(seconds.max() - seconds.min()) + 1 + _PAUSE_S
        frames = self.starts + _RECORD_HEADER_LEN
        room = np.diff(self.starts, append=self.end) >= _RECORD_HEADER_LEN + _DESTINATION_AT + 4
        self._ipv4 = frames[room][_read(self.data, frames[room] + _ETHERTYPE_AT, ">u2") == 0x0800]

    def __len__(self) -> int:
        """How many packets there are."""
        return len(self.starts)

    @property
    def mean_len(self) -> float:
        """Bytes of the file to a packet."""
        return (self.end - _FILE_HEADER_LEN) / len(self)

    def repeat(self, target: Path, packets: int) -> None:
        """Writes `packets` packets: these again and again, the last time only as many as are wanted."""
        turns = -(-packets // len(self))
        if turns > _MOST_TURNS:
            raise BenchError(f"{packets:,} packets are more than {_MOST_TURNS:,} turns")
        with target.open("wb") as out:
            out.write(self.header)
            for turn in range(turns):
                self._write_turn(out, turn, min(packets - turn * len(self), len(self)))

    def _write_turn(self, out: IO[bytes], turn: int, count: int) -> None:
        """The first `count` packets in a turn of their own, a chunk at a time."""
        edges = np.append(self.starts, self.end)[: count + 1]
        first = 0
        while first < count:
            last = max(int(np.searchsorted(edges, edges[first] + _CHUNK_LEN, side="right")) - 1, first + 1)
            low, high = int(edges[first]), int(edges[last])
            chunk = np.array(self.data[low:high])
            places = edges[first:last] - low
            _write(chunk, places, _read(chunk, places, "<u4") + turn * self.period_s, "<u4")
            within = slice(*np.searchsorted(self._ipv4, [low, high]))
            for at in (_SOURCE_AT, _DESTINATION_AT):
                _shift(chunk, self._ipv4[within] - low + at, turn)
            out.write(chunk.data)
            first = last


def _records(data: mmap.mmap, packets: int | None) -> tuple[Ints, int]:
    """Where each record begins, and where the last whole one ends."""
    starts, at = array("q"), _FILE_HEADER_LEN
    while at + _RECORD_HEADER_LEN <= len(data) and (packets is None or len(starts) < packets):
        (captured_len,) = struct.unpack_from("<8xI", data, at)
        if at + _RECORD_HEADER_LEN + captured_len > len(data):
            break
        starts.append(at)
        at += _RECORD_HEADER_LEN + captured_len
    return np.frombuffer(starts, dtype=np.int64), at


def _shift(chunk: Bytes, addresses: Ints, turn: int) -> None:
    """Makes each address that of another host. What its upper half gains, its lower half loses, so that every checksum stays right:
    the Internet checksum is a sum of 16-bit words modulo 65,535 (RFC 1071).
    """
    for at, gain in ((0, turn), (2, -turn)):
        _write(chunk, addresses + at, (_read(chunk, addresses + at, ">u2") + gain) % 0xFFFF, ">u2")


def _read(data: Bytes, places: Ints, kind: str) -> Ints:
    """The unsigned numbers at these places, which need not be aligned."""
    width = np.dtype(kind).itemsize
    words: Ints = data[places[:, None] + np.arange(width)].view(kind)[:, 0].astype(np.int64)
    return words


def _write(data: Bytes, places: Ints, values: Ints, kind: str) -> None:
    width = np.dtype(kind).itemsize
    data[places[:, None] + np.arange(width)] = values.astype(kind)[:, None].view(np.uint8)
