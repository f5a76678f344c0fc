"""What an exchange waited for before it could begin: lookups, connects, handshakes; and what nobody waited for."""

from __future__ import annotations

from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.landing import Landed
from pcapdiag.exchanges.setup import attach_setup
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.exchanges.turns import round_trips
from pcapdiag.exchanges.unsettled import Unsettled
from tests.paired import Read, ms, paired, request, response
from tests.test_exchanges_lookups import AAAA, answer, query, resolver
from tests.test_protocols_dns import V4, V6
from tests.wire import Wire, merge

SERVER = ".".join(map(str, V4))


def web(start_ms: float, **options: object) -> Wire:
    return Wire(server=SERVER, start_ms=start_ms, **options).handshake()  # type: ignore[arg-type]  # whatever a Wire takes


def only(read: Read, protocol: Protocol) -> Exchange:
    (exchange,) = read.of(protocol)
    return exchange


def test_the_first_request_waited_for_its_connection() -> None:
    read = paired(Wire(rtt_ms=30).handshake().http_get("/a").http_get("/b"))
    first, second = read.applications
    connect = only(read, Protocol.CONNECT)
    assert (ms(first.start_ns), ms(first.request_start_ns)) == (0, 30)
    assert (connect.part_of, first.setup) == (first.id, (connect.id,))
    assert (second.setup, second.start_ns) == ((), second.request_start_ns)


def test_a_connection_opened_long_before_was_not_waited_for() -> None:
    read = paired(Wire(rtt_ms=30).handshake().wait(ms=200).http_get("/a"))
    connect = only(read, Protocol.CONNECT)
    assert (connect.part_of, connect.facts["prewarmed"]) == (None, True)
    assert read.applications[0].start_ns == read.applications[0].request_start_ns


def test_two_round_trips_are_not_long() -> None:
    assert paired(Wire(rtt_ms=200).handshake().wait(ms=300).http_get("/a")).applications[0].setup != ()


def test_a_connect_without_a_request_stands_alone() -> None:
    connect = only(paired(Wire().handshake().close()), Protocol.CONNECT)
    assert connect.part_of is None
    assert "prewarmed" not in connect.facts


class TestLookups:
    def both(self, start_ms: float = 0, *, late_ms: float = 0) -> Wire:
        wire = resolver(start_ms).udp(query("api.test", 1, 1)).udp(query("api.test", AAAA, 2))
        return (
            wire.udp(answer("api.test", 1, 1), by="server").wait(ms=late_ms).udp(answer("api.test", AAAA, 2, addresses=(V6,)), by="server")
        )

    def test_both_types_are_waited_for(self) -> None:
        read = paired(merge(self.both(late_ms=500), web(521).http_get("/")))
        (exchange,) = read.applications
        assert {lookup.part_of for lookup in read.of(Protocol.DNS)} == {exchange.id}
        assert len(exchange.setup) == 3
        assert ms(exchange.start_ns) == 0

    def test_a_late_answer_nobody_waited_for_is_no_phase(self) -> None:
        read = paired(merge(self.both(late_ms=5_000), web(21).http_get("/")))
        (exchange,) = read.applications
        awaited, late = read.of(Protocol.DNS)
        assert exchange.setup == tuple(sorted((awaited.id, only(read, Protocol.CONNECT).id)))
        assert (late.part_of, late.facts["awaited"]) == (exchange.id, False)

    def test_an_answer_long_before_the_connect_was_not_waited_for(self) -> None:
        read = paired(merge(self.both(), web(500).http_get("/")))
        assert [lookup.part_of for lookup in read.of(Protocol.DNS)] == [None, None]
        assert ms(read.applications[0].start_ns) == 500

    def test_an_answer_serves_one_connect(self) -> None:
        read = paired(merge(self.both(), web(21).http_get("/"), web(25, cport=50_001).http_get("/")))
        first, second = read.applications
        assert len(first.setup) == 3
        assert len(second.setup) == 1

    def test_another_address_or_client_waited_for_something_else(self) -> None:
        read = paired(merge(self.both(), Wire(server="192.0.2.8", start_ms=21).handshake().http_get("/")))
        assert [lookup.part_of for lookup in read.of(Protocol.DNS)] == [None, None]

    def test_search_suffixes_that_failed_were_waited_for(self) -> None:
        names = ["api.test.ns.svc.cluster.local", "api.test.svc.cluster.local"]
        parts = [
            resolver(30 * index, cport=40_000 + index).udp(query(name)).udp(answer(name, rcode=3, addresses=()), by="server")
            for index, name in enumerate(names)
        ]
        read = paired(merge(*parts, self.both(60), web(82).http_get("/")))
        (exchange,) = read.applications
        assert len(exchange.setup) == 5
        assert ms(exchange.start_ns) == 0

    def test_the_lookup_of_a_refused_connect_is_its_phase(self) -> None:
        read = paired(merge(self.both(), Wire(server=SERVER, start_ms=21).syn().rst("server", seq=0)))
        connect = only(read, Protocol.CONNECT)
        assert {lookup.part_of for lookup in read.of(Protocol.DNS)} == {connect.id}
        assert (ms(connect.start_ns), connect.outcome) == (0, Outcome.ERROR)

    def test_a_request_waited_for_the_address_that_failed_first(self) -> None:
        dead = Wire(client="10.0.0.1", server="192.0.2.66", start_ms=21).syn(lose="after")
        found = resolver(0).udp(query("api.test")).udp(answer("api.test", addresses=(bytes([192, 0, 2, 66]), V4)), by="server")
        read = paired(merge(found, dead, web(271, cport=50_001).http_get("/")))
        (exchange,) = read.applications
        failed, connect = read.of(Protocol.CONNECT)
        assert (failed.part_of, connect.part_of) == (exchange.id, exchange.id)
        assert (failed.outcome is Outcome.OK, ms(exchange.start_ns)) == (False, 0)


def test_nothing_to_attach_changes_nothing() -> None:
    read = paired(Wire().send(request()).reply(response()))
    unsettled = Unsettled.of(Landed.given(gather([])))
    attach_setup(unsettled, {}, read.tcp, read.packets.addresses, round_trips(read.tcp))
    assert len(unsettled.settled()) == 0
    assert read.applications[0].setup == ()
