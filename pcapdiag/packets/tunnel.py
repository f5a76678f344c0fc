"""What carries IP inside IP: finds tunnels among packets and steps into them.

A tunnel is one reader and one line in IP_TUNNELS or UDP_TUNNELS: given where its header begins, the reader says which
packets it recognises, which end too early, where the inner header begins and what it is. What it does not recognise,
and what holds nothing that makes sense, stays a packet of the outer protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from pcapdiag.columns import I64, Bools, Rows
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import MAX_DEPTH, Batch, Cursor, Found, Layer, Span
from pcapdiag.packets.gre import open_gre
from pcapdiag.packets.ip import IpPackets
from pcapdiag.packets.opaque import ESP, count_opaque
from pcapdiag.packets.opening import Opener, Opening, all_of, opened, plain
from pcapdiag.packets.overlays import (
    PLAIN_VXLAN,
    open_geneve,
    open_gtp_u,
    open_gue,
    open_l2tp,
    open_l2tp_over_ip,
    open_lisp,
    open_mpls_in_udp,
    open_sure_vxlan,
    open_teredo,
    open_vxlan,
    open_vxlan_gpe,
)
from pcapdiag.packets.table import UDP

_UDP = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("len", ">u2"), ("checksum", ">u2")])
_WORD = np.dtype([("value", ">u4")])
_ETHERIP = np.dtype([("version", ">u2")])


def enter_tunnels(batch: Batch, packets: IpPackets) -> tuple[IpPackets, Found]:
    """Splits packets into those that carry no tunnel we read, and the inner headers of the others. Fragments stay closed."""
    candidate = _CANDIDATES[packets.proto]
    if not candidate.any():
        return packets, []
    closed = (packets.frag_offset > 0) | packets.more_fragments
    shut = closed | (packets.depth >= MAX_DEPTH)
    gone = np.zeros(len(packets), np.bool_)
    found: Found = []
    for proto, (labels, opener) in IP_TUNNELS.items():
        rows = np.flatnonzero((packets.proto == proto) & ~shut)
        if len(rows):
            found += _open(batch, packets, rows, packets.at[rows], labels[packets.version == 6], opener, gone)
    udp = (packets.proto == UDP) & ~closed & (packets.end - packets.at >= _UDP.itemsize)
    rows = np.flatnonzero(udp & ~shut)
    if len(rows):
        found += _enter_udp(batch, packets, rows, gone)
    count_opaque(batch, packets, udp & ~gone)
    return (packets.take(~gone) if gone.any() else packets), found


def _enter_udp(batch: Batch, packets: IpPackets, rows: Rows, gone: Bools) -> Found:
    """The tunnels among UDP packets: on the ports of their own, and VXLAN on any."""
    header = batch.gather(packets.at[rows], _UDP)
    number = _DESTINATIONS[header["dport"]]
    number = np.where(number == 0, _SOURCES[header["sport"]], number)
    found: Found = []
    for one in np.unique(number[number > 0]).tolist():
        label, opener = UDP_TUNNELS[_PORTS[one - 1]]
        some = rows[number == one]
        found += _open(batch, packets, some, packets.at[some] + _UDP.itemsize, label, opener, gone)
    rest = rows[number == 0]
    whole, begin = batch.peek(packets.at[rest] + _UDP.itemsize, packets.end[rest], _WORD)
    some = rest[whole & (begin["value"] == PLAIN_VXLAN)]
    if len(some):
        found += _open(batch, packets, some, packets.at[some] + _UDP.itemsize, "vxlan", open_sure_vxlan, gone)
    return found


def _open(batch: Batch, packets: IpPackets, rows: Rows, at: I64, label: str, opener: Opener, gone: Bools) -> Found:
    """Runs one opener on the given rows, marks those that are no outer packets any more in `gone`."""
    span = Span(at, packets.end[rows], packets.ip_end[rows])
    opening = opener(batch, span)
    truncated = opening.cut & (span.wire_end > span.end)
    batch.lose(Loss.TRUNCATED_TUNNEL, truncated)
    inside = opened(batch, opening, span)
    gone[rows[truncated | inside]] = True
    found: Found = []
    for layer in np.unique(opening.layer[inside]).tolist():
        these = inside & (opening.layer == layer)
        inner = rows[these]
        cursor = Cursor(
            frame=packets.frame[inner],
            at=opening.inner_at[these],
            end=span.end[these],
            wire_end=span.wire_end[these],
            path=batch.paths.push(packets.path[inner], label, None if opening.number is None else opening.number[these]),
            outer_at=packets.outer_at[inner],
            depth=packets.depth[inner] + np.uint8(1),
        )
        found.append((Layer(layer), cursor))
    return found


def _open_etherip(batch: Batch, span: Span) -> Opening:
    """Ethernet in IP (RFC 3378)."""
    whole, header = batch.look(span, _ETHERIP)
    return Opening(whole & (header["version"] == 0x3000), ~whole, span.at + _ETHERIP.itemsize, all_of(span, Layer.ETHERNET))


IP_TUNNELS: Final[Mapping[int, tuple[tuple[str, str], Opener]]] = {
    4: (("ipip", "4in6"), plain(Layer.IPV4)),
    41: (("6in4", "6in6"), plain(Layer.IPV6)),
    47: (("gre", "gre"), open_gre),
    97: (("etherip", "etherip"), _open_etherip),
    115: (("l2tp", "l2tp"), open_l2tp_over_ip),
    137: (("mpls-in-ip", "mpls-in-ip"), plain(Layer.MPLS)),
    143: (("ethernet-in-ip", "ethernet-in-ip"), plain(Layer.ETHERNET)),
}
"""IP protocol number -> labels over IPv4 and over IPv6, and reader."""

UDP_TUNNELS: Final[Mapping[int, tuple[str, Opener]]] = {
    4789: ("vxlan", open_vxlan),
    8472: ("vxlan", open_vxlan),
    4790: ("vxlan-gpe", open_vxlan_gpe),
    6081: ("geneve", open_geneve),
    2152: ("gtp-u", open_gtp_u),
    1701: ("l2tp", open_l2tp),
    6080: ("gue", open_gue),
    6635: ("mpls-in-udp", open_mpls_in_udp),
    4754: ("gre", open_gre),
    4341: ("lisp", open_lisp),
    3544: ("teredo", open_teredo),
}
"""UDP destination port -> label and reader. 8472 is what Linux used before IANA gave VXLAN 4789."""

TUNNEL_PROTOCOLS: Final = frozenset({UDP, *IP_TUNNELS})
"""IP protocol numbers of what may carry a tunnel that is read."""

_BOTH_WAYS: Final = (1701, 2152, 3544)
"""Ports of one end only: answers come from them."""

_PORTS: Final = tuple(UDP_TUNNELS)
_DESTINATIONS: Final = np.zeros(1 << 16, np.uint8)
_DESTINATIONS[list(_PORTS)] = np.arange(1, len(_PORTS) + 1)
_SOURCES: Final = np.zeros(1 << 16, np.uint8)
_SOURCES[list(_BOTH_WAYS)] = _DESTINATIONS[list(_BOTH_WAYS)]
_CANDIDATES: Final = np.isin(np.arange(256), [UDP, ESP, *IP_TUNNELS])
