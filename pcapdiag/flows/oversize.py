"""Stretches of bytes whose packets vanished because of their size: what failed, what passed meanwhile, and the proof.

RFC 2923 section 2.1, RFC 4821 section 7.7. Sizes are IP packet lengths; super-segments count as the packets they become.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I32, I64, NEVER, Bools
from pcapdiag.flows.offsets import key
from pcapdiag.flows.pieces import first_ack, first_seen, time_of
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.sends import sends_of
from pcapdiag.flows.table import Kind, TcpTables
from pcapdiag.packets.table import TCP, Packets
from pcapdiag.spool import rows_where

_LEAST_HOLE_LEN = 500
"""Missing bytes below the least MSS a host must accept (536) were no full-sized packet."""
_LOOKED_AT = 1 << 10
"""Rows here and there in the tables that are looked at before pages are given back."""
_LEAST_NS = 600_000_000
"""Three transmissions at the least timer: 200 and 400 ms apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Oversize:
    """One flow direction on which large packets failed while small ones passed."""

    fd: int
    at_sender: bool
    start_ns: int
    """When the first failing bytes were due (at the sender), or when their absence was proven (at the receiver)."""
    last_ns: int
    """Last in-order bytes of this direction before it."""
    end_ns: int
    """ACK that covers them, their arrival, or the last packet of the flow."""
    repaired: bool
    passed_max_len: int
    """Largest packet that passed in this direction since; 0 none with data."""
    failed_min_len: int
    """Smallest packet that failed."""
    failed_sends: int
    """Transmissions of failing packets (at the receiver: skipped IP-IDs; 0 unknown)."""
    passed_count: int
    small_lost: int
    """Packets of passing sizes that were lost meanwhile."""
    sacked_above: bool
    """Smaller packets sent after the failing ones were SACKed."""
    shrunk: bool
    """The same bytes passed in smaller packets."""
    missing_len: int
    proof: tuple[tuple[int, str], ...]
    """(row in Segments, what it shows)."""


def find_oversize(packets: Packets, tcp: TcpTables) -> list[Oversize]:
    """All candidates of a trace, by fd. Whether an ICMP Packet Too Big explains them is not looked at here."""
    return [*_at_sender(packets, tcp), *_at_receiver(packets, tcp)]


def _wire_len(packets: Packets, tcp: TcpTables, rows: I64) -> I64:
    """IP length on the wire of rows of Segments; a super-segment counts as one full packet of its connection."""
    length = packets.ip_len[tcp.segments.row[rows]].astype(np.int64)
    payload = tcp.segments.payload_len[rows]
    flow = tcp.segments.flow[rows]
    limit = np.where(tcp.segments.direction[rows] == 0, tcp.flows.server_mss[flow], tcp.flows.client_mss[flow]).astype(np.int64)
    limit = np.where(limit > 0, limit, 1 << 16) - 12 * tcp.flows.timestamps[flow]
    return np.where(payload > limit, length - payload + limit, length)


def _host_rows(tcp: TcpTables, fd: int, from_ns: int, until_ns: int) -> I64:
    """Rows of Segments that went from the same host to the same host within the interval, on any connection."""
    flows, seg = tcp.flows, tcp.segments
    flow, direction = divmod(fd, 2)
    ends = int(flows.client[flow]), int(flows.server[flow])
    source, target = ends if direction == 0 else ends[::-1]
    along = (flows.client == source) & (flows.server == target)
    against = (flows.client == target) & (flows.server == source)
    near = (along | against) & (flows.proto == TCP) & (flows.first_ns <= until_ns) & (flows.last_ns >= from_ns)
    rows = [np.empty(0, np.intp)]
    for other in np.flatnonzero(near).tolist():
        begin, stop = int(flows.begin[other]), int(flows.stop[other])
        low, high = (begin + int(at) for at in np.searchsorted(seg.ts_ns[begin:stop], [from_ns, until_ns + 1]))
        mine = np.zeros(high - low, np.bool_)
        for way, holds in ((0, along), (1, against)):
            if holds[other]:
                mine |= seg.direction[low:high] == way
        rows.append(low + np.flatnonzero(mine))
    return np.concatenate(rows)


def _at_sender(packets: Packets, tcp: TcpTables) -> Iterator[Oversize]:
    """Bytes the tap saw at least three times without an answer, while smaller packets were acknowledged."""
    found, trips = tcp.recoveries, RoundTrips(tcp)
    rows = np.flatnonzero(found.at_sender & ~found.spurious & (found.resends >= 2) & (found.stop - found.start >= _LEAST_HOLE_LEN))
    for fd in np.unique(found.fd[rows]).tolist():
        mine = rows[found.fd[rows] == fd]
        start, end = int(found.first_ns[mine].min()), int(found.done_ns[mine].max())
        repaired = end < NEVER
        end = end if repaired else int(tcp.flows.last_ns[fd // 2])
        row = int(mine[np.argmin(found.first_ns[mine])])
        sends = sends_of(tcp, fd, int(found.start[row]), from_ns=start, until_ns=end)
        sizes = _wire_len(packets, tcp, sends)
        if len(sends) < 3 or end - start < _LEAST_NS:
            continue
        shrunk = repaired and int(sizes[-1]) < int(sizes[0])
        failed = sends[sizes > sizes[-1]] if shrunk else sends
        if len(failed) < 3:
            continue
        failed_min = int(_wire_len(packets, tcp, failed).min())
        acked, small = _passed(packets, tcp, fd, start, end, failed_min)
        if acked is None:
            continue
        half = trips.far(fd // 2) if fd % 2 == 0 else trips.near(fd // 2)
        yield Oversize(
            fd=fd, at_sender=True, start_ns=start + max(half.floor_ns(), 0), last_ns=start, end_ns=end, repaired=repaired,
            passed_max_len=max(int(acked.max(initial=0)), int(sizes[-1]) if shrunk else 0), failed_min_len=failed_min,
            failed_sends=int(found.resends[mine].sum()) + len(mine), passed_count=len(acked) + shrunk, small_lost=small,
            sacked_above=_sacked_above(tcp, fd, int(found.stop[row]), start, end), shrunk=shrunk,
            missing_len=int((found.stop[mine] - found.start[mine]).sum()),
            proof=(*((int(s), f"{size}-byte packet, transmission {i + 1}")
                     for i, (s, size) in enumerate(zip(sends[:5].tolist(), sizes[:5].tolist(), strict=True))),
                   (int(found.done_segment[row]), "acknowledged at last")),
        )  # fmt: skip


def _passed(packets: Packets, tcp: TcpTables, fd: int, start: int, end: int, failed_min: int) -> tuple[I64 | None, int]:
    """Sizes that passed meanwhile, and how many small packets were lost; None when a packet as large as the failing ones passed."""
    rows = _host_rows(tcp, fd, start, end)
    seg, found = tcp.segments, tcp.recoveries
    lost = found.at_sender & ~found.spurious & (found.first_ns >= start) & (found.first_ns <= end)
    data = rows[(seg.kind[rows] == Kind.NEW) & (seg.payload_len[rows] > 0)]
    own_fd = 2 * seg.flow[data].astype(np.int64) + seg.direction[data]
    acked = time_of(tcp.acks, first_ack(tcp.acks, own_fd, seg.seq[data] + seg.payload_len[data] - 1)) < NEVER
    low, high = key(found.fd[lost], found.start[lost]), key(found.fd[lost], found.stop[lost])
    resent = _overlapped(low, high, key(own_fd, seg.seq[data]), seg.payload_len[data])
    sizes = _wire_len(packets, tcp, data)
    if (acked & ~resent & (sizes >= failed_min)).any():
        return None, 0
    pure = rows[(seg.kind[rows] == Kind.CONTROL) & (seg.acked_len[rows] > 0)]
    pure = pure[~tcp.flows.one_way[seg.flow[pure]]]  # without the other direction nobody saw them arrive
    # What the other side sent again, needlessly or not, it had heard no ACK for: then pure ACKs are not known to have passed.
    again = found.at_sender & (found.resent_ns >= start) & (found.first_ns <= end)
    spoken = np.concatenate([own_fd, 2 * seg.flow[pure].astype(np.int64) + seg.direction[pure]])
    reverse_resent = bool((again & np.isin(found.fd, np.unique(spoken ^ 1))).any())
    passed = np.concatenate([sizes[acked & ~resent], _wire_len(packets, tcp, pure) if not reverse_resent else sizes[:0]])
    first = _wire_len(packets, tcp, tcp.recoveries.first_segment[lost])
    return passed, int((first < failed_min).sum())


def _overlapped(start: I64, stop: I64, at: I64, length: I32) -> Bools:
    """Which of [at, at + length) overlap any of [start, stop); all numbers are keys of flow direction and offset."""
    order = np.argsort(start, kind="stable")
    reach = np.maximum.accumulate(np.append([-1], stop[order]))  # how far those reach that begin before
    overlapped: Bools = reach[np.searchsorted(start[order], at + length)] > at
    return overlapped


def _sacked_above(tcp: TcpTables, fd: int, offset: int, start: int, end: int) -> bool:
    sacked = tcp.sacked
    return bool(((sacked.fd == fd) & ~sacked.duplicate & (sacked.start >= offset) & (sacked.ts_ns >= start) & (sacked.ts_ns <= end)).any())


def _at_receiver(packets: Packets, tcp: TcpTables) -> Iterator[Oversize]:
    """Bytes proven sent that never came: packets speak of a sequence beyond them, or a short tail lies above the hole."""
    seg = tcp.segments
    beyond = rows_where(len(seg), lambda part: (seg.gap_len[part] >= _LEAST_HOLE_LEN) & (seg.ack[part] >= 0), tcp.room)
    beyond = beyond[rows_where(len(beyond), lambda part: _lasting(tcp, beyond[part]), tcp.room, _LOOKED_AT)]
    fds = 2 * seg.flow[beyond].astype(np.int64) + seg.direction[beyond]
    for fd in np.unique(fds).tolist():
        flow = fd // 2
        hints = beyond[fds == fd]
        hint = int(hints[0])
        hole = int(_holes(tcp, hints[:1])[0])
        filled = int(first_seen(tcp.pieces, np.array([fd]), np.array([hole]))[0])
        end = _end_of(tcp, flow) if filled >= NEVER else filled
        start = int(seg.ts_ns[hint])
        before = _host_rows(tcp, fd, int(tcp.flows.first_ns[flow]), end)
        sizes = _wire_len(packets, tcp, before)
        mss = [int(m) for m in (tcp.flows.client_mss[flow], tcp.flows.server_mss[flow]) if m > 0]
        header = 40 if int(packets.ip_version[seg.row[hint]]) == 4 else 60
        full = (min(mss) if mss else 1460) + header
        last = _last_in_order(tcp, fd, hole, int(tcp.flows.first_ns[flow]))
        if end - last < _LEAST_NS or int(sizes.max(initial=0)) >= full:
            continue
        rows = _host_rows(tcp, fd, last + 1, end)
        skipped = int(np.maximum(seg.id_gap[before[seg.flow[before] == flow]], 0).sum())
        yield Oversize(
            fd=fd, at_sender=False, start_ns=start, last_ns=last, end_ns=end, repaired=filled < NEVER,
            passed_max_len=int(sizes.max(initial=0)), failed_min_len=full, failed_sends=skipped, passed_count=len(rows), small_lost=0,
            sacked_above=bool((seg.payload_len[hints] > 0).any()), shrunk=False, missing_len=int(seg.seq[hint]) - hole,
            proof=tuple((row, f"its sequence number says {seg.seq[row] - hole} bytes before it were sent") for row in hints[:4].tolist()),
        )  # fmt: skip


def _lasting(tcp: TcpTables, beyond: I64) -> Bools:
    """Of rows of Segments behind a hole: does it last, and is it no mere gap of the capture?"""
    seg, flows = tcp.segments, tcp.flows
    flow = seg.flow[beyond]
    fds = 2 * flow.astype(np.int64) + seg.direction[beyond]
    holes = _holes(tcp, beyond)
    # A filtered capture shows such holes everywhere; a receiver that misses bytes says so, or the sender speaks of them.
    named = np.searchsorted(tcp.sacked.fd, fds, side="right") > np.searchsorted(tcp.sacked.fd, fds)
    lasting = (seg.payload_len[beyond] == 0) | named
    lasting &= (tcp.tallies.packet_count[fds ^ 1] > 0) & (flows.syn_count[flow] + flows.syn_ack_count[flow] > 0)
    lasting &= first_seen(tcp.pieces, fds, holes) - seg.ts_ns[beyond] >= _LEAST_NS
    result: Bools = lasting & (seg.seq[beyond] - holes >= _LEAST_HOLE_LEN)
    return result


def _holes(tcp: TcpTables, beyond: I64) -> I64:
    """Where what never came begins below each of these rows: what the receiver acknowledged it has, only the capture does not."""
    seg, acks = tcp.segments, tcp.acks
    fds = 2 * seg.flow[beyond].astype(np.int64) + seg.direction[beyond]
    heard = np.searchsorted(acks.fd, fds, side="right")
    told = heard > np.searchsorted(acks.fd, fds)
    acked = np.append(acks.offset, [0])[np.where(told, heard - 1, len(acks))]
    holes: I64 = np.maximum(seg.seq[beyond] - seg.gap_len[beyond], acked)
    return holes


def _end_of(tcp: TcpTables, flow: int) -> int:
    """When a flow ended: its last packet once it was closed, else the last packet of all."""
    closed = min(int(tcp.flows.client_fin_ns[flow]), int(tcp.flows.server_fin_ns[flow]), int(tcp.flows.rst_ns[flow])) < NEVER
    return int(tcp.flows.last_ns[flow] if closed else tcp.flows.last_ns.max())


def _last_in_order(tcp: TcpTables, fd: int, offset: int, otherwise: int) -> int:
    """When the last byte below offset was seen."""
    low, high = np.searchsorted(tcp.pieces.fd, [fd, fd + 1])
    below = tcp.pieces.ts_ns[low:high][tcp.pieces.stop[low:high] <= offset]
    return int(below.max()) if len(below) else otherwise
