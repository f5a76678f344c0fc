"""An exchange while it is put together: byte offsets first; times are looked up later, for all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT

if TYPE_CHECKING:
    from collections.abc import Sequence

Span = tuple[int, int]
Facts = dict[str, str | int | float | bool | None]

BY_WHOM: Final = ("client", "server")
"""Who sends in a direction."""


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
    response_acked_ns: int = NEVER
    """First ACK that covers the last response byte."""
    progress_ns: int = NEVER
    """When its last byte came, of either direction; NEVER for set-up outside TCP streams."""
    given_up_ns: tuple[int, int] | None = None
    """The client stopped waiting between these times, and no packet says when."""
    tries: tuple[int, ...] = ()
    frames: tuple[tuple[int, int], ...] = ()
    part_of: Draft | None = None
    setup: tuple[Draft, ...] = ()
    id: int = -1
    """Its position among all exchanges, once they are in order."""

    def __reduce__(self) -> tuple[object, ...]:
        """Field by field: drafts travel between processes by the ten thousand."""
        return Draft, _fields_of(self)

    @property
    def is_setup(self) -> bool:
        """A lookup, connect or handshake."""
        return self.protocol is Protocol.CONNECT or self.protocol is Protocol.TLS_HANDSHAKE or self.protocol is Protocol.DNS

    @property
    def client_fd(self) -> int:
        """The direction of its request."""
        return 2 * self.flow + CLIENT_TO_SERVER

    @property
    def server_fd(self) -> int:
        """The direction of its response."""
        return 2 * self.flow + SERVER_TO_CLIENT

    def order(self) -> tuple[int, int, int]:
        """Its place among all exchanges: by start, flow, first offset."""
        return self.start_ns, self.flow, (self.request or self.response or ((0, 0),))[0][0]

    @property
    def request_len(self) -> int:
        """Bytes of the request."""
        return total_len(self.request)

    @property
    def response_len(self) -> int:
        """Bytes of the response."""
        return total_len(self.response)


_fields_of = attrgetter(*(field.name for field in fields(Draft)))


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
