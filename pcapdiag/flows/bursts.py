"""How bytes towards one host are spread over milliseconds: peaks, averages, and the packets of a burst."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.spool import WINDOW, column, rows_by_number, rows_where, windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.capture.frames import Capture
    from pcapdiag.columns import I32, I64, Rows
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room

BIN_NS = 1_000_000
"""Finer claims need hardware timestamps: interrupt coalescing and segmentation offload make bursts of their own (CAUSES 3.8)."""
_LINK_BIN_NS = 10_000_000
"""What passes in 10 ms is what the link can carry, if nobody says how fast it is."""
_SECOND_NS = 1_000_000_000


class Loads:
    """The packets of all captures by the host that they were sent to."""

    __slots__ = ("_begin", "_captures", "_hosts", "_packets", "_room", "_rows")

    def __init__(self, packets: Packets, captures: tuple[Capture, ...], *, aside: I64, room: Room | None = None) -> None:
        """Args: all packets; the captures; rows that are copies, ascending; where the tables lie."""
        self._packets, self._captures, self._room = packets, captures, room
        self._hosts = len(packets.addresses.packed)
        number, counts = column(len(packets), np.int32, room), np.zeros(len(captures) * self._hosts, np.int64)
        for part in windows(len(packets), room):
            mine = packets.capture[part].astype(np.int32) * np.int32(self._hosts) + packets.dst[part]
            mine[aside[slice(*np.searchsorted(aside, [part.start, part.stop]))] - part.start] = -1
            number[part] = mine
            counts += np.bincount(mine[mine >= 0], minlength=len(counts))
        self._rows = rows_by_number(number, counts, room)
        self._begin = np.concatenate([[0], np.cumsum(counts)])

    def towards(self, capture: int, dst: int) -> Load:
        """Those of one capture towards one host (index into addresses)."""
        at = capture * self._hosts + dst
        rows = self._rows[int(self._begin[at]) : int(self._begin[at + 1])]
        return Load(self._packets, self._captures[capture], rows, self._room)


class Load:
    """The packets of one capture towards one host, by time."""

    __slots__ = ("_before", "_packets", "_room", "_ts_ns", "link_bps", "measured", "rows")

    def __init__(self, packets: Packets, capture: Capture, rows: Rows, room: Room | None) -> None:
        """Args: all packets; the capture; rows of the packets; where the tables lie."""
        self._packets, self._room = packets, room
        ts_ns: I64 = packets.ts_ns[rows]
        if (ts_ns[1:] < ts_ns[:-1]).any():
            order = np.argsort(ts_ns, kind="stable")
            rows, ts_ns = rows[order], ts_ns[order]
        self.rows: Rows = rows
        self._ts_ns = ts_ns
        self._before: I64 = np.concatenate([[0], np.cumsum(packets.frame_len[rows], dtype=np.int64)])
        speeds = {capture.interfaces[i].speed_bps for i in np.unique(packets.interface[rows]).tolist() if i < len(capture.interfaces)}
        known = next(iter(speeds)) if len(speeds) == 1 else None
        self.measured = not known
        """The link rate is the highest rate over 10 ms, since the file names none."""
        self.link_bps: int = known or self.peak_bps(0, len(self.rows), _LINK_BIN_NS)

    def span(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Positions [begin, stop) of the packets in [start_ns, end_ns]."""
        begin, stop = np.searchsorted(self._ts_ns, [start_ns, end_ns + 1])
        return int(begin), int(stop)

    def bytes_in(self, start_ns: int, end_ns: int) -> int:
        """Bytes on the wire in [start_ns, end_ns]."""
        begin, stop = self.span(start_ns, end_ns)
        return int(self._before[stop] - self._before[begin])

    def mean_bps(self, start_ns: int, end_ns: int) -> int:
        """Average rate over [start_ns, end_ns]; bits per second."""
        return self.bytes_in(start_ns, end_ns) * 8 * _SECOND_NS // max(end_ns - start_ns, 1)

    def rates_bps(self, begin: int, stop: int, window_ns: int) -> I64:
        """Rate over the window that begins with each packet [begin, stop); bits per second."""
        last = np.searchsorted(self._ts_ns, self._ts_ns[begin:stop] + window_ns)
        return (self._before[last] - self._before[begin:stop]) * 8 * (_SECOND_NS // window_ns)

    def peak_bps(self, begin: int, stop: int, window_ns: int = BIN_NS) -> int:
        """Highest of these rates; 0 without packets."""
        parts = windows(max(stop - begin, 0), self._room)
        return max((int(self.rates_bps(begin + part.start, begin + part.stop, window_ns).max()) for part in parts), default=0)

    def bursts(self, share: float, within_ns: int) -> list[tuple[int, int]]:
        """Positions [begin, stop) of runs of packets, no more than within_ns apart, at more than that share of the link rate."""
        hot = rows_where(len(self.rows), lambda part: self.rates_bps(part.start, part.stop, BIN_NS) > share * self.link_bps, self._room)
        if not len(hot):
            return []
        parted = np.flatnonzero(np.diff(self._ts_ns[hot]) > within_ns)
        begins, lasts = hot[np.concatenate([[0], parted + 1])], hot[np.concatenate([parted, [len(hot) - 1]])]
        return [(int(a), int(np.searchsorted(self._ts_ns, self._ts_ns[b] + BIN_NS))) for a, b in zip(begins, lasts, strict=True)]

    def data_packets(self, flow_of_row: I32, bin_ns: int) -> DataPackets:
        """Counts those with payload that belong to a flow; flow_of_row: -1 for none."""
        lengths, pairs = np.zeros(1, np.int64), 0
        for part in self._whole_bins(bin_ns):
            rows = self.rows[part]
            rows = rows[(self._packets.payload_len[rows] > 0) & (flow_of_row[rows] >= 0)]
            counted = np.bincount(self._packets.payload_len[rows], minlength=len(lengths))
            counted[: len(lengths)] += lengths
            lengths = counted
            pairs += pairs_of_owners(self._packets.ts_ns[rows], flow_of_row[rows], bin_ns)
        below = np.cumsum(lengths)
        return DataPackets(int(below[-1]), int(np.searchsorted(below, (below[-1] + 1) // 2)), pairs)

    def _whole_bins(self, bin_ns: int) -> Iterator[slice]:
        """Positions of about a window that cut no bin of time."""
        begin = 0
        while begin < len(self._ts_ns):
            edge_ns = self._ts_ns[min(begin + WINDOW, len(self._ts_ns)) - 1] // bin_ns * bin_ns
            stop = int(np.searchsorted(self._ts_ns, edge_ns + bin_ns))
            yield slice(begin, stop)
            begin = stop
            if self._room is not None:
                self._room.release()


class DataPackets(NamedTuple):
    """Packets with payload towards one host."""

    packet_count: int
    usual_len: int
    """The median of their payload lengths."""
    pairs: int
    """How many pairs of them are of different flows and fall into one bin of time."""


def pairs_of_owners(ts_ns: I64, owner: I32 | I64, bin_ns: int) -> int:
    """How many pairs of events with different owners fall into one bin of time."""
    if not len(ts_ns):
        return 0
    bins = ts_ns // bin_ns
    owners = int(owner.max()) + 1
    both = np.sort((bins - bins.min()) * owners + owner)
    return (_squares(both // owners) - _squares(both)) // 2


def _squares(values: I64) -> int:
    """The sum, over the different values, of the square of how often each occurs; values ascend."""
    begin = np.flatnonzero(np.diff(values, prepend=-1))
    return int((np.diff(begin, append=len(values)) ** 2).sum())
