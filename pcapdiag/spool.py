"""Columns of any length: in memory while there is room for them, else in files without a name.

What lies in a file is mapped when it is whole: code that uses such columns cannot tell. Mapped pages count as memory
as long as they are held, so `Room.release` gives them back between two steps, and `windows` while a column is looked
through from begin to end.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, Any, Final
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from pcapdiag.scratch import new_file, refusals, reserve

Array = npt.NDArray[Any]

WINDOW: Final = 1 << 17
"""Rows looked at at a time: a few columns of them fit into a processor's cache, and one call of NumPy for them costs next to nothing."""


@dataclass(slots=True, eq=False)
class Room:
    """How much memory the columns of one analysis may take together."""

    free_bytes: int
    _maps: WeakSet[mmap.mmap] = field(default_factory=WeakSet)

    def take(self, size: int) -> bool:
        """Whether that many more bytes fit; then they are taken."""
        fits = size <= self.free_bytes
        if fits:
            self.free_bytes -= size
        return fits

    def column(self, count: int, dtype: npt.DTypeLike) -> Array:
        """A column of so many rows, whatever is in them; it may be written."""
        size = count * np.dtype(dtype).itemsize
        if self.take(size):
            return np.empty(count, dtype)
        with new_file() as file:
            reserve(file, size)
            return np.frombuffer(self.map(file, size), dtype)

    def map(self, file: IO[bytes], size: int) -> mmap.mmap:
        """All of a file, writable; its pages are given back by `release`."""
        with refusals():
            mapped = mmap.mmap(file.fileno(), size)
        self.adopt(mapped)
        return mapped

    def adopt(self, mapped: mmap.mmap) -> None:
        """Makes `release` give back the pages of a file that somebody else has mapped."""
        self._maps.add(mapped)

    def release(self) -> None:
        """Gives back the pages of everything mapped; they come again when they are needed."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)


def column(count: int, dtype: npt.DTypeLike, room: Room | None) -> Array:
    """The same, in memory when there is no `room` to watch over."""
    return np.empty(count, dtype) if room is None else room.column(count, dtype)


def windows(count: int, room: Room | None, step: int = WINDOW) -> Iterator[slice]:
    """The rows [0, count), so many at a time; behind each window the pages it took are given back."""
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))
        if room is not None:
            room.release()


def rows_where(count: int, holds: Callable[[slice], Array], room: Room | None, step: int = WINDOW) -> Array:
    """The rows [0, count) for which a mask holds, a window at a time."""
    found = Spool(room)
    for part in windows(count, room, step):
        found.append({"": part.start + np.flatnonzero(holds(part))})
    return found.finish().get("", np.empty(0, np.intp))


def mask_of(sets: Iterable[Array], count: int, room: Room | None) -> Array:
    """A mask of `count` rows that holds for those of any of these sets."""
    mask = column(count, np.bool_, room)
    for part in windows(count, room):
        mask[part] = False
    for rows in sets:
        for part in windows(len(rows), room):
            mask[rows[part]] = True
    return mask


def computed(count: int, dtype: npt.DTypeLike, values: Callable[[slice], Array], room: Room | None) -> Array:
    """A column of so many rows, computed a window at a time."""
    result = column(count, dtype, room)
    for part in windows(count, room):
        result[part] = values(part)
    return result


def taken(values: Array, rows: Array, room: Room | None) -> Array:
    """values[rows], a window at a time."""
    return computed(len(rows), values.dtype, lambda part: values[rows[part]], room)


def rows_by_number(number: Array, counts: Array, room: Room | None) -> Array:
    """The rows in the order of their numbers, equal ones in their own order (a counting sort, a window at a time).

    Args:
        number: of each row; those below 0 are left out.
        counts: how many rows have each number; 0: they are left out, too.
        room: where the result lies.
    """
    rows = column(int(counts.sum()), np.int64, room)
    free = np.cumsum(counts) - counts
    for part in windows(len(number), room):
        own = number[part]
        order = np.argsort(own, kind="stable")
        order = order[int(np.searchsorted(own[order], 0)) :]
        order = order[counts[own[order]] > 0]
        own = own[order]
        if not len(own):
            continue
        begin = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]]))
        length = np.diff(begin, append=len(own))
        kinds = own[begin]
        rows[np.repeat(free[kinds] - begin, length) + np.arange(len(own))] = order + part.start
        free[kinds] += length
    return rows


def portions(keys: Array, room: Room | None) -> Iterator[Array]:
    """The rows in portions of about a window, in their order within each; equal 64-bit keys, well mixed, lie in one portion."""
    if len(keys) <= WINDOW:
        yield np.arange(len(keys))
        return
    bits = np.uint64(max(1, (len(keys) // WINDOW).bit_length()))
    number, counts = column(len(keys), np.int32, room), np.zeros(1 << int(bits), np.int64)
    for part in windows(len(keys), room):
        number[part] = keys[part] >> (np.uint64(64) - bits)
        counts += np.bincount(number[part], minlength=len(counts))
    rows = rows_by_number(number, counts, room)
    for begin, end in pairwise([0, *np.cumsum(counts).tolist()]):
        yield rows[begin:end]
        if room is not None:
            room.release()


class Spool:
    """One table's columns, growing piece by piece."""

    __slots__ = ("_dtypes", "_files", "_parts", "_room", "_size", "_taken")

    def __init__(self, room: Room | None = None) -> None:
        """Without `room` everything stays in memory."""
        self._room = room
        self._parts: list[dict[str, Array]] = []
        self._taken = 0
        self._files: dict[str, IO[bytes]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._size = 0

    def __len__(self) -> int:
        """Rows so far."""
        return self._size

    def append(self, columns: Mapping[str, Array]) -> None:
        """Adds rows; every call brings the same columns."""
        part = dict(columns)
        size = sum(column.nbytes for column in part.values())
        self._size += len(next(iter(part.values())))
        if self._room is not None and (self._files or not self._room.take(size)):
            self._write(part)
        else:
            self._taken += size
            self._parts.append(part)

    def finish(self) -> dict[str, Array]:
        """The whole columns; the spool is empty afterwards. Without rows there are no columns."""
        if self._files:
            assert self._room is not None
            whole = {name: np.frombuffer(self._map(file, name), self._dtypes[name]) for name, file in self._files.items()}
            self._files = {}
            return whole
        parts, self._parts = self._parts, []
        if len(parts) < 2:
            return parts[0] if parts else {}
        # Each part is let go column by column once it has been copied.
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}

    def _map(self, file: IO[bytes], name: str) -> mmap.mmap:
        assert self._room is not None
        with refusals(), file:
            file.flush()
            return self._room.map(file, self._size * self._dtypes[name].itemsize)

    def _write(self, part: dict[str, Array]) -> None:
        if not self._files:
            self._files = {name: new_file() for name in part}  # closed when mapped
            self._dtypes = {name: column.dtype for name, column in part.items()}
            parts, self._parts = self._parts, []
            for earlier in parts:
                self._write(earlier)
            if self._room is not None:
                self._room.free_bytes += self._taken
            self._taken = 0
        for name, column in part.items():
            with refusals():
                self._files[name].write(np.ascontiguousarray(column).data)
