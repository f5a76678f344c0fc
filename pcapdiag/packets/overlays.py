"""Tunnels over UDP: VXLAN, GENEVE, GTP-U, L2TP, GUE, MPLS, LISP, Teredo."""

from __future__ import annotations

from typing import Final

import numpy as np

from pcapdiag.columns import I64, U8
from pcapdiag.packets.cursor import Batch, Layer, Span
from pcapdiag.packets.gre import ETHER_LAYERS
from pcapdiag.packets.inside import surely_holds_ethernet, surely_holds_ip, surely_holds_mpls
from pcapdiag.packets.opening import Opening, all_of, first_that, layers_of

_VXLAN = np.dtype([("flags", ">u4"), ("vni_reserved", ">u4")])
_GENEVE = np.dtype([("version_options", "u1"), ("flags", "u1"), ("type", ">u2"), ("vni_reserved", ">u4")])
_GTP = np.dtype([("flags", "u1"), ("message", "u1"), ("len", ">u2"), ("teid", ">u4"), ("options", ">u4")])
_L2TP = np.dtype([("flags", ">u2")])
_WORD = np.dtype([("value", ">u4")])
_GUE = np.dtype([("first", "u1"), ("proto", "u1"), ("flags", ">u2")])
_TEREDO = np.dtype([("indicator", ">u2"), ("id_len", "u1"), ("auth_len", "u1")])

PLAIN_VXLAN: Final = 0x08000000
"""The first word of a VXLAN header without extensions."""
_VXLAN_POLICY, _POLICY_MASK = 0x88000000, 0xFFB70000  # two flags of its own, and a group of 16 bits
_VXLAN_GPE, _GPE_MASK = 0x0C000000, 0xFCFFFF00  # version, broadcast and OAM bits, and the protocol inside
_GPE_LAYERS: Final = {1: Layer.IPV4, 2: Layer.IPV6, 3: Layer.ETHERNET, 4: Layer.NSH, 5: Layer.MPLS}
_GUE_LAYERS: Final = {4: Layer.IPV4, 41: Layer.IPV6}

_MAX_GTP_EXTENSIONS = 16
_L2TP_CONTROL, _L2TP_LENGTH, _L2TP_SEQUENCE, _L2TP_OFFSET = 0x8000, 0x4000, 0x0800, 0x0200
_COOKIES: Final = range(0, 16, 4)
"""Bytes of cookie (0, 4 or 8) and sublayer (0 or 4) before an L2TPv3 payload (RFC 3931 section 4.1); no field tells them."""


def open_vxlan(batch: Batch, span: Span) -> Opening:
    """RFC 7348 section 5, and with a group policy (draft-smith-vxlan-group-policy)."""
    whole, header = batch.look(span, _VXLAN)
    flags = header["flags"]
    valid = whole & ((flags == PLAIN_VXLAN) | (flags & _POLICY_MASK == _VXLAN_POLICY))
    loose = np.flatnonzero(whole & ~valid & (flags & PLAIN_VXLAN != 0))  # reserved bits in use: the content has to tell
    valid[loose] = surely_holds_ethernet(batch, span.moved(span.at + _VXLAN.itemsize).take(loose))
    return Opening(valid, ~whole, span.at + _VXLAN.itemsize, all_of(span, Layer.ETHERNET), header["vni_reserved"] >> 8)


def open_sure_vxlan(batch: Batch, span: Span) -> Opening:
    """VXLAN on a port of the user's own choice: every reserved bit is 0, and IP or ARP inside fits."""
    whole, header = batch.look(span, _VXLAN)
    inner_at = span.at + _VXLAN.itemsize
    valid = whole & (header["flags"] == PLAIN_VXLAN) & (header["vni_reserved"] & 0xFF == 0)
    valid &= surely_holds_ethernet(batch, span.moved(inner_at))
    return Opening(valid, np.zeros(len(span.at), np.bool_), inner_at, all_of(span, Layer.ETHERNET), header["vni_reserved"] >> 8)


def open_vxlan_gpe(batch: Batch, span: Span) -> Opening:
    """VXLAN that names the protocol inside (draft-ietf-nvo3-vxlan-gpe)."""
    whole, header = batch.look(span, _VXLAN)
    named = header["flags"] & _GPE_MASK == _VXLAN_GPE
    layer = layers_of(header["flags"] & 0xFF, _GPE_LAYERS)
    layer[header["flags"] == PLAIN_VXLAN] = Layer.ETHERNET
    valid = whole & (named | (header["flags"] == PLAIN_VXLAN))
    return Opening(valid, ~whole, span.at + _VXLAN.itemsize, layer, header["vni_reserved"] >> 8)


def open_geneve(batch: Batch, span: Span) -> Opening:
    """RFC 8926 section 3.4."""
    whole, header = batch.look(span, _GENEVE)
    options_len = (header["version_options"] & 0x3F).astype(np.int64) * 4
    valid = whole & (header["version_options"] >> 6 == 0) & (header["flags"] & 0x3F == 0)
    inner_at = span.at + _GENEVE.itemsize + options_len
    return Opening(valid, ~whole, inner_at, layers_of(header["type"], ETHER_LAYERS), header["vni_reserved"] >> 8)


def open_gtp_u(batch: Batch, span: Span) -> Opening:
    """3GPP TS 29.281 section 5: G-PDUs; the tunnel endpoint differs by direction, so it is no part of the path."""
    whole, header = batch.look(span, _GTP)
    optional = header["flags"] & 0x07 != 0
    inner_at = span.at + np.where(optional, 12, 8)
    valid = whole & (header["flags"] >> 4 == 3) & (header["message"] == 0xFF)
    more = valid & (header["flags"] & 0x04 != 0) & (header["options"] & 0xFF != 0)
    for _ in range(_MAX_GTP_EXTENSIONS):
        rows = np.flatnonzero(more & (inner_at < span.end))
        if not len(rows):
            break
        size = np.maximum(batch.data[inner_at[rows]].astype(np.int64) * 4, 4)
        last = inner_at[rows] + size - 1
        inner_at[rows] = last + 1
        more[rows] = batch.data[np.minimum(last, span.end[rows] - 1)] != 0
    return Opening(valid, ~whole, inner_at, all_of(span, Layer.IP))


def open_l2tp(batch: Batch, span: Span) -> Opening:
    """Data messages of L2TPv2 (RFC 2661 section 3.1), which carry PPP, and of L2TPv3 over UDP (RFC 3931 section 4.1.2)."""
    whole, header = batch.look(span, _L2TP)
    flags = header["flags"]
    data = whole & (flags & _L2TP_CONTROL == 0)
    second, third = data & (flags & 0x000F == 2), data & (flags & 0x000F == 3)
    size = 6 + 2 * (flags & _L2TP_LENGTH != 0) + 4 * (flags & _L2TP_SEQUENCE != 0)
    shifted = second & (flags & _L2TP_OFFSET != 0)
    told, offset = batch.peek(span.at + size, span.end, _L2TP)
    size = size + np.where(shifted, 2 + offset["flags"].astype(np.int64), 0)
    layer = np.zeros(len(span.at), np.uint8)
    layer[second & (told | ~shifted)] = Layer.PPP
    inner_at = span.at + size
    rows = np.flatnonzero(third)
    if len(rows):
        layer[rows], inner_at[rows] = _pseudowires(batch, span.moved(span.at + 4).take(rows))
    return Opening(second | third, ~whole, inner_at, layer)


def open_l2tp_over_ip(batch: Batch, span: Span) -> Opening:
    """L2TPv3 over IP (RFC 3931 section 4.1.1); session 0 is control."""
    whole, header = batch.look(span, _WORD)
    layer, inner_at = _pseudowires(batch, span)
    return Opening(whole & (header["value"] != 0), ~whole, inner_at, layer)


def _pseudowires(batch: Batch, span: Span) -> tuple[U8, I64]:
    """Ethernet behind a session number and a cookie of unknown length; 0 where none fits."""
    found, inner_at = first_that(surely_holds_ethernet, batch, span.moved(span.at + _WORD.itemsize), _COOKIES)
    return np.where(found, np.uint8(Layer.ETHERNET), np.uint8(0)), inner_at


def open_gue(batch: Batch, span: Span) -> Opening:
    """Generic UDP encapsulation (draft-ietf-intarea-gue): a header that names the protocol, or bare IP."""
    whole, header = batch.look(span, _GUE)
    variant = header["first"] >> 6
    named = (variant == 0) & (header["first"] & 0x20 == 0)
    layer = layers_of(header["proto"], _GUE_LAYERS)
    layer[variant == 1] = Layer.IP  # the version of an IPv4 or IPv6 header, read as the variant
    size = np.where(variant == 0, _GUE.itemsize + (header["first"] & 0x1F).astype(np.int64) * 4, 0)
    bare = (variant == 1) & surely_holds_ip(batch, span)
    return Opening(whole & (named | bare), ~whole, span.at + size, layer)


def open_mpls_in_udp(batch: Batch, span: Span) -> Opening:
    """MPLS in UDP (RFC 7510), which has no header of its own: what lies behind the labels has to fit."""
    return Opening(surely_holds_mpls(batch, span), np.zeros(len(span.at), np.bool_), span.at, all_of(span, Layer.MPLS))


def open_lisp(batch: Batch, span: Span) -> Opening:
    """Locators around identifiers (RFC 9300 section 5): 8 bytes without a type, then IP that has to fit."""
    inner_at = span.at + 8
    return Opening(surely_holds_ip(batch, span.moved(inner_at)), np.zeros(len(span.at), np.bool_), inner_at, all_of(span, Layer.IP))


def open_teredo(batch: Batch, span: Span) -> Opening:
    """IPv6 through NATs, behind authentication and origin indications (RFC 4380 section 5.1.1)."""
    whole, header = batch.look(span, _TEREDO)
    authenticated = whole & (header["indicator"] == 1)
    inner_at = span.at + np.where(authenticated, 13 + header["id_len"].astype(np.int64) + header["auth_len"], 0)
    told, header = batch.peek(inner_at, span.end, _TEREDO)
    inner_at = inner_at + 8 * (told & (header["indicator"] == 0))
    return Opening(surely_holds_ip(batch, span.moved(inner_at)), np.zeros(len(span.at), np.bool_), inner_at, all_of(span, Layer.IPV6))
