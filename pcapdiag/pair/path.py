"""What the path between two taps did to the packets that passed: their delays, and the header fields it changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, Rows
from pcapdiag.packets.table import SYN
from pcapdiag.pair.clock import Sights, to_far
from pcapdiag.pair.table import Clocks, Delays, PathChange
from pcapdiag.spool import computed, taken

if TYPE_CHECKING:
    from pcapdiag.columns import Bools
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.match_packets import PacketMatch
    from pcapdiag.pair.side import Side

_BINS = 24
_NEAR_STEP = 32
"""Sights on either side of a clock step whose clock is not sure."""
_MOST_CHANGES = 24
_ECN = ("Not-ECT", "ECT(1)", "ECT(0)", "CE")
"""RFC 3168 section 5, by value."""


def sights_of(matched: PacketMatch, near: Side, far: Side) -> tuple[Sights, I64, I64]:
    """The packets that both saw uncut, in the order of the near file; and their rows of both Segments."""
    entry = np.flatnonzero(matched.near.other >= 0)
    other = matched.near.other[entry]
    ours, theirs = matched.near.segment[entry], matched.far.segment[other]
    near_frame = near.packets.frame[near.tcp.segments.row[ours]]
    order = np.argsort(near_frame, kind="stable")
    room = near.room
    entry, other, ours, theirs = entry[order], other[order], taken(ours, order, room), taken(theirs, order, room)
    return Sights(
        near_ns=taken(matched.near.ts_ns, entry, room), far_ns=taken(matched.far.ts_ns, other, room),
        direction=computed(len(entry), np.int64, lambda part: matched.near.way[entry[part]] & 1, room),
        near_frame=taken(near_frame, order, room),
        far_frame=computed(len(entry), np.int64, lambda part: far.packets.frame[far.tcp.segments.row[theirs[part]]], room),
    ), ours, theirs  # fmt: skip


def measure_delays(sights: Sights, clocks: Clocks) -> tuple[Delays | None, Delays | None]:
    """One-way delays of both directions; None for a direction without packets in common."""
    gap = sights.far_ns - to_far(clocks, sights.near_ns, sights.near_frame)
    sure = np.ones(len(sights), np.bool_)
    for step in clocks.steps:
        at = int(np.searchsorted(sights.near_frame, step.near_frame, side="right"))
        sure[max(at - _NEAR_STEP, 0) : at + _NEAR_STEP] = False
    return _delays(sights, gap, sure & (sights.direction == 0)), _delays(sights, -gap, sure & (sights.direction == 1))


def _delays(sights: Sights, delay_ns: I64, rows: Bools) -> Delays | None:
    at = np.flatnonzero(rows)
    if not len(at):
        return None
    delay, time = delay_ns[at], sights.near_ns[at]
    worst = int(at[np.argmax(delay)])
    begin, span = int(time.min()), max(int(time.max() - time.min()), 1)
    place = (time - begin) * (_BINS - 1) // span
    order = np.argsort(place, kind="stable")
    edges = np.flatnonzero(np.diff(place[order], prepend=-1))
    bins = tuple(
        (begin + int(part_at) * span // (_BINS - 1), int(part.min()), int(np.median(part)), int(part.max()))
        for part_at, part in zip(place[order][edges].tolist(), np.split(delay[order], edges[1:]), strict=True)
    )
    return Delays(
        sample_count=len(at), least_ns=int(delay.min()), median_ns=int(np.median(delay)), most_ns=int(delay.max()),
        most_at_ns=int(sights.near_ns[worst]), most_frames=(int(sights.near_frame[worst]), int(sights.far_frame[worst])), bins=bins,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Twice:
    """Rows of packets that both captures hold, sender's tap first."""

    sent: Side
    sent_row: Rows
    came: Side
    came_row: Rows
    direction: int
    near_frame: I64
    far_frame: I64

    def take(self, rows: Bools) -> _Twice:
        return _Twice(
            self.sent, self.sent_row[rows], self.came, self.came_row[rows], self.direction, self.near_frame[rows], self.far_frame[rows]
        )


def find_changes(match: FlowMatch, near: Side, far: Side, sights: Sights, ours: I64, theirs: I64) -> tuple[PathChange, ...]:
    """What differs between the taps, the most frequent first within each direction."""
    near_row, far_row = near.tcp.segments.row[ours], far.tcp.segments.row[theirs]
    found: list[PathChange] = []
    for direction in (0, 1):
        rows = sights.direction == direction
        one = near, near_row[rows], far, far_row[rows]
        both = _Twice(*(one if direction == 0 else (*one[2:], *one[:2])), direction, sights.near_frame[rows], sights.far_frame[rows])
        found += _of_headers(both)
    found += _of_addresses(match, near, far)
    if match.rewritten.any():
        at = int(np.flatnonzero(match.rewritten)[0])
        frames = _first_frames(match, near, far, at)
        found.append(PathChange("TCP sequence numbers", 0, "as sent", "rewritten", int(match.rewritten.sum()), frames))
    return tuple(found)


def _of_headers(both: _Twice) -> list[PathChange]:
    found = []
    for name, title in (("ttl", "TTL or hop limit"), ("ecn", "ECN"), ("dont_fragment", "don't fragment"), ("ip_version", "IP version")):
        found += _differing(both, title, *_columns(both, name), _ECN if name == "ecn" else None)
    before, after = _columns(both, "ip_id")
    renumbered = before != after
    if renumbered.any():
        found.append(_change(both.take(renumbered), "IP-ID", "as sent", "rewritten"))
    window_before, window_after = _columns(both, "window")
    if (window_before != window_after).any():
        found.append(_change(both.take(window_before != window_after), "TCP window", "as sent", "rewritten"))
    before, after = _columns(both, "tunnel")
    found += _differing(both, "encapsulation", _tunnels(both.sent, before), _tunnels(both.came, after))
    syn = (both.sent.packets.flags[both.sent_row] & SYN) > 0
    opening, rest = both.take(syn), both.take(~syn)
    for name, title in (("mss", "TCP MSS"), ("window_shift", "TCP window scale"), ("sack_permitted", "TCP SACK-permitted")):
        found += _differing(opening, title, *_columns(opening, name))
    for some in (opening, rest):
        before, after = _columns(some, "has_ts")
        found += _differing(some, "TCP timestamps" if some is rest else "TCP timestamps in the SYN", before, after)
    return found


def _columns(both: _Twice, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    before = getattr(both.sent.packets, name)[both.sent_row].astype(np.int64)
    after = getattr(both.came.packets, name)[both.came_row].astype(np.int64)
    return before, after


def _tunnels(side: Side, index: I64) -> I64:
    """Tunnels numbered by what they are: equal paths get equal numbers on both sides."""
    paths = [tunnel.path for tunnel in side.packets.tunnels]
    number = np.array([paths.index(path) for path in paths], np.int64)
    return number[index]


def _differing(both: _Twice, title: str, before: I64, after: I64, names: tuple[str, ...] | None = None) -> list[PathChange]:
    """One change per distinct pair of values, the most frequent first."""
    differs = np.flatnonzero(before != after)
    if not len(differs):
        return []
    pairs, first, counts = np.unique(np.stack([before[differs], after[differs]]), axis=1, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_CHANGES]
    found = []
    for i in order.tolist():
        old, new = (_said(both, title, int(value), names) for value in pairs[:, i].tolist())
        example = int(differs[first[i]])
        frames = int(both.near_frame[example]), int(both.far_frame[example])
        found.append(PathChange(title, both.direction, old, new, int(counts[i]), frames))
    return found


def _said(both: _Twice, title: str, value: int, names: tuple[str, ...] | None) -> str:
    """A value as people read it."""
    if names is not None:
        return names[value]
    if title == "encapsulation":
        return "/".join(both.sent.packets.tunnels[value].path) or "none"
    if title in {"don't fragment", "TCP SACK-permitted", "TCP timestamps", "TCP timestamps in the SYN"}:
        return "set" if title == "don't fragment" and value else "yes" if value else "not set" if title == "don't fragment" else "none"
    if (title == "TCP window scale" and value < 0) or (title == "TCP MSS" and not value):
        return "none"
    return str(value)


def _change(both: _Twice, title: str, before: str, after: str) -> PathChange:
    return PathChange(title, both.direction, before, after, len(both.sent_row), (int(both.near_frame[0]), int(both.far_frame[0])))


def _of_addresses(match: FlowMatch, near: Side, far: Side) -> list[PathChange]:
    """Hosts and ports that a NAT rewrote: client's and server's, by host."""
    counts: dict[tuple[str, int, str, str], tuple[int, tuple[int, int]]] = {}
    for at in np.flatnonzero(~match.same_address).tolist():
        flows = (near, int(match.near[at])), (far, int(match.far[at]))
        ends = [_ends(side, flow)[:: -1 if turned else 1] for (side, flow), turned in zip(flows, match.turned[at].tolist(), strict=True)]
        for direction, (own, other) in enumerate(zip(*ends, strict=True)):
            title = "source address" if direction == 0 else "destination address"
            if own[0] != other[0]:
                key = (title, 0, own[0], other[0])
            elif own[1] != other[1]:
                key = (title.replace("address", "port"), 0, "as sent", "rewritten")
            else:
                continue
            number, frames = counts.get(key, (0, _first_frames(match, near, far, at)))
            counts[key] = number + 1, frames
    rows = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:_MOST_CHANGES]
    return [PathChange(title, way, old, new, number, frames) for (title, way, old, new), (number, frames) in rows]


def _ends(side: Side, flow: int) -> list[tuple[str, int]]:
    flows, text = side.tcp.flows, side.packets.addresses.text
    return [
        (text(int(flows.client[flow])), int(flows.client_port[flow])),
        (text(int(flows.server[flow])), int(flows.server_port[flow])),
    ]


def _first_frames(match: FlowMatch, near: Side, far: Side, at: int) -> tuple[int, int]:
    near_at, far_at = near.tcp.flows.begin[match.near[at]], far.tcp.flows.begin[match.far[at]]
    return near.frame(int(near_at)), far.frame(int(far_at))
