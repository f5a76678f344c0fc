"""Where the messages of a streamed response end: server-sent events and gRPC messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.exchanges.table import Outcome
from pcapdiag.protocols.events import GrpcMessageReceived, SseEventReceived
from pcapdiag.protocols.grpc import GrpcMessageReader
from pcapdiag.protocols.sse import SseReader

if TYPE_CHECKING:
    from pcapdiag.exchanges.draft import Draft
    from pcapdiag.exchanges.tape import Tape


class MessageMarks:
    """Collects the stream offsets behind each message of one response."""

    def __init__(self, reader: SseReader | GrpcMessageReader | None) -> None:
        """`reader` None: the content is coded, and each piece of body stands for a message."""
        self._reader = reader
        self._offsets: list[int] = []
        self._done = False
        self._failed = False

    @classmethod
    def of(cls, kind: str) -> MessageMarks:
        """By what `Said.marks` calls it: "grpc", "sse", or "pieces" for an encoded event stream."""
        return cls.of_grpc() if kind == "grpc" else cls.of_sse(encoded=kind == "pieces")

    @classmethod
    def of_sse(cls, *, encoded: bool) -> MessageMarks:
        """For a text/event-stream; `encoded`: compressed, so that its events cannot be told apart."""
        return cls(None if encoded else SseReader())

    @classmethod
    def of_grpc(cls) -> MessageMarks:
        """For a response of application/grpc."""
        return cls(GrpcMessageReader())

    def read(self, tape: Tape, start: int, stop: int) -> None:
        """Takes the next piece of body, which lies at [start, stop) of the stream."""
        if self._reader is None:
            self._offsets.append(stop)
            return
        for left, right, data in tape.between(start, stop):
            events = self._reader.skip(left, right - left) if data is None else self._reader.feed(data, left)
            for event in events:
                if isinstance(event, SseEventReceived):
                    self._offsets.append(event.end)
                    self._done |= event.done
                    self._failed |= event.error
                elif isinstance(event, GrpcMessageReceived):
                    self._offsets.append(event.end)

    def conclude(self, draft: Draft) -> None:
        """Tells the exchange where its messages end, and what a token stream said of its own end."""
        draft.messages = self._offsets
        if isinstance(self._reader, SseReader):
            draft.facts["sse_done"] = self._done
        if self._failed:
            draft.outcome = Outcome.ERROR
            draft.facts["sse_error"] = True
