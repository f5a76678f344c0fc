"""The captured bytes while packets are decoded: mapped files stay where they are, the rest is kept in memory or in one file."""

from __future__ import annotations

import mmap
from typing import IO

import numpy as np

from pcapdiag.columns import U8
from pcapdiag.packets.table import Blob
from pcapdiag.scratch import new_file, refusals
from pcapdiag.spool import Room


class KeptBytes:
    """Gives every buffer its place in the Blob to come."""

    __slots__ = ("_end", "_file", "_file_end", "_newest", "_pieces", "_room")

    def __init__(self, room: Room | None) -> None:
        """Without `room` all stays as it is."""
        self._room = room
        self._pieces: list[U8 | range] = []
        self._newest: U8 | None = None
        self._end = 0
        self._file: IO[bytes] | None = None
        self._file_end = 0

    def place(self, data: U8) -> int:
        """Where `data` begins; batches of one buffer share it."""
        if self._newest is not data:
            self._newest = data
            self._pieces.append(self._keep(data))
            self._end += len(data)
        return self._end - len(data)

    def blob(self) -> Blob:
        """All bytes so far."""
        if self._file is None or self._room is None:
            return Blob.of([piece for piece in self._pieces if not isinstance(piece, range)])
        with refusals():
            self._file.flush()
        whole = np.frombuffer(self._room.map(self._file, self._file_end), np.uint8)
        return Blob.of([whole[piece.start : piece.stop] if isinstance(piece, range) else piece for piece in self._pieces])

    def close(self) -> None:
        """No more bytes come; what was given stays."""
        if self._file is not None:
            self._file.close()

    def _keep(self, data: U8) -> U8 | range:
        if self._room is None:
            return data
        mapped = _map_under(data)
        if mapped is not None:
            self._room.adopt(mapped)
            return data
        if self._room.take(len(data)):
            return data
        if self._file is None:
            self._file = new_file()  # its maps outlive it, and it has no name; closed by close()
        with refusals():
            self._file.write(data.data)
        self._file_end += len(data)
        return range(self._file_end - len(data), self._file_end)


def _map_under(data: U8) -> mmap.mmap | None:
    """The mapped file that an array is a view of."""
    base: object = data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None
