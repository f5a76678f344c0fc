"""Link-layer headers: Ethernet with its tags, LLC, Linux cooked captures, loopback, raw IP, PPP.

Each reader takes frames (or what a tunnel holds) to their network headers, and counts those that have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.capture.frames import Frames
from pcapdiag.columns import I32, I64, U16, Bools
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Layer, mixed, select

Found = list[tuple[Layer, Cursor]]
"""What a reader found behind its header."""

Types = npt.NDArray[np.integer[Any]]

IPV4_TYPE, IPV6_TYPE, ARP_TYPE, RARP_TYPE, LLDP_TYPE = 0x0800, 0x86DD, 0x0806, 0x8035, 0x88CC
MPLS_TYPES: Final = (0x8847, 0x8848)
PPPOE_TYPE = 0x8864
VLAN_TYPES: Final = (0x8100, 0x88A8, 0x9100)  # IEEE 802.1Q, 802.1ad, and what came before it
# The values of a type field that mean IEEE 802.2: lengths in Ethernet, ETH_P_802_2 in cooked captures, none behind SNAP.
_ETHERNET_LLC, _COOKED_LLC, _NO_LLC = range(1501), range(4, 5), range(0)

_MAX_TAGS = 8
_MAX_FRAME_LEN = 0x7FFF_FFFF  # a hostile record may claim more, and column types end here
_TYPE_LAYERS: Final = {IPV4_TYPE: Layer.IPV4, IPV6_TYPE: Layer.IPV6, PPPOE_TYPE: Layer.PPPOE} | dict.fromkeys(MPLS_TYPES, Layer.MPLS)
_TYPE_LOSSES: Final = {ARP_TYPE: Loss.ARP, RARP_TYPE: Loss.ARP, LLDP_TYPE: Loss.LLDP}
_PPP_LAYERS: Final = {0x0021: Layer.IPV4, 0x0057: Layer.IPV6, 0x0281: Layer.MPLS}

_ETHERNET = np.dtype({"names": ["dst_src", "src", "type"], "formats": ["<u8", "<u4", ">u2"], "offsets": [0, 8, 12], "itemsize": 14})
_TAG = np.dtype([("control", ">u2"), ("type", ">u2")])
_LLC = np.dtype([("saps", ">u2"), ("control", "u1")])
_SNAP = np.dtype([("saps", ">u2"), ("control_oui", ">u4"), ("type", ">u2")])
_SLL = np.dtype([("packet_type", ">u2"), ("hardware", ">u2"), ("address_len", ">u2"), ("address", "<u8"), ("type", ">u2")])
_SLL2 = np.dtype(
    [("type", ">u2"), ("unused", ">u2"), ("interface", ">u4"), ("hardware", ">u2"), ("packet_type", "u1"), ("address_len", "u1"),
     ("address", "<u8")]
)  # fmt: skip
_FAMILY = np.dtype([("little", "<u4")])
_PPP = np.dtype([("first", "u1"), ("second", "u1")])
_CHDLC = np.dtype([("address_control", ">u2"), ("type", ">u2")])

_AF_INET, _AF_INET6 = 2, (10, 24, 28, 30)  # Linux, NetBSD/OpenBSD, FreeBSD, Darwin
_ARPHRD_NETLINK = 824
# Linux packet types (if_packet.h): host, broadcast and multicast were received, 3 was for somebody else.
_DIRECTIONS: Final = np.array([0, 0, 0, -1, 1, -1], np.int8)


def enter_frames(batch: Batch, frames: Frames) -> Found:
    """The first header behind the link layer of each frame; frames of different link types are told apart here."""
    captured = frames.captured.astype(np.int64)
    at = frames.data_at
    count = len(frames)
    cursor = Cursor(
        frame=np.arange(count),
        at=at,
        end=at + captured,
        wire_end=at + np.maximum(captured, np.minimum(frames.length, _MAX_FRAME_LEN)),
        path=np.zeros(count, np.int32),
        outer_at=np.full(count, -1),
        depth=np.zeros(count, np.uint8),
    )
    cursor = batch.keep(cursor, captured > 0, Loss.EMPTY_FRAME)
    link_types = frames.link_type[cursor.frame]
    found: Found = []
    for link_type in np.unique(link_types).tolist():
        some = cursor.take(select(link_types == link_type))
        reader = LINK_TYPES.get(link_type)
        if reader is None:
            batch.lose(Loss.LINK_TYPE, link_types == link_type)
        else:
            found += reader(batch, some)
    inbound = frames.flags & 3
    unsaid = batch.direction < 0
    batch.direction[unsaid & (inbound == 1)] = 0
    batch.direction[unsaid & (inbound == 2)] = 1
    return found


def read_ethernet(batch: Batch, cursor: Cursor) -> Found:
    """Ethernet II with its tags, and IEEE 802.3."""
    cursor = batch.keep_whole(cursor, _ETHERNET.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _ETHERNET)
    bare = select(cursor.depth == 0)
    frame = cursor.frame[bare]
    both, rest = header["dst_src"][bare], header["src"][bare]
    batch.link_hash[frame] = mixed(both, rest)
    batch.src_link_hash[frame] = mixed(both >> np.uint64(48), rest)
    return read_ether_type(batch, _advanced(cursor, _ETHERNET.itemsize), header["type"].astype(np.uint16), _ETHERNET_LLC)


def read_ether_type(batch: Batch, cursor: Cursor, ether_type: U16, llc: range = _NO_LLC) -> Found:
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
    """Steps over VLAN tags; a tag of VLAN 0 only carries a priority and is no part of the path."""
    for _ in range(_MAX_TAGS):
        tagged = np.isin(ether_type, VLAN_TYPES)
        if not tagged.any():
            break
        good = ~tagged | (cursor.end - cursor.at >= _TAG.itemsize)
        cursor, ether_type, tagged = batch.keep(cursor, good, Loss.TRUNCATED_LINK), ether_type[good], tagged[good]
        tag = batch.gather(cursor.at[tagged], _TAG)
        vlan = (tag["control"] & 0x0FFF).astype(np.int64)
        at, path, ether_type = cursor.at.copy(), cursor.path.copy(), ether_type.copy()
        at[tagged] += _TAG.itemsize
        ether_type[tagged] = tag["type"]
        rows = np.flatnonzero(tagged)[vlan > 0]
        path[rows] = batch.paths.push(path[rows], "vlan", vlan[vlan > 0])
        cursor = _moved(cursor, at, path)
        bare = cursor.depth[tagged] == 0
        frame = cursor.frame[tagged][bare]
        batch.link_hash[frame] = mixed(batch.link_hash[frame], vlan[bare])
    return cursor, ether_type


def read_llc(batch: Batch, cursor: Cursor) -> Found:
    """IEEE 802.2: SNAP with an EtherType, plain IP (SAP 6), spanning tree; the rest is counted."""
    cursor = batch.keep_whole(cursor, _LLC.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _LLC)
    saps, unnumbered = header["saps"], header["control"] == 0x03
    snap, plain_ip = (saps == 0xAAAA) & unnumbered, (saps == 0x0606) & unnumbered
    stp = saps == 0x4242
    batch.lose(Loss.STP, stp)
    batch.lose(Loss.LLC, ~(snap | plain_ip | stp))
    found: Found = [(Layer.IPV4, _advanced(cursor.take(plain_ip), _LLC.itemsize))]
    cursor = batch.keep_whole(cursor.take(snap), _SNAP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SNAP)
    oui, ether_type = header["control_oui"] & 0xFFFFFF, header["type"].astype(np.uint16)
    encapsulated = (oui == 0) | (oui == 0x0000F8)  # RFC 1042, and bridges that translate (IEEE 802.1H)
    pvst = (oui == 0x00000C) & (ether_type == 0x010B)  # spanning tree per VLAN
    batch.lose(Loss.STP, pvst)
    batch.lose(Loss.LLC, ~(encapsulated | pvst))
    cursor = _advanced(cursor.take(encapsulated), _SNAP.itemsize)
    return found + read_ether_type(batch, cursor, ether_type[encapsulated])


def _read_sll(batch: Batch, cursor: Cursor) -> Found:
    cursor = batch.keep_whole(cursor, _SLL.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SLL)
    return _read_cooked(batch, _advanced(cursor, _SLL.itemsize), header, np.zeros(len(cursor), np.int64))


def _read_sll2(batch: Batch, cursor: Cursor) -> Found:
    cursor = batch.keep_whole(cursor, _SLL2.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SLL2)
    return _read_cooked(batch, _advanced(cursor, _SLL2.itemsize), header, header["interface"].astype(np.int64))


def _read_cooked(batch: Batch, cursor: Cursor, header: npt.NDArray[np.void], interface: I64) -> Found:
    frame = cursor.frame
    batch.direction[frame] = _DIRECTIONS[np.minimum(header["packet_type"], len(_DIRECTIONS) - 1)]
    unused_bits = 64 - 8 * np.clip(header["address_len"].astype(np.int64), 1, 8)  # a shift by 64 is undefined
    address = (header["address"] << unused_bits.astype(np.uint64)) >> unused_bits.astype(np.uint64)
    known = header["address_len"] > 0
    batch.src_link_hash[frame] = np.where(known, mixed(address), 0)
    batch.link_hash[frame] = np.where(known | (interface > 0), mixed(address * known, interface), 0)
    network = header["hardware"] != _ARPHRD_NETLINK
    cursor = batch.keep(cursor, network, Loss.LINK_NO_IP)
    return read_ether_type(batch, cursor, header["type"][network].astype(np.uint16), _COOKED_LLC)


def _read_loopback(batch: Batch, cursor: Cursor) -> Found:
    """NULL and LOOP: an address family in the byte order of the capturing host, or of the network."""
    cursor = batch.keep_whole(cursor, _FAMILY.itemsize, Loss.TRUNCATED_LINK)
    little = batch.gather(cursor.at, _FAMILY)["little"]
    family = np.where(little > 0xFFFF, little.byteswap(), little)
    return _split(batch, _advanced(cursor, _FAMILY.itemsize), family, {_AF_INET: Layer.IPV4} | dict.fromkeys(_AF_INET6, Layer.IPV6))


def read_ppp(batch: Batch, cursor: Cursor) -> Found:
    """PPP, with or without address and control bytes, its protocol field in two bytes or one (RFC 1661, RFC 1662)."""
    cursor = batch.keep_whole(cursor, _PPP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPP)
    framed = (header["first"] == 0xFF) & (header["second"] == 0x03)
    cursor = _moved(cursor, cursor.at + 2 * framed, cursor.path)
    cursor = batch.keep_whole(cursor, _PPP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPP)
    short = header["first"] & 1 == 1
    protocol = np.where(short, header["first"], header["first"].astype(np.uint16) << 8 | header["second"])
    return _split(batch, _moved(cursor, cursor.at + np.where(short, 1, 2), cursor.path), protocol, _PPP_LAYERS)


def _read_chdlc(batch: Batch, cursor: Cursor) -> Found:
    cursor = batch.keep_whole(cursor, _CHDLC.itemsize, Loss.TRUNCATED_LINK)
    return read_ether_type(batch, _advanced(cursor, _CHDLC.itemsize), batch.gather(cursor.at, _CHDLC)["type"].astype(np.uint16))


def _split(batch: Batch, cursor: Cursor, value: Types, layers: Mapping[int, Layer]) -> Found:
    rest: Bools = np.ones(len(cursor), np.bool_)
    found: Found = []
    for number, layer in layers.items():
        these = value == number
        if these.any():
            found.append((layer, cursor.take(these)))
            rest &= ~these
    batch.lose(Loss.LINK_NO_IP, rest)
    return found


def _moved(cursor: Cursor, at: I64, path: I32) -> Cursor:
    return Cursor(
        frame=cursor.frame, at=at, end=cursor.end, wire_end=cursor.wire_end, path=path, outer_at=cursor.outer_at, depth=cursor.depth
    )


def _advanced(cursor: Cursor, size: int) -> Cursor:
    return _moved(cursor, cursor.at + size, cursor.path)


def _starts_with(layer: Layer) -> Callable[[Batch, Cursor], Found]:
    return lambda _batch, cursor: [(layer, cursor)]


LINK_TYPES: Final[Mapping[int, Callable[[Batch, Cursor], Found]]] = {
    0: _read_loopback,
    1: read_ethernet,
    9: read_ppp,
    12: _starts_with(Layer.IP),
    14: _starts_with(Layer.IP),
    50: read_ppp,
    51: _starts_with(Layer.PPPOE),
    101: _starts_with(Layer.IP),
    104: _read_chdlc,
    108: _read_loopback,
    113: _read_sll,
    228: _starts_with(Layer.IPV4),
    229: _starts_with(Layer.IPV6),
    276: _read_sll2,
}
"""LINKTYPE_ values (tcpdump.org/linktypes.html) and the readers of their frames."""
