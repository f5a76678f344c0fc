"""Headers between a link and what it carries: MPLS label stacks and service function chains."""

from __future__ import annotations

from typing import Final

import numpy as np

from pcapdiag.columns import I64, U8
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Layer, entered, shallow
from pcapdiag.packets.inside import holds_ip, surely_holds_ethernet

_MPLS = np.dtype([("entry", ">u4")])
_NSH = np.dtype([("first", ">u2"), ("metadata", "u1"), ("next", "u1"), ("service_path", ">u4")])

_MAX_LABELS = 16
_CONTROL_WORD_LEN = 4
_NSH_LAYERS: Final = {1: Layer.IPV4, 2: Layer.IPV6, 3: Layer.ETHERNET, 5: Layer.MPLS}


def read_mpls(batch: Batch, cursor: Cursor) -> Found:
    """Label stacks (RFC 3032) around IP or Ethernet; labels differ by direction, so they are no part of the path."""
    cursor = shallow(batch, cursor)
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
    layer, at = _behind_labels(batch, cursor, at)
    batch.lose(Loss.ETHERTYPE, layer == 0)
    found: Found = []
    for value in np.unique(layer[layer > 0]).tolist():
        these = layer == value
        found.append((Layer(value), entered(batch, cursor.take(these), at[these], "mpls")))
    return found


def _behind_labels(batch: Batch, cursor: Cursor, at: I64) -> tuple[U8, I64]:
    """What lies behind the last label, which no field says (RFC 4928): IP, or a pseudowire's frame (RFC 4448).

    A frame may have a control word before it, whose first four bits are 0; a frame whose own address begins like an IP
    header is one when all of it makes sense.
    """
    first = batch.data[at] >> 4
    frame = surely_holds_ethernet(batch, cursor.span.moved(at))
    ip = np.isin(first, (4, 6)) & ~frame & holds_ip(batch, cursor.span.moved(at))
    controlled = (first == 0) & ~frame
    layer = np.zeros(len(at), np.uint8)
    layer[frame | controlled] = Layer.ETHERNET
    layer[ip] = Layer.IP
    return layer, at + _CONTROL_WORD_LEN * controlled


def read_nsh(batch: Batch, cursor: Cursor) -> Found:
    """Network service headers (RFC 8300 section 2)."""
    cursor = batch.keep_whole(shallow(batch, cursor), _NSH.itemsize, Loss.TRUNCATED_TUNNEL)
    header = batch.gather(cursor.at, _NSH)
    size = (header["first"] & 0x3F).astype(np.int64) * 4
    known = (header["first"] >> 14 == 0) & (size >= _NSH.itemsize) & np.isin(header["next"], list(_NSH_LAYERS))
    cursor, size, inner = batch.keep(cursor, known, Loss.LINK_NO_IP), size[known], header["next"][known]
    found: Found = []
    for value, layer in _NSH_LAYERS.items():
        these = inner == value
        some = cursor.take(these)
        found.append((layer, entered(batch, some, some.at + size[these], "nsh")))
    return found
