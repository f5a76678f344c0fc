"""HTTP/1.1 and what is read out of it: requests paired with responses in order (RFC 9112 section 9.3.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.fields import UNKNOWN_NAME, is_event_stream, keep_request, keep_response, outcome_of_http
from pcapdiag.exchanges.messages import MessageMarks
from pcapdiag.exchanges.table import Protocol
from pcapdiag.losses import Loss
from pcapdiag.protocols.events import (
    BodyReceived,
    BytesUnread,
    Event,
    Fault,
    MessageEnded,
    RequestStarted,
    ResponseStarted,
    Side,
    TunnelStarted,
)
from pcapdiag.protocols.http1 import Http1Reader

if TYPE_CHECKING:
    from pcapdiag.exchanges.draft import Span
    from pcapdiag.exchanges.tape import Tape
    from pcapdiag.losses import Losses
    from pcapdiag.streams import Streams


class Tunnel(NamedTuple):
    """Where a connection stops being HTTP/1.1, and the exchange that made it so."""

    draft: Draft
    client_at: int
    server_at: int


class Paired1(NamedTuple):
    """What one connection gave."""

    drafts: list[Draft]
    tunnel: Tunnel | None


@dataclass(slots=True, eq=False)
class _Request:
    draft: Draft
    started: RequestStarted


@dataclass(slots=True, eq=False)
class _Response:
    """One final response, and what came of it."""

    started: ResponseStarted
    stop: int
    """Behind the last byte known to be part of it."""
    ending: Ending = Ending.OPEN
    interim_at: int | None = None
    lost: bool = False
    """Bytes of it could not be read: where it ends is a guess."""
    marks: MessageMarks | None = None


@dataclass(slots=True, eq=False)
class Http1Pairing:
    """Reads one connection: requests first, then the responses to them."""

    flow: int
    losses: Losses
    capture: int
    _requests: list[_Request] = field(default_factory=list)
    _responses: list[_Response] = field(default_factory=list)
    _client_tunnel_at: int | None = None
    _server_tunnel_at: int | None = None
    _damaged: bool = False
    _interim_at: int | None = None
    """Where the first 1xx response to the request under way begins."""

    def pair(self, client: Tape, server: Tape, streams: Streams, *, whole: bool, closed: bool, server_from: int = 0) -> Paired1:
        """All exchanges of the connection.

        Args:
            client: what the client sent.
            server: what the server sent.
            streams: for the times by which damaged connections are paired.
            whole: both tapes begin where a message begins.
            closed: the server's bytes end with a FIN.
            server_from: stream offset of the first byte the server can have sent here, captured or not.
        """
        self._damaged = not whole
        self._read_requests(client, Http1Reader(Side.CLIENT, synced=whole, at=client.start))
        methods = [request.started.method for request in self._requests]
        self._read_responses(server, Http1Reader(Side.SERVER, methods, synced=whole, at=server.start), closed=closed)
        orphans = self._match_by_time(streams, server_from, server.stop) if self._damaged else self._match_in_order()
        tunnel = self._tunnel(client, server)
        return Paired1([request.draft for request in self._requests] + orphans, tunnel)

    def _read_requests(self, tape: Tape, reader: Http1Reader) -> None:
        for event in tape.play(reader):
            self._take_of_client(tape, event)
        for event in reader.finish(closed=False):
            self._take_of_client(tape, event)

    def _take_of_client(self, tape: Tape, event: Event) -> None:
        if isinstance(event, RequestStarted):
            draft = Draft(self.flow, Protocol.HTTP1, f"{event.method} {event.target}", request=[(event.at, event.end)])
            keep_request(draft, event.headers)
            self._requests.append(_Request(draft, event))
            if "expect" in draft.facts:
                draft.facts["body_at"] = event.end
        elif isinstance(event, BodyReceived | MessageEnded):
            if self._requests and self._client_tunnel_at is None:
                spans = self._requests[-1].draft.request
                spans[0] = spans[0][0], max(event.end, spans[0][1])
        elif isinstance(event, TunnelStarted):
            self._client_tunnel_at = event.at
        elif isinstance(event, Fault | BytesUnread):
            self._note_damage(tape, event)

    def _read_responses(self, tape: Tape, reader: Http1Reader, *, closed: bool) -> None:
        for event in tape.play(reader):
            self._take_of_server(tape, event)
        for event in reader.finish(closed=closed):
            self._take_of_server(tape, event)
            if isinstance(event, MessageEnded) and event.at == tape.stop and self._responses:
                self._responses[-1].ending = Ending.CLOSE
        if self._responses and self._responses[-1].lost and self._responses[-1].ending is Ending.OPEN:
            self._responses[-1].stop, self._responses[-1].ending = tape.stop, Ending.RESPONSE

    def _take_of_server(self, tape: Tape, event: Event) -> None:
        if isinstance(event, ResponseStarted):
            self._start_response(event)
            return
        response = self._responses[-1] if self._responses and self._responses[-1].ending is Ending.OPEN else None
        if isinstance(event, MessageEnded):
            if response is not None:
                response.stop, response.ending = event.at, Ending.RESPONSE
        elif isinstance(event, BodyReceived):
            if response is not None:
                response.stop = event.end
                if response.marks is not None:
                    response.marks.read(tape, event.at, event.end)
        elif isinstance(event, TunnelStarted):
            self._server_tunnel_at = event.at
            if response is not None:
                response.ending = Ending.RESPONSE
        elif isinstance(event, Fault | BytesUnread):
            self._note_damage(tape, event)
            if response is not None:
                response.lost = True

    def _start_response(self, event: ResponseStarted) -> None:
        if event.status < 200 and event.status != 101:
            self._interim_at = event.at if self._interim_at is None else self._interim_at
            return
        if self._responses and self._responses[-1].ending is Ending.OPEN:  # its end was not captured
            self._responses[-1].stop, self._responses[-1].ending = event.at, Ending.RESPONSE
        response = _Response(event, event.end, interim_at=self._interim_at)
        if is_event_stream(event.headers):
            response.marks = MessageMarks.of_sse(encoded="content-encoding" in event.headers)
        self._responses.append(response)
        self._interim_at = None

    def _note_damage(self, tape: Tape, event: Fault | BytesUnread) -> None:
        self._damaged = True
        if isinstance(event, Fault) and tape.has_all(event.at, event.end):
            self.losses.add(Loss.PROTOCOL_FAULT, capture=self.capture)

    @property
    def asks(self) -> bool:
        """Could a request be read?"""
        return bool(self._requests)

    @property
    def answers(self) -> bool:
        """Could a response be read?"""
        return bool(self._responses)

    # pairing

    def _match_in_order(self) -> list[Draft]:
        """RFC 9112 section 9.3.2; what a server says unasked (408 before it closes) is no response."""
        for request, response in zip(self._requests, self._responses, strict=False):
            _answer(request.draft, response)
        return []

    def _match_by_time(self, streams: Streams, unread_at: int, stop: int) -> list[Draft]:
        """Where messages may be missing: a response answers the last request before it, requests between went unanswered.

        Bytes of the server between two responses that could be read are one that could not: it answers the last request
        before them, and the response behind them another one, which was not captured.

        Returns:
            Drafts for responses whose request was not captured.
        """
        back = 2 * self.flow + 1
        asked_ns = _times(streams, 2 * self.flow, [request.started.at for request in self._requests])
        answered_ns = _times(streams, back, [response.started.at for response in self._responses])
        unread_ns = _times(streams, back, [unread_at, *(response.stop for response in self._responses)])
        orphans: list[Draft] = []
        following = 0
        for place, (response, ns) in enumerate(zip(self._responses, answered_ns, strict=True)):
            begin = response.started.at if response.interim_at is None else response.interim_at
            following = self._answer_unread(asked_ns, following, (unread_at, begin), min(unread_ns[place], ns))
            behind = following
            while behind < len(self._requests) and asked_ns[behind] < ns:
                behind += 1
            if behind == following:
                orphans.append(Draft(self.flow, Protocol.HTTP1, UNKNOWN_NAME))
                _answer(orphans[-1], response)
            else:
                for request in self._requests[following : behind - 1]:
                    request.draft.ending = Ending.UNSEEN
                _answer(self._requests[behind - 1].draft, response)
            following, unread_at = behind, response.stop
        following = self._answer_unread(asked_ns, following, (unread_at, stop), unread_ns[-1])
        (last_ns,) = _times(streams, back, [stop - 1]) if unread_at < stop else [0]
        for request, ns in zip(self._requests[following:], asked_ns[following:], strict=True):
            if ns < last_ns:
                request.draft.ending = Ending.UNSEEN
        return orphans

    def _answer_unread(self, asked_ns: list[int], following: int, unread: Span, unread_ns: int) -> int:
        """Gives bytes of the server that could not be read to the last request before them; gives the first request behind it."""
        behind = following
        while unread[0] < unread[1] and behind < len(self._requests) and asked_ns[behind] < unread_ns:
            behind += 1
        if behind > following:
            for request in self._requests[following : behind - 1]:
                request.draft.ending = Ending.UNSEEN
            missed = self._requests[behind - 1].draft
            missed.response, missed.ending = [unread], Ending.RESPONSE
        return behind

    def _tunnel(self, client: Tape, server: Tape) -> Tunnel | None:
        """The switch of protocols, if the server agreed to one."""
        if self._server_tunnel_at is None or not self._responses:
            return None
        switched = self._responses[-1].started
        last = next(
            (index for index, request in enumerate(self._requests) if (switched.at, self._responses[-1].stop) in request.draft.response),
            None,
        )
        if last is None:
            return None
        owner, inside = self._requests[last].draft, self._requests[last + 1 :]
        client_at = client.stop if self._client_tunnel_at is None else self._client_tunnel_at
        if inside:  # they look like requests to the proxy, and are those that it passes on
            client_at = inside[0].draft.request[0][0]
            del self._requests[last + 1 :]
        if switched.status == 101 and "h2c" not in switched.headers.get("upgrade", ""):
            owner.protocol, owner.ending = Protocol.WEBSOCKET, Ending.TUNNEL
            owner.response = [(switched.at, max(server.stop, switched.end))]
            owner.facts["tunnel_request_len"] = client.stop - client_at
        return Tunnel(owner, client_at, self._server_tunnel_at)


def _answer(draft: Draft, response: _Response) -> None:
    """Makes a response that of an exchange."""
    started = response.started
    draft.response, draft.ending = [(started.at, response.stop)], response.ending
    draft.status, draft.outcome = str(started.status), outcome_of_http(started.status)
    keep_response(draft.facts, started.headers)
    if response.interim_at is not None:
        draft.facts["interim_at"] = response.interim_at
    if response.lost:
        draft.facts["unread"] = True
    if response.marks is not None:
        draft.protocol = Protocol.SSE
        response.marks.conclude(draft)


def _times(streams: Streams, fd: int, offsets: list[int]) -> list[int]:
    where = np.asarray(offsets, np.int64)
    seen = streams.first_seen(fd, where)
    return [int(ns) for ns in np.minimum(seen, streams.in_order(fd, where))]
