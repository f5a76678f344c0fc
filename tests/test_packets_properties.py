"""Whatever the bytes: each frame is one row or one loss, nothing is raised, and where a capture is cut changes no length."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.packets import UDP, Packets
from pcapdiag.packets.link import LINK_TYPES
from tests.frame_bytes import TS_OPTION, batch, decode, ether, fragment6, ipv4, ipv6, payload, tcp, udp, vlan, vxlan

SYN_OPTIONS = bytes.fromhex("020405b40402080a000003e8000007d001030307")
SACK_OPTIONS = TS_OPTION + bytes.fromhex("0101051200000001000000020000000300000004")
QUOTE = struct.pack(">BBHI", 3, 4, 0, 1400) + ipv4(tcp(b"quoted", seq=9))
INNER = ether(ipv4(tcp(b"hello", options=TS_OPTION)))

REPRESENTATIVE: Final = {
    "tcp": ether(ipv4(tcp(b"hello", options=TS_OPTION))),
    "syn": ether(ipv4(tcp(options=SYN_OPTIONS, flags=2))),
    "sack": ether(ipv4(tcp(b"x", options=SACK_OPTIONS))),
    "ip-options": ether(ipv4(tcp(b"hello"), options=b"\x01" * 12)),
    "padded": ether(ipv4(tcp())) + bytes(6),
    "udp-qinq": ether(*vlan(vlan(ipv4(udp(b"hello"), 17), 2)[0], 1, tpid=0x88A8, kind=0x8100)),
    "ipv6-chain": ether(ipv6(struct.pack(">BB6xBB14xBB6x", 43, 0, 60, 1, 6, 0) + tcp(b"hello"), 0), 0x86DD),
    "ipv6-fragment": ether(ipv6(fragment6(udp(b"hello" * 8), 17, offset=0, more=True), 44), 0x86DD),
    "fragment": ether(ipv4(udp(b"hello" * 8), 17, mf=True, df=False)),
    "icmp": ether(ipv4(QUOTE, 1)),
    "icmpv6": ether(ipv6(struct.pack(">BBHI", 2, 0, 0, 1280) + ipv6(tcp(b"quoted")), 58), 0x86DD),
    "vxlan": ether(ipv4(udp(vxlan(INNER), dport=4789), UDP)),
    "geneve": ether(ipv4(udp(struct.pack(">BBHI", 1, 0, 0x6558, 7 << 8) + bytes(4) + INNER, dport=6081), UDP)),
    "gtp-u": ether(ipv4(udp(struct.pack(">BBHI", 0x34, 0xFF, 60, 1) + b"\0\0\0\x85\x01\x10\x09\0" + ipv4(tcp(b"hello")), dport=2152), UDP)),
    "gre-erspan": ether(ipv4(struct.pack(">HHI", 0x1000, 0x22EB, 1) + bytes(11) + b"\x01" + bytes(8) + INNER, 47)),
    "mpls": ether(struct.pack(">II", 5 << 12, 6 << 12 | 0x100) + bytes(4) + INNER, 0x8847),
    "pppoe": ether(struct.pack(">BBHH", 0x11, 0, 5, 50) + b"\x00\x21" + ipv4(tcp(b"hello")), 0x8864),
    "ipip": ether(ipv4(ipv6(tcp(b"hello")), 41)),
    "snap": ether(bytes.fromhex("aaaa03000000") + b"\x08\x00" + ipv4(tcp(b"hello")), 53),
}  # fmt: skip

# Columns that a cut behind the headers must not change.
LENGTHS = ("ip_len", "payload_len", "src", "dst", "proto", "ttl", "tunnel", "frag_offset", "sport", "dport", "seq", "ack", "window")


def rows_are_sound(packets: Packets) -> None:
    assert (packets.payload_captured <= packets.payload_len).all()
    assert (packets.payload_captured >= 0).all()
    for row in range(len(packets)):
        assert len(payload(packets, row)) == packets.payload_captured[row]
    assert (np.diff(packets.frame) > 0).all()
    assert packets.tunnel.max(initial=0) < len(packets.tunnels)
    assert max(packets.src.max(initial=0), packets.dst.max(initial=0)) <= len(packets.addresses.packed)
    assert (packets.sacks.row < len(packets)).all()
    assert (packets.icmp_errors.row < len(packets)).all()


@pytest.mark.parametrize("frame", REPRESENTATIVE.values(), ids=REPRESENTATIVE)
def test_a_cut_at_any_byte_is_a_row_or_a_loss(frame: bytes) -> None:
    for sizes in ([len(frame)] * (len(frame) + 1), list(range(len(frame) + 1))):  # the wire had more; or it had not
        packets, _ = decode(batch([frame[:n] for n in range(len(frame) + 1)], lengths=sizes))
        rows_are_sound(packets)
        assert packets.frame[-1] == len(frame) + 1


@pytest.mark.parametrize("frame", REPRESENTATIVE.values(), ids=REPRESENTATIVE)
def test_a_cut_changes_what_is_captured_and_not_what_was_sent(frame: bytes) -> None:
    whole, _ = decode(batch([frame]))
    for size in range(len(frame)):
        cut, _ = decode(batch([frame[:size]], lengths=[len(frame)]))
        same_row = len(cut) == 1 and (cut.sport[0] > 0 or whole.sport[0] == 0) and cut.frag_offset[0] == 0
        if same_row:
            for name in LENGTHS:
                assert getattr(cut, name)[0] == getattr(whole, name)[0], (size, name)
            assert payload(whole).startswith(payload(cut))


@pytest.mark.parametrize("frame", REPRESENTATIVE.values(), ids=REPRESENTATIVE)
def test_a_row_does_not_depend_on_its_neighbours(frame: bytes) -> None:
    alone, _ = decode(batch([frame]))
    others = [bytes(size) for size in (0, 5, 60)] + [f for f in REPRESENTATIVE.values() if f is not frame]
    among, _ = decode(batch([*others, frame]))
    for name in alone.columns():
        if name not in {"frame", "ts_ns", "src", "dst", "tunnel", "payload_at"}:
            assert getattr(among, name)[-1] == getattr(alone, name)[-1], name
    assert among.addresses.text(among.src[-1]) == alone.addresses.text(alone.src[-1])
    assert among.tunnels[among.tunnel[-1]] == alone.tunnels[alone.tunnel[-1]]
    assert payload(among, len(among) - 1) == payload(alone)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(LINK_TYPES)), st.lists(st.binary(max_size=120), min_size=1, max_size=12), st.integers(0, 3000))
def test_random_bytes_are_rows_or_losses(link_type: int, frames: list[bytes], missing: int) -> None:
    packets, _ = decode(batch(frames, link_type=link_type, lengths=[len(f) + missing for f in frames]))
    rows_are_sound(packets)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_frames_are_rows_or_losses(data: st.DataObject) -> None:
    frames = data.draw(st.lists(st.sampled_from(sorted(REPRESENTATIVE.values())), min_size=1, max_size=10))
    damaged = []
    for frame in frames:
        changed = bytearray(frame)
        for at in data.draw(st.lists(st.integers(12, len(frame) - 1), max_size=5)):
            changed[at] = data.draw(st.integers(0, 255))
        damaged.append(bytes(changed[: data.draw(st.integers(0, len(frame)))]))
    packets, _ = decode(batch(damaged))
    rows_are_sound(packets)


def test_hostile_lengths_do_not_overflow() -> None:
    for frame in (ether(ipv4(tcp(b"x"), total_len=0)), ether(ipv6(tcp(b"x"), payload_len=0), 0x86DD)):
        packets, _ = decode(batch([frame], lengths=[0xFFFF_FFFF]))
        assert packets.payload_len[0] > 2**31 - 100
        packets, _ = decode(batch([frame], lengths=[3]))
        assert packets.payload_len[0] == 1


def test_no_frames_are_no_packets() -> None:
    packets, _ = decode()
    assert len(packets) == 0
    packets, _ = decode(batch([]))
    assert (len(packets), len(packets.fragments), packets.tunnels[0].path) == (0, 0, ())


def test_batches_of_one_buffer_share_it() -> None:
    frames = batch([ether(ipv4(tcp(b"one"))), ether(ipv4(tcp(b"two"))), ether(ipv4(tcp(b"six")))])
    packets, _ = decode(frames.take(slice(0, 1)), frames.take(slice(1, 3)))
    assert [payload(packets, row) for row in range(3)] == [b"one", b"two", b"six"]
    assert len(packets.blob.buffers) == 1
