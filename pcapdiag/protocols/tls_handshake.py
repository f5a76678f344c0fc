"""Handshake messages: what TLS says in the clear about a connection to be. RFC 8446 section 4, RFC 5246 section 7.4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

MAX_HELLO_LEN: Final = 131_072
"""A hello that claims more is not collected: it becomes a HandshakeMessageReceived."""

TLS_1_3: Final = 0x0304

_CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2
_MESSAGE_TYPES: Final = frozenset({0, 1, 2, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25, 67})
_RETRY_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446 section 4.1.3
_MAX_LISTED: Final = 64
_MAX_NAME_LEN: Final = 255

# Extension types, RFC 8446 section 4.2, RFC 5077, RFC 9849.
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_SESSION_TICKET: Final = 35
_PRE_SHARED_KEY: Final = 41
_EARLY_DATA: Final = 42
_SUPPORTED_VERSIONS: Final = 43
_KEY_SHARE: Final = 51
_ECH: Final = 0xFE0D


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHelloReceived:
    """A ClientHello, RFC 8446 section 4.1.2. Values reserved for GREASE (RFC 8701) are left out; lists stop at 64 entries."""

    at: int
    end: int
    server_name: str | None
    """Lower case, printable ASCII (anything else is "?"), at most 255 characters."""
    alpn: tuple[str, ...]
    versions: tuple[int, ...]
    """supported_versions; legacy_version alone where there is no such extension."""
    key_share_groups: tuple[int, ...]
    has_psk: bool
    has_ticket: bool
    """A non-empty TLS 1.2 session ticket (RFC 5077)."""
    early_data: bool
    ech: bool
    """encrypted_client_hello is offered (possibly as GREASE): server_name may be the public name."""
    session_id: bytes
    length: int
    """The message with its 4-byte header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHelloReceived:
    """A ServerHello or HelloRetryRequest, RFC 8446 sections 4.1.3 and 4.1.4."""

    at: int
    end: int
    version: int
    """The one selected: supported_versions if present, else legacy_version."""
    cipher: int
    retry: bool
    key_share_group: int | None
    selected_psk: bool
    alpn: str | None
    """TLS 1.2 only; TLS 1.3 sends it encrypted."""
    session_id: bytes
    """Up to TLS 1.2, an echo of the client's says that the session was resumed."""
    length: int
    """The message with its 4-byte header."""


@dataclass(frozen=True, slots=True)
class HandshakeMessageReceived:
    """A handshake message in the clear, hellos excepted."""

    at: int
    end: int
    type: int
    length: int
    """The message with its 4-byte header."""


@dataclass(frozen=True, slots=True)
class BytesUnread:
    """Bytes that could not be read: around a hole, after a fault, before the first record of a start in the middle."""

    at: int
    end: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Bytes that break the protocol."""

    at: int
    end: int
    what: str


HandshakeEvent = ClientHelloReceived | ServerHelloReceived | HandshakeMessageReceived | BytesUnread | Fault

Add = Callable[[HandshakeEvent], None]
"""Takes the next event."""


class HandshakeReader:
    """Handshake messages out of the payloads of handshake records: RFC 8446 section 5.1, they may share or span records."""

    def __init__(self, *, clear: bool) -> None:
        self.version: int | None = None  # as a ServerHello selected it
        self._clear = clear  # the next record goes on where the last one stopped, and can be read
        self._sealed = False  # what cannot be read is encrypted, not lost
        self._head = bytearray()  # of the message being read: its header, and its body if it is a hello
        self._at = 0  # its first byte
        self._have = 0
        self._want = 0

    def seal(self, at: int, add: Add) -> None:
        """From here on the sender encrypts, unless its next record shows that it does not (TLS 1.3 after a retry)."""
        self.lose(at, add)
        self._sealed = True

    def lose(self, at: int, add: Add) -> None:
        """The message being read cannot be finished."""
        if self._have:
            add(BytesUnread(self._at, at))
        self._head.clear()
        self._have = 0
        self._clear = False

    def skip(self, at: int, end: int, add: Add) -> None:
        """Payload bytes [at, end) are missing: that matters only to a hello, a header, or where a message ends."""
        inside = self._clear and len(self._head) == 4 and self._have + end - at <= self._want
        if inside and self._head[0] not in (_CLIENT_HELLO, _SERVER_HELLO):
            self._have += end - at
            self._finish_message(end, add)
            return
        if not self._have and not self._sealed:
            add(BytesUnread(at, end))
        self.lose(end, add)

    def read(self, payload: bytes, at: int, add: Add) -> None:
        """Reads the payload of one handshake record that lies at stream offset `at`."""
        if not self._clear:
            if not _looks_clear(payload):
                if payload and not self._sealed:
                    add(BytesUnread(at, at + len(payload)))
                return
            self._clear, self._sealed = True, False
        pos = 0
        while pos < len(payload):
            if not self._have:
                self._at = at + pos
            if self._have < 4:
                part = payload[pos : pos + 4 - self._have]
                self._head += part
                self._have += len(part)
                pos += len(part)
                if self._have < 4:
                    return
                if self._head[0] not in _MESSAGE_TYPES:
                    add(Fault(self._at, at + pos, f"unknown handshake message type {self._head[0]}"))
                    self.lose(at + len(payload), add)
                    return
                self._want = 4 + int.from_bytes(self._head[1:])
            part = payload[pos : pos + self._want - self._have]
            if self._head[0] in (_CLIENT_HELLO, _SERVER_HELLO) and self._want <= MAX_HELLO_LEN:
                self._head += part
            self._have += len(part)
            pos += len(part)
            self._finish_message(at + pos, add)

    def _finish_message(self, end: int, add: Add) -> None:
        if self._have < self._want:
            return
        kind, message = self._head[0], bytes(self._head)
        self._head.clear()
        self._have = 0
        if kind not in (_CLIENT_HELLO, _SERVER_HELLO) or len(message) < self._want:
            add(HandshakeMessageReceived(self._at, end, kind, self._want))
            return
        try:
            hello = (read_client_hello if kind == _CLIENT_HELLO else read_server_hello)(message, self._at, end)
        except FieldError as error:
            add(Fault(self._at, end, f"{'ClientHello' if kind == _CLIENT_HELLO else 'ServerHello'}: {error}"))
            return
        add(hello)
        if isinstance(hello, ServerHelloReceived) and not hello.retry:
            self.version = hello.version
            if hello.version >= TLS_1_3:
                self.seal(end, add)


def _looks_clear(payload: bytes) -> bool:
    """Whether the payload of a handshake record must be read as messages, though the last one could not be.

    Ciphertext has one chance in 2**31 to begin like a hello, one in 2**27 to be a chain of messages that fills the record.
    """
    if payload[:2] in (b"\x01\x00", b"\x02\x00") and payload[4:6] == b"\x03\x03":
        return True
    pos = 0
    while pos + 4 <= len(payload) and payload[pos] in _MESSAGE_TYPES:
        pos += 4 + int.from_bytes(payload[pos + 1 : pos + 4])
    return 0 < pos == len(payload)


class FieldError(ValueError):
    """A length leaves the block it stands in."""


class _Fields:
    """Reads the fields of one block in order: RFC 8446 section 3."""

    def __init__(self, block: bytes, pos: int = 0) -> None:
        self._block = block
        self._pos = pos

    def __bool__(self) -> bool:
        return self._pos < len(self._block)

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        if length > len(self._block) - self._pos:
            raise FieldError(f"a field of {length} bytes where {len(self._block) - self._pos} are left")
        self._pos += length
        return self._block[self._pos - length : self._pos]

    def number(self, length: int) -> int:
        """The next `length` bytes, an integer."""
        return int.from_bytes(self.take(length))

    def vector(self, length: int) -> bytes:
        """A vector after its length, which has `length` bytes."""
        return self.take(self.number(length))


def read_client_hello(message: bytes, at: int, end: int) -> ClientHelloReceived:
    """Reads a whole ClientHello with its 4-byte header that lies at stream offsets [at, end); raises FieldError."""
    fields = _Fields(message, 4)
    legacy_version = fields.number(2)
    fields.take(32)  # random
    session_id = fields.vector(1)
    fields.vector(2)  # cipher suites
    fields.vector(1)  # compression methods
    found = _extensions(fields)
    versions = _numbers(_Fields(found[_SUPPORTED_VERSIONS]).vector(1)) if _SUPPORTED_VERSIONS in found else [legacy_version]
    return ClientHelloReceived(
        at=at,
        end=end,
        server_name=_server_name(found),
        alpn=_alpn(found),
        versions=_listed(versions),
        key_share_groups=_listed(_key_share_groups(found)),
        has_psk=_PRE_SHARED_KEY in found,
        has_ticket=bool(found.get(_SESSION_TICKET)),
        early_data=_EARLY_DATA in found,
        ech=_ECH in found,
        session_id=session_id,
        length=len(message),
    )


def read_server_hello(message: bytes, at: int, end: int) -> ServerHelloReceived:
    """Reads a whole ServerHello with its 4-byte header that lies at stream offsets [at, end); raises FieldError."""
    fields = _Fields(message, 4)
    legacy_version = fields.number(2)
    retry = fields.take(32) == _RETRY_RANDOM
    session_id = fields.vector(1)
    cipher = fields.number(2)
    fields.take(1)  # compression method
    found = _extensions(fields)
    return ServerHelloReceived(
        at=at,
        end=end,
        version=_Fields(found[_SUPPORTED_VERSIONS]).number(2) if _SUPPORTED_VERSIONS in found else legacy_version,
        cipher=cipher,
        retry=retry,
        key_share_group=_Fields(found[_KEY_SHARE]).number(2) if _KEY_SHARE in found else None,
        selected_psk=_PRE_SHARED_KEY in found,
        alpn=next(iter(_alpn(found)), None),
        session_id=session_id,
        length=len(message),
    )


def _extensions(fields: _Fields) -> dict[int, bytes]:
    """Extension data by type, RFC 8446 section 4.2; of a type that comes twice the first."""
    found: dict[int, bytes] = {}
    block = _Fields(fields.vector(2) if fields else b"")
    while block:
        kind = block.number(2)
        found.setdefault(kind, block.vector(2))
    return found


def _server_name(found: dict[int, bytes]) -> str | None:
    """The first host_name, RFC 6066 section 3; an empty extension is a server's acknowledgement."""
    data = found.get(_SERVER_NAME)
    names = _Fields(_Fields(data).vector(2) if data else b"")
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == 0:
            return _printable(name).lower()
    return None


def _alpn(found: dict[int, bytes]) -> tuple[str, ...]:
    """ProtocolNameList, RFC 7301 section 3.1."""
    names = _Fields(_Fields(found[_ALPN]).vector(2) if _ALPN in found else b"")
    listed: list[str] = []
    while names and len(listed) < _MAX_LISTED:
        name = names.vector(1)
        if not (len(name) == 2 and _is_grease(int.from_bytes(name))):
            listed.append(_printable(name))
    return tuple(listed)


def _key_share_groups(found: dict[int, bytes]) -> Iterator[int]:
    """The groups a client sent a share for, RFC 8446 section 4.2.8."""
    shares = _Fields(_Fields(found[_KEY_SHARE]).vector(2) if _KEY_SHARE in found else b"")
    while shares:
        yield shares.number(2)
        shares.vector(2)


def _numbers(block: bytes) -> list[int]:
    return [int.from_bytes(block[pos : pos + 2]) for pos in range(0, len(block) - 1, 2)]


def _listed(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(value for value in values if not _is_grease(value))[:_MAX_LISTED]


def _is_grease(value: int) -> bool:
    """Values like 0x0a0a, 0x1a1a, ... that a client offers for nothing: RFC 8701 section 2."""
    return value & 0x0F0F == 0x0A0A and value >> 8 == value & 0xFF


def _printable(name: bytes) -> str:
    return "".join(chr(byte) if 0x21 <= byte <= 0x7E else "?" for byte in name[:_MAX_NAME_LEN])
