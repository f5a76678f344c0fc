"""DNS messages over UDP and TCP, mDNS and LLMNR included. RFC 1035, 6891 (EDNS), 7766 (TCP), 6762 (mDNS), 4795 (LLMNR).

Nothing here raises on hostile bytes: what is no DNS message is None, and what is one as far as its bytes go says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

MAX_ADDRESSES: Final = 32
MAX_NAME_LEN: Final = 255
"""Octets of a name on the wire: RFC 1035 section 2.3.4."""
TYPE_A: Final = 1
TYPE_AAAA: Final = 28
TYPE_OPT: Final = 41
SERVFAIL: Final = 2
NXDOMAIN: Final = 3

_HEADER: Final = Struct(">6H")  # RFC 1035 section 4.1.1
_QUESTION_END: Final = Struct(">HH")
_RECORD_END: Final = Struct(">HHIH")  # RFC 1035 section 4.1.3: type, class, ttl, rdlength
_OPCODES: Final = frozenset({0, 1, 2, 4, 5, 6})
_QUESTION_CLASSES: Final = frozenset({1, 3, 4, 254, 255})
_CLASS_IN: Final = 1
_CLASS_MASK: Final = 0x7FFF  # the top bit is mDNS's: RFC 6762 sections 5.4 and 10.2
_PLAIN: Final = re.compile(rb"[!-\[\]-~]+")
_ADDRESS_LEN: Final = {TYPE_A: 4, TYPE_AAAA: 16}


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """One query or answer."""

    id: int
    is_response: bool
    opcode: int
    rcode: int
    """With the upper eight bits of EDNS (RFC 6891 section 6.1.3), where it has them."""
    truncated: bool
    """TC: the whole answer has to be fetched over TCP."""
    name: str | None
    """Of the first question: lower case, no dot at the end (the root is "."), other than printable ASCII as \\DDD
    (RFC 1035 section 5.1), so at most 1,003 characters. None if there is no question, as in mDNS answers."""
    qtype: int | None
    question_count: int
    answer_count: int
    """As the header says."""
    addresses: tuple[bytes, ...]
    """Of the A and AAAA records in the answer section, 4 or 16 bytes, the first 32 in order."""
    edns_udp_len: int | None
    """UDP payload size of the OPT record; None without EDNS."""
    cut: bool
    """The bytes end, or stop making sense, before the last record the header counts."""


@dataclass(frozen=True, slots=True)
class DnsMessageReceived:
    """A length-prefixed message, RFC 7766 section 8, prefix included in the stream offsets [at, end)."""

    at: int
    end: int
    message: DnsMessage | None
    """None where the bytes are no DNS message, or not all of them were captured."""


@dataclass(frozen=True, slots=True)
class DnsBytesUnread:
    """Bytes at the end of a stream that belong to no whole message: behind a hole over a length prefix, or cut off."""

    at: int
    end: int


DnsEvent = DnsMessageReceived | DnsBytesUnread


def parse_dns(payload: bytes | bytearray | memoryview) -> DnsMessage | None:
    """Reads a UDP payload; None unless it begins with a DNS header and a whole question, or else a whole record."""
    payload = bytes(payload)
    if len(payload) < _HEADER.size:
        return None
    ident, flags, question_count, answer_count, authority_count, additional_count = _HEADER.unpack_from(payload)
    opcode = flags >> 11 & 0xF
    is_response = flags >= 0x8000
    record_count = answer_count + authority_count + additional_count
    if opcode not in _OPCODES or not (question_count or record_count or is_response):
        return None
    name, qtype, pos = None, None, _HEADER.size
    if question_count:
        question = _read_question(payload)
        if question is None:
            return None
        name, qtype, pos = question
        pos = _skip_questions(payload, pos, question_count - 1)
    records = _read_records(payload, pos, answer_count, record_count) if record_count else _Records(cut=pos < 0)
    if record_count and not question_count and not records.read_count:
        return None
    return DnsMessage(
        ident,
        is_response,
        opcode,
        flags & 0xF | records.extended_rcode << 4,
        bool(flags & 0x0200),
        name,
        qtype,
        question_count,
        answer_count,
        tuple(records.addresses),
        records.edns_udp_len,
        records.cut,
    )


class DnsTcpReader:
    """Reads one direction of a DNS connection over TCP; memory is bounded by one message (65,537 bytes)."""

    def __init__(self) -> None:
        self._at = 0  # offset of the next byte to come
        self._buffer = bytearray()  # the message being read, prefix included, without missing bytes
        self._left = 0  # bytes of a message with a hole that are still to come
        self._holed_at = 0  # where that message begins
        self._lost_at: int | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[DnsEvent]:
        """The messages that end within the next bytes of the stream."""
        events: list[DnsEvent] = []
        if self._lost_at is not None:
            self._at += len(data)
            return events
        passed = self._pass_over(len(data), events)
        self._buffer += data[passed:]
        self._at += len(data) - passed
        pos, base = 0, self._at - len(self._buffer)
        while len(self._buffer) - pos >= 2:
            end = pos + 2 + int.from_bytes(self._buffer[pos : pos + 2])
            if end > len(self._buffer):
                break
            events.append(DnsMessageReceived(base + pos, base + end, parse_dns(self._buffer[pos + 2 : end])))
            pos = end
        del self._buffer[:pos]
        return events

    def skip(self, length: int) -> list[DnsEvent]:
        """A hole of `length` bytes: it costs the message it lies in, or all that follows if it hides a length prefix."""
        events: list[DnsEvent] = []
        if length <= 0:
            return events
        if len(self._buffer) >= 2:
            self._left = 2 + int.from_bytes(self._buffer[:2]) - len(self._buffer)
            self._holed_at = self._at - len(self._buffer)
            self._buffer.clear()
        passed = self._pass_over(length, events)
        if passed < length and self._lost_at is None:
            self._lost_at = self._at - len(self._buffer)
            self._buffer.clear()
        self._at += length - passed
        return events

    def finish(self) -> list[DnsEvent]:
        """What the end of the stream leaves unread. Call it once, last."""
        at = self._at - len(self._buffer) if self._lost_at is None else self._lost_at
        if self._left:
            at = self._holed_at
        return [DnsBytesUnread(at, self._at)] if at < self._at else []

    def _pass_over(self, length: int, events: list[DnsEvent]) -> int:
        """Gives up to `length` bytes to the message with a hole; returns how many it took."""
        passed = min(self._left, length)
        if passed:
            self._left -= passed
            self._at += passed
            if not self._left:
                events.append(DnsMessageReceived(self._holed_at, self._at, None))
        return passed


@dataclass(slots=True)
class _Records:
    cut: bool
    read_count: int = 0
    addresses: list[bytes] = field(default_factory=list)
    edns_udp_len: int | None = None
    extended_rcode: int = 0


def _read_question(payload: bytes) -> tuple[str, int, int] | None:
    """Name, type and end of the first question: RFC 1035 section 4.1.2. A class nobody uses says that this is no DNS."""
    read = _read_name(payload, _HEADER.size)
    if read is None or read[1] + _QUESTION_END.size > len(payload):
        return None
    name, pos = read
    qtype, qclass = _QUESTION_END.unpack_from(payload, pos)
    if qclass & _CLASS_MASK not in _QUESTION_CLASSES:
        return None
    return name, qtype, pos + _QUESTION_END.size


def _skip_questions(payload: bytes, pos: int, count: int) -> int:
    """Where the last of `count` more questions ends; -1 if it does not."""
    for _ in range(count):
        pos = _skip_name(payload, pos)
        if pos < 0 or pos + _QUESTION_END.size > len(payload):
            return -1
        pos += _QUESTION_END.size
    return pos


def _read_records(payload: bytes, pos: int, answer_count: int, record_count: int) -> _Records:
    """What a diagnosis wants of the records from `pos` on; the first `answer_count` are the answers."""
    records, size = _Records(cut=True), len(payload)
    for index in range(record_count):
        pos = _skip_name(payload, pos)
        if pos < 0 or pos + _RECORD_END.size > size:
            return records
        rtype, rclass, ttl, length = _RECORD_END.unpack_from(payload, pos)
        pos += _RECORD_END.size
        if pos + length > size:
            return records
        if index < answer_count:
            if length == _ADDRESS_LEN.get(rtype) and rclass & _CLASS_MASK == _CLASS_IN and len(records.addresses) < MAX_ADDRESSES:
                records.addresses.append(payload[pos : pos + length])
        elif rtype == TYPE_OPT and records.edns_udp_len is None:
            records.edns_udp_len = rclass
            records.extended_rcode = ttl >> 24
        pos += length
        records.read_count = index + 1
    records.cut = False
    return records


def _skip_name(payload: bytes, pos: int) -> int:
    """Where a name that begins at `pos` ends; -1 if it does not, or has a label type of no standard."""
    if pos < 0:
        return -1
    size = len(payload)
    while pos < size:
        length = payload[pos]
        if length == 0:
            return pos + 1
        if length >= 0xC0:
            return pos + 2 if pos + 2 <= size else -1
        if length > 63:
            return -1
        pos += 1 + length
    return -1


def _read_name(payload: bytes, pos: int) -> tuple[str, int] | None:
    """A name and where it ends; None if it is malformed.

    A pointer must lead to a place before all those already read (RFC 1035 section 4.1.4: "a prior occurrence"), so
    that the way always ends.
    """
    labels: list[bytes] = []
    end, first, wire_len, size = -1, pos, 1, len(payload)
    while pos < size:
        length = payload[pos]
        if length == 0:
            return _name_text(labels), end if end >= 0 else pos + 1
        if length >= 0xC0:
            if pos + 2 > size:
                return None
            target = (length & 0x3F) << 8 | payload[pos + 1]
            if not _HEADER.size <= target < first:
                return None
            end = pos + 2 if end < 0 else end
            pos = first = target
            continue
        wire_len += 1 + length
        if length > 63 or wire_len > MAX_NAME_LEN or pos + 1 + length > size:
            return None
        labels.append(payload[pos + 1 : pos + 1 + length])
        pos += 1 + length
    return None


def _name_text(labels: list[bytes]) -> str:
    text = b".".join(labels)
    if _PLAIN.fullmatch(text) and text.count(b".") == len(labels) - 1:
        return text.decode("ascii").lower()
    return ".".join("".join(_escape(byte) for byte in label) for label in labels).lower() or "."


def _escape(byte: int) -> str:
    """RFC 1035 section 5.1."""
    plain = 0x21 <= byte <= 0x7E and byte not in b".\\"
    return chr(byte) if plain else f"\\{byte:03d}"
