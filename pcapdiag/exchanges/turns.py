"""Requests and responses by who speaks when, where the bytes say nothing (CAUSES section 11, "Encrypted without keys")."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.columns import NEVER, rows_between
from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.table import Protocol
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.columns import I64
    from pcapdiag.exchanges.draft import Span
    from pcapdiag.flows.table import TcpTables

_LAST_WORDS_NS = 1_000_000_000
"""Client bytes that nobody answers before the client itself closes this soon are a farewell, not a request."""


class Chunk(NamedTuple):
    """Some bytes of one direction, and when they were first seen."""

    flow: int
    ts_ns: int
    direction: int
    start: int
    stop: int


class Burst(NamedTuple):
    """Chunks of one direction with nothing of the other between them."""

    direction: int
    start: int
    stop: int
    first_ns: int
    last_ns: int


class Turn(NamedTuple):
    """A request and its response; bytes of both may continue while the other side speaks."""

    request: Span
    response: Span | None
    last_ns: int
    """First sight of its last chunk."""


def bursts_of(chunks: Iterable[Chunk]) -> dict[int, list[Burst]]:
    """Flow -> its bursts in time order."""
    ordered = sorted(chunks)
    if not ordered:
        return {}
    return _bursts(*np.asarray(ordered, np.int64).T)


def bursts_of_segments(tcp: TcpTables, flows: Iterable[int]) -> dict[int, list[Burst]]:
    """Flow -> its bursts in time order, segments being the chunks; bytes sent again do not count."""
    some = np.unique(np.array(list(flows), np.int64))
    if not len(some):
        return {}
    segments = tcp.segments.take(rows_between(tcp.segments.flow, int(some[0]), int(some[-1]) + 1))
    fresh = ((segments.kind == Kind.NEW) | (segments.kind == Kind.FILL)) & (segments.payload_len > 0)
    rows = np.flatnonzero(fresh & np.isin(segments.flow, some))
    if not len(rows):
        return {}
    start = segments.seq[rows]
    return _bursts(
        segments.flow[rows].astype(np.int64),
        segments.ts_ns[rows],
        segments.direction[rows].astype(np.int64),
        start,
        start + segments.payload_len[rows],
    )


def _bursts(flow: I64, ts_ns: I64, direction: I64, start: I64, stop: I64) -> dict[int, list[Burst]]:
    first = np.flatnonzero(np.diff(2 * flow + direction, prepend=-1))
    last = np.append(first[1:], len(flow)) - 1
    columns = (
        flow[first],
        direction[first],
        np.minimum.reduceat(start, first),
        np.maximum.reduceat(stop, first),
        ts_ns[first],
        ts_ns[last],
    )
    found: dict[int, list[Burst]] = {}
    for number, *burst in zip(*(column.tolist() for column in columns), strict=True):
        found.setdefault(number, []).append(Burst(*burst))
    return found


def turns_of(bursts: list[Burst], rtt_ns: int) -> list[Turn]:
    """Splits one flow at client bursts around which the server was silent for a round trip.

    What a server says before the client has said anything (a banner) belongs to no turn.
    """
    turns: list[Turn] = []
    for index, burst in enumerate(bursts):
        if burst.direction == CLIENT_TO_SERVER:
            if not turns or turns[-1].response is None or index + 1 == len(bursts):
                quiet = True  # bursts alternate: no response yet can only be the last turn's
            else:
                quiet = bursts[index + 1].first_ns - bursts[index - 1].last_ns >= rtt_ns - rtt_ns // 8
            if quiet:
                turns.append(Turn((burst.start, burst.stop), None, burst.last_ns))
        elif turns:
            request, response, _ = turns[-1]
            span = (burst.start if response is None else response[0], burst.stop)
            turns[-1] = Turn(request, span, burst.last_ns)
    return turns


def pair_turns(tcp: TcpTables, flows: list[int], rtts: I64) -> list[Draft]:
    """Drafts for connections whose protocol is unknown: one per turn; `rtts` as `round_trips` gives them."""
    if not flows:
        return []
    drafts: list[Draft] = []
    client_fin = tcp.flows.client_fin_ns
    for flow, bursts in bursts_of_segments(tcp, flows).items():
        turns = turns_of(bursts, int(rtts[flow]))
        if len(turns) > 1 and turns[-1].response is None and int(client_fin[flow]) - turns[-1].last_ns < _LAST_WORDS_NS:
            turns.pop()
        name = f"tcp port {int(tcp.flows.server_port[flow])}"
        drafts += [turn_draft(flow, Protocol.OTHER, name, turn) for turn in turns]
    return drafts


def turn_draft(flow: int, protocol: Protocol, name: str, turn: Turn) -> Draft:
    """The exchange a turn stands for."""
    answered = turn.response is not None
    return Draft(
        flow,
        protocol,
        name,
        inferred=True,
        request=[turn.request],
        response=[turn.response] if turn.response is not None else [],
        ending=Ending.RESPONSE if answered else Ending.OPEN,
    )


def round_trips(tcp: TcpTables) -> I64:
    """Round trip of each flow, client to server and back, as far as handshake or ACKs tell; at least 1 ms."""
    near, far = (_half(tcp, direction) for direction in (CLIENT_TO_SERVER, SERVER_TO_CLIENT))
    return np.where((near >= 0) & (far >= 0), near + far, np.maximum(near, far)).clip(1_000_000)


def _half(tcp: TcpTables, direction: int) -> I64:
    """The round trip to one end per flow: by its handshake, else the least sample of its ACKs; -1 unknown."""
    handshake = tcp.flows.near_rtt_ns if direction == CLIENT_TO_SERVER else tcp.flows.far_rtt_ns
    least = tcp.tallies.turnaround_ns[direction::2]
    return np.where(handshake >= 0, handshake, np.where(least < NEVER, least, -1))
