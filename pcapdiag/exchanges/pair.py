"""Step 5: exchanges out of the byte timeline."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.abandon import settle_abandoned
from pcapdiag.exchanges.choose import Chooser
from pcapdiag.exchanges.connects import find_connects
from pcapdiag.exchanges.drafted import gather
from pcapdiag.exchanges.h2log import H2Log, make_log
from pcapdiag.exchanges.landing import Ground, Landed, land
from pcapdiag.exchanges.lookups import find_lookups
from pcapdiag.exchanges.pair_tls import pair_tls
from pcapdiag.exchanges.setup import attach_setup
from pcapdiag.exchanges.table import Exchanges
from pcapdiag.exchanges.turns import pair_turns, round_trips
from pcapdiag.exchanges.unseen import find_unseen
from pcapdiag.exchanges.unsettled import Unsettled
from pcapdiag.flows.segmented import group_starts
from pcapdiag.losses import Losses
from pcapdiag.spool import Spool
from pcapdiag.streams import Streams
from pcapdiag.workers import MOST_ITEMS, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import Rows
    from pcapdiag.exchanges.lookups import Lookup
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room


_PART_LEN: Final = 1 << 14
"""Pieces that are read at a time: few enough for the look-ups of their times to stay in a processor's cache, and for several
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
    """What the streams of some flows hold."""

    landed: tuple[Landed, ...]
    lookups: dict[int, Lookup]
    """Over TCP, by their rows in the last of `landed`."""
    log: H2Log
    losses: Losses


def _pair(packets: Packets, tcp: TcpTables, streams: Streams, losses: Losses, jobs: int, room: Room | None) -> Paired:
    ground, rtts = Ground(packets, tcp), round_trips(tcp)

    def read(flows: Rows) -> _Read:
        counted = Losses()
        near = Streams(packets, tcp, (int(flows[0]), int(flows[-1]) + 1)) if len(flows) else streams
        chooser = Chooser(tcp, near, counted, room)
        readings = chooser.read(flows.tolist())
        h2 = readings.h2.streams()
        multiplexed = h2.exchanges(chooser.tape, tcp.flows.one_way)
        drafts = readings.drafts + pair_tls(readings.tls, tcp, near, rtts) + pair_turns(tcp, readings.unknown, rtts)
        landed = tuple(land(drafted, ground, near) for drafted in (multiplexed, gather(drafts)))
        log = make_log(h2.logged(), near)
        if room is not None:
            room.release()
        number = {id(draft): row for row, draft in enumerate(drafts)}
        return _Read(landed, {number[id(lookup.draft)]: lookup for lookup in readings.lookups}, log, counted)

    tables: list[Landed] = []
    lookups: dict[int, Lookup] = {}
    logs = Spool(room)
    count = 0
    for part in spread(read, _parts(tcp), jobs, late=True):
        count += len(part.landed[0].exchanges)
        lookups |= {count + row: lookup for row, lookup in part.lookups.items()}
        count += len(part.landed[1].exchanges)
        tables += part.landed
        logs.append(part.log.moved({}))
        losses.merge(part.losses)
    unseen = find_unseen([one.exchanges for one in tables], packets, tcp, streams)
    asked = find_lookups(packets, tcp, losses)
    connects = find_connects(packets, tcp)
    lookups |= {count + len(unseen) + row: lookup for row, lookup in enumerate(asked)}
    first_connect = count + len(unseen) + len(asked)
    unsettled = Unsettled.of([*tables, Landed.given(gather([*unseen, *(lookup.draft for lookup in asked), *connects]))])
    unsettled.given_up_ns = {first_connect + row: one.given_up_ns for row, one in enumerate(connects) if one.given_up_ns is not None}
    if room is not None:
        room.release()
    attach_setup(unsettled, lookups, tcp, packets.addresses, rtts)
    settle_abandoned(unsettled, tcp)
    return Paired(unsettled.settled(), H2Log(**logs.finish()))


def _parts(tcp: TcpTables) -> list[Rows]:
    """The flows that carried bytes, ascending, in runs of about _PART_LEN pieces; one run at least."""
    flow = tcp.pieces.fd >> 1
    first = np.flatnonzero(group_starts(flow))
    flows = flow[first]
    if not len(flows):
        return [flows]
    part_len = max(_PART_LEN, len(tcp.pieces) // MOST_ITEMS)
    edges = [*np.flatnonzero(np.diff(first // part_len, prepend=-1)).tolist(), len(flows)]
    return [flows[a:b] for a, b in pairwise(edges)]
