"""Step 5: exchanges out of the byte timeline."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.abandon import settle_abandoned
from pcapdiag.exchanges.choose import Chooser
from pcapdiag.exchanges.connects import find_connects, find_refusals
from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.growing import GrowingExchanges
from pcapdiag.exchanges.h2log import H2Log, make_log
from pcapdiag.exchanges.landing import Ground, Landed, land
from pcapdiag.exchanges.lookups import find_lookups
from pcapdiag.exchanges.pair_tls import pair_tls
from pcapdiag.exchanges.setup import attach_setup
from pcapdiag.exchanges.turns import pair_turns, round_trips
from pcapdiag.exchanges.unseen import find_unseen
from pcapdiag.exchanges.unsettled import Unsettled
from pcapdiag.flows.conversations import blocks
from pcapdiag.losses import Losses
from pcapdiag.spool import Spool
from pcapdiag.workers import MOST_ITEMS, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import I64
    from pcapdiag.exchanges.lookups import Lookup
    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room
    from pcapdiag.streams import Streams


_PACKETS: Final = 1 << 15
"""Packets whose flows are read at a time: few enough for the look-ups of their times to stay in a processor's cache, and for several
processes to end together; enough for one look-up of all of them to pay."""


@dataclass(frozen=True, slots=True)
class Paired:
    """What step 5 gives, calls excepted."""

    exchanges: Exchanges
    h2: H2Log


def pair_exchanges(
    packets: Packets, tcp: TcpTables, streams: Streams, losses: Losses, *, jobs: int = 1, room: Room | None = None
) -> Paired:
    """All exchanges: requests with responses, lookups, connects and handshakes; and the log of HTTP/2 connections.

    Streams are read by `jobs` processes (the result does not depend on how many), which give pages back to `room` as they go.
    """
    with _collector_paused():
        return _pair(packets, tcp, streams, losses, jobs, room)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keeps the cycle collector from walking millions of live events and drafts over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What the packets of some flows say."""

    landed: tuple[Landed, ...]
    lookups: dict[int, Lookup]
    """Over TCP, by their rows in all of `landed`, one behind the other."""
    given_up_ns: dict[int, tuple[int, int]]
    """Of connects, in the same way."""
    log: H2Log
    losses: Losses


class _Reader:
    """Reads some flows at a time."""

    def __init__(self, packets: Packets, tcp: TcpTables, streams: Streams, rtts: I64, clipped_ns: int, room: Room | None) -> None:
        self._packets, self._tcp, self._streams, self._room = packets, tcp, streams, room
        self._rtts, self._clipped_ns = rtts, clipped_ns
        self._refusals = find_refusals(packets, tcp)

    def read(self, flows: tuple[int, int]) -> _Read:
        """The exchanges of the flows [first, stop)."""
        tcp, near, counted = self._tcp, self._streams.part(*flows), Losses()
        chooser = Chooser(tcp, near, counted, self._room)
        readings = chooser.read(near.flows())
        h2 = readings.h2.streams()
        drafts = readings.drafts + pair_tls(readings.tls, tcp, near, self._rtts) + pair_turns(tcp, readings.unknown, self._rtts)
        ground = Ground(self._packets, tcp, flows, self._clipped_ns)
        landed = tuple(land(one, ground, near) for one in (h2.exchanges(chooser.tape, tcp.flows.one_way), gather(drafts)))
        unseen = find_unseen([one.exchanges for one in landed], self._packets, tcp, near, flows, clipped_ns=self._clipped_ns)
        connects = find_connects(self._packets, tcp, flows, refusals=self._refusals, clipped_ns=self._clipped_ns)
        log = make_log(h2.logged(), near)
        if self._room is not None:
            self._room.release()
        first_draft = len(landed[0].exchanges)
        row = {id(draft): number for number, draft in enumerate(drafts, first_draft)}
        first_connect = first_draft + len(drafts) + len(unseen)
        return _Read(
            landed=(*landed, Landed.given(gather([*unseen, *connects]))),
            lookups={row[id(lookup.draft)]: lookup for lookup in readings.lookups},
            given_up_ns={first_connect + at: one.given_up_ns for at, one in enumerate(connects) if one.given_up_ns is not None},
            log=log, losses=counted,
        )  # fmt: skip


def _pair(packets: Packets, tcp: TcpTables, streams: Streams, losses: Losses, jobs: int, room: Room | None) -> Paired:
    rtts = round_trips(tcp)
    clipped_ns = packets.span_ns(slice(0, len(packets)), room)[1] if len(packets) else 0
    found, logs = GrowingExchanges(room), Spool(room)
    lookups: dict[int, Lookup] = {}
    given_up_ns: dict[int, tuple[int, int]] = {}
    reader = _Reader(packets, tcp, streams, rtts, clipped_ns, room)
    for part in spread(reader.read, _parts(tcp), jobs):
        lookups |= {len(found) + row: lookup for row, lookup in part.lookups.items()}
        given_up_ns |= {len(found) + row: times for row, times in part.given_up_ns.items()}
        for landed in part.landed:
            found.add(landed)
        logs.append(part.log.moved({}))
        losses.merge(part.losses)
    asked = find_lookups(packets, tcp, losses, clipped_ns=clipped_ns, room=room)
    lookups |= {len(found) + row: lookup for row, lookup in enumerate(asked)}
    found.add(Landed.given(gather([lookup.draft for lookup in asked])))
    unsettled = Unsettled.of(found.whole())
    unsettled.given_up_ns = given_up_ns
    if room is not None:
        room.release()
    attach_setup(unsettled, lookups, tcp, packets.addresses, rtts)
    settle_abandoned(unsettled, tcp)
    return Paired(unsettled.settled(room), H2Log(**logs.finish()))


def _parts(tcp: TcpTables) -> list[tuple[int, int]]:
    """The flows in runs of about _PACKETS packets; one run at least."""
    return [*blocks(tcp.flows.packet_count, max(_PACKETS, int(tcp.flows.packet_count.sum()) // MOST_ITEMS))]
