"""What became of every TCP transmission that did not simply pass both taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, NEVER, U8, Bools, Rows
from pcapdiag.flows.offsets import key
from pcapdiag.flows.pieces import first_ack, time_of
from pcapdiag.flows.table import Kind
from pcapdiag.packets.table import FIN, RST, SYN
from pcapdiag.pair.clock import to_far, to_near
from pcapdiag.pair.table import Clocks, Delays, Place
from pcapdiag.spool import column, windows

if TYPE_CHECKING:
    from pcapdiag.pair.match_flows import FlowMatch
    from pcapdiag.pair.match_packets import Half, PacketMatch
    from pcapdiag.pair.side import Side

_DEFAULT_MSS = 1_448


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Stretches of transmissions of one half that the other capture lacks, or resends that were needless here."""

    entry: Rows
    """Row in the half."""
    start: I64
    stop: I64
    place: I64
    other: I64
    """Row in the other half that shows the outcome; -1 none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One direction, seen from the tap that has the packets in question towards the other one."""

    half: Half
    side: Side
    far: bool
    """`half` is that of the far capture."""
    other: Half
    other_side: Side
    expected_ns: I64
    """Per row of half: when the other tap would have seen it, in its own clock."""
    latest_ns: I64
    """The same with the longest delay seen."""
    trip_ns: int
    """Least round trip between the taps: what the other tap saw so long before a packet, its sender can have heard of."""


def look(matched: PacketMatch, near: Side, far: Side, clocks: Clocks, delays: tuple[Delays | None, Delays | None]) -> tuple[View, View]:
    """What each half's packets should have looked like at the other tap."""
    least = np.array([one.least_ns if one else 0 for one in delays], np.int64)
    most = np.array([one.most_ns if one else 0 for one in delays], np.int64)
    views = []
    for half, side, other, other_side in ((matched.near, near, matched.far, far), (matched.far, far, matched.near, near)):
        is_far = half is matched.far
        expected_ns, latest_ns = (column(len(half), np.int64, side.room) for _ in range(2))
        for part in windows(len(half), side.room):
            frame = side.packets.frame[side.tcp.segments.row[half.segment[part]]]
            there = (to_near if is_far else to_far)(clocks, half.ts_ns[part], frame)
            direction = half.way[part] & 1
            sign = np.where(direction == (1 if is_far else 0), 1, -1)
            expected_ns[part], latest_ns[part] = there + sign * least[direction], there + sign * most[direction]
        views.append(View(
            half=half, side=side, far=is_far, other=other, other_side=other_side, expected_ns=expected_ns, latest_ns=latest_ns,
            trip_ns=int(least.sum()),
        ))  # fmt: skip
    return views[0], views[1]


def sent_here(view: View) -> Bools:
    """Rows of the half whose sender this tap is nearer to."""
    mine: Bools = view.half.direction == (1 if view.far else 0)
    return mine


def place_missing(view: View, match: FlowMatch, ranges: tuple[I64, I64, I64]) -> Missing:
    """Every transmission that this capture has and the other lacks, with its place.

    Args:
        view: the capture that has them.
        match: the matched flows.
        ranges: the range matches.
    """
    entry, start, stop = _stretches(view, ranges)
    half, side, there = view.half, view.side, view.other_side
    what = side.what[half.segment[entry]]
    soonest = np.minimum(view.expected_ns, view.latest_ns)[entry]
    latest = np.maximum(view.expected_ns, view.latest_ns)[entry]
    early, late = soonest < there.first_ns, latest > there.last_ns
    bears = (stop > start) | ((what & (SYN | FIN)) > 0)
    place = np.full(len(entry), Place.BETWEEN, np.int64)
    outcome = np.full(len(entry), -1, np.int64)
    sent = sent_here(view)[entry]
    acked_ns, ack_entry = acknowledged(view, match, entry, stop + ((what & FIN) > 0))
    arrived_ns, arrival = first_arrival(view, match, entry, stop, what)
    uncertain = np.abs(view.latest_ns - view.expected_ns).max(initial=0)
    proven = sent & bears & ((what & RST) == 0) & (acked_ns < arrived_ns) & (acked_ns >= soonest - uncertain)
    outcome[:] = np.where(proven, ack_entry, arrival)
    place[proven] = Place.RECEIVING_CAPTURE
    place[~sent] = Place.SENDING_CAPTURE
    foreign = ~sent & ((what & RST) > 0)
    if foreign.any():
        place[foreign] = np.where(_went_on(view, entry[foreign]), Place.INJECTED, Place.SENDING_CAPTURE)
    place[early | (late & ~proven)] = Place.OUTSIDE
    if np.isin(place, (Place.RECEIVING_CAPTURE, Place.SENDING_CAPTURE)).any():  # the other capture is known to drop
        place[sent & ~bears & (place == Place.BETWEEN)] = Place.UNDECIDED
    return Missing(entry=entry, start=start, stop=stop, place=place, other=outcome)


def _stretches(view: View, ranges: tuple[I64, I64, I64]) -> tuple[Rows, I64, I64]:
    """(entry, start, stop) of what the other capture lacks; of packets it has in part, one row a gap."""
    half = view.half
    missing = np.flatnonzero(~half.complete)
    partly = missing[half.seen_len[missing] > 0]
    whole = missing[half.seen_len[missing] == 0]
    entry, start, stop = whole, half.start[whole], half.start[whole] + half.length[whole]
    if not len(partly):
        return entry, start, stop
    mine, theirs, at = (ranges[1], ranges[0], ranges[2]) if view.far else ranges
    order = np.lexsort((at, mine))
    mine, theirs, at = mine[order], theirs[order], at[order]
    # A cell ends where either packet does, or where the next cell of the same packet begins.
    end = np.minimum(half.start[mine] + half.length[mine], view.other.start[theirs] + view.other.length[theirs])
    rows: list[tuple[int, int, int]] = []
    low, high = np.searchsorted(mine, partly), np.searchsorted(mine, partly, side="right")
    for one, a, b in zip(partly.tolist(), low.tolist(), high.tolist(), strict=True):
        reached = int(half.start[one])
        for begin, finish in zip(at[a:b].tolist(), end[a:b].tolist(), strict=True):
            if begin > reached:
                rows.append((one, reached, begin))
            reached = max(reached, finish)
        last = int(half.start[one] + half.length[one])
        if reached < last:
            rows.append((one, reached, last))
    more = np.array(rows, np.int64).reshape(-1, 3)
    return np.concatenate([entry, more[:, 0]]), np.concatenate([start, more[:, 1]]), np.concatenate([stop, more[:, 2]])


def place_resends(view: View, match: FlowMatch) -> Missing:
    """Bytes or a FIN sent again from here although an earlier copy had passed the other tap: what the resend was for."""
    half, seg = view.half, view.side.tcp.segments
    kind = seg.kind[half.segment]
    again = (kind == Kind.SEEN_AGAIN) | ((kind == Kind.FIN) & (seg.sends[half.segment] > 1))
    entry = np.flatnonzero(again & sent_here(view))
    start, stop = half.start[entry], half.start[entry] + half.length[entry]
    is_fin = kind[entry] == Kind.FIN
    arrived_ns, arrival = first_arrival(view, match, entry, stop, np.where(is_fin, FIN, 0).astype(np.uint8))
    # When the resend itself came by: exactly, where the other capture has it.
    own_ns = np.where(half.other[entry] >= 0, view.other.ts_ns[half.other[entry]], view.expected_ns[entry])
    needless = arrived_ns < own_ns
    entry, start, stop, arrival, own_ns = (column[needless] for column in (entry, start, stop, arrival, own_ns))
    arrived_ns, is_fin = arrived_ns[needless], is_fin[needless]
    acked_ns, ack_entry = acknowledged(view, match, entry, stop + is_fin)
    acked = acked_ns < own_ns
    heard = _heard_in_time(view, match, entry, stop + is_fin)
    ack_passed = np.append(view.other.complete, True)[ack_entry]
    # A resend sent before anything could come back was brought about by no lost ACK, and by no loss behind the other tap.
    place = np.where(ack_passed | heard | (own_ns - acked_ns < view.trip_ns), Place.SPURIOUS, Place.ACK_LOST)
    place[~acked] = np.where(own_ns - arrived_ns < view.trip_ns, Place.SPURIOUS, Place.BEHIND)[~acked]
    had = _reported_twice(view, match, entry, start, stop) | _refused(view, entry, arrived_ns)
    place[(place == Place.BEHIND) & had] = Place.SPURIOUS
    return Missing(entry=entry, start=start, stop=stop, place=place.astype(np.int64), other=arrival)


def _fd(view: View, match: FlowMatch, entry: Rows, *, there: bool) -> tuple[I64, I64]:
    """(flow direction in one capture's tables, what to subtract from offsets to get that capture's)."""
    row, direction = view.half.way[entry] >> 1, view.half.direction[entry]
    far = view.far != there
    if not far:
        return 2 * match.near[row] + (direction ^ match.turned[row, 0]), np.zeros(len(entry), np.int64)
    return 2 * match.far[row] + (direction ^ match.turned[row, 1]), match.shift[row, direction]


def acknowledged(view: View, match: FlowMatch, entry: Rows, stop: I64) -> tuple[I64, I64]:
    """When the other tap first saw the bytes below `stop` acknowledged, or the last of them SACKed; and that ACK's row in its half."""
    fd, shift = _fd(view, match, entry, there=True)
    last = stop - shift - 1
    tcp = view.other_side.tcp
    row = first_ack(tcp.acks, fd, last)
    ns, segment = time_of(tcp.acks, row), np.append(tcp.acks.segment, -1)[row]
    sacked = tcp.sacked.take(~tcp.sacked.duplicate)
    if len(sacked):
        at = np.searchsorted(key(sacked.fd, sacked.start), key(fd, last), side="right") - 1
        inside = (at >= 0) & (sacked.fd[at] == fd) & (sacked.stop[at] > last) & (sacked.ts_ns[at] < ns)
        ns, segment = np.where(inside, sacked.ts_ns[at], ns), np.where(inside, sacked.segment[at], segment)
    return ns, entry_of(view.other, len(tcp.segments), segment)


def entry_of(half: Half, segment_count: int, segment: I64) -> I64:
    """Row in a half of rows of Segments; -1 stays."""
    entry = np.full(segment_count + 1, -1, np.int64)
    entry[half.segment] = np.arange(len(half))
    return entry[segment]


def first_arrival(view: View, match: FlowMatch, entry: Rows, stop: I64, what: U8) -> tuple[I64, I64]:
    """When the other tap first saw the byte below `stop` (or the SYN, the FIN) in any copy, and its row there; NEVER, -1."""
    fd, shift = _fd(view, match, entry, there=True)
    last = stop - shift - 1
    tcp = view.other_side.tcp
    pieces, flows = tcp.pieces, tcp.flows
    ns, segment = np.full(len(entry), NEVER), np.full(len(entry), -1, np.int64)
    if len(pieces):
        at = np.searchsorted(key(pieces.fd, pieces.start), key(fd, last), side="right") - 1
        inside = (at >= 0) & (pieces.fd[at] == fd) & (pieces.stop[at] > last)
        ns, segment = np.where(inside, pieces.ts_ns[at], ns), np.where(inside, pieces.segment[at], segment)
    by_server = fd % 2 == 1
    for bit, of_client, of_server in ((FIN, flows.client_fin_ns, flows.server_fin_ns), (SYN, flows.syn_ns, flows.syn_ack_ns)):
        carries = (what & bit) > 0
        ns = np.where(carries, np.where(by_server, of_server[fd // 2], of_client[fd // 2]), ns)
        segment = np.where(carries, -1, segment)
    return ns, entry_of(view.other, len(tcp.segments), segment)


def _heard_in_time(view: View, match: FlowMatch, entry: Rows, stop: I64) -> Bools:
    """Had this tap seen the bytes acknowledged before it saw them sent again?"""
    fd, shift = _fd(view, match, entry, there=False)
    acks = view.side.tcp.acks
    early: Bools = time_of(acks, first_ack(acks, fd, stop - shift - 1)) < view.half.ts_ns[entry]
    return early


def _reported_twice(view: View, match: FlowMatch, entry: Rows, start: I64, stop: I64) -> Bools:
    """Did the receiver say that these bytes came twice (DSACK, RFC 2883)?"""
    twice = view.other_side.tcp.sacked
    twice = twice.take(twice.duplicate)
    if not len(twice):
        return np.zeros(len(entry), np.bool_)
    fd, shift = _fd(view, match, entry, there=True)
    at = np.searchsorted(key(twice.fd, twice.start), key(fd, stop - shift), side="left") - 1
    said: Bools = (at >= 0) & (twice.fd[at] == fd) & (twice.stop[at] > start - shift)
    return said


def _refused(view: View, entry: Rows, arrived_ns: I64) -> Bools:
    """Did the receiver answer with an RST since: had it closed (RFC 9293 section 3.10.7.1)?"""
    other = view.other
    resets = np.flatnonzero((view.other_side.what[other.segment] & RST) > 0)
    last = np.full(int(max(view.half.way.max(initial=0), other.way.max(initial=0))) + 2, -1, np.int64)
    np.maximum.at(last, other.way[resets], other.ts_ns[resets])
    refused: Bools = last[view.half.way[entry] ^ 1] >= arrived_ns
    return refused


def _went_on(view: View, entry: Rows) -> Bools:
    """Per RST: did its alleged sender go on sending bytes afterwards, or has the RST another TTL than its packets?"""
    half, side = view.half, view.side
    ttl = side.packets.ttl[side.tcp.segments.row[half.segment]].astype(np.int64)
    result = np.zeros(len(entry), np.bool_)
    for i, one in enumerate(entry.tolist()):
        flow = int(half.way[one]) >> 1
        begin, end = np.searchsorted(half.way >> 1, [flow, flow + 1]).tolist()
        like = begin + np.flatnonzero((half.way[begin:end] == half.way[one]) & (half.other[begin:end] >= 0))
        usual = int(np.median(ttl[like])) if len(like) else int(ttl[one])
        later = half.ts_ns[like] > half.ts_ns[one]
        bytes_later = later & (half.length[like] > 0)
        result[i] = ttl[one] != usual or bool(bytes_later.any())
    return result


def packet_sizes(view: View, missing: Missing) -> tuple[I64, I64]:
    """(packets on the wire, length of one) of each stretch: super-segments count as the packets they became."""
    half, side = view.half, view.side
    row = side.tcp.segments.row[half.segment[missing.entry]]
    header = (side.packets.ip_len[row] - side.packets.payload_len[row]).astype(np.int64)
    flows = side.tcp.flows
    flow = side.tcp.segments.flow[half.segment[missing.entry]]
    offers = np.stack([flows.client_mss[flow], flows.server_mss[flow]])
    least = np.where((offers > 0).all(axis=0), offers.min(axis=0), _DEFAULT_MSS + 12)
    mss = np.maximum(least - 12 * side.has_ts[half.segment[missing.entry]], 1)
    size = missing.stop - missing.start
    count = np.maximum(1, -(-size // mss))
    return count, header + -(-size // count)
