"""pair_captures: the packets of two captures of one path -> the packets and flows to analyse, and what both say together."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.errors import OptionError
from pcapdiag.flows.table import Quality
from pcapdiag.pair.clock import compare_clocks, round_trip_sign
from pcapdiag.pair.gather import gather, ways_of
from pcapdiag.pair.match_flows import match_flows
from pcapdiag.pair.match_packets import match_packets
from pcapdiag.pair.others import match_others
from pcapdiag.pair.path import find_changes, measure_delays, sights_of
from pcapdiag.pair.place import look, place_missing, place_resends, sent_here
from pcapdiag.pair.refine import refine
from pcapdiag.pair.resent import pair_resends
from pcapdiag.pair.restore import restore
from pcapdiag.pair.settle import settle
from pcapdiag.pair.side import Group, Side
from pcapdiag.pair.table import Delays, Pair, Place, Placed, Way

if TYPE_CHECKING:
    from pcapdiag.capture.frames import Capture
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.pair.clock import Sights
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.match_packets import PacketMatch
    from pcapdiag.pair.place import View
    from pcapdiag.spool import Room

_SURE_TRIP_NS = 2_000
"""A shorter round trip between the taps is within a timestamp's error."""
_MOST_UNMATCHED = 20
_LONGEST = 8_960
"""Payload of the largest usual packet (jumbo frames): what is longer was never one packet."""

_FRAME_FIELDS = tuple(one.name for one in fields(Quality) if one.name.endswith("_frames") and "tuple" in str(one.type))
"""Fields of Quality that name frames."""


def pair_captures(packets: Packets, captures: tuple[Capture, ...], group: Group, room: Room) -> tuple[Packets, TcpTables, Pair]:
    """Matches two captures of one path.

    Args:
        packets: the packets of both, capture 0 and capture 1.
        captures: what is known of each; the first is meant to be the client's.
        group: step 3, as the user wants it.
        room: where the columns lie, and what is made of them.

    Raises:
        OptionError: they are one file, or have nothing in common.
    """
    near, far, match, matched, swapped, why = _in_order(packets, captures, group, room)
    room.release()
    others = match_others(near, far)
    if not len(match) and not others.matched_count:
        names = " and ".join(capture.name for capture in captures)
        raise OptionError(f"--pair: {names} have no connection in common: no two packets with equal numbers, no address seen in both")
    clocks = compare_clocks(sights_of(matched, near, far)[0])
    settle(near, matched, clocks)
    sights, ours, theirs = sights_of(matched, near, far)
    delays = measure_delays(sights, clocks)
    views = look(matched, near, far, clocks, delays)
    room.release()
    missing = [place_missing(view, match, matched.ranges) for view in views]
    resends = [place_resends(view, match) for view in views]
    restored = restore(packets, near, far, match, matched, missing[1], others, clocks, delays)
    room.release()
    sides = (near, far) if near.capture == 0 else (far, near)
    tcp = replace(
        group(restored.packets),
        vantages=tuple(one.vantage for one in sides),
        quality=tuple(_citable(one, restored.packets) for one in sides),
    )
    ways = ways_of(views, restored, tcp, len(match))
    placed, unmatched = gather(match, views, missing, resends, others, clocks, delays, restored, tcp, ways)
    room.release()
    tcp = refine(tcp, placed, match, views, ways, delays[1])
    pair = Pair(
        near=near.capture, far=far.capture, start_ns=near.first_ns, swapped=swapped, order_why=why, matched_flows=len(match),
        matched_by_address=int(match.same_address.sum()), unmatched=unmatched[:_MOST_UNMATCHED],
        unmatched_near=sum(one.capture == near.capture for one in unmatched),
        unmatched_far=sum(one.capture == far.capture for one in unmatched), clocks=clocks, ways=_ways(views, delays, placed),
        placed=placed, changes=find_changes(match, near, far, sights, ours, theirs), restored_count=restored.restored_count,
        restored_payloads=restored.payload_count, resent=pair_resends(views, missing, resends, ways, tcp),
    )  # fmt: skip
    return restored.packets, tcp, pair


def _in_order(
    packets: Packets, captures: tuple[Capture, ...], group: Group, room: Room
) -> tuple[Side, Side, FlowMatch, PacketMatch, bool, str]:
    """The captures from the client's side on, matched; whether they were given the other way round, and what shows it.

    Raises:
        OptionError: these are not two different captures.
    """
    _refuse(captures)
    near, far = (Side.of(packets, index, captures[index], group, room) for index in (0, 1))
    match = match_flows(near, far)
    room.release()
    matched = match_packets(near, far, match)
    room.release()
    swapped, why = _order(sights_of(matched, near, far)[0], near, far)
    if swapped:
        near, far = far, near
        match = match_flows(near, far)
        matched = match_packets(near, far, match)
    return near, far, match, matched, swapped, why


def _refuse(captures: tuple[Capture, ...]) -> None:
    """Anything but two different captures (raises OptionError)."""
    if len(captures) != 2:
        raise OptionError(f"--pair: it takes two captures, one from each side of the path; these are {len(captures)}")
    if len({capture.sha256 for capture in captures}) < len(captures):
        names = " and ".join(dict.fromkeys(capture.name for capture in captures))
        raise OptionError(f"--pair: {names}: the same capture twice; it takes two, one from each side of the path")


def _citable(side: Side, packets: Packets) -> Quality:
    """The quality of a capture, without the numbers of frames that are not among the analysed packets."""
    lists = {name: getattr(side.quality, name) for name in _FRAME_FIELDS}
    rows = packets.rows_of(side.capture, [frame for frames in lists.values() for frame in frames])
    here = set(packets.frame[rows].tolist())
    named: dict[str, Any] = {name: tuple(one for one in frames if one in here) for name, frames in lists.items()}
    return replace(side.quality, **named)


def _order(sights: Sights, near: Side, far: Side) -> tuple[bool, str]:
    """Were the captures given in the wrong order, and what shows it?"""
    trip_ns, count = round_trip_sign(sights)
    if count and abs(trip_ns) >= _SURE_TRIP_NS:
        first = near.about.name if trip_ns > 0 else far.about.name
        return trip_ns < 0, f"the client's packets pass {first} first: {abs(trip_ns) / 1e6:.3f} ms round trip between the captures"
    hops = _hops(near, far, sights)
    if hops:
        first = near.about.name if hops > 0 else far.about.name
        return hops < 0, f"the client's packets have more TTL left in {first}"
    return False, "as given: neither times nor TTLs tell which capture is nearer to the client"


def _hops(near: Side, far: Side, sights: Sights) -> int:
    """Hops from the near tap to the far one by the client's TTLs, or back by the server's; 0 when they tell nothing."""
    total = 0
    for direction, sign in ((0, 1), (1, -1)):
        rows = sights.direction == direction
        ttl = [side.packets.ttl[np.searchsorted(side.packets.frame, frames[rows])].astype(np.int64)
               for side, frames in ((near, sights.near_frame), (far, sights.far_frame))]  # fmt: skip
        if rows.any():
            total += sign * int(np.median(ttl[0] - ttl[1]))
    return total


def _ways(views: tuple[View, View], delays: tuple[Delays | None, Delays | None], placed: Placed) -> tuple[Way, Way]:
    """Both directions, counted at the tap on the sender's side."""
    ways = []
    for direction, view in enumerate(views):
        half, side = view.half, view.side
        mine = sent_here(view)
        row = side.tcp.segments.row[half.segment]
        uncut = mine & (half.other >= 0) & ~side.packets.ip_len_zero[row] & (half.length <= _LONGEST)
        lost = (placed.place == Place.BETWEEN) & (placed.direction == direction) & placed.is_data
        ways.append(Way(
            sent_count=int(mine.sum()), passed_count=int((mine & half.complete).sum()), delays=delays[direction],
            passed_max_len=int(side.packets.ip_len[row[uncut]].max(initial=0)),
            lost_min_len=int(placed.ip_len[lost].min()) if lost.any() else 0,
        ))  # fmt: skip
    return ways[0], ways[1]
