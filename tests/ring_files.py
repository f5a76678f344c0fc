"""Splits a capture as a ring buffer would, into files whose names lie about their order."""

from __future__ import annotations

import gzip
import random
import struct
import sys
from typing import TYPE_CHECKING

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PACKS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, zstd.compress, lz4.frame.compress)


def pcap_records(data: bytes) -> list[bytes]:
    """The records of a little-endian pcap file."""
    records, at = [], 24
    while at < len(data):
        (captured,) = struct.unpack_from("<I", data, at + 8)
        records.append(data[at : at + 16 + captured])
        at += 16 + captured
    return records


def split_capture(data: bytes, folder: Path, count: int, *, seed: int = 1) -> list[Path]:
    """The files, in the order of time; every second one is packed, every fifth lies in a folder of its own."""
    records, noise = pcap_records(data), random.Random(seed)
    share = -(-len(records) // count)
    paths = []
    for part in range(count):
        place = folder / noise.choice(["sub", "."]) if part % 5 == 4 else folder
        place.mkdir(parents=True, exist_ok=True)
        paths.append(place / f"{noise.randrange(10**6):06}-{noise.choice('abc')}.txt")
        paths[-1].write_bytes(PACKS[part % 4](data[:24] + b"".join(records[part * share : (part + 1) * share])))
    return paths


def unpack(path: Path) -> bytes:
    """The bytes of such a file as they were."""
    packed = path.read_bytes()
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        return zstd.decompress(packed)
    return lz4.frame.decompress(packed) if packed.startswith(b"\x04\x22\x4d\x18") else packed
