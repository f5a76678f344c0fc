"""Real TLS sessions, made in memory, read from one side: all cuts, all prefixes, all holes."""

from __future__ import annotations

import ssl
import struct
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.protocols.tls import (
    ALERT,
    ALERT_NAMES,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HEARTBEAT,
    MAX_RECORD_LEN,
    TLS_1_3,
    AlertReceived,
    BytesUnread,
    ChangeCipherSpecReceived,
    ClientHelloReceived,
    EncryptedAlertSuspected,
    Fault,
    HandshakeMessageReceived,
    RecordCut,
    RecordReceived,
    ServerHelloReceived,
    TlsEvent,
    TlsReader,
    record_payload_len,
)

TLS_1_2 = 0x0303
CERTIFICATE, SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE, CLIENT_KEY_EXCHANGE = 11, 12, 14, 16
# Made for these tests, trusted nowhere.
SELF_SIGNED = """-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIEp7LVg/wzdTCCED2y3le7MaOheiIHM+cEJO/W9r1pLmoAoGCCqGSM49
AwEHoUQDQgAEtrTeDYmj6TSVjNnmf79s+F5L1VOoIXhPaX0PROK/u6SNW2brycAM
+nVnOT5KONsUe/xIaGjw6NLaOII/WyNebw==
-----END EC PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUNmCZ/DJHkuZjvQBFfeZERJ7dVacwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcGNhcGRpYWcudGVzdDAgFw0yNjExMjIxNjEwMjhaGA8yMTI2
MTAyOTE2MTAyOFowGDEWMBQGA1UEAwwNcGNhcGRpYWcudGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABLa03g2Jo+k0lYzZ5n+/bPheS9VTqCF4T2l9D0Tiv7uk
jVtm68nADPp1Zzk+SjjbFHv8SGho8OjS2jiCP1sjXm+jUzBRMB0GA1UdDgQWBBRq
n6jv3QO+WamKaGNEiWKMiheb6jAfBgNVHSMEGDAWgBRqn6jv3QO+WamKaGNEiWKM
iheb6jAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCRq6+oQ24y
pvtlmdE3Ze/9zYIDBbc7bgWzHbN9RucpbwIgCHdVHa0XBHrI0e1dLDpaXRShmEkw
yQWL3AsiwMRD0qI=
-----END CERTIFICATE-----
"""


@dataclass(frozen=True)
class Session:
    """What each side sent, in order."""

    client: bytes
    server: bytes


def pump(ends: list[tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]], sent: list[bytearray]) -> None:
    """Shakes hands until both ends are done or both wait in vain."""
    for _ in range(8):
        for side, (tls, _, outgoing) in enumerate(ends):
            with suppress(ssl.SSLError):  # the other end's turn, or an alert is on its way
                tls.do_handshake()
            data = outgoing.read()
            sent[side] += data
            ends[1 - side][1].write(data)


def exchange(contexts: tuple[ssl.SSLContext, ssl.SSLContext], resume: ssl.SSLSession | None = None) -> tuple[Session, ssl.SSLObject]:
    """Shakes hands, sends 300 bytes and 2,000 back, twice, and closes."""
    bios = [ssl.MemoryBIO() for _ in range(4)]
    client = contexts[0].wrap_bio(bios[0], bios[1], server_hostname="api.example.com", session=resume)
    server = contexts[1].wrap_bio(bios[2], bios[3], server_side=True)
    sent = [bytearray(), bytearray()]
    pump([(client, bios[0], bios[1]), (server, bios[2], bios[3])], sent)
    with suppress(ssl.SSLError):  # the handshake failed: what was sent is what there is
        for side, writer, out, reader, incoming, size in 2 * (
            (0, client, bios[1], server, bios[2], 300),
            (1, server, bios[3], client, bios[0], 2_000),
        ):
            writer.write(b"x" * size)
            data = out.read()
            sent[side] += data
            incoming.write(data)
            reader.read(size)
        for side, closing, out in ((0, client, bios[1]), (1, server, bios[3])):
            with suppress(ssl.SSLWantReadError):  # its close_notify is written; the other's has not come
                closing.unwrap()
            sent[side] += out.read()
    return Session(bytes(sent[0]), bytes(sent[1])), client


def contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "self_signed.pem")
        path.write_text(SELF_SIGNED)
        server.load_cert_chain(path)
    for context in (client, server):
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
    return client, server


@cache
def session(kind: str) -> Session:
    client, server = contexts(ssl.TLSVersion.TLSv1_2 if "1.2" in kind else ssl.TLSVersion.TLSv1_3)
    if "retry" in kind:
        server.set_ecdh_curve("secp384r1")
    if "alert" in kind:
        client.verify_mode = ssl.CERT_REQUIRED
    made, first = exchange((client, server))
    return exchange((client, server), first.session)[0] if "resumed" in kind else made


KINDS = ("1.2", "1.2 resumed", "1.2 alert", "1.3", "1.3 retry", "1.3 resumed", "1.3 alert")
STREAMS = tuple((kind, side) for kind in KINDS for side in ("client", "server"))


def stream(kind: str, side: str) -> bytes:
    return session(kind).client if side == "client" else session(kind).server


def read(data: bytes, cuts: tuple[int, ...] = (), *, synced: bool = True) -> list[TlsEvent]:
    reader = TlsReader(synced=synced)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [event for a, b in pairwise(edges) for event in reader.feed(data[a:b])] + reader.finish()


def records(events: list[TlsEvent]) -> list[RecordReceived]:
    return [event for event in events if isinstance(event, RecordReceived)]


def contents(events: list[TlsEvent]) -> list[TlsEvent]:
    return [event for event in events if not isinstance(event, RecordReceived)]


def accounted(events: Sequence[TlsEvent], size: int) -> bool:
    """Whether every byte lies in a record or is said to be unread."""
    reached = 0
    for at, end in sorted((e.at, e.end) for e in events if isinstance(e, RecordReceived | RecordCut | BytesUnread)):
        if at > reached:
            return False
        reached = max(reached, end)
    return reached == size


def framed(payload: bytes, kind: int = HANDSHAKE, version: int = TLS_1_2) -> bytes:
    return struct.pack(">BHH", kind, version, len(payload)) + payload


def test_a_tls_13_client() -> None:
    data = stream("1.3", "client")
    hello, ccs, alert = contents(read(data))
    assert isinstance(hello, ClientHelloReceived)
    assert (hello.server_name, hello.alpn, hello.versions) == ("api.example.com", ("h2", "http/1.1"), (TLS_1_3,))
    assert hello.key_share_groups
    assert (hello.has_psk, hello.has_ticket, hello.early_data, hello.ech) == (False, False, False, False)
    assert (hello.at, hello.end - hello.at) == (5, hello.length)
    assert isinstance(ccs, ChangeCipherSpecReceived)
    assert isinstance(alert, EncryptedAlertSuspected)  # close_notify
    sizes = [record_payload_len(r.length) for r in records(read(data)) if r.type == APPLICATION_DATA]
    assert sizes[1:] == [300, 300, 2]  # after Finished


def test_a_tls_13_server() -> None:
    hello = contents(read(stream("1.3", "server")))[0]
    assert isinstance(hello, ServerHelloReceived)
    assert (hello.version, hello.retry, hello.selected_psk, hello.alpn) == (TLS_1_3, False, False, None)
    assert 0x1301 <= hello.cipher <= 0x1305
    assert hello.key_share_group is not None


def test_a_tls_12_session() -> None:
    client, server = contents(read(stream("1.2", "client"))), contents(read(stream("1.2", "server")))
    kinds = [e.type for e in server if isinstance(e, HandshakeMessageReceived)]
    assert kinds[:3] == [CERTIFICATE, SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE]
    hello = server[0]
    assert isinstance(hello, ServerHelloReceived)
    assert (hello.version, hello.alpn, hello.selected_psk, hello.key_share_group) == (TLS_1_2, "h2", False, None)
    offered = client[0]
    assert isinstance(offered, ClientHelloReceived)
    assert (offered.versions, offered.key_share_groups) == ((TLS_1_2,), ())
    # The Finished that follows ChangeCipherSpec is encrypted: a record, and no message.
    assert [type(e) for e in client[1:]] == [HandshakeMessageReceived, ChangeCipherSpecReceived, EncryptedAlertSuspected]
    assert not any(isinstance(e, BytesUnread | Fault) for e in client + server)


def test_a_retry_and_the_hellos_after_the_early_change_cipher_spec() -> None:
    client, server = contents(read(stream("1.3 retry", "client"))), contents(read(stream("1.3 retry", "server")))
    offers = [e for e in client if isinstance(e, ClientHelloReceived)]
    answers = [e for e in server if isinstance(e, ServerHelloReceived)]
    assert [e.retry for e in answers] == [True, False]
    assert [e.key_share_group for e in answers] == [0x0018, 0x0018]
    assert 0x0018 not in offers[0].key_share_groups
    assert offers[1].key_share_groups == (0x0018,)


def test_resumption() -> None:
    offer, answer = (contents(read(stream("1.3 resumed", side)))[0] for side in ("client", "server"))
    assert isinstance(offer, ClientHelloReceived)
    assert isinstance(answer, ServerHelloReceived)
    assert (offer.has_psk, answer.selected_psk) == (True, True)
    offer, answer = (contents(read(stream("1.2 resumed", side)))[0] for side in ("client", "server"))
    assert isinstance(offer, ClientHelloReceived)
    assert isinstance(answer, ServerHelloReceived)
    assert offer.has_ticket
    assert offer.session_id == answer.session_id != b""


@pytest.mark.parametrize("kind", ["1.2 alert", "1.3 alert"])
def test_a_refused_certificate(kind: str) -> None:
    alert = read(stream(kind, "client"))[-1]
    assert isinstance(alert, AlertReceived)
    assert (alert.level, ALERT_NAMES[alert.description]) == (2, "unknown_ca")


@pytest.mark.parametrize(("kind", "side"), STREAMS)
def test_cuts_at_every_byte_do_not_change_the_events(kind: str, side: str) -> None:
    data = stream(kind, side)
    whole = read(data)
    assert accounted(whole, len(data))
    assert read(data, tuple(range(len(data)))) == whole
    assert all(read(data, (cut,)) == whole for cut in range(1, len(data)))


@pytest.mark.parametrize(("kind", "side"), STREAMS)
def test_a_prefix_gives_the_events_that_end_in_it(kind: str, side: str) -> None:
    data = stream(kind, side)
    whole = [e for e in read(data) if not isinstance(e, EncryptedAlertSuspected)]
    for size in range(len(data)):
        events = [e for e in read(data[:size]) if not isinstance(e, EncryptedAlertSuspected)]
        assert accounted(events, size)
        assert [e for e in events if not isinstance(e, RecordCut | BytesUnread)] == [e for e in whole if e.end <= size]


@pytest.mark.parametrize(("kind", "side"), STREAMS)
def test_a_hole_costs_what_it_hides_and_the_reader_finds_back(kind: str, side: str) -> None:
    data = stream(kind, side)
    whole = read(data)
    sent = records(whole)
    for hole in (1, 6, 700):
        for at in range(0, len(data) - hole, 1 if hole == 6 else 5):
            reader = TlsReader()
            events = reader.feed(data[:at]) + reader.skip(1) + reader.skip(hole - 1) + reader.feed(data[at + hole :]) + reader.finish()
            assert accounted(events, len(data))
            seen = records(events)
            assert set(seen) <= set(sent)
            # Lost are only records whose header the hole touches, or that begin in it.
            assert all(r in seen for r in sent if r.at + 5 <= at or r.at >= at + hole)
            assert not any(isinstance(e, Fault) for e in events)
            hellos = [
                e for e in whole if isinstance(e, ClientHelloReceived | ServerHelloReceived) and (e.end <= at or e.at - 5 >= at + hole)
            ]
            assert [e for e in events if isinstance(e, ClientHelloReceived | ServerHelloReceived)] == hellos


@pytest.mark.parametrize(("kind", "side"), STREAMS)
def test_a_start_in_the_middle(kind: str, side: str) -> None:
    data = stream(kind, side)
    sent = records(read(data))
    for start in range(0, len(data), 3):
        events = read(data[start:], synced=False)
        assert accounted(events, len(data) - start)
        assert [(e.at + start, e.end + start) for e in records(events)] == [(e.at, e.end) for e in sent if e.at >= start]
        assert not any(isinstance(e, Fault) for e in events)


piece = st.one_of(
    st.builds(framed, st.binary(min_size=1, max_size=40), st.sampled_from([20, 21, 22, 23, 24]), st.sampled_from([0x0301, 0x0303, 0x0305])),
    st.builds(lambda kind, message: framed(bytes([kind]) + len(message).to_bytes(3) + message), st.integers(0, 30), st.binary(max_size=90)),
    st.sampled_from([framed(b"\x01", CHANGE_CIPHER_SPEC), framed(b"\x02\x28", ALERT), framed(bytes(19), APPLICATION_DATA)]),
    st.binary(max_size=12),
    st.integers(1, 60),  # a hole
)


@given(st.lists(piece, max_size=10), st.lists(st.integers(1, 30), max_size=12), st.booleans())
@settings(max_examples=300)
def test_hostile_streams_cut_or_not(pieces: list[bytes | int], sizes: list[int], synced: bool) -> None:
    total = sum(part if isinstance(part, int) else len(part) for part in pieces)
    whole, cut = TlsReader(synced=synced), TlsReader(synced=synced)
    once: list[TlsEvent] = []
    often: list[TlsEvent] = []
    for part in pieces:
        once += whole.skip(part) if isinstance(part, int) else whole.feed(part)
        pos, length, steps = 0, part if isinstance(part, int) else len(part), iter(sizes)
        while pos < length:
            end = min(length, pos + next(steps, length))
            often += cut.skip(end - pos) if isinstance(part, int) else cut.feed(memoryview(part)[pos:end])
            pos = end
    once += whole.finish()
    assert often + cut.finish() == once
    assert accounted(once, total)
    assert all(0 <= e.at <= e.end <= total for e in once)


def test_messages_share_and_span_records() -> None:
    certificate = bytes([CERTIFICATE]) + (40_000).to_bytes(3) + bytes(40_000)
    done = bytes([SERVER_HELLO_DONE, 0, 0, 0])
    flight = certificate + done
    data = b"".join(framed(flight[i : i + 16_384]) for i in range(0, len(flight), 16_384))
    first, second = contents(read(data))
    assert first == HandshakeMessageReceived(5, len(data) - 4, CERTIFICATE, 40_004)
    assert second == HandshakeMessageReceived(len(data) - 4, len(data), SERVER_HELLO_DONE, 4)


def test_a_hole_inside_a_certificate_does_not_hide_it() -> None:
    data = framed(bytes([CERTIFICATE]) + (3_000).to_bytes(3) + bytes(3_000)) + framed(bytes([SERVER_HELLO_DONE, 0, 0, 0]))
    reader = TlsReader()
    events = reader.feed(data[:1_000]) + reader.skip(1_448) + reader.feed(data[2_448:]) + reader.finish()
    assert contents(events) == [HandshakeMessageReceived(5, 3_009, CERTIFICATE, 3_004), HandshakeMessageReceived(3_014, 3_018, 14, 4)]


def test_a_hello_that_never_ends_is_unread() -> None:
    data = stream("1.3", "client")[:100]
    assert contents(read(data))[1:] == [BytesUnread(5, 100)]
    assert isinstance(read(data)[0], RecordCut)


def test_clear_alerts() -> None:
    assert read(framed(b"\x02\x28", ALERT)) == [RecordReceived(0, 7, ALERT, TLS_1_2, 2), AlertReceived(5, 7, 2, 40)]
    [_, alert] = read(framed(b"\x01\x00", ALERT, 0x0301))
    assert isinstance(alert, AlertReceived)
    assert (alert.level, ALERT_NAMES[alert.description]) == (1, "close_notify")


@pytest.mark.parametrize("size", [18, 26, 48])
def test_an_alert_record_longer_than_an_alert_is_encrypted(size: int) -> None:
    assert contents(read(framed(bytes(size), ALERT))) == [EncryptedAlertSuspected(0, 5 + size)]


@pytest.mark.parametrize("payload", [b"\x03\x28", b"\x02\x28\x02"])
def test_what_is_no_alert_is_a_fault(payload: bytes) -> None:
    assert [type(e) for e in contents(read(framed(payload, ALERT)))] == [Fault]


def test_only_the_last_record_of_a_finished_stream_may_be_a_13_alert() -> None:
    alert_sized, longer = framed(bytes(19), APPLICATION_DATA), framed(bytes(20), APPLICATION_DATA)
    assert contents(read(alert_sized + longer)) == []
    assert contents(read(longer + alert_sized)) == [EncryptedAlertSuspected(25, 49)]
    assert contents(read(longer + alert_sized + longer[:3])) == [BytesUnread(49, 52)]


def test_other_protocols_are_one_fault_and_unread() -> None:
    request = b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
    assert read(request) == [Fault(0, 5, "not a record header: 474554202f"), BytesUnread(0, len(request))]


def test_garbage_between_records() -> None:
    good = framed(bytes(30), APPLICATION_DATA)
    events = read(good + b"?" * 50 + good + good)
    assert [e.at for e in records(events)] == [0, 85, 120]
    assert contents(events) == [Fault(35, 40, "not a record header: 3f3f3f3f3f"), BytesUnread(35, 85)]


def test_limits_of_a_header() -> None:
    assert read(framed(b"", APPLICATION_DATA)) == [RecordReceived(0, 5, APPLICATION_DATA, TLS_1_2, 0)]
    assert read(framed(b"?", HEARTBEAT)) == [RecordReceived(0, 6, HEARTBEAT, TLS_1_2, 1)]
    longest = struct.pack(">BHH", APPLICATION_DATA, TLS_1_2, MAX_RECORD_LEN)
    assert read(longest) == [RecordCut(0, 5, APPLICATION_DATA, TLS_1_2, MAX_RECORD_LEN)]
    for header in (
        longest[:3] + b"\x48\x01",
        b"\x17\x02\x00\x00\x01",
        b"\x17\x03\x05\x00\x01",
        b"\x19\x03\x03\x00\x01",
        b"\x14\x03\x03\x02\x00",
    ):
        assert isinstance(read(header)[0], Fault)


def test_a_renegotiation_is_encrypted_change_cipher_spec_included() -> None:
    sealed = framed(b"\x01", CHANGE_CIPHER_SPEC) + framed(b"\x9d" * 40) + framed(b"\x9d" * 48, CHANGE_CIPHER_SPEC) + framed(b"\x9d" * 40)
    assert contents(read(sealed)) == [ChangeCipherSpecReceived(5, 6)]


@pytest.mark.parametrize(
    ("length", "cipher", "most"),
    [(16_401, None, 16_384), (17, 0x1301, 0), (5, None, 0), (109, 0x1305, 100), (124, 0xC02F, 100), (124, 0x009C, 100), (116, 0xCCA8, 100)],
)
def test_record_payload_len(length: int, cipher: int | None, most: int) -> None:
    assert record_payload_len(length, cipher) == most
