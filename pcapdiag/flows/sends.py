"""Which packets carried given stream bytes: the raw material of back-off series and size tests."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.table import TcpTables


def sends_of(tcp: TcpTables, fd: int, offset: int, *, from_ns: int, until_ns: int) -> I64:
    """Rows in Segments, by time, that carried the byte at `offset` of fd within [from_ns, until_ns].

    Args:
        tcp: the tables of step 3.
        fd: 2 * flow + direction.
        offset: a stream offset.
        from_ns: first time, included.
        until_ns: last time, included.
    """
    flow, direction = divmod(fd, 2)
    begin, stop = int(tcp.flows.begin[flow]), int(tcp.flows.stop[flow])
    low, high = np.searchsorted(tcp.segments.ts_ns[begin:stop], [from_ns, until_ns + 1])
    rows = slice(begin + int(low), begin + int(high))
    seg = tcp.segments
    mine = (seg.direction[rows] == direction) & (seg.seq[rows] <= offset) & (seg.seq[rows] + seg.payload_len[rows] > offset)
    return np.flatnonzero(mine) + rows.start
