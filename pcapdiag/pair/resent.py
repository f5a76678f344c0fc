"""Resends per connection, as two taps know them: what sent each shows at its sender, what became of the copy before it at the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.resend_table import FlowResends, Placement, ResendKind, Resends
from pcapdiag.flows.resent_stretches import count_resends
from pcapdiag.pair.place import entry_of, sent_here
from pcapdiag.pair.table import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.columns import U8
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.pair.place import Missing, View
    from pcapdiag.pair.refine import Ways

_NOWHERE = -1
_NEEDLESS = (Place.SPURIOUS, Place.ACK_LOST)


def pair_resends(
    views: tuple[View, View], missing: Sequence[Missing], needless: Sequence[Missing], ways: Ways, tcp: TcpTables
) -> FlowResends:
    """The rows of FlowResends; "the tap" of the places is the near one. Connections that one capture holds alone are as it shows them.

    Args:
        views: from the near capture, from the far one.
        missing: what the other capture lacks, by view.
        needless: resends of what had passed the other capture, by view.
        ways: where the matched flows are in the analysed tables.
        tcp: these tables.
    """
    alone = tcp.resends.take(~np.isin(tcp.resends.fd >> 1, ways.flow))
    parts = [_of_view(*each, ways) for each in zip(views, missing, needless, strict=True)]
    columns = {name: np.concatenate([getattr(part, name) for part in (alone, *parts)]) for name in Resends.columns()}
    return count_resends(Resends(**columns))


def _of_view(view: View, missing: Missing, needless: Missing, ways: Ways) -> Resends:
    """What was sent again beside this tap, and the originals that came late to it."""
    half, found = view.half, view.side.tcp.resends
    entry = entry_of(half, len(view.side.tcp.segments), found.segment)
    here = np.where(entry >= 0, sent_here(view)[entry], False)
    rows = np.flatnonzero((entry >= 0) & (here | (found.kind == ResendKind.REORDERED)))
    found, here, entry = found.take(rows), here[rows], entry[rows]
    kind, placement = found.kind.copy(), _seen_from_near(view, found.placement)
    became, lost = _by_entry(view, needless), _by_entry(view, missing)
    before = entry_of(half, len(view.side.tcp.segments), found.before_segment)
    fate = np.where(here & (before >= 0) & (became[entry] == _NOWHERE), lost[before], became[entry])
    kind[here & np.isin(fate, _NEEDLESS)] = ResendKind.SPURIOUS
    between = Placement.BEFORE_TAP if view.far else Placement.BEHIND_TAP
    for place, meant in (
        (Place.BETWEEN, between), (Place.BEHIND, Placement.BEHIND_TAP), (Place.ACK_LOST, Placement.ACK_LOST),
        (Place.SPURIOUS, Placement.NOT_LOST), (Place.RECEIVING_CAPTURE, Placement.NOT_LOST),
    ):  # fmt: skip
        placement[here & (fate == place)] = meant
    way = half.way[entry]
    columns = {name: getattr(found, name) for name in Resends.columns()}
    return Resends(**columns | {"fd": 2 * ways.flow[way] + ways.direction[way], "kind": kind, "placement": placement})


def _seen_from_near(view: View, placement: U8) -> U8:
    """What the far tap alone would say of its sender's packets, as the near tap sees it: behind the far one is before the near one."""
    result: U8 = placement.copy()
    if view.far:
        result[placement == Placement.BEHIND_TAP] = Placement.BEFORE_TAP
    return result


def _by_entry(view: View, some: Missing) -> I64:
    """Place per row of the half; -1 for others."""
    result = np.full(len(view.half), _NOWHERE, np.int64)
    result[some.entry] = some.place
    return result
