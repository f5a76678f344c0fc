"""One capture of a pair: its packets alone, its flows, and the header fields that tell one transmission from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.columns import I64, U8, U16, U32, U64, Bools, Rows
from pcapdiag.packets.table import ACK, FIN, RST, SYN, Packets
from pcapdiag.spool import Array, Room, computed, taken

if TYPE_CHECKING:
    from pcapdiag.capture.frames import Capture
    from pcapdiag.flows.table import Quality, TcpTables, VantageOpinion

Group = Callable[[Packets], "TcpTables"]
"""Step 3 with its options: packets -> flows and TCP columns."""

WHAT = SYN | FIN | RST
"""The flags that make a packet what it is; the others may change on the way or by resegmentation."""


def subset(packets: Packets, rows: Rows, room: Room) -> Packets:
    """The packets of the given rows, which ascend, with the small tables beside them renumbered; datagrams stay only if whole."""

    def place(row: I64) -> I64:
        at = np.searchsorted(rows, row)
        there = at < len(rows)
        there[there] = rows[at[there]] == row[there]
        return np.where(there, at, -1)

    columns: dict[str, Any] = {name: taken(getattr(packets, name), rows, room) for name in packets.columns()}
    return _renumbered(replace(packets, **columns), place)


def _of_capture(packets: Packets, rows: slice) -> Packets:
    """The packets of one capture: no column is copied."""

    def place(row: I64) -> I64:
        return np.where((row >= rows.start) & (row < rows.stop), row - rows.start, -1)

    return _renumbered(packets.take(rows), place)


def _renumbered(packets: Packets, place: Callable[[I64], I64]) -> Packets:
    """With the small tables for rows as `place` counts them; -1: that row is not there."""
    sacks, errors, fragments = packets.sacks, packets.icmp_errors, packets.fragments
    sacks = replace(sacks, row=place(sacks.row))
    errors = replace(errors, row=place(errors.row))
    first, last, header = place(fragments.first_row), place(fragments.last_row), place(fragments.header_row)
    return replace(
        packets,
        sacks=sacks.take(sacks.row >= 0),
        icmp_errors=errors.take(errors.row >= 0),
        fragments=replace(fragments, first_row=first, last_row=last, header_row=header).take((first >= 0) & (last >= 0)),
    )


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
    begin: int
    """Row of its first packet in the packets of both captures: its own lie one behind the other."""
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
    room: Room
    """Where its columns lie, and those made of them."""

    @classmethod
    def of(cls, packets: Packets, capture: int, about: Capture, group: Group, room: Room) -> Side:
        """The capture of that index."""
        begin, stop = np.searchsorted(packets.capture, np.array([capture, capture + 1], np.uint16)).tolist()
        own = _of_capture(packets, slice(begin, stop))
        tcp = group(own)
        seg = tcp.segments

        def sent(name: str) -> Array:
            return taken(getattr(own, name), seg.row, room)

        flags = sent("flags")
        first_ns, last_ns = own.span_ns(slice(0, len(own)), room) if len(own) else (0, 0)
        return cls(
            capture=capture, about=about, quality=tcp.quality[capture], vantage=tcp.vantages[capture],
            first_ns=first_ns, last_ns=last_ns, begin=begin, packets=own, tcp=tcp,
            fd=computed(len(seg), np.int64, lambda part: 2 * seg.flow[part].astype(np.int64) + seg.direction[part], room),
            number=sent("seq"), ack_number=sent("ack"), what=computed(len(seg), np.uint8, lambda part: flags[part] & WHAT, room),
            has_ack=computed(len(seg), np.bool_, lambda part: (flags[part] & ACK) > 0, room), ts_val=sent("ts_val"),
            has_ts=sent("has_ts"), ip_id=sent("ip_id"), room=room,
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
