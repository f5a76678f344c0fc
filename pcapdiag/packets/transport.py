"""The columns that transport headers fill, and UDP, which fills few of them (RFC 768)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated

import numpy as np

from pcapdiag.columns import I8, I32, I64, U8, U16, U32, Bools, Col, Rows, Table
from pcapdiag.packets.cursor import Batch
from pcapdiag.packets.icmp import Quote
from pcapdiag.packets.ip import IpPackets
from pcapdiag.packets.table import SackBlocks

_UDP = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("len", ">u2"), ("checksum", ">u2")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Transports(Table):
    """The transport columns of Packets (which says what they mean), `payload_at` in the data of the batch."""

    sport: Annotated[U16, Col("source port")]
    dport: Annotated[U16, Col("destination port")]
    seq: Annotated[U32, Col("sequence number")]
    ack: Annotated[U32, Col("acknowledgment number")]
    flags: Annotated[U8, Col("flags")]
    window: Annotated[U16, Col("window field")]
    mss: Annotated[U16, Col("MSS option", "bytes")]
    window_shift: Annotated[I8, Col("window scale option")]
    sack_permitted: Annotated[Bools, Col("SACK-permitted option")]
    has_ts: Annotated[Bools, Col("timestamps option present")]
    ts_val: Annotated[U32, Col("TSval")]
    ts_ecr: Annotated[U32, Col("TSecr")]
    payload_at: Annotated[I64, Col("where the payload begins", "bytes")]
    payload_len: Annotated[I32, Col("payload on the wire", "bytes")]
    payload_captured: Annotated[I32, Col("of it, in the capture", "bytes")]
    sacks: list[SackBlocks] = field(default_factory=list)
    quotes: list[Quote] = field(default_factory=list)

    @classmethod
    def blank(cls, count: int) -> Transports:
        """`count` rows without ports, options and payload."""
        zeros = {name: np.zeros(count, getattr(_no_rows(), name).dtype) for name in cls.columns()}
        zeros["window_shift"] = np.full(count, -1, np.int8)
        return replace(_no_rows(), **zeros, sacks=[], quotes=[])


@cache
def _no_rows() -> Transports:
    """What says the column types; finding them takes a millisecond."""
    return Transports.empty()


def fill_udp(batch: Batch, packets: IpPackets, rows: Rows | slice, to: Transports) -> None:
    """Writes ports and payload of the given rows, whose headers are whole; the payload ends with the shorter of UDP and IP length."""
    at, end = packets.at[rows], packets.end[rows]
    header = batch.gather(at, _UDP)
    to.sport[rows] = header["sport"]
    to.dport[rows] = header["dport"]
    in_packet = packets.ip_end[rows] - at
    length = header["len"].astype(np.int64)
    length = np.where(length == 0, in_packet, np.minimum(length, in_packet))  # 0: longer than the field, RFC 2675 section 4
    payload_len = np.maximum(length - _UDP.itemsize, 0)
    payload_at = at + _UDP.itemsize
    to.payload_at[rows] = payload_at
    to.payload_len[rows] = payload_len
    to.payload_captured[rows] = np.minimum(payload_len, end - payload_at)
