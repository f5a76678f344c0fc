"""What is set aside before packets become flows: copies of packets, second views and farther legs of connections.

And which records go back in time: what their order in the file is worth (CAUSES section 10).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.flows.conversations import order_by_time
from pcapdiag.flows.copies import NO_COPIES, Copies, find_copies
from pcapdiag.flows.group import Grouping, group_packets
from pcapdiag.flows.legs import Link, link_legs, rows_of_legs
from pcapdiag.flows.networks import Twins
from pcapdiag.flows.trains import with_cars
from pcapdiag.flows.views import second_views
from pcapdiag.spool import Spool, mask_of, rows_where, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.columns import I64, Rows
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """What was set aside before packets became flows."""

    copies: Copies
    """Copies of single packets."""
    views: Rows
    """Rows of Packets of connections that another capture shows better, ascending."""
    legs: Rows
    """Packets of the farther legs of translated connections, ascending."""
    rows: Rows
    """Rows of all packets set aside, ascending."""
    backward_steps: I64
    """Per capture: records earlier than the one before."""
    backward_max_ns: I64
    backward_rows: Rows
    """Rows of such records."""

    @property
    def twins(self) -> Twins:
        """Copies beside their originals."""
        return Twins(self.copies.row, self.copies.original)


def set_aside(packets: Packets, capture_count: int, room: Room | None = None, *, with_copies: bool = False) -> Aside:
    """Finds what goes back in time, and sets aside what was seen twice unless it is wanted; the first sight stays."""
    late = _late(packets, room)
    steps, furthest = np.zeros(capture_count, np.int64), np.zeros(capture_count, np.int64)
    np.add.at(steps, packets.capture[late], 1)
    np.maximum.at(furthest, packets.capture[late], packets.ts_ns[late - 1] - packets.ts_ns[late])
    views, copies = NO_COPIES.row, NO_COPIES
    if not with_copies:
        views = second_views(packets, capture_count, room)
        copies = with_cars(packets, find_copies(packets, order_by_time(packets, room), views, room), room)
    return Aside(
        copies=copies, views=views, legs=NO_COPIES.row, rows=_ascending(len(packets), [copies.row, views], room),
        backward_steps=steps, backward_max_ns=furthest, backward_rows=late,
    )  # fmt: skip


def keep_one_leg(packets: Packets, aside: Aside, grouping: Grouping, *, jobs: int, room: Room | None) -> tuple[Aside, Grouping, Link]:
    """Sets aside the farther legs of connections that an address translator shows twice, and groups anew without them."""
    link = link_legs(packets, grouping)
    if not len(link.far):
        return aside, grouping, link
    legs = _ascending(len(packets), [*rows_of_legs(grouping, link)], room)
    aside = replace(aside, legs=legs, rows=_ascending(len(packets), [aside.rows, legs], room))
    return aside, group_packets(packets, aside.rows, aside.twins, jobs=jobs, room=room), link


def _late(packets: Packets, room: Room | None) -> Rows:
    """Rows whose time lies before that of the row before, in the same capture."""
    found = Spool(room)
    for part in windows(len(packets), room):
        begin = max(part.start - 1, 0)
        ts_ns, capture = packets.ts_ns[begin : part.stop], packets.capture[begin : part.stop]
        found.append({"": begin + 1 + np.flatnonzero((ts_ns[1:] < ts_ns[:-1]) & (capture[1:] == capture[:-1]))})
    return found.finish().get("", NO_COPIES.row)


def _ascending(count: int, sets: Sequence[Rows], room: Room | None) -> Rows:
    """The rows of any of these sets, ascending."""
    if not any(len(rows) for rows in sets):
        return NO_COPIES.row
    mask = mask_of(sets, count, room)
    rows: Rows = rows_where(count, lambda part: mask[part], room)
    return rows
