"""Links between two ends: PPP, Cisco HDLC, frame relay and ATM."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Layer, advanced, entered, moved, shallow
from pcapdiag.packets.ethernet import read_ether_type

Types = npt.NDArray[np.integer[Any]]

_PPP_LAYERS: Final = {0x0021: Layer.IPV4, 0x0057: Layer.IPV6, 0x0281: Layer.MPLS}
# Compression (RFC 1962), which MPPE rides on (RFC 3078), and encryption (RFC 1968), of the bundle or of one link.
_PPP_HIDDEN: Final = (0x00FD, 0x00FB, 0x0053, 0x0055)
_NLPID_LAYERS: Final = {0xCC: Layer.IPV4, 0x8E: Layer.IPV6}
_NLPID_SNAP, _UNNUMBERED = 0x80, 0x03
_MAX_ADDRESS_LEN = 4

_PPP = np.dtype([("first", "u1"), ("second", "u1")])
_CHDLC = np.dtype([("address_control", ">u2"), ("type", ">u2")])
_TYPE = np.dtype([("type", ">u2")])
_SNAP = np.dtype([("oui", "u1", (3,)), ("type", ">u2")])
_PPPOE = np.dtype([("version_type", "u1"), ("code", "u1"), ("session", ">u2"), ("len", ">u2")])


def read_ppp(batch: Batch, cursor: Cursor) -> Found:
    """PPP, with or without address and control bytes, its protocol field in two bytes or one (RFC 1661, RFC 1662)."""
    cursor = batch.keep_whole(cursor, _PPP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPP)
    framed = (header["first"] == 0xFF) & (header["second"] == 0x03)
    cursor = moved(cursor, cursor.at + 2 * framed)
    cursor = batch.keep_whole(cursor, _PPP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPP)
    short = header["first"] & 1 == 1
    protocol = np.where(short, header["first"], header["first"].astype(np.uint16) << 8 | header["second"])
    hidden = np.isin(protocol, _PPP_HIDDEN)
    cursor = batch.keep(moved(cursor, cursor.at + np.where(short, 1, 2)), ~hidden, Loss.PPP_HIDDEN)
    return split(batch, cursor, protocol[~hidden], _PPP_LAYERS)


def read_ppp_serial(batch: Batch, cursor: Cursor) -> Found:
    """A serial line: PPP, or Cisco HDLC where the address says so."""
    cursor = batch.keep_whole(cursor, 1, Loss.TRUNCATED_LINK)
    cisco = np.isin(batch.data[cursor.at], (0x0F, 0x8F))
    return read_ppp(batch, cursor.take(~cisco)) + read_chdlc(batch, cursor.take(cisco))


def read_ppp_directed(batch: Batch, cursor: Cursor) -> Found:
    """PPP behind a byte that tells the direction, which may stand in the place of the address byte."""
    cursor = batch.keep_whole(cursor, 2, Loss.TRUNCATED_LINK)
    batch.direction[cursor.frame] = batch.data[cursor.at] != 0
    replaced = batch.data[cursor.at + 1] == 0x03
    return read_ppp(batch, moved(cursor, cursor.at + 1 + replaced))


def read_chdlc(batch: Batch, cursor: Cursor) -> Found:
    """Cisco HDLC: an address, a zero and an EtherType."""
    cursor = batch.keep_whole(cursor, _CHDLC.itemsize, Loss.TRUNCATED_LINK)
    return read_ether_type(batch, advanced(cursor, _CHDLC.itemsize), batch.gather(cursor.at, _CHDLC)["type"].astype(np.uint16))


def read_chdlc_directed(batch: Batch, cursor: Cursor) -> Found:
    """Cisco HDLC behind a byte that tells the direction."""
    cursor = batch.keep_whole(cursor, 1, Loss.TRUNCATED_LINK)
    batch.direction[cursor.frame] = batch.data[cursor.at] != 0
    return read_chdlc(batch, advanced(cursor, 1))


def read_pppoe(batch: Batch, cursor: Cursor) -> Found:
    """PPPoE sessions (RFC 2516 section 4)."""
    cursor = batch.keep_whole(cursor, _PPPOE.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPPOE)
    session = (header["version_type"] == 0x11) & (header["code"] == 0)
    cursor = shallow(batch, batch.keep(cursor, session, Loss.LINK_NO_IP))
    number = batch.gather(cursor.at, _PPPOE)["session"]
    return read_ppp(batch, entered(batch, cursor, cursor.at + _PPPOE.itemsize, "pppoe", number))


def read_frame_relay(batch: Batch, cursor: Cursor) -> Found:
    """Frame relay: an address of 2 to 4 bytes, then what RFC 2427 puts there, or Cisco's bare EtherType."""
    cursor = batch.keep_whole(cursor, 2, Loss.TRUNCATED_LINK)
    size = np.full(len(cursor), 2)
    for length in range(2, _MAX_ADDRESS_LEN):
        last = np.minimum(cursor.at + length - 1, cursor.end - 1)
        size[(size == length) & (batch.data[last] & 1 == 0)] = length + 1
    cursor = moved(cursor, cursor.at + size)
    cursor = batch.keep_whole(cursor, 2, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _TYPE)["type"]
    unnumbered = header >> 8 == _UNNUMBERED
    cisco, rest = cursor.take(~unnumbered), advanced(cursor.take(unnumbered), 1)
    return read_ether_type(batch, advanced(cisco, 2), header[~unnumbered].astype(np.uint16)) + _read_nlpid(batch, rest)


def _read_nlpid(batch: Batch, cursor: Cursor) -> Found:
    """What a network layer identifier (ISO/IEC TR 9577) leads to; padding may stand before it."""
    padded = batch.data[cursor.at] == 0
    cursor = batch.keep_whole(moved(cursor, cursor.at + padded), 1, Loss.TRUNCATED_LINK)
    identifier = batch.data[cursor.at]
    snap = identifier == _NLPID_SNAP
    found = split(batch, advanced(cursor.take(~snap), 1), identifier[~snap], _NLPID_LAYERS)
    cursor = batch.keep_whole(advanced(cursor.take(snap), 1), _SNAP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SNAP)
    oui = header["oui"].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    cursor, ether_type = advanced(cursor, _SNAP.itemsize), header["type"].astype(np.uint16)
    bridged = (oui == 0x0080C2) & np.isin(ether_type, (0x0001, 0x0007))
    plain = oui == 0
    batch.lose(Loss.LINK_NO_IP, ~(plain | bridged))
    frames = shallow(batch, cursor.take(bridged))
    found.append((Layer.ETHERNET, entered(batch, frames, frames.at, "bridged")))
    return found + read_ether_type(batch, cursor.take(plain), ether_type[plain])


def read_atm(batch: Batch, cursor: Cursor) -> Found:
    """Classical IP over ATM (RFC 2684): IEEE 802.2, its form for routed protocols, or bare IP."""
    cursor = batch.keep_whole(cursor, 1, Loss.TRUNCATED_LINK)
    first = batch.data[cursor.at]
    routed = first == 0xFE  # the SAP of ISO protocols, before a network layer identifier
    bare = (first >> 4 == 4) | (first >> 4 == 6)
    iso = batch.keep_whole(cursor.take(routed), 4, Loss.TRUNCATED_LINK)
    found = _read_nlpid(batch, advanced(iso, 3))
    return [*found, (Layer.IP, cursor.take(bare)), (Layer.LLC, cursor.take(~(routed | bare)))]


def read_sun_atm(batch: Batch, cursor: Cursor) -> Found:
    """SunATM: a byte of direction and kind, the circuit in three, then IEEE 802.2 or an emulated LAN's frame."""
    cursor = batch.keep_whole(cursor, 4, Loss.TRUNCATED_LINK)
    first = batch.data[cursor.at]
    batch.direction[cursor.frame] = first >> 7
    kind = first & 0x0F
    cursor = advanced(cursor, 4)
    llc, emulated = kind == 2, kind == 1
    batch.lose(Loss.LINK_NO_IP, ~(llc | emulated))
    return [(Layer.LLC, cursor.take(llc)), (Layer.ETHERNET, advanced(cursor.take(emulated), 2))]


def split(batch: Batch, cursor: Cursor, value: Types, layers: dict[int, Layer]) -> Found:
    """What each value leads to; other values are counted."""
    rest = np.ones(len(cursor), np.bool_)
    found: Found = []
    for number, layer in layers.items():
        these = value == number
        if these.any():
            found.append((layer, cursor.take(these)))
            rest &= ~these
    batch.lose(Loss.LINK_NO_IP, rest)
    return found
