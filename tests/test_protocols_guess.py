"""guess: the protocol of a connection from its bytes, at the start and in the middle."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.guess import Application, guess
from tests import wire_h2 as wire

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
NOISE = random.Random(7).randbytes(40_000)


def records(*lengths: int, kind: int = 23) -> bytes:
    return b"".join(bytes([kind, 3, 3]) + n.to_bytes(2, "big") + NOISE[:n] for n in lengths)


@pytest.mark.parametrize(
    ("client", "server", "application"),
    [
        (wire.PREFACE + wire.settings(), b"", Application.HTTP2),
        (b"", wire.settings({3: 100}) + wire.settings(ack=True), Application.HTTP2),
        (b"", wire.settings(), Application.HTTP2),
        (wire.window_update(1, 7) + wire.ping(), b"", Application.HTTP2),
        (b"", NOISE[:2_000] + wire.data(1, b"x" * 90) * 5, Application.HTTP2),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", Application.HTTP1),
        (b"MKCALENDAR /a b HTTP/1.0\n\n", b"", Application.HTTP1),
        (b"", RESPONSE, Application.HTTP1),
        (b"", b'tail of a body"}' + RESPONSE, Application.HTTP1),
        (b'tail of a body"}POST /x HTTP/1.1\r\nHost: x\r\n\r\n', b"", Application.HTTP1),
        (records(300, kind=22), b"", Application.TLS),
        (b"", records(300, 20), Application.TLS),
        (b"", NOISE[:999] + records(300, 20, 16_401, 90), Application.TLS),
        (b"", b"", Application.UNKNOWN),
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", Application.UNKNOWN),
        (b"GET /half", b"", Application.UNKNOWN),
        (NOISE, NOISE[::-1], Application.UNKNOWN),
        (bytes(40_000), bytes(40_000), Application.UNKNOWN),
        (records(17_000, 300), b"", Application.TLS),
        (records(19_000, kind=22), b"", Application.UNKNOWN),
        (b"*2\r\n$4\r\nINFO\r\n", b"$3\r\nabc\r\n", Application.UNKNOWN),
    ],
)
def test_by_content(client: bytes, server: bytes, application: Application) -> None:
    assert guess(client, server) is application


def test_encrypted_bytes_that_hold_a_frame_are_not_taken_for_one() -> None:
    assert guess(NOISE[:500] + wire.ping() + NOISE[500:900], b"") is Application.UNKNOWN


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_never_raise(client: bytes, server: bytes) -> None:
    assert guess(client, server) in Application


@pytest.mark.parametrize("unit", [b"\x00", b"\x17\x03\x03\x00\x01", b"HTTP/1.1 ", b"\x00\x00\x04\x08\x00\x00\x00\x00\x01", b"GET "])
def test_what_it_looks_at_is_bounded(unit: bytes) -> None:
    began = time.perf_counter()
    guess(unit * 4_000_000, unit * 4_000_000)
    assert time.perf_counter() - began < 4
