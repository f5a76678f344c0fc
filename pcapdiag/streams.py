"""Step 4: the byte timeline. For any byte of a TCP stream: when it was first seen, could be delivered, was acknowledged.

CAUSES section 0, the five times. First sent and first seen are one at a single tap: the first sight. Holes are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools, Rows
from pcapdiag.flows.pieces import first_ack, key, time_of
from pcapdiag.flows.table import Acks, Gaps, Pieces, Sacked, Segments, TcpTables
from pcapdiag.packets.table import SYN, Packets

Spans = tuple[tuple[int, int], ...]
"""Disjoint ascending [start, stop) stream offsets."""


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent bytes of one direction; `data` is None for bytes that no captured packet holds."""

    start: int
    stop: int
    data: bytes | None


class Streams:
    """Bytes and times of every TCP stream; fd = 2 * flow + direction. Times are ns, NEVER for what did not happen."""

    __slots__ = ("_acks", "_gaps", "_packets", "_piece_key", "_pieces", "_sack_key", "_sacked", "_segments")

    def __init__(self, packets: Packets, tcp: TcpTables) -> None:
        self._packets = packets
        self._segments: Segments = tcp.segments
        self._pieces: Pieces = tcp.pieces
        self._acks: Acks = tcp.acks
        self._gaps: Gaps = tcp.gaps
        plain = ~tcp.sacked.duplicate
        self._sacked: Sacked = tcp.sacked.take(plain)
        self._piece_key = key(self._pieces.fd, self._pieces.start)
        self._sack_key = key(self._sacked.fd, self._sacked.start)

    def extent(self, fd: int) -> tuple[int, int]:
        """Lowest stream offset known and the one behind the highest, seen or acknowledged; (0, 0) for no bytes."""
        low, high = self._range(fd)
        if low == high:
            return 0, 0
        return int(self._pieces.start[low]), int(self._pieces.stop[high - 1])

    def runs(self, fd: int) -> list[Run]:
        """All bytes of a direction, ascending and adjacent, from the first known one; adjacent captured bytes are one run."""
        low, high = self._range(fd)
        if low == high:
            return []
        starts, stops = self._pieces.start[low:high].tolist(), self._pieces.stop[low:high].tolist()
        carrier = self._pieces.segment[low:high]
        rows = self._segments.row[carrier]
        skipped = self._pieces.start[low:high] - self._segments.seq[carrier] - ((self._segments.flags[carrier] & SYN) > 0)
        at = (self._packets.payload_at[rows] + skipped).tolist()
        captured = (self._packets.payload_captured[rows] - skipped).tolist()
        runs: list[Run] = []
        parts: list[memoryview] = []
        begin = position = starts[0]
        for start, stop, offset, have in zip(starts, stops, at, captured, strict=True):
            whole = min(max(have, 0), stop - start)
            if start > position:
                runs += _joined(begin, position, parts)
                runs.append(Run(position, start, None))
                begin, parts = start, []
            if whole:
                parts.append(self._packets.blob.read(offset, whole))
            if whole < stop - start:
                runs += _joined(begin, start + whole, parts)
                runs.append(Run(start + whole, stop, None))
                begin, parts = stop, []
            position = stop
        return runs + _joined(begin, position, parts)

    def segment_of(self, fd: I64 | int, offsets: I64) -> I64:
        """Row in Segments of the packet that carried the byte AT each offset first; -1 when none was captured."""
        row, inside = self._piece_rows(fd, offsets)
        return np.where(inside, self._at(self._pieces.segment, row), -1)

    def first_seen(self, fd: I64 | int, offsets: I64) -> I64:
        """When the byte AT each offset was first seen."""
        row, inside = self._piece_rows(fd, offsets)
        return np.where(inside, self._at(self._pieces.ts_ns, row), NEVER)

    def in_order(self, fd: I64 | int, offsets: I64) -> I64:
        """When the byte AT each offset could be delivered at the tap: it and all bytes below it had been seen."""
        row, inside = self._piece_rows(fd, offsets)
        result = np.where(inside, self._at(self._pieces.in_order_ns, row), NEVER)
        missing = np.flatnonzero(~inside)
        if len(missing) and len(self._gaps):  # bytes only the capture lost count as seen when acknowledged
            wanted_fd = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)[missing]
            gap = np.searchsorted(key(self._gaps.fd, self._gaps.start), key(wanted_fd, offsets[missing]), side="right") - 1
            hit = gap >= 0
            gap = np.maximum(gap, 0)
            hit &= (self._gaps.fd[gap] == wanted_fd) & (offsets[missing] < self._gaps.stop[gap])
            result[missing[hit]] = self._gaps.stop_ns[gap[hit]]
        return result

    def acked(self, fd: I64 | int, offsets: I64) -> I64:
        """When the byte AT each offset was first acknowledged cumulatively."""
        wanted = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)
        return time_of(self._acks, first_ack(self._acks, wanted, offsets))

    def sacked(self, fd: I64 | int, offsets: I64) -> I64:
        """When the byte AT each offset was first acknowledged selectively."""
        if not len(self._sacked):
            return np.full(offsets.shape, NEVER)
        wanted = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)
        row = np.searchsorted(self._sack_key, key(wanted, offsets), side="right") - 1
        hit = row >= 0
        row = np.maximum(row, 0)
        hit &= (self._sacked.fd[row] == wanted) & (offsets < self._sacked.stop[row])
        return np.where(hit, self._sacked.ts_ns[row], NEVER)

    def progress(self, fd: int, spans: Spans) -> I64:
        """The distinct times at which bytes of the spans became deliverable in order, ascending."""
        low, high = self._range(fd)
        if low == high or not spans:
            return np.empty(0, np.int64)
        starts, stops = self._pieces.start[low:high], self._pieces.stop[low:high]
        first = np.searchsorted(stops, [start for start, _ in spans], side="right")
        last = np.searchsorted(starts, [stop for _, stop in spans], side="left")
        length = np.maximum(last - first, 0)
        rows = np.repeat(low + first + length - np.cumsum(length), length) + np.arange(length.sum())  # all [first, last), in a row
        times = self._pieces.in_order_ns[rows]
        return np.unique(times[times < NEVER])

    def _range(self, fd: int) -> tuple[int, int]:
        low, high = np.searchsorted(self._pieces.fd, [fd, fd + 1])
        return int(low), int(high)

    def _piece_rows(self, fd: I64 | int, offsets: I64) -> tuple[Rows, Bools]:
        """Row in Pieces of each byte (0 where there is none), and whether there is one."""
        wanted = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)
        row = np.searchsorted(self._piece_key, key(wanted, offsets), side="right") - 1
        inside = row >= 0
        row = np.maximum(row, 0)
        if len(self._pieces):
            inside &= (self._pieces.fd[row] == wanted) & (offsets < self._pieces.stop[row])
        return row, inside

    @staticmethod
    def _at(column: I64, row: Rows) -> I64:
        return column[row] if len(column) else np.full(row.shape, NEVER)


def _joined(start: int, stop: int, parts: list[memoryview]) -> list[Run]:
    return [Run(start, stop, b"".join(parts))] if parts else []


def reassemble(packets: Packets, tcp: TcpTables) -> Streams:
    """The byte timeline of all TCP flows."""
    return Streams(packets, tcp)
