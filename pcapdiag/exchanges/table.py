"""The output of step 5: exchanges (a request and its response, a lookup, a connect, a handshake) and calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd


class Protocol(Enum):
    """What an exchange is, as reports print it."""

    HTTP1 = "http/1.1"
    SSE = "sse"
    H2 = "h2"
    GRPC = "grpc"
    WEBSOCKET = "websocket"
    TLS = "tls"
    """Inferred from the bytes of an encrypted connection: one exchange per turn of direction."""
    OTHER = "tcp"
    """Inferred in the same way from the bytes of a protocol this program does not read."""
    DNS = "dns"
    CONNECT = "connect"
    TLS_HANDSHAKE = "tls-handshake"


class Outcome(Enum):
    """How an exchange ended."""

    OK = "ok"
    ERROR = "error"
    """An answer that says no."""
    ABORTED = "aborted"
    """Ended by one side before the answer was whole."""
    INCOMPLETE = "incomplete"
    """The capture ends first."""


Spans = tuple[tuple[int, int], ...]
"""Disjoint ascending [start, stop) stream offsets."""

NO_OFFSETS: I64 = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One exchange. Times are the tap's, in ns since the epoch; NEVER for what was not seen."""

    id: int
    """Its position in Exchanges.rows."""
    flow: int
    protocol: Protocol
    name: str
    """Method and path without query, gRPC method, host name asked for: cleaned of secrets, not yet of control characters."""
    inferred: bool = False
    keys: str = "plain"
    """plain, decrypted or none."""
    part_of: int | None = None
    """The application exchange this set-up was a phase of."""
    h2_stream: int = 0
    request: Spans = ()
    """Its bytes in the client's stream (for DNS: empty)."""
    response: Spans = ()
    """Its bytes in the server's stream."""
    start_ns: int
    """First of the set-up it waited for, or the first request byte: the begin of its wall time."""
    request_start_ns: int = NEVER
    """First request byte seen."""
    request_end_ns: int = NEVER
    """Last request byte first seen."""
    request_in_order_ns: int = NEVER
    """All request bytes seen in order at the tap."""
    request_acked_ns: int = NEVER
    """First ACK that covers the last request byte."""
    first_byte_ns: int = NEVER
    """First response byte deliverable in order at the tap."""
    end_ns: int
    """Last response byte deliverable, or the abort, or the last packet before the capture ended."""
    status: str | None = None
    """HTTP status or gRPC status, DNS rcode name; None when there was none."""
    outcome: Outcome = Outcome.OK
    aborted_by: str | None = None
    """client or server, for ABORTED."""
    setup: tuple[int, ...] = ()
    """Ids of the set-up exchanges that are phases of this one, in time order."""
    messages: I64 = field(default_factory=lambda: NO_OFFSETS)
    """Stream offsets behind each SSE event or gRPC message of the response, ascending."""
    deadline_ns: int | None = None
    """grpc-timeout, relative to the request."""
    attempt: int | None = None
    """x-stainless-retry-count or grpc-previous-rpc-attempts."""
    request_len: int = 0
    response_len: int = 0
    tries: tuple[int, ...] = ()
    """Times of the repeated sends of a DNS query or SYN, the first one included; empty elsewhere."""
    frames: tuple[tuple[int, int], ...] = ()
    """(capture, frame) of its landmarks: first request, last request, first response, last response packet."""
    facts: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    """Header fields and the like that detectors need; never secrets."""

    @property
    def duration_ns(self) -> int:
        """Wall time."""
        return self.end_ns - self.start_ns

    @property
    def is_setup(self) -> bool:
        """A lookup, connect or handshake."""
        return self.protocol is Protocol.CONNECT or self.protocol is Protocol.TLS_HANDSHAKE or self.protocol is Protocol.DNS

    @property
    def is_stream(self) -> bool:
        """The response comes at its producer's own pace: a token stream."""
        return self.protocol in {Protocol.SSE, Protocol.WEBSOCKET} or (self.protocol is Protocol.GRPC and len(self.messages) > 1)


HTTP = frozenset({Protocol.HTTP1, Protocol.SSE, Protocol.H2})
"""One and the same request may be any of these: an error is answered without an event stream."""

SETUP = frozenset({Protocol.DNS, Protocol.CONNECT, Protocol.TLS_HANDSHAKE})


@dataclass(frozen=True, slots=True)
class Exchanges:
    """All exchanges, by start, then flow, then offset; row i has id i."""

    rows: tuple[Exchange, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Exchange:
        return self.rows[index]

    def to_frame(self) -> pd.DataFrame:
        """One row per exchange, as a pandas DataFrame."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s that only tables at the edge should cost

        names = [n for n in Exchange.__slots__ if n not in {"facts", "messages", "frames", "request", "response"}]
        return pd.DataFrame([{n: getattr(row, n) for n in names} for row in self.rows], columns=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The chain of attempts for one thing an agent wanted; most calls are one exchange."""

    id: int
    agent: int
    """Index into Calls.agents."""
    exchanges: tuple[int, ...]
    start_ns: int
    end_ns: int
    backoff: str
    """none, immediate, fixed, exponential or jittered: the law of the gaps between attempts."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Calls:
    """All calls, and the agents (client hosts, as indices into addresses) that made them."""

    rows: tuple[Call, ...]
    agents: tuple[int, ...]
    of_exchange: Mapping[int, int]
    """Exchange id -> call id, for exchanges that are part of no other."""
