"""The flow-control windows of an HTTP/2 connection, and the pauses for want of credit (RFC 9113 sections 5.2 and 6.9)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.protocols.http2_rows import H2Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    def stream(self, streams: I64 | np.int64, rows: Rows) -> I64:
        """A stream's window just before each row; may be below 0 (RFC 9113 section 6.9.2)."""
        low = np.searchsorted(self._key, streams * self._size)
        high = np.searchsorted(self._key, streams * self._size + rows)
        initial = self._initial[np.searchsorted(self._settings, rows)]
        window: I64 = initial + self._sum[high] - self._sum[low]
        return window


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A stream that sent nothing until it got credit; the numbers are rows of the connection's log."""

    fd: int
    stream: int
    last: int
    """The last frame before the pause, or another stream's that took the connection's last bytes."""
    credit: int
    """What ended it: WINDOW_UPDATE or SETTINGS; -1: nothing did."""
    resumed: int
    """The DATA that followed; -1: none did."""
    level: str
    """The window that was too small: stream, connection, or unknown."""
    left: int
    """Bytes that it still allowed; the next frame had more."""


def find_pauses(log: H2Log, fd: int, *, whole: bool, least_ns: int, reach_ns: int) -> Iterator[Pause]:
    """Pauses of the streams of one direction.

    Args:
        log: the log of one connection, times known.
        fd: 2 * flow + direction of the DATA.
        whole: the log begins with the connection and has no gaps; else windows are unknown and only the order of
            events speaks: a pause, credit, and DATA right behind it.
        least_ns: a shorter silence of a stream is no pause.
        reach_ns: how long after credit DATA may come that waited for it.
    """
    frames = np.flatnonzero((log.fd == fd) & ((log.kind == H2Kind.DATA) | (log.kind == H2Kind.HEADERS)))
    frames = frames[np.argsort(log.stream_id[frames], kind="stable")]
    last, then = frames[:-1], frames[1:]
    same = log.stream_id[last] == log.stream_id[then]
    body = (log.kind[then] == H2Kind.DATA) & (log.value[then] > 0)
    paused = same & body & (log.in_order_ns[then] - log.in_order_ns[last] >= least_ns)
    final = frames[np.append(~same, True)[: len(frames)]]
    final = final[~log.end_stream[final] & (log.kind[final] == H2Kind.DATA)]
    if not paused.any() and not len(final):
        return
    windows = Windows(log, fd)
    for before, after in zip(last[paused].tolist(), then[paused].tolist(), strict=True):
        stream = int(log.stream_id[after])
        near = windows.credit[slice(*np.searchsorted(windows.credit, [before, after]))]
        near = near[np.isin(log.stream_id[near], (0, stream)) & (log.in_order_ns[near] >= log.in_order_ns[after] - reach_ns)]
        if len(near) and whole:
            yield from _short(log, windows, Pause(fd=fd, stream=stream, last=before, credit=-1, resumed=after, level="", left=0), near)
        elif len(near) and not _asked(log, fd, stream, range(before, after)):
            yield Pause(fd=fd, stream=stream, last=before, credit=int(near[0]), resumed=after, level="unknown", left=0)
    if whole:
        yield from _unended(log, fd, windows, final)


def _short(log: H2Log, windows: Windows, pause: Pause, near: Rows) -> Iterator[Pause]:
    """The pause, if a window was smaller than the next frame until one of the rows of credit."""
    stream, wanted = np.int64(pause.stream), int(log.value[pause.resumed])
    own, shared = windows.stream(stream, near), windows.connection(near)
    short = np.flatnonzero(np.minimum(own, shared) < wanted)
    if not len(short):
        return
    at = int(short[0])
    # Others may have emptied the connection's window later than this stream fell silent.
    rows = np.arange(pause.last + 1, int(near[at]) + 1)
    enough = np.flatnonzero(np.minimum(windows.stream(stream, rows), windows.connection(rows)) >= wanted)
    yield replace(
        pause, last=int(rows[enough[-1]]) if len(enough) else pause.last, credit=int(near[at]),
        level="stream" if own[at] <= shared[at] else "connection", left=max(int(min(own[at], shared[at])), 0),
    )  # fmt: skip


def _asked(log: H2Log, fd: int, stream: int, rows: range) -> bool:
    """Did the receiver send more than credit on the stream meanwhile, so that the DATA may answer that?"""
    said = np.isin(log.kind[rows.start : rows.stop], (H2Kind.DATA, H2Kind.HEADERS))
    return bool((said & (log.fd[rows.start : rows.stop] == fd ^ 1) & (log.stream_id[rows.start : rows.stop] == stream)).any())


def _unended(log: H2Log, fd: int, windows: Windows, final: Rows) -> Iterator[Pause]:
    """Streams that end in DATA without END_STREAM and whose window stayed empty."""
    own, shared = windows.stream(log.stream_id[final], np.full(len(final), len(log))), int(windows.connection(np.array([len(log)]))[0])
    for at in np.flatnonzero(np.minimum(own, shared) <= 0).tolist():
        level = "stream" if own[at] <= shared else "connection"
        yield Pause(fd=fd, stream=int(log.stream_id[final[at]]), last=int(final[at]), credit=-1, resumed=-1, level=level, left=0)
