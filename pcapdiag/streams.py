"""Step 4: the byte timeline. For any byte of a TCP stream: when it was first seen, could be delivered, was acknowledged.

CAUSES section 0, the five times. First sent and first seen are one at a single tap: the first sight. Holes are kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools, Rows
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.flows.table import Acks, Gaps, Pieces, Recoveries, Sacked, Segments, TcpTables
from pcapdiag.packets.table import SYN, Packets

Spans = tuple[tuple[int, int], ...]
"""Disjoint ascending [start, stop) stream offsets."""


NOWHERE: Final = -1
"""The address of bytes that no captured packet holds."""


class Strips(NamedTuple):
    """Stream offsets [start, stop) of adjacent bytes, and the address at which `Streams.read` finds the first of them."""

    starts: list[int]
    stops: list[int]
    addresses: list[int]

    def add(self, start: int, stop: int, address: int) -> None:
        """Adds bytes behind all others."""
        self.starts.append(start)
        self.stops.append(stop)
        self.addresses.append(address)


_Directed = TypeVar("_Directed", Pieces, Acks, Gaps, Sacked, Recoveries)


def of_directions(table: _Directed, first_fd: int, stop_fd: int) -> _Directed:
    """The rows of some directions of a table that is sorted by direction."""
    low, high = np.searchsorted(table.fd, [first_fd, stop_fd])
    return table.take(slice(int(low), int(high)))


class _Near(NamedTuple):
    """Pieces [low, high) as lists: most directions have few, and neighbours are asked for one after the other."""

    low: int
    high: int
    starts: list[int]
    stops: list[int]
    addresses: list[int]


_NEAR: Final = 1 << 14
"""Pieces turned into lists at once."""


class Streams:
    """Bytes and times of every TCP stream; fd = 2 * flow + direction. Times are ns, NEVER for what did not happen.

    What a look-up needs is worked out when it is first asked for, of all flows that the object holds: ask a part.
    """

    __slots__ = (
        "_ack_key", "_acks", "_begins", "_first_fd", "_gaps", "_near", "_packets", "_piece_key", "_pieces", "_sacked", "_segments",
        "_stop_fd", "_stop_key", "_tcp", "_where",
    )  # fmt: skip

    def __init__(self, packets: Packets, tcp: TcpTables, flows: tuple[int, int] | None = None) -> None:
        """Of all flows, or of the flows [first, stop) alone."""
        first, stop = (0, len(tcp.flows)) if flows is None else flows
        self._packets, self._tcp = packets, tcp
        self._first_fd, self._stop_fd = 2 * first, 2 * stop
        self._segments: Segments = tcp.segments
        self._pieces: Pieces = of_directions(tcp.pieces, 2 * first, 2 * stop)
        self._acks: Acks = of_directions(tcp.acks, 2 * first, 2 * stop)
        self._gaps: Gaps = of_directions(tcp.gaps, 2 * first, 2 * stop)
        self._sacked: tuple[I64, Sacked] | None = None
        self._piece_key: I64 | None = None
        self._ack_key: I64 | None = None
        self._stop_key: I64 | None = None
        self._where: tuple[I64, I64, I64] | None = None
        self._begins: list[int] | None = None
        """First piece of each direction, and behind the last of them."""
        self._near = _Near(0, 0, [], [], [])

    def part(self, first: int, stop: int | None = None) -> Streams:
        """Those of the flows [first, stop), by default of one flow; all numbers stay what they are."""
        return Streams(self._packets, self._tcp, (first, first + 1 if stop is None else stop))

    def flows(self) -> list[int]:
        """The flows of which bytes were captured, ascending."""
        found: list[int] = np.unique(self._pieces.fd >> 1).tolist()
        return found

    @property
    def gaps(self) -> Gaps:
        """Bytes that were acknowledged and never captured, of these flows."""
        return self._gaps

    def strips(self, fd: int) -> Strips:
        """All bytes of a direction, ascending and adjacent, from the first known one, packet by packet."""
        low, high = self._range(fd)
        if low == high:
            return Strips([], [], [])
        at, have, broken = self._lying()
        near = self._near
        if not near.low <= low <= high <= near.high:
            stop = max(high, min(low + _NEAR, len(self._pieces)))
            columns = (column[low:stop].tolist() for column in (self._pieces.start, self._pieces.stop, at))
            near = self._near = _Near(low, stop, *columns)
        starts, stops, addresses = (column[low - near.low : high - near.low] for column in near[2:])
        if broken[high] == broken[low]:
            return Strips(starts, stops, addresses)
        strips, reached = Strips([], [], []), starts[0]
        for start, stop, address, captured in zip(starts, stops, addresses, have[low:high].tolist(), strict=True):
            if start > reached:
                strips.add(reached, start, NOWHERE)
            if captured:
                strips.add(start, start + captured, address)
            if start + captured < stop:
                strips.add(start + captured, stop, NOWHERE)
            reached = stop
        return strips

    def read(self, address: int, length: int) -> memoryview:
        """Bytes of one strip."""
        return self._packets.blob.read(address, length)

    def _lying(self) -> tuple[I64, I64, I64]:
        """Per piece: where its bytes lie, how many of them were captured, and how many pieces before it are cut or behind a hole."""
        if self._where is None:
            pieces, segments, packets = self._pieces, self._segments, self._packets
            rows = segments.row[pieces.segment]
            skipped = pieces.start - segments.seq[pieces.segment] - ((segments.flags[pieces.segment] & SYN) > 0)
            have = np.clip(packets.payload_captured[rows] - skipped, 0, pieces.stop - pieces.start)
            broken = have < pieces.stop - pieces.start
            broken[1:] |= (pieces.fd[1:] == pieces.fd[:-1]) & (pieces.start[1:] != pieces.stop[:-1])
            self._where = packets.payload_at[rows] + skipped, have, np.concatenate([[0], np.cumsum(broken)])
        return self._where

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
            result[missing[hit]] = self.acked(wanted_fd[hit], offsets[missing[hit]])
        return result

    def acked(self, fd: I64 | int, offsets: I64) -> I64:
        """When the byte AT each offset was first acknowledged cumulatively."""
        wanted = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)
        if self._ack_key is None:
            self._ack_key = key(self._acks.fd, self._acks.offset)
        row = np.searchsorted(self._ack_key, key(wanted, offsets), side="right")
        last = np.minimum(row, len(self._acks) - 1)
        hit = row < len(self._acks)
        hit &= self._at(self._acks.fd, last) == wanted
        return np.where(hit, self._at(self._acks.ts_ns, last), NEVER)

    def sacked(self, fd: I64 | int, offsets: I64) -> I64:
        """When the byte AT each offset was first acknowledged selectively."""
        if self._sacked is None:
            named = of_directions(self._tcp.sacked, self._first_fd, self._stop_fd)
            named = named.take(~named.duplicate)
            self._sacked = key(named.fd, named.start), named
        keys, sacked = self._sacked
        if not len(sacked):
            return np.full(offsets.shape, NEVER)
        wanted = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)
        row = np.searchsorted(keys, key(wanted, offsets), side="right") - 1
        hit = row >= 0
        row = np.maximum(row, 0)
        hit &= (sacked.fd[row] == wanted) & (offsets < sacked.stop[row])
        return np.where(hit, sacked.ts_ns[row], NEVER)

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

    def arrivals(self, fd: I64, begin: I64, spans: I64) -> tuple[I64, I64]:
        """The times of `progress` for many sets of spans at once; a time may come more than once.

        Args:
            fd: direction of each set.
            begin: where the spans of each set begin in `spans`, and the end of the last.
            spans: [start, stop) per row.

        Returns:
            Where the times of each set begin, and the end of the last; and the times, ascending in each set.
        """
        of_span = np.repeat(fd, np.diff(begin))
        if self._stop_key is None:
            self._stop_key = key(self._pieces.fd, self._pieces.stop)
        first = np.searchsorted(self._stop_key, key(of_span, spans[:, 0]), side="right")
        last = np.searchsorted(self._keys(), key(of_span, spans[:, 1]))
        length = np.maximum(last - first, 0)
        times = self._pieces.in_order_ns[concatenated_ranges(first, length)]
        ends = np.concatenate([[0], np.cumsum(length)])[begin]
        known = times < NEVER
        return np.concatenate([[0], np.cumsum(known)])[ends], times[known]

    def _range(self, fd: int) -> tuple[int, int]:
        if self._begins is None:
            self._begins = np.searchsorted(self._pieces.fd, np.arange(self._first_fd, self._stop_fd + 1)).tolist()
        return self._begins[fd - self._first_fd], self._begins[fd + 1 - self._first_fd]

    def _keys(self) -> I64:
        """Where each piece begins."""
        if self._piece_key is None:
            self._piece_key = key(self._pieces.fd, self._pieces.start)
        return self._piece_key

    def _piece_rows(self, fd: I64 | int, offsets: I64) -> tuple[Rows, Bools]:
        """Row in Pieces of each byte (0 where there is none), and whether there is one."""
        wanted = np.broadcast_to(np.asarray(fd, np.int64), offsets.shape)
        row = np.searchsorted(self._keys(), key(wanted, offsets), side="right") - 1
        inside = row >= 0
        row = np.maximum(row, 0)
        if len(self._pieces):
            inside &= (self._pieces.fd[row] == wanted) & (offsets < self._pieces.stop[row])
        return row, inside

    @staticmethod
    def _at(column: I64, row: Rows) -> I64:
        return column[row] if len(column) else np.full(row.shape, NEVER)


def reassemble(packets: Packets, tcp: TcpTables) -> Streams:
    """The byte timeline of all TCP flows."""
    return Streams(packets, tcp)
