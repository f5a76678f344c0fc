"""Frames built byte by byte, and the batches that carry them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ipaddress import ip_address

import numpy as np

from pcapdiag.capture.frames import Frames
from pcapdiag.losses import FRAME_LOSSES, Losses
from pcapdiag.packets import Packets, decode_packets

MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
TS_OPTION = bytes.fromhex("0101080a") + struct.pack(">II", 1000, 2000)


def ether(payload: bytes, kind: int = 0x0800, *, src: bytes = MAC_A, dst: bytes = MAC_B) -> bytes:
    return dst + src + struct.pack(">H", kind) + payload


def vlan(payload: bytes, vid: int, *, tpid: int = 0x8100, kind: int = 0x0800) -> tuple[bytes, int]:
    """(payload, type) of a tagged frame."""
    return struct.pack(">HH", vid, kind) + payload, tpid


def ipv4(
    payload: bytes,
    proto: int = 6,
    *,
    src: str = A,
    dst: str = B,
    total_len: int | None = None,
    options: bytes = b"",
    ident: int = 7,
    df: bool = True,
    mf: bool = False,
    offset: int = 0,
    ttl: int = 64,
    tos: int = 0,
) -> bytes:
    header_len = 20 + len(options)
    length = header_len + len(payload) if total_len is None else total_len
    fragment = df << 14 | mf << 13 | offset // 8
    fixed = struct.pack(">BBHHHBBH", 0x40 | header_len // 4, tos, length, ident, fragment, ttl, proto, 0)
    return fixed + ip_address(src).packed + ip_address(dst).packed + options + payload


def ipv6(payload: bytes, proto: int = 6, *, src: str = A6, dst: str = B6, payload_len: int | None = None, hops: int = 64) -> bytes:
    length = len(payload) if payload_len is None else payload_len
    return struct.pack(">IHBB", 6 << 28, length, proto, hops) + ip_address(src).packed + ip_address(dst).packed + payload


def fragment6(payload: bytes, proto: int, *, offset: int, more: bool, ident: int = 0xABCD1234) -> bytes:
    return struct.pack(">BBHI", proto, 0, offset | more, ident) + payload


def tcp(
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 443,
    seq: int = 1,
    ack: int = 2,
    flags: int = 0x10,
    window: int = 500,
    options: bytes = b"",
) -> bytes:
    assert len(options) % 4 == 0
    words = 5 + len(options) // 4
    return struct.pack(">HHIIBBHHH", sport, dport, seq, ack, words << 4, flags, window, 0, 0) + options + payload


def udp(payload: bytes = b"", *, sport: int = 40000, dport: int = 53, length: int | None = None) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload) if length is None else length, 0) + payload


def vxlan(frame: bytes, vni: int = 42, flags: int = 0x08) -> bytes:
    return struct.pack(">B3xI", flags, vni << 8) + frame


def batch(
    frames: Sequence[bytes],
    *,
    link_type: int | Sequence[int] = 1,
    lengths: Sequence[int] | None = None,
    flags: int = 0,
    times_ns: Sequence[int] | None = None,
    capture: int = 0,
    first: int = 1,
) -> Frames:
    """Frames as a reader gives them, with other bytes between them."""
    count = len(frames)
    captured = np.array([len(f) for f in frames], np.uint32)
    at = 16 + np.cumsum(captured.astype(np.int64) + 16) - captured - 16
    return Frames(
        number=np.arange(first, first + count),
        ts_ns=np.array(times_ns if times_ns is not None else range(count), np.int64),
        link_type=np.full(count, link_type, np.uint16) if isinstance(link_type, int) else np.array(link_type, np.uint16),
        interface=np.zeros(count, np.uint16),
        length=np.array(lengths, np.uint32) if lengths is not None else captured,
        captured=captured,
        flags=np.full(count, flags, np.uint32),
        data_at=at,
        data=np.frombuffer(b"".join(b"\xee" * 16 + f for f in frames), np.uint8),
        capture=capture,
    )


def decode(*batches: Frames) -> tuple[Packets, Losses]:
    """The rows and what was lost, after checking that each frame is one or the other."""
    losses = Losses()
    packets = decode_packets(batches, losses)
    lost = sum(losses.total(loss) for loss in FRAME_LOSSES)
    assert len(packets) + lost == sum(len(b) for b in batches)
    return packets, losses


def decode_one(frame: bytes, *, link_type: int = 1, length: int | None = None, flags: int = 0) -> Packets:
    """The single row of a frame that must be decoded."""
    packets, _ = decode(batch([frame], link_type=link_type, lengths=None if length is None else [length], flags=flags))
    assert len(packets) == 1
    return packets


def payload(packets: Packets, row: int = 0) -> bytes:
    """The captured payload of a row."""
    return bytes(packets.blob.read(int(packets.payload_at[row]), int(packets.payload_captured[row])))
