"""Every tunnel and link type as a way to wrap an IP packet: what tests put around a conversation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.frame_bytes import MAC_A, MAC_B, ether, ipv4, ipv6, udp, vlan, vxlan

Wrap = Callable[[bytes], bytes]
"""IP packet -> what is around it, packet included."""


class Wrapped(NamedTuple):
    """One way to carry a packet."""

    wrap: Wrap
    path: tuple[str, ...] = ()
    overhead_len: int = 0
    link_type: int = 1


def kind_of(packet: bytes) -> int:
    """The EtherType of an IP packet."""
    return 0x0800 if packet[0] >> 4 == 4 else 0x86DD


def framed(packet: bytes) -> bytes:
    """An Ethernet frame around an IP packet."""
    return ether(packet, kind_of(packet))


def over_udp(port: int, header: bytes = b"", *, inner: Wrap = framed, sport: int = 40_000) -> Wrap:
    return lambda packet: ether(ipv4(udp(header + inner(packet), sport=sport, dport=port), 17))


def over_ip(proto: int, header: bytes = b"", *, inner: Wrap = bytes) -> Wrap:
    return lambda packet: ether(ipv4(header + inner(packet), proto))


def over_ip6(proto: int, header: bytes = b"", *, inner: Wrap = bytes) -> Wrap:
    return lambda packet: ether(ipv6(header + inner(packet), proto), 0x86DD)


def behind(header: bytes, *, inner: Wrap = bytes) -> Wrap:
    return lambda packet: header + inner(packet)


def gre(kind: int, *, flags: int = 0, optional: bytes = b"", inner: Wrap = bytes) -> Wrap:
    return over_ip(47, struct.pack(">HH", flags, kind) + optional, inner=inner)


def geneve(kind: int, options: bytes = b"", *, inner: Wrap = framed) -> Wrap:
    return over_udp(6081, struct.pack(">BBHI", len(options) // 4, 0, kind, 7 << 8) + options, inner=inner)


def gtp(flags: int = 0x30, optional: bytes = b"") -> Wrap:
    return over_udp(2152, struct.pack(">BBHI", flags, 0xFF, 60, 99) + optional, inner=bytes)


def labels(*values: int) -> bytes:
    """An MPLS label stack."""
    return b"".join(struct.pack(">I", value << 12 | (i == len(values) - 1) << 8 | 64) for i, value in enumerate(values))


def pppoe(packet: bytes) -> bytes:
    protocol = b"\x00\x21" if packet[0] >> 4 == 4 else b"\x00\x57"
    return struct.pack(">BBHH", 0x11, 0, 77, len(packet) + 2) + protocol + packet


def ppp(packet: bytes) -> bytes:
    return b"\xff\x03\x00\x21" + packet


def snap(packet: bytes) -> bytes:
    return bytes.fromhex("aaaa03000000") + struct.pack(">H", kind_of(packet)) + packet


def wlan(control: int = 0x0108, rest: bytes = b"", *, inner: Wrap = snap) -> Wrap:
    """A data frame; `rest` stands between the sequence number and the body."""
    return behind(struct.pack("<HH", control, 0) + MAC_B + MAC_A + MAC_B + bytes(2) + rest, inner=inner)


def aggregated(packet: bytes) -> bytes:
    """Two subframes, the packet in the first."""
    body = snap(packet)
    first = MAC_B + MAC_A + struct.pack(">H", len(body)) + body
    return first + bytes(-len(first) % 4) + MAC_B + MAC_A + struct.pack(">H", 40) + snap(ipv4(bytes(12), 99))


def radiotap(present: int, fields: bytes, inner: Wrap, *, more: bytes = b"") -> Wrap:
    return behind(struct.pack("<BBHI", 0, 0, 8 + len(more) + len(fields), present) + more + fields, inner=inner)


def nflog(packet: bytes, order: str = "<") -> bytes:
    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    return struct.pack(">BBH", 2, 0, 5) + attribute(1, b"\x08\x00\x01\x00") + attribute(10, b"drop\x00") + attribute(9, packet)


def macsec(control: int = 0x20) -> Wrap:
    """Control 0x20: a channel identifier, neither encrypted nor changed."""
    tag = struct.pack(">BBI", control, 0, 1) + bytes(8)
    return lambda packet: ether(tag + struct.pack(">H", kind_of(packet)) + packet + bytes(16), 0x88E5)


def mesh(packet: bytes) -> bytes:
    return ether(b"\x80\x00\x00\x09" + framed(packet), 0x88E7)


_ERSPAN_2 = b"\x10\x05\x00\x01" + bytes(4)
_ERSPAN_3 = b"\x20\x05\x00\x01" + bytes(6)
_SEQUENCED = struct.pack(">I", 9)
_AUTH = struct.pack(">BBHII", 4, 4, 0, 0x1234, 1) + bytes(12)
_EXTENSION = b"\0\0\0\x85\x01\x10\x09\0"
_TAGGED: Wrap = lambda packet: ether(*vlan(packet, 3, kind=kind_of(packet)))  # noqa: E731 - one of a table of such
_NSH = struct.pack(">HBBI", 0x0FC0 | 6, 1, 3, 0x1234FF) + bytes(16)

TUNNELS = {
    "vxlan": Wrapped(over_udp(4789, vxlan(b"")), ("vxlan 42",), 50),
    "vxlan-8472": Wrapped(over_udp(8472, vxlan(b"", 0xFFFFFF)), ("vxlan 16777215",), 50),
    "vxlan-any-port": Wrapped(over_udp(10_800, vxlan(b"")), ("vxlan 42",), 50),
    "vxlan-policy": Wrapped(over_udp(4789, b"\x88\x00\x00\x07\x00\x00\x2a\x00"), ("vxlan 42",), 50),
    "vxlan-reserved-bits": Wrapped(over_udp(4789, b"\x08\x08\x7f\x7f\x00\x00\x2a\x30"), ("vxlan 42",), 50),
    "vxlan-vlan": Wrapped(over_udp(4789, vxlan(b""), inner=_TAGGED), ("vxlan 42", "vlan 3"), 54),
    "vxlan-gpe-ip": Wrapped(over_udp(4790, b"\x0c\x00\x00\x01\x00\x00\x2a\x00", inner=bytes), ("vxlan-gpe 42",), 36),
    "vxlan-gpe-nsh": Wrapped(over_udp(4790, b"\x0c\x00\x00\x04\x00\x00\x2a\x00" + _NSH), ("vxlan-gpe 42", "nsh"), 74),
    "geneve": Wrapped(geneve(0x6558), ("geneve 7",), 50),
    "geneve-options": Wrapped(geneve(0x6558, bytes(12)), ("geneve 7",), 62),
    "geneve-ip": Wrapped(geneve(0x0800, inner=bytes), ("geneve 7",), 36),
    "geneve-load-balancer": Wrapped(geneve(0x0800, bytes(32), inner=bytes), ("geneve 7",), 68),
    "gtp-u": Wrapped(gtp(), ("gtp-u",), 36),
    "gtp-u-sequence": Wrapped(gtp(0x32, bytes(4)), ("gtp-u",), 40),
    "gtp-u-extension": Wrapped(gtp(0x34, _EXTENSION), ("gtp-u",), 44),
    "gre": Wrapped(gre(0x0800), ("gre",), 24),
    "gre-key": Wrapped(gre(0x0800, flags=0x2000, optional=bytes(4)), ("gre 0",), 28),
    "gre-everything": Wrapped(gre(0x0800, flags=0xB000, optional=bytes(12)), ("gre 0",), 36),
    "gre-ethernet": Wrapped(gre(0x6558, flags=0x2000, optional=b"\0\0\x2a\0", inner=framed), ("gre 10752",), 42),
    "gre-mpls": Wrapped(gre(0x8847, optional=labels(5)), ("gre", "mpls"), 28),
    "gre-over-udp": Wrapped(over_udp(4754, b"\0\0\x08\0", inner=bytes), ("gre",), 32),
    "pptp": Wrapped(gre(0x880B, flags=0x3081, optional=bytes(12), inner=ppp), ("gre",), 40),
    "wccp": Wrapped(gre(0x883E, optional=b"\x00\x01\x02\x03"), ("gre",), 28),
    "gre-access-point": Wrapped(gre(0x8200, inner=wlan()), ("gre",), 56),
    "erspan-1": Wrapped(gre(0x88BE, inner=framed), ("gre", "erspan"), 38),
    "erspan-2": Wrapped(gre(0x88BE, flags=0x1000, optional=_SEQUENCED + _ERSPAN_2, inner=framed), ("gre", "erspan"), 50),
    "erspan-3": Wrapped(gre(0x22EB, flags=0x1000, optional=_SEQUENCED + _ERSPAN_3 + bytes(2), inner=framed), ("gre", "erspan"), 54),
    "erspan-3-ip": Wrapped(gre(0x22EB, flags=0x1000, optional=_SEQUENCED + _ERSPAN_3 + b"\x08\x00"), ("gre", "erspan"), 40),
    "erspan-3-more": Wrapped(
        gre(0x22EB, flags=0x1000, optional=_SEQUENCED + _ERSPAN_3 + b"\x00\x01" + bytes(8), inner=framed), ("gre", "erspan"), 62
    ),
    "ipip": Wrapped(over_ip(4), ("ipip",), 20),
    "4in6": Wrapped(over_ip6(4), ("4in6",), 40),
    "etherip": Wrapped(over_ip(97, b"\x30\x00", inner=framed), ("etherip",), 36),
    "ethernet-in-ip": Wrapped(over_ip6(143, inner=framed), ("ethernet-in-ip",), 54),
    "gue": Wrapped(over_udp(6080, b"\x00\x04\x00\x00", inner=bytes), ("gue",), 32),
    "gue-bare": Wrapped(over_udp(6080, inner=bytes), ("gue",), 28),
    "lisp": Wrapped(over_udp(4341, b"\x80\x01\x02\x03\x00\x00\x00\x01", inner=bytes), ("lisp",), 36),
    "mpls": Wrapped(behind(ether(labels(100), 0x8847)), ("mpls",)),
    "mpls-stack": Wrapped(behind(ether(labels(100, 200, 300), 0x8848)), ("mpls",)),
    "mpls-control-word": Wrapped(behind(ether(labels(100) + bytes(4), 0x8847), inner=framed), ("mpls",)),
    "mpls-pseudowire": Wrapped(behind(ether(labels(100), 0x8847), inner=framed), ("mpls",)),
    "mpls-pseudowire-pppoe": Wrapped(behind(ether(labels(100) + ether(b"", 0x8864), 0x8847), inner=pppoe), ("mpls", "pppoe 77")),
    "mpls-pseudowire-mpls": Wrapped(behind(ether(labels(100) + ether(labels(200, 300), 0x8847), 0x8847)), ("mpls", "mpls")),
    "mpls-pseudowire-snap": Wrapped(lambda p: ether(labels(100) + ether(snap(p), len(snap(p))), 0x8847), ("mpls",)),
    "mpls-in-ip": Wrapped(over_ip(137, labels(100)), ("mpls-in-ip", "mpls"), 24),
    "mpls-in-udp": Wrapped(over_udp(6635, labels(100), inner=bytes), ("mpls-in-udp", "mpls"), 32),
    "pppoe": Wrapped(behind(ether(b"", 0x8864), inner=pppoe), ("pppoe 77",)),
    "l2tp-2": Wrapped(over_udp(1701, struct.pack(">HHH", 2, 5, 6), inner=ppp), ("l2tp",), 38),
    "l2tp-2-answer": Wrapped(over_udp(50_000, struct.pack(">HHH", 2, 5, 6), inner=ppp, sport=1701), ("l2tp",), 38),
    "l2tp-2-everything": Wrapped(
        over_udp(1701, struct.pack(">HHHHHHH", 0x4A02, 60, 5, 6, 1, 2, 2) + bytes(2), inner=behind(b"\x00\x21")), ("l2tp",), 46
    ),
    "l2tp-3": Wrapped(over_ip(115, struct.pack(">I", 9), inner=framed), ("l2tp",), 38),
    "l2tp-3-cookie": Wrapped(over_ip(115, struct.pack(">IQI", 9, 0xF0F1F2F3F4F5F6F7, 1 << 30), inner=framed), ("l2tp",), 50),
    "l2tp-3-udp": Wrapped(over_udp(1701, struct.pack(">HHI", 3, 0, 9)), ("l2tp",), 50),
    "ah": Wrapped(over_ip(51, _AUTH), ("ipip",), 44),
    "pbb": Wrapped(mesh, ("pbb 9",)),
    "fabricpath": Wrapped(behind(ether(b"\x00\x40", 0x8903), inner=framed), ("fabricpath",)),
    "macsec-authenticated": Wrapped(macsec(), ("macsec",)),
    "qinq": Wrapped(lambda p: ether(*vlan(vlan(p, 20, kind=kind_of(p))[0], 10, tpid=0x88A8, kind=0x8100)), ("vlan 10", "vlan 20")),
    "three-tags": Wrapped(
        lambda p: ether(*vlan(vlan(vlan(p, 3, kind=kind_of(p))[0], 2, kind=0x8100)[0], 1, tpid=0x9100, kind=0x9200)),
        ("vlan 1", "vlan 2", "vlan 3"),
    ),
}
"""Tunnels on Ethernet: label path and bytes from the outermost IP header to the innermost one."""

_TIME_AND_FLAGS = bytes(8) + b"\x20"
_QOS = b"\x00\x00"

LINKS = {
    "sll": Wrapped(lambda p: struct.pack(">HHH8sH", 0, 1, 6, MAC_A, kind_of(p)) + p, link_type=113),
    "sll2": Wrapped(lambda p: struct.pack(">HHIHBB8s", kind_of(p), 0, 3, 1, 0, 6, MAC_A) + p, link_type=276),
    "sll-radiotap": Wrapped(behind(struct.pack(">HHH8sH", 0, 803, 0, b"", 4), inner=radiotap(0, b"", wlan())), link_type=113),
    "sll-frame-relay": Wrapped(behind(struct.pack(">HHH8sH", 0, 770, 0, b"", 4) + b"\x18\x41\x03\xcc"), link_type=113),
    "null": Wrapped(behind(struct.pack("<I", 2)), link_type=0),
    "loop": Wrapped(behind(struct.pack(">I", 2)), link_type=108),
    "mpls-link": Wrapped(behind(labels(100, 200)), ("mpls",), link_type=219),
    "raw": Wrapped(bytes, link_type=101),
    "ipv4": Wrapped(bytes, link_type=228),
    "slip": Wrapped(behind(b"\x01" + bytes(15)), link_type=8),
    "atm-clip": Wrapped(bytes, link_type=106),
    "ppp": Wrapped(ppp, link_type=9),
    "ppp-serial": Wrapped(ppp, link_type=50),
    "ppp-serial-cisco": Wrapped(behind(bytes.fromhex("8f000800")), link_type=50),
    "ppp-ethernet": Wrapped(pppoe, ("pppoe 77",), link_type=51),
    "ppp-direction": Wrapped(behind(b"\x01", inner=ppp), link_type=204),
    "pppd": Wrapped(behind(b"\x01\x03\x00\x21"), link_type=166),
    "chdlc": Wrapped(behind(bytes.fromhex("0f000800")), link_type=104),
    "chdlc-direction": Wrapped(behind(bytes.fromhex("010f000800")), link_type=205),
    "frame-relay": Wrapped(behind(b"\x18\x41\x03\xcc"), link_type=107),
    "frame-relay-long": Wrapped(behind(b"\x18\x40\x40\x41\x03\xcc"), link_type=107),
    "frame-relay-snap": Wrapped(behind(b"\x18\x41\x03\x00\x80\x00\x00\x00\x08\x00"), link_type=107),
    "frame-relay-bridged": Wrapped(behind(b"\x18\x41\x03\x00\x80\x00\x80\xc2\x00\x07", inner=framed), ("bridged",), link_type=107),
    "frame-relay-cisco": Wrapped(behind(b"\x18\x41\x08\x00"), link_type=107),
    "atm": Wrapped(snap, link_type=100),
    "atm-routed": Wrapped(behind(b"\xfe\xfe\x03\xcc"), link_type=100),
    "atm-bridged": Wrapped(behind(bytes.fromhex("aaaa030080c200070000"), inner=framed), ("bridged",), link_type=100),
    "atm-bare": Wrapped(bytes, link_type=100),
    "sun-atm": Wrapped(behind(b"\x82\x00\x00\x64", inner=snap), link_type=123),
    "sun-atm-lan": Wrapped(behind(b"\x01\x00\x00\x64\x00\x01", inner=framed), link_type=123),
    "ip-over-fc": Wrapped(behind(bytes(16), inner=snap), link_type=122),
    "fddi": Wrapped(behind(b"\x50" + MAC_B + MAC_A, inner=snap), link_type=10),
    "token-ring": Wrapped(behind(b"\x10\x40" + MAC_B + MAC_A, inner=snap), link_type=6),
    "token-ring-route": Wrapped(behind(b"\x10\x40" + MAC_B + b"\x82" + MAC_A[1:] + b"\x06\x30\x01\x11\x01\x20", inner=snap), link_type=6),
    "infiniband": Wrapped(lambda p: bytes(40) + struct.pack(">HH", kind_of(p), 0) + p, link_type=242),
    "wlan": Wrapped(wlan(), link_type=105),
    "wlan-qos": Wrapped(wlan(0x0188, _QOS), link_type=105),
    "wlan-four-addresses": Wrapped(wlan(0x0388, MAC_A + _QOS), link_type=105),
    "wlan-ht-control": Wrapped(wlan(0x8188, _QOS + bytes(4)), link_type=105),
    "wlan-aggregate": Wrapped(wlan(0x0188, b"\x80\x00", inner=aggregated), link_type=105),
    "radiotap": Wrapped(radiotap(0, b"", wlan()), link_type=127),
    "radiotap-padded": Wrapped(radiotap(3, _TIME_AND_FLAGS, wlan(0x0188, _QOS + bytes(2))), link_type=127),
    "radiotap-words": Wrapped(
        radiotap(0x80000003, bytes(4) + _TIME_AND_FLAGS, wlan(0x0188, _QOS + bytes(2)), more=struct.pack("<I", 0)), link_type=127
    ),
    "prism": Wrapped(behind(struct.pack("<II", 0x44, 144) + bytes(136), inner=wlan()), link_type=119),
    "avs": Wrapped(behind(struct.pack(">II", 0x80211001, 64) + bytes(56), inner=wlan()), link_type=163),
    "ppi": Wrapped(behind(struct.pack("<BBHI", 0, 0, 12, 105) + bytes(4), inner=wlan()), link_type=192),
    "pktap": Wrapped(behind(struct.pack("<III", 20, 1, 1) + bytes(8), inner=framed), link_type=258),
    "nflog": Wrapped(nflog, link_type=239),
    "nflog-big-endian": Wrapped(lambda packet: nflog(packet, ">"), link_type=239),
    "pflog": Wrapped(behind(b"\x3d\x02" + bytes(58) + b"\x02" + bytes(3)), link_type=117),
    "enc": Wrapped(behind(struct.pack("<III", 2, 9, 0)), link_type=109),
    "enc-big-endian": Wrapped(behind(struct.pack(">III", 2, 9, 0)), link_type=109),
    "ipnet": Wrapped(behind(b"\x01\x02" + bytes(22)), link_type=226),
    "netanalyzer": Wrapped(behind(bytes(4), inner=framed), link_type=240),
    "netanalyzer-transparent": Wrapped(behind(bytes(4) + b"\x55" * 7 + b"\xd5", inner=framed), link_type=241),
    "mpacket": Wrapped(behind(b"\x55" * 7 + b"\xd5", inner=framed), link_type=274),
    "switch-brcm": Wrapped(lambda p: MAC_B + MAC_A + bytes(4) + struct.pack(">H", kind_of(p)) + p, link_type=281),
    "switch-brcm-before": Wrapped(behind(bytes(4), inner=framed), link_type=282),
    "switch-dsa": Wrapped(lambda p: MAC_B + MAC_A + bytes(4) + struct.pack(">H", kind_of(p)) + p, link_type=284),
    "switch-edsa": Wrapped(lambda p: MAC_B + MAC_A + b"\xda\xda" + bytes(6) + struct.pack(">H", kind_of(p)) + p, link_type=285),
    "vn-tag": Wrapped(lambda p: ether(b"\x00\x01\x00\x02" + struct.pack(">H", kind_of(p)) + p, 0x8926)),
    "fabric-extender-tag": Wrapped(lambda p: ether(bytes(6) + struct.pack(">H", kind_of(p)) + p, 0x893F)),
    "redundancy-tag": Wrapped(lambda p: ether(b"\x00\x00\x00\x07" + struct.pack(">H", kind_of(p)) + p, 0xF1C1)),
    "ring-tag": Wrapped(lambda p: ether(struct.pack(">HHH", len(p) + 4, 7, kind_of(p)) + p, 0x892F)),
    "arista-time": Wrapped(lambda p: ether(b"\x00\x01\x00\x10" + bytes(8) + struct.pack(">H", kind_of(p)) + p, 0xD28B)),
    "arista-short-time": Wrapped(lambda p: ether(b"\x00\x01\x01\x21" + bytes(6) + struct.pack(">H", kind_of(p)) + p, 0xD28B)),
    "security-group-tag": Wrapped(lambda p: ether(b"\x01\x01\x00\x01\x00\x10" + struct.pack(">H", kind_of(p)) + p, 0x8909)),
}
"""Link layers that tcpdump and other tools write."""

V6_ONLY = {
    "6in4": Wrapped(over_ip(41), ("6in4",), 20),
    "6in6": Wrapped(over_ip6(41), ("6in6",), 40),
    "teredo": Wrapped(over_udp(3544, inner=bytes), ("teredo",), 28),
    "teredo-indications": Wrapped(over_udp(3544, b"\x00\x01\x02\x04" + bytes(15) + bytes(8), inner=bytes), ("teredo",), 55),
    "gre": Wrapped(gre(0x86DD), ("gre",), 24),
    "vxlan-over-ipv6": Wrapped(
        lambda p: ether(ipv6(udp(vxlan(framed(p)), dport=4789), 17), 0x86DD), ("vxlan 42",), 70
    ),
}  # fmt: skip
"""Tunnels around IPv6."""
