"""What two captures of one path say together: the clocks, the losses with their places, and what the path changed.

Positions are counted from the client: capture `near` was taken on its side, capture `far` on the server's. Direction 0
is client to server. Times are those of the near capture's clock unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import numpy as np

from pcapdiag.columns import I32, I64, U8, U16, Bools, Col, Table
from pcapdiag.flows.resend_table import FlowResends

DIRECTIONS = ("client to server", "server to client")


class Place(IntEnum):
    """What became of one transmission of a TCP packet or of a datagram."""

    BETWEEN = 0
    """Seen at its sender's tap and not at the other: lost between them."""
    RECEIVING_CAPTURE = 1
    """The receiver had it (its ACK came before any other copy), though its tap has not: that capture dropped it."""
    SENDING_CAPTURE = 2
    """Seen at the receiver's tap only: the capture on the sender's side dropped it."""
    BEHIND = 3
    """Seen at both and not acknowledged before it was sent again: lost behind the receiving tap."""
    ACK_LOST = 4
    """Seen at both and acknowledged at the receiver's tap; that ACK never passed the sender's tap."""
    SPURIOUS = 5
    """Sent again though it had arrived: its ACK arrived too or was only late, or its receiver had closed."""
    INJECTED = 6
    """Seen at the receiver's tap only, and its sender knew nothing of it: made between the taps."""
    OUTSIDE = 7
    """The other capture does not reach to that time."""
    UNDECIDED = 8
    """A packet without bytes that one tap lacks, in a direction in which that capture is known to drop."""

    @property
    def slug(self) -> str:
        """As reports for programs spell it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed(Table):
    """One row per transmission that did not simply pass both taps, by time."""

    place: Annotated[U8, Col("Place")]
    flow: Annotated[I64, Col("flow id; -1: of no analysed flow")]
    direction: Annotated[U8, Col("0 client to server, 1 server to client")]
    start: Annotated[I64, Col("stream offset of its first byte; -1 for a SYN or a datagram", "bytes")]
    stop: Annotated[I64, Col("stream offset behind its last byte", "bytes")]
    lost_len: Annotated[I64, Col("payload bytes of it that the other tap lacks", "bytes")]
    count: Annotated[I32, Col("packets on the wire: a super-segment lost in part counts as those of its packets")]
    ip_len: Annotated[I32, Col("length of one such packet", "bytes")]
    ts_ns: Annotated[I64, Col("when its own tap saw it, in the near capture's clock", "ns")]
    capture: Annotated[U16, Col("capture that holds it")]
    frame: Annotated[I64, Col("its frame number there")]
    other_frame: Annotated[I64, Col("frame of the other capture that shows the outcome (next copy, ACK); -1 none")]
    other_ns: Annotated[I64, Col("its time, in the near capture's clock; NEVER", "ns")]
    is_data: Annotated[Bools, Col("carries payload")]
    is_syn: Annotated[Bools, Col("SYN or SYN-ACK")]

    def counts(self, rows: Bools | None = None) -> dict[str, int]:
        """Packets by place, of the rows given, in the order of Place; places without any are left out."""
        place, count = (self.place, self.count) if rows is None else (self.place[rows], self.count[rows])
        sums = np.bincount(place, weights=count, minlength=len(Place)).astype(np.int64).tolist()
        return {one.slug: sums[one] for one in Place if sums[one]}


@dataclass(frozen=True, slots=True)
class ClockStep:
    """A jump of one clock against the other: which of the two jumped no capture can tell."""

    at_ns: int
    """Near capture's clock."""
    by_ns: int
    """Of the far clock against the near one."""
    near_frame: int
    """Last near frame before it."""
    far_frame: int
    """Last far frame before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """far clock = near clock + offset_ns + drift_ppb * (near clock - reference_ns) / 1e9 + the steps so far.

    The least delays of both directions are taken as equal; no capture can show that they are.
    """

    reference_ns: int
    offset_ns: int
    drift_ppb: int
    drift_error_ppb: int
    """What noise alone would show as drift; a smaller drift is given as 0."""
    uncertainty_ns: int
    """Half the least round trip between the taps: the offset lies within it, however unequal the two ways are."""
    steps: tuple[ClockStep, ...]
    two_way: bool
    """False: packets of one direction only; the offset then counts their least delay in, and has no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """One-way delays between the taps in one direction, clock offset taken out."""

    sample_count: int
    least_ns: int
    median_ns: int
    most_ns: int
    most_at_ns: int
    most_frames: tuple[int, int]
    """The most delayed packet: its frames in the near and in the far capture."""
    bins: tuple[tuple[int, int, int, int], ...]
    """Over time: (start_ns, least, median, most delay)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One direction between the taps."""

    sent_count: int
    """Transmissions that the sender's tap saw, in matched connections."""
    passed_count: int
    """Of them, those that the receiver's tap saw too."""
    delays: Delays | None
    passed_max_len: int
    """Largest IP packet that passed; 0 none. Super-segments do not count."""
    lost_min_len: int
    """Smallest IP packet with payload that was lost between the taps; 0 none."""


@dataclass(frozen=True, slots=True)
class PathChange:
    """A header field that differs between the taps."""

    field: str
    direction: int
    before: str
    """At the sender's tap."""
    after: str
    """At the receiver's tap."""
    count: int
    """Packets, or connections for what concerns a connection."""
    frames: tuple[int, int]
    """An example: frame in the near, frame in the far capture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A connection that one capture holds alone."""

    capture: int
    client: str
    server: str
    packet_count: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What two captures of one path say together."""

    near: int
    """Index of the capture on the client's side."""
    far: int
    start_ns: int
    """First packet of the near capture: zero of all reported seconds."""
    swapped: bool
    """They were given the other way round."""
    order_why: str
    """What shows which one is nearer to the client."""
    matched_flows: int
    matched_by_address: int
    """Of them, those whose addresses and ports are equal at both taps; the others passed a NAT."""
    unmatched: tuple[Unmatched, ...]
    unmatched_near: int
    unmatched_far: int
    clocks: Clocks
    ways: tuple[Way, Way]
    placed: Placed
    changes: tuple[PathChange, ...]
    restored_count: int
    """Packets that the near capture lacks and the analysis took from the far one."""
    restored_payloads: int
    """Packets that the near capture cut short and whose bytes were taken from the far one."""
    resent: FlowResends
    """Resends of each connection, classed at their sender's tap and placed by both; places as the near tap sees them."""

    def of_flow(self, flow: int, direction: int | None = None) -> Bools:
        """Which rows of `placed` belong to a flow, or to one direction of it."""
        mine: Bools = self.placed.flow == flow
        return mine if direction is None else mine & (self.placed.direction == direction)
