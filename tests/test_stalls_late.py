"""Where the excess of late round trips lies in an exchange."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange, Protocol
from pcapdiag.stalls.late import late_intervals

CALL = Exchange(
    id=0, flow=0, protocol=Protocol.HTTP1, name="GET /", start_ns=1_000, request_start_ns=1_000, request_end_ns=1_000,
    first_byte_ns=1_300, end_ns=1_400,
)  # fmt: skip


def intervals(exchange: Exchange, *, usual: int = 40, late: int = 80, floor: int = 40) -> list[tuple[int, int]]:
    return list(late_intervals(exchange, usual_ns=usual, late_ns=late, floor_ns=floor))


def test_half_a_round_trip_behind_the_request() -> None:
    assert intervals(CALL) == [(1_020, 1_100)]


def test_in_two_halves_when_the_connection_knows_no_better() -> None:
    assert intervals(CALL, floor=120) == [(1_020, 1_060), (1_240, 1_280)]


def test_never_more_than_was_waited() -> None:
    assert intervals(replace(CALL, first_byte_ns=1_070)) == [(1_020, 1_050)]
    assert intervals(replace(CALL, first_byte_ns=1_030)) == []


def test_an_answer_that_never_came() -> None:
    assert intervals(replace(CALL, first_byte_ns=NEVER)) == [(1_020, 1_100)]
    assert intervals(replace(CALL, first_byte_ns=NEVER, end_ns=1_060)) == [(1_020, 1_060)]


@pytest.mark.parametrize(("version", "trips"), [("TLSv1.3", 1), ("TLSv1.2", 2)])
def test_handshakes(version: str, trips: int) -> None:
    shake = replace(CALL, protocol=Protocol.TLS_HANDSHAKE, status=version)
    assert intervals(shake) == [(1_000 + trips * 40, 1_000 + trips * 120)]


def test_connects_and_lookups() -> None:
    assert intervals(replace(CALL, protocol=Protocol.CONNECT, end_ns=1_090)) == [(1_040, 1_090)]
    assert intervals(replace(CALL, protocol=Protocol.CONNECT, end_ns=1_030)) == []
    assert intervals(replace(CALL, protocol=Protocol.DNS)) == []
    assert intervals(replace(CALL, request_end_ns=NEVER)) == []
