"""Step 5: exchanges out of the byte timeline."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcapdiag.exchanges.abandon import settle_abandoned
from pcapdiag.exchanges.choose import read_flows
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.flows.table import TcpTables
    from pcapdiag.losses import Losses
    from pcapdiag.packets.table import Packets
    from pcapdiag.streams import Streams


@dataclass(frozen=True, slots=True)
class Paired:
    """What step 5 gives, calls excepted."""

    exchanges: Exchanges
    h2: H2Log


def pair_exchanges(packets: Packets, tcp: TcpTables, streams: Streams, losses: Losses) -> Paired:
    """All exchanges: requests with responses, lookups, connects and handshakes; and the log of HTTP/2 connections."""
    with _collector_paused():
        return _pair(packets, tcp, streams, losses)


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


def _pair(packets: Packets, tcp: TcpTables, streams: Streams, losses: Losses) -> Paired:
    readings = read_flows(tcp, streams, losses)
    in_streams = readings.drafts + pair_tls(readings.tls, tcp, streams) + pair_turns(tcp, readings.unknown)
    land(in_streams, packets, tcp, streams)
    in_streams += find_unseen(in_streams, packets, tcp, streams)
    lookups = find_lookups(packets, tcp, losses)
    drafts = in_streams + [lookup.draft for lookup in lookups] + find_connects(packets, tcp)
    attach_setup(drafts, lookups + readings.lookups, tcp, packets.addresses)
    settle_abandoned(drafts, tcp)
    drafts.sort(key=lambda draft: draft.order())
    for number, draft in enumerate(drafts):
        draft.id = number
    return Paired(gather(drafts), make_log(readings.h2_rows, streams))
