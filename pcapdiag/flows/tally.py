"""What the packets of each flow direction come to in numbers, worked out block by block: all that whole captures are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from pcapdiag.columns import I32, I64, NEVER, U8, Bools, Col, Rows, Table
from pcapdiag.flows.pieces import key
from pcapdiag.flows.segmented import group_starts, running_count
from pcapdiag.flows.table import Acks, Gaps, Kind, Pieces, Segments
from pcapdiag.packets.table import ACK, FIN, PSH, RST, SYN, Packets

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_FRAME_LEN, _ETHERNET_HEADER_LEN, _LEAST_HEADERS_LEN = 60, 14, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies(Table):
    """One row per flow direction (2 * flow + direction) with what its sender's packets are; of UDP flows nothing is counted."""

    packet_count: Annotated[I32, Col("its TCP packets")]
    acking_count: Annotated[I32, Col("of them, packets with ACK")]
    ending_count: Annotated[I32, Col("with SYN, FIN or RST")]
    closing_count: Annotated[I32, Col("FIN or RST without data whose numbers tell of bytes since the handshake that was captured")]
    pushed_count: Annotated[I32, Col("with PSH, SYN, FIN or RST")]
    data_count: Annotated[I32, Col("with data")]
    pure_count: Annotated[I32, Col("pure acknowledgments")]
    longest_run: Annotated[I32, Col("most packets with data between two of the other direction; 0 on flows with pure acknowledgments")]
    seen_again_count: Annotated[I32, Col("packets that only repeat bytes")]
    fill_count: Annotated[I32, Col("packets that fill holes")]
    ttl: Annotated[U8, Col("TTL of the first packet; 0 none")]
    outgoing_count: Annotated[I32, Col("packets that the link layer calls outgoing")]
    incoming_count: Annotated[I32, Col("packets that it calls incoming")]
    split_count: Annotated[I32, Col("super-segments whose middle was acknowledged: cut up behind the tap (TSO)")]
    whole_count: Annotated[I32, Col("super-segments acknowledged as a whole, as receive offload (GRO) makes them")]
    short_count: Annotated[I32, Col("Ethernet frames shorter than the wire allows")]
    padded_count: Annotated[I32, Col("Ethernet frames filled up to its least length")]
    turnaround_ns: Annotated[I64, Col("least time until one of its packets acknowledged something; NEVER", "ns")]
    piece_count: Annotated[I32, Col("rows in Pieces")]
    broken_count: Annotated[I32, Col("of them, those with missing bytes before them, but for the first one")]
    seen_len: Annotated[I64, Col("stream bytes seen", "bytes")]
    gap_count: Annotated[I32, Col("rows in Gaps")]
    unseen_len: Annotated[I64, Col("stream bytes acknowledged and never captured", "bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperSegments(Table):
    """One row per packet that carries more than its receiver's MSS: segmentation or receive offload, not the wire's doing."""

    row: Annotated[I64, Col("row in Packets")]


def tally(
    packets: Packets, segments: Segments, acks: Acks, pieces: Pieces, gaps: Gaps, *, supers: Rows, opened: Bools, ethernet: Bools
) -> Tallies:
    """Counts a block of flows.

    Args:
        packets: all packets.
        segments: those of the flows' TCP packets.
        acks: advances of the cumulative ACK.
        pieces: first sights of their bytes.
        gaps: what the capture lost.
        supers: rows of segments beyond the MSS.
        opened: per flow: a SYN or SYN-ACK was captured.
        ethernet: per capture: all its frames are Ethernet frames.
    """
    count = 2 * len(opened)
    fd = 2 * segments.flow.astype(np.int64) + segments.direction

    def number(mask: Bools) -> I32:
        return np.bincount(fd[mask], minlength=count).astype(np.int32)

    flags, kind, data = segments.flags, segments.kind, segments.payload_len > 0
    ends = (flags & (SYN | FIN | RST)) > 0
    closes = ~data & ((flags & (FIN | RST)) > 0) & ((segments.seq > 1) | (segments.ack > 1)) & opened[segments.flow]
    pure = (kind == Kind.CONTROL) & ((flags & (SYN | FIN | RST | ACK)) == ACK)
    marks = packets.direction[segments.row]
    split, whole = _super_segments(segments, acks, fd, supers)
    short, padded = _small_frames(packets, segments, ethernet)
    ttl = np.zeros(count, np.uint8)
    ttl[fd[::-1]] = packets.ttl[segments.row[::-1]]  # backwards, so that the first packet of each direction has the last word
    sampled = np.flatnonzero(segments.rtt_ns >= 0)
    turnaround_ns = np.full(count, NEVER)
    np.minimum.at(turnaround_ns, fd[sampled], segments.rtt_ns[sampled])
    broken = (pieces.fd[1:] == pieces.fd[:-1]) & (pieces.start[1:] > pieces.stop[:-1])
    return Tallies(
        packet_count=number(np.ones(len(fd), np.bool_)), acking_count=number(segments.ack >= 0), ending_count=number(ends),
        closing_count=number(closes), pushed_count=number(ends | ((flags & PSH) > 0)), data_count=number(data), pure_count=number(pure),
        longest_run=_longest_runs(segments, fd, data, pure, count), seen_again_count=number(kind == Kind.SEEN_AGAIN),
        fill_count=number(kind == Kind.FILL), ttl=ttl, outgoing_count=number(marks == 1), incoming_count=number(marks == 0),
        split_count=number(split), whole_count=number(whole), short_count=number(short), padded_count=number(padded),
        turnaround_ns=turnaround_ns, piece_count=_count(pieces.fd, count), broken_count=_count(pieces.fd[1:][broken], count),
        seen_len=_total(pieces.fd, pieces.stop - pieces.start, count), gap_count=_count(gaps.fd, count),
        unseen_len=_total(gaps.fd, gaps.stop - gaps.start, count),
    )  # fmt: skip


def _count(fd: I64, count: int) -> I32:
    return np.bincount(fd, minlength=count).astype(np.int32)


def _total(fd: I64, length: I64, count: int) -> I64:
    total = np.zeros(count, np.int64)
    np.add.at(total, fd, length)
    return total


def _longest_runs(segments: Segments, fd: I64, data: Bools, pure: Bools, count: int) -> I32:
    runs = np.zeros(count, np.int32)
    acknowledged = np.zeros(count // 2, np.bool_)
    acknowledged[segments.flow[pure]] = True
    rows = np.flatnonzero(~acknowledged[segments.flow])
    if len(rows):
        np.maximum.at(runs, fd[rows], running_count(data[rows], group_starts(fd[rows])))
    return runs


def _super_segments(segments: Segments, acks: Acks, fd: I64, supers: Rows) -> tuple[Bools, Bools]:
    """Which super-segments were acknowledged in their middle, and which were not.

    The receiver of a train that the sender's card cut up acknowledges every second packet of it; a receiver whose card
    merged the train acknowledges the whole.
    """
    masks: NDArray[np.bool_] = np.zeros((2, len(fd)), np.bool_)
    rows = supers[segments.kind[supers] == Kind.NEW]
    if len(rows):
        offsets, start = key(acks.fd, acks.offset), key(fd[rows], segments.seq[rows])
        inside = np.searchsorted(offsets, start + segments.payload_len[rows]) > np.searchsorted(offsets, start, side="right")
        masks[0, rows[inside]] = True
        masks[1, rows[~inside]] = True
    return masks[0], masks[1]


def _small_frames(packets: Packets, segments: Segments, ethernet: Bools) -> tuple[Bools, Bools]:
    """Ethernet frames shorter than the wire allows, and those filled up to its least length."""
    short, padded = np.zeros(len(segments), np.bool_), np.zeros(len(segments), np.bool_)
    most_len = _LEAST_FRAME_LEN - _ETHERNET_HEADER_LEN
    small = np.flatnonzero(segments.payload_len <= most_len - _LEAST_HEADERS_LEN)
    rows = segments.row[small]
    shown = ethernet[packets.capture[rows]] & (packets.ip_len[rows] < most_len)
    small, rows = small[shown], rows[shown]
    less = packets.frame_len[rows] < _LEAST_FRAME_LEN
    short[small[less]] = padded[small[~less]] = True
    return short, padded
