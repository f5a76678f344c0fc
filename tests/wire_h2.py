"""Builds the bytes of HTTP/2 connections, frame by frame, as an endpoint would send them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import hpack
from hypothesis import strategies as st

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/agent.Tools/Call"), (":authority", "tools:50051")]
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def data(stream_id: int, payload: bytes = b"", *, end_stream: bool = False, pad: int | None = None) -> bytes:
    if pad is None:
        return frame(0, int(end_stream), stream_id, payload)
    return frame(0, 8 | int(end_stream), stream_id, bytes([pad]) + payload + bytes(pad))


def settings(values: dict[int, int] | None = None, *, ack: bool = False) -> bytes:
    pairs = (values or {}).items()
    return frame(4, int(ack), 0, b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in pairs))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(8, 0, stream_id, increment.to_bytes(4, "big"))


def ping(opaque: bytes = b"12345678", *, ack: bool = False) -> bytes:
    return frame(6, int(ack), 0, opaque)


def goaway(last_stream_id: int, error_code: int, debug: bytes = b"") -> bytes:
    return frame(7, 0, 0, last_stream_id.to_bytes(4, "big") + error_code.to_bytes(4, "big") + debug)


def reset(stream_id: int, error_code: int) -> bytes:
    return frame(3, 0, stream_id, error_code.to_bytes(4, "big"))


class Blocks:
    """Header blocks of one direction: HEADERS, and CONTINUATION when cut."""

    def __init__(self) -> None:
        self.encoder = hpack.Encoder()

    def headers(
        self,
        stream_id: int,
        fields: list[tuple[str, str]],
        *,
        end_stream: bool = False,
        pad: int | None = None,
        priority: bool = False,
        cuts: tuple[int, ...] = (),
        promised_id: int | None = None,
        huffman: bool = True,
    ) -> bytes:
        block = self.encoder.encode(fields, huffman=huffman)
        edges = [0, *sorted(c for c in set(cuts) if c < len(block)), len(block)]
        first, *rest = [block[a:b] for a, b in pairwise(edges)] or [b""]
        flags = int(end_stream) | (0 if rest else 4)
        prefix = b"" if promised_id is None else promised_id.to_bytes(4, "big")
        if priority:
            flags |= 0x20
            prefix += b"\x00\x00\x00\x00\x10"
        if pad is not None:
            flags |= 8
            first, prefix = first + bytes(pad), bytes([pad]) + prefix
        out = frame(1 if promised_id is None else 5, flags, stream_id, prefix + first)
        for index, piece in enumerate(rest):
            out += frame(9, 4 if index == len(rest) - 1 else 0, stream_id, piece)
        return out


Maker = Callable[[Blocks], bytes]
ODD = st.integers(0, 200).map(lambda n: 2 * n + 1)


def header_makers() -> st.SearchStrategy[Maker]:
    return st.builds(
        lambda sid, fields, end, pad, prio, cuts, huffman: (
            lambda blocks: blocks.headers(sid, fields, end_stream=end, pad=pad, priority=prio, cuts=cuts, huffman=huffman)
        ),
        ODD,
        st.lists(st.sampled_from([*REQUEST, *RESPONSE, ("x-a", "b" * 30), ("grpc-timeout", "20S")]), min_size=1, max_size=6),
        st.booleans(),
        st.none() | st.integers(0, 20),
        st.booleans(),
        st.sets(st.integers(1, 40), max_size=3).map(tuple),
        st.booleans(),
    )


def plain_frames() -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.builds(
            lambda sid, payload, end, pad: data(sid, payload, end_stream=end, pad=pad),
            ODD,
            st.binary(max_size=40),
            st.booleans(),
            st.none() | st.integers(0, 9),
        ),
        st.builds(settings, st.dictionaries(st.integers(1, 6), st.integers(0, 2**31), max_size=4)),
        st.just(settings(ack=True)),
        st.builds(window_update, ODD | st.just(0), st.integers(1, 2**31 - 1)),
        st.builds(ping, st.binary(min_size=8, max_size=8)),
        st.builds(goaway, st.integers(0, 99), st.integers(0, 13), st.binary(max_size=20)),
        st.builds(reset, ODD, st.integers(0, 13)),
        st.builds(lambda sid: frame(2, 0, sid, bytes(5)), ODD),
        st.builds(lambda kind, payload: frame(kind, 0, 0, payload), st.integers(10, 255), st.binary(max_size=30)),
    )


def makers() -> st.SearchStrategy[Maker]:
    return header_makers() | plain_frames().map(lambda raw: lambda _: raw)


def connection(parts: list[Maker]) -> bytes:
    blocks = Blocks()
    return PREFACE + settings({4: 65_535}) + b"".join(part(blocks) for part in parts)
