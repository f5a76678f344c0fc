"""The packets that ICMP (RFC 792) and ICMPv6 (RFC 4443) errors quote."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from pcapdiag.columns import Rows
from pcapdiag.packets.cursor import Batch
from pcapdiag.packets.ip import AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, MAX_EXTENSIONS, ROUTING, IpPackets
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP

HEADER_LEN = 8

# Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 section 3.2.2).
ERRORS_V4: Final = frozenset({3, 4, 5, 11, 12})
# Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 section 2.1).
ERRORS_V6: Final = frozenset({1, 2, 3, 4})

_ICMP = Struct(">BBHHH")
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_TRANSPORT = Struct(">HHI")
_EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION})


class Quote(NamedTuple):
    """An ICMP error and the packet it quotes; the fields are those of IcmpErrors, the addresses still as bytes."""

    row: int
    type: int
    code: int
    mtu: int
    src: bytes
    dst: bytes
    proto: int
    sport: int
    dport: int
    seq: int
    ip_len: int
    ip_id: int
    overhead_len: int = 0


class _Quoted(NamedTuple):
    src: bytes
    dst: bytes
    proto: int
    ip_len: int
    ip_id: int
    transport_at: int
    """-1: a later fragment, which quotes no ports."""


def read_quotes(batch: Batch, packets: IpPackets, rows: Rows) -> Iterator[Quote]:
    """The errors among the given ICMP rows that quote at least an IP header; they are few, so one by one."""
    version, errors, proto = packets.version, ERRORS_V4, ICMP
    if version == 6:
        errors, proto = ERRORS_V6, ICMPV6
    rows = rows[(packets.proto[rows] == proto) & (packets.end[rows] - packets.at[rows] >= HEADER_LEN + _IPV4.size)]
    rows = rows[np.isin(batch.data[packets.at[rows]], list(errors))]
    for row, at, end in zip(rows.tolist(), packets.at[rows].tolist(), packets.end[rows].tolist(), strict=True):
        quote = _read_quote(batch.data[at:end].tobytes(), row, version)
        if quote is not None:
            yield quote


def read_inner(batch: Batch, quote: Quote, inner: IpPackets, one: int) -> Quote:
    """The same error about the packet inside the quoted one: row `one` of what the quote was decoded to."""
    data = batch.data[inner.at[one] : inner.end[one]].tobytes()
    addresses, proto = inner.addresses[one].tobytes(), int(inner.proto[one])
    half = len(addresses) // 2
    sport = dport = 0
    seq = -1
    if inner.frag_offset[one] == 0 and proto in {TCP, UDP} and len(data) >= _TRANSPORT.size:
        sport, dport, number = _TRANSPORT.unpack_from(data)
        seq = number if proto == TCP else -1
    return quote._replace(
        src=addresses[:half], dst=addresses[half:], proto=proto, sport=sport, dport=dport, seq=seq, ip_len=int(inner.ip_len[one]),
        ip_id=int(inner.fragment_id[one]) & 0xFFFF, overhead_len=int(inner.header_at[one] - inner.outer_at[one]),
    )  # fmt: skip


def _read_quote(message: bytes, row: int, version: int) -> Quote | None:
    kind, code, _, high, low = _ICMP.unpack_from(message)
    quoted = _read_ipv4(message) if version == 4 else _read_ipv6(message)
    if quoted is None:
        return None
    mtu = -1
    if version == 4 and (kind, code) == (3, 4):
        mtu = low  # RFC 1191 section 4
    elif version == 6 and kind == 2:
        mtu = high << 16 | low
    sport = dport = 0
    seq = -1
    at = quoted.transport_at
    if quoted.proto in {TCP, UDP} and at >= 0 and len(message) >= at + _TRANSPORT.size:
        sport, dport, number = _TRANSPORT.unpack_from(message, at)
        seq = number if quoted.proto == TCP else -1
    return Quote(row, kind, code, mtu, quoted.src, quoted.dst, quoted.proto, sport, dport, seq, quoted.ip_len, quoted.ip_id)


def _read_ipv4(message: bytes) -> _Quoted | None:
    if len(message) < HEADER_LEN + _IPV4.size:
        return None
    version_ihl, _, ip_len, ip_id, fragment, _, proto, _, src, dst = _IPV4.unpack_from(message, HEADER_LEN)
    header_len = (version_ihl & 15) * 4
    if version_ihl >> 4 != 4 or header_len < _IPV4.size:
        return None
    at = -1 if fragment & 0x1FFF else HEADER_LEN + header_len
    return _Quoted(src, dst, proto, ip_len, ip_id, at)


def _read_ipv6(message: bytes) -> _Quoted | None:
    if len(message) < HEADER_LEN + _IPV6.size:
        return None
    first, payload_len, proto, _, src, dst = _IPV6.unpack_from(message, HEADER_LEN)
    if first >> 28 != 6:
        return None
    at, ip_id = HEADER_LEN + _IPV6.size, 0
    for _ in range(MAX_EXTENSIONS):
        if proto not in _EXTENSIONS or len(message) < at + 8:
            break
        size = (message[at + 1] + 1) * 8
        if proto == FRAGMENT:
            size, ip_id = 8, int.from_bytes(message[at + 6 : at + 8])
            if int.from_bytes(message[at + 2 : at + 4]) & 0xFFF8:
                return _Quoted(src, dst, message[at], payload_len + 40, ip_id, -1)
        elif proto == AUTHENTICATION:
            size = (message[at + 1] + 2) * 4
        proto, at = message[at], at + size
    return _Quoted(src, dst, proto, payload_len + 40, ip_id, at)
