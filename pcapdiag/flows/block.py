"""The tables of a block of flows: TCP columns, the byte timeline's tables, recoveries.

A block is small enough for its arrays to stay in the processor's cache; no flow needs to know of another here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, U8, Bools, Rows
from pcapdiag.flows import measure
from pcapdiag.flows.again import Entries
from pcapdiag.flows.group import Bundle
from pcapdiag.flows.handshake import Handshakes, read_handshakes
from pcapdiag.flows.pieces import advances, deliver_in_order, find_gaps, first_sights
from pcapdiag.flows.recovery import find_recoveries
from pcapdiag.flows.resend_table import Resends
from pcapdiag.flows.resends import find_resends
from pcapdiag.flows.sack import first_sacks
from pcapdiag.flows.segmented import concatenated_ranges, group_starts, partition_by_direction
from pcapdiag.flows.sequence import Sequence, sequence_packets
from pcapdiag.flows.summary import datagrams, flow_table, one_way_flows, super_segments
from pcapdiag.flows.table import Acks, Datagrams, Flows, Gaps, Pieces, Recoveries, Sacked, Segments, SuperSegments, Tallies
from pcapdiag.flows.tally import tally
from pcapdiag.flows.unseen_loss import find_unseen_losses
from pcapdiag.packets.table import ACK, RST, SYN, TCP, Packets, SackBlocks

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The tables of some flows; flows, segments and datagrams are numbered from 0."""

    flows: Flows
    """Their vantage is still unknown."""
    segments: Segments
    datagrams: Datagrams
    pieces: Pieces
    acks: Acks
    sacked: Sacked
    gaps: Gaps
    resends: Resends
    recoveries: Recoveries
    tallies: Tallies
    supers: SuperSegments


def assemble_block(packets: Packets, bundle: Bundle, sacks: SackBlocks, ethernet: Bools) -> Block:
    """All that the packets of some flows give by themselves.

    Args:
        packets: all packets.
        bundle: the flows.
        sacks: the SACK blocks of their packets, by place in the bundle; `row` counts from 0 in bundle.rows.
        ethernet: per capture: all its frames are Ethernet frames.
    """
    tcp = _Tcp.of(packets, bundle)
    entry_of_sack = tcp.entry_of(len(bundle.rows))[sacks.row]
    segments, seg, shakes = tcp.columns(packets, entry_of_sack)
    one_way = one_way_flows(segments, len(bundle.begin))
    pieces = first_sights(seg, tcp.payload_len, tcp.ts_ns, tcp.order)
    acks, acked_len = advances(seg, tcp.ts_ns, tcp.order)
    gaps = find_gaps(pieces, acks, seg, segments, one_way)
    pieces = deliver_in_order(pieces, gaps, seg)
    sacked = first_sacks(sacks, entry_of_sack, seg, packets.ack[tcp.rows].astype(np.int64), tcp.ts_ns, tcp.order)
    rtt_ns = measure.rtt_samples(acks, pieces, seg, tcp.order)
    segments.acked_len[tcp.order] = acked_len
    segments.rtt_ns[:] = rtt_ns
    entries = tcp.entries(packets, segments, shakes, rtt_ns)
    unseen = find_unseen_losses(seg, entries)
    resends = find_resends(seg, entries, unseen=unseen, pieces=pieces, acks=acks, sacked=sacked)
    flows = flow_table(packets, bundle, shakes, tcp.flows, one_way)
    supers = super_segments(packets, segments, (flows.client_mss, flows.server_mss))
    return Block(
        flows=flows, segments=segments, datagrams=datagrams(packets, bundle), pieces=pieces, acks=acks, sacked=sacked, gaps=gaps,
        resends=resends, recoveries=find_recoveries(seg, entries, resends, unseen=unseen, acks=acks, gaps=gaps),
        tallies=tally(
            packets, segments, acks, pieces, gaps, resends, supers=supers, opened=(flows.syn_count > 0) | (flows.syn_ack_count > 0),
            ethernet=ethernet,
        ),
        supers=SuperSegments(row=segments.row[supers]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tcp:
    """TCP packets in fd order; order[i] is the row in Segments of entry i."""

    flows: Rows
    """Ids of the TCP flows."""
    begin: I64
    """First row in Segments of each."""
    length: I64
    taken: I64
    """Which of the bundle's rows are segments."""
    segment_rows: Rows
    """Rows of Packets in Segments' order."""
    segment_flow: I64
    segment_direction: U8
    order: Rows
    rows: Rows
    """Rows of Packets in fd order."""
    fd: I64
    ts_ns: I64
    payload_len: I64
    fd_count: int

    @classmethod
    def of(cls, packets: Packets, bundle: Bundle) -> _Tcp:
        """Selects the TCP flows and finds the fd order."""
        flows = np.flatnonzero(bundle.proto == TCP)
        take = concatenated_ranges(bundle.begin[flows], bundle.length[flows])
        length = bundle.length[flows]
        begin = np.cumsum(length) - length
        rows, direction = bundle.rows[take], bundle.direction[take]
        order = partition_by_direction(direction.astype(np.int64), begin, length)
        flow = bundle.flow[take]
        ordered = rows[order]
        return cls(
            flows=flows, begin=begin, length=length, taken=take, segment_rows=rows, segment_flow=flow, segment_direction=direction,
            order=order, rows=ordered, fd=2 * flow[order] + direction[order], ts_ns=packets.ts_ns[ordered],
            payload_len=packets.payload_len[ordered].astype(np.int64), fd_count=2 * len(bundle.begin),
        )  # fmt: skip

    def entry_of(self, row_count: int) -> I64:
        """Entry in fd order of each of the bundle's rows; -1 for those of UDP."""
        result = np.full(row_count, -1, np.int64)
        result[self.taken[self.order]] = np.arange(len(self.rows))
        return result

    def columns(self, packets: Packets, entry_of_sack: I64) -> tuple[Segments, Sequence, Handshakes]:
        """Segments (acked_len and rtt_ns still empty), the sequence analysis behind it, and the handshakes per TCP flow."""
        rows, flags = self.rows, packets.flags[self.rows]
        seg = sequence_packets(
            fd=self.fd, seq=packets.seq[rows], ack=packets.ack[rows], flags=flags, payload_len=self.payload_len, fd_count=self.fd_count
        )
        shakes = read_handshakes(packets, self.segment_rows, self.segment_direction, self.begin)
        has_sack = np.zeros(len(rows), np.bool_)
        has_sack[entry_of_sack[entry_of_sack >= 0]] = True
        window = packets.window[rows].astype(np.int64)
        flow_first = group_starts(self.segment_flow)
        to_probe = measure.answers_probe(flow_first, self.segment_direction, _placed(seg.kind, self.order))[self.order]
        duplicate = measure.duplicate_acks(
            seg, flags=flags, payload_len=self.payload_len, window=packets.window[rows], has_sack=has_sack, to_probe=to_probe
        )
        packets_sent = np.maximum(1, -(-self.payload_len // np.maximum(self._mss(packets, shakes), 1)))
        numbered = (packets.ip_id[rows] != 0) & (packets.ip_version[rows] == 4) & ((flags & (SYN | RST)) == 0)
        id_gap = measure.id_gaps(self.fd, packets.ip_id[rows], packets_sent, numbered, self.fd_count)
        occupies = (seg.stop > seg.seq) & ((flags & RST) == 0)
        table: dict[str, npt.NDArray[Any]] = {
            "seq": seg.seq, "ack": seg.ack, "kind": seg.kind, "gap_len": seg.gap_len, "sends": seg.sends, "dup_ack": duplicate,
            "window": self._scaled(window, flags, shakes), "id_gap": id_gap, "payload_len": packets.payload_len[rows],
            "has_sack": has_sack, "flags": flags,
        }  # fmt: skip
        placed = {name: _placed(values, self.order) for name, values in table.items()}
        flight = measure.in_flight(
            flow_first, self.segment_direction, _placed(seg.stop, self.order), placed["ack"], _placed(occupies, self.order)
        )
        segments = Segments(
            row=self.segment_rows.astype(np.int64), flow=self.segment_flow.astype(np.int32), direction=self.segment_direction,
            ts_ns=packets.ts_ns[self.segment_rows], acked_len=np.zeros(len(rows), np.int64), rtt_ns=np.full(len(rows), -1),
            in_flight_len=flight, **placed,
        )  # fmt: skip
        return segments, seg, shakes

    def _mss(self, packets: Packets, shakes: Handshakes) -> I64:
        """Largest payload of one packet per entry: what the receiver announced, less the timestamps option; 1,460 when unknown."""
        flow = np.searchsorted(self.flows, self.fd // 2)
        announced = np.where(self.fd % 2 == 0, shakes.server_mss[flow], shakes.client_mss[flow])
        mss: I64 = np.where(announced > 0, announced, 1460) - 12 * packets.has_ts[self.rows]
        return mss

    def _scaled(self, window: I64, flags: U8, shakes: Handshakes) -> I64:
        """Windows in bytes; a SYN's window is never scaled (RFC 7323 section 2.2)."""
        flow = np.searchsorted(self.flows, self.fd // 2)
        shift = np.where(self.fd % 2 == 0, shakes.client_shift[flow], shakes.server_shift[flow]).astype(np.int64)
        return np.where((flags & SYN) > 0, window, window << np.maximum(shift, 0))

    def entries(self, packets: Packets, segments: Segments, shakes: Handshakes, rtt_ns: I64) -> Entries:
        """What finding resends and recoveries needs."""
        entry_of_segment = np.empty(len(self.order), np.int64)
        entry_of_segment[self.order] = np.arange(len(self.order))
        rows = self.rows
        round_trip_ns, trip_ns = self._round_trips(shakes, segments, rtt_ns)
        sack_ok = np.full(self.fd_count, -1, np.int8)
        sack_ok[2 * self.flows] = sack_ok[2 * self.flows + 1] = shakes.sack_ok
        return Entries(
            ts_ns=self.ts_ns, segment=self.order.astype(np.int64), entry_of_segment=entry_of_segment, payload_len=self.payload_len,
            window=np.where((packets.flags[rows] & RST) > 0, -1, segments.window[self.order]),
            has_ts=packets.has_ts[rows], ts_val=packets.ts_val[rows], ts_ecr=packets.ts_ecr[rows], ip_id=packets.ip_id[rows],
            id_gap=segments.id_gap[self.order].astype(np.int64), rtt_ns=round_trip_ns, trip_ns=trip_ns,
            dup_ack=segments.dup_ack[self.order].astype(np.int64), sample_ns=rtt_ns[self.order], sack_ok=sack_ok,
            refused_ns=self._refusals(packets),
        )  # fmt: skip

    def _refusals(self, packets: Packets) -> I64:
        """Per fd: the last RST without ACK that the other end sent; -1 for none."""
        refused_ns = np.full(self.fd_count, -1, np.int64)
        bare = (packets.flags[self.rows] & (RST | ACK)) == RST
        np.maximum.at(refused_ns, self.fd[bare] ^ 1, self.ts_ns[bare])
        return refused_ns

    def _round_trips(self, shakes: Handshakes, segments: Segments, rtt_ns: I64) -> tuple[I64, I64]:
        """Per fd: the connection's whole round trip (the handshake's, else the least samples'), and the least tap to receiver."""
        halves = np.full((self.fd_count, 1), np.iinfo(np.int64).max)
        sampled = np.flatnonzero(rtt_ns >= 0)
        acked_fd = 2 * segments.flow[sampled].astype(np.int64) + (1 - segments.direction[sampled])
        np.minimum.at(halves[:, 0], acked_fd, rtt_ns[sampled])
        least = np.where(halves[:, 0] < np.iinfo(np.int64).max, halves[:, 0], 0)
        whole = least[0::2] + least[1::2]
        handshake = (shakes.near_rtt_ns >= 0) & (shakes.far_rtt_ns >= 0)
        whole[self.flows[handshake]] = (shakes.near_rtt_ns + shakes.far_rtt_ns)[handshake]
        trip_ns = np.where(halves[:, 0] < np.iinfo(np.int64).max, halves[:, 0], -1)
        for fd, shake_ns in ((2 * self.flows, shakes.far_rtt_ns), (2 * self.flows + 1, shakes.near_rtt_ns)):
            sampled_ns = trip_ns[fd]
            trip_ns[fd] = np.where(shake_ns < 0, sampled_ns, np.where(sampled_ns < 0, shake_ns, np.minimum(shake_ns, sampled_ns)))
        return np.repeat(np.where(whole > 0, whole, -1), 2), trip_ns


def _placed(values: npt.NDArray[_Scalar], order: Rows) -> npt.NDArray[_Scalar]:
    """Values in fd order, brought into the order of Segments."""
    result = np.empty_like(values)
    result[order] = values
    return result
