"""Losses whose times one tap could only guess, set right by the other: when the bytes were due, and what sent them again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pcapdiag.columns import I64, NEVER, Rows
from pcapdiag.flows.offsets import key
from pcapdiag.flows.table import Recoveries, Repair
from pcapdiag.pair.match_flows import pair_of_flow
from pcapdiag.pair.table import Place

if TYPE_CHECKING:
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.place import View
    from pcapdiag.pair.table import Delays, Placed


class Ways(NamedTuple):
    """Per way of the match (2 * row + direction): its place in the analysed tables; -1 without any packet."""

    flow: I64
    direction: I64
    shift: I64
    """What to add to near offsets."""


class _Stretch(NamedTuple):
    """Response bytes that were lost between the taps on their first way."""

    fd: int
    start: int
    stop: int
    due_ns: int
    sends: int


def refine(tcp: TcpTables, placed: Placed, match: FlowMatch, views: tuple[View, View], ways: Ways, delay: Delays | None) -> TcpTables:
    """The same tables with better recoveries.

    Bytes that the far tap saw leave are due at the near one a least delay later. Whether a timer or a report sent
    them again shows at their sender. Bytes that had arrived before they were sent again were not lost.
    """
    found = tcp.recoveries
    found = _without_blame(found, placed)
    stretches = _lost(placed, views[1].side.capture, delay.least_ns if delay else 0)
    if not stretches:
        return replace(tcp, recoveries=found)
    triggers = _triggers(match, views[1], ways)
    columns = {name: getattr(found, name).copy() for name in Recoveries.columns()}
    holes = np.flatnonzero(~found.at_sender)
    order = holes[np.argsort(key(found.fd[holes], found.start[holes]), kind="stable")]
    starts = key(found.fd[order], found.start[order])
    new: list[dict[str, int]] = []
    for one in stretches:
        row = _overlapping(found, order, starts, one)
        repair = triggers.at(one)
        if row is None:
            new += _row(tcp, one, repair)
            continue
        columns["first_ns"][row] = min(int(columns["first_ns"][row]), max(one.due_ns, 0))
        if repair is not None:
            columns["repair"][row] = repair
    for name, column in columns.items():
        columns[name] = np.concatenate([column, np.array([row.get(name, 0) for row in new], column.dtype)])
    by_time = np.lexsort((columns["start"], columns["first_ns"], columns["fd"]))
    return replace(tcp, recoveries=Recoveries(**{name: column[by_time] for name, column in columns.items()}))


def _without_blame(found: Recoveries, placed: Placed) -> Recoveries:
    """Bytes seen twice here that had passed the other tap the first time, and were lost nowhere."""
    spurious = found.spurious.copy()
    again = np.isin(placed.place, (Place.SPURIOUS, Place.ACK_LOST))
    if not again.any():
        return found
    fd = 2 * placed.flow + placed.direction
    lost = np.isin(placed.place, (Place.BETWEEN, Place.BEHIND, Place.OUTSIDE)) & placed.is_data
    by_fd = np.argsort(fd, kind="stable")
    sorted_fd = fd[by_fd]
    for row in np.flatnonzero(found.at_sender & ~spurious).tolist():
        low, high = np.searchsorted(sorted_fd, [found.fd[row], found.fd[row] + 1])
        mine = by_fd[low:high]
        mine = mine[(placed.start[mine] < found.stop[row]) & (placed.stop[mine] > found.start[row])]
        spurious[row] = bool(again[mine].any()) and not lost[mine].any()
    return replace(found, spurious=spurious)


def _lost(placed: Placed, far: int, least_ns: int) -> list[_Stretch]:
    """The stretches of bytes from the far side that were lost, each with its first transmission; adjacent ones sent together are one."""
    lost = (placed.place == Place.BETWEEN) & placed.is_data & (placed.capture == far)
    rows = np.flatnonzero(lost & (placed.flow >= 0) & (placed.start >= 0))
    fd = 2 * placed.flow[rows] + placed.direction[rows]
    found: list[_Stretch] = []
    for i in np.lexsort((placed.ts_ns[rows], placed.start[rows], fd)).tolist():
        row, last = int(rows[i]), found[-1] if found else None
        start, stop, due_ns = int(placed.start[row]), int(placed.stop[row]), int(placed.ts_ns[row]) + least_ns
        if last and last.fd == fd[i] and start < last.stop:  # another copy of the same bytes
            found[-1] = last._replace(stop=max(last.stop, stop), due_ns=min(last.due_ns, due_ns), sends=last.sends + 1)
        else:
            found.append(_Stretch(int(fd[i]), start, stop, due_ns, 1))
    return found


def _overlapping(found: Recoveries, order: Rows, starts: I64, one: _Stretch) -> int | None:
    """The row of a hole at the near tap that holds some of these bytes; `order` sorts holes by fd and start."""
    at = int(np.searchsorted(starts, key(one.fd, one.stop))) - 1
    if at < 0:
        return None
    row = int(order[at])
    return row if found.fd[row] == one.fd and found.stop[row] > one.start else None


def _row(tcp: TcpTables, one: _Stretch, repair: int | None) -> list[dict[str, int]]:
    """A row for bytes whose loss left no trace at the near tap but their lateness; none when they came no later than due."""
    pieces = tcp.pieces
    at = int(np.searchsorted(key(pieces.fd, pieces.start), key(one.fd, one.stop - 1), side="right")) - 1
    came = at >= 0 and pieces.fd[at] == one.fd and pieces.stop[at] >= one.stop
    came_ns, segment = (int(pieces.ts_ns[at]), int(pieces.segment[at])) if came else (NEVER, -1)
    if came_ns <= one.due_ns or (not came and repair is None):
        return []
    begin, stop = int(tcp.flows.begin[one.fd // 2]), int(tcp.flows.stop[one.fd // 2])
    before = int(np.searchsorted(tcp.segments.ts_ns[begin:stop], one.due_ns)) - 1
    return [{
        "fd": one.fd, "start": one.start, "stop": one.stop, "first_ns": one.due_ns, "resent_ns": came_ns, "done_ns": came_ns,
        "repair": int(Repair.UNKNOWN if repair is None else repair), "sends": one.sends + came, "tail": 1,
        "first_segment": begin + max(before, 0), "resent_segment": segment, "done_segment": segment, "resends": int(came),
    }]  # fmt: skip


class _Triggers:
    """What made the far sender send bytes again, by their place in the analysed tables."""

    def __init__(self, fd: I64, start: I64, stop: I64, repair: I64) -> None:
        order = np.argsort(key(fd, start), kind="stable")
        self._starts = key(fd[order], start[order])
        self._fd, self._stop, self._repair = fd[order], stop[order], repair[order]

    def at(self, one: _Stretch) -> int | None:
        """The Repair of the stretch that holds these bytes; None when the sender's tap does not tell."""
        at = int(np.searchsorted(self._starts, key(one.fd, one.stop))) - 1
        if at < 0 or self._fd[at] != one.fd or self._stop[at] <= one.start:
            return None
        repair = int(self._repair[at])
        return repair if repair in {Repair.FAST, Repair.PROBE, Repair.TIMEOUT} else None


def _triggers(match: FlowMatch, view: View, ways: Ways) -> _Triggers:
    found = view.side.tcp.recoveries
    row = pair_of_flow(match, view.side, far=True)[found.fd // 2]
    use = np.flatnonzero((row >= 0) & found.at_sender)
    row, direction = row[use], found.fd[use] % 2
    direction = direction ^ match.turned[row, 1]
    way = 2 * row + direction
    shift = match.shift[row, direction] + ways.shift[way]
    return _Triggers(
        2 * ways.flow[way] + ways.direction[way], found.start[use] + shift, found.stop[use] + shift, found.repair[use].astype(np.int64)
    )
