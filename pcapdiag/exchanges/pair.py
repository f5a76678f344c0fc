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
from pcapdiag.exchanges.gather import gather
from pcapdiag.exchanges.h2log import H2Log, make_log
from pcapdiag.exchanges.landing import land
from pcapdiag.exchanges.lookups import find_lookups
from pcapdiag.exchanges.pair_tls import pair_tls
from pcapdiag.exchanges.setup import attach_setup
from pcapdiag.exchanges.table import Exchanges
from pcapdiag.exchanges.turns import pair_turns
from pcapdiag.exchanges.unseen import find_unseen
from pcapdiag.losses import Losses
from pcapdiag.spool import Spool
from pcapdiag.workers import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import Rows
    from pcapdiag.exchanges.draft import Draft
    from pcapdiag.exchanges.lookups import Lookup
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room
    from pcapdiag.streams import Streams


_PARTS: Final = 32
"""Small enough for several processes to end together, large enough for one look-up of times each."""


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


@dataclass(slots=True, eq=False)
class _Read:
    """What the streams of some flows hold."""

    drafts: list[Draft]
    lookups: list[Lookup]
    """Over TCP; their drafts are among `drafts`."""
    log: H2Log
    losses: Losses


def _pair(packets: Packets, tcp: TcpTables, streams: Streams, losses: Losses, jobs: int, room: Room | None) -> Paired:
    def read(flows: Rows) -> _Read:
        counted = Losses()
        readings = Chooser(tcp, streams, counted, room).read(flows.tolist())
        drafts = readings.drafts + pair_tls(readings.tls, tcp, streams) + pair_turns(tcp, readings.unknown)
        land(drafts, packets, tcp, streams)
        log = make_log(readings.h2_rows, streams)
        if room is not None:
            room.release()
        return _Read(drafts, readings.lookups, log, counted)

    in_streams: list[Draft] = []
    asked: list[Lookup] = []
    logs = Spool(room)
    for part in spread(read, _parts(tcp), jobs, late=True):
        in_streams += part.drafts
        asked += part.lookups
        logs.append(part.log.moved({}))
        losses.merge(part.losses)
    in_streams += find_unseen(in_streams, packets, tcp, streams)
    lookups = find_lookups(packets, tcp, losses)
    drafts = in_streams + [lookup.draft for lookup in lookups] + find_connects(packets, tcp)
    if room is not None:
        room.release()
    attach_setup(drafts, lookups + asked, tcp, packets.addresses)
    settle_abandoned(drafts, tcp)
    drafts.sort(key=lambda draft: draft.order())
    for number, draft in enumerate(drafts):
        draft.id = number
    return Paired(gather(drafts), H2Log(**logs.finish()))


def _parts(tcp: TcpTables) -> list[Rows]:
    """The flows that carried bytes, ascending, in runs of about as many packets each; one run at least, and few."""
    flows, first = np.unique(tcp.pieces.fd >> 1, return_index=True)
    if not len(flows):
        return [flows]
    run = first * _PARTS // len(tcp.pieces)
    edges = [*np.flatnonzero(np.diff(run, prepend=-1)).tolist(), len(flows)]
    return [flows[a:b] for a, b in pairwise(edges)]
