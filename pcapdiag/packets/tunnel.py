"""What carries IP inside IP, and the link layers that stack labels.

A tunnel is one reader and one line in IP_TUNNELS or UDP_TUNNELS: given where its header begins, the reader says which
packets it recognises, which end too early, where the inner header begins and what it is. What it does not recognise
stays a packet of the outer protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, U8, Bools
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import MAX_DEPTH, Batch, Cursor, Layer
from pcapdiag.packets.ip import IpPackets
from pcapdiag.packets.link import Found, read_ppp
from pcapdiag.packets.table import UDP

_PORTS = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("len", ">u2"), ("checksum", ">u2")])
_VXLAN = np.dtype([("flags_reserved", ">u4"), ("vni_reserved", ">u4")])
_GENEVE = np.dtype([("version_options", "u1"), ("flags", "u1"), ("type", ">u2"), ("vni_reserved", ">u4")])
_GRE = np.dtype([("flags", ">u2"), ("type", ">u2")])
_GTP = np.dtype([("flags", "u1"), ("message", "u1"), ("len", ">u2"), ("teid", ">u4"), ("options", ">u4")])
_MPLS = np.dtype([("entry", ">u4")])
_PPPOE = np.dtype([("version_type", "u1"), ("code", "u1"), ("session", ">u2"), ("len", ">u2")])

_GRE_LAYERS: Final = {0x0800: Layer.IPV4, 0x86DD: Layer.IPV6, 0x6558: Layer.ETHERNET, 0x8847: Layer.MPLS, 0x8848: Layer.MPLS}
_ERSPAN_1_OR_2, _ERSPAN_3 = 0x88BE, 0x22EB
_MAX_LABELS = 16


@dataclass(frozen=True, slots=True)
class Opening:
    """What a tunnel reader saw, one element per packet."""

    valid: Bools
    """The header is whole and is this tunnel's."""
    cut: Bools
    """The header ends behind the captured bytes."""
    inner_at: I64
    layer: U8
    """The Layer at `inner_at`; 0: one that is not read, so the packet stays closed."""
    number: npt.NDArray[np.integer[Any]] | None = None
    """The network identifier, if both directions share it."""


Opener = Callable[[Batch, I64, I64], Opening]
"""(batch, where the tunnel header begins, captured end) -> Opening."""


def enter_tunnels(batch: Batch, packets: IpPackets) -> tuple[IpPackets, Found]:
    """Splits packets into those that carry no tunnel we read, and the inner headers of the others. Fragments stay closed."""
    shut = (packets.frag_offset > 0) | packets.more_fragments | (packets.depth >= MAX_DEPTH)
    candidate = _CANDIDATES[packets.proto] & ~shut
    if not candidate.any():
        return packets, []
    gone = np.zeros(len(packets), np.bool_)
    found: Found = []
    for proto, (label, opener) in IP_TUNNELS.items():
        rows = np.flatnonzero(candidate & (packets.proto == proto))
        if len(rows):
            found += _open(batch, packets, rows, packets.at[rows], label, opener, gone)
    rows = np.flatnonzero(candidate & (packets.proto == UDP))
    whole, header = batch.peek(packets.at[rows], packets.end[rows], _PORTS)
    for port, (label, opener) in UDP_TUNNELS.items():
        some = rows[whole & (header["dport"] == port)]
        if len(some):
            found += _open(batch, packets, some, packets.at[some] + _PORTS.itemsize, label, opener, gone)
    return (packets.take(~gone) if gone.any() else packets), found


def _open(batch: Batch, packets: IpPackets, rows: npt.NDArray[np.intp], at: I64, label: str, opener: Opener, gone: Bools) -> Found:
    """Runs one opener on the given rows, marks those that are no outer packets any more in `gone`."""
    opening = opener(batch, at, packets.end[rows])
    truncated = opening.cut & (packets.ip_end[rows] > packets.end[rows])
    batch.lose(Loss.TRUNCATED_TUNNEL, truncated)
    opened = opening.valid & (opening.layer > 0) & (opening.inner_at < packets.ip_end[rows])
    gone[rows[truncated | opened]] = True
    found: Found = []
    for layer in np.unique(opening.layer[opened]).tolist():
        these = opened & (opening.layer == layer)
        inner = rows[these]
        cursor = Cursor(
            frame=packets.frame[inner],
            at=opening.inner_at[these],
            end=packets.end[inner],
            wire_end=packets.ip_end[inner],
            path=batch.paths.push(packets.path[inner], label, None if opening.number is None else opening.number[these]),
            outer_at=packets.outer_at[inner],
            depth=packets.depth[inner] + np.uint8(1),
        )
        found.append((Layer(layer), cursor))
    return found


def _vxlan(batch: Batch, at: I64, end: I64) -> Opening:
    """RFC 7348 section 5."""
    whole, header = batch.peek(at, end, _VXLAN)
    valid = whole & (header["flags_reserved"] == 0x08000000)
    return Opening(valid, ~whole, at + _VXLAN.itemsize, _all(at, Layer.ETHERNET), header["vni_reserved"] >> 8)


def _geneve(batch: Batch, at: I64, end: I64) -> Opening:
    """RFC 8926 section 3.4."""
    whole, header = batch.peek(at, end, _GENEVE)
    options_len = (header["version_options"] & 0x3F).astype(np.int64) * 4
    return Opening(
        whole & (header["version_options"] >> 6 == 0),
        ~whole,
        at + _GENEVE.itemsize + options_len,
        _layers_of(header["type"]),
        header["vni_reserved"] >> 8,
    )


def _gre(batch: Batch, at: I64, end: I64) -> Opening:
    """RFC 2784, RFC 2890; ERSPAN has its own header behind it. Version 1 (PPTP) and source routes stay closed."""
    whole, header = batch.peek(at, end, _GRE)
    flags, kind = header["flags"], header["type"]
    size = np.full(len(at), _GRE.itemsize)
    for optional in (0x8000, 0x2000, 0x1000):  # checksum, key, sequence number
        size[flags & optional != 0] += 4
    layer = _layers_of(kind)
    mirrored = (kind == _ERSPAN_1_OR_2) | (kind == _ERSPAN_3)
    layer[mirrored] = Layer.ETHERNET
    size[(kind == _ERSPAN_1_OR_2) & (flags & 0x1000 != 0)] += 8  # type I has neither sequence number nor header
    third = np.flatnonzero(whole & (kind == _ERSPAN_3))
    size[third] += 12
    third = third[at[third] + size[third] <= end[third]]
    size[third] += 8 * (batch.data[at[third] + size[third] - 1] & 1).astype(np.int64)  # O: a subheader follows
    return Opening(whole & (flags & 0x4007 == 0), ~whole, at + size, layer)


def _gtp_u(batch: Batch, at: I64, end: I64) -> Opening:
    """3GPP TS 29.281 section 5: G-PDUs; the tunnel endpoint differs by direction, so it is no part of the path."""
    whole, header = batch.peek(at, end, _GTP)
    optional = header["flags"] & 0x07 != 0
    inner_at = at + np.where(optional, 12, 8)
    valid = whole & (header["flags"] >> 4 == 3) & (header["message"] == 0xFF)
    more = valid & (header["flags"] & 0x04 != 0) & (header["options"] & 0xFF != 0)
    for _ in range(_MAX_LABELS):
        rows = np.flatnonzero(more & (inner_at < end))
        if not len(rows):
            break
        size = np.maximum(batch.data[inner_at[rows]].astype(np.int64) * 4, 4)
        last = inner_at[rows] + size - 1
        inner_at[rows] = last + 1
        more[rows] = batch.data[np.minimum(last, end[rows] - 1)] != 0
    carries_ip = np.isin(batch.data[np.minimum(inner_at, end - 1)] >> 4, (4, 6))
    return Opening(valid & (carries_ip | (inner_at >= end)), ~whole, inner_at, _all(at, Layer.IP))


def _plain(layer: Layer, version: int) -> Opener:
    """IP directly in IP (RFC 2003, RFC 4213)."""

    def opener(batch: Batch, at: I64, end: I64) -> Opening:
        valid = (batch.data[np.minimum(at, end - 1)] >> 4 == version) | (at >= end)
        return Opening(valid, np.zeros(len(at), np.bool_), at, _all(at, layer))

    return opener


def read_mpls(batch: Batch, cursor: Cursor) -> Found:
    """Label stacks (RFC 3032): IP, or Ethernet behind a control word (RFC 4448); labels differ by direction."""
    at, bottom = cursor.at, np.zeros(len(cursor), np.bool_)
    for _ in range(_MAX_LABELS):
        if bottom.all():
            break
        whole = bottom | (cursor.end - at >= _MPLS.itemsize)
        cursor, at, bottom = batch.keep(cursor, whole, Loss.TRUNCATED_LINK), at[whole], bottom[whole]
        _, header = batch.peek(at, np.where(bottom, at, cursor.end), _MPLS)
        at = at + 4 * ~bottom
        bottom = bottom | (header["entry"] >> 8 & 1 == 1)
    good = bottom & (cursor.end > at)
    batch.lose(Loss.ETHERTYPE, ~bottom)
    batch.lose(Loss.TRUNCATED_LINK, bottom & ~good)
    cursor, at = cursor.take(good), at[good]
    first = batch.data[at] >> 4
    found: Found = []
    for value, layer, skipped in ((4, Layer.IPV4, 0), (6, Layer.IPV6, 0), (0, Layer.ETHERNET, 4)):
        these = (first == value) & (cursor.depth < MAX_DEPTH)
        found.append((layer, _inner(batch, cursor.take(these), at[these] + skipped, "mpls")))
    batch.lose(Loss.ETHERTYPE, ~np.isin(first, (0, 4, 6)) | (cursor.depth >= MAX_DEPTH))
    return found


def read_pppoe(batch: Batch, cursor: Cursor) -> Found:
    """PPPoE sessions (RFC 2516 section 4)."""
    cursor = batch.keep_whole(cursor, _PPPOE.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPPOE)
    session = (header["version_type"] == 0x11) & (header["code"] == 0) & (cursor.depth < MAX_DEPTH)
    cursor = batch.keep(cursor, session, Loss.LINK_NO_IP)
    number = header["session"][session]
    return read_ppp(batch, _inner(batch, cursor, cursor.at + _PPPOE.itemsize, "pppoe", number))


def _inner(batch: Batch, cursor: Cursor, at: I64, label: str, number: npt.NDArray[np.integer[Any]] | None = None) -> Cursor:
    return Cursor(
        frame=cursor.frame,
        at=at,
        end=cursor.end,
        wire_end=cursor.wire_end,
        path=batch.paths.push(cursor.path, label, number),
        outer_at=cursor.outer_at,
        depth=cursor.depth + np.uint8(1),
    )


def _layers_of(ether_type: npt.NDArray[np.integer[Any]]) -> U8:
    layers = np.zeros(len(ether_type), np.uint8)
    for value, layer in _GRE_LAYERS.items():
        layers[ether_type == value] = layer
    return layers


def _all(at: I64, layer: Layer) -> U8:
    return np.full(len(at), layer, np.uint8)


IP_TUNNELS: Final[Mapping[int, tuple[str, Opener]]] = {
    4: ("ipip", _plain(Layer.IPV4, 4)),
    41: ("ip6", _plain(Layer.IPV6, 6)),
    47: ("gre", _gre),
}
"""IP protocol number -> label and reader."""

UDP_TUNNELS: Final[Mapping[int, tuple[str, Opener]]] = {
    4789: ("vxlan", _vxlan),
    8472: ("vxlan", _vxlan),
    6081: ("geneve", _geneve),
    2152: ("gtp-u", _gtp_u),
}
"""UDP destination port -> label and reader. 8472 is what Linux used before IANA gave VXLAN 4789."""

_CANDIDATES: Final = np.isin(np.arange(256), [UDP, *IP_TUNNELS])
