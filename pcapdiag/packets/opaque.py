"""Tunnels that nobody can look into without keys: named and counted; their packets stay rows."""

from __future__ import annotations

from typing import Final

import numpy as np

from pcapdiag.columns import I64, U8, Bools
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Headers
from pcapdiag.packets.ip import IpPackets

ESP: Final = 50
"""IP protocol number of IPsec's encrypted payload (RFC 4303)."""

_NAT_PORT, _OPENVPN_PORT, _WIREGUARD_PORT = 4500, 1194, 51820
_UDP = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("len", ">u2"), ("checksum", ">u2")])
_WORD = np.dtype([("value", ">u4")])
_BEGIN = np.dtype([("word", ">u4"), ("second", ">u4"), ("counter", "<u8")])
_RECORD = np.dtype([("type", "u1"), ("version", ">u2"), ("epoch_sequence", ">u8"), ("length", ">u2")])

# Indices below are reserved, and 0 is IKE's (RFC 4303 section 2.1, RFC 3948 section 2.2); padding makes the length a multiple of 4
# (RFC 4303 section 2.4): two words of header, one of padding, and a check value of 8 bytes or more.
_LEAST_ESP_INDEX, _LEAST_ESP_LEN = 256, 20
# WireGuard's messages by type: two handshakes and a cookie of fixed length (whitepaper section 5.4), and data.
_WIREGUARD_LENGTHS: Final = {0x01000000: 148, 0x02000000: 92, 0x03000000: 64}
_WIREGUARD_DATA, _LEAST_DATA_LEN, _MAX_COUNTER = 0x04000000, 32, 1 << 40
# Opcodes of OpenVPN's first byte, above the key number in its lower three bits; lengths below 14 hold no data.
_OPENVPN_OPCODES: Final = (3, 4, 5, 6, 7, 8, 9, 10, 11)
_LEAST_OPENVPN_LEN = 14
_DTLS_VERSIONS: Final = (0xFEFF, 0xFEFD, 0x0100)  # DTLS 1.0, 1.2, and what OpenSSL had before (RFC 6347)
_APPLICATION_DATA = 23


def count_opaque(batch: Batch, packets: IpPackets, udp: Bools) -> None:
    """Counts encrypted tunnels among packets, of which `udp` marks those with a whole UDP header."""
    batch.lose(Loss.ESP, (packets.proto == ESP) & (packets.frag_offset == 0))
    rows = np.flatnonzero(udp & (packets.end - packets.at >= _UDP.itemsize + 4))
    if not len(rows):
        return
    at, end = packets.at[rows], packets.end[rows]
    ports = batch.gather(at, _UDP)
    length = np.minimum(ports["len"].astype(np.int64), packets.ip_end[rows] - at) - _UDP.itemsize
    at = at + _UDP.itemsize
    first = batch.data[at]
    esp = _on(ports, _NAT_PORT) & (length >= _LEAST_ESP_LEN) & (length % 4 == 0) & (batch.gather(at, _WORD)["value"] >= _LEAST_ESP_INDEX)
    wireguard = _is_wireguard(batch, at, end, length, known_port=_on(ports, _WIREGUARD_PORT))
    openvpn = _on(ports, _OPENVPN_PORT) & np.isin(first >> 3, _OPENVPN_OPCODES) & (length >= _LEAST_OPENVPN_LEN)
    batch.lose(Loss.ESP, esp)
    batch.lose(Loss.WIREGUARD, wireguard & ~esp)
    batch.lose(Loss.OPENVPN, openvpn & ~wireguard)
    batch.lose(Loss.DTLS, _is_dtls(batch, at, end, length) & ~(esp | openvpn))


def _on(ports: Headers, port: int) -> Bools:
    both: Bools = (ports["sport"] == port) | (ports["dport"] == port)
    return both


def _is_wireguard(batch: Batch, at: I64, end: I64, length: I64, *, known_port: Bools) -> Bools:
    """A type, three zeros and the length of that type; data also counts its packets, from 0, so that most bytes of the counter are 0."""
    found = np.zeros(len(at), np.bool_)
    rows = np.flatnonzero(_small(batch.data[at]))
    whole, header = batch.peek(at[rows], end[rows], _BEGIN)
    word, size = header["word"], length[rows]
    good = np.zeros(len(rows), np.bool_)
    for kind, exact in _WIREGUARD_LENGTHS.items():
        good |= (word == kind) & (size == exact)
    data = (word == _WIREGUARD_DATA) & (size >= _LEAST_DATA_LEN) & (size % 16 == 0)
    good |= data & (known_port[rows] | ((header["second"] != 0) & (header["counter"] < _MAX_COUNTER)))
    found[rows] = whole & good
    return found


def _small(first: U8) -> Bools:
    few: Bools = (first >= 1) & (first <= 4)
    return few


def _is_dtls(batch: Batch, at: I64, end: I64, length: I64) -> Bools:
    found = np.zeros(len(at), np.bool_)
    rows = np.flatnonzero(batch.data[at] == _APPLICATION_DATA)
    whole, header = batch.peek(at[rows], end[rows], _RECORD)
    fits = header["length"].astype(np.int64) + _RECORD.itemsize <= length[rows]
    found[rows] = whole & np.isin(header["version"], _DTLS_VERSIONS) & fits
    return found
