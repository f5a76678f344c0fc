"""When clients gave up and no packet says so."""

from __future__ import annotations

import numpy as np

from pcapdiag.exchanges.abandon import settle_abandoned
from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.landing import Landed
from pcapdiag.exchanges.table import CODES, OUTCOMES, Outcome, Protocol
from pcapdiag.exchanges.unsettled import Unsettled
from tests.paired import ms, paired, request, response
from tests.wire import Wire, merge


def dead(*headers: str) -> Wire:
    """A request on a connection whose packets have stopped arriving."""
    return Wire().handshake().http_get("/").wait(ms=8_000).send(request("/tool", *headers), lose="after").wait(ms=300).resend(lose="after")


def again(*headers: str, start_ms: float = 14_060, body: bytes = b"") -> Wire:
    return (
        Wire(cport=50_001, start_ms=start_ms).handshake().send(request("/tool", *headers, body=body)).reply(response()).wait(ms=2_000).ack()
    )


def test_the_same_request_on_a_new_connection_ends_the_first() -> None:
    _, first, second = paired(merge(dead(), again())).applications
    assert (first.outcome, first.aborted_by, first.facts["abandoned"]) == (Outcome.ABORTED, "client", True)
    assert first.end_ns == second.start_ns
    assert ms(first.end_ns) == 14_060


def test_the_id_its_client_gave_it_tells_it_from_another() -> None:
    _, first, _ = paired(merge(dead("X-Request-Id: a"), again("X-Request-Id: b"))).applications
    assert first.outcome is Outcome.INCOMPLETE
    _, first, second = paired(merge(dead("X-Request-Id: a"), again("X-Request-Id: a"))).applications
    assert (first.outcome, first.end_ns) == (Outcome.ABORTED, second.start_ns)


def test_a_longer_request_is_another() -> None:
    _, first, _ = paired(merge(dead(), again(body=b"x" * 500))).applications
    assert first.outcome is Outcome.INCOMPLETE


def test_a_request_that_is_being_worked_on_is_not_given_up() -> None:
    slow = Wire().handshake().send(request("/tool")).ack("server").wait(ms=9_000).reply(response())
    first, _ = paired(merge(slow, again(start_ms=3_000))).applications
    assert (first.outcome, first.status) == (Outcome.OK, "200")
    open_yet = Wire().handshake().send(request("/tool")).ack("server")
    first, _ = paired(merge(open_yet, again(start_ms=3_000))).applications
    assert first.outcome is Outcome.INCOMPLETE


def test_a_syn_goes_to_the_request_that_failed_before_the_connect_that_waits() -> None:
    refused = Wire(cport=50_000).handshake().send(request("/tool")).wait(ms=10).rst("server")
    waiting = Wire(cport=50_001, start_ms=20, rtt_ms=700).syn().syn_ack().rst("client")
    retry = Wire(cport=50_002, start_ms=60).handshake().wait(ms=1_000).ack()
    last = Wire(cport=50_003, start_ms=420).handshake().wait(ms=1_000).ack()
    connects = paired(merge(refused, waiting, retry, last)).of(Protocol.CONNECT)
    late = next(connect for connect in connects if connect.outcome is Outcome.ABORTED)
    assert ms(late.end_ns) == 420


def test_another_protocol_family_is_another_request() -> None:
    read = paired(merge(dead(), again()))
    hung = next(row.id for row in read.exchanges if row.facts.get("abandoned"))
    for protocol, outcome in ((Protocol.HTTP1, Outcome.ABORTED), (Protocol.SSE, Outcome.ABORTED), (Protocol.GRPC, Outcome.INCOMPLETE)):
        table = read.exchanges.take(np.arange(len(read.exchanges)))
        unsettled = Unsettled(table, table.request_end_ns, table.part_of >= 0, list(table.facts))
        table.protocol[hung], table.outcome[hung], table.end_ns[hung] = CODES[protocol], CODES[Outcome.INCOMPLETE], read.packets.ts_ns.max()
        settle_abandoned(unsettled, read.tcp)
        assert OUTCOMES[table.outcome[hung]] is outcome


def test_nothing_to_settle_changes_nothing() -> None:
    unsettled = Unsettled.of(Landed.given(gather([])))
    settle_abandoned(unsettled, paired(Wire().handshake()).tcp)
    assert len(unsettled.settled()) == 0
