"""What header fields say about an exchange: its name, deadline, attempt number, outcome, and the facts worth keeping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.table import Outcome
from pcapdiag.protocols.grpc import parse_timeout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pcapdiag.exchanges.draft import Draft, Facts

UNKNOWN_NAME: Final = "(request not captured)"
"""Name of an exchange whose request was not captured."""

_HOSTS: Final = frozenset({"host", ":authority"})
_OF_REQUEST: Final = frozenset({"expect", "upgrade", "traceparent", "idempotency-key", "x-request-id"})
_OF_RESPONSE: Final = frozenset(
    {
        "retry-after", "retry-after-ms", "x-should-retry", "content-type", "content-encoding", "via", "server", "location",
        "x-accel-buffering", "grpc-retry-pushback-ms", "x-request-id", "transfer-encoding",
    }
)  # fmt: skip
_FAMILIES: Final = ("x-ratelimit-", "anthropic-ratelimit-")
_ATTEMPTS: Final = frozenset({"x-stainless-retry-count", "grpc-previous-rpc-attempts"})


def keep_request(draft: Draft, headers: Mapping[str, str]) -> None:
    """Notes what a request's header section says."""
    facts = draft.facts
    for name in headers:
        if name in _HOSTS:
            facts["host"] = headers[name]
        elif name in _OF_REQUEST:
            facts[name] = headers[name]
        elif name == "connection":
            if "close" in headers[name].lower():
                facts[name] = "close"
        elif name == "grpc-timeout":
            draft.deadline_ns = parse_timeout(headers[name])
        elif name in _ATTEMPTS and (count := headers[name]).isdecimal() and len(count) < 9:
            draft.attempt = int(count)


def keep_response(facts: Facts, headers: Mapping[str, str]) -> None:
    """Notes what a response's header section, or its trailers, say."""
    for name in headers:
        if name in _OF_RESPONSE or name.startswith(_FAMILIES):
            facts[name] = headers[name]
        elif name == "connection" and "close" in headers[name].lower():
            facts[name] = "close"


def outcome_of_http(status: int) -> Outcome:
    """RFC 9110 section 15: from 400 on the answer says no."""
    return Outcome.ERROR if status >= 400 else Outcome.OK


def is_grpc(headers: Mapping[str, str]) -> bool:
    """The content type is one of gRPC's (gRPC-Web has messages of the same form)."""
    return headers.get("content-type", "").startswith("application/grpc")


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """The content type is that of server-sent events."""
    return headers.get("content-type", "").lower().startswith("text/event-stream")
