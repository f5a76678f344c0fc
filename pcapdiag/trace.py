"""Trace: all tables of steps 1 to 5 of one shard, and what was lost on the way. Tables: what all shards share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from pcapdiag.capture.host import HostFacts
from pcapdiag.flows.resend_table import FlowResends

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pcapdiag.capture.frames import Capture
    from pcapdiag.exchanges.h2log import H2Log
    from pcapdiag.exchanges.table import Calls, Exchanges
    from pcapdiag.flows.table import Flows, Quality, Segments, TcpTables, VantageOpinion
    from pcapdiag.losses import Losses
    from pcapdiag.packets.table import Addresses, Packets
    from pcapdiag.pair.table import Pair
    from pcapdiag.spool import Room
    from pcapdiag.streams import Streams

_Item = TypeVar("_Item")
_PACE: Final = 64
"""Items between two times that pages are given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The small tables that conclusions may read: no packets, no bytes."""

    captures: tuple[Capture, ...]
    quality: tuple[Quality, ...]
    vantages: tuple[VantageOpinion, ...]
    addresses: Addresses
    flows: Flows
    resent: FlowResends = field(default_factory=FlowResends.empty)
    """Per flow: how many packets carried bytes again, by kind and place of the loss."""
    exchanges: Exchanges
    calls: Calls
    start_ns: int
    """Time of the first packet of the first capture: zero of all reported seconds."""
    losses: Losses
    host_facts: HostFacts = field(default_factory=HostFacts)
    """What lay beside the captures about the hosts they were taken on: the true MTUs; empty when nothing did."""
    notes: tuple[str, ...] = ()
    """What was passed over among the inputs, a line each."""
    pair: Pair | None = None
    """What two captures of one path say together; None unless they were given as a pair."""

    room: Room | None = None
    """Where tables lie that do not fit into memory."""

    def release(self) -> None:
        """Gives back the pages of tables that lie in files: between two that look at all of them."""
        if self.room is not None:
            self.room.release()

    @property
    def files(self) -> tuple[tuple[int, Capture], ...]:
        """Every file read, with the index of its capture: most captures are one file."""
        return tuple((index, file) for index, capture in enumerate(self.captures) for file in capture.each)

    def place(self, capture: int, frame: int) -> tuple[int, int]:
        """Index into `files`, and the frame's number there, of a frame as all tables name it."""
        index, number = self.captures[capture].place(frame)
        return sum(len(before.each) for before in self.captures[:capture]) + index, number

    def client(self, flow: int) -> str:
        """address:port of a flow's client."""
        return self.addresses.endpoint(int(self.flows.client[flow]), int(self.flows.client_port[flow]))

    def server(self, flow: int) -> str:
        """address:port of a flow's server."""
        return self.addresses.endpoint(int(self.flows.server[flow]), int(self.flows.server_port[flow]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Tables):
    """One shard with its packets. Detectors' `signs` read it."""

    packets: Packets
    tcp: TcpTables
    h2: H2Log
    streams: Streams

    def paced(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, with pages given back now and then: for loops that look here and there in the tables."""
        for number, item in enumerate(items, 1):
            yield item
            if number % _PACE == 0:
                self.release()

    @property
    def segments(self) -> Segments:
        """The TCP packets, with their columns."""
        return self.tcp.segments

    def frame_of(self, segment: int) -> tuple[int, int]:
        """(capture, frame number) of a row of Segments."""
        row = int(self.tcp.segments.row[segment])
        return int(self.packets.capture[row]), int(self.packets.frame[row])
