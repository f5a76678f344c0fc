"""Tunnels: the row is the innermost packet, the path says what is around it."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.losses import Loss
from pcapdiag.packets import UDP, Tunnel
from tests.frame_bytes import A, B, batch, decode, decode_one, ether, ipv4, ipv6, payload, tcp, udp, vlan, vxlan

INNER4 = ipv4(tcp(b"hello"), src="172.16.0.1", dst="172.16.0.2", ttl=9)
INNER6 = ipv6(tcp(b"hello"))
TEB = ether(INNER4)
ERSPAN_2, ERSPAN_3 = b"\x10\x05\x00\x01" + bytes(4), b"\x20" + bytes(9) + b"\x1c\x00"
"""The second carries no frame that is known."""


def outer(content: bytes, port: int = 4789) -> bytes:
    return ether(ipv4(udp(content, dport=port), UDP))


def gre(content: bytes, kind: int, *, optional: bytes = b"", flags: int = 0) -> bytes:
    return ether(ipv4(struct.pack(">HH", flags, kind) + optional + content, 47))


def geneve(content: bytes, kind: int = 0x6558, options: bytes = b"") -> bytes:
    return struct.pack(">BBHI", len(options) // 4, 0, kind, 7 << 8) + options + content


def gtp(content: bytes, flags: int = 0x30, optional: bytes = b"") -> bytes:
    return struct.pack(">BBHI", flags, 0xFF, len(content) + len(optional), 99) + optional + content


def mpls(content: bytes, *labels: int) -> bytes:
    return b"".join(struct.pack(">I", label << 12 | (i == len(labels) - 1) << 8 | 64) for i, label in enumerate(labels)) + content


@pytest.mark.parametrize(
    ("frame", "path", "overhead_len"),
    [
        pytest.param(ether(*vlan(ipv4(udp(vxlan(TEB), dport=4789), UDP), 3)), ("vlan 3", "vxlan 42"), 50, id="vxlan-in-vlan"),
        pytest.param(outer(vxlan(ether(*vlan(INNER4, 3)))), ("vxlan 42", "vlan 3"), 54, id="vlan-in-vxlan"),
        pytest.param(outer(vxlan(outer(vxlan(TEB, 2)), 1)), ("vxlan 1", "vxlan 2"), 100, id="vxlan-in-vxlan"),
        pytest.param(ether(ipv6(INNER4, 4), 0x86DD), ("4in6",), 40, id="4in6"),
        pytest.param(gre(bytes(8) + TEB, 0x88BE, flags=0x1000, optional=bytes(4)), ("gre", "erspan"), 50, id="erspan-2"),
        pytest.param(ether(mpls(bytes(4) + TEB, 100), 0x8847), ("mpls",), 0, id="mpls-pseudowire"),
    ],
)
def test_the_row_is_the_inner_packet(frame: bytes, path: tuple[str, ...], overhead_len: int) -> None:
    packets = decode_one(frame)
    assert packets.tunnels[packets.tunnel[0]] == Tunnel(path, overhead_len)
    assert packets.addresses.packed == (bytes([172, 16, 0, 1]), bytes([172, 16, 0, 2]))
    assert (packets.ttl[0], packets.dport[0], packets.ip_len[0]) == (9, 443, 45)
    assert payload(packets) == b"hello"


@pytest.mark.parametrize("frame", [ether(ipv4(INNER6, 41)), gre(INNER6, 0x86DD), outer(vxlan(ether(INNER6, 0x86DD)))])
def test_ipv6_inside(frame: bytes) -> None:
    packets = decode_one(frame)
    assert packets.ip_version[0] == 6
    assert payload(packets) == b"hello"


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(outer(vxlan(TEB, flags=0x00)), id="vxlan-invalid-flag"),
        pytest.param(outer(b"\x08\0\0"), id="vxlan-short"),
        pytest.param(outer(vxlan(b"")), id="vxlan-empty"),
        pytest.param(outer(vxlan(ether(b"\x95" + INNER4[1:]))), id="vxlan-without-ip"),
        pytest.param(outer(vxlan(TEB[:6] + b"\xff" + TEB[7:])), id="vxlan-from-a-group-address"),
        pytest.param(outer(vxlan(ether(bytes(40), 0x1234))), id="vxlan-unknown-type"),
        pytest.param(outer(vxlan(TEB, flags=0x0C)[:3] + b"\xff" + vxlan(ether(bytes(40), 0x88F7))[4:]), id="vxlan-reserved-bits-no-ip"),
        pytest.param(outer(vxlan(ether(bytes(28), 0x88F7)), 4788), id="vxlan-of-another-port-without-ip"),
        pytest.param(outer(vxlan(ether(ipv4(bytes(20), total_len=99))), 4788), id="vxlan-of-another-port-too-long-inside"),
        pytest.param(outer(vxlan(TEB)[:7] + b"\x01" + TEB, 4788), id="vxlan-of-another-port-with-reserved-bits"),
        pytest.param(outer(bytes(60), 4789), id="zeros-to-the-port"),
        pytest.param(outer(b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n", 4789), id="text-to-the-port"),
        pytest.param(outer(geneve(TEB)[:1] + b"\x3f" + geneve(TEB)[2:], 6081), id="geneve-reserved-bits"),
        pytest.param(outer(b"\x45" + bytes(60), 6080), id="gue-of-no-ip"),
        pytest.param(outer(struct.pack(">HHH", 2, 5, 6) + b"\x12\x34" + INNER4, 1701), id="l2tp-without-ppp"),
        pytest.param(outer(struct.pack(">HHHHHH", 0xC802, 12, 5, 6, 0, 0), 1701), id="l2tp-control"),
        pytest.param(ether(ipv4(struct.pack(">I", 0) + bytes(20), 115)), id="l2tp-3-control"),
        pytest.param(ether(ipv4(struct.pack(">I", 7) + bytes(60), 115)), id="l2tp-3-of-nothing"),
        pytest.param(outer(b"\x80" + bytes(7) + b"\x45" + bytes(30), 4341), id="lisp-of-nothing"),
        pytest.param(outer(bytes(8) + b"i1:a\x00\x01e" + bytes(range(60, 102)), 4341), id="lisp-of-no-known-protocol"),
        pytest.param(outer(b"\x00" * 8 + b"\x60" + bytes(12), 3544), id="teredo-of-nothing"),
        pytest.param(outer(b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n", 6635), id="mpls-in-udp-text"),
        pytest.param(outer(bytes(60), 6635), id="mpls-in-udp-without-end"),
        pytest.param(outer(mpls(b"\x99" * 40, 100), 6635), id="mpls-in-udp-of-nothing"),
        pytest.param(outer(mpls(b"\x45" * 40, 100), 6635), id="mpls-in-udp-too-long-inside"),
        pytest.param(outer(mpls(b"\x99" * 40, 100), 4754), id="gre-over-udp-of-nothing"),
        pytest.param(gre(b"\xff\x03\x12\x34" + INNER4, 0x880B, flags=0x3001, optional=bytes(8)), id="pptp-of-nothing"),
        pytest.param(gre(b"\x80" + bytes(60), 0x8200), id="access-point-beacon"),
        pytest.param(outer(geneve(TEB, 0x1234), 6081), id="geneve-other-protocol"),
        pytest.param(outer(struct.pack(">BBHI", 0x32, 1, 4, 0) + bytes(4), 2152), id="gtp-echo"),
        pytest.param(outer(gtp(b"\x99" * 40), 2152), id="gtp-without-ip"),
        pytest.param(gre(bytes(40), 0x880B, flags=0x3001, optional=bytes(8)), id="pptp"),
        pytest.param(gre(b"", 0x0000), id="gre-keepalive"),
        pytest.param(ether(ipv4(b"", 4)), id="ipip-empty"),
        pytest.param(ether(ipv4(INNER6, 4)), id="ipip-of-another-version"),
    ],
)
def test_what_is_no_tunnel_stays_the_outer_packet(frame: bytes) -> None:
    packets = decode_one(frame)
    assert packets.tunnel[0] == 0
    assert packets.addresses.text(packets.src[0]) == A
    assert packets.addresses.text(packets.dst[0]) == B


@pytest.mark.parametrize(
    ("frame", "loss"),
    [
        pytest.param(outer(vxlan(ether(bytes(28), 0x0806))), Loss.ARP, id="arp-in-vxlan"),
        pytest.param(gre(bytes.fromhex("0180c2000000 020000000001 0026 424203") + bytes(35), 0x6558), Loss.STP, id="stp-in-gre"),
        pytest.param(
            gre(b"\x10\x05\x00\x01" + bytes(4) + ether(bytes(28), 0x0806), 0x88BE, flags=0x1000, optional=bytes(4)),
            Loss.ARP,
            id="arp-in-erspan",
        ),
        pytest.param(
            gre(b"\x20" + bytes(9) + b"\x1c\x00" + TEB, 0x22EB, flags=0x1000, optional=bytes(4)), Loss.LINK_NO_IP, id="erspan-of-no-frame"
        ),
        pytest.param(gre(b"\xff\x03\xc0\x21" + bytes(8), 0x880B, flags=0x3001, optional=bytes(8)), Loss.LINK_NO_IP, id="lcp-in-pptp"),
        pytest.param(gre(b"\xff\x03\x00\xfd" + bytes(80), 0x880B, flags=0x3001, optional=bytes(8)), Loss.PPP_HIDDEN, id="mppe-in-pptp"),
        pytest.param(gre(b"\x08\x41" + bytes(60), 0x8200), Loss.WLAN_ENCRYPTED, id="encrypted-access-point"),
        pytest.param(ether(mpls(b"\x99" * 40, 100), 0x8847), Loss.ETHERTYPE, id="unknown-in-mpls"),
        pytest.param(ether(mpls(b"", 100), 0x8847), Loss.TRUNCATED_LINK, id="nothing-in-mpls"),
    ],
)
def test_a_tunnel_without_ip_is_counted_by_what_is_inside(frame: bytes, loss: Loss) -> None:
    packets, losses = decode(batch([frame]))
    assert len(packets) == 0
    assert losses.of(0) == {loss: 1}


def test_a_first_fragment_shows_the_tunnel_of_its_datagram() -> None:
    """The outer packet was cut up: its row is the inner packet, what was cut up stays known."""
    whole = udp(vxlan(ether(ipv4(tcp(bytes(1_448)), src="172.16.0.1", dst="172.16.0.2"))), dport=4789)
    pieces = [ether(ipv4(whole[a:b], UDP, offset=a, mf=b < len(whole), df=False)) for a, b in ((0, 1_480), (1_480, len(whole)))]
    packets, _ = decode(batch(pieces))
    assert packets.tunnels[packets.tunnel[0]] == Tunnel(("vxlan 42",), 50)
    assert (packets.payload_len[0], packets.ip_len[0]) == (1_448, 1_488)
    groups = packets.fragments
    assert (packets.addresses.text(int(groups.src[0])), groups.header_row[0], groups.complete[0]) == (A, 0, True)


def test_a_tunnel_header_cut_by_the_snaplen() -> None:
    frames = [outer(vxlan(TEB)), gre(INNER4, 0x0800), outer(geneve(TEB), 6081), outer(gtp(INNER4), 2152)]
    cut = [frame[:size] for frame, size in zip(frames, (49, 37, 49, 49), strict=True)]
    packets, losses = decode(batch(cut, lengths=[len(f) for f in frames]))
    assert len(packets) == 0
    assert losses.of(0) == {Loss.TRUNCATED_TUNNEL: 4}


def test_a_padded_inner_frame_does_not_change_the_overhead() -> None:
    packets = decode_one(outer(vxlan(TEB + bytes(10))))
    assert packets.tunnels[packets.tunnel[0]].overhead_len == 50
    assert payload(packets) == b"hello"


def test_outer_segmentation_offload_reaches_the_inner_packet() -> None:
    inner = ether(ipv4(tcp(bytes(3000)), total_len=0))
    packets = decode_one(ether(ipv4(udp(vxlan(inner), dport=4789, length=0), UDP, total_len=0)))
    assert (packets.payload_len[0], packets.ip_len_zero[0]) == (3000, True)


def test_tunnels_are_numbered_by_first_appearance_and_rows_keep_their_order() -> None:
    frames = [outer(vxlan(TEB, 9)), ether(INNER4), outer(vxlan(TEB, 3)), ether(ipv4(INNER4, 4)), outer(vxlan(TEB, 9))]
    whole, _ = decode(batch(frames))
    parts, _ = decode(*(batch([frame], first=n) for n, frame in enumerate(frames, 1)))
    for packets in (whole, parts):
        assert packets.frame.tolist() == [1, 2, 3, 4, 5]
        assert packets.tunnel.tolist() == [1, 0, 2, 3, 1]
        assert [t.path for t in packets.tunnels] == [(), ("vxlan 9",), ("vxlan 3",), ("ipip",)]


def test_more_paths_than_a_column_can_number_share_the_last_one() -> None:
    frames = [ether(*vlan(vlan(INNER4, inner)[0], outer_id, kind=0x8100)) for outer_id in range(1, 18) for inner in range(1, 4095)]
    packets, _ = decode(batch(frames))
    assert len(packets.tunnels) == 65_536
    assert packets.tunnels[65_534].path == ("vlan 17", "vlan 30")
    assert packets.tunnels[-1] == Tunnel(("other",), 0)
    assert set(packets.tunnel[65_534:].tolist()) == {65_535}
