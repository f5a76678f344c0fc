"""What the protocol readers saw: one frozen record per thing that happened on one direction of a connection.

Every event carries where its bytes lie, as offsets into the TCP stream of that direction; times are looked up later,
in bulk. No event holds content: bodies are lengths, header fields pass the allow-list of `headers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Side(Enum):
    """Who sends the bytes that a reader reads."""

    CLIENT = "client"
    SERVER = "server"


class FrozenMap(Mapping[K, V]):
    """A mapping that cannot change, compares and hashes by value, and can be pickled."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenMap):
            return self._items == other._items
        return NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"


Headers = FrozenMap[str, str]
"""Lower-case field name -> bounded, printable value; only what `headers` allows."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the bytes [at, end) of one direction of a TCP connection."""

    at: int
    end: int


@dataclass(frozen=True, slots=True)
class Fault(Event):
    """Bytes that break the protocol, or a hole where the reader needed to see; reading goes on."""

    what: str


@dataclass(frozen=True, slots=True)
class BytesUnread(Event):
    """Bytes the reader could not place: between the loss of sync, or a start in the middle, and the next sure start."""


@dataclass(frozen=True, slots=True)
class RequestStarted(Event):
    """The header section of an HTTP/1 request (RFC 9112 section 3)."""

    method: str
    target: str
    """Without query and fragment."""
    version: str
    """"1.0" or "1.1"."""
    headers: Headers


@dataclass(frozen=True, slots=True)
class ResponseStarted(Event):
    """The header section of an HTTP/1 response (RFC 9112 section 4); below 200 the final one is still to come."""

    status: int
    version: str
    """"1.0" or "1.1"."""
    headers: Headers


@dataclass(frozen=True, slots=True)
class BodyReceived(Event):
    """Payload of an HTTP/1 message: one per chunk, or one per body that is not chunked; or the bytes of a tunnel."""


@dataclass(frozen=True, slots=True)
class MessageEnded(Event):
    """The last byte of an HTTP/1 message lies before `at` (== `end`)."""


@dataclass(frozen=True, slots=True)
class TunnelStarted(Event):
    """From `at` (== `end`) on the bytes are no HTTP any more: 101, 2xx to CONNECT (RFC 9110 sections 7.8, 9.3.6)."""


@dataclass(frozen=True, slots=True)
class SseEventReceived(Event):
    """One event of a text/event-stream; `end` lies behind the byte that completes its blank line."""

    name: str
    """The event field, at most 64 printable characters; "" when there is none."""
    data_len: int
    """Bytes of data, lines joined by one line feed."""
    done: bool
    """The last of a token stream: data is "[DONE]", or the name is "message_stop"."""
    error: bool
    """The name is "error"."""


@dataclass(frozen=True, slots=True)
class SseCommentReceived(Event):
    """A comment line of a text/event-stream: servers send them to keep the connection alive."""


@dataclass(frozen=True, slots=True)
class PrefaceReceived(Event):
    """The 24 bytes an HTTP/2 client begins with (RFC 9113 section 3.4)."""


@dataclass(frozen=True, slots=True)
class HeadersReceived(Event):
    """A whole header block, from HEADERS or PUSH_PROMISE to the last CONTINUATION (RFC 9113 section 6.2, 6.6, 6.10)."""

    stream_id: int
    headers: Headers | None
    """None when the block could not be decoded; a Fault says why."""
    unknown_count: int
    """Fields that refer to entries of the compression table the capture does not show."""
    end_stream: bool
    promised_stream_id: int | None
    """Of PUSH_PROMISE; None for HEADERS."""


@dataclass(frozen=True, slots=True)
class DataReceived(Event):
    """One DATA frame (RFC 9113 section 6.1); the payload [payload_at, payload_end) excludes padding."""

    stream_id: int
    payload_at: int
    payload_end: int
    end_stream: bool

    @property
    def flow_len(self) -> int:
        """Bytes that count against the flow-control windows: the payload and its padding."""
        return self.end - self.at - 9


@dataclass(frozen=True, slots=True)
class PriorityReceived(Event):
    """One PRIORITY frame (RFC 9113 section 6.3)."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset(Event):
    """One RST_STREAM frame (RFC 9113 section 6.4)."""

    stream_id: int
    error_code: int


@dataclass(frozen=True, slots=True)
class SettingsReceived(Event):
    """One SETTINGS frame (RFC 9113 section 6.5); of a repeated setting the last value."""

    values: FrozenMap[int, int]
    ack: bool


@dataclass(frozen=True, slots=True)
class PingReceived(Event):
    """One PING frame (RFC 9113 section 6.7); the acknowledgement repeats the opaque bytes."""

    ack: bool
    opaque: bytes


@dataclass(frozen=True, slots=True)
class GoawayReceived(Event):
    """One GOAWAY frame (RFC 9113 section 6.8)."""

    last_stream_id: int
    error_code: int
    debug: str
    """Additional debug data: at most 128 printable characters."""


@dataclass(frozen=True, slots=True)
class WindowUpdated(Event):
    """One WINDOW_UPDATE frame (RFC 9113 section 6.9); stream 0 is the connection, increment in bytes."""

    stream_id: int
    increment: int


@dataclass(frozen=True, slots=True)
class UnknownFrameReceived(Event):
    """A frame of a type RFC 9113 does not define, which endpoints ignore."""

    type: int
    stream_id: int


@dataclass(frozen=True, slots=True)
class GrpcMessageReceived(Event):
    """One length-prefixed gRPC message, its five bytes of prefix included in [at, end)."""

    length: int
    """Bytes of the message as sent, without the prefix."""
    compressed: bool
