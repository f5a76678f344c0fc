"""Valid captures, and what chance, disks and attackers make of them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from hypothesis import strategies as st

from tests.test_protocols_dns import V4, message, question, record
from tests.wire import Recording, Wire, merge
from tests.wire_bytes import pcap
from tests.wire_h2 import RESPONSE, Blocks, connection, data, settings, window_update

SAMPLES: Final = Path(__file__).parent.parent / "samples"
_SHOWN: Final = 70
"""Packets of each capture that are mutated: a small capture is analysed in milliseconds."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A record of a capture."""

    ts_ns: int
    data: bytes
    original_len: int


Packets = list[Packet]
Mutation = Callable[[Packets], Packets]


def packets_of(capture: bytes) -> Packets:
    """The records of a little-endian pcap file."""
    (magic,) = struct.unpack_from("<I", capture)
    tick_ns = 1 if magic == 0xA1B23C4D else 1_000
    found, at = Packets(), 24
    while at < len(capture):
        seconds, ticks, length, original_len = struct.unpack_from("<IIII", capture, at)
        found.append(Packet(seconds * 1_000_000_000 + ticks * tick_ns, capture[at + 16 : at + 16 + length], original_len))
        at += 16 + length
    return found


def file_of(packets: Packets) -> bytes:
    """A pcap file with nanoseconds; lengths and seconds are written as far as their fields go."""
    parts = [pcap([])]
    for packet in packets:
        seconds, nanoseconds = divmod(packet.ts_ns, 1_000_000_000)
        parts += [struct.pack("<IIII", seconds % 2**32, nanoseconds, len(packet.data), packet.original_len % 2**32), packet.data]
    return b"".join(parts)


def _conversations() -> list[Recording]:
    """One of each thing that is read to the bottom: HTTP/1.1, gRPC, a token stream, lookups, fragments, ICMP, losses, IPv6."""
    http = Wire().handshake().http_get(body=4_000).wait(ms=300).http_get("/a", body=9_000, think_ms=400).close()
    lossy = Wire(cport=50_001).syn(lose="after").wait(ms=1_000).handshake().send(4_000, lose="after", only=[1]).wait(ms=250)
    lossy.resend(1_448, 2_896).wait(ms=5).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nok").ack(window=0).wait(ms=500).ack(
        window=900
    )
    lossy.icmp_ptb(1_400, quoting="client").rst("server")
    blocks, answers = Blocks(), Blocks()
    asked = connection([lambda _: blocks.headers(1, [(":method", "POST"), (":path", "/a.B/C"), (":scheme", "http"), (":authority", "a")])])
    grpc = Wire(cport=50_002, sport=50_051, ipv6=True).handshake().send(asked + data(1, b"\0\0\0\0\3abc", end_stream=True))
    grpc.reply(settings() + window_update(0, 99) + answers.headers(1, RESPONSE)).wait(ms=600).reply(data(1, b"\0\0\0\0\1x" * 300))
    grpc.reply(answers.headers(1, [("grpc-status", "0")], end_stream=True))
    stream = Wire(cport=50_003, vantage="server").handshake().send(b"POST /v1/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
    stream.reply(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for pause_ms in (30, 30, 900, 30):
        stream.wait(ms=pause_ms).reply(b"9\r\ndata: x\n\n\r\n")
    lookup = Wire(cport=5_300, sport=53).udp(message([question("a.test")])).wait(ms=700).udp(message([question("a.test")]))
    lookup.fragment(message([question("a.test")], answers=tuple(record(b"\xc0\x0c", 1, V4) for _ in range(150)), flags=0x8180))
    hello = (
        Wire(cport=50_004, sport=443)
        .handshake()
        .send(b"\x16\3\1\0\x30\1\0\0\x2c\3\3" + bytes(42))
        .wait(ms=80)
        .reply(b"\x17\3\3\0\x20" + bytes(32))
    )
    return [
        http,
        lossy,
        grpc,
        stream,
        lookup,
        hello,
        merge(http, lossy, grpc, stream, lookup, hello),
        Wire().duplicate().handshake().http_get(),
    ]


@cache
def captures() -> tuple[tuple[Packet, ...], ...]:
    """What is mutated: short conversations of every kind, and two stretches of each sample."""
    wires = [tuple(packets_of(recording.pcap())[: 2 * _SHOWN]) for recording in _conversations()]
    samples = []
    for path in sorted(SAMPLES.glob("*/*.pcap")):
        packets = packets_of(path.read_bytes())
        samples += [tuple(packets[at : at + _SHOWN]) for at in (0, len(packets) // 2)]
    return (*wires, *samples)


def mutations() -> st.SearchStrategy[list[Mutation]]:
    """A few changes to the records of a capture."""
    return st.lists(_flips() | _cuts() | _copies() | _swaps() | _drops() | _times(), min_size=1, max_size=6)


_WHERE: Final = st.integers(0, 2 * _SHOWN)


def _changed(packets: Packets, index: int, change: Callable[[Packet], Packet]) -> Packets:
    at = index % max(len(packets), 1)
    return [*packets[:at], change(packets[at]), *packets[at + 1 :]] if packets else packets


def _flips() -> st.SearchStrategy[Mutation]:
    """A byte of headers or payload gets other bits."""

    def flip(packet: Packet, at: int, bits: int) -> Packet:
        if not packet.data:
            return packet
        position = at % len(packet.data)
        return replace(packet, data=packet.data[:position] + bytes([packet.data[position] ^ bits]) + packet.data[position + 1 :])

    where = st.integers(12, 80) | st.integers(0, 1_500)
    return st.builds(
        lambda index, at, bits: lambda packets: _changed(packets, index, lambda packet: flip(packet, at, bits)),
        _WHERE,
        where,
        st.integers(1, 255),
    )


def _cuts() -> st.SearchStrategy[Mutation]:
    """A packet captured in part, of any claimed length."""
    return st.builds(
        lambda index, length, original: (
            lambda packets: _changed(
                packets,
                index,
                lambda p: replace(p, data=p.data[:length], original_len=original if original is not None else p.original_len),
            )
        ),
        _WHERE,
        st.integers(0, 90),
        st.none() | st.sampled_from([0, 1, 60, 65_535, 2**31, 2**32 - 1]),
    )


def _copies() -> st.SearchStrategy[Mutation]:
    return st.builds(
        lambda index, to, later_ns: (
            lambda packets: (
                [
                    *packets[: to % len(packets)],
                    replace(p := packets[index % len(packets)], ts_ns=p.ts_ns + later_ns),
                    *packets[to % len(packets) :],
                ]
                if packets
                else packets
            )
        ),
        _WHERE,
        _WHERE,
        st.sampled_from([0, 2_000, 300_000_000, 40_000_000_000]),
    )


def _swaps() -> st.SearchStrategy[Mutation]:
    """Two records trade places, with their times or without."""

    def swapped(packets: Packets, a: int, b: int, keep_times: bool) -> Packets:
        if not packets:
            return packets
        a, b, out = a % len(packets), b % len(packets), list(packets)
        out[a], out[b] = packets[b], packets[a]
        if keep_times:
            out[a], out[b] = replace(out[a], ts_ns=packets[a].ts_ns), replace(out[b], ts_ns=packets[b].ts_ns)
        return out

    return st.builds(lambda a, b, keep: lambda packets: swapped(packets, a, b, keep), _WHERE, _WHERE, st.booleans())


def _drops() -> st.SearchStrategy[Mutation]:
    """A stretch of records is missing: the beginning, the end, or a hole."""
    return st.builds(lambda at, count: lambda packets: packets[:at] + packets[at + count :], _WHERE, st.integers(1, _SHOWN))


def _times() -> st.SearchStrategy[Mutation]:
    """A record has any time at all, or all from one on have stepped."""
    any_ns = st.integers(0, (2**32 - 1) * 1_000_000_000)
    step_ns = st.sampled_from([-(10**15), -3_000_000_000, -1, 1, 7_000_000_000, 10**17])
    return st.builds(
        lambda index, ts_ns: lambda packets: _changed(packets, index, lambda packet: replace(packet, ts_ns=ts_ns)), _WHERE, any_ns
    ) | st.builds(
        lambda index, by_ns: lambda packets: packets[:index] + [replace(p, ts_ns=max(p.ts_ns + by_ns, 0)) for p in packets[index:]],
        _WHERE,
        step_ns,
    )
