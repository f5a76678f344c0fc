"""Builds the bytes of HTTP/2 connections, frame by frame, as an endpoint would send them."""

from __future__ import annotations

from itertools import pairwise

import hpack

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
