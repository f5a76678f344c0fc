"""An exchange while it is put together: byte offsets; times are looked up later, for all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Outcome, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Span = tuple[int, int]
Fact = str | int | float | bool | None
Facts = dict[str, Fact]


class Ending(Enum):
    """What ends an exchange."""

    OPEN = "nothing in its own bytes: the end of the connection or of the capture does"
    RESPONSE = "the last byte of its response"
    CLOSE = "the server's FIN, which delimits the response (RFC 9112 section 6.3)"
    TUNNEL = "the FIN of either side"
    UNSEEN = "a response of which nothing was captured"
    GIVEN = "a time that is already known"


@dataclass(frozen=True, slots=True)
class Cut:
    """A frame that ends an exchange before its response is whole, if the response is not whole by then."""

    fd: int
    offset: int
    """Of the last byte of the frame."""
    outcome: Outcome


@dataclass(slots=True, eq=False)
class Draft:
    """An exchange without an id; the fields are those of Exchange unless they say otherwise."""

    flow: int
    protocol: Protocol
    name: str
    inferred: bool = False
    keys: str = "plain"
    h2_stream: int = 0
    request: list[Span] = field(default_factory=list)
    response: list[Span] = field(default_factory=list)
    ending: Ending = Ending.OPEN
    cuts: tuple[Cut, ...] = ()
    status: str | None = None
    outcome: Outcome = Outcome.OK
    """What it is if it ends as `ending` says; OPEN ones become aborted or incomplete."""
    aborted_by: str | None = None
    messages: Sequence[int] = ()
    deadline_ns: int | None = None
    attempt: int | None = None
    facts: Facts = field(default_factory=dict)
    start_ns: int = NEVER
    request_start_ns: int = NEVER
    request_end_ns: int = NEVER
    request_in_order_ns: int = NEVER
    request_acked_ns: int = NEVER
    first_byte_ns: int = NEVER
    end_ns: int = NEVER
    given_up_ns: tuple[int, int] | None = None
    """The client stopped waiting between these times, and no packet says when."""
    tries: tuple[int, ...] = ()
    frames: tuple[tuple[int, int], ...] = ()

    @property
    def request_len(self) -> int:
        """Bytes of the request."""
        return total_len(self.request)

    @property
    def response_len(self) -> int:
        """Bytes of the response."""
        return total_len(self.response)


def total_len(spans: list[Span]) -> int:
    """Bytes in all spans."""
    if len(spans) == 1:
        return spans[0][1] - spans[0][0]
    return sum(stop - start for start, stop in spans)


def add_span(spans: list[Span], start: int, stop: int) -> None:
    """Adds bytes behind all others, joined with them where they touch."""
    if stop <= start:
        return
    if spans and spans[-1][1] >= start:
        spans[-1] = spans[-1][0], max(stop, spans[-1][1])
    else:
        spans.append((start, stop))
