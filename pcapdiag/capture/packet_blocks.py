"""The pcapng blocks that hold a packet, as columns: enhanced, simple, and the obsolete packet block.

Format: draft-ietf-opsawg-pcapng sections 4.3, 4.4 and appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np

from pcapdiag.capture.blocks import Clock
from pcapdiag.capture.chain import aligned_words, gather
from pcapdiag.columns import I64, U8, U32, U64, Bools, Col, Table

PACKET, SIMPLE, ENHANCED = 2, 3, 6
_MAX_OPTIONS: Final = 256
_END, _FLAGS = 0, 2  # opt_endofopt; epb_flags and pack_flags


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketBlocks(Table):
    """One row per packet block, in file order."""

    number: Annotated[I64, Col("frame number")]
    at: Annotated[I64, Col("where the block begins in the window", "bytes")]
    end: Annotated[I64, Col("where its trailing length lies in the window", "bytes")]
    interface: Annotated[I64, Col("interface index within the section")]
    timed: Annotated[Bools, Col("the block has a timestamp: it is no simple packet block")]
    timestamp: Annotated[U64, Col("in units of the interface's clock; 0 where the block has none")]
    captured: Annotated[U32, Col("captured length", "bytes")]
    length: Annotated[U32, Col("length on the wire, no shorter than captured", "bytes")]
    data_at: Annotated[I64, Col("where the packet begins in the window", "bytes")]


def read_packet_blocks(window: U8, order: str, at: I64, kinds: U32, lengths: I64, number: I64, snaplen: int) -> PacketBlocks:
    """The packets of the blocks at the given offsets, without those whose block is too short for what it claims to hold.

    `snaplen` is that of the section's first interface: it says what a simple packet block holds (0: all).
    """
    simple = kinds == SIMPLE
    overhead = np.where(simple, 16, 32)
    room = lengths - overhead
    if room.min(initial=0) < 0:
        long_enough = room >= 0
        at, kinds, lengths, number = at[long_enough], kinds[long_enough], lengths[long_enough], number[long_enough]
        simple, overhead, room = simple[long_enough], overhead[long_enough], room[long_enough]
    words = np.zeros((len(at), 5), np.uint32)
    if simple.any():
        words[~simple] = gather(window, at[~simple] + 8, f"{order}u4", 5)
        length = aligned_words(window, at[simple] + 8, order)
        words[simple, 3] = np.minimum(length, snaplen) if snaplen else length
        words[simple, 4] = length
    else:
        words[:] = gather(window, at + 8, f"{order}u4", 5)
    interface = words[:, 0].astype(np.int64)
    old = kinds == PACKET  # its interface has 16 bits, a drop counter the other 16
    if old.any():
        interface[old] = interface[old] >> 16 if order == ">" else interface[old] & 0xFFFF
    captured = words[:, 3].copy()
    blocks = PacketBlocks(
        number=number,
        at=at,
        end=at + lengths - 4,
        interface=interface,
        timed=~simple,
        timestamp=words[:, 1].astype(np.uint64) << np.uint64(32) | words[:, 2],
        captured=captured,
        length=np.maximum(words[:, 4], captured),
        data_at=at + overhead - 4,
    )
    fits = captured <= room
    return blocks if fits.all() else blocks.take(fits)


def read_times(blocks: PacketBlocks, clock_of: I64, clocks: list[Clock], last_ns: int) -> tuple[I64, int]:
    """Nanoseconds since the epoch, and how many were too far off to be kept.

    `clock_of` is an index into `clocks` per interface of the section. A packet without time has that of the packet
    before it; `last_ns` is that before the first.
    """
    clock = clock_of[blocks.interface]
    distinct = np.flatnonzero(np.bincount(clock, minlength=len(clocks)))
    if len(distinct) == 1:
        ns, too_far_count = clocks[distinct[0]].to_ns(blocks.timestamp)
    else:
        ns, too_far_count = np.empty(len(blocks), np.int64), 0
        by_clock = np.argsort(clock, kind="stable")
        for rows in np.split(by_clock, np.searchsorted(clock[by_clock], distinct[1:])):
            ns[rows], count = clocks[clock[rows[0]]].to_ns(blocks.timestamp[rows])
            too_far_count += count
    if blocks.timed.all():
        return ns, too_far_count
    timed_before = np.maximum.accumulate(np.where(blocks.timed, np.arange(len(blocks)), -1))
    return np.where(timed_before >= 0, ns[timed_before], last_ns), too_far_count


def read_flags(window: U8, order: str, blocks: PacketBlocks) -> tuple[U32, int]:
    """The flags option of each packet (section 4.3.1), 0 without one; and how many packets' options could not be read."""
    flags = np.zeros(len(blocks), np.uint32)
    captured = blocks.captured.astype(np.int64)
    pos = blocks.data_at + captured + (-captured & 3)
    rows = np.flatnonzero(blocks.timed & (pos < blocks.end))
    pos, end = pos[rows], blocks.end[rows]
    unread_count = 0
    for _ in range(_MAX_OPTIONS):
        if not len(rows):
            break
        code, length = gather(window, pos, f"{order}u2", 2).astype(np.int64).T
        fits = pos + 4 + length <= end
        unread_count += int(((code != _END) & ~fits).sum())
        found = fits & (code == _FLAGS) & (length == 4)
        flags[rows[found]] = aligned_words(window, pos[found] + 4, order)
        pos = pos + 4 + length + (-length & 3)
        going = fits & (code != _END) & ~found & (pos < end)
        rows, pos, end = rows[going], pos[going], end[going]
    return flags, unread_count + len(rows)
