"""The flow-control windows of an HTTP/2 connection at any moment of its log (RFC 9113 sections 5.2 and 6.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.h2log import H2Kind

if TYPE_CHECKING:
    from pcapdiag.columns import I64, Rows
    from pcapdiag.exchanges.h2log import H2Log

DEFAULT_WINDOW: Final = 65_535
"""Of the connection, and of streams without a SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.9.2), bytes."""


class Windows:
    """Bytes that one direction of a connection may still send, just before any row of its log.

    True when the log holds the connection from its first SETTINGS on. A row number stands for a time: the log is in
    the order of the tap, so at the receiver's side the sender's own books lie up to a round trip behind.
    """

    __slots__ = ("_connection", "_initial", "_key", "_settings", "_size", "_sum", "credit")

    def __init__(self, log: H2Log, fd: int) -> None:
        """Keeps the books of `fd` (2 * flow + direction of the DATA) over the log of one flow."""
        self._size = len(log) + 1
        sent = (log.fd == fd) & (log.kind == H2Kind.DATA)
        given = (log.fd == fd ^ 1) & (log.kind == H2Kind.WINDOW_UPDATE)
        settings = (log.fd == fd ^ 1) & (log.kind == H2Kind.SETTINGS_INITIAL_WINDOW)
        change = np.where(sent, -log.value, np.where(given, log.value, 0))
        shared = np.where(sent | (log.stream_id == 0), change, 0)
        self._connection = DEFAULT_WINDOW + np.concatenate([[0], np.cumsum(shared)])
        moved = np.flatnonzero((sent | given) & (log.stream_id > 0))
        moved = moved[np.argsort(log.stream_id[moved], kind="stable")]
        self._key = log.stream_id[moved] * self._size + moved
        self._sum = np.concatenate([[0], np.cumsum(change[moved])])
        # SETTINGS change the windows of open streams too, by the difference: one initial value at a time serves all.
        self._settings = np.flatnonzero(settings)
        self._initial = np.concatenate([[DEFAULT_WINDOW], log.value[settings]])
        self.credit: Rows = np.flatnonzero(given | settings)
        """Rows that may raise a window, by time."""

    def connection(self, rows: Rows) -> I64:
        """The connection's window just before each row (len(log): at the end); may be below 0."""
        window: I64 = self._connection[rows]
        return window

    def stream(self, streams: I64, rows: Rows) -> I64:
        """A stream's window just before each row; may be below 0 (RFC 9113 section 6.9.2)."""
        low = np.searchsorted(self._key, streams * self._size)
        high = np.searchsorted(self._key, streams * self._size + rows)
        initial = self._initial[np.searchsorted(self._settings, rows)]
        window: I64 = initial + self._sum[high] - self._sum[low]
        return window
