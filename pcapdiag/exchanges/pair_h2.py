"""HTTP/2 and gRPC: frames of both directions -> one draft per stream, and the log of the connection (RFC 9113)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.draft import Cut, Draft, Ending, add_span
from pcapdiag.exchanges.fields import UNKNOWN_NAME, ResponseWords, Words, outcome_of_http
from pcapdiag.exchanges.h2log import SETTING_KINDS, H2Kind
from pcapdiag.exchanges.messages import MessageMarks
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.losses import Loss, Losses
from pcapdiag.protocols.events import (
    DataReceived,
    Event,
    Fault,
    FrozenMap,
    GoawayReceived,
    Headers,
    HeadersReceived,
    PingReceived,
    SettingsReceived,
    Side,
    StreamReset,
    WindowUpdated,
)
from pcapdiag.protocols.header_block import BlockMemo
from pcapdiag.protocols.http2_look import LookingHttp2Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcapdiag.exchanges.h2log import H2Rows
    from pcapdiag.exchanges.tape import Tape

_HEADER_TABLE_SIZE: Final = 1  # RFC 9113 section 6.5.2
_NO_HEADERS: Final[Headers] = FrozenMap()


@dataclass(slots=True, eq=False)
class _Stream:
    """One h2 stream that the client opened."""

    draft: Draft
    request_blocks: int = 0
    response_blocks: int = 0
    marks: MessageMarks | None = None


@dataclass(frozen=True, slots=True)
class H2Memo:
    """What connections have said before: they say much the same."""

    blocks: BlockMemo = field(default_factory=BlockMemo)
    words: Words = field(default_factory=Words)


@dataclass(slots=True, eq=False)
class H2Pairing:
    """Reads one connection: first the client's side, then the server's."""

    flow: int
    whole: bool
    """The connection starts with these tapes: both prefaces are there."""
    losses: Losses
    capture: int
    log: H2Rows
    """Rows are added here."""
    memo: H2Memo = field(default_factory=H2Memo)
    """Shared by the connections of a capture."""
    keys: str = "plain"
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _fd: int = 0
    _tape: Tape | None = None

    def adopt(self, draft: Draft) -> None:
        """Makes an upgraded HTTP/1.1 request stream 1 (RFC 7540 section 3.2)."""
        draft.h2_stream = 1
        self._streams[1] = _Stream(draft, request_blocks=1)

    def pair(self, client: Tape, server: Tape, *, closed: bool) -> list[Draft]:
        """All streams, in the order of their ids; `closed`: no reset cut the connection short."""
        client_reader = LookingHttp2Reader(Side.CLIENT, preface_expected=self.whole, at=client.start, memo=self.memo.blocks)
        server_reader = LookingHttp2Reader(Side.SERVER, preface_expected=self.whole, at=server.start, memo=self.memo.blocks)
        self._read(2 * self.flow, client, client_reader, server_reader, closed=closed)
        self._read(2 * self.flow + 1, server, server_reader, None, closed=closed)
        for stream in self._streams.values():
            if stream.marks is not None:
                stream.marks.conclude(stream.draft)
            if stream.draft.ending is Ending.OPEN and stream.draft.response:
                _end_unread(stream.draft, server)
        return [self._streams[number].draft for number in sorted(self._streams)]

    def _read(self, fd: int, tape: Tape, reader: LookingHttp2Reader, peer: LookingHttp2Reader | None, *, closed: bool) -> None:
        self._fd, self._tape = fd, tape
        handlers: dict[type[Event], Callable[..., None]] = {
            DataReceived: self._client_data if fd & 1 == 0 else self._server_data,
            HeadersReceived: self._client_headers if fd & 1 == 0 else self._server_headers,
            StreamReset: self._reset,
            WindowUpdated: self._window,
            SettingsReceived: self._settings,
            PingReceived: self._ping,
            GoawayReceived: self._goaway,
            Fault: self._fault,
        }
        for event in tape.show(reader):
            if (handle := handlers.get(type(event))) is not None:
                handle(event)
            if peer is not None and isinstance(event, SettingsReceived) and _HEADER_TABLE_SIZE in event.values:
                peer.set_header_table_size(event.values[_HEADER_TABLE_SIZE])
        for event in reader.finish(closed=closed):
            if (handle := handlers.get(type(event))) is not None:
                handle(event)

    def _stream(self, number: int) -> _Stream | None:
        """The stream, made up if its request was not captured; None for streams the server opened."""
        stream = self._streams.get(number)
        if stream is None and number & 1:
            draft = Draft(self.flow, Protocol.H2, UNKNOWN_NAME, keys=self.keys, h2_stream=number)
            stream = self._streams[number] = _Stream(draft)
        return stream

    # the client's side

    def _client_headers(self, event: HeadersReceived) -> None:
        self._count_block(event)
        stream = self._stream(event.stream_id)
        if stream is None:
            return
        draft, said = stream.draft, self.memo.words.of_request(event.headers or _NO_HEADERS)
        add_span(draft.request, event.at, event.end)
        self._log(event.end, H2Kind.HEADERS, event.stream_id, min(stream.request_blocks, 1), event.end_stream)
        stream.request_blocks += 1
        if stream.request_blocks > 1:
            return
        if said.name is not None:
            draft.name = said.name
        draft.facts |= said.facts
        draft.deadline_ns, draft.attempt = said.deadline_ns, said.attempt
        if said.is_grpc:
            draft.protocol = Protocol.GRPC

    def _client_data(self, event: DataReceived) -> None:
        self._log(event.end, H2Kind.DATA, event.stream_id, event.flow_len, event.end_stream)
        stream = self._stream(event.stream_id)
        if stream is not None:
            add_span(stream.draft.request, event.at, event.end)

    # the server's side

    def _server_headers(self, event: HeadersReceived) -> None:
        self._count_block(event)
        if event.promised_stream_id is not None or (stream := self._stream(event.stream_id)) is None:
            return
        draft, said = stream.draft, self.memo.words.of_response(event.headers or _NO_HEADERS)
        self._log(event.end, H2Kind.HEADERS, event.stream_id, min(stream.response_blocks, 1), event.end_stream)
        if said.status.startswith("1") and not event.end_stream:
            draft.facts.setdefault("interim_at", event.at)
            return
        stream.response_blocks += 1
        add_span(draft.response, event.at, event.end)
        draft.facts |= said.facts
        if stream.response_blocks == 1:
            _begin_response(stream, said)
        if said.grpc_status is not None:
            draft.status = said.grpc_status
            draft.outcome = Outcome.OK if draft.status == "0" else Outcome.ERROR
        if event.end_stream:
            self._end_response(draft)

    def _server_data(self, event: DataReceived) -> None:
        self._log(event.end, H2Kind.DATA, event.stream_id, event.flow_len, event.end_stream)
        stream = self._stream(event.stream_id)
        if stream is None:
            return
        add_span(stream.draft.response, event.at, event.end)
        if stream.marks is not None and self._tape is not None:
            stream.marks.read(self._tape, event.payload_at, event.payload_end)
        if event.end_stream:
            self._end_response(stream.draft)

    def _end_response(self, draft: Draft) -> None:
        draft.ending = Ending.RESPONSE
        if draft.protocol is Protocol.GRPC and draft.status is None and draft.facts.get("content-type"):
            draft.outcome = Outcome.ERROR  # a call without a status (gRPC over HTTP/2, "Responses")

    # both sides

    def _reset(self, event: StreamReset) -> None:
        self._log(event.end, H2Kind.RST, event.stream_id, event.error_code)
        stream = self._stream(event.stream_id)
        if stream is None:
            return
        refused = self._fd & 1 == 1 and not stream.response_blocks
        stream.draft.cuts += (Cut(self._fd, event.end - 1, Outcome.ERROR if refused else Outcome.ABORTED),)
        stream.draft.facts.setdefault("h2_error", event.error_code)

    def _goaway(self, event: GoawayReceived) -> None:
        self._log(event.end, H2Kind.GOAWAY, event.last_stream_id, event.error_code)
        if self._fd & 1 == 0:
            return
        for number, stream in self._streams.items():
            if number > event.last_stream_id:
                stream.draft.cuts += (Cut(self._fd, event.end - 1, Outcome.ABORTED),)
                stream.draft.facts.setdefault("goaway", event.error_code)

    def _window(self, event: WindowUpdated) -> None:
        self._log(event.end, H2Kind.WINDOW_UPDATE, event.stream_id, event.increment)

    def _settings(self, event: SettingsReceived) -> None:
        self._log(event.end, H2Kind.SETTINGS_ACK if event.ack else H2Kind.SETTINGS, 0, len(event.values))
        for setting, value in event.values.items():
            if setting in SETTING_KINDS:
                self._log(event.end, SETTING_KINDS[setting], 0, value)

    def _ping(self, event: PingReceived) -> None:
        self._log(event.end, H2Kind.PING_ACK if event.ack else H2Kind.PING, 0, int.from_bytes(event.opaque, signed=True))

    def _fault(self, event: Fault) -> None:
        if self._tape is not None and self._tape.has_all(event.at, event.end):
            self.losses.add(Loss.PROTOCOL_FAULT, capture=self.capture)

    def _count_block(self, event: HeadersReceived) -> None:
        if event.headers is None or event.unknown_count:
            self.losses.add(Loss.HPACK_LOST, capture=self.capture)

    def _log(self, stop: int, kind: H2Kind, stream_id: int, value: int, end_stream: bool = False) -> None:
        self.log.add((self._fd, stop, kind, stream_id, value, end_stream))


def _begin_response(stream: _Stream, said: ResponseWords) -> None:
    draft = stream.draft
    if said.status.isdecimal():
        draft.outcome = outcome_of_http(int(said.status))
    if said.is_grpc:
        draft.protocol = Protocol.GRPC
    elif said.status:
        draft.status = said.status  # of a gRPC call too: a proxy answered that does not speak gRPC
    if draft.protocol is Protocol.GRPC:
        stream.marks = MessageMarks.of_grpc()
    elif said.is_event_stream:
        draft.protocol = Protocol.SSE
        stream.marks = MessageMarks.of_sse(encoded=said.encoded)


def _end_unread(draft: Draft, server: Tape) -> None:
    """A response goes on in bytes that were not captured, and then nothing: its end is among them, not that of the connection."""
    stop = draft.response[-1][1]
    if not server.has_all(stop, stop + 1):
        draft.ending = Ending.RESPONSE
        draft.facts["end_unread"] = True
