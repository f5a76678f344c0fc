"""HTTP/1.1 header sections (RFC 9112): start lines, fields, body framing, and where messages begin in unknown bytes."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from pcapdiag.protocols.events import Side
from pcapdiag.protocols.headers import is_kept
from pcapdiag.protocols.reader import Buffer

_LENGTH_CAP: Final = 1 << 62
_LOOKBACK_LEN: Final = 8_192
"""Longest method and target that are found in bytes of unknown phase."""
_STATUS_LINE_LEN: Final = 700
"""Bytes of a status line and the name of the field behind it, at most, in bytes of unknown phase."""
_FIELD_NAME_LEN: Final = 70
_CHUNK_LEN: Final = 1 << 18
"""Longest chunk that is found in bytes of unknown phase."""

_FOLD: Final = re.compile(rb"\r?\n[ \t]+")  # obs-fold, RFC 9112 section 5.2
_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_VERSION: Final = re.compile(rb"HTTP/(1\.[01])")
_STATUS_LINE: Final = re.compile(rb"HTTP/(1\.[01]) +([1-9][0-9]{2})(?:[ \t].*)?")
_ANCHOR: Final = re.compile(rb"HTTP/1\.[01]")
_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
_FIELD_BEHIND: Final = rb"\r?\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}:|\r?\n)"
_SURE_REQUEST: Final = re.compile(_FIELD_BEHIND)
_SURE_RESPONSE: Final = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}(?: [^\r\n]{0,512})?" + _FIELD_BEHIND)
_CHUNK_LINE: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,6})(?:[ \t]{0,8};[^\r\n]{0,256})?\r\n")
_BLANK_LINE: Final = re.compile(rb"\r\n")
_NEXT_CHUNK_LEN: Final = 11
_NEXT_CHUNK: Final = re.compile(rb"\r\n[0-9A-Fa-f]{1,8}[ \t;\r]")


class Framing(Enum):
    """How the end of a body is known (RFC 9112 section 6.3)."""

    NONE = "no body"
    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "until the connection closes"
    TUNNEL = "no message any more"


class RequestLine(NamedTuple):
    """RFC 9112 section 3; the target as sent."""

    method: bytes
    target: bytes
    version: str


class StatusLine(NamedTuple):
    """RFC 9112 section 4."""

    status: int
    version: str


class Fields(NamedTuple):
    """The fields of a section that may be kept, values as sent, and whether a line was no field."""

    kept: list[tuple[bytes, bytes]]
    malformed: bool


class FramingError(ValueError):
    """Header fields from which the end of the body cannot be told."""


def request_line(line: bytes) -> RequestLine | None:
    """Reads a request line; None when it is none."""
    method, _, rest = line.strip().partition(b" ")
    target, _, protocol = rest.rpartition(b" ")
    version = _VERSION.fullmatch(protocol)
    target = target.strip()
    if version is None or not target or _METHOD.fullmatch(method) is None:
        return None
    return RequestLine(method, target, version[1].decode())


def status_line(line: bytes) -> StatusLine | None:
    """Reads a status line; None when it is none."""
    found = _STATUS_LINE.fullmatch(line.strip())
    return None if found is None else StatusLine(int(found[2]), found[1].decode())


def read_fields(section: bytes) -> Fields:
    """The fields behind the first line of a header section."""
    kept, malformed = [], False
    for line in _FOLD.sub(b" ", section).split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if colon and name:
            if is_kept(name):
                kept.append((name, value.strip()))
        else:
            malformed = malformed or bool(line.strip())
    return Fields(kept, malformed)


def framing(fields: list[tuple[bytes, bytes]], method: bytes | None, status: int | None) -> tuple[Framing, int]:
    """How the body ends and, for LENGTH, its bytes; by the cases of RFC 9112 section 6.3, in their order.

    Args:
        fields: names in lower case, values as sent.
        method: of the request, or of the request a response answers; None: not known, no special one.
        status: of the response; None for a request.

    Raises:
        FramingError: the fields contradict themselves.
    """
    if status == 101 or (status is not None and method == b"CONNECT" and 200 <= status < 300):
        return Framing.TUNNEL, 0
    if status is not None and (method == b"HEAD" or status < 200 or status in (204, 304)):
        return Framing.NONE, 0
    codings = [c.strip().lower() for name, value in fields if name == b"transfer-encoding" for c in value.split(b",")]
    if codings and codings != [b"identity"]:
        if codings[-1] == b"chunked":
            return Framing.CHUNKED, 0
        if status is None:
            raise FramingError("transfer coding of a request does not end in chunked")
        return Framing.CLOSE, 0
    lengths = {v.strip() for name, value in fields if name == b"content-length" for v in value.split(b",")}
    if not lengths:
        return (Framing.NONE if status is None else Framing.CLOSE), 0
    length = lengths.pop()
    if lengths or not length.isdigit() or len(length) > 32 or int(length) > _LENGTH_CAP:
        raise FramingError("content-length is no number")
    return Framing.LENGTH, int(length)


def find_message(buf: Buffer, start: int, side: Side, *, closed: bool) -> tuple[int, int]:
    """Finds the first sure start line in `buf` at or behind `start`: with a header field, or a blank line, behind it.

    Returns:
        (index, 0): a message begins at index; (index, need): none begins before index, and to say more takes `need`
        bytes from there on. `closed`: no bytes follow `buf`.
    """
    end, at = len(buf), start
    back = _LOOKBACK_LEN if side is Side.CLIENT else 0
    while (anchor := _ANCHOR.search(buf, at)) is not None:
        earliest = max(start, anchor.start() - back)
        if side is Side.SERVER:
            sure, needed = _SURE_RESPONSE.match(buf, anchor.start()), anchor.start() + _STATUS_LINE_LEN
        else:
            sure, needed = _SURE_REQUEST.match(buf, anchor.end()), anchor.end() + _FIELD_NAME_LEN
        if sure is not None:
            begins = anchor.start() if side is Side.SERVER else _method_before(buf, earliest, anchor.start())
            if begins >= 0:
                return begins, 0
        elif needed > end and not closed:
            return earliest, needed - earliest
        at = anchor.end()
    keep = end if closed else max(start, end - back - len(b"HTTP/1.1") + 1)
    return keep, end - keep + 1


def find_chunk(buf: Buffer, start: int, *, closed: bool) -> tuple[int, int]:
    """Finds the first chunk-size line in `buf` behind which, at the distance it says, the next one stands.

    Returns:
        As `find_message`; index is that of the first digit.
    """
    end, at = len(buf), start
    while (line := _CHUNK_LINE.search(buf, at)) is not None:
        size = int(line[1], 16)
        behind, next_line = (line.end() + size, _NEXT_CHUNK) if size else (line.end(), _BLANK_LINE)
        if size <= _CHUNK_LEN:
            if next_line.match(buf, behind) is not None:
                return line.start(1), 0
            if behind + _NEXT_CHUNK_LEN > end and not closed:
                return line.start(), behind + _NEXT_CHUNK_LEN - line.start()
        at = line.start(1)
    keep = end if closed else max(start, end - _STATUS_LINE_LEN)
    return keep, end - keep + 1


def _method_before(buf: Buffer, earliest: int, anchor: int) -> int:
    """Where the request line begins whose version stands at `anchor`; -1 when no method and target stand before it."""
    if anchor <= earliest or buf[anchor - 1] != 0x20:
        return -1
    head, space, target = bytes(buf[earliest : anchor - 1]).rpartition(b" ")
    if not space or not target or b"\n" in target:
        return -1
    method = next((m for m in _METHODS if head.endswith(m)), None)
    return -1 if method is None else earliest + len(head) - len(method)
