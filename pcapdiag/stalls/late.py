"""Where in an exchange the time lies by which its round trips took longer than usual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Exchange, Protocol
from pcapdiag.stalls.phases import ONE_TRIP_TLS

if TYPE_CHECKING:
    from collections.abc import Iterator


def late_intervals(exchange: Exchange, *, usual_ns: int, late_ns: int, floor_ns: int) -> Iterator[tuple[int, int]]:
    """[start, end) by which the round trips an exchange waited for exceeded the usual ones.

    The time lies where phases.py lays the queueing of a wait: half a round trip after its begin. When even the least
    round trip of the connection is a late one, phases.py takes it for propagation, half at each end of the wait.

    Args:
        exchange: the exchange; a set-up or an application exchange.
        usual_ns: the round trip without the excess.
        late_ns: the excess of each round trip.
        floor_ns: the least round trip of its connection.
    """
    if exchange.protocol is Protocol.DNS:
        return
    if exchange.is_setup:
        trips = 1 if exchange.protocol is Protocol.CONNECT or exchange.status in ONE_TRIP_TLS else 2
        start = exchange.start_ns + trips * usual_ns
        yield from _clipped(start, start + trips * late_ns, exchange.end_ns)
        return
    if exchange.request_end_ns >= NEVER:
        return
    answered = exchange.first_byte_ns < NEVER
    begin, end = exchange.request_end_ns, min(exchange.first_byte_ns, exchange.end_ns)
    late_ns = min(late_ns, end - begin - usual_ns if answered else end - begin - usual_ns // 2)
    if late_ns <= 0:
        return
    if answered and floor_ns >= usual_ns + late_ns // 2:
        half = usual_ns // 2
        yield begin + half, begin + half + late_ns // 2
        yield end - half - late_ns // 2, end - half
    else:
        yield begin + usual_ns // 2, begin + usual_ns // 2 + late_ns


def _clipped(start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    if start < min(end, limit):
        yield start, min(end, limit)
