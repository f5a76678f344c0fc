"""Finds where the records of a window begin.

Each record says how long it is, so the begin of the next one is known only when this one was read. Going from
one to the next in Python costs more than everything else this step does. `walk` therefore guesses a record begin
in each of many lanes of the window, walks all lanes at once with NumPy, and believes a lane only if the true walk
arrives exactly at its begin; where it does not, it goes on record by record. Guesses decide the speed, never the result.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, U8, Bools

LANES: Final = 512
FEW_LANES: Final = 32
"""A step of fewer lanes costs more than their records one by one."""
LANES_FROM_LEN: Final = 1 << 20
"""A smaller window is walked record by record: too few records a lane to pay for the lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """How one record leads to the next: a record is `least_len + (length field - least_value)` bytes long."""

    order: str
    """Byte order, "<" or ">"."""
    length_at: int
    """Where in the record its length field (32 bits) lies."""
    least_len: int
    """Length of the shortest record, and of what has to be there to read the length field."""
    least_value: int
    """The smallest length field a record can have."""
    begin: re.Pattern[bytes]
    """What a usual record looks like, from `begin_at` bytes behind its begin."""
    begin_at: int = 0
    alignment: int = 1
    """Records are multiples of this long (1 or 4 bytes); one that is not ends the walk."""
    stop_word: int = -1
    """First 32 bits of a record that ends the walk; -1: none."""


def walk(window: U8, start: int, links: Links, *, lanes: int = LANES) -> I64:
    """Offsets of the records from `start` on that lie whole in the window, each begun where the one before ended."""
    begins = _guess_begins(window, start, links, lanes) if len(window) - start >= LANES_FROM_LEN else []
    if len(begins) < FEW_LANES:
        return np.array(walk_one_by_one(window, start, links)[0], np.int64)
    positions, first_of, landed = _walk_lanes(window, np.array(begins, np.int64), links)
    lane_of = {begin: lane for lane, begin in enumerate(begins)}
    pieces: list[I64] = []
    lane: int | None = 0
    while lane is not None:
        missed = lane + int(np.argmin(landed[lane:]))  # the last lane is always missed
        last = int(first_of[missed + 1]) - 1
        pieces.append(positions[first_of[lane] : last])
        offsets, end = walk_one_by_one(window, int(positions[last]), links, until=lane_of)
        pieces.append(np.array(offsets, np.int64))
        lane = lane_of.get(end) if offsets else None
    return _up_to_the_end(window, np.concatenate(pieces), links)


def walk_one_by_one(window: U8, start: int, links: Links, *, until: Container[int] = ()) -> tuple[list[int], int]:
    """Offsets of the whole records from `start` on, and the offset behind the last; stops behind it if that is in `until`."""
    view = window.data
    unpack = Struct(f"{links.order}I{links.length_at - 4}xI").unpack_from
    end, least_len, least_value, stop_word, odd = len(view), links.least_len, links.least_value, links.stop_word, links.alignment - 1
    offsets: list[int] = []
    append = offsets.append
    pos = start
    while end - pos >= least_len:
        word, value = unpack(view, pos)
        ahead = pos + least_len + value - least_value
        if ahead > end or value < least_value or word == stop_word or value & odd:
            break
        append(pos)
        pos = ahead
        if pos in until:
            break
    return offsets, pos


def _guess_begins(window: U8, start: int, links: Links, lanes: int) -> list[int]:
    """Offsets, ascending from `start`, at most one a lane, that look like the begin of a record."""
    view = window.data
    end = len(view) - links.least_len
    lane_len = (len(view) - start) // lanes
    begins = [start]
    for lane_at in range(start + lane_len, end, lane_len):
        match = links.begin.search(view, lane_at + links.begin_at, min(lane_at + lane_len, len(view)))
        if match is None:
            continue
        begin = match.start() - links.begin_at
        if begin <= end and (begin - start) % links.alignment == 0:
            begins.append(begin)
    return begins


def _walk_lanes(window: U8, begins: I64, links: Links) -> tuple[I64, I64, Bools]:
    """Walks from all begins at once, as long as there are enough of them on the way.

    Gives the positions lane after lane, the index of each lane's first position (and one beyond the last lane's),
    and whether each lane arrived at the begin of the next.
    """
    shift = links.alignment.bit_length() - 1
    fields_count = ((len(window) - links.length_at - 4) >> shift) + 1
    field: npt.NDArray[np.uint32] = np.ndarray((fields_count,), f"{links.order}u4", window, links.length_at, (links.alignment,))
    least_value = np.uint32(links.least_value)
    pos, lane = begins, np.arange(len(begins))
    stop = np.append(begins[1:], len(window) - links.least_len + 1)
    landed = np.zeros(len(begins), np.bool_)
    steps: list[I64] = []
    lanes: list[npt.NDArray[np.intp]] = []
    while len(pos) >= FEW_LANES:
        steps.append(pos)
        lanes.append(lane)
        value = field[pos >> shift if shift else pos] - least_value  # too small a value wraps to 4 GiB and ends its lane
        pos = pos + value
        pos += links.least_len
        going = pos < stop
        if not going.all():
            landed[lane[pos == stop]] = True
            pos, stop, lane = pos[going], stop[going], lane[going]
    landed[-1] = False
    lane_of = np.concatenate(lanes)
    counts = np.bincount(lane_of, minlength=len(begins))
    first_of = np.concatenate([[0], np.cumsum(counts)])
    place = first_of[lane_of] + np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    positions = np.empty(len(place), np.int64)
    positions[place] = np.concatenate(steps)
    return positions, first_of, landed


def _up_to_the_end(window: U8, offsets: I64, links: Links) -> I64:
    """Ends the walk before the first record that ends it; the lanes do not look."""
    if links.alignment > 1:
        mask = links.alignment - 1
        offsets = offsets[: first_true((offsets & mask) != 0)]
        if len(offsets) and gather(window, offsets[-1:] + links.length_at, f"{links.order}u4", 1)[0, 0] & mask:
            offsets = offsets[:-1]
    if links.stop_word >= 0:
        offsets = offsets[: first_true(aligned_words(window, offsets, links.order) == links.stop_word)]
    return offsets


def gather(window: U8, offsets: I64, dtype: str, count: int) -> npt.NDArray[Any]:
    """A row of `count` values of `dtype` from each offset; all of them must lie in the window."""
    width = np.dtype(dtype).itemsize * count
    if not len(offsets):
        return np.empty((0, count), dtype)
    at_every_byte: npt.NDArray[np.void] = np.ndarray((len(window) - width + 1,), f"V{width}", window, 0, (1,))
    return at_every_byte[offsets].view(dtype).reshape(-1, count)


def aligned_words(window: U8, offsets: I64, order: str) -> npt.NDArray[Any]:
    """The 32-bit word at each offset, all multiples of 4: four times as fast as `gather`."""
    words: npt.NDArray[np.uint32] = np.ndarray((len(window) // 4,), f"{order}u4", window)
    return words.take(offsets >> 2)


def first_true(mask: Bools) -> int:
    """Index of the first True; the length if there is none."""
    return int(mask.argmax()) if mask.any() else len(mask)
