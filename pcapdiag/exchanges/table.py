"""The output of step 5: exchanges (a request and its response, a lookup, a connect, a handshake) and calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from pcapdiag.columns import I8, I32, I64, NEVER, U8, Bools, Col, Rows, Table
from pcapdiag.exchanges.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    """Its row in Exchanges."""
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


PROTOCOLS: Final = tuple(Protocol)
OUTCOMES: Final = tuple(Outcome)
KEYS: Final = ("plain", "decrypted", "none")
ENDS: Final = ("client", "server")
BACKOFFS: Final = ("none", "immediate", "fixed", "exponential", "jittered")
CODES: Final[Mapping[Protocol | Outcome, int]] = {
    **{protocol: code for code, protocol in enumerate(PROTOCOLS)},
    **{outcome: code for code, outcome in enumerate(OUTCOMES)},
}
"""How the columns spell protocols and outcomes: their places in PROTOCOLS and OUTCOMES."""


_LISTS: Final = ("request", "response", "messages", "setup", "tries", "frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanges(Table):
    """All exchanges, by start, then flow, then offset; row i has id i, and exchanges[i] gives it as an Exchange.

    The columns are the fields of Exchange: -1 stands for None, and texts and facts are places in `texts` and `facts`.
    """

    flow: Annotated[I32, Col("flow id", of="flow")]
    protocol: Annotated[U8, Col("place in PROTOCOLS")]
    name: Annotated[I32, Col("place in texts", of="text")]
    inferred: Annotated[Bools, Col("told from sizes and times, not from content")]
    keys: Annotated[U8, Col("place in KEYS")]
    part_of: Annotated[I32, Col("the application exchange this set-up was a phase of; -1", of="exchange")]
    h2_stream: Annotated[I32, Col("h2 stream; 0: no HTTP/2")]
    start_ns: Annotated[I64, Col("begin of its wall time", "ns")]
    request_start_ns: Annotated[I64, Col("first request byte seen; NEVER", "ns")]
    request_end_ns: Annotated[I64, Col("last request byte first seen; NEVER", "ns")]
    request_in_order_ns: Annotated[I64, Col("all request bytes seen in order; NEVER", "ns")]
    request_acked_ns: Annotated[I64, Col("first ACK that covers the last request byte; NEVER", "ns")]
    first_byte_ns: Annotated[I64, Col("first response byte deliverable in order; NEVER", "ns")]
    end_ns: Annotated[I64, Col("end of its wall time", "ns")]
    status: Annotated[I32, Col("place in texts; -1", of="text")]
    outcome: Annotated[U8, Col("place in OUTCOMES")]
    aborted_by: Annotated[I8, Col("0 the client, 1 the server; -1")]
    deadline_ns: Annotated[I64, Col("grpc-timeout; -1", "ns")]
    attempt: Annotated[I32, Col("attempts before this one, as the request says; -1")]
    request_len: Annotated[I64, Col("bytes of the request", "bytes")]
    response_len: Annotated[I64, Col("bytes of the response", "bytes")]
    fact: Annotated[I32, Col("place in facts", of="fact")]
    request: Ragged
    """[start, stop) offsets in the client's stream."""
    response: Ragged
    """[start, stop) offsets in the server's stream."""
    messages: Ragged
    setup: Ragged
    tries: Ragged
    frames: Ragged
    """(capture, frame)."""
    texts: tuple[str, ...]
    facts: tuple[Mapping[str, str | int | float | bool | None], ...]

    @classmethod
    def lists(cls) -> tuple[str, ...]:
        """The names of the columns whose rows are lists."""
        return _LISTS

    def take(self, rows: I64 | Bools | Rows | slice) -> Exchanges:
        """The table of the given rows; texts and facts stay, and so do the ids that `part_of` and `setup` hold."""
        numbers = np.arange(len(self))[rows]
        lists = {name: getattr(self, name).take(numbers) for name in _LISTS}
        return replace(self, **{name: getattr(self, name)[rows] for name in self.columns()}, **lists)

    def __iter__(self) -> Iterator[Exchange]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Exchange:
        """One exchange, made anew each time (raises IndexError)."""
        row = range(len(self))[index]
        part_of, status, ended_by = int(self.part_of[row]), int(self.status[row]), int(self.aborted_by[row])
        deadline_ns, attempt = int(self.deadline_ns[row]), int(self.attempt[row])
        return Exchange(
            id=row,
            flow=int(self.flow[row]),
            protocol=PROTOCOLS[self.protocol[row]],
            name=self.texts[self.name[row]],
            inferred=bool(self.inferred[row]),
            keys=KEYS[self.keys[row]],
            part_of=None if part_of < 0 else part_of,
            h2_stream=int(self.h2_stream[row]),
            request=tuple(map(tuple, self.request[row].tolist())),
            response=tuple(map(tuple, self.response[row].tolist())),
            start_ns=int(self.start_ns[row]),
            request_start_ns=int(self.request_start_ns[row]),
            request_end_ns=int(self.request_end_ns[row]),
            request_in_order_ns=int(self.request_in_order_ns[row]),
            request_acked_ns=int(self.request_acked_ns[row]),
            first_byte_ns=int(self.first_byte_ns[row]),
            end_ns=int(self.end_ns[row]),
            status=None if status < 0 else self.texts[status],
            outcome=OUTCOMES[self.outcome[row]],
            aborted_by=None if ended_by < 0 else ENDS[ended_by],
            setup=tuple(self.setup[row].tolist()),
            messages=self.messages[row],
            deadline_ns=None if deadline_ns < 0 else deadline_ns,
            attempt=None if attempt < 0 else attempt,
            request_len=int(self.request_len[row]),
            response_len=int(self.response_len[row]),
            tries=tuple(self.tries[row].tolist()),
            frames=tuple(map(tuple, self.frames[row].tolist())),
            facts=self.facts[self.fact[row]],
        )

    @property
    def rows(self) -> tuple[Exchange, ...]:
        """All of them at once: for few."""
        return tuple(self)

    def where(self, mask: Bools) -> Iterator[Exchange]:
        """Those for which the mask holds."""
        return map(self.__getitem__, np.flatnonzero(mask).tolist())

    def is_any(self, *protocols: Protocol) -> Bools:
        """Which of them are of one of these protocols."""
        found: Bools = np.isin(self.protocol, [CODES[protocol] for protocol in protocols])
        return found

    def ended(self, *outcomes: Outcome) -> Bools:
        """Which of them ended in one of these ways."""
        found: Bools = np.isin(self.outcome, [CODES[outcome] for outcome in outcomes])
        return found

    def by_flow(self, mask: Bools, flow_count: int) -> Ragged:
        """The ids of those for which the mask holds, per flow of so many, ascending."""
        rows = np.flatnonzero(mask)
        order = np.argsort(self.flow[rows], kind="stable")
        return Ragged(np.searchsorted(self.flow[rows][order], np.arange(flow_count + 1)), rows[order])

    def of_flow(self, flow: int) -> Iterator[Exchange]:
        """The exchanges of one flow."""
        return self.where(self.flow == flow)

    def fact_holds(self, name: str) -> Bools:
        """For which of them the fact of that name is there, and neither 0 nor empty nor False."""
        found: Bools = np.array([bool(facts.get(name)) for facts in self.facts], np.bool_)[self.fact]
        return found

    @property
    def is_setup(self) -> Bools:
        """Which of them are lookups, connects and handshakes."""
        return self.is_any(*SETUP)

    @property
    def is_stream(self) -> Bools:
        """Which of them are token streams; see Exchange.is_stream."""
        found: Bools = self.is_any(Protocol.SSE, Protocol.WEBSOCKET) | (self.is_any(Protocol.GRPC) & (self.messages.counts > 1))
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per exchange, as a pandas DataFrame."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s that only tables at the edge should cost

        names = [n for n in Exchange.__slots__ if n not in {"facts", "messages", "frames", "request", "response"}]
        return pd.DataFrame([{n: getattr(row, n) for n in names} for row in self], columns=names)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls(Table):
    """All calls; row i has id i, and calls[i] gives it as a Call."""

    agent: Annotated[I32, Col("index into agents", of="agent")]
    start_ns: Annotated[I64, Col("begin of the first attempt", "ns")]
    end_ns: Annotated[I64, Col("end of the last attempt to end", "ns")]
    backoff: Annotated[U8, Col("place in BACKOFFS")]
    outcome: Annotated[U8, Col("of the last attempt: place in OUTCOMES")]
    exchanges: Ragged
    """Ids of the attempts."""
    agents: tuple[int, ...]
    """The client hosts that made them, as indices into addresses."""
    of_exchange: I32
    """Call of each exchange; -1 for those that are part of another."""

    @classmethod
    def of(cls, rows: Sequence[Call], agents: tuple[int, ...], exchange_count: int) -> Calls:
        """The table of calls, of which row i has id i, over so many exchanges."""
        attempts = Ragged.of([row.exchanges for row in rows])
        of_exchange = np.full(exchange_count, -1, np.int32)
        of_exchange[attempts.values] = np.repeat(np.arange(len(rows), dtype=np.int32), attempts.counts)
        return cls(
            agent=np.fromiter((row.agent for row in rows), np.int32, len(rows)),
            start_ns=np.fromiter((row.start_ns for row in rows), np.int64, len(rows)),
            end_ns=np.fromiter((row.end_ns for row in rows), np.int64, len(rows)),
            backoff=np.fromiter((BACKOFFS.index(row.backoff) for row in rows), np.uint8, len(rows)),
            outcome=np.fromiter((CODES[row.outcome] for row in rows), np.uint8, len(rows)),
            exchanges=attempts, agents=agents, of_exchange=of_exchange,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Call]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Call:
        """One call, made anew each time (raises IndexError)."""
        row = range(len(self))[index]
        return Call(
            id=row, agent=int(self.agent[row]), exchanges=tuple(self.exchanges[row].tolist()), start_ns=int(self.start_ns[row]),
            end_ns=int(self.end_ns[row]), backoff=BACKOFFS[self.backoff[row]], outcome=OUTCOMES[self.outcome[row]],
        )  # fmt: skip

    @property
    def rows(self) -> tuple[Call, ...]:
        """All of them at once: for few."""
        return tuple(self)
