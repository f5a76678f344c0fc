"""All of step 5: which protocol a connection speaks, the order of exchanges, and no end of reading."""

from __future__ import annotations

import gc
import ssl

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges import pair_exchanges
from pcapdiag.exchanges.choose import Chooser
from pcapdiag.exchanges.pair import Paired
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.losses import Losses
from tests.paired import Read, paired, request, response
from tests.test_exchanges_pair_h2 import CALL, Connection
from tests.test_exchanges_pair_tls import Tls
from tests.wire import Wire, merge
from tests.wire_h2 import PREFACE, RESPONSE, Blocks, settings

CONNECT = b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"
AGREED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def protocols(read: Read) -> list[Protocol]:
    return [exchange.protocol for exchange in read.applications]


def test_ports_say_nothing() -> None:
    assert protocols(paired(Wire(sport=443).handshake().http_get("/"))) == [Protocol.HTTP1]
    assert protocols(Connection().call(1).answer(1).read()) == [Protocol.GRPC]


def test_a_proxy_tunnel_is_read_inside() -> None:
    tls = Tls()
    tls.wire = Wire(sport=3_128).handshake().send(CONNECT).reply(AGREED)
    read = paired(tls.handshake().say(0, 300).say(1, 2_000, wait_ms=50).wire)
    assert [exchange.name for exchange in read.applications] == ["CONNECT api.test:443", "api.example.com"]
    (handshake,) = read.of(Protocol.TLS_HANDSHAKE)
    assert handshake.request[0][0] == len(CONNECT)
    assert handshake.response[0][0] == len(AGREED)
    assert handshake.facts["version"] == int(ssl.TLSVersion.TLSv1_3)


def test_tunnels_within_tunnels_have_an_end() -> None:
    read = paired(Wire().handshake().send(CONNECT * 40).reply(AGREED * 40))
    assert 1 <= len(read.applications) < 10


def test_an_upgrade_to_http2_answers_the_request_that_asked_for_it() -> None:
    blocks, client = Blocks(), Blocks()
    asked = request("/up", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", method="GET")
    wire = (
        Wire()
        .handshake()
        .send(asked)
        .reply(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + settings({}))
    )
    wire.send(PREFACE + settings({})).reply(blocks.headers(1, [(":status", "200")], end_stream=True))
    wire.send(client.headers(3, CALL, end_stream=True)).reply(blocks.headers(3, [*RESPONSE, ("grpc-status", "0")], end_stream=True))
    first, second = paired(wire).applications
    assert (first.name, first.protocol, first.status, first.h2_stream, first.outcome) == ("GET /up", Protocol.H2, "200", 1, Outcome.OK)
    assert (second.h2_stream, second.status) == (3, "0")


def mixed() -> Read:
    return paired(
        merge(
            Wire(cport=50_001, start_ms=5).handshake().http_get("/a", think_ms=100).http_get("/b"),
            Wire(cport=50_002).handshake().http_get("/c").http_get("/d"),
            Wire(cport=50_003, start_ms=1, sport=9_999).syn(),
        )
    )


def test_ids_are_positions_in_the_order_of_time() -> None:
    rows = mixed().exchanges.rows
    assert [row.id for row in rows] == list(range(len(rows)))

    def order(row: Exchange) -> tuple[int, int, int]:
        return row.start_ns, row.flow, row.request[0][0] if row.request else 0

    assert [order(row) for row in rows] == sorted(order(row) for row in rows)
    assert all(row.start_ns <= row.end_ns for row in rows)


def test_the_same_packets_give_the_same_exchanges() -> None:
    assert str(mixed().exchanges.rows) == str(mixed().exchanges.rows)


def test_the_collector_is_left_as_it_was() -> None:
    read = mixed()
    for enabled in (False, True):
        (gc.enable if enabled else gc.disable)()
        assert isinstance(pair_exchanges(read.packets, read.tcp, read.streams, Losses()), Paired)
        assert gc.isenabled() is enabled


def test_reading_keeps_offsets_for_later() -> None:
    read = mixed()
    readings = Chooser(read.tcp, read.streams, Losses()).read(np.unique(read.tcp.pieces.fd >> 1).tolist())
    assert len(readings.drafts) == 4
    assert readings.unknown == []


SEEDS = (
    CONNECT,
    AGREED,
    request(body=b"abc"),
    response(),
    PREFACE + settings({3: 1}),
    b"\x16\x03\x01\x02\x00\x01",
    b"\x17\x03\x03\x00\x20" + bytes(32),
)


@given(st.lists(st.tuples(st.booleans(), st.one_of(st.sampled_from(SEEDS), st.binary(min_size=1, max_size=60)), st.booleans()), max_size=8))
def test_whatever_the_bytes_every_exchange_has_a_begin_and_an_end(said: list[tuple[bool, bytes, bool]]) -> None:
    wire = Wire().handshake()
    for by_server, data, lost in said:
        wire.wait(ms=10).send(data, by="server" if by_server else "client", lose="capture" if lost else None)
    read = paired(wire)
    for exchange in read.exchanges:
        assert read.packets.ts_ns.min() <= exchange.start_ns <= exchange.end_ns <= read.packets.ts_ns.max()
        assert exchange.part_of is None or read.exchanges[exchange.part_of].part_of is None
