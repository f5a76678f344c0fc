"""TLS without keys, made by real endpoints in memory: the handshake, and what sizes and times give away."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest

from pcapdiag.exchanges.pair_tls import TlsPairing
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.exchanges.tape import Tape
from pcapdiag.exchanges.tls_talk import Talk
from pcapdiag.losses import Losses
from tests.paired import paired
from tests.test_protocols_tls import contexts
from tests.wire import Wire

MS = 1_000_000


class Tls:
    """A TLS connection over a Wire."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, *, alpn: tuple[str, ...] = (), rtt_ms: float = 20) -> None:
        ends = contexts(version)
        for end in ends:
            if alpn:
                end.set_alpn_protocols(list(alpn))
        self.wire = Wire(sport=443, rtt_ms=rtt_ms).handshake()
        self._bios = [ssl.MemoryBIO() for _ in range(4)]
        client = ends[0].wrap_bio(self._bios[0], self._bios[1], server_hostname="api.example.com")
        server = ends[1].wrap_bio(self._bios[2], self._bios[3], server_side=True)
        self._ends = client, server

    def flight(self, side: int) -> Tls:
        """Lets one side do its part of the handshake and sends what it has to say."""
        with suppress(ssl.SSLError):
            self._ends[side].do_handshake()
        return self._move(side)

    def handshake(self) -> Tls:
        for _ in range(3):
            self.flight(0).flight(1)
        return self

    def say(self, side: int, length: int, *, wait_ms: float = 0) -> Tls:
        self._ends[side].write(b"x" * length)
        self.wire.wait(ms=wait_ms)
        self._move(side)
        with suppress(ssl.SSLError):
            self._ends[1 - side].read(length)
        return self

    def _move(self, side: int) -> Tls:
        sent = self._bios[1 + 2 * side].read()
        if sent:
            self.wire.send(sent, by="server" if side else "client")
            self._bios[2 - 2 * side].write(sent)
        return self

    def exchanges(self) -> list[Exchange]:
        return list(paired(self.wire).exchanges)


def of(protocol: Protocol, exchanges: list[Exchange]) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.protocol is protocol]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
class TestHandshakeAndTurns:
    def test_the_handshake_ends_when_the_client_may_speak(self, version: ssl.TLSVersion) -> None:
        exchanges = Tls(version).handshake().say(0, 300).say(1, 2_000, wait_ms=50).exchanges()
        (handshake,) = of(Protocol.TLS_HANDSHAKE, exchanges)
        (request,) = of(Protocol.TLS, exchanges)
        round_trips = 1 if version is ssl.TLSVersion.TLSv1_3 else 2
        assert handshake.duration_ns == pytest.approx(20 * MS * round_trips, abs=2 * MS)
        assert (handshake.name, handshake.keys, handshake.outcome) == ("api.example.com", "none", Outcome.OK)
        assert handshake.facts["version"] == int(version)
        assert handshake.part_of == request.id
        assert request.start_ns < handshake.start_ns
        assert request.setup == (of(Protocol.CONNECT, exchanges)[0].id, handshake.id)

    def test_a_request_lasts_until_the_server_stops(self, version: ssl.TLSVersion) -> None:
        tls = Tls(version).handshake().say(0, 300).say(1, 2_000, wait_ms=500)
        for _ in range(20):
            tls.say(1, 200, wait_ms=30)
        first, second = of(Protocol.TLS, tls.say(0, 400).say(1, 1_000, wait_ms=100).exchanges())
        assert first.inferred
        assert first.first_byte_ns - first.request_end_ns == pytest.approx(520 * MS, abs=2 * MS)
        assert first.end_ns - first.first_byte_ns == pytest.approx(600 * MS, abs=2 * MS)
        assert second.first_byte_ns - second.request_end_ns == pytest.approx(120 * MS, abs=2 * MS)


def test_session_tickets_are_no_answer() -> None:
    tls = Tls().flight(0).flight(1).flight(0)
    tls.say(0, 300).flight(1)  # tickets leave the server at once; the answer takes its time
    (request,) = of(Protocol.TLS, tls.say(1, 2_000, wait_ms=500).exchanges())
    assert request.first_byte_ns - request.request_end_ns > 500 * MS


def test_http2_control_frames_are_no_requests() -> None:
    tls = Tls(alpn=("h2", "http/1.1")).handshake()
    tls.say(0, 82).say(1, 51).say(0, 9).say(1, 9)  # prefaces and SETTINGS
    tls.say(0, 400, wait_ms=40).say(1, 1_000, wait_ms=300)
    tls.say(0, 13).say(0, 17, wait_ms=100).say(1, 17)  # WINDOW_UPDATE, PING
    (request,) = of(Protocol.TLS, tls.exchanges())
    assert request.request_len == 400 + 22
    assert request.first_byte_ns - request.request_end_ns == pytest.approx(320 * MS, abs=2 * MS)


def test_an_upload_goes_on_while_the_server_already_speaks() -> None:
    tls = Tls().handshake().say(0, 5_000)
    wire = tls.wire
    wire.wait(ms=1)
    tls.say(1, 300)
    tls.say(1, 3_000, wait_ms=100).say(0, 200, wait_ms=0)
    assert len(of(Protocol.TLS, tls.say(1, 3_000, wait_ms=1).exchanges())) == 2


def test_an_alert_refuses_the_handshake() -> None:
    tls = Tls()
    tls.flight(0)
    tls.wire.reply(bytes([21, 3, 3, 0, 2, 2, 40])).fin("server")
    exchanges = tls.exchanges()
    (handshake,) = of(Protocol.TLS_HANDSHAKE, exchanges)
    assert (handshake.outcome, handshake.status, handshake.facts["alert_by"]) == (Outcome.ERROR, "handshake_failure", "server")
    assert handshake.part_of is None
    assert of(Protocol.CONNECT, exchanges)[0].part_of == handshake.id


def test_a_handshake_without_an_answer() -> None:
    tls = Tls()
    tls.flight(0)
    tls.wire.wait(ms=5_000).rst("client")
    (handshake,) = of(Protocol.TLS_HANDSHAKE, tls.exchanges())
    assert (handshake.outcome, handshake.aborted_by) == (Outcome.ABORTED, "client")
    assert handshake.duration_ns > 5_000 * MS


def test_a_reset_out_of_the_blue_cuts_the_last_response() -> None:
    tls = Tls().handshake().say(0, 300).say(1, 2_000, wait_ms=50)
    tls.wire.wait(ms=30).rst("server")
    (request,) = of(Protocol.TLS, tls.exchanges())
    assert (request.outcome, request.aborted_by) == (Outcome.ABORTED, "server")


def test_a_reset_of_an_idle_connection_cuts_nothing() -> None:
    tls = Tls().handshake().say(0, 300).say(1, 2_000, wait_ms=50)
    tls.wire.wait(ms=60_000).rst("server")
    (request,) = of(Protocol.TLS, tls.exchanges())
    assert request.outcome is Outcome.OK


def test_a_start_in_the_middle_has_turns_but_no_handshake() -> None:
    tls = Tls().handshake()
    tls.wire = Wire(sport=443)
    exchanges = tls.say(0, 500).say(1, 2_000, wait_ms=200).say(0, 500, wait_ms=300).say(1, 2_000, wait_ms=100).exchanges()
    assert of(Protocol.TLS_HANDSHAKE, exchanges) == []
    assert [(e.name, e.outcome) for e in of(Protocol.TLS, exchanges)] == [("encrypted", Outcome.OK)] * 2


def test_a_talk_keeps_what_it_heard() -> None:
    alert = bytes([21, 3, 3, 0, 2, 2, 40])
    talk = Talk.read(Tape.of_bytes([(100, 100 + len(alert), alert)]), synced=True, losses=Losses(), capture=0)
    assert talk.alert is not None
    at, description = talk.alert
    assert talk.records[0].at == 100 <= at < talk.records[0].end
    assert description == 40
    assert TlsPairing(0, talk, talk).name == "encrypted"
