"""Vantage per flow, from what the tallies of both directions say of either end being the capturing host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.flows import vantage
from pcapdiag.packets.table import TCP, UDP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pcapdiag.columns import U8
    from pcapdiag.flows.table import Flows, Tallies, VantageOpinion


def vantage_of(flows: Flows, tallies: Tallies, *, capture_count: int, side: str | None) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """Vantage per flow and the opinion on each capture; `side` overrules."""
    if side is not None:
        return vantage.override(side, len(flows), capture_count)
    tcp = np.flatnonzero(flows.proto == TCP)
    tcp_sides, opinions = vantage.infer_vantage(gather(flows, tallies), capture_count)
    sides = np.zeros(len(flows), np.uint8)
    sides[tcp] = tcp_sides
    udp = np.flatnonzero(flows.proto == UDP)
    if len(udp) and len(tcp):  # UDP flows share the vantage of their capture when its TCP flows agree
        for capture in range(capture_count):
            agreed = np.unique(tcp_sides[flows.capture[tcp] == capture])
            if len(agreed) == 1:
                sides[udp[flows.capture[udp] == capture]] = agreed[0]
    return sides, opinions


def gather(flows: Flows, tallies: Tallies) -> vantage.Clues:
    """The clues of all TCP flows, in the order of their ids."""
    tcp = np.flatnonzero(flows.proto == TCP)

    def ends(values: NDArray[np.signedinteger]) -> NDArray[np.int64]:
        """Per flow direction -> (TCP flows, 2)."""
        return values.astype(np.int64).reshape(-1, 2)[tcp]

    return vantage.Clues(
        capture=flows.capture[tcp], ends=np.stack([flows.client, flows.server], axis=1)[tcp], near_rtt_ns=flows.near_rtt_ns[tcp],
        far_rtt_ns=flows.far_rtt_ns[tcp], ttl=tallies.ttl.reshape(-1, 2)[tcp],
        out=ends(tallies.outgoing_count) - ends(tallies.incoming_count), split=ends(tallies.split_count), whole=ends(tallies.whole_count),
        unpadded=ends(tallies.short_count) - ends(tallies.padded_count),
        turnaround_ns=ends(np.where(tallies.turnaround_ns < NEVER, tallies.turnaround_ns, -1)),
        seen_again=ends(tallies.resent_count) - ends(tallies.fill_count),
    )  # fmt: skip
