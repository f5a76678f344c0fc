"""How bytes towards one host are spread over milliseconds: peaks, averages, and the packets of a burst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pcapdiag.capture.frames import Capture
    from pcapdiag.columns import I64, Rows
    from pcapdiag.packets.table import Packets

BIN_NS = 1_000_000
"""Finer claims need hardware timestamps: interrupt coalescing and segmentation offload make bursts of their own (CAUSES 3.8)."""
_LINK_BIN_NS = 10_000_000
"""What passes in 10 ms is what the link can carry, if nobody says how fast it is."""
_SECOND_NS = 1_000_000_000


class Load:
    """The packets of one capture towards one host, by time."""

    __slots__ = ("_before", "_ts_ns", "link_bps", "measured", "rows")

    def __init__(self, packets: Packets, captures: tuple[Capture, ...], *, capture: int, dst: int, aside: I64) -> None:
        """Args: all packets; the captures; index of the capture; receiver as index into addresses; rows that are copies."""
        rows = np.setdiff1d(np.flatnonzero((packets.dst == dst) & (packets.capture == capture)), aside, assume_unique=True)
        self.rows: Rows = rows[np.argsort(packets.ts_ns[rows], kind="stable")]
        self._ts_ns: I64 = packets.ts_ns[self.rows]
        self._before: I64 = np.concatenate([[0], np.cumsum(packets.frame_len[self.rows], dtype=np.int64)])
        interfaces = captures[capture].interfaces
        speeds = {interfaces[i].speed_bps for i in np.unique(packets.interface[self.rows]).tolist() if i < len(interfaces)}
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
        return int(self.rates_bps(begin, stop, window_ns).max(initial=0))

    def bursts(self, share: float, within_ns: int) -> list[tuple[int, int]]:
        """Positions [begin, stop) of runs of packets, no more than within_ns apart, at more than that share of the link rate."""
        hot = np.flatnonzero(self.rates_bps(0, len(self.rows), BIN_NS) > share * self.link_bps)
        if not len(hot):
            return []
        parted = np.flatnonzero(np.diff(self._ts_ns[hot]) > within_ns)
        begins, lasts = hot[np.concatenate([[0], parted + 1])], hot[np.concatenate([parted, [len(hot) - 1]])]
        return [(int(a), int(np.searchsorted(self._ts_ns, self._ts_ns[b] + BIN_NS))) for a, b in zip(begins, lasts, strict=True)]
