"""Which header fields are kept, and how much of them: never credentials, cookies, queries or user content."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pcapdiag.protocols.events import FrozenMap, Headers

VALUE_CAP: Final = 256
"""Characters kept of a value."""
_NAME_CAP: Final = 64
_FIELD_CAP: Final = 64

_KEPT: Final = frozenset(
    b":method :path :authority :scheme :status host content-type content-length transfer-encoding content-encoding connection expect "
    b"upgrade retry-after retry-after-ms location server via x-accel-buffering x-request-id traceparent x-stainless-retry-count "
    b"x-should-retry grpc-status grpc-timeout grpc-previous-rpc-attempts grpc-retry-pushback-ms grpc-encoding te idempotency-key".split()
)
_KEPT_FAMILIES: Final = (b"x-ratelimit-", b"anthropic-ratelimit-")
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_TARGETS: Final = frozenset({b":path", b"location", b":authority", b"host"})


def is_kept(name: bytes) -> bool:
    """Whether a field of this lower-case name may be kept."""
    return name in _KEPT or (name.startswith(_KEPT_FAMILIES) and len(name) <= _NAME_CAP and _TOKEN.fullmatch(name) is not None)


def kept_value(name: bytes, value: bytes) -> str:
    """What is kept of the value of a field that `is_kept`."""
    if name == b"idempotency-key":
        return "present"
    return target_text(value) if name in _TARGETS else printable(value, VALUE_CAP)


def target_text(target: bytes) -> str:
    """A request target or URL without user, query, fragment and path parameters (where session ids live)."""
    for mark in (b"#", b"?", b";"):
        target = target.partition(mark)[0]
    return printable(_without_user(target), VALUE_CAP)


def printable(raw: bytes, cap: int) -> str:
    """The first `cap` bytes as text in which every character is printable ASCII."""
    text = raw[:cap].decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() else "".join(c if " " <= c <= "~" else "?" for c in text)


def merged(fields: Iterable[tuple[str, str]]) -> Headers:
    """Fields in the order they came; values of a repeated name joined by a comma (RFC 9110 section 5.3)."""
    kept: dict[str, str] = {}
    for name, value in fields:
        if name in kept:
            kept[name] = f"{kept[name]}, {value}"[:VALUE_CAP]
        elif len(kept) < _FIELD_CAP:
            kept[name] = value
    return FrozenMap(kept)


def _without_user(target: bytes) -> bytes:
    """Drops user information: "https://user:secret@host/" and "user:secret@host:443" become URL and host alone."""
    if target.startswith(b"/") and not target.startswith(b"//"):
        return target
    scheme, slashes, rest = target.partition(b"//") if b"//" in target else (b"", b"", target)
    authority, slash, path = rest.partition(b"/")
    return scheme + slashes + authority.rpartition(b"@")[2] + slash + path
