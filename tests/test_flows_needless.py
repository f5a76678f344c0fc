"""What shows that a resend was needless."""

from __future__ import annotations

import numpy as np
import pytest

from pcapdiag.flows.needless import newer
from pcapdiag.flows.resend_table import Evidence
from tests.wire import Recording, Wire

MSS = 1_448
PROOFS = Evidence.ACKED | Evidence.SACKED | Evidence.DSACK | Evidence.ECHO | Evidence.TOO_SOON | Evidence.LATE_ORIGINAL | Evidence.REFUSED


def proofs(told: Recording) -> list[Evidence]:
    """Per resend, what says that it was needless."""
    return [Evidence(bits) & PROOFS for bits in told.trace().tcp.resends.evidence.tolist()]


def slow(**changes: bool) -> Wire:
    """The timer fires a little before the ACK comes."""
    return Wire(rtt_ms=300, **changes).handshake().send(300).wait(ms=250).resend()  # type: ignore[arg-type] # all are flags


def test_a_dsack_an_old_echo_and_an_early_ack_all_say_so() -> None:
    assert proofs(slow()) == [Evidence.DSACK | Evidence.ECHO | Evidence.TOO_SOON]


def test_each_says_so_alone() -> None:
    assert proofs(slow(sack=False)) == [Evidence.ECHO | Evidence.TOO_SOON]
    assert proofs(slow(sack=False, timestamps=False)) == [Evidence.TOO_SOON]
    assert proofs(slow(timestamps=False)) == [Evidence.DSACK | Evidence.TOO_SOON]


def test_an_ack_seen_before_it() -> None:
    assert Evidence.ACKED in proofs(Wire().handshake().send(300).wait(ms=250).resend())[0]


class Ticks(Recording):
    """What a tap with a clock of milliseconds shows."""

    def __init__(self, told: Recording) -> None:
        self._told = told

    def sights(self) -> list[tuple[int, int, bytes]]:
        return [(ts_ns, shown_ns // 1_000_000 * 1_000_000, frame) for ts_ns, shown_ns, frame in self._told.sights()]


def test_what_a_coarse_clock_stamps_alike_came_in_the_order_of_the_file() -> None:
    """The answer to a resend that was needed comes at once where the receiver is; it may bear the resend's own time."""
    needed = Wire().handshake().reply(4 * MSS, lose="before", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="server")
    assert proofs(Ticks(needed)) == [Evidence(0)]
    partly = Wire().handshake().reply(6 * MSS, lose="before", only=[1, 3]).wait(ms=21).resend(3 * MSS, 4 * MSS, by="server")
    assert proofs(Ticks(partly)) == [Evidence(0)]
    needless = Wire(rtt_ms=20.4).handshake().send(300).wait(ms=20.5).resend()
    assert Evidence.ACKED in proofs(Ticks(needless))[0]


def test_bytes_held_by_the_receiver_sent_again() -> None:
    """Only the second segment is missing; the sender repeats the third, too (RFC 2018 section 8 lets it, after a timeout)."""
    told = Wire().handshake().send(4 * MSS, lose="after", only=[1]).wait(ms=300).resend(MSS, 2 * MSS, by="client", lose="after")
    told.resend(2 * MSS, 3 * MSS, by="client")
    first, second = proofs(told)
    assert not first
    assert Evidence.SACKED in second


def bare(*, lose: bool = False, then: bool = True, reply: bool = False) -> Wire:
    """A slow link and a short timer, no options: each segment is sent again before its ACK can come; or it was lost indeed."""
    told = Wire(sack=False, timestamps=False, rtt_ms=20).handshake().rtt(600).acks("none")
    for number in range(4):
        at = 100 * number
        lost = lose and number == 3
        told.send(100, lose="after" if lost else None).wait(ms=310).resend(at, at + 100, by="client")
        told.wait(ms=295).ack("server", ack=at + 100)
        if not lost:
            told.wait(ms=311).ack("server", ack=at + 100)
        if reply and number == 1:
            told.reply(10)
    if then:
        told.wait(ms=20).send(100).ack("server", ack=500)
    return told


def test_without_options_an_ack_for_every_packet_says_that_none_was_lost() -> None:
    assert [bool(bits & Evidence.TOO_SOON) for bits in proofs(bare())] == [True] * 4


def test_from_the_first_loss_on_it_says_nothing() -> None:
    assert [bool(bits & Evidence.TOO_SOON) for bits in proofs(bare(lose=True))] == [True] * 3 + [False]


def test_data_of_the_receiver_may_acknowledge_anything() -> None:
    assert not any(bits & Evidence.TOO_SOON for bits in proofs(bare(reply=True))[2:])


@pytest.mark.parametrize("told", [
    Wire().handshake().send(300, lose="after").wait(ms=250).resend().reply(10),
    Wire().handshake().send(8_000, lose="after", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client").reply(10),
    Wire(vantage="server").handshake().send(8_000, lose="before", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client").reply(10),
    Wire(sack=False, timestamps=False).handshake().send(300, lose="after").wait(ms=250).resend().reply(10),
], ids=["timer", "SACK", "seen at the receiver", "no options"])  # fmt: skip
def test_needed_ones_have_no_proof_against_them(told: Wire) -> None:
    assert proofs(told) == [Evidence(0)]


def test_of_two_resends_the_dsack_is_about_the_one_that_had_time_to_arrive() -> None:
    """The original is lost, the first resend arrives, the second is needless."""
    told = Wire().handshake().acks("none", "server").send(300, lose="after").wait(ms=220).resend().wait(ms=220).acks("quick", "server")
    first, second = proofs(told.resend(by="client"))
    assert Evidence.DSACK not in first
    assert Evidence.DSACK in second


def test_timestamps_wrap() -> None:
    a, b = np.array([5, 2**32 - 1, 7, 2**31 + 1]), np.array([2**32 - 1, 5, 7, 0])
    assert newer(a, b).tolist() == [True, False, False, False]
