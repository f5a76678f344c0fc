"""What the header sections of one stream say together."""

from __future__ import annotations

import pytest

from pcapdiag.exchanges.fields import UNKNOWN_NAME
from pcapdiag.exchanges.said import Said
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.protocols.events import FrozenMap

CALL = FrozenMap({":method": "POST", ":path": "/a.B/C", "content-type": "application/grpc", "grpc-timeout": "2S"})
GET = FrozenMap({":method": "GET", ":path": "/a"})
OK, TRAILERS = FrozenMap({":status": "200"}), FrozenMap({"grpc-status": "4"})
GRPC = FrozenMap({":status": "200", "content-type": "application/grpc"})


def test_a_request_alone() -> None:
    said = Said.by(CALL, [])
    assert (said.protocol, said.name, said.status, said.outcome, said.deadline_ns) == (
        Protocol.GRPC, "POST /a.B/C", None, Outcome.OK, 2_000_000_000,
    )  # fmt: skip
    assert Said.by(None, []).name == UNKNOWN_NAME
    assert Said.by(FrozenMap({"te": "trailers"}), []).name == UNKNOWN_NAME, "trailers without the section before them"


@pytest.mark.parametrize(("status", "outcome"), [("204", Outcome.OK), ("399", Outcome.OK), ("400", Outcome.ERROR), ("x", Outcome.OK)])
def test_the_status_of_http(status: str, outcome: Outcome) -> None:
    said = Said.by(GET, [FrozenMap({":status": status})])
    assert (said.protocol, said.status, said.outcome) == (Protocol.H2, status, outcome)


def test_the_status_of_grpc_is_in_its_trailers_or_in_the_only_section() -> None:
    said = Said.by(CALL, [GRPC, TRAILERS])
    assert (said.status, said.outcome, said.marks, said.lacks_status) == ("4", Outcome.ERROR, "grpc", False)
    alone = Said.by(CALL, [FrozenMap({":status": "200", "grpc-status": "0", "content-type": "application/grpc"})])
    assert (alone.status, alone.outcome) == ("0", Outcome.OK)


def test_a_call_without_a_status_lacks_it_unless_a_proxy_answered() -> None:
    assert Said.by(CALL, [GRPC]).lacks_status
    proxy = Said.by(CALL, [FrozenMap({":status": "503", "content-type": "text/html"})])
    assert (proxy.protocol, proxy.status, proxy.outcome, proxy.lacks_status) == (Protocol.GRPC, "503", Outcome.ERROR, False)


def test_the_response_tells_grpc_when_the_request_is_unknown() -> None:
    assert Said.by(None, [GRPC, TRAILERS]).protocol is Protocol.GRPC


@pytest.mark.parametrize(("encoded", "marks"), [({}, "sse"), ({"content-encoding": "gzip"}, "pieces")])
def test_a_token_stream(encoded: dict[str, str], marks: str) -> None:
    said = Said.by(GET, [FrozenMap({":status": "200", "content-type": "text/event-stream", **encoded})])
    assert (said.protocol, said.status, said.marks) == (Protocol.SSE, "200", marks)


def test_what_later_sections_say_counts() -> None:
    said = Said.by(GET, [FrozenMap({":status": "200", "retry-after": "1"}), FrozenMap({"retry-after": "2"})])
    assert said.facts["retry-after"] == "2"
