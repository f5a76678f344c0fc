"""What a capture's own defects make doubtful is not measured; what its packets show all the same stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pcapdiag.detectors import bufferbloat, h2_tcp_hol, tail_loss_rto
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose
from tests.detectors.opinion import diagnosed
from tests.detectors.test_h2_tcp_hol import ANSWER, asked
from tests.test_flows_filtered import FIN, RST, RULES, SYN, Kept, Shown
from tests.wire import Wire, merge
from tests.wire_h2 import Blocks, data

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcapdiag.trace import Trace
    from tests.wire import Recording

NO_ACKS = next(keep for rule, keep in RULES.items() if rule.value == "no-acks")


def asked_often(*, vantage: str = "client", connections: int = 3, think_ms: float = 210, step_ms: float = 5) -> Recording:
    """Connections whose requests all take their time, and whose answers come in many segments."""
    parts = []
    for number in range(connections):
        wire = Wire(cport=50_000 + number, start_ms=17 * number, rtt_ms=1, vantage=vantage).handshake()  # type: ignore[arg-type]  # one of three
        for size in range(12):
            wire.wait(ms=60).http_get(body=12_000, think_ms=think_ms + step_ms * size)
        parts.append(wire.close())
    return merge(*parts)


def network(trace: Trace) -> list[str]:
    return [f.code for f in diagnose(trace).findings if f.conclusion.kind is FindingKind.CAUSE and f.domain.value == "network"]


# --- no acknowledgments -------------------------------------------------------------------------------------------------


def test_without_acknowledgments_no_round_trip_is_known() -> None:
    trace = Kept(asked_often(), NO_ACKS).trace()
    assert trace.quality[0].filtered == "no-acks"
    assert (trace.segments.rtt_ns == -1).all()
    assert (trace.flows.near_rtt_ns == -1).all(), "what comes behind the SYN-ACK is the first request"
    assert (trace.flows.far_rtt_ns >= 0).all()


def test_the_time_a_server_takes_is_no_queue_though_nothing_else_acknowledges_the_request() -> None:
    trace = Kept(asked_often(think_ms=100, step_ms=25), NO_ACKS).trace()
    assert diagnosed(bufferbloat.DETECTOR, trace) == []
    assert network(trace) == []


def resent(after_ms: float) -> Recording:
    """One request passes the tap twice; others around it."""
    wire = Wire(rtt_ms=1).handshake()
    for _ in range(8):
        wire.http_get(body=20_000, think_ms=30)
    wire.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n", lose="after").wait(ms=after_ms).resend(by="client")
    return wire.wait(ms=30).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").close()


def test_without_acknowledgments_a_quick_resend_is_no_loss() -> None:
    """It may have been needless: nobody captured what would say so."""
    assert len(resent(30).trace().tcp.recoveries) == 1
    trace = Kept(resent(30), NO_ACKS).trace()
    assert len(trace.tcp.recoveries) == 0
    assert diagnosed(tail_loss_rto.DETECTOR, trace) == []


def test_one_that_waited_for_a_timer_is_and_is_less_sure() -> None:
    (whole,) = diagnosed(tail_loss_rto.DETECTOR, resent(300).trace())
    (found,) = diagnosed(tail_loss_rto.DETECTOR, Kept(resent(300), NO_ACKS).trace())
    assert (whole.confidence.value, found.confidence.value) == (0.95, 0.4)


def test_one_direction_alone_shows_no_hole_that_streams_wait_behind() -> None:
    wire, blocks = asked("server", (1, 3, 5)), Blocks()
    begin = wire._hosts["server"].next_start
    for stream in (1, 3, 5):
        wire.reply(blocks.headers(stream, ANSWER) + data(stream, b"x" * 1_000), lose="after" if stream == 1 else None)
    wire.wait(ms=60).resend(begin, begin + 1_000, by="server").wait(ms=60)
    for stream in (3, 5, 1):
        wire.reply(data(stream, b"x" * 1_000, end_stream=True))
    assert diagnosed(h2_tcp_hol.DETECTOR, wire.trace()) != []

    class OfServer(Kept):
        def sights(self) -> list[tuple[int, int, bytes]]:
            return [sight for sight in wire.sights() if int.from_bytes(sight[2][34:36]) == 80]

    trace = OfServer(wire, lambda _: True).trace()
    assert trace.flows.one_way.all()
    assert diagnosed(h2_tcp_hol.DETECTOR, trace) == []


# --- a capture that lost packets ------------------------------------------------------------------------------------------


def lacking(keep: Callable[[Shown, bool], bool], *, vantage: str = "client") -> Trace:
    """`asked_often` without some packets; the rule sees whether the server sent a packet."""
    whole = asked_often(vantage=vantage)

    class Lacking(Kept):
        def sights(self) -> list[tuple[int, int, bytes]]:
            told = whole.sights()
            shown = [Shown(i, data[47], len(data) - 34 - (data[46] >> 4) * 4) for i, (_, _, data) in enumerate(told)]
            return [s for s, one in zip(told, shown, strict=True) if keep(one, int.from_bytes(s[2][34:36]) == 80)]

    return Lacking(whole, lambda _: True).trace()


def _pure(one: Shown) -> bool:
    return not one.length and not one.flags & (SYN | FIN | RST)


def test_an_acknowledgment_that_the_capture_lost_is_no_lost_answer() -> None:
    """Its IP-ID is skipped, and the next answer comes as late as a timer would bring it: the server was at work."""
    answered = iter(range(1_000))
    trace = lacking(lambda one, by_server: not (by_server and _pure(one) and next(answered) in {5, 17}) and one.number != 19)
    assert "capture-loss" in trace.quality[0].issues
    assert network(trace) == []
    assert not trace.tcp.recoveries.tail.any()


def test_where_the_capture_lost_nothing_skipped_ids_still_prove_a_loss() -> None:
    told = Wire(vantage="server").handshake()
    for _ in range(3):
        told.send(100).reply(50).wait(ms=30)
    trace = told.send(100, lose="before").wait(ms=240).resend().reply(10).trace()
    assert trace.tcp.recoveries.tail.tolist() == [True]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_request_that_was_lost_is_found_although_the_capture_lost_packets(lost: int) -> None:
    """The client had acknowledged everything: what it sent next, and nobody saw, was no acknowledgment."""
    told = Wire(vantage="server", rtt_ms=1).handshake()
    for _ in range(5):
        told.send(100).reply(5_000).wait(ms=60)
    told.send(100, lose="before").wait(ms=240).resend().reply(10)
    trace = Kept(told, lambda one: one.number != 12 * lost + 6 * (1 - lost)).trace()
    assert trace.tcp.recoveries.tail.any()
