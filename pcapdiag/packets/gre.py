"""GRE, and what has a header of its own behind it: ERSPAN, PPTP, WCCP."""

from __future__ import annotations

from typing import Final

import numpy as np

from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Layer, Span, entered, shallow
from pcapdiag.packets.inside import holds_ip
from pcapdiag.packets.opening import Opening, layers_of

_GRE = np.dtype([("flags", ">u2"), ("type", ">u2")])
_WORD = np.dtype([("value", ">u4")])
_ERSPAN_3 = np.dtype([("version_session_time", "V10"), ("flags", ">u2")])
_ERSPAN_2_LEN = 8
_ERSPAN_FRAMES: Final = {0: Layer.ETHERNET, 2: Layer.IP}

TRANSPARENT_ETHERNET, PPP_TYPE = 0x6558, 0x880B
ETHER_LAYERS: Final = {
    0x0800: Layer.IPV4,
    0x86DD: Layer.IPV6,
    TRANSPARENT_ETHERNET: Layer.ETHERNET,
    0x8847: Layer.MPLS,
    0x8848: Layer.MPLS,
    0x894F: Layer.NSH,
    PPP_TYPE: Layer.PPP,
}
"""EtherTypes in tunnel headers."""
_WCCP, _ERSPAN_1_OR_2, _ERSPAN_3_TYPE = 0x883E, 0x88BE, 0x22EB
_WLAN_TYPES: Final = (*range(0x8200, 0x8380, 0x10), 0x9000)  # of Aruba's access points
_CHECKSUM, _KEY, _SEQUENCE, _PPTP_ACK, _ROUTING = 0x8000, 0x2000, 0x1000, 0x0080, 0x4000


def open_gre(batch: Batch, span: Span) -> Opening:
    """RFC 2784, RFC 2890; version 1 is PPTP's (RFC 2637 section 4.1). Source routes stay closed.

    A key tells networks apart (RFC 7637); that of PPTP holds a length and the receiver's call.
    """
    whole, header = batch.look(span, _GRE)
    flags, kind = header["flags"], header["type"]
    pptp = (flags & 7 == 1) & (kind == PPP_TYPE) & (flags & _KEY != 0)
    size = np.full(len(span.at), _GRE.itemsize)
    for optional in (_CHECKSUM, _KEY, _SEQUENCE):
        size[flags & optional != 0] += 4
    size[pptp & (flags & _PPTP_ACK != 0)] += 4
    inner_at = span.at + size
    layer = layers_of(kind, ETHER_LAYERS)
    layer[np.isin(kind, _WLAN_TYPES)] = Layer.WLAN
    # Type I of ERSPAN has neither sequence number nor header.
    numbered = flags & _SEQUENCE != 0
    layer[(kind == _ERSPAN_1_OR_2) & ~numbered] = Layer.ERSPAN_1
    layer[(kind == _ERSPAN_1_OR_2) & numbered] = Layer.ERSPAN_2
    layer[kind == _ERSPAN_3_TYPE] = Layer.ERSPAN_3
    redirected = np.flatnonzero(kind == _WCCP)
    if len(redirected):  # version 2 has a header of 4 bytes before the packet, version 1 has none
        bare = holds_ip(batch, span.moved(inner_at).take(redirected))
        inner_at[redirected] += np.where(bare, 0, 4)
        layer[redirected] = Layer.IP
    valid = whole & (((flags & (_ROUTING | 7) == 0) & ((kind != PPP_TYPE) | ~numbered)) | pptp)
    keyed, key = batch.peek(span.at + _GRE.itemsize + 4 * (flags & _CHECKSUM != 0), span.end, _WORD)
    number = np.where(keyed & (flags & _KEY != 0) & ~pptp, key["value"].astype(np.int64), -1)
    return Opening(valid, ~whole, inner_at, layer, number)


def read_mirrored(batch: Batch, cursor: Cursor) -> Found:
    """ERSPAN type I: the mirrored frame is all there is."""
    cursor = shallow(batch, cursor)
    return [(Layer.ETHERNET, entered(batch, cursor, cursor.at, "erspan"))]


def read_erspan_2(batch: Batch, cursor: Cursor) -> Found:
    """ERSPAN type II (draft-foschiano-erspan): a mirrored frame behind 8 bytes. Some exporters give type III this number too."""
    cursor = batch.keep_whole(shallow(batch, cursor), _ERSPAN_2_LEN, Loss.TRUNCATED_TUNNEL)
    third = batch.data[cursor.at] >> 4 == 2
    second = cursor.take(~third)
    return [*read_erspan_3(batch, cursor.take(third)), (Layer.ETHERNET, entered(batch, second, second.at + _ERSPAN_2_LEN, "erspan"))]


def read_erspan_3(batch: Batch, cursor: Cursor) -> Found:
    """ERSPAN type III: a mirrored frame or a bare packet behind 12 or 20 bytes."""
    cursor = batch.keep_whole(shallow(batch, cursor), _ERSPAN_3.itemsize, Loss.TRUNCATED_TUNNEL)
    flags = batch.gather(cursor.at, _ERSPAN_3)["flags"]
    inner_at = cursor.at + _ERSPAN_3.itemsize + 8 * (flags & 1).astype(np.int64)  # O: a subheader follows
    kind = flags >> 10 & 0x1F
    batch.lose(Loss.LINK_NO_IP, ~np.isin(kind, list(_ERSPAN_FRAMES)))
    return [
        (layer, entered(batch, cursor.take(kind == value), inner_at[kind == value], "erspan")) for value, layer in _ERSPAN_FRAMES.items()
    ]
