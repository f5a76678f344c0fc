"""Requests that never arrived at the tap: later packets of their client speak of them."""

from __future__ import annotations

import pytest

from pcapdiag.exchanges.table import Exchange, Outcome
from pcapdiag.exchanges.unseen import NAME
from tests.wire import Recording, Wire


def unseen(told: Recording) -> list[Exchange]:
    return [exchange for exchange in told.trace().exchanges if exchange.name == NAME]


def test_a_pure_ack_numbered_beyond_what_came_is_a_request_that_never_arrived() -> None:
    wire = Wire(vantage="server").handshake().http_get().wait(ms=50).send(100, lose="before").wait(ms=300).ack("client")
    (found,) = unseen(wire.wait(ms=700).rst("client"))
    assert (found.outcome, found.inferred) == (Outcome.ABORTED, True)
    assert found.end_ns - found.start_ns == pytest.approx(700_000_000, abs=1_000_000)


def test_a_request_that_came_after_all_is_none() -> None:
    wire = Wire(vantage="server").handshake().http_get().wait(ms=50).send(100, lose="before").wait(ms=300).ack("client")
    assert unseen(wire.wait(ms=300).resend(by="client").reply(100).close()) == []


def test_a_request_only_the_capture_missed_is_none() -> None:
    """The server acknowledged it."""
    wire = Wire(vantage="server").handshake().http_get().wait(ms=50).send(100, lose="capture").wait(ms=300).ack("client")
    assert unseen(wire.reply(100).close()) == []
