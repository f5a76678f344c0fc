"""A sign: a labelled interval that a detector saw. Labels decide who wins where signs overlap."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Tier(IntEnum):
    """Precedence of labels, high to low: nothing in a lower tier could progress while an upper one holds."""

    UNKNOWN = 0
    """We do not know: capture gaps, clock steps, clipped ends. Never guess."""
    SETUP = 1
    """Set-up causes with explicit evidence: no later work exists yet."""
    DEAD = 2
    """Nothing on the connection can progress, whoever owns the missing bytes."""
    LOSS = 3
    """Awaited bytes are missing; only the owner of the bytes takes the label."""
    HOL = 4
    """Only bytes of others are missing: an innocent victim."""
    FLOW_CONTROL = 5
    """Bytes exist but may not be sent."""
    HELD = 6
    """The sender holds data until an ACK comes."""
    LATE = 7
    """Bytes in flight, late."""
    RATE = 8
    """Sending, at a limited rate."""
    QUEUED = 9
    """Waiting in a protocol's queue."""
    PEER = 10
    """The peer owns the turn."""
    CLIENT = 11
    """The client owns the turn."""
    FLOOR = 12
    """Irreducible here."""
    REST = 13
    """Unattributed."""


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """A name for seconds, and its place in the precedence."""

    tier: Tier
    place: int
    """Order within the tier; lower wins."""
    code: str


@dataclass(frozen=True, slots=True, order=True)
class Frame:
    """A packet that proves something."""

    capture: int
    number: int
    """As Wireshark numbers it."""
    ts_ns: int
    note: str
    """What it shows, in a few words; may hold strings off the wire."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure, and why; the value is a fixed K per kind of evidence, lowered by caps."""

    value: float
    """0 to 1."""
    evidence: tuple[str, ...] = ()
    """Named pieces, e.g. "SACKed tail", "cap: one-way capture"."""

    def capped(self, limit: float, why: str) -> Confidence:
        """At most `limit`, and says so when that changes it."""
        return Confidence(limit, (*self.evidence, f"cap: {why}")) if limit < self.value else self


@dataclass(frozen=True, slots=True)
class OfExchange:
    """The sign concerns one exchange."""

    exchange: int


@dataclass(frozen=True, slots=True)
class OfFlow:
    """The sign concerns a flow, one direction of it, or a byte range of that direction."""

    flow: int
    direction: int | None = None
    """0 client to server, 1 server to client, None both."""
    start: int | None = None
    """First stream offset the cause owns; None: no bytes of its own."""
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class OfCall:
    """The sign concerns what lies between the attempts of a call."""

    call: int


Scope = OfExchange | OfFlow | OfCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A labelled interval [start_ns, end_ns) with what proves it."""

    label: Label
    scope: Scope
    start_ns: int
    end_ns: int
    confidence: Confidence
    frames: tuple[Frame, ...]
    facts: object = field(default=None)
    """A frozen dataclass of the detector that made the sign."""
    at_least: bool = False
    """The interval is a lower bound."""

    @property
    def code(self) -> str:
        """The label's code."""
        return self.label.code


# What the ledger itself says where no sign covers a wait (CAUSES: P, Q, H and the rest).
CAPTURE_GAP = Label(Tier.UNKNOWN, 0, "capture-gap")
SERVER_THINK = Label(Tier.PEER, 0, "server-think")
INTER_TOKEN_GAP = Label(Tier.PEER, 1, "inter-token-gap")
DNS_SLOW = Label(Tier.PEER, 2, "dns-slow")
TLS_SLOW = Label(Tier.PEER, 3, "tls-slow")
CLIENT_PRODUCE = Label(Tier.CLIENT, 0, "client-produce")
CLIENT_THINK = Label(Tier.CLIENT, 1, "client-think")
PROPAGATION = Label(Tier.FLOOR, 0, "propagation")
QUEUEING = Label(Tier.FLOOR, 1, "queueing")
TRANSFER = Label(Tier.FLOOR, 2, "transfer")
DELIVERY = Label(Tier.FLOOR, 3, "delivery")
UNATTRIBUTED = Label(Tier.REST, 0, "unattributed")

NOT_CAUSES = frozenset(
    label.code for label in (CAPTURE_GAP, CLIENT_PRODUCE, CLIENT_THINK, PROPAGATION, QUEUEING, TRANSFER, DELIVERY, UNATTRIBUTED)
)
"""Labels that are no cause and are left out of by_cause."""
