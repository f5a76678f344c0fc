"""Whatever is around a packet: the packet is found, what was around it is known, and no cut or damage breaks anything."""

from __future__ import annotations

import struct
from itertools import pairwise, product
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.losses import FRAME_LOSSES, Loss
from pcapdiag.packets import Packets, Tunnel
from pcapdiag.packets.cursor import MAX_DEPTH
from pcapdiag.packets.link import LINK_TYPES
from pcapdiag.pipeline import load
from tests.frame_bytes import batch, decode, decode_one, ether, ipv4, ipv6, payload, tcp, udp, vlan, vxlan
from tests.wire import Wire
from tests.wrapped import LINKS, TUNNELS, V6_ONLY, Wrapped, framed

INNER4: Final = ipv4(tcp(b"hello"), src="172.16.0.1", dst="172.16.0.2", ttl=9)
INNER6: Final = ipv6(tcp(b"hello"), src="fd00::1", dst="fd00::2", hops=9)
ALL: Final = {**TUNNELS, **LINKS}


@pytest.mark.parametrize("way", ALL.values(), ids=ALL)
def test_the_row_is_the_inner_packet(way: Wrapped) -> None:
    packets = decode_one(way.wrap(INNER4), link_type=way.link_type)
    assert packets.tunnels[packets.tunnel[0]] == Tunnel(way.path, way.overhead_len)
    assert packets.addresses.packed == (bytes([172, 16, 0, 1]), bytes([172, 16, 0, 2]))
    assert (packets.ttl[0], packets.sport[0], packets.dport[0], packets.ip_len[0]) == (9, 40000, 443, 45)
    assert payload(packets) == b"hello"


@pytest.mark.parametrize("way", V6_ONLY.values(), ids=V6_ONLY)
def test_the_row_is_the_inner_ipv6_packet(way: Wrapped) -> None:
    packets = decode_one(way.wrap(INNER6), link_type=way.link_type)
    assert packets.tunnels[packets.tunnel[0]] == Tunnel(way.path, way.overhead_len)
    assert (packets.ip_version[0], packets.ttl[0], packets.ip_len[0]) == (6, 9, 65)
    assert payload(packets) == b"hello"


@pytest.mark.parametrize("way", ALL.values(), ids=ALL)
def test_a_conversation_is_one_flow_with_its_bytes(way: Wrapped, tmp_path: Path) -> None:
    frames = Wire("172.16.0.1", "172.16.0.2").handshake().http_get("/tools", body=b"forty-two").close().frames()
    path = tmp_path / "wrapped.pcap"
    records = [(ts_ns, way.wrap(frame[14:])) for ts_ns, frame in frames]
    header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, way.link_type)
    path.write_bytes(header + b"".join(struct.pack("<IIII", *divmod(ts_ns, 10**9), len(data), len(data)) + data for ts_ns, data in records))
    trace = load(str(path))
    assert (trace.client(0), trace.server(0), len(trace.flows)) == ("172.16.0.1:50000", "172.16.0.2:80", 1)
    assert trace.flows.tunnel_overhead_len[0] == way.overhead_len
    assert [(exchange.name, exchange.status) for exchange in trace.exchanges if not exchange.is_setup] == [("GET /tools", "200")]
    assert sum(trace.losses.total(loss) for loss in FRAME_LOSSES) == 0


@pytest.mark.parametrize("way", {**ALL, **V6_ONLY}.values(), ids=list(range(len({**ALL, **V6_ONLY}))))
def test_a_cut_at_any_byte_is_a_row_or_a_loss(way: Wrapped) -> None:
    frame = way.wrap(INNER6 if way in V6_ONLY.values() else INNER4)
    for sizes in ([len(frame)] * (len(frame) + 1), list(range(len(frame) + 1))):  # the wire had more; or it had not
        packets, _ = decode(batch([frame[:n] for n in range(len(frame) + 1)], lengths=sizes, link_type=way.link_type))
        rows_are_sound(packets)
        assert packets.frame[-1] == len(frame) + 1


def rows_are_sound(packets: Packets) -> None:
    assert (packets.payload_captured <= packets.payload_len).all()
    assert (packets.payload_captured >= 0).all()
    assert (np.diff(packets.frame) > 0).all()
    for row in range(len(packets)):
        assert len(payload(packets, row)) == packets.payload_captured[row]
    assert min((tunnel.overhead_len for tunnel in packets.tunnels), default=0) >= 0


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damage_is_rows_or_losses(data: st.DataObject) -> None:
    """Frames of all kinds in one batch, bytes changed, ends cut off."""
    names = data.draw(st.lists(st.sampled_from(sorted(ALL)), min_size=1, max_size=12))
    frames = []
    for name in names:
        frame = bytearray(ALL[name].wrap(INNER4))
        for at in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=5)):
            frame[at] = data.draw(st.integers(0, 255))
        frames.append(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    missing = data.draw(st.integers(0, 100))
    packets, _ = decode(
        batch(frames, link_type=[ALL[name].link_type for name in names], lengths=[len(frame) + missing for frame in frames])
    )
    rows_are_sound(packets)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(LINK_TYPES)), st.lists(st.binary(max_size=90), min_size=1, max_size=8), st.integers(0, 100))
def test_random_bytes_of_any_link_type(link_type: int, frames: list[bytes], missing: int) -> None:
    packets, _ = decode(batch(frames, link_type=link_type, lengths=[len(frame) + missing for frame in frames]))
    rows_are_sound(packets)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    everything = list(ALL.values())
    among, _ = decode(batch([way.wrap(INNER4) for way in everything], link_type=[way.link_type for way in everything]))
    assert len(among) == len(everything)
    assert [among.tunnels[number] for number in among.tunnel.tolist()] == [Tunnel(way.path, way.overhead_len) for way in everything]
    assert {payload(among, row) for row in range(len(among))} == {b"hello"}


NESTING: Final = ("vxlan", "geneve-options", "gre", "gre-ethernet", "erspan-2", "ipip", "gtp-u", "l2tp-2", "l2tp-3", "mpls-in-udp")


@pytest.mark.parametrize(("outer", "inner"), list(product(NESTING, repeat=2)))
def test_any_tunnel_may_lie_in_any_other(outer: str, inner: str) -> None:
    packets = decode_one(TUNNELS[outer].wrap(TUNNELS[inner].wrap(INNER4)[14:]))
    ways = TUNNELS[outer], TUNNELS[inner]
    assert packets.tunnels[packets.tunnel[0]] == Tunnel(ways[0].path + ways[1].path, ways[0].overhead_len + ways[1].overhead_len)
    assert payload(packets) == b"hello"


def test_tunnels_beyond_the_deepest_stay_closed() -> None:
    frame = framed(INNER4)
    for vni in range(MAX_DEPTH + 2):
        frame = ether(ipv4(udp(vxlan(frame, vni), dport=4789), 17))
    packets = decode_one(frame)
    assert packets.tunnels[packets.tunnel[0]].path == tuple(f"vxlan {vni}" for vni in range(MAX_DEPTH + 1, 1, -1))
    assert packets.dport[0] == 4789


@pytest.mark.parametrize("header", [b"\x80\x00\x00\x09", b""], ids=["pbb", "fabricpath"])
def test_frames_in_frames_end_somewhere(header: bytes) -> None:
    kind, header = (0x88E7, header) if header else (0x8903, b"\x00\x40")
    frame = framed(INNER4)
    for _ in range(MAX_DEPTH):
        frame = ether(header + frame, kind)
    assert len(decode_one(frame)) == 1
    _, losses = decode(batch([ether(header + frame, kind)]))
    assert losses.of(0) == {Loss.TOO_DEEP: 1}


def test_a_frame_of_nothing_but_tags_ends() -> None:
    frame = framed(INNER4)
    for _ in range(200):
        frame = ether(*vlan(frame[14:], 5, kind=int.from_bytes(frame[12:14])))
    _, losses = decode(batch([frame]))
    assert losses.of(0) == {Loss.ETHERTYPE: 1}


def test_paths_are_the_same_in_both_directions() -> None:
    """What differs by direction (endpoints of GTP-U, sessions of L2TP and ERSPAN, labels) is no part of a path."""
    for name, way in ALL.items():
        there, back = way.wrap(INNER4), way.wrap(ipv4(tcp(b"hello"), src="172.16.0.2", dst="172.16.0.1"))
        packets, _ = decode(batch([there, back], link_type=way.link_type))
        assert packets.tunnel[0] == packets.tunnel[1], name


def test_the_overheads_of_a_path_add_up() -> None:
    packets = decode_one(TUNNELS["gre"].wrap(TUNNELS["vxlan-vlan"].wrap(TUNNELS["4in6"].wrap(INNER4)[14:])[14:]))
    tunnel = packets.tunnels[packets.tunnel[0]]
    assert tunnel == Tunnel(("gre", "vxlan 42", "vlan 3", "4in6"), 24 + 54 + 40)
    assert all(a != b for a, b in pairwise(tunnel.path))
