"""TLS as an observer without keys sees it: records, hellos, clear handshake messages and alerts.

One TlsReader reads one direction of one TCP connection, from bytes to events with byte offsets. Where the bytes were
cut does not change the events; a hole is told to it with `skip` and costs only what cannot be read without the missing
bytes. RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct
from typing import Final

from pcapdiag.protocols.tls_handshake import (
    TLS_1_3,
    BytesUnread,
    ClientHelloReceived,
    Fault,
    HandshakeMessageReceived,
    HandshakeReader,
    ServerHelloReceived,
)

__all__ = [
    "ALERT",
    "ALERT_NAMES",
    "APPLICATION_DATA",
    "CHANGE_CIPHER_SPEC",
    "HANDSHAKE",
    "HEARTBEAT",
    "MAX_RECORD_LEN",
    "RECORD_HEADER_LEN",
    "TLS_1_3",
    "AlertReceived",
    "BytesUnread",
    "ChangeCipherSpecReceived",
    "ClientHelloReceived",
    "EncryptedAlertSuspected",
    "Fault",
    "HandshakeMessageReceived",
    "RecordCut",
    "RecordReceived",
    "ServerHelloReceived",
    "TlsEvent",
    "TlsReader",
    "record_payload_len",
]  # fmt: skip

RECORD_HEADER_LEN: Final = 5
MAX_RECORD_LEN: Final = 16_384 + 2_048
"""Longest payload a record may claim: RFC 5246 section 6.2.3; TLS 1.3 allows 16,384 + 256 (RFC 8446 section 5.2)."""
CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23
HEARTBEAT: Final = 24  # RFC 6520; a reader that searches does not begin with one

ALERT_NAMES: Final = {
    0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow", 40: "handshake_failure",
    42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked", 45: "certificate_expired",
    46: "certificate_unknown", 47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied", 50: "decode_error",
    51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
    86: "inappropriate_fallback", 90: "user_canceled", 100: "no_renegotiation", 109: "missing_extension",
    110: "unsupported_extension", 112: "unrecognized_name", 113: "bad_certificate_status_response",
    115: "unknown_psk_identity", 116: "certificate_required", 120: "no_application_protocol",
}  # fmt: skip
"""AlertDescription of RFC 8446 section 6 and RFC 5246 section 7.2."""

_HEADER: Final = Struct(">BHH")  # RFC 8446 section 5.1: type, legacy_record_version, length
_MAYBE_HEADER: Final = re.compile(rb"[\x14-\x17]\x03[\x00-\x04][\x00-\x48]", re.DOTALL)
_HEADER_RANGES: Final = ((20, 23), (3, 3), (0, 4), (0, MAX_RECORD_LEN >> 8))  # of the bytes of a header
_ALERT_13_LEN: Final = 19  # level, description, content type, 16-byte tag: RFC 8446 section 5.2
_MOST_SEALED_BYTE_LEN: Final = 320  # ChangeCipherSpec in a renegotiation: one byte, 48 of MAC, 256 of padding, and room
_LEAST_SEALED_ALERT_LEN: Final = 10  # level, description, the shortest tag (CCM_8)


@dataclass(frozen=True, slots=True)
class _Span:
    """Something that lies at stream offsets [at, end)."""

    at: int
    end: int


@dataclass(frozen=True, slots=True)
class RecordReceived(_Span):
    """A record whose last byte is known to have been sent; the events of what it held follow it."""

    type: int
    version: int
    """legacy_record_version."""
    length: int
    """Payload, as the header says."""


@dataclass(frozen=True, slots=True)
class RecordCut(_Span):
    """The stream finished at `end`, inside this record."""

    type: int
    version: int
    length: int
    """Payload the header promised."""


@dataclass(frozen=True, slots=True)
class ChangeCipherSpecReceived(_Span):
    """Up to TLS 1.2 the sender's next records are encrypted; in TLS 1.3 it means nothing (RFC 8446 appendix D.4)."""


@dataclass(frozen=True, slots=True)
class AlertReceived(_Span):
    """An alert in the clear."""

    level: int
    """1 warning, 2 fatal."""
    description: int
    """Key of ALERT_NAMES."""


@dataclass(frozen=True, slots=True)
class EncryptedAlertSuspected(_Span):
    """An encrypted record of type alert; or a stream that finished on an application record just as long as a TLS 1.3 alert.

    Whether it is a close_notify or an error cannot be seen.
    """


TlsEvent = (
    RecordReceived | RecordCut | ClientHelloReceived | ServerHelloReceived | HandshakeMessageReceived
    | ChangeCipherSpecReceived | AlertReceived | EncryptedAlertSuspected | BytesUnread | Fault
)  # fmt: skip


def record_payload_len(length: int, cipher: int | None = None) -> int:
    """The most application bytes an application record of `length` can hold: TLS 1.3 padding cannot be seen.

    Without a cipher the record is taken for TLS 1.3, as for cipher suites whose overhead varies or is not known here.
    """
    if cipher == 0x1305:  # TLS_AES_128_CCM_8_SHA256, RFC 8446 appendix B.4
        overhead = 1 + 8
    elif cipher is not None and (0x9C <= cipher <= 0xAD or 0xC02B <= cipher <= 0xC032):
        overhead = 8 + 16  # GCM, RFC 5288 section 3: explicit nonce, tag
    elif cipher is not None and 0xCCA8 <= cipher <= 0xCCAE:
        overhead = 16  # ChaCha20-Poly1305, RFC 7905 section 2
    else:
        overhead = 1 + 16  # RFC 8446 section 5.2: content type, tag
    return max(0, length - overhead)


class TlsReader:
    """Reads one direction of one connection.

    Memory is bounded by one record (searching) plus MAX_HELLO_LEN; application payload is never kept.
    """

    def __init__(self, *, synced: bool = True) -> None:
        """`synced` is False where the first byte need not be the first of a record."""
        self._at = 0  # offset of the next byte to come
        self._tail = b""  # the bytes before it that are not understood yet: part of a header, or what is searched
        self._lost_at: int | None = None if synced else 0  # searching for a record since this offset
        self._open = (0, 0, 0, 0)  # at, type, version, length of the record whose payload is being read
        self._left = 0  # payload bytes of it still to come; 0: no record is open
        self._payload = bytearray()  # of it, up to the first hole; unused for application data
        self._holed = False
        self._messages = HandshakeReader(clear=synced)
        self._last: TlsEvent | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[TlsEvent]:
        """The events that end within the next bytes of the stream (after a fault or hole: that can be told by now)."""
        size = len(data)
        self._at += size
        if size < self._left:
            self._keep(data, 0, size)
            return []
        events: list[TlsEvent] = []
        if self._tail:
            data, self._tail = self._tail + data, b""
        pos = self._left
        if pos:
            self._keep(data, 0, pos)
            self._close(events)
        self._walk(data, pos, events)
        return self._give(events)

    def skip(self, length: int) -> list[TlsEvent]:
        """The events that a hole of `length` bytes ends; a record whose payload it lies in goes on behind it."""
        if length <= 0:
            return []
        events: list[TlsEvent] = []
        self._drain(events)
        hole_at = self._at
        self._at += length
        if self._left:
            taken = min(self._left, length)
            self._left -= taken
            self._holed = True
            if self._left:
                return self._give(events)
            self._close(events)
            hole_at += taken
        if hole_at < self._at and self._lost_at is None:
            self._lose(hole_at - len(self._tail), events)
        if hole_at < self._at:
            self._tail = b""
        return self._give(events)

    def finish(self) -> list[TlsEvent]:
        """The events only the end of the stream can tell. Call it once, last."""
        events: list[TlsEvent] = []
        self._drain(events)
        self._give(events)
        if self._left:
            at, kind, version, length = self._open
            events.append(RecordCut(at, self._at, kind, version, length))
            if kind == HANDSHAKE:
                self._messages.read(bytes(self._payload), at + RECORD_HEADER_LEN, events.append)
        elif self._tail or self._lost_at is not None:
            at = self._at - len(self._tail) if self._lost_at is None else self._lost_at
            if at < self._at:
                events.append(BytesUnread(at, self._at))
        elif (last := self._last) and self._may_be_alert(last):
            events.append(EncryptedAlertSuspected(last.at, last.end))
        self._messages.lose(self._at, events.append)
        return events

    def _may_be_alert(self, last: TlsEvent) -> bool:
        maybe_13 = self._messages.version is None or self._messages.version >= TLS_1_3
        return maybe_13 and isinstance(last, RecordReceived) and last.type == APPLICATION_DATA and last.length == _ALERT_13_LEN

    def _give(self, events: list[TlsEvent]) -> list[TlsEvent]:
        if events:
            self._last = events[-1]
        return events

    def _drain(self, events: list[TlsEvent]) -> None:
        """Decides what is being searched: no byte that follows could confirm it."""
        if self._lost_at is not None and self._tail:
            data, self._tail = self._tail, b""
            self._walk(data, 0, events, at_end=True)

    def _lose(self, at: int, events: list[TlsEvent]) -> None:
        self._lost_at = at
        self._messages.lose(at, events.append)

    def _walk(self, data: bytes | bytearray | memoryview, pos: int, events: list[TlsEvent], *, at_end: bool = False) -> None:
        """Reads records from data[pos:], the last byte of which is the stream's last so far."""
        size = len(data)
        base = self._at - size
        while True:
            if self._lost_at is not None:
                pos, found = _search(data, pos, at_end=at_end)
                if not found:
                    break
                if self._lost_at < base + pos:
                    events.append(BytesUnread(self._lost_at, base + pos))
                self._lost_at = None
            if size - pos < RECORD_HEADER_LEN:
                break
            kind, version, length = _HEADER.unpack_from(data, pos)
            end = pos + RECORD_HEADER_LEN + length
            if not _is_header(kind, version, length):
                seen = bytes(data[pos : pos + RECORD_HEADER_LEN]).hex()
                self._lose(base + pos, events)
                events.append(Fault(base + pos, base + pos + RECORD_HEADER_LEN, f"not a record header: {seen}"))
            elif end <= size and kind == APPLICATION_DATA:
                events.append(RecordReceived(base + pos, base + end, kind, version, length))
                pos = end
            else:
                pos += RECORD_HEADER_LEN
                self._open = (base + pos - RECORD_HEADER_LEN, kind, version, length)
                self._left = length
                self._keep(data, pos, min(end, size))
                pos = min(end, size)
                if self._left:
                    return
                self._close(events)
        self._tail = bytes(data[pos:])

    def _keep(self, data: bytes | bytearray | memoryview, start: int, end: int) -> None:
        self._left -= end - start
        if self._open[1] != APPLICATION_DATA and not self._holed:
            self._payload += data[start:end]

    def _close(self, events: list[TlsEvent]) -> None:
        """The open record is over; what it held is read."""
        at, kind, version, length = self._open
        payload, start, end = bytes(self._payload), at + RECORD_HEADER_LEN, at + RECORD_HEADER_LEN + length
        self._payload.clear()
        self._left, self._holed = 0, False
        events.append(RecordReceived(at, end, kind, version, length))
        if kind == HANDSHAKE:
            self._messages.read(payload, start, events.append)
            if len(payload) < length:
                self._messages.skip(start + len(payload), end, events.append)
        elif kind == CHANGE_CIPHER_SPEC and length == 1:
            self._messages.seal(at, events.append)
            events.append(ChangeCipherSpecReceived(start, end))
        elif kind == ALERT and length >= _LEAST_SEALED_ALERT_LEN:
            events.append(EncryptedAlertSuspected(at, end))
        elif kind == ALERT and len(payload) < length:
            events.append(BytesUnread(start + len(payload), end))
        elif kind == ALERT and length == 2 and payload[0] in (1, 2):
            events.append(AlertReceived(start, end, payload[0], payload[1]))
        elif kind == ALERT:
            events.append(Fault(start, end, f"not an alert: {payload.hex()}"))


def _is_header(kind: int, version: int, length: int) -> bool:
    """Whether a record may begin so: RFC 8446 section 5.1, RFC 5246 section 6.2."""
    if not 0x0300 <= version <= TLS_1_3 or length > MAX_RECORD_LEN:
        return False
    if kind == CHANGE_CIPHER_SPEC:
        return 1 <= length <= _MOST_SEALED_BYTE_LEN
    return kind == APPLICATION_DATA or (kind in (HANDSHAKE, HEARTBEAT) and length >= 1) or (kind == ALERT and length >= 2)


def _search(data: bytes | bytearray | memoryview, pos: int, *, at_end: bool) -> tuple[int, bool]:
    """The first place from `pos` where a record begins whose successor looks like a record too.

    Not found: the first place that more bytes may yet confirm. At the end no more will come, and a whole record
    followed by at most a part of a plausible header is enough.
    """
    size = len(data)
    while match := _MAYBE_HEADER.search(data, pos):
        pos = match.start()
        if size - pos < RECORD_HEADER_LEN:
            return pos, False
        kind, version, length = _HEADER.unpack_from(data, pos)
        after = pos + RECORD_HEADER_LEN + length
        if _is_header(kind, version, length):
            if size - after >= RECORD_HEADER_LEN:
                if _is_header(*_HEADER.unpack_from(data, after)):
                    return pos, True
            elif not at_end:
                return pos, False
            elif after <= size and all(low <= byte <= high for byte, (low, high) in zip(data[after:], _HEADER_RANGES, strict=False)):
                return pos, True
        pos += 1
    return max(pos, size - RECORD_HEADER_LEN + 1), False
