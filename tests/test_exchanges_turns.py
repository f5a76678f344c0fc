"""Requests and responses by who speaks when: on TCP connections in a protocol nobody reads."""

from __future__ import annotations

from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.exchanges.turns import Burst, Chunk, bursts_of, turns_of
from tests.paired import paired
from tests.wire import Wire

CLIENT, SERVER = 0, 1
RTT_NS = 20_000_000


def spoken(*bursts: tuple[int, int, int]) -> list[Burst]:
    """(direction, first ms, last ms) with ten bytes each."""
    at = [0, 0]
    made = []
    for direction, first_ms, last_ms in bursts:
        made.append(Burst(direction, at[direction], at[direction] + 10, first_ms * 1_000_000, last_ms * 1_000_000))
        at[direction] += 10
    return made


def spans(*bursts: tuple[int, int, int]) -> list[tuple[tuple[int, int], tuple[int, int] | None]]:
    return [(turn.request, turn.response) for turn in turns_of(spoken(*bursts), RTT_NS)]


def test_question_and_answer_take_turns() -> None:
    assert spans((CLIENT, 0, 0), (SERVER, 50, 60), (CLIENT, 100, 100), (SERVER, 150, 150)) == [((0, 10), (0, 10)), ((10, 20), (10, 20))]


def test_what_a_client_says_while_the_server_speaks_is_no_new_request() -> None:
    assert spans((CLIENT, 0, 0), (SERVER, 50, 60), (CLIENT, 61, 61), (SERVER, 62, 90)) == [((0, 10), (0, 20))]


def test_a_banner_belongs_to_no_turn() -> None:
    assert spans((SERVER, 0, 0), (CLIENT, 30, 30), (SERVER, 60, 60)) == [((0, 10), (10, 20))]
    assert spans((SERVER, 0, 500)) == []


def test_a_last_request_may_have_no_answer() -> None:
    assert spans((CLIENT, 0, 0), (SERVER, 50, 60), (CLIENT, 100, 100)) == [((0, 10), (0, 10)), ((10, 20), None)]


def test_chunks_of_one_direction_are_one_burst() -> None:
    chunks = [
        Chunk(7, 30, SERVER, 0, 5),
        Chunk(7, 10, CLIENT, 0, 4),
        Chunk(7, 20, CLIENT, 4, 9),
        Chunk(3, 5, CLIENT, 0, 1),
        Chunk(7, 40, SERVER, 5, 6),
    ]
    assert bursts_of(chunks) == {3: [Burst(CLIENT, 0, 1, 5, 5)], 7: [Burst(CLIENT, 0, 9, 10, 20), Burst(SERVER, 0, 6, 30, 40)]}
    assert bursts_of([]) == {}


def test_an_unknown_protocol_has_inferred_exchanges() -> None:
    wire = Wire(sport=6_379).handshake().send(b"*1\r\n$4\r\nPING\r\n").wait(ms=5).reply(b"+PONG\r\n").wait(ms=100)
    wire.send(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n").wait(ms=5).reply(b"$1\r\nb\r\n")
    first, second = paired(wire).applications
    assert (first.protocol, first.name, first.inferred, first.outcome) == (Protocol.OTHER, "tcp port 6379", True, Outcome.OK)
    assert first.request_len == 14
    assert second.start_ns > first.end_ns


def test_bytes_sent_again_make_no_turn() -> None:
    wire = (
        Wire(sport=6_379, rtt_ms=20)
        .handshake()
        .send(b"*1\r\n$4\r\nPING\r\n")
        .wait(ms=300)
        .resend(by="client")
        .wait(ms=5)
        .reply(b"+PONG\r\n")
    )
    assert len(paired(wire).applications) == 1


def test_a_farewell_is_no_request() -> None:
    wire = Wire(sport=25).handshake().reply(b"220 mail ESMTP ready\r\n").wait(ms=5).send(b"XYZZY a\r\n").reply(b"250 ok\r\n").wait(ms=50)
    assert len(paired(wire.send(b"QUIT\r\n").close()).applications) == 1
