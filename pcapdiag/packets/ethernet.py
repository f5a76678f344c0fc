"""Ethernet with its tags, IEEE 802.2 behind it, and what an EtherType leads to.

Each reader takes frames (or what a tunnel holds) to their network headers, and counts those that have none.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pcapdiag.columns import I64, U16, Rows
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import MAX_DEPTH, Batch, Cursor, Found, Layer, advanced, entered, link_hash, moved, select, shallow
from pcapdiag.packets.inside import (
    ARP_TYPE,
    FABRICPATH_TYPE,
    IPV4_TYPE,
    IPV6_TYPE,
    LLDP_TYPE,
    MACSEC_TYPE,
    MPLS_TYPES,
    NSH_TYPE,
    PBB_TYPE,
    PPPOE_TYPE,
    RARP_TYPE,
    VLAN_TYPES,
)

# The values of a type field that mean IEEE 802.2: lengths in Ethernet, none behind SNAP.
ETHERNET_LLC, NO_LLC = range(1501), range(0)

_ARISTA_TYPE = 0xD28B
"""What tap aggregators of Arista put before the EtherType: when the frame passed."""
# Of Cisco: which virtual port, which security group; a fabric extender's port (IEEE 802.1BR); redundancy (IEC 62439-3, IEEE 802.1CB).
_TAG_SIZES: Final = dict.fromkeys(VLAN_TYPES, 4) | {0x8926: 6, 0x8909: 8, 0x893F: 8, 0x892F: 6, 0xF1C1: 6, _ARISTA_TYPE: 14}
"""Bytes of a tag behind its EtherType, that of what follows included; a short time stamp takes 2 less."""
_MAX_TAGS = 8
_TYPE_LAYERS: Final = {
    IPV4_TYPE: Layer.IPV4,
    IPV6_TYPE: Layer.IPV6,
    PPPOE_TYPE: Layer.PPPOE,
    PBB_TYPE: Layer.PBB,
    FABRICPATH_TYPE: Layer.FABRICPATH,
    MACSEC_TYPE: Layer.MACSEC,
    NSH_TYPE: Layer.NSH,
} | dict.fromkeys(MPLS_TYPES, Layer.MPLS)
_TYPE_LOSSES: Final = {ARP_TYPE: Loss.ARP, RARP_TYPE: Loss.ARP, LLDP_TYPE: Loss.LLDP}

_ETHERNET = np.dtype({"names": ["dst_src", "src", "type"], "formats": ["<u8", "<u4", ">u2"], "offsets": [0, 8, 12], "itemsize": 14})
_TAG = np.dtype([("control", ">u2"), ("type", ">u2")])
_STAMP = np.dtype([("kind", ">u2"), ("version", ">u2")])
_SHORT_STAMP = 0x0020  # 48 bits
_TYPE = np.dtype([("type", ">u2")])
_LLC = np.dtype([("saps", ">u2"), ("control", "u1")])
_SNAP = np.dtype([("saps", ">u2"), ("control_oui", ">u4"), ("type", ">u2")])
_SERVICE = np.dtype([("service", ">u4")])
_SECURITY = np.dtype([("control", "u1"), ("length", "u1"), ("number", ">u4")])
_SNAP_BRIDGED, _BRIDGED_PADDING = (0x0001, 0x0007), 2  # RFC 2684 section 5.2: a whole frame, with its check sum or without


def read_ethernet(batch: Batch, cursor: Cursor) -> Found:
    """Ethernet II with its tags, and IEEE 802.3."""
    cursor, ether_type = _read_addresses(batch, cursor)
    return read_ether_type(batch, advanced(cursor, _ETHERNET.itemsize), ether_type, ETHERNET_LLC)


def read_switch_tagged(batch: Batch, cursor: Cursor, size: int) -> Found:
    """Ethernet of a port towards a switch chip, which puts `size` bytes of its own before the EtherType (Linux DSA)."""
    cursor, _ = _read_addresses(batch, cursor)
    cursor = batch.keep_whole(cursor, _ETHERNET.itemsize + size, Loss.TRUNCATED_LINK)
    ether_type = batch.gather(cursor.at + (_ETHERNET.itemsize + size - 2), _TYPE)["type"].astype(np.uint16)
    return read_ether_type(batch, advanced(cursor, _ETHERNET.itemsize + size), ether_type, ETHERNET_LLC)


def _read_addresses(batch: Batch, cursor: Cursor) -> tuple[Cursor, U16]:
    cursor = batch.keep_whole(cursor, _ETHERNET.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _ETHERNET)
    bare = select(cursor.depth == 0)
    frame = cursor.frame[bare]
    both, rest = header["dst_src"][bare], header["src"][bare]
    batch.link_hash[frame] = link_hash(both, rest)
    batch.src_link_hash[frame] = link_hash(both >> np.uint64(48), rest)
    return cursor, header["type"].astype(np.uint16)


def read_ether_type(batch: Batch, cursor: Cursor, ether_type: U16, llc: range = NO_LLC) -> Found:
    """What an EtherType says lies at the cursor, behind VLAN tags if there are any."""
    if (ether_type == IPV4_TYPE).all():
        return [(Layer.IPV4, cursor)]
    cursor, ether_type = _read_tags(batch, cursor, ether_type)
    found: Found = []
    rest = np.ones(len(cursor), np.bool_)
    for value, layer in _TYPE_LAYERS.items():
        these = ether_type == value
        if these.any():
            found.append((layer, cursor.take(these)))
            rest &= ~these
    for value, loss in _TYPE_LOSSES.items():
        these = ether_type == value
        batch.lose(loss, these)
        rest &= ~these
    if not rest.any():
        return found
    these = (ether_type >= llc.start) & (ether_type < llc.stop)
    found.append((Layer.LLC, cursor.take(these)))
    batch.lose(Loss.ETHERTYPE, rest & ~these)
    return found


def _read_tags(batch: Batch, cursor: Cursor, ether_type: U16) -> tuple[Cursor, U16]:
    """Steps over tags; a VLAN tag of VLAN 0 only carries a priority and is no part of the path."""
    for _ in range(_MAX_TAGS):
        tagged = np.isin(ether_type, list(_TAG_SIZES))
        if not tagged.any():
            break
        size = _tag_sizes(batch, cursor, ether_type)
        good = ~tagged | (cursor.end - cursor.at >= size)
        cursor, ether_type, tagged = batch.keep(cursor, good, Loss.TRUNCATED_LINK), ether_type[good], tagged[good]
        vlans = np.isin(ether_type, VLAN_TYPES)
        at = cursor.at + size[good] * tagged
        cursor = _name_vlans(batch, cursor, np.flatnonzero(vlans))
        cursor, ether_type = moved(cursor, at), ether_type.copy()
        ether_type[tagged] = batch.gather(at[tagged] - _TYPE.itemsize, _TYPE)["type"]
    return cursor, ether_type


def _tag_sizes(batch: Batch, cursor: Cursor, ether_type: U16) -> I64:
    size = np.full(len(cursor), _TAG.itemsize)
    for value, length in _TAG_SIZES.items():
        size[ether_type == value] = length
    stamped = np.flatnonzero(ether_type == _ARISTA_TYPE)
    _, stamp = batch.peek(cursor.at[stamped], cursor.end[stamped], _STAMP)
    size[stamped[stamp["version"] & 0x00F0 == _SHORT_STAMP]] -= 2
    return size


def _name_vlans(batch: Batch, cursor: Cursor, rows: Rows) -> Cursor:
    """Adds the VLAN at the cursor of the given rows to their paths and to the hashes of their frames."""
    vlan = (batch.gather(cursor.at[rows], _TAG)["control"] & 0x0FFF).astype(np.int64)
    named = rows[vlan > 0]
    path = cursor.path.copy()
    path[named] = batch.paths.push(path[named], "vlan", vlan[vlan > 0])
    bare = cursor.depth[rows] == 0
    frame = cursor.frame[rows][bare]
    batch.link_hash[frame] = link_hash(batch.link_hash[frame], vlan[bare])
    return Cursor(
        frame=cursor.frame, at=cursor.at, end=cursor.end, wire_end=cursor.wire_end, path=path, outer_at=cursor.outer_at, depth=cursor.depth
    )


def read_llc(batch: Batch, cursor: Cursor) -> Found:
    """IEEE 802.2: SNAP with an EtherType or a bridged frame, plain IP (SAP 6), spanning tree; the rest is counted."""
    cursor = batch.keep_whole(cursor, _LLC.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _LLC)
    saps, unnumbered = header["saps"], header["control"] == 0x03
    snap, plain_ip = (saps == 0xAAAA) & unnumbered, (saps == 0x0606) & unnumbered
    stp = saps == 0x4242
    batch.lose(Loss.STP, stp)
    batch.lose(Loss.LLC, ~(snap | plain_ip | stp))
    found: Found = [(Layer.IPV4, advanced(cursor.take(plain_ip), _LLC.itemsize))]
    cursor = batch.keep_whole(cursor.take(snap), _SNAP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SNAP)
    oui, ether_type = header["control_oui"] & 0xFFFFFF, header["type"].astype(np.uint16)
    encapsulated = (oui == 0) | (oui == 0x0000F8)  # RFC 1042, and bridges that translate (IEEE 802.1H)
    pvst = (oui == 0x00000C) & (ether_type == 0x010B)  # spanning tree per VLAN
    bridged = (oui == 0x0080C2) & np.isin(ether_type, _SNAP_BRIDGED) & (cursor.depth < MAX_DEPTH)
    batch.lose(Loss.STP, pvst)
    batch.lose(Loss.LLC, ~(encapsulated | pvst | bridged))
    frames = cursor.take(bridged)
    found.append((Layer.ETHERNET, entered(batch, frames, frames.at + _SNAP.itemsize + _BRIDGED_PADDING, "bridged")))
    return found + read_ether_type(batch, advanced(cursor.take(encapsulated), _SNAP.itemsize), ether_type[encapsulated])


def read_backbone(batch: Batch, cursor: Cursor) -> Found:
    """Provider backbone bridges (IEEE 802.1ah): a service tag, and the customer's whole frame."""
    cursor = batch.keep_whole(shallow(batch, cursor), _SERVICE.itemsize, Loss.TRUNCATED_LINK)
    service = batch.gather(cursor.at, _SERVICE)["service"] & 0xFFFFFF
    return [(Layer.ETHERNET, entered(batch, cursor, cursor.at + _SERVICE.itemsize, "pbb", service))]


def read_fabricpath(batch: Batch, cursor: Cursor) -> Found:
    """Cisco FabricPath: two bytes of tree and hop limit, and the customer's whole frame."""
    cursor = shallow(batch, cursor)
    return [(Layer.ETHERNET, entered(batch, cursor, cursor.at + 2, "fabricpath"))]


def read_macsec(batch: Batch, cursor: Cursor) -> Found:
    """MACsec (IEEE 802.1AE section 9.3): what is only authenticated can be read, what is encrypted is counted."""
    cursor = batch.keep_whole(shallow(batch, cursor), _SECURITY.itemsize, Loss.TRUNCATED_LINK)
    control = batch.gather(cursor.at, _SECURITY)["control"]
    open_ = control & 0x0C == 0  # neither encrypted nor changed
    cursor = batch.keep(cursor, open_, Loss.MACSEC)
    channel = control[open_] & 0x20 != 0
    inner = entered(batch, cursor, cursor.at + _SECURITY.itemsize + 8 * channel, "macsec")
    inner = batch.keep_whole(inner, _TYPE.itemsize, Loss.TRUNCATED_LINK)
    return read_ether_type(batch, advanced(inner, _TYPE.itemsize), batch.gather(inner.at, _TYPE)["type"].astype(np.uint16), ETHERNET_LLC)
