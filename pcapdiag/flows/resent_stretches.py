"""Resends counted: per flow for reports, and per lost stretch (a row of Recoveries) for detectors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.flows.needless import bears
from pcapdiag.flows.resend_table import Evidence, FlowResends, Placement, ResendKind, Resends
from pcapdiag.flows.table import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.columns import I64, Bools
    from pcapdiag.flows.table import TcpTables


def count_resends(resends: Resends) -> FlowResends:
    """The kinds and placements of each flow's resends."""
    flow, row = np.unique(resends.fd >> 1, return_inverse=True)

    def of(mask: Bools) -> I64:
        return np.bincount(row[mask], minlength=len(flow)).astype(np.int64)

    kinds = {kind.name.lower(): of(resends.kind == kind) for kind in ResendKind}
    return FlowResends(
        flow=flow.astype(np.int64), lost_before_tap=of(resends.placement == Placement.BEFORE_TAP),
        lost_behind_tap=of(resends.placement == Placement.BEHIND_TAP), lost_ack=of(resends.placement == Placement.ACK_LOST), **kinds,
    )  # fmt: skip


def tallied(kinds: Iterable[ResendKind]) -> dict[str, int]:
    """How many of each kind, by name, the most frequent first."""
    counts = Counter(kind.name.lower() for kind in kinds)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class Stretches:
    """The resends of each row of Recoveries."""

    __slots__ = ("_again", "_tcp")

    def __init__(self, tcp: TcpTables) -> None:
        self._tcp = tcp
        self._again = _lost_again(tcp.resends)

    def rows(self, stretch: int) -> I64:
        """Rows of Resends that repeat or fill bytes of a stretch, from its first resend until it was made good."""
        found, resends = self._tcp.recoveries, self._tcp.resends
        first, done = int(found.resent_segment[stretch]), int(found.done_segment[stretch])
        if first < 0:
            return np.empty(0, np.int64)
        low, high = np.searchsorted(resends.fd, [found.fd[stretch], found.fd[stretch] + 1])
        segments = resends.segment[low:high]
        rows = low + np.arange(
            np.searchsorted(segments, first), len(segments) if done < 0 else np.searchsorted(segments, max(done, first), side="right")
        )
        mine: I64 = rows[(resends.start[rows] < found.stop[stretch]) & (resends.stop[rows] > found.start[stretch])]
        return mine

    def kinds(self, stretch: int) -> tuple[ResendKind, ...]:
        """What they were, in the order of time."""
        return tuple(ResendKind(kind) for kind in self._tcp.resends.kind[self.rows(stretch)].tolist())

    def lost_again(self, stretch: int) -> bool:
        """Was a fast retransmission of these bytes itself lost behind the tap, so that a third copy was needed?"""
        return bool(self._tcp.recoveries.at_sender[stretch]) and bool(self._again[self.rows(stretch)].any())


def _lost_again(resends: Resends) -> Bools:
    """Per row of Resends: the copy before it was a fast retransmission that was needed, and that was lost behind the tap."""
    order = np.argsort(resends.segment, kind="stable")
    at = np.searchsorted(resends.segment[order], resends.before_segment)
    before = order[np.minimum(at, max(len(order) - 1, 0))] if len(order) else at
    behind = resends.placement == Placement.BEHIND_TAP
    result: Bools = behind & (resends.before_segment >= 0) & (resends.segment[before] == resends.before_segment)
    result &= behind[before] & (resends.kind[before] == ResendKind.FAST)
    return result


def late_originals(tcp: TcpTables) -> Bools:
    """Per row of Recoveries: a resend filled the hole, and then the original came: it was only overtaken (RFC 4737)."""
    resends = tcp.resends
    filler = bears(resends.evidence, Evidence.LATE_ORIGINAL) & (tcp.segments.kind[resends.segment] == Kind.FILL)
    result: Bools = np.isin(tcp.recoveries.resent_segment, resends.segment[filler]) & tcp.recoveries.spurious
    return result
