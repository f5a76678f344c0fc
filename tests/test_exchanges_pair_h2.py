"""HTTP/2 and gRPC: one exchange per stream, and the log of the connection."""

from __future__ import annotations

import pytest

from pcapdiag.exchanges.fields import UNKNOWN_NAME
from pcapdiag.exchanges.h2log import make_log
from pcapdiag.exchanges.pair_h2 import H2Reading
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.losses import Loss
from pcapdiag.protocols.http2_rows import H2Kind
from tests.paired import Read, paired
from tests.wire import Recording, Wire
from tests.wire_h2 import PREFACE, RESPONSE, Blocks, data, frame, goaway, ping, reset, settings, window_update

CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/agent.Tools/Call"),
    (":authority", "tools"),
    ("content-type", "application/grpc"),
]
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/models?key=secret"), (":authority", "api")]
MS = 1_000_000
HELLO = b"\x00\x00\x00\x00\x05hello"


class Connection:
    """An HTTP/2 connection on a Wire, with both prefaces exchanged; stream bytes counted by the blocks it made."""

    def __init__(self, **options: object) -> None:
        self.wire = Wire(sport=50_051, **options).handshake().send(PREFACE + settings({4: 65_535})).reply(settings({3: 100}))  # type: ignore[arg-type]  # whatever a Wire takes
        self.client, self.server = Blocks(), Blocks()

    def call(self, stream_id: int, *more: tuple[str, str], body: bytes = HELLO) -> Connection:
        self.wire.send(self.client.headers(stream_id, [*CALL, *more]) + data(stream_id, body, end_stream=True))
        return self

    def answer(self, stream_id: int, *messages: bytes, status: str = "0", every_ms: float = 0) -> Connection:
        self.wire.reply(self.server.headers(stream_id, RESPONSE))
        for message in messages:
            self.wire.wait(ms=every_ms).reply(data(stream_id, message))
        self.wire.reply(self.server.headers(stream_id, [("grpc-status", status)], end_stream=True))
        return self

    def wait(self, time_ms: float) -> Connection:
        self.wire.wait(ms=time_ms)
        return self

    def read(self) -> Read:
        return paired(self.wire)


def test_a_unary_call() -> None:
    read = Connection().call(1, ("grpc-timeout", "1500m")).wait(100).answer(1, HELLO).read()
    (call,) = read.applications
    assert (call.protocol, call.name, call.status, call.outcome) == (Protocol.GRPC, "POST /agent.Tools/Call", "0", Outcome.OK)
    assert (call.h2_stream, call.deadline_ns, len(call.messages)) == (1, 1_500_000_000, 1)
    assert call.first_byte_ns - call.request_end_ns == pytest.approx(120 * MS, abs=MS)
    assert len(call.request) == len(call.response) == 1
    assert call.end_ns >= call.first_byte_ns


def test_streams_that_interleave_own_only_their_frames() -> None:
    connection = Connection().call(1).call(3)
    wire, blocks = connection.wire, connection.server
    first, second = blocks.headers(1, RESPONSE), blocks.headers(3, RESPONSE)
    last = [blocks.headers(number, [("grpc-status", "0")], end_stream=True) for number in (1, 3)]
    wire.reply(first + second + data(1, HELLO) + data(3, HELLO) + last[0] + last[1])
    one, three = connection.read().applications
    at = len(settings({3: 100}))
    expected_one: list[tuple[int, int]] = []
    expected_three: list[tuple[int, int]] = []
    for part, owner in (
        (first, expected_one), (second, expected_three), (data(1, HELLO), expected_one),
        (data(3, HELLO), expected_three), (last[0], expected_one), (last[1], expected_three),
    ):  # fmt: skip
        owner.append((at, at + len(part)))
        at += len(part)
    assert list(one.response) == expected_one
    assert list(three.response) == expected_three
    assert one.end_ns <= three.end_ns


def test_messages_of_a_stream_are_counted_where_they_end() -> None:
    (call,) = Connection().call(1).answer(1, HELLO, HELLO + HELLO[:4], HELLO[4:], every_ms=30).read().applications
    assert len(call.messages) == 3
    assert call.is_stream
    assert all(start < stop for start, stop in zip(call.messages, call.messages[1:], strict=False))


@pytest.mark.parametrize(("status", "outcome"), [("0", Outcome.OK), ("4", Outcome.ERROR), ("14", Outcome.ERROR)])
def test_the_status_of_a_call_is_in_its_trailers(status: str, outcome: Outcome) -> None:
    (call,) = Connection().call(1).answer(1, status=status).read().applications
    assert (call.status, call.outcome) == (status, outcome)


def test_trailers_only() -> None:
    connection = Connection().call(1)
    connection.wire.reply(connection.server.headers(1, [*RESPONSE, ("grpc-status", "14")], end_stream=True))
    (call,) = connection.read().applications
    assert (call.status, call.outcome) == ("14", Outcome.ERROR)


def test_a_proxy_that_answers_a_call_with_http() -> None:
    connection = Connection().call(1)
    connection.wire.reply(connection.server.headers(1, [(":status", "503"), ("content-type", "text/html")], end_stream=True))
    (call,) = connection.read().applications
    assert (call.protocol, call.status, call.outcome) == (Protocol.GRPC, "503", Outcome.ERROR)


def test_plain_http2_and_its_query() -> None:
    connection = Connection()
    connection.wire.send(connection.client.headers(1, GET, end_stream=True))
    connection.wire.reply(connection.server.headers(1, [(":status", "404")]) + data(1, b"no", end_stream=True))
    (exchange,) = connection.read().applications
    assert (exchange.protocol, exchange.name, exchange.status, exchange.outcome) == (Protocol.H2, "GET /models", "404", Outcome.ERROR)


def test_events_over_http2() -> None:
    connection = Connection()
    connection.wire.send(connection.client.headers(1, GET, end_stream=True))
    connection.wire.reply(connection.server.headers(1, [(":status", "200"), ("content-type", "text/event-stream")]))
    connection.wire.reply(data(1, b"data: a\n\ndata: b\n")).wait(ms=20).reply(data(1, b"\ndata: [DONE]\n\n", end_stream=True))
    (exchange,) = connection.read().applications
    assert (exchange.protocol, len(exchange.messages), exchange.facts["sse_done"]) == (Protocol.SSE, 3, True)


class TestHowStreamsEnd:
    def test_a_client_that_cancels_aborts_when_it_says_so(self) -> None:
        connection = Connection().call(1, ("grpc-timeout", "1S"))
        connection.wire.wait(ms=1_000).send(reset(1, 8))
        (call,) = connection.read().applications
        assert (call.outcome, call.aborted_by, call.facts["h2_error"]) == (Outcome.ABORTED, "client", 8)
        assert call.end_ns - call.request_end_ns == pytest.approx(1_000 * MS, abs=MS)

    def test_a_cancel_after_the_answer_aborts_nothing(self) -> None:
        connection = Connection().call(1).answer(1, HELLO)
        connection.wire.wait(ms=10).send(reset(1, 8))
        (call,) = connection.read().applications
        assert call.outcome is Outcome.OK

    def test_an_answer_under_way_when_the_client_cancels_comes_too_late(self) -> None:
        connection = Connection()
        connection.call(1)
        connection.wire.send(reset(1, 8))
        connection.answer(1, HELLO)
        (call,) = connection.read().applications
        assert (call.outcome, call.aborted_by) == (Outcome.ABORTED, "client")

    def test_a_stream_the_server_refuses_is_an_error(self) -> None:
        connection = Connection().call(1)
        connection.wire.reply(reset(1, 7))
        (call,) = connection.read().applications
        assert (call.outcome, call.aborted_by, call.facts["h2_error"]) == (Outcome.ERROR, None, 7)

    def test_a_stream_the_server_breaks_off_is_aborted(self) -> None:
        connection = Connection().call(1)
        connection.wire.reply(connection.server.headers(1, RESPONSE) + data(1, HELLO) + reset(1, 2))
        (call,) = connection.read().applications
        assert (call.outcome, call.aborted_by) == (Outcome.ABORTED, "server")

    def test_goaway_ends_only_the_streams_it_leaves_out(self) -> None:
        connection = Connection().call(1).call(3)
        connection.wire.reply(goaway(1, 11, b"too_many_pings"))
        connection.answer(1, HELLO)
        one, three = connection.read().applications
        assert one.outcome is Outcome.OK
        assert (three.outcome, three.aborted_by, three.facts["goaway"]) == (Outcome.ABORTED, "server", 11)

    def test_the_end_of_the_connection_ends_what_is_open(self) -> None:
        connection = Connection().call(1)
        connection.wire.wait(ms=300).close("server")
        (call,) = connection.read().applications
        assert (call.outcome, call.aborted_by) == (Outcome.ABORTED, "server")

    def test_the_end_of_the_capture_leaves_it_incomplete(self) -> None:
        connection = Connection().call(1)
        connection.wire.wait(ms=300).reply(ping())
        (call,) = connection.read().applications
        assert (call.outcome, call.end_ns) == (Outcome.INCOMPLETE, int(connection.read().packets.ts_ns.max()))


def test_the_log_keeps_what_flow_control_needs() -> None:
    connection = Connection().call(1)
    connection.wire.reply(window_update(0, 1_000) + ping(b"\xff" * 8)).send(ping(b"\xff" * 8, ack=True) + settings(ack=True))
    connection.answer(1, HELLO)
    connection.wire.reply(goaway(1, 0))
    log = connection.read().h2
    rows = [(H2Kind(kind), fd, stream, value) for kind, fd, stream, value in zip(log.kind, log.fd, log.stream_id, log.value, strict=True)]
    assert rows == [
        (H2Kind.SETTINGS, 0, 0, 1), (H2Kind.SETTINGS_INITIAL_WINDOW, 0, 0, 65_535),
        (H2Kind.SETTINGS, 1, 0, 1), (H2Kind.SETTINGS_MAX_STREAMS, 1, 0, 100),
        (H2Kind.HEADERS, 0, 1, 0), (H2Kind.DATA, 0, 1, len(HELLO)),
        (H2Kind.WINDOW_UPDATE, 1, 0, 1_000), (H2Kind.PING, 1, 0, -1),
        (H2Kind.PING_ACK, 0, 0, -1), (H2Kind.SETTINGS_ACK, 0, 0, 0),
        (H2Kind.HEADERS, 1, 1, 0), (H2Kind.DATA, 1, 1, len(HELLO)), (H2Kind.HEADERS, 1, 1, 1), (H2Kind.GOAWAY, 1, 1, 0),
    ]  # fmt: skip
    assert log.end_stream.tolist().count(True) == 2
    assert (log.in_order_ns[1:] >= log.in_order_ns[:-1]).all()
    assert (log.segment >= 0).all()
    assert len(log.of_flow(0)) == len(log)
    assert len(log.of_flow(1)) == 0


def test_a_log_without_rows(wire: type[Wire]) -> None:
    assert len(make_log(H2Reading().streams().logged(), paired(wire().handshake()).streams)) == 0


def test_a_start_in_the_middle_keeps_what_it_can() -> None:
    wire, client, server = Wire(cport=60_000, sport=50_051), Blocks(), Blocks()
    client.headers(1, CALL)  # before the capture: it filled the table of header compression
    wire.reply(data(1, HELLO) + server.headers(1, [("grpc-status", "0")], end_stream=True)).wait(ms=10)
    wire.send(client.headers(3, CALL) + data(3, HELLO, end_stream=True) + window_update(0, 10) + window_update(0, 10))
    wire.reply(server.headers(3, RESPONSE) + data(3, HELLO) + server.headers(3, [("grpc-status", "0")], end_stream=True))
    read = paired(wire)
    assert {e.h2_stream for e in read.applications} == {1, 3}
    before = next(e for e in read.applications if e.h2_stream == 1)
    assert (before.name, before.request) == (UNKNOWN_NAME, ())
    assert read.losses.total(Loss.HPACK_LOST) > 0


def test_a_stream_the_server_opens_is_nobodys_request() -> None:
    connection = Connection().call(1)
    promise = connection.server.headers(1, [(":method", "GET"), (":path", "/pushed")], promised_id=2)
    connection.wire.reply(promise + frame(1, 5, 2, connection.server.encoder.encode([(":status", "200")])))
    connection.answer(1, HELLO)
    assert [call.h2_stream for call in connection.read().applications] == [1]


class Snapped(Recording):
    """The beginning of every packet only."""

    def __init__(self, whole: Recording) -> None:
        self._whole = whole

    def sights(self) -> list[tuple[int, int, bytes]]:
        return self._whole.sights()

    def pcap(self, *, snaplen: int = 200) -> bytes:
        return super().pcap(snaplen=snaplen)


def test_an_answer_whose_end_was_cut_off_ends_there_not_with_the_connection() -> None:
    connection = Connection()
    for stream_id in (1, 3, 5):
        connection.call(stream_id).wait(100)
        connection.wire.reply(
            connection.server.headers(stream_id, RESPONSE)
            + data(stream_id, b"x" * 300)
            + connection.server.headers(stream_id, [("grpc-status", "0")], end_stream=True)
        )
        connection.wait(2_000)
    whole, snapped = connection.wire.close().trace(), Snapped(connection.wire).trace()
    lasted = [[row.duration_ns // MS for row in trace.exchanges if row.part_of is None] for trace in (whole, snapped)]
    assert lasted[1] == pytest.approx(lasted[0], abs=5)
    assert [row.facts.get("end_unread") for row in snapped.exchanges if row.part_of is None] == [True] * 3


def test_an_answer_that_goes_on_in_what_was_captured_stays_open() -> None:
    """Token by token; each packet is cut, and none of the cuts hides an end."""
    connection = Connection().call(1).wait(100)
    connection.wire.reply(connection.server.headers(1, RESPONSE))
    for _ in range(4):
        connection.wire.wait(ms=200).reply(data(1, b"t" * 200))
    trace = Snapped(connection.wire.wait(ms=3_000).close()).trace()
    (row,) = [row for row in trace.exchanges if row.part_of is None]
    assert (row.outcome, "end_unread" in row.facts) == (Outcome.ABORTED, False)
