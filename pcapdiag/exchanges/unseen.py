"""Requests that were sent and never arrived: only later packets of the client, numbered beyond them, speak of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.columns import NEVER, rows_between
from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.flows.table import CLIENT_TO_SERVER, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.streams import Streams

NAME: Final = "request that never arrived"


def find_unseen(
    known: Sequence[Exchanges], packets: Packets, tcp: TcpTables, streams: Streams, flows: tuple[int, int], *, clipped_ns: int
) -> list[Draft]:
    """One exchange per connection whose client counts bytes as sent that never came, and that no known exchange has begun.

    A pure ACK carries the sender's next sequence number (RFC 9293 section 3.8.4 lets probes carry the one before): bytes
    below it that neither came nor were acknowledged are on their way, or lost.

    Args:
        known: the exchanges of these flows.
        packets: all packets.
        tcp: all flows.
        streams: the bytes of these flows.
        flows: [first, stop).
        clipped_ns: when the capture ends.
    """
    seg = tcp.segments
    here = rows_between(seg.flow, *flows)
    claims = (seg.direction[here] == CLIENT_TO_SERVER) & (seg.gap_len[here] > 0)
    claims &= np.isin(seg.kind[here], (Kind.CONTROL, Kind.KEEP_ALIVE))
    rows = here.start + np.flatnonzero(claims)
    fd = 2 * seg.flow[rows].astype(np.int64)
    hole = seg.seq[rows] - seg.gap_len[rows]
    lost = (streams.first_seen(fd, hole) == NEVER) & (streams.acked(fd, hole) == NEVER)
    begun = {flow for table in known for flow in table.flow[table.ended(Outcome.ABORTED, Outcome.INCOMPLETE)].tolist()}
    found: dict[int, Draft] = {}
    for row in rows[lost].tolist():
        flow = int(seg.flow[row])
        if flow not in begun and flow not in found:
            found[flow] = _draft(row, flow, packets, tcp, clipped_ns)
    return list(found.values())


def _draft(row: int, flow: int, packets: Packets, tcp: TcpTables, clipped_ns: int) -> Draft:
    start_ns = int(tcp.segments.ts_ns[row])
    closed = [
        (at_ns, by)
        for at_ns, by in (
            (int(tcp.flows.client_fin_ns[flow]), "client"),
            (int(tcp.flows.server_fin_ns[flow]), "server"),
            (int(tcp.flows.rst_ns[flow]), "server" if int(tcp.flows.rst_direction[flow]) else "client"),
        )
        if start_ns <= at_ns < NEVER
    ]
    end_ns, by = min(closed, default=(clipped_ns, None))
    packet = int(tcp.segments.row[row])
    return Draft(
        flow, Protocol.OTHER, NAME, inferred=True, ending=Ending.GIVEN, start_ns=start_ns, request_start_ns=start_ns, end_ns=end_ns,
        outcome=Outcome.ABORTED if by else Outcome.INCOMPLETE, aborted_by=by,
        frames=((int(packets.capture[packet]), int(packets.frame[packet])),),
    )  # fmt: skip
