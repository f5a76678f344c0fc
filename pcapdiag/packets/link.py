"""From the link layer of each frame to its first header: Linux cooked captures, loopback, and what else tcpdump writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from pcapdiag.capture.frames import Frames
from pcapdiag.columns import I64
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Layer, advanced, link_hash, moved, select
from pcapdiag.packets.ethernet import read_ether_type, read_ethernet, read_switch_tagged
from pcapdiag.packets.firewall import AF_INET, AF_INET6, read_enc, read_nflog, read_pflog
from pcapdiag.packets.serial import (
    read_atm,
    read_chdlc,
    read_chdlc_directed,
    read_frame_relay,
    read_ppp_directed,
    read_ppp_serial,
    read_sun_atm,
    split,
)
from pcapdiag.packets.wlan import read_prism, read_radiotap, read_wlan

_COOKED_LLC = range(4, 5)  # ETH_P_802_2, the value of a type field that means IEEE 802.2 in cooked captures
_ARPHRD_NETLINK, _ARPHRD_RADIOTAP, _ARPHRD_FRAME_RELAY = 824, 803, 770
_MAX_FRAME_LEN = 0x7FFF_FFFF  # a hostile record may claim more, and column types end here
# Linux packet types (if_packet.h): host, broadcast and multicast were received, 3 was for somebody else.
_DIRECTIONS: Final = np.array([0, 0, 0, -1, 1, -1], np.int8)

_SLL = np.dtype([("packet_type", ">u2"), ("hardware", ">u2"), ("address_len", ">u2"), ("address", "<u8"), ("type", ">u2")])
_SLL2 = np.dtype(
    [("type", ">u2"), ("unused", ">u2"), ("interface", ">u4"), ("hardware", ">u2"), ("packet_type", "u1"), ("address_len", "u1"),
     ("address", "<u8")]
)  # fmt: skip
_FAMILY = np.dtype([("little", "<u4")])
_PPI = np.dtype([("version", "u1"), ("flags", "u1"), ("length", "<u2"), ("link_type", "<u4")])
_PKTAP = np.dtype([("length", "<u4"), ("record", "<u4"), ("link_type", "<u4")])
_NETWORK_LEN, _FDDI_LEN, _MPACKET_LEN, _NETANALYZER_LEN, _IPNET_LEN = 16, 13, 8, 4, 24
_TOKEN_RING_LEN = 14
_INFINIBAND_LEN, _SLIP_LEN = 44, 16
_IPNET_INET, _IPNET_INET6 = 2, 26


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
    found = _read_links(batch, cursor, frames.link_type[cursor.frame].astype(np.int64), LINK_TYPES)
    inbound = frames.flags & 3
    unsaid = batch.direction < 0
    batch.direction[unsaid & (inbound == 1)] = 0
    batch.direction[unsaid & (inbound == 2)] = 1
    return found


def _read_links(batch: Batch, cursor: Cursor, link_type: I64, readers: Mapping[int, Reader]) -> Found:
    found: Found = []
    for number in np.unique(link_type).tolist():
        these = link_type == number
        reader = readers.get(number)
        if reader is None:
            batch.lose(Loss.LINK_TYPE, these)
        else:
            found += reader(batch, cursor.take(select(these)))
    return found


def _read_sll(batch: Batch, cursor: Cursor) -> Found:
    cursor = batch.keep_whole(cursor, _SLL.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SLL)
    return _read_cooked(batch, advanced(cursor, _SLL.itemsize), header, np.zeros(len(cursor), np.int64))


def _read_sll2(batch: Batch, cursor: Cursor) -> Found:
    cursor = batch.keep_whole(cursor, _SLL2.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _SLL2)
    return _read_cooked(batch, advanced(cursor, _SLL2.itemsize), header, header["interface"].astype(np.int64))


def _read_cooked(batch: Batch, cursor: Cursor, header: npt.NDArray[np.void], interface: I64) -> Found:
    frame = cursor.frame
    batch.direction[frame] = _DIRECTIONS[np.minimum(header["packet_type"], len(_DIRECTIONS) - 1)]
    unused_bits = 64 - 8 * np.clip(header["address_len"].astype(np.int64), 1, 8)  # a shift by 64 is undefined
    address = (header["address"] << unused_bits.astype(np.uint64)) >> unused_bits.astype(np.uint64)
    known = header["address_len"] > 0
    batch.src_link_hash[frame] = np.where(known, link_hash(address), 0)
    batch.link_hash[frame] = np.where(known | (interface > 0), link_hash(address * known, interface), 0)
    hardware = header["hardware"]
    if not np.isin(hardware, (_ARPHRD_NETLINK, _ARPHRD_RADIOTAP, _ARPHRD_FRAME_RELAY)).any():
        return read_ether_type(batch, cursor, header["type"].astype(np.uint16), _COOKED_LLC)
    radio, relay = hardware == _ARPHRD_RADIOTAP, hardware == _ARPHRD_FRAME_RELAY
    batch.lose(Loss.LINK_NO_IP, hardware == _ARPHRD_NETLINK)
    rest = ~(radio | relay | (hardware == _ARPHRD_NETLINK))
    found = read_radiotap(batch, cursor.take(radio)) + read_frame_relay(batch, cursor.take(relay))
    return found + read_ether_type(batch, cursor.take(rest), header["type"][rest].astype(np.uint16), _COOKED_LLC)


def _read_loopback(batch: Batch, cursor: Cursor) -> Found:
    """NULL and LOOP: an address family in the byte order of the capturing host, or of the network."""
    cursor = batch.keep_whole(cursor, _FAMILY.itemsize, Loss.TRUNCATED_LINK)
    little = batch.gather(cursor.at, _FAMILY)["little"]
    family = np.where(little > 0xFFFF, little.byteswap(), little)
    return split(batch, advanced(cursor, _FAMILY.itemsize), family, {AF_INET: Layer.IPV4} | dict.fromkeys(AF_INET6, Layer.IPV6))


def _read_ipnet(batch: Batch, cursor: Cursor) -> Found:
    """Solaris' own copies of packets: a version, an address family, zones and interfaces."""
    cursor = batch.keep_whole(cursor, _IPNET_LEN, Loss.TRUNCATED_LINK)
    family = batch.data[cursor.at + 1]
    return split(batch, advanced(cursor, _IPNET_LEN), family, {_IPNET_INET: Layer.IPV4, _IPNET_INET6: Layer.IPV6})


def _read_infiniband(batch: Batch, cursor: Cursor) -> Found:
    """IP over InfiniBand: routing header, EtherType and two unused bytes."""
    cursor = batch.keep_whole(cursor, _INFINIBAND_LEN, Loss.TRUNCATED_LINK)
    ether_type = batch.gather(cursor.at + (_INFINIBAND_LEN - 4), np.dtype([("type", ">u2")]))["type"]
    return read_ether_type(batch, advanced(cursor, _INFINIBAND_LEN), ether_type.astype(np.uint16))


def _read_slip(batch: Batch, cursor: Cursor) -> Found:
    """SLIP: a byte of direction and what header compression left, then IP (RFC 1055)."""
    cursor = batch.keep_whole(cursor, _SLIP_LEN, Loss.TRUNCATED_LINK)
    batch.direction[cursor.frame] = batch.data[cursor.at] & 1
    return [(Layer.IP, advanced(cursor, _SLIP_LEN))]


def _read_fddi(batch: Batch, cursor: Cursor) -> Found:
    cursor = batch.keep_whole(cursor, _FDDI_LEN, Loss.TRUNCATED_LINK)
    carries = batch.data[cursor.at] & 0xF0 == 0x50  # asynchronous frames of IEEE 802.2
    return [(Layer.LLC, advanced(batch.keep(cursor, carries, Loss.LINK_NO_IP), _FDDI_LEN))]


def _read_token_ring(batch: Batch, cursor: Cursor) -> Found:
    """IEEE 802.5; the first bit of the source address says that a route lies behind it."""
    cursor = batch.keep_whole(cursor, _TOKEN_RING_LEN, Loss.TRUNCATED_LINK)
    cursor = batch.keep(cursor, batch.data[cursor.at + 1] & 0xC0 == 0x40, Loss.LINK_NO_IP)
    routed = batch.data[cursor.at + 8] & 0x80 != 0
    route_len = batch.data[np.minimum(cursor.at + _TOKEN_RING_LEN, cursor.end - 1)].astype(np.int64) & 0x1F
    return [(Layer.LLC, moved(cursor, cursor.at + _TOKEN_RING_LEN + route_len * routed))]


def _read_ppi(batch: Batch, cursor: Cursor) -> Found:
    """Per-packet information of wireless tools: lengths, then a frame of the link type it names."""
    cursor = batch.keep_whole(cursor, _PPI.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PPI)
    return _read_named(batch, cursor, header["length"].astype(np.int64), header["link_type"].astype(np.int64), _PPI.itemsize)


def _read_pktap(batch: Batch, cursor: Cursor) -> Found:
    """Darwin's packet tap: its header names interface, process and link type."""
    cursor = batch.keep_whole(cursor, _PKTAP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PKTAP)
    return _read_named(batch, cursor, header["length"].astype(np.int64), header["link_type"].astype(np.int64), _PKTAP.itemsize)


def _read_named(batch: Batch, cursor: Cursor, size: I64, link_type: I64, least: int) -> Found:
    """Frames of a link type named by a header of `size` bytes; headers do not nest."""
    good = size >= least
    cursor, size, link_type = batch.keep(cursor, good, Loss.LINK_NO_IP), size[good], link_type[good]
    whole = cursor.end - cursor.at > size
    cursor = batch.keep(cursor, whole, Loss.TRUNCATED_LINK)
    return _read_links(batch, moved(cursor, cursor.at + size[whole]), link_type[whole], _PLAIN_LINK_TYPES)


Reader = Callable[[Batch, Cursor], Found]


def _behind(size: int, layer: Layer) -> Reader:
    """A header of fixed length that says nothing we need."""
    return lambda batch, cursor: [(layer, advanced(batch.keep_whole(cursor, size, Loss.TRUNCATED_LINK), size))]


def _switch(size: int) -> Reader:
    return lambda batch, cursor: read_switch_tagged(batch, cursor, size)


def _starts_with(layer: Layer) -> Reader:
    return lambda _batch, cursor: [(layer, cursor)]


_PLAIN_LINK_TYPES: Final[Mapping[int, Reader]] = {
    0: _read_loopback,
    1: read_ethernet,
    6: _read_token_ring,
    8: _read_slip,
    9: read_ppp_serial,
    10: _read_fddi,
    12: _starts_with(Layer.IP),
    14: _starts_with(Layer.IP),
    50: read_ppp_serial,
    51: _starts_with(Layer.PPPOE),
    100: read_atm,
    101: _starts_with(Layer.IP),
    104: read_chdlc,
    105: read_wlan,
    106: read_atm,
    107: read_frame_relay,
    108: _read_loopback,
    109: read_enc,
    113: _read_sll,
    117: read_pflog,
    119: read_prism,
    122: _behind(_NETWORK_LEN, Layer.LLC),
    123: read_sun_atm,
    127: read_radiotap,
    163: read_prism,
    166: read_ppp_directed,
    204: read_ppp_directed,
    205: read_chdlc_directed,
    219: _starts_with(Layer.MPLS),
    226: _read_ipnet,
    228: _starts_with(Layer.IPV4),
    229: _starts_with(Layer.IPV6),
    239: read_nflog,
    240: _behind(_NETANALYZER_LEN, Layer.ETHERNET),
    241: _behind(_NETANALYZER_LEN + _MPACKET_LEN, Layer.ETHERNET),
    242: _read_infiniband,
    274: _behind(_MPACKET_LEN, Layer.ETHERNET),
    276: _read_sll2,
    281: _switch(4),
    282: _behind(4, Layer.ETHERNET),
    284: _switch(4),
    285: _switch(8),
}
LINK_TYPES: Final[Mapping[int, Reader]] = {**_PLAIN_LINK_TYPES, 192: _read_ppi, 258: _read_pktap}
"""LINKTYPE_ values (tcpdump.org/linktypes.html) and the readers of their frames."""
