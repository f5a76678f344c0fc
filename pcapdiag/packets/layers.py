"""The way inwards: from the link layer of each frame through tunnels to its innermost IP packet and transport header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from pcapdiag.columns import I64, U8, Bools, Rows
from pcapdiag.losses import Loss, Losses
from pcapdiag.packets.cursor import Batch, Cursor, Found, Layer, TunnelPaths, select
from pcapdiag.packets.ethernet import read_backbone, read_ethernet, read_fabricpath, read_llc, read_macsec
from pcapdiag.packets.gre import read_erspan_2, read_erspan_3, read_mirrored
from pcapdiag.packets.icmp import HEADER_LEN as ICMP_HEADER_LEN
from pcapdiag.packets.icmp import Quote, read_inner, read_quotes
from pcapdiag.packets.ip import IpPackets, read_ip, read_ipv4, read_ipv6
from pcapdiag.packets.serial import read_ppp, read_pppoe
from pcapdiag.packets.shim import read_mpls, read_nsh
from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP
from pcapdiag.packets.tcp import HEADER_LEN as TCP_HEADER_LEN
from pcapdiag.packets.tcp import fill_tcp, offset_fits
from pcapdiag.packets.transport import Transports, fill_udp
from pcapdiag.packets.tunnel import TUNNEL_PROTOCOLS, enter_tunnels
from pcapdiag.packets.wlan import read_wlan

LINK_LAYERS: Final[Mapping[Layer, Callable[[Batch, Cursor], Found]]] = {
    Layer.ETHERNET: read_ethernet,
    Layer.LLC: read_llc,
    Layer.PPP: read_ppp,
    Layer.PPPOE: read_pppoe,
    Layer.MPLS: read_mpls,
    Layer.NSH: read_nsh,
    Layer.PBB: read_backbone,
    Layer.FABRICPATH: read_fabricpath,
    Layer.MACSEC: read_macsec,
    Layer.WLAN: read_wlan,
    Layer.ERSPAN_1: read_mirrored,
    Layer.ERSPAN_2: read_erspan_2,
    Layer.ERSPAN_3: read_erspan_3,
    Layer.IP: read_ip,
}
IP_LAYERS: Final[Mapping[Layer, Callable[[Batch, Cursor], IpPackets]]] = {Layer.IPV4: read_ipv4, Layer.IPV6: read_ipv6}

# Captured bytes a transport header needs; ICMP messages may be shorter than 8 bytes on the wire, they need what there is.
_NEEDED: Final = np.zeros(256, np.int64)
_NEEDED[[TCP, UDP, ICMP, ICMPV6]] = TCP_HEADER_LEN, 8, 8, 8
_MAY_BE_SHORT: Final = np.isin(np.arange(256), [ICMP, ICMPV6])
_FAULTS: Final = (
    (TCP, Loss.MALFORMED_TCP, Loss.TRUNCATED_TCP),
    (UDP, Loss.MALFORMED_IP, Loss.TRUNCATED_UDP),
    (ICMP, Loss.MALFORMED_IP, Loss.TRUNCATED_ICMP),
    (ICMPV6, Loss.MALFORMED_IP, Loss.TRUNCATED_ICMP),
)
_FITS, _MALFORMED, _TRUNCATED = 0, 1, 2


def read_layers(batch: Batch, found: Found) -> list[IpPackets]:
    """The innermost IP headers behind what was found; each frame is in one of them, or counted as lost."""
    innermost: list[IpPackets] = []
    while found:  # ends: every tunnel adds to `depth`, which tunnels bound, and no other layer leads back to itself
        layer, cursor = found.pop()
        if not len(cursor):
            continue
        if layer in IP_LAYERS:
            packets, inner = enter_tunnels(batch, IP_LAYERS[layer](batch, cursor))
            innermost.append(packets)
            found += inner
        else:
            found += LINK_LAYERS[layer](batch, cursor)
    return [packets for packets in innermost if len(packets)]


def read_transports(batch: Batch, packets: IpPackets) -> tuple[IpPackets, Transports]:
    """The transport columns of one version's packets, and those packets without the ones whose header cannot be read.

    A fragment stays even when its transport header is not whole: its datagram may get it back.
    """
    verdict = _verdict(batch, packets)
    first = packets.frag_offset == 0
    if verdict.any():
        lost = (verdict != _FITS) & ~packets.more_fragments
        for proto, malformed, truncated in _FAULTS:
            these = lost & (packets.proto == proto)
            batch.lose(malformed, these & (verdict == _MALFORMED))
            batch.lose(truncated, these & (verdict == _TRUNCATED))
        first = (first & (verdict == _FITS))[~lost]
        packets = packets.take(~lost)
    to = Transports.blank(len(packets))
    _fill(fill_tcp, batch, packets, first & (packets.proto == TCP), to)
    _fill(fill_udp, batch, packets, first & (packets.proto == UDP), to)
    _fill(_fill_icmp, batch, packets, first & (packets.proto == (ICMP if packets.version == 4 else ICMPV6)), to)
    return packets, to


def _verdict(batch: Batch, packets: IpPackets) -> U8:
    """For each packet whether its transport header can be read."""
    on_wire = packets.ip_end - packets.at
    needed = _NEEDED[packets.proto] * (packets.frag_offset == 0)
    needed = np.where(_MAY_BE_SHORT[packets.proto], np.minimum(needed, on_wire), needed)
    verdict = np.zeros(len(packets), np.uint8)
    verdict[packets.end - packets.at < needed] = _TRUNCATED
    verdict[on_wire < needed] = _MALFORMED
    tcp = select((packets.proto == TCP) & (verdict == _FITS) & (packets.frag_offset == 0))
    at: I64 = packets.at[tcp]
    bad: Bools = ~offset_fits(batch, at, packets.ip_end[tcp])
    if bad.any():
        verdict[np.arange(len(packets))[tcp][bad]] = _MALFORMED
    return verdict


def _fill(
    reader: Callable[[Batch, IpPackets, Rows | slice, Transports], None], batch: Batch, packets: IpPackets, rows: Bools, to: Transports
) -> None:
    if rows.any():
        reader(batch, packets, select(rows), to)


def _fill_icmp(batch: Batch, packets: IpPackets, rows: Rows | slice, to: Transports) -> None:
    at = packets.at[rows]
    to.payload_at[rows] = at
    to.payload_len[rows] = packets.ip_end[rows] - at
    to.payload_captured[rows] = packets.end[rows] - at
    to.quotes.extend(_innermost(batch, packets, list(read_quotes(batch, packets, np.arange(len(packets))[rows]))))


def _innermost(batch: Batch, packets: IpPackets, quotes: list[Quote]) -> list[Quote]:
    """The quotes, about the packets inside tunnels where they show them."""
    wrapped = [quote for quote in quotes if quote.proto in TUNNEL_PROTOCOLS]
    if not wrapped:
        return quotes
    rows = np.array([quote.row for quote in wrapped])
    at, end, count = packets.at[rows] + ICMP_HEADER_LEN, packets.end[rows], len(rows)
    cursor = Cursor(
        frame=np.arange(count), at=at, end=end, wire_end=np.maximum(end, at + [quote.ip_len for quote in wrapped]),
        path=np.zeros(count, np.int32), outer_at=np.full(count, -1), depth=np.zeros(count, np.uint8),
    )  # fmt: skip
    found = {quote.row: quote for quote in quotes}
    apart = Batch(batch.data, batch.capture, Losses(), TunnelPaths(), count)  # a quote is no frame: what it lacks is no loss
    for inner in read_layers(apart, [(Layer.IPV4 if packets.version == 4 else Layer.IPV6, cursor)]):
        for one in np.flatnonzero(inner.depth > 0).tolist():
            quote = wrapped[int(inner.frame[one])]
            found[quote.row] = read_inner(batch, quote, inner, one)
    return [found[quote.row] for quote in quotes]
