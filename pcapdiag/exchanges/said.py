"""What the header sections of one HTTP/2 stream say together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pcapdiag.exchanges.fields import UNKNOWN_NAME, outcome_of_http, request_words, response_words
from pcapdiag.exchanges.table import Outcome, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.exchanges.draft import Facts
    from pcapdiag.protocols.events import Headers


class Said(NamedTuple):
    """Name, status and the like of one stream."""

    protocol: Protocol
    name: str
    status: str | None
    outcome: Outcome
    facts: Facts
    deadline_ns: int | None
    attempt: int | None
    marks: str
    """How messages of the response are told apart: "grpc", "sse", "pieces" or ""."""

    @classmethod
    def by(cls, asked: Headers | None, answers: Sequence[Headers]) -> Said:
        """Of the first section of the request (None: not captured), and the sections of the response but for interim ones."""
        protocol, name, facts, deadline_ns, attempt = Protocol.H2, UNKNOWN_NAME, dict[str, str | int | float | bool | None](), None, None
        if asked is not None:
            request = request_words(asked)
            name, deadline_ns, attempt = request.name or name, request.deadline_ns, request.attempt
            facts |= request.facts
            protocol = Protocol.GRPC if request.is_grpc else protocol
        status, outcome, marks = None, Outcome.OK, ""
        for number, headers in enumerate(answers):
            said = response_words(headers)
            facts |= said.facts
            if number == 0:
                if said.status.isdecimal():
                    outcome = outcome_of_http(int(said.status))
                if said.is_grpc:
                    protocol = Protocol.GRPC
                elif said.status:
                    status = said.status  # of a gRPC call too: a proxy answered that does not speak gRPC
                if protocol is Protocol.GRPC:
                    marks = "grpc"
                elif said.is_event_stream:
                    protocol, marks = Protocol.SSE, "pieces" if said.encoded else "sse"
            if said.grpc_status is not None:
                status, outcome = said.grpc_status, Outcome.OK if said.grpc_status == "0" else Outcome.ERROR
        return cls(protocol, name, status, outcome, facts, deadline_ns, attempt, marks)

    @property
    def lacks_status(self) -> bool:
        """A gRPC call that ends so has failed (gRPC over HTTP/2, "Responses")."""
        return self.protocol is Protocol.GRPC and self.status is None and bool(self.facts.get("content-type"))
