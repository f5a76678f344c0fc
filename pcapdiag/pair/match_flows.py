"""Which connection of one capture is which of the other: by packets that both hold, whatever their addresses say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.columns import I64, NEVER, U64, Bools
from pcapdiag.flows.segmented import concatenated_ranges
from pcapdiag.packets.distinct import mixed
from pcapdiag.packets.table import SYN, TCP
from pcapdiag.pair.side import joined

if TYPE_CHECKING:
    from pcapdiag.pair.side import Side

_NAT_VOTES = 3
"""Packets with equal 32-bit sequence and acknowledgment numbers and length: three are no chance, whatever the addresses."""
_SHOWN_BYTES = 16
_PROOFS = 8
"""Packets whose first payload bytes are compared before a connection with other addresses is taken as the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowMatch:
    """Matched connections, and how to turn the far capture's numbers into the near one's."""

    near: I64
    """Flow ids of the near capture, ascending."""
    far: I64
    turned: Bools
    """Client and server are the other way round in the near, in the far capture's tables (no SYN there); shape (matches, 2)."""
    same_address: Bools
    shift: I64
    """Near stream offset minus far stream offset; shape (matches, 2), by direction."""
    rewritten: Bools
    """Sequence numbers differ between the taps; offsets from the SYNs agree."""

    def __len__(self) -> int:
        return len(self.near)


def match_flows(near: Side, far: Side) -> FlowMatch:
    """Pairs of TCP flows, one to one: most common packets first, equal addresses before others."""
    candidates = _voted(near, far)
    taken = _choose(near, far, candidates)
    taken |= _rewritten(near, far, taken)
    pairs = sorted((a, b, flip, rewritten) for (a, b), (flip, rewritten) in taken.items())
    near_id, far_id, flips, rewrites = (np.array([pair[i] for pair in pairs], np.int64) for i in range(4))
    same = _tuples(near)[near_id] == _tuples(far)[far_id] if pairs else np.zeros(0, np.bool_)
    guessed = (flips > 0) & ~near.tcp.flows.roles_known[near_id] & far.tcp.flows.roles_known[far_id]
    turned = np.stack([guessed, (flips > 0) & ~guessed], axis=1)
    shift = np.zeros((len(pairs), 2), np.int64)
    bases_near, bases_far = _bases(near), _bases(far)
    for direction in (0, 1):
        ours, theirs = bases_near[2 * near_id + (direction ^ turned[:, 0])], bases_far[2 * far_id + (direction ^ turned[:, 1])]
        known = (ours >= 0) & (theirs >= 0) & (rewrites == 0)
        shift[known, direction] = (((theirs - ours)[known] + 0x80000000) & 0xFFFFFFFF) - 0x80000000
    return FlowMatch(near=near_id, far=far_id, turned=turned, same_address=same.astype(np.bool_), shift=shift, rewritten=rewrites > 0)


def _tuples(side: Side) -> U64:
    """One number per flow for its unordered pair of endpoints and its protocol."""
    flows = side.tcp.flows
    client = (flows.client.astype(np.int64) << 16) | flows.client_port
    server = (flows.server.astype(np.int64) << 16) | flows.server_port
    return mixed(np.minimum(client, server), np.maximum(client, server), flows.proto.astype(np.int64))


def _bases(side: Side) -> I64:
    """The sequence number of stream offset 0 per flow direction; -1 for a direction without packets."""
    base = np.full(2 * len(side.tcp.flows), -1, np.int64)
    backwards = slice(None, None, -1)
    base[side.fd[backwards]] = (side.number.astype(np.int64) - side.tcp.segments.seq)[backwards] & 0xFFFFFFFF
    return base


def _voted(near: Side, far: Side) -> dict[tuple[int, int], tuple[int, int]]:
    """(near flow, far flow) -> (packets in common, how many of them go the other way in the far flow)."""
    left, right = joined(_fingerprints(near), _fingerprints(far))
    seg, other = near.tcp.segments, far.tcp.segments
    count = len(far.tcp.flows)
    pair = seg.flow[left].astype(np.int64) * count + other.flow[right]
    flip = seg.direction[left] != other.direction[right]
    which, inverse, votes = np.unique(pair, return_inverse=True, return_counts=True)
    flips = np.bincount(inverse, weights=flip, minlength=len(which)).astype(np.int64)
    return {
        (p // count, p % count): (n, f) for p, n, f in zip(which.tolist(), votes.tolist(), flips.tolist(), strict=True)
    }  # fmt: skip


def _fingerprints(side: Side) -> U64:
    """What a packet keeps on its way, NAT or not: its numbers, its length, what it is."""
    numbers = (side.number.astype(np.int64) << 32) | np.where(side.has_ack, side.ack_number, 0).astype(np.int64)
    return mixed(numbers, (side.tcp.segments.payload_len.astype(np.int64) << 8) | side.what)


def _choose(near: Side, far: Side, candidates: dict[tuple[int, int], tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """One to one, greedily: equal addresses first, then by the number of common packets."""
    own, others = _tuples(near), _tuples(far)

    def weight(pair: tuple[int, int]) -> tuple[bool, int, int, int]:
        return own[pair[0]] != others[pair[1]], -candidates[pair][0], pair[0], pair[1]

    used: tuple[set[int], set[int]] = set(), set()
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for pair in sorted(candidates, key=weight):
        votes, flips = candidates[pair]
        if pair[0] in used[0] or pair[1] in used[1]:
            continue
        if own[pair[0]] != others[pair[1]] and not _is_same_behind_nat(near, far, pair, votes):
            continue
        used[0].add(pair[0])
        used[1].add(pair[1])
        chosen[pair] = (int(2 * flips > votes), 0)
    return chosen


def _is_same_behind_nat(near: Side, far: Side, pair: tuple[int, int], votes: int) -> bool:
    """Enough packets in common, or both SYNs with equal timestamps; and no payload that contradicts."""
    left, right = (_rows(side, flow) for side, flow in zip((near, far), pair, strict=True))
    i, j = joined(_fingerprints_of(near, left), _fingerprints_of(far, right))
    a, b = left[i], right[j]
    stamped = near.has_ts[a] & far.has_ts[b]
    agreed = stamped & (near.ts_val[a] == far.ts_val[b])
    if votes < _NAT_VOTES and not agreed.any():
        return False
    if stamped.any() and not agreed.any():
        return False
    with_bytes = np.flatnonzero(near.tcp.segments.payload_len[a] > 0)[:_PROOFS]
    return all(_begins_alike(near, int(a[k]), far, int(b[k])) for k in with_bytes)


def _rows(side: Side, flow: int) -> I64:
    flows = side.tcp.flows
    return np.arange(int(flows.begin[flow]), int(flows.stop[flow])) if flows.proto[flow] == TCP else np.empty(0, np.int64)


def _fingerprints_of(side: Side, rows: I64) -> U64:
    numbers = (side.number[rows].astype(np.int64) << 32) | np.where(side.has_ack, side.ack_number, 0)[rows].astype(np.int64)
    return mixed(numbers, (side.tcp.segments.payload_len[rows].astype(np.int64) << 8) | side.what[rows])


def _begins_alike(near: Side, a: int, far: Side, b: int) -> bool:
    """Do the first payload bytes agree, as far as both captures kept them?"""
    heads = []
    for side, segment in ((near, a), (far, b)):
        row = int(side.tcp.segments.row[segment])
        length = min(int(side.packets.payload_captured[row]), _SHOWN_BYTES)
        heads.append(bytes(side.packets.blob.read(int(side.packets.payload_at[row]), length)) if length else b"")
    shorter = min(map(len, heads))
    return heads[0][:shorter] == heads[1][:shorter]


def _rewritten(near: Side, far: Side, taken: dict[tuple[int, int], tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Flows with equal addresses whose sequence numbers a firewall changed: both have SYNs, and they opened in the same order."""
    used = {pair[0] for pair in taken}, {pair[1] for pair in taken}
    left: dict[int, list[int]] = {}
    for side, place in ((far, 1), (near, 0)):
        tuples, flows = _tuples(side), side.tcp.flows
        opened = np.flatnonzero((flows.proto == TCP) & (flows.syn_ack_ns < NEVER) & (flows.syn_ns < NEVER))
        free = [flow for flow in opened.tolist() if flow not in used[place]]
        if place:
            for flow in free:
                left.setdefault(int(tuples[flow]), []).append(flow)
            continue
        found = {}
        for flow in free:
            rest = left.get(int(tuples[flow]), [])
            if rest and _same_syn(near, flow, far, rest[0]):
                found[flow, rest.pop(0)] = (0, 1)
        return found
    return {}


def _same_syn(near: Side, flow: int, far: Side, other: int) -> bool:
    """Do the first SYNs agree in timestamp? Without timestamps equal addresses have to do."""
    values = []
    for side, one in ((near, flow), (far, other)):
        rows = _rows(side, one)
        syn = rows[(side.what[rows] & SYN) > 0][:1]
        values.append((bool(side.has_ts[syn[0]]), int(side.ts_val[syn[0]])) if len(syn) else (False, 0))
    return values[0][0] == values[1][0] and values[0][1] == values[1][1]


def pair_of_flow(match: FlowMatch, side: Side, *, far: bool) -> I64:
    """Row in the match of each flow of one capture; -1 for none."""
    result = np.full(len(side.tcp.flows), -1, np.int64)
    result[match.far if far else match.near] = np.arange(len(match))
    return result


def matched_rows(side: Side, flows: I64) -> I64:
    """Rows of Segments of the given flows, in their order."""
    begin, stop = side.tcp.flows.begin[flows], side.tcp.flows.stop[flows]
    return concatenated_ranges(begin, stop - begin)
