"""Look-alike transmissions (no IP-ID, equal timestamps): their times, on compared clocks, tell which is which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.pair.clock import to_far

if TYPE_CHECKING:
    from pcapdiag.columns import Rows
    from pcapdiag.pair.match_packets import Half, PacketMatch
    from pcapdiag.pair.side import Side
    from pcapdiag.pair.table import Clocks

_JITTER_NS = 50_000
"""What timestamping itself may take away from the least delay."""


def settle(near: Side, matched: PacketMatch, clocks: Clocks) -> None:
    """Pairs the transmissions of each unsure group: whoever arrived was sent last before it."""
    for ours, theirs in matched.unsure:
        near_ns = to_far(clocks, matched.near.ts_ns[ours], near.packets.frame[near.tcp.segments.row[matched.near.segment[ours]]])
        far_ns = matched.far.ts_ns[theirs]
        forth = matched.near.direction[ours[0]] == 0
        sent, sent_ns, came, came_ns = (ours, near_ns, theirs, far_ns) if forth else (theirs, far_ns, ours, near_ns)
        halves = (matched.near, matched.far) if forth else (matched.far, matched.near)
        least = clocks.uncertainty_ns - _JITTER_NS
        free = np.ones(len(sent), np.bool_)
        for arrival, at_ns in sorted(zip(came.tolist(), came_ns.tolist(), strict=True), key=lambda item: item[1]):
            before = np.flatnonzero(free & (sent_ns + least <= at_ns))
            if len(before):
                last = int(before[np.argmax(sent_ns[before])])
                free[last] = False
                _pair(halves, int(sent[last]), arrival)


def _pair(halves: tuple[Half, Half], sent: int, came: int) -> None:
    halves[0].other[sent], halves[1].other[came] = came, sent
    rows: list[tuple[Half, Rows | int]] = [(halves[0], sent), (halves[1], came)]
    for half, row in rows:
        half.seen_len[row] = half.length[row]
