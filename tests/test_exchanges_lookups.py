"""DNS lookups: a question, its repeats, and the answer that ends them."""

from __future__ import annotations

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.lookups import find_lookups
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.losses import Loss, Losses
from tests.frame_bytes import MAC_A, MAC_B
from tests.paired import ms, paired
from tests.test_protocols_dns import TO_QUESTION, V4, message, question, record
from tests.wire import Recording, Wire, merge
from tests.wire_bytes import Ip, ethernet

AAAA = 28


def query(name: str, qtype: int = 1, ident: int = 1) -> bytes:
    return message([question(name, qtype)], ident=ident)


def answer(
    name: str, qtype: int = 1, ident: int = 1, *, rcode: int = 0, addresses: tuple[bytes, ...] = (V4,), truncated: bool = False
) -> bytes:
    records = tuple(record(TO_QUESTION, qtype, address) for address in addresses)
    return message([question(name, qtype)], flags=0x8180 | rcode | (0x200 if truncated else 0), answers=records, ident=ident)


def resolver(start_ms: float = 0, *, cport: int = 40_000, server: str = "10.0.0.53", sport: int = 53) -> Wire:
    return Wire(cport=cport, server=server, sport=sport, start_ms=start_ms)


def lookups(*parts: Recording) -> list[Exchange]:
    return paired(merge(*parts)).of(Protocol.DNS)


def test_a_lookup_lasts_from_the_question_to_its_answer() -> None:
    (lookup,) = lookups(resolver().udp(query("Api.Test")).wait(ms=30).udp(answer("api.test"), by="server"))
    assert (lookup.name, lookup.status, lookup.outcome) == ("A api.test", "NOERROR", Outcome.OK)
    assert (ms(lookup.start_ns), ms(lookup.end_ns), len(lookup.tries), len(lookup.frames)) == (0, 50, 1, 2)


@pytest.mark.parametrize(("rcode", "status"), [(2, "SERVFAIL"), (3, "NXDOMAIN"), (5, "REFUSED"), (9, "RCODE9")])
def test_an_answer_may_say_no(rcode: int, status: str) -> None:
    (lookup,) = lookups(resolver().udp(query("api.test")).udp(answer("api.test", rcode=rcode, addresses=()), by="server"))
    assert (lookup.status, lookup.outcome) == (status, Outcome.ERROR)


def test_two_types_are_two_lookups_and_repeats_are_tries() -> None:
    wire = resolver().udp(query("api.test", 1, 1), lose="after").udp(query("api.test", AAAA, 2), lose="after").wait(ms=5_000)
    wire.udp(query("api.test", 1, 1)).udp(query("api.test", AAAA, 2))
    wire.udp(answer("api.test", 1, 1), by="server").udp(answer("api.test", AAAA, 2, addresses=()), by="server")
    found = lookups(wire)
    assert [lookup.name for lookup in found] == ["A api.test", "AAAA api.test"]
    assert [[ms(ns) for ns in lookup.tries] for lookup in found] == [[0, 5_000]] * 2
    assert all(ms(lookup.end_ns) == 5_020 for lookup in found)


def test_the_next_resolver_continues_a_lookup() -> None:
    first = resolver().udp(query("api.test"), lose="after")
    second = resolver(5_000, cport=40_001, server="10.0.0.54").udp(query("api.test", ident=7)).udp(answer("api.test", ident=7), by="server")
    (lookup,) = lookups(first, second)
    assert (len(lookup.tries), lookup.facts["resolvers"], ms(lookup.end_ns)) == (2, 2, 5_020)


def test_two_who_ask_the_same_at_once_are_two_lookups() -> None:
    first = resolver().udp(query("api.test", ident=1)).udp(answer("api.test", ident=1), by="server")
    second = resolver(5, cport=40_001).udp(query("api.test", ident=2)).udp(answer("api.test", ident=2), by="server")
    assert [len(lookup.tries) for lookup in lookups(first, second)] == [1, 1]


def test_the_same_question_after_its_answer_is_a_new_lookup() -> None:
    wire = resolver().udp(query("api.test")).udp(answer("api.test"), by="server").wait(ms=2_000)
    assert len(lookups(wire.udp(query("api.test")).udp(answer("api.test"), by="server"))) == 2


def test_an_answer_of_somebody_who_was_not_asked_is_none() -> None:
    asked = resolver().udp(query("api.test"), lose="after")
    other = resolver(10, server="10.0.0.99").udp(answer("api.test"), by="server")
    later = Wire(start_ms=9_000).handshake()
    lookup = lookups(asked, other, later)[0]
    assert (lookup.outcome, lookup.first_byte_ns) == (Outcome.INCOMPLETE, NEVER)


def test_a_lookup_nobody_answers_is_given_up_like_the_try_before() -> None:
    wire = resolver().udp(query("api.test"), lose="after").wait(ms=2_000).udp(query("api.test"), lose="after")
    (lookup,) = lookups(wire, Wire(start_ms=60_000).handshake())
    assert (lookup.outcome, ms(lookup.end_ns)) == (Outcome.INCOMPLETE, 4_000)
    (lookup,) = lookups(resolver().udp(query("api.test"), lose="after"), Wire(start_ms=3_000, rtt_ms=1).syn(lose="after"))
    assert ms(lookup.end_ns) == 3_000


def test_an_answer_of_which_a_fragment_is_missing_is_no_answer() -> None:
    big = answer("api.test", addresses=tuple(bytes([10, 9, index, 1]) for index in range(160)))
    wire = resolver().udp(query("api.test")).fragment(big, lose="before", only=[1]).wait(ms=2_000)
    (lookup,) = lookups(wire.udp(query("api.test")).fragment(big))
    assert ([ms(ns) for ns in lookup.tries], lookup.facts["answer_in_pieces"]) == ([0, 2_020], True)
    assert lookup.status == "NOERROR"


class _Tunnelled(Recording):
    """What a tap on a GRE tunnel's path saw of a recording, its packets cut up by their outer headers where they are too long."""

    def __init__(self, inside: Recording) -> None:
        self._inside = inside

    def sights(self) -> list[tuple[int, int, bytes]]:
        found = []
        for ident, (true_ns, shown_ns, frame) in enumerate(self._inside.sights()):
            outer = Ip(src="192.0.2.1", dst="192.0.2.2", proto=47, ip_id=1 + ident, dont_fragment=False)
            pieces = outer.fragments(b"\x00\x00\x08\x00" + frame[14:], 1_500)
            found += [(true_ns + at, shown_ns + at, ethernet(MAC_A, MAC_B, piece)) for at, piece in enumerate(pieces)]
        return found


def test_a_whole_packet_of_a_tunnel_may_hold_one_fragment_of_an_answer() -> None:
    big = answer("api.test", addresses=tuple(bytes([10, 9, index, 1]) for index in range(160)))
    wire = resolver().udp(query("api.test")).fragment(big, lose="before", only=[1]).wait(ms=2_000)
    (lookup,) = lookups(_Tunnelled(wire.udp(query("api.test")).fragment(big)))
    assert ([ms(ns) for ns in lookup.tries], lookup.facts["answer_in_pieces"]) == ([0, 2_020], True)


def test_multicast_questions_need_no_answer() -> None:
    asked = resolver(sport=5353, server="224.0.0.251").udp(query("printer.local"))
    named = resolver(sport=5355, cport=40_002, server="10.0.0.7").udp(query("desk")).udp(answer("desk"), by="server")
    assert [lookup.name for lookup in lookups(asked, named)] == ["A desk"]


def test_what_is_no_message_is_counted() -> None:
    read = paired(resolver().udp(b"\x00" * 5))
    losses = Losses()
    assert find_lookups(read.packets, read.tcp, losses, clipped_ns=0) == []
    assert losses.total(Loss.UNDECODED_DNS) == read.losses.total(Loss.UNDECODED_DNS) == 1


def test_a_lookup_over_tcp_waits_for_its_connection() -> None:
    def framed(payload: bytes) -> bytes:
        return len(payload).to_bytes(2, "big") + payload

    udp = resolver().udp(query("api.test")).udp(answer("api.test", truncated=True, addresses=()), by="server")
    tcp = Wire(cport=41_000, server="10.0.0.53", sport=53, start_ms=21, rtt_ms=20).handshake().send(framed(query("api.test")))
    tcp.reply(framed(answer("api.test")))
    web = Wire(server=".".join(map(str, V4)), start_ms=65).handshake().http_get("/")
    read = paired(merge(udp, tcp, web))
    over_udp, over_tcp = read.of(Protocol.DNS)
    (request,) = read.applications
    assert over_tcp.facts["transport"] == "tcp"
    assert over_udp.facts["truncated"] is True
    assert (over_udp.part_of, over_tcp.part_of) == (request.id, request.id)
    assert ms(over_tcp.start_ns) == 21
    assert ms(request.start_ns) == 0
