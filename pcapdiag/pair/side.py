"""One capture of a pair: its packets alone, its flows, and the header fields that tell one transmission from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, U8, U16, U32, U64, Bools, Rows
from pcapdiag.packets.table import ACK, FIN, RST, SYN, Packets

if TYPE_CHECKING:
    from pcapdiag.capture.frames import Capture
    from pcapdiag.flows.table import Quality, TcpTables, VantageOpinion

Group = Callable[[Packets], "TcpTables"]
"""Step 3 with its options: packets -> flows and TCP columns."""

WHAT = SYN | FIN | RST
"""The flags that make a packet what it is; the others may change on the way or by resegmentation."""


def subset(packets: Packets, rows: Rows) -> Packets:
    """The packets of the given rows, with the small tables beside them renumbered; datagrams stay only if whole."""
    where = np.full(len(packets), -1, np.int64)
    where[rows] = np.arange(len(rows))
    sacks, errors, fragments = packets.sacks, packets.icmp_errors, packets.fragments
    sacks = sacks.take(where[sacks.row] >= 0)
    errors = errors.take(where[errors.row] >= 0)
    kept = (where[fragments.first_row] >= 0) & (where[fragments.last_row] >= 0)
    fragments = fragments.take(kept)
    header = fragments.header_row
    return replace(
        packets.take(rows),
        sacks=replace(sacks, row=where[sacks.row]),
        icmp_errors=replace(errors, row=where[errors.row]),
        fragments=replace(
            fragments, first_row=where[fragments.first_row], last_row=where[fragments.last_row],
            header_row=np.where(header >= 0, where[np.maximum(header, 0)], -1),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One capture by itself. Columns below are per row of its Segments, headers as sent."""

    capture: int
    about: Capture
    quality: Quality
    vantage: VantageOpinion
    first_ns: int
    last_ns: int
    """Of its packets."""
    rows: Rows
    """Row in the packets of both captures, of each of its own."""
    packets: Packets
    tcp: TcpTables
    fd: I64
    number: U32
    """Sequence number as sent."""
    ack_number: U32
    what: U8
    """SYN, FIN and RST of the flags."""
    has_ack: Bools
    ts_val: U32
    has_ts: Bools
    ip_id: U16

    @classmethod
    def of(cls, packets: Packets, capture: int, about: Capture, group: Group) -> Side:
        """The capture of that index."""
        rows = np.flatnonzero(packets.capture == capture)
        own = subset(packets, rows)
        tcp = group(own)
        seg = tcp.segments
        flags = own.flags[seg.row]
        return cls(
            capture=capture, about=about, quality=tcp.quality[capture], vantage=tcp.vantages[capture],
            first_ns=int(own.ts_ns.min()) if len(rows) else 0, last_ns=int(own.ts_ns.max()) if len(rows) else 0, rows=rows,
            packets=own, tcp=tcp,
            fd=2 * seg.flow.astype(np.int64) + seg.direction, number=own.seq[seg.row], ack_number=own.ack[seg.row],
            what=(flags & WHAT).astype(np.uint8), has_ack=(flags & ACK) > 0, ts_val=own.ts_val[seg.row], has_ts=own.has_ts[seg.row],
            ip_id=own.ip_id[seg.row],
        )  # fmt: skip

    def frame(self, segment: int) -> int:
        """Frame number of a row of Segments."""
        return int(self.packets.frame[self.tcp.segments.row[segment]])

    def __len__(self) -> int:
        return len(self.tcp.segments)


def joined(left: I64 | U64, right: I64 | U64) -> tuple[Rows, Rows]:
    """Rows with equal keys: the first of one side with the first of the other, the second with the second, and so on."""
    order, other = np.argsort(left, kind="stable"), np.argsort(right, kind="stable")
    keys, others = left[order], right[other]
    begin = np.searchsorted(keys, keys)
    target = np.searchsorted(others, keys) + (np.arange(len(keys)) - begin)
    inside = target < len(others)
    inside[inside] = others[target[inside]] == keys[inside]
    return order[inside], other[target[inside]]
