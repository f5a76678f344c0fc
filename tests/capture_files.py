"""Builds pcap and pcapng files byte by byte, and reads them back as rows."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pcapdiag.capture import Capture, Frames, read_capture, source
from pcapdiag.losses import Loss, Losses

if TYPE_CHECKING:
    from collections.abc import Iterable

SHB, IDB, PB, SPB, NRB, ISB, EPB, JOURNAL, DSB, CUSTOM = 0x0A0D0D0A, 1, 2, 3, 4, 5, 6, 9, 10, 0xBAD
MICRO, NANO, PATCHED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


class Row(NamedTuple):
    """One frame, with its bytes."""

    number: int
    ts_ns: int
    link_type: int
    interface: int
    length: int
    flags: int
    data: bytes


class Reading(NamedTuple):
    """What became of a file."""

    rows: list[Row]
    capture: Capture
    losses: dict[Loss, int]


def read_rows(path: str | Path, *, index: int = 0, batch_bytes: int = 32 << 20) -> Reading:
    """Reads a capture to its end."""
    losses = Losses()
    with pytest.MonkeyPatch.context() as patch:
        if batch_bytes < source.HEAD_LEN:
            patch.setattr(source, "HEAD_LEN", 28)  # or the first batch would be all of a small file
        reader = read_capture(str(path), losses, index=index, batch_bytes=batch_bytes)
    rows = [row for batch in reader for row in rows_of(batch)]
    assert reader.capture.frame_count == len(rows)
    return Reading(rows, reader.capture, losses.of(index))


def rows_of(frames: Frames) -> Iterable[Row]:
    """The rows of one batch."""
    for i in range(len(frames)):
        at, captured = int(frames.data_at[i]), int(frames.captured[i])
        assert at + captured <= len(frames.data)
        yield Row(
            number=int(frames.number[i]),
            ts_ns=int(frames.ts_ns[i]),
            link_type=int(frames.link_type[i]),
            interface=int(frames.interface[i]),
            length=int(frames.length[i]),
            flags=int(frames.flags[i]),
            data=frames.data[at : at + captured].tobytes(),
        )


def pcap_header(order: str = "<", *, magic: int = MICRO, minor: int = 4, snaplen: int = 262_144, link_type: int = 1) -> bytes:
    """A file header of version 2.minor."""
    return struct.pack(f"{order}IHHiIII", magic, 2, minor, 0, 0, snaplen, link_type)


def pcap_record(data: bytes, order: str = "<", *, sec: int = 1_700_000_000, fraction: int = 0, length: int | None = None) -> bytes:
    """A packet record."""
    return struct.pack(f"{order}IIII", sec, fraction, len(data), len(data) if length is None else length) + data


def option(code: int, value: bytes, order: str = "<") -> bytes:
    """An option of a pcapng block, padded."""
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block around a body."""
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str = "<", *options: bytes, section_len: int = -1, major: int = 1) -> bytes:
    """A section header block."""
    return block(SHB, struct.pack(f"{order}IHHq", 0x1A2B3C4D, major, 0, section_len) + b"".join(options), order)


def interface(order: str = "<", *options: bytes, link_type: int = 1, snaplen: int = 0) -> bytes:
    """An interface description block."""
    return block(IDB, struct.pack(f"{order}HHI", link_type, 0, snaplen) + b"".join(options), order)


def enhanced(
    data: bytes, order: str = "<", *options: bytes, index: int = 0, time: int = 0, captured: int | None = None, length: int | None = None
) -> bytes:
    """An enhanced packet block; `captured` may claim what is not there."""
    claimed = len(data) if captured is None else captured
    head = struct.pack(f"{order}IIIII", index, time >> 32, time & 0xFFFFFFFF, claimed, len(data) if length is None else length)
    return block(EPB, head + data + bytes(-len(data) % 4) + b"".join(options), order)
