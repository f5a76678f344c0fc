"""Whether bytes look like what a tunnel is said to carry: a port number alone proves no tunnel.

What the capture cut off cannot be looked at, and counts as sane where the header before it left no doubt; where it
did, `sure` asks for more: lengths that fit, addresses and types that make sense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from pcapdiag.columns import I64, U8, Bools
from pcapdiag.packets.cursor import Batch, Layer, Span

IPV4_TYPE, IPV6_TYPE, ARP_TYPE, RARP_TYPE, LLDP_TYPE = 0x0800, 0x86DD, 0x0806, 0x8035, 0x88CC
MPLS_TYPES: Final = (0x8847, 0x8848)
PPPOE_TYPE, MACSEC_TYPE, PBB_TYPE, NSH_TYPE, FABRICPATH_TYPE = 0x8864, 0x88E5, 0x88E7, 0x894F, 0x8903
VLAN_TYPES: Final = (0x8100, 0x88A8, 0x9100, 0x9200)  # IEEE 802.1Q, 802.1ad, and what came before it

# Beside those above: loopback, PPPoE discovery, homeplug, EAPOL, LACP, profinet, PTP, CFM.
_OTHER_TYPES: Final = (0x9000, 0x8863, 0x887B, 0x888E, 0x8809, 0x8892, 0x88F7, 0x8902)
_PLAUSIBLE: Final = (
    IPV4_TYPE, IPV6_TYPE, ARP_TYPE, RARP_TYPE, LLDP_TYPE, *MPLS_TYPES, PPPOE_TYPE, MACSEC_TYPE, PBB_TYPE, NSH_TYPE,
    *VLAN_TYPES, *_OTHER_TYPES,
)  # fmt: skip
# IPv4, IPv6, MPLS, their and PPP's own control protocols, compressed and encrypted frames (RFC 1661 section 2, IANA).
_PPP_PROTOCOLS: Final = (
    0x0021, 0x0057, 0x0281, 0x003D, 0x0053, 0x00FB, 0x00FD, 0x8021, 0x8057, 0x8281, 0x8053, 0x80FB, 0x80FD, 0xC021, 0xC023, 0xC025, 0xC223,
    0xC227,
)  # fmt: skip
_MAX_TAGS = 3
_MAX_LABELS = 16

_WORD = np.dtype([("value", ">u2")])
_ETHERNET = np.dtype([("dst", "S6"), ("src_first", "u1"), ("src_rest", "S5"), ("type", ">u2")])
_IPV4 = np.dtype([("version_ihl", "u1"), ("tos", "u1"), ("total_len", ">u2")])
_IPV6 = np.dtype([("version_class_flow", ">u4"), ("payload_len", ">u2"), ("next", "u1")])
# Extension headers, transports, routing protocols and tunnels: what follows IPv6 in practice (IANA's list has 150).
_IPV6_NEXT: Final = (
    0, 4, 6, 17, 33, 41, 43, 44, 46, 47, 50, 51, 58, 59, 60, 88, 89, 97, 103, 112, 115, 132, 135, 136, 137, 139, 140, 143,
)  # fmt: skip
_PPPOE = np.dtype([("version_code", ">u2"), ("session_len", ">u4"), ("protocol", ">u2")])
_SNAP = np.dtype([("begin", ">u4"), ("oui_rest", ">u2"), ("type", ">u2")])
_LABEL = np.dtype([("value", ">u4")])
_SNAP_BEGIN: Final = 0xAAAA0300
_PPP_IP: Final = (0x0021, 0x0057)
_ARP = np.dtype([("hardware", ">u2"), ("protocol", ">u2")])

Look = Callable[[Batch, Span], Bools]
"""Which of these places look sane."""


def _first(batch: Batch, span: Span) -> U8:
    """The first byte, where there is one."""
    return batch.data[np.minimum(span.at, np.maximum(span.end - 1, 0))]


def holds_ip(batch: Batch, span: Span) -> Bools:
    """A version and header length there can be."""
    first = _first(batch, span)
    sane = (first >> 4 == 6) | ((first >> 4 == 4) & (first & 15 >= 5))
    return np.where(span.at < span.end, sane, span.at < span.wire_end)


def _of_version(version: int) -> Look:
    def look(batch: Batch, span: Span) -> Bools:
        sane: Bools = holds_ip(batch, span) & ((_first(batch, span) >> 4 == version) | (span.at >= span.end))
        return sane

    return look


def surely_holds_ip(batch: Batch, span: Span) -> Bools:
    """An IP header whose length field fits what is there; of IPv6, which has less to look at, one before something known."""
    whole, four = batch.look(span, _IPV4)
    total_len = four["total_len"].astype(np.int64)
    ihl = four["version_ihl"] & 15
    is_four = whole & (four["version_ihl"] >> 4 == 4) & (ihl >= 5) & (total_len >= 4 * ihl) & (span.at + total_len <= span.wire_end)
    whole, six = batch.look(span, _IPV6)
    is_six = whole & (six["version_class_flow"] >> 28 == 6) & (span.at + 40 + six["payload_len"].astype(np.int64) <= span.wire_end)
    is_six &= np.isin(six["next"], _IPV6_NEXT)
    both: Bools = is_four | is_six
    return both


def holds_ethernet(batch: Batch, span: Span) -> Bools:
    """A frame of one sender, of a type there is, whose IP header makes sense if it has one."""
    whole, header = batch.look(span, _ETHERNET)
    ether_type = header["type"].astype(np.int64)
    inner = span.at + _ETHERNET.itemsize
    one_sender = header["src_first"] & 1 == 0
    known = np.isin(ether_type, _PLAUSIBLE) | (ether_type <= np.minimum(span.wire_end - inner, 1500))
    is_ip = (ether_type == IPV4_TYPE) | (ether_type == IPV6_TYPE)
    sane = one_sender & known & (~is_ip | holds_ip(batch, span.moved(inner)))
    return np.where(whole, sane, span.wire_end - span.at >= _ETHERNET.itemsize)


def surely_holds_ethernet(batch: Batch, span: Span) -> Bools:
    """A captured Ethernet header, and behind it IP (bare, labelled, in a PPPoE session or behind SNAP) or ARP, whose own fields fit."""
    sane, header = batch.look(span, _ETHERNET)
    sane = sane & (header["src_first"] & 1 == 0)
    ether_type, inner = header["type"].astype(np.int64), span.at + _ETHERNET.itemsize
    for _ in range(_MAX_TAGS):
        tagged = sane & np.isin(ether_type, VLAN_TYPES)
        if not tagged.any():
            break
        whole, header = batch.peek(inner + 2, span.end, _WORD)
        ether_type = np.where(tagged & whole, header["value"], ether_type)
        inner = inner + 4 * (tagged & whole)
        sane &= ~tagged | whole
    arp_whole, arp = batch.peek(inner, span.end, _ARP)
    is_arp = (ether_type == ARP_TYPE) & arp_whole & (arp["hardware"] == 1) & (arp["protocol"] == IPV4_TYPE)
    inner, carries = _behind_shims(batch, span, inner, ether_type)
    sure: Bools = sane & (is_arp | (carries & surely_holds_ip(batch, span.moved(inner))))
    return sure


def _behind_shims(batch: Batch, span: Span, at: I64, ether_type: I64) -> tuple[I64, Bools]:
    """Where IP begins behind an EtherType, and whether it can."""
    carries = (ether_type == IPV4_TYPE) | (ether_type == IPV6_TYPE)
    whole, session = batch.peek(at, span.end, _PPPOE)
    dialled = whole & (ether_type == PPPOE_TYPE) & (session["version_code"] == 0x1100) & np.isin(session["protocol"], _PPP_IP)
    whole, snap = batch.peek(at, span.end, _SNAP)
    bridged = whole & (ether_type <= 1500) & (snap["begin"] == _SNAP_BEGIN) & np.isin(snap["type"], (IPV4_TYPE, IPV6_TYPE))
    at = at + _PPPOE.itemsize * dialled + _SNAP.itemsize * bridged
    at, labelled = _behind_labels(batch, span.moved(at), np.isin(ether_type, MPLS_TYPES), _MAX_TAGS)
    return at, carries | dialled | bridged | labelled


def _behind_labels(batch: Batch, span: Span, pending: Bools, most: int) -> tuple[I64, Bools]:
    """Where the label stacks of the pending places end, and which of them do within `most` labels."""
    at, ended = span.at, np.zeros(len(span.at), np.bool_)
    for _ in range(most):
        if not pending.any():
            break
        whole, entry = batch.peek(at, span.end, _LABEL)
        at = at + _LABEL.itemsize * pending
        bottom = pending & whole & (entry["value"] >> 8 & 1 == 1)
        ended, pending = ended | bottom, pending & whole & ~bottom
    return at, ended


def surely_holds_mpls(batch: Batch, span: Span) -> Bools:
    """A label stack that ends, and behind it IP, or a frame with a control word (RFC 4448) before it or without one."""
    at, ended = _behind_labels(batch, span, np.ones(len(span.at), np.bool_), _MAX_LABELS)
    ended &= (
        surely_holds_ip(batch, span.moved(at))
        | surely_holds_ethernet(batch, span.moved(at))
        | surely_holds_ethernet(batch, span.moved(at + _LABEL.itemsize))
    )
    return ended


def holds_ppp(batch: Batch, span: Span) -> Bools:
    """A protocol field that PPP knows, behind address and control bytes or without them."""
    whole, header = batch.look(span, _WORD)
    framed = whole & (header["value"] == 0xFF03)
    whole, header = batch.peek(span.at + 2 * framed, span.end, _WORD)
    value = header["value"].astype(np.int64)
    short = value >> 8
    known = np.isin(value, _PPP_PROTOCOLS) | ((short & 1 == 1) & np.isin(short, _PPP_PROTOCOLS))
    return np.where(whole, known, span.wire_end - span.at >= _WORD.itemsize)


def holds_wlan(batch: Batch, span: Span) -> Bools:
    """A data frame of the one version of IEEE 802.11 there is."""
    return np.where(span.at < span.end, _first(batch, span) & 0x0F == 0x08, span.at < span.wire_end)


_LOOKS: Final[Mapping[Layer, Look]] = {
    Layer.IP: holds_ip,
    Layer.IPV4: _of_version(4),
    Layer.IPV6: _of_version(6),
    Layer.ETHERNET: holds_ethernet,
    Layer.ERSPAN_1: holds_ethernet,
    Layer.PPP: holds_ppp,
    Layer.WLAN: holds_wlan,
}


def holds(batch: Batch, layer: Layer, span: Span) -> Bools:
    """Which of these places hold what `layer` says, as far as one can see."""
    look = _LOOKS.get(layer)
    return span.at < span.wire_end if look is None else look(batch, span)
