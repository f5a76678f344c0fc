"""Hellos written field by field: what is taken from them, and what hostile ones become."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.tls_handshake import (
    MAX_HELLO_LEN,
    BytesUnread,
    ClientHelloReceived,
    Fault,
    HandshakeEvent,
    HandshakeMessageReceived,
    HandshakeReader,
    ServerHelloReceived,
)

SERVER_NAME, ALPN, TICKET, PSK, EARLY_DATA, VERSIONS, KEY_SHARE, ECH = 0, 16, 35, 41, 42, 43, 51, 0xFE0D
X25519_MLKEM768 = 0x11EC
GREASE = 0x3A3A


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size) + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">H", kind) + vector(data, 2)


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + vector(body, 3)


def client_hello(*extensions: bytes, session_id: bytes = b"") -> bytes:
    fixed = b"\x03\x03" + bytes(32) + vector(session_id, 1) + vector(b"\x13\x01", 2) + vector(b"\x00", 1)
    return message(1, fixed + (vector(b"".join(extensions), 2) if extensions else b""))


def host(name: bytes) -> bytes:
    return extension(SERVER_NAME, vector(b"\x00" + vector(name, 2), 2))


def shares(*groups: int) -> bytes:
    return extension(KEY_SHARE, vector(b"".join(struct.pack(">H", group) + vector(b"k", 2) for group in groups), 2))


def read(*payloads: bytes, clear: bool = True) -> list[HandshakeEvent]:
    events: list[HandshakeEvent] = []
    reader, at = HandshakeReader(clear=clear), 0
    for payload in payloads:
        reader.read(payload, at, events.append)
        at += len(payload)
    reader.lose(at, events.append)
    return events


def offer(*extensions: bytes) -> ClientHelloReceived:
    [event] = read(client_hello(*extensions))
    assert isinstance(event, ClientHelloReceived)
    return event


def test_every_field_of_a_client_hello() -> None:
    versions = struct.pack(">BHHH", 6, GREASE, 0x0304, 0x0303)
    hello = offer(
        host(b"API.Example.com"),
        extension(ALPN, vector(vector(b"\x3a\x3a", 1) + vector(b"h2", 1) + vector(b"http/1.1", 1), 2)),
        extension(TICKET, b"t"),
        extension(VERSIONS, versions),
        shares(GREASE, X25519_MLKEM768, 29),
        extension(EARLY_DATA, b""),
        extension(ECH, b"\x00"),
        extension(PSK, b"\x00"),
    )
    assert (hello.server_name, hello.alpn, hello.versions) == ("api.example.com", ("h2", "http/1.1"), (0x0304, 0x0303))
    assert hello.key_share_groups == (X25519_MLKEM768, 29)
    assert (hello.has_psk, hello.has_ticket, hello.early_data, hello.ech) == (True, True, True, True)


def test_a_client_hello_without_extensions() -> None:
    hello = offer()
    assert (hello.server_name, hello.alpn, hello.versions, hello.key_share_groups) == (None, (), (0x0303,), ())
    assert (hello.has_psk, hello.has_ticket, hello.early_data, hello.ech) == (False, False, False, False)
    assert (hello.at, hello.end, hello.length) == (0, 45, 45)


def test_an_empty_ticket_is_none() -> None:
    assert not offer(extension(TICKET, b"")).has_ticket


def test_of_a_repeated_extension_the_first_counts() -> None:
    assert offer(host(b"one.example"), host(b"two.example")).server_name == "one.example"


def test_hostile_names_and_lists_are_bounded_and_printable() -> None:
    assert offer(host(b"a\x00\x1b[2J\xff b.example")).server_name == "a??[2j??b.example"
    assert offer(host(b"x" * 3_000)).server_name == "x" * 255
    many = offer(shares(*range(1, 500)), extension(ALPN, vector(b"\x01h" * 500, 2)))
    assert (len(many.key_share_groups), len(many.alpn)) == (64, 64)


@pytest.mark.parametrize(
    "bad",
    [
        extension(SERVER_NAME, b"\x00\x09\x00"),
        extension(ALPN, b"\x00"),
        extension(ALPN, b"\x00\x03\x09h2"),
        extension(VERSIONS, b"\x08\x03\x04"),
        extension(KEY_SHARE, b"\x00\x04\x00\x1d\x00\x20"),
        b"\x00\x00\x00\x09",
        b"\x00",
    ],
)
def test_lengths_that_contradict_each_other_are_a_fault(bad: bytes) -> None:
    [event] = read(client_hello(bad))
    assert isinstance(event, Fault)
    assert event.what.startswith("ClientHello: a field of ")


def test_a_server_hello_up_to_12() -> None:
    body = b"\x03\x03" + bytes(32) + vector(b"id", 1) + b"\xc0\x2f" + b"\x00"
    events = read(message(2, body + vector(extension(ALPN, vector(vector(b"h2", 1), 2)), 2)) + message(14, b""))
    assert events == [
        ServerHelloReceived(at=0, end=55, version=0x0303, cipher=0xC02F, retry=False, key_share_group=None, selected_psk=False,
                            alpn="h2", session_id=b"id", length=55),
        HandshakeMessageReceived(55, 59, 14, 4),
    ]  # fmt: skip


def test_a_server_hello_of_three_bytes_is_a_fault() -> None:
    [event] = read(message(2, b"\x03\x03\x00"))
    assert isinstance(event, Fault)


def test_a_hello_too_long_to_be_one_is_counted_and_not_kept() -> None:
    huge = message(1, bytes(MAX_HELLO_LEN))
    assert read(huge[:9_000], huge[9_000:]) == [HandshakeMessageReceived(0, len(huge), 1, len(huge))]


def test_an_unknown_type_ends_the_reading_until_a_message_begins_a_record() -> None:
    assert read(b"\x63\x00\x00\x01xyz", b"noise", client_hello())[:3] == [
        Fault(0, 4, "unknown handshake message type 99"),
        BytesUnread(0, 7),
        BytesUnread(7, 12),
    ]
    assert isinstance(read(b"\x63\x00\x00\x01xyz", b"noise", client_hello())[3], ClientHelloReceived)


def test_after_a_seal_ciphertext_is_nothing_and_a_hello_is_a_hello() -> None:
    events: list[HandshakeEvent] = []
    reader = HandshakeReader(clear=True)
    reader.seal(0, events.append)
    reader.read(bytes(8) + b"\x9d" * 32, 0, events.append)  # a Finished whose explicit nonce counts from 0
    assert events == []
    reader.read(client_hello(), 40, events.append)
    assert [type(event) for event in events] == [ClientHelloReceived]


@given(st.binary(max_size=200), st.integers(0, 60))
def test_hostile_bodies_never_raise(data: bytes, at: int) -> None:
    hello = bytearray(client_hello(host(b"a.example"), shares(29), extension(ALPN, vector(b"\x02h2", 2))))
    hello[4 + at : 4 + at + len(data)] = data
    read(message(1, bytes(hello[4:])), message(2, bytes(hello[4:])), data)
    read(bytes(hello), clear=False)
