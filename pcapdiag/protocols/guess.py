"""Which protocol a connection speaks, by its bytes alone: ports lie."""

from __future__ import annotations

import re
from enum import Enum
from struct import Struct
from typing import Final

from pcapdiag.protocols.events import Side
from pcapdiag.protocols.http1_message import find_message, request_line, status_line
from pcapdiag.protocols.http2_frames import (
    DEFAULT_MAX_FRAME_LEN,
    HEADER,
    HEADER_LEN,
    PREFACE,
    FrameType,
    find_start,
)

LOOK_LEN: Final = 64 * 1024
"""Bytes of each direction that are looked at."""
START_LEN: Final = 64
"""Bytes of each direction that show whether HTTP/2 starts with them."""
_FIRST_LINE_LEN: Final = 16 * 1024
_RECORD: Final = Struct(">BHH")
_RECORD_SHAPE: Final = re.compile(rb"[\x14-\x17]\x03[\x00-\x04][\x00-\x48][\x00-\xff]")  # RFC 8446 section 5.1
_RECORD_CAP: Final = (1 << 14) + 2_048
_RECORD_CHAIN_LEN: Final = 4
_HANDSHAKE: Final = 22


class Application(Enum):
    """What is carried directly by a TCP connection."""

    HTTP1 = "http/1.1"
    HTTP2 = "h2"
    TLS = "tls"
    UNKNOWN = "unknown"


def guess(client_bytes: bytes, server_bytes: bytes) -> Application:
    """Names the protocol by the first captured bytes of both directions; either may be empty or start in the middle."""
    client, server = client_bytes[:LOOK_LEN], server_bytes[:LOOK_LEN]
    for looks_like, application in _AT_THE_START:
        if looks_like(client, Side.CLIENT) or looks_like(server, Side.SERVER):
            return application
    for looks_like, application in _IN_THE_MIDDLE:
        if looks_like(client, Side.CLIENT) or looks_like(server, Side.SERVER):
            return application
    return Application.UNKNOWN


def starts_h2(client: bytes, server: bytes) -> bool:
    """Whether HTTP/2 starts with these bytes, START_LEN or all there are: `guess` would say so too."""
    return _h2_starts(client, Side.CLIENT) or _h2_starts(server, Side.SERVER)


def _h2_starts(data: bytes, side: Side) -> bool:
    """The client's preface, or a server's first frame: SETTINGS, not an acknowledgement (RFC 9113 section 3.4)."""
    if data.startswith(PREFACE):
        return True
    if side is Side.CLIENT or len(data) < HEADER_LEN:
        return False
    word, flags, stream_id = HEADER.unpack_from(data)
    length = word >> 8
    return word & 0xFF == FrameType.SETTINGS and not flags and not stream_id and length % 6 == 0 and length <= 64 * 6


def _h2_within(data: bytes, _side: Side) -> bool:
    """A full chain of frames anywhere, or a shorter one that is all there is."""
    chained = find_start(data, 0, largest=DEFAULT_MAX_FRAME_LEN, closed=False)[1] == 0
    return chained or (bool(data) and find_start(data, 0, largest=DEFAULT_MAX_FRAME_LEN, closed=True) == (0, 0))


def _http1_starts(data: bytes, side: Side) -> bool:
    line = data.lstrip(b"\r\n")[:_FIRST_LINE_LEN].partition(b"\n")[0]
    return (request_line(line) if side is Side.CLIENT else status_line(line)) is not None


def _http1_within(data: bytes, side: Side) -> bool:
    return find_message(data, 0, side, closed=True)[1] == 0


def _tls_starts(data: bytes, _side: Side) -> bool:
    """A handshake record, or any record with another one behind it."""
    return _record_chain(data, 0) >= (1 if data[:1] == bytes([_HANDSHAKE]) else 2)


def _tls_within(data: bytes, _side: Side) -> bool:
    return any(_record_chain(data, found.start()) >= _RECORD_CHAIN_LEN for found in _RECORD_SHAPE.finditer(data))


def _record_chain(data: bytes, at: int) -> int:
    """How many TLS record headers stand one behind the other from `at` on, up to the number that makes sure."""
    for seen in range(_RECORD_CHAIN_LEN):
        if _RECORD_SHAPE.match(data, at) is None:
            return seen if at + _RECORD.size > len(data) else 0
        length = _RECORD.unpack_from(data, at)[2]
        if not 0 < length <= _RECORD_CAP:
            return 0
        at += _RECORD.size + length
    return _RECORD_CHAIN_LEN


_AT_THE_START: Final = ((_h2_starts, Application.HTTP2), (_http1_starts, Application.HTTP1), (_tls_starts, Application.TLS))
_IN_THE_MIDDLE: Final = ((_http1_within, Application.HTTP1), (_h2_within, Application.HTTP2), (_tls_within, Application.TLS))
