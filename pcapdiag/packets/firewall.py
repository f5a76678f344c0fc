"""Copies of packets that a packet filter or an IPsec stack gives to captures: NFLOG, PFLOG, ENC."""

from __future__ import annotations

from typing import Final

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Layer, advanced, moved
from pcapdiag.packets.serial import split

AF_INET: Final = 2
AF_INET6: Final = (10, 24, 28, 30)
"""Linux, NetBSD and OpenBSD, FreeBSD, Darwin."""

_NFLOG = np.dtype([("family", "u1"), ("version", "u1"), ("resource", ">u2")])
_ATTRIBUTE = np.dtype([("length", "u1", (2,)), ("type", "u1", (2,))])
_PFLOG = np.dtype([("length", "u1"), ("family", "u1")])
_ENC = np.dtype([("family", "<u4"), ("spi", ">u4"), ("flags", "<u4")])

_PAYLOAD = 9  # NFULA_PAYLOAD (linux/netfilter/nfnetlink_log.h)
_MAX_ATTRIBUTES = 32
_PFLOG_DIRECTION_AT, _PF_IN, _PF_OUT = 60, 1, 2


def read_nflog(batch: Batch, cursor: Cursor) -> Found:
    """Netfilter's log: attributes, the packet among them; lengths and types are in the byte order of the capturing host."""
    cursor = batch.keep_whole(cursor, _NFLOG.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _NFLOG)
    known = header["version"] == 0
    cursor = advanced(batch.keep(cursor, known, Loss.LINK_NO_IP), _NFLOG.itemsize)
    family = header["family"][known]
    payload_at, wire_end = np.full(len(cursor), -1), cursor.wire_end.copy()
    at, pending = cursor.at.copy(), np.ones(len(cursor), np.bool_)
    for _ in range(_MAX_ATTRIBUTES):
        pending &= cursor.end - at >= _ATTRIBUTE.itemsize
        if not pending.any():
            break
        rows = np.flatnonzero(pending)
        length, kind = _attribute(batch, at[rows])
        sane = (length >= _ATTRIBUTE.itemsize) & (at[rows] + length <= cursor.wire_end[rows])
        found = rows[sane & (kind == _PAYLOAD)]
        payload_at[found] = at[found] + _ATTRIBUTE.itemsize
        wire_end[found] = at[found] + length[sane & (kind == _PAYLOAD)]
        pending[rows[~sane | (kind == _PAYLOAD)]] = False
        at[rows] += (length + 3) // 4 * 4
    batch.lose(Loss.TRUNCATED_LINK, (payload_at < 0) & (at >= cursor.end) & (cursor.wire_end > cursor.end))
    batch.lose(Loss.LINK_NO_IP, (payload_at < 0) & ~((at >= cursor.end) & (cursor.wire_end > cursor.end)))
    good = payload_at >= 0
    cursor = Cursor(
        frame=cursor.frame[good], at=payload_at[good], end=np.minimum(cursor.end, wire_end)[good], wire_end=wire_end[good],
        path=cursor.path[good], outer_at=cursor.outer_at[good], depth=cursor.depth[good],
    )  # fmt: skip
    return _of_family(batch, cursor, family[good].astype(np.int64))


def _attribute(batch: Batch, at: I64) -> tuple[I64, I64]:
    """Length and type of the attribute at each offset; the byte order is the one that gives a type there is."""
    header = batch.gather(at, _ATTRIBUTE)
    little, big = np.array([1, 256]), np.array([256, 1])
    kind = header["type"].astype(np.int64)
    swapped = (kind @ little > 0xFF) & (kind @ big <= 0xFF)
    length = header["length"].astype(np.int64)
    lengths: I64 = np.where(swapped, length @ big, length @ little)
    kinds: I64 = np.where(swapped, kind @ big, kind @ little)
    return lengths, kinds


def read_pflog(batch: Batch, cursor: Cursor) -> Found:
    """OpenBSD's packet filter log; its header is padded to whole words."""
    cursor = batch.keep_whole(cursor, _PFLOG.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PFLOG)
    size = (header["length"].astype(np.int64) + 3) // 4 * 4
    whole = (cursor.end - cursor.at >= size) & (size > _PFLOG_DIRECTION_AT - 12)
    cursor, size, family = batch.keep(cursor, whole, Loss.TRUNCATED_LINK), size[whole], header["family"][whole]
    told = size > _PFLOG_DIRECTION_AT
    direction = batch.data[cursor.at[told] + _PFLOG_DIRECTION_AT]
    frame = cursor.frame[told]
    batch.direction[frame[direction == _PF_IN]] = 0
    batch.direction[frame[direction == _PF_OUT]] = 1
    return _of_family(batch, moved(cursor, cursor.at + size), family.astype(np.int64))


def read_enc(batch: Batch, cursor: Cursor) -> Found:
    """What goes into IPsec or has come out of it: an address family in the host's byte order, SPI and flags."""
    cursor = batch.keep_whole(cursor, _ENC.itemsize, Loss.TRUNCATED_LINK)
    little = batch.gather(cursor.at, _ENC)["family"]
    family = np.where(little > 0xFFFF, little.byteswap(), little)
    return _of_family(batch, advanced(cursor, _ENC.itemsize), family.astype(np.int64))


def _of_family(batch: Batch, cursor: Cursor, family: I64) -> Found:
    return split(batch, cursor, family, {AF_INET: Layer.IPV4} | dict.fromkeys(AF_INET6, Layer.IPV6))
