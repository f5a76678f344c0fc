"""When a tap may say that an acknowledgment was lost, and when not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pcapdiag.flows.resend_table import Placement, ResendKind
from tests.wire import Recording, Wire

if TYPE_CHECKING:
    from tests.wire import Side

LOST, LATE = Placement.ACK_LOST, Placement.NOT_LOST
MSS = 1_448


def placed(told: Recording) -> Placement:
    """Where the first resend, which was needless, says that the loss was."""
    found = told.trace().tcp.resends
    assert ResendKind(int(found.kind[0])) is ResendKind.SPURIOUS
    return Placement(int(found.placement[0]))


def unheard(vantage: Side, **options: bool) -> Wire:
    """The server acknowledges at once; its ACK is lost, and the client's timer fires."""
    told = Wire(vantage=vantage, rtt_ms=40, **options).handshake().send(10).reply(10).wait(ms=300)  # type: ignore[arg-type] # all are flags
    told.acks("none", "server").send(300).ack("server", lose="before" if vantage == "client" else "after").acks("quick", "server")
    return told.wait(ms=250).resend(by="client")


# --- near the receiver -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sack": False}, {"timestamps": False}], ids=["all options", "no SACK", "no timestamps"])
def test_a_prompt_answer_to_what_came_later_shows_that_the_path_was_open(options: dict[str, bool]) -> None:
    assert placed(unheard("server", **options).wait(ms=5).reply(500).wait(ms=1).send(10)) is LOST


def test_without_an_answer_nothing_shows_whether_it_was_lost_or_late() -> None:
    assert placed(unheard("server")) is LATE


def test_an_answer_to_what_was_sent_much_later_does_not_speak_for_then() -> None:
    assert placed(unheard("server").wait(ms=400).reply(500)) is LATE


def test_an_echo_of_the_ack_itself_shows_that_it_came() -> None:
    """The path back freezes for 250 ms."""
    told = Wire(vantage="server", rtt_ms=40).handshake().send(10).reply(10).wait(ms=300).send(300)
    tick = 9_000_000 + 362
    assert placed(told.wait(ms=250).resend(by="client").wait(ms=2).send(10, ts_ecr=tick).wait(ms=60).send(10)) is LATE


def test_a_slow_answer_shows_a_slow_path() -> None:
    told = unheard("server").wait(ms=5).reply(500).acks("none", "client")
    assert placed(told.wait(ms=80).ack("client")) is LATE


# --- near the sender ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"timestamps": False}], ids=["timestamps", "no timestamps"])
def test_the_first_to_cover_the_bytes_is_the_answer_to_the_resend(options: dict[str, bool]) -> None:
    assert placed(unheard("client", **options)) is LOST


def test_without_dsack_the_answer_to_the_resend_is_not_known() -> None:
    told = unheard("client", sack=False)
    assert told.trace().tcp.resends.placement.tolist() == [Placement.BEHIND_TAP]


@pytest.mark.parametrize("apart_ms", [30, 60, 150])
def test_an_ack_that_the_receiver_held_back_was_not_lost(apart_ms: int) -> None:
    """Receivers wait up to 200 ms for something to send with it (RFC 1122 section 4.2.3.2); the resend ends that."""
    told = Wire(rtt_ms=4).handshake().send(10).reply(10).wait(ms=300)
    told.acks("none", "server").send(300).acks("quick", "server").wait(ms=apart_ms).resend(by="client")
    assert placed(told.wait(ms=50).send(10)) is LATE


def test_an_answer_that_took_longer_than_answers_do_shows_a_slow_path() -> None:
    """Original and resend wait in the same queue, and arrive together."""
    told = Wire(rtt_ms=40).handshake().send(10).reply(10).wait(ms=300).rtt(ms=640).acks("none", "server").send(300)
    told.acks("quick", "server").rtt(ms=160).wait(ms=280).resend(by="client")
    assert placed(told.wait(ms=300).send(10)) is LATE
