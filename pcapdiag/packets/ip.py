"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers, with the extension headers behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Final, TypedDict

import numpy as np

from pcapdiag.columns import I32, I64, U8, U32, Bools, Col, Rows, Table
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Headers, Layer
from pcapdiag.packets.distinct import Keys

_IPV4 = np.dtype(
    {
        "names": ["version_ihl", "tos", "total_len", "id", "fragment", "ttl", "proto", "addresses"],
        "formats": ["u1", "u1", ">u2", ">u2", ">u2", "u1", "u1", ("<u4", (2,))],
        "offsets": [0, 1, 2, 4, 6, 8, 9, 12],
        "itemsize": 20,
    }
)
_IPV6 = np.dtype([("version_class_flow", ">u4"), ("payload_len", ">u2"), ("next", "u1"), ("hop_limit", "u1"), ("addresses", "<u8", (4,))])
# The fields of every extension header, and those of the fragment header that lie in the same 8 bytes.
_EXTENSION = np.dtype([("next", "u1"), ("len", "u1"), ("fragment", ">u2"), ("id", ">u4")])

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, NO_NEXT = 0, 43, 44, 51, 60, 59
MAX_EXTENSIONS = 8
"""So many extension headers are stepped over; the protocol of a packet with more is that of the next one."""


def _flags_of(*protocols: int) -> Bools:
    table = np.zeros(256, np.bool_)
    table[list(protocols)] = True
    return table


_EXTENSIONS: Final = {4: _flags_of(AUTHENTICATION), 6: _flags_of(HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION)}


@dataclass(frozen=True, slots=True, kw_only=True)
class IpPackets(Table):
    """IP headers of one version, and where what they carry lies."""

    frame: Annotated[Rows, Col("index of the frame in its batch")]
    path: Annotated[I32, Col("the tunnels around it, as TunnelPaths numbers them")]
    outer_at: Annotated[I64, Col("where the outermost IP header begins", "bytes")]
    depth: Annotated[U8, Col("tunnels opened so far")]
    header_at: Annotated[I64, Col("where this IP header begins", "bytes")]
    at: Annotated[I64, Col("where the transport header begins: behind IP options and extension headers", "bytes")]
    end: Annotated[I64, Col("behind the last captured byte of the packet", "bytes")]
    ip_end: Annotated[I64, Col("behind the last byte of the packet, captured or not", "bytes")]
    addresses: Annotated[Keys, Col("source and destination as they lie in the header, side by side: 2 words of 4 bytes or 4 of 8")]
    ttl: Annotated[U8, Col("TTL or hop limit")]
    tos: Annotated[U8, Col("TOS or traffic class")]
    fragment_id: Annotated[U32, Col("identification: 16 bits of IPv4, 32 of an IPv6 fragment, else 0")]
    dont_fragment: Annotated[Bools, Col("IPv4 DF; true for IPv6")]
    ip_len: Annotated[I64, Col("length of the packet, header included", "bytes")]
    ip_len_zero: Annotated[Bools, Col("the length field was 0: the length is that of the frame")]
    frag_offset: Annotated[I32, Col("fragment offset", "bytes")]
    more_fragments: Annotated[Bools, Col("another fragment follows")]
    proto: Annotated[U8, Col("protocol of what lies at `at`")]
    version: int


def read_ip(batch: Batch, cursor: Cursor) -> Found:
    """Tells IPv4 from IPv6 by the version field, where nothing else does."""
    cursor = batch.keep_whole(cursor, 1, Loss.TRUNCATED_IP)
    version = batch.data[cursor.at] >> 4
    batch.lose(Loss.MALFORMED_IP, (version != 4) & (version != 6))
    return [(Layer.IPV4, cursor.take(version == 4)), (Layer.IPV6, cursor.take(version == 6))]


def read_ipv4(batch: Batch, cursor: Cursor) -> IpPackets:
    """IPv4 headers; a total length of 0 (segmentation offload) becomes that of the frame."""
    cursor = _keep_header(batch, cursor, 20)
    header = batch.gather(cursor.at, _IPV4)
    header_len = (header["version_ihl"] & 15).astype(np.int64) * 4
    total_len = header["total_len"].astype(np.int64)
    zero = total_len == 0
    if zero.any():
        total_len = np.where(zero, cursor.wire_end - cursor.at, total_len)
    good = (header["version_ihl"] >> 4 == 4) & (header_len >= 20) & (total_len >= header_len)
    if not good.all():
        cursor, header = batch.keep(cursor, good, Loss.MALFORMED_IP), header[good]
        header_len, total_len, zero = header_len[good], total_len[good], zero[good]
    fragment = header["fragment"].astype(np.uint16)
    packets = IpPackets(
        **_placed(cursor, header_len, total_len),
        addresses=header["addresses"].copy(),
        ttl=header["ttl"].copy(),
        tos=header["tos"].copy(),
        fragment_id=header["id"].astype(np.uint32),
        dont_fragment=fragment & 0x4000 != 0,
        ip_len=total_len,
        ip_len_zero=zero,
        frag_offset=(fragment & 0x1FFF).astype(np.int32) * 8,
        more_fragments=fragment & 0x2000 != 0,
        proto=header["proto"].copy(),
        version=4,
    )
    return skip_extensions(batch, batch.keep(packets, packets.at <= packets.end, Loss.TRUNCATED_IP))


def read_ipv6(batch: Batch, cursor: Cursor) -> IpPackets:
    """IPv6 headers; a payload length of 0 before a payload (segmentation offload, jumbograms) becomes that of the frame."""
    cursor = _keep_header(batch, cursor, 40)
    header = batch.gather(cursor.at, _IPV6)
    payload_len = header["payload_len"].astype(np.int64)
    left = cursor.wire_end - cursor.at - 40
    zero = (payload_len == 0) & (left > 0) & (header["next"] != NO_NEXT)
    payload_len = np.where(zero, left, payload_len)
    good = header["version_class_flow"] >> 28 == 6
    if not good.all():
        cursor, header = batch.keep(cursor, good, Loss.MALFORMED_IP), header[good]
        payload_len, zero = payload_len[good], zero[good]
    count = len(cursor)
    packets = IpPackets(
        **_placed(cursor, np.full(count, 40), payload_len + 40),
        addresses=header["addresses"].copy(),
        ttl=header["hop_limit"].copy(),
        tos=(header["version_class_flow"] >> 20 & 0xFF).astype(np.uint8),
        fragment_id=np.zeros(count, np.uint32),
        dont_fragment=np.ones(count, np.bool_),
        ip_len=payload_len + 40,
        ip_len_zero=zero,
        frag_offset=np.zeros(count, np.int32),
        more_fragments=np.zeros(count, np.bool_),
        proto=header["next"].copy(),
        version=6,
    )
    return skip_extensions(batch, packets)


def skip_extensions(batch: Batch, packets: IpPackets) -> IpPackets:
    """Moves `at` and `proto` behind extension headers, up to the header of a packet that is really a fragment.

    What follows the fragment header is walked when the datagram has been put together; IPv4 knows only the
    authentication header (RFC 4302).
    """
    known = _EXTENSIONS[packets.version]
    for _ in range(MAX_EXTENSIONS):
        extended = known[packets.proto] & (packets.frag_offset == 0) & ~packets.more_fragments
        if not extended.any():
            break
        fits = ~extended | (packets.ip_end - packets.at >= _EXTENSION.itemsize)
        packets, extended = batch.keep(packets, fits, Loss.MALFORMED_IP), extended[fits]
        fits = ~extended | (packets.end - packets.at >= _EXTENSION.itemsize)
        packets, extended = batch.keep(packets, fits, Loss.TRUNCATED_IP), extended[fits]
        packets = _step_over(packets, np.flatnonzero(extended), batch.gather(packets.at[extended], _EXTENSION))
        packets = batch.keep(packets, packets.at <= packets.ip_end, Loss.MALFORMED_IP)
        packets = batch.keep(packets, packets.at <= packets.end, Loss.TRUNCATED_IP)
    return packets


def _step_over(packets: IpPackets, rows: Rows, header: Headers) -> IpPackets:
    proto = packets.proto[rows]
    size = (header["len"].astype(np.int64) + 1) * 8
    size[proto == AUTHENTICATION] = (header["len"][proto == AUTHENTICATION].astype(np.int64) + 2) * 4  # RFC 4302 section 2.2
    fragment = proto == FRAGMENT
    size[fragment] = _EXTENSION.itemsize
    columns = {name: getattr(packets, name).copy() for name in ("at", "proto", "frag_offset", "more_fragments", "fragment_id")}
    columns["at"][rows] += size
    columns["proto"][rows] = header["next"]
    columns["frag_offset"][rows[fragment]] = header["fragment"][fragment] & 0xFFF8
    columns["more_fragments"][rows[fragment]] = header["fragment"][fragment] & 1 == 1
    columns["fragment_id"][rows[fragment]] = header["id"][fragment]
    return replace(packets, **columns)


def _keep_header(batch: Batch, cursor: Cursor, size: int) -> Cursor:
    cursor = batch.keep(cursor, cursor.wire_end - cursor.at >= size, Loss.MALFORMED_IP)
    return batch.keep_whole(cursor, size, Loss.TRUNCATED_IP)


class _Placed(TypedDict):
    """The columns of IpPackets that say where things lie."""

    frame: Rows
    path: I32
    outer_at: I64
    depth: U8
    header_at: I64
    at: I64
    end: I64
    ip_end: I64


def _placed(cursor: Cursor, header_len: I64, ip_len: I64) -> _Placed:
    ip_end = cursor.at + ip_len
    return {
        "frame": cursor.frame,
        "path": cursor.path,
        "outer_at": np.where(cursor.outer_at < 0, cursor.at, cursor.outer_at),
        "depth": cursor.depth,
        "header_at": cursor.at,
        "at": cursor.at + header_len,
        "end": np.minimum(cursor.end, ip_end),
        "ip_end": ip_end,
    }
