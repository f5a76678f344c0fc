"""Every link layer leads to the same packet, or says why not."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.losses import Loss
from pcapdiag.packets import Packets
from tests.frame_bytes import A6, B6, MAC_A, MAC_B, A, B, batch, decode, decode_one, ether, ipv4, ipv6, payload, tcp, vlan
from tests.wrapped import LINKS

IP4, IP6 = ipv4(tcp(b"hello")), ipv6(tcp(b"hello"))


def sll(data: bytes, *, packet_type: int = 0, protocol: int = 0x0800, hardware: int = 1, address: bytes = MAC_A) -> bytes:
    return struct.pack(">HHH8sH", packet_type, hardware, len(address), address, protocol) + data


def sll2(data: bytes, *, packet_type: int = 0, protocol: int = 0x0800, interface: int = 3) -> bytes:
    return struct.pack(">HHIHBB8s", protocol, 0, interface, 1, packet_type, 6, MAC_A) + data


FRAMES = [
    pytest.param(1, ether(IP4), 4, id="ethernet"),
    pytest.param(1, ether(IP6, 0x86DD), 6, id="ethernet-ipv6"),
    pytest.param(1, ether(bytes.fromhex("aaaa03000000") + b"\x08\x00" + IP4, len(IP4) + 8), 4, id="snap"),
    pytest.param(1, ether(bytes.fromhex("060603") + IP4, len(IP4) + 3), 4, id="llc-ip"),
    pytest.param(113, sll(IP4), 4, id="sll"),
    pytest.param(113, sll(IP6, protocol=0x86DD), 6, id="sll-ipv6"),
    pytest.param(276, sll2(IP4), 4, id="sll2"),
    pytest.param(276, sll2(IP6, protocol=0x86DD), 6, id="sll2-ipv6"),
    pytest.param(0, struct.pack("<I", 2) + IP4, 4, id="null-little"),
    pytest.param(0, struct.pack(">I", 2) + IP4, 4, id="null-big"),
    pytest.param(108, struct.pack(">I", 2) + IP4, 4, id="loop"),
    *(pytest.param(0, struct.pack("<I", af) + IP6, 6, id=f"null-ipv6-{af}") for af in (10, 24, 28, 30)),
    *(pytest.param(108, struct.pack(">I", af) + IP6, 6, id=f"loop-ipv6-{af}") for af in (10, 24, 28, 30)),
    *(pytest.param(raw, IP4, 4, id=f"raw-{raw}") for raw in (101, 12, 14, 228)),
    *(pytest.param(raw, IP6, 6, id=f"raw-{raw}-ipv6") for raw in (101, 12, 14, 229)),
    pytest.param(9, bytes.fromhex("ff030021") + IP4, 4, id="ppp-framed"),
    pytest.param(9, bytes.fromhex("0021") + IP4, 4, id="ppp"),
    pytest.param(9, bytes.fromhex("57") + IP6, 6, id="ppp-compressed-protocol"),
    pytest.param(104, bytes.fromhex("0f000800") + IP4, 4, id="cisco-hdlc"),
]


@pytest.mark.parametrize(("link_type", "frame", "version"), FRAMES)
def test_a_packet_is_the_same_behind_every_link_layer(link_type: int, frame: bytes, version: int) -> None:
    packets = decode_one(frame, link_type=link_type)
    assert packets.ip_version[0] == version
    assert packets.addresses.endpoint(packets.src[0], int(packets.sport[0])) == (f"{A}:40000" if version == 4 else f"[{A6}]:40000")
    assert packets.addresses.text(packets.dst[0]) == (B if version == 4 else B6)
    assert payload(packets) == b"hello"


@pytest.mark.parametrize(("link_type", "frame", "version"), FRAMES)
def test_a_cut_link_header_is_counted(link_type: int, frame: bytes, version: int) -> None:
    header_len = len(frame) - len(IP4 if version == 4 else IP6)
    for size in range(1, header_len):
        packets, losses = decode(batch([frame[:size]], link_type=link_type, lengths=[len(frame)]))
        assert len(packets) == 0
        assert losses.total(Loss.TRUNCATED_LINK) == 1


@pytest.mark.parametrize(
    ("link_type", "frame", "loss"),
    [
        pytest.param(1, b"", Loss.EMPTY_FRAME, id="empty"),
        pytest.param(1, ether(bytes(28), 0x0806), Loss.ARP, id="arp"),
        pytest.param(1, ether(bytes(28), 0x8035), Loss.ARP, id="rarp"),
        pytest.param(1, ether(bytes(28), 0x88CC), Loss.LLDP, id="lldp"),
        pytest.param(1, ether(bytes.fromhex("424203") + bytes(35), 38), Loss.STP, id="stp"),
        pytest.param(1, ether(bytes.fromhex("aaaa0300000c010b") + bytes(35), 43), Loss.STP, id="pvst"),
        pytest.param(1, ether(bytes.fromhex("aaaa0300000c2000") + bytes(35), 43), Loss.LLC, id="cdp"),
        pytest.param(1, ether(bytes.fromhex("aaaa03000000") + b"\x08\x06" + bytes(28), 36), Loss.ARP, id="snap-arp"),
        pytest.param(1, ether(bytes.fromhex("f0f003") + bytes(35), 38), Loss.LLC, id="netbeui"),
        pytest.param(1, ether(b"\x2c" + bytes(60), 0x88E5), Loss.MACSEC, id="macsec"),
        pytest.param(1, ether(b"\x04" + bytes(60), 0x88E5), Loss.MACSEC, id="macsec-changed"),
        pytest.param(1, ether(bytes(28), 0x1234), Loss.ETHERTYPE, id="unknown-type"),
        pytest.param(1, ether(bytes(28), 0x05DD), Loss.ETHERTYPE, id="neither-length-nor-type"),
        pytest.param(1, ether(*vlan(bytes(28), 5, kind=0x0806)), Loss.ARP, id="vlan-arp"),
        pytest.param(113, sll(bytes(28), protocol=0x0806), Loss.ARP, id="sll-arp"),
        pytest.param(113, sll(bytes(16), hardware=824, protocol=0), Loss.LINK_NO_IP, id="netlink"),
        pytest.param(113, sll(bytes.fromhex("424203") + bytes(35), protocol=4), Loss.STP, id="sll-stp"),
        pytest.param(0, struct.pack("<I", 7) + bytes(40), Loss.LINK_NO_IP, id="null-other-family"),
        pytest.param(9, bytes.fromhex("ff03c021") + bytes(8), Loss.LINK_NO_IP, id="lcp"),
        pytest.param(9, bytes.fromhex("ff0300fd") + bytes(8), Loss.PPP_HIDDEN, id="compressed-ppp"),
        pytest.param(105, b"\x80\x00" + bytes(60), Loss.WLAN_NO_DATA, id="beacon"),
        pytest.param(105, b"\xd4\x00" + bytes(8), Loss.WLAN_NO_DATA, id="acknowledgment"),
        pytest.param(105, b"\x48\x01" + bytes(22), Loss.WLAN_NO_DATA, id="null-data"),
        pytest.param(105, b"\x88\x41" + bytes(60), Loss.WLAN_ENCRYPTED, id="encrypted-wlan"),
        pytest.param(105, b"\x08\x01" + bytes(20) + b"\x11\x00" + bytes(40), Loss.WLAN_FRAGMENT, id="later-wlan-fragment"),
        pytest.param(127, b"\x01\x00\x08\x00" + bytes(60), Loss.LINK_NO_IP, id="radiotap-version-1"),
        pytest.param(127, b"\x00\x00\x04\x00" + bytes(60), Loss.LINK_NO_IP, id="radiotap-shorter-than-itself"),
        pytest.param(192, struct.pack("<BBHI", 0, 0, 8, 192) + bytes(60), Loss.LINK_TYPE, id="ppi-in-ppi"),
        pytest.param(239, b"\x02\x00\x00\x05" + b"\x05\x00\x0a\x00x" + bytes(3), Loss.LINK_NO_IP, id="nflog-without-packet"),
        pytest.param(239, b"\x02\x00\x00\x05" + b"\x00\x00\x0a\x00x" + bytes(3), Loss.LINK_NO_IP, id="nflog-that-stands-still"),
        pytest.param(107, b"\x18\x41\x03\xb1" + bytes(40), Loss.LINK_NO_IP, id="fragmented-frame-relay"),
        pytest.param(123, b"\x06\x00\x00\x05" + bytes(40), Loss.LINK_NO_IP, id="atm-signalling"),
        pytest.param(10, b"\x41" + bytes(40), Loss.LINK_NO_IP, id="fddi-management"),
        pytest.param(6, b"\x10\x00" + bytes(40), Loss.LINK_NO_IP, id="token-ring-management"),
        pytest.param(147, bytes(40), Loss.LINK_TYPE, id="user-0"),
        pytest.param(101, b"\x55" + bytes(40), Loss.MALFORMED_IP, id="raw-version-5"),
    ],
)
def test_a_frame_without_ip_is_counted_by_name(link_type: int, frame: bytes, loss: Loss) -> None:
    packets, losses = decode(batch([frame], link_type=link_type, capture=2))
    assert len(packets) == 0
    assert losses.of(2) == {loss: 1}


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8, 0x9100])
def test_vlan_tags_are_a_path_without_overhead(tpid: int) -> None:
    packets = decode_one(ether(*vlan(IP4, 0x6000 | 10, tpid=tpid)))
    assert packets.tunnels[packets.tunnel[0]].path == ("vlan 10",)
    assert packets.tunnels[packets.tunnel[0]].overhead_len == 0
    assert payload(packets) == b"hello"


def test_stacked_tags_are_read_from_the_outside() -> None:
    inner, kind = vlan(IP6, 20, kind=0x86DD)
    packets = decode_one(ether(*vlan(inner, 10, tpid=0x88A8, kind=kind)))
    assert packets.tunnels[packets.tunnel[0]].path == ("vlan 10", "vlan 20")
    assert packets.ip_version[0] == 6


def test_a_priority_tag_is_no_path() -> None:
    packets = decode_one(ether(*vlan(IP4, 0xE000)))
    assert packets.tunnel[0] == 0
    assert packets.tunnels[0].path == ()
    assert payload(packets) == b"hello"


def test_tagged_and_bare_frames_keep_their_order() -> None:
    frames = [ether(ipv4(tcp(seq=i))) if i % 3 else ether(*vlan(ipv4(tcp(seq=i)), 10 + i)) for i in range(9)]
    packets, _ = decode(batch(frames))
    assert packets.seq.tolist() == list(range(9))
    assert [packets.tunnels[t].path for t in packets.tunnel[:4].tolist()] == [("vlan 10",), (), (), ("vlan 13",)]


@pytest.mark.parametrize(("packet_type", "direction"), [(0, 0), (1, 0), (2, 0), (3, -1), (4, 1), (5, -1), (6, -1)])
def test_cooked_packet_types_tell_the_direction(packet_type: int, direction: int) -> None:
    assert decode_one(sll(IP4, packet_type=packet_type), link_type=113).direction[0] == direction
    assert decode_one(sll2(IP4, packet_type=packet_type), link_type=276).direction[0] == direction


@pytest.mark.parametrize(("flags", "direction"), [(0, -1), (1, 0), (2, 1), (3, -1), (0x1D, 0)])
def test_pcapng_flags_tell_the_direction(flags: int, direction: int) -> None:
    assert decode_one(ether(IP4), flags=flags).direction[0] == direction


def _link_hashes(packets: Packets) -> tuple[int, int]:
    return int(packets.link_hash[0]), int(packets.src_link_hash[0])


def test_link_hashes_tell_the_same_packet_on_two_links_apart() -> None:
    here = _link_hashes(decode_one(ether(IP4)))
    assert here == _link_hashes(decode_one(ether(IP6, 0x86DD)))
    other_dst = _link_hashes(decode_one(ether(IP4, dst=b"\x02\0\0\0\0\x09")))
    other_src = _link_hashes(decode_one(ether(IP4, src=b"\x02\0\0\0\0\x09")))
    tagged = _link_hashes(decode_one(ether(*vlan(IP4, 10))))
    assert len({here[0], other_dst[0], other_src[0], tagged[0]}) == 4
    assert here[1] == other_dst[1] == tagged[1] != other_src[1]
    assert _link_hashes(decode_one(IP4, link_type=101)) == (0, 0)


def test_sll2_hash_knows_the_interface_and_sll_only_its_address_bytes() -> None:
    one, two = decode_one(sll2(IP4, interface=3), link_type=276), decode_one(sll2(IP4, interface=4), link_type=276)
    assert one.link_hash[0] != two.link_hash[0]
    assert one.src_link_hash[0] == two.src_link_hash[0] != 0
    padded = struct.pack(">HHH8sH", 0, 1, 6, MAC_A + b"\x99\x99", 0x0800) + IP4
    assert decode_one(padded, link_type=113).link_hash[0] == decode_one(sll(IP4), link_type=113).link_hash[0]
    assert _link_hashes(decode_one(sll(IP4, address=b""), link_type=113)) == (0, 0)


def test_link_types_may_be_mixed() -> None:
    frames = [ether(IP4), sll(IP6, protocol=0x86DD), ether(IP6, 0x86DD), IP4, bytes(30)]
    packets, losses = decode(batch(frames, link_type=[1, 113, 1, 101, 200]))
    assert packets.frame.tolist() == [1, 2, 3, 4]
    assert packets.ip_version.tolist() == [4, 6, 6, 4]
    assert losses.of(0) == {Loss.LINK_TYPE: 1}


def test_pppoe_sessions() -> None:
    def session(code: int) -> bytes:
        return ether(struct.pack(">BBHH", 0x11, code, 0x1234, len(IP4) + 2) + b"\x00\x21" + IP4, 0x8864, dst=MAC_B)

    packets = decode_one(session(0))
    assert packets.tunnels[packets.tunnel[0]].path == ("pppoe 4660",)
    assert payload(packets) == b"hello"
    _, losses = decode(batch([session(0xA7)]))
    assert losses.of(0) == {Loss.LINK_NO_IP: 1}


def test_of_an_aggregate_the_first_packet_is_read_and_the_rest_told() -> None:
    way = LINKS["wlan-aggregate"]
    packets, losses = decode(batch([way.wrap(IP4)], link_type=way.link_type))
    assert payload(packets) == b"hello"
    assert losses.of(0) == {Loss.WLAN_AGGREGATED: 1}


@pytest.mark.parametrize("name", ["wlan", "radiotap", "prism", "wlan-aggregate"])
def test_wlan_hashes_tell_the_two_legs_through_an_access_point_apart(name: str) -> None:
    way = LINKS[name]
    frame = way.wrap(IP4)
    at = frame.index(MAC_B + MAC_A)
    other = frame[:at] + MAC_A + MAC_B + frame[at + 12 :]
    here, there = _link_hashes(decode_one(frame, link_type=way.link_type)), _link_hashes(decode_one(other, link_type=way.link_type))
    assert 0 not in here + there
    assert here[0] != there[0]


@pytest.mark.parametrize(
    ("name", "direction"), [("ppp-direction", 1), ("chdlc-direction", 1), ("pppd", 1), ("sun-atm", 1), ("sun-atm-lan", 0), ("pflog", 1)]
)
def test_link_headers_that_tell_the_direction(name: str, direction: int) -> None:
    assert decode_one(LINKS[name].wrap(IP4), link_type=LINKS[name].link_type).direction[0] == direction
