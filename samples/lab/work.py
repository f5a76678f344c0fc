"""What the agents of a run do: steps in order, and the order each step gives to the server."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

TAIL_MARK = "TAILX"
"""Closes a body whose last segment a wire rule is to recognise."""

GRPC_PORT = 50051
HTTP_PORT = 8000

_PARAGRAPH = (
    "The agent read section {n} of the report, compared it with the notes of the last call and asked the tool for the rows "
    "that were still missing before it wrote the next part of its answer. "
)


def filler(length: int) -> str:
    """Plain sentences, exactly `length` characters long, that compress as well as ordinary text does."""
    parts: list[str] = []
    total = 0
    while total < length:
        parts.append(_PARAGRAPH.format(n=len(parts) + 1))
        total += len(parts[-1])
    return "".join(parts)[:length]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one request asks of the server; it travels inside the request body as `metadata`."""

    id: str
    think_s: float = 0.0
    reply_len: int = 400
    tokens: int = 0
    interval_s: float = 0.03
    stumble_every: int = 0
    """Before every so-manieth token the model pauses for `stumble_s`; 0: never."""
    stumble_s: float = 0.0
    tail_reply: bool = False

    def token_at_s(self, index: int) -> float:
        """When a token is due, in seconds after the first one."""
        return index * self.interval_s + (index // self.stumble_every * self.stumble_s if self.stumble_every else 0.0)

    def stumbles_s(self) -> float:
        """The model's pauses inside its answer, together."""
        return self.token_at_s(self.tokens - 1) - (self.tokens - 1) * self.interval_s if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One request of an agent: how it is sent, what it asks for, and when."""

    id: str
    kind: str
    """grpc, grpc-stream, json, sse, slow-read or h2."""
    connection: str
    """Steps of the same name share a connection (for gRPC: a channel)."""
    at_s: float | None = None
    """Not before this many seconds after the start of the run."""
    gap_s: float = 0.0
    """The agent's own pause before the step."""
    request_len: int = 300
    think_s: float = 0.05
    reply_len: int = 400
    deadline_s: float = 20.0
    tokens: int = 0
    interval_s: float = 0.03
    stumble_every: int = 0
    stumble_s: float = 0.0
    tail_request: bool = False
    tail_reply: bool = False
    pause_after_len: int = 0
    """The receiver stops reading after so many bytes: a slow-read client, or the server during an upload."""
    pause_s: float = 0.0
    pause_at_server: bool = False
    rcvbuf_len: int = 0
    """SO_RCVBUF of a slow-read client; 0 leaves the kernel's choice."""

    def order(self) -> Order:
        """The part of the step that the server has to know."""
        return Order(
            id=self.id,
            think_s=self.think_s,
            reply_len=self.reply_len,
            tokens=self.tokens,
            interval_s=self.interval_s,
            stumble_every=self.stumble_every,
            stumble_s=self.stumble_s,
            tail_reply=self.tail_reply,
        )

    def without_pause(self) -> Step:
        """The same work with a receiver that never stops reading."""
        return replace(self, pause_after_len=0, pause_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All agents of a run; each inner tuple is done in order by a thread of its own."""

    agents: tuple[tuple[Step, ...], ...]
    server_rcvbuf_len: int = 0
    limit_s: float = 40.0

    def steps(self) -> list[Step]:
        """Every step of every agent."""
        return [step for agent in self.agents for step in agent]

    def to_json(self) -> str:
        """The plan as text for the client program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        agents = tuple(tuple(Step(**step) for step in agent) for agent in fields.pop("agents"))
        return cls(agents=agents, **fields)


def request_body(step: Step) -> bytes:
    """The JSON body of a request, about `request_len` bytes long, with its order inside."""
    body: dict[str, Any] = {
        "model": "lab-model",
        "stream": step.tokens > 0,
        "metadata": asdict(step.order()),
        "messages": [{"role": "user", "content": filler(max(0, step.request_len - 270))}],
    }
    if step.tail_request:
        body["end"] = TAIL_MARK
    return json.dumps(body).encode()


def read_order(body: bytes) -> Order:
    """The order inside a request body."""
    return Order(**json.loads(body)["metadata"])


def reply_body(order: Order) -> bytes:
    """The JSON body of an answer, about `reply_len` bytes long."""
    reply: dict[str, Any] = {"id": order.id, "result": filler(max(0, order.reply_len - 40))}
    if order.tail_reply:
        reply["end"] = TAIL_MARK
    return json.dumps(reply).encode()
