"""What the packets of each flow direction come to in numbers, worked out block by block: all that whole captures are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.flows.offsets import key
from pcapdiag.flows.resend_table import ResendKind
from pcapdiag.flows.segmented import group_starts, running_count
from pcapdiag.flows.table import Kind, Tallies
from pcapdiag.packets.table import ACK, FIN, PSH, RST, SYN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pcapdiag.columns import I32, I64, Bools, Rows
    from pcapdiag.flows.resend_table import Resends
    from pcapdiag.flows.table import Acks, Gaps, Pieces, Segments
    from pcapdiag.packets.table import Packets

_LEAST_FRAME_LEN, _ETHERNET_HEADER_LEN, _LEAST_HEADERS_LEN = 60, 14, 40


def tally(
    packets: Packets,
    segments: Segments,
    acks: Acks,
    pieces: Pieces,
    gaps: Gaps,
    resends: Resends,
    *,
    supers: Rows,
    opened: Bools,
    ethernet: Bools,
) -> Tallies:
    """Counts a block of flows.

    Args:
        packets: all packets.
        segments: those of the flows' TCP packets.
        acks: advances of the cumulative ACK.
        pieces: first sights of their bytes.
        gaps: what the capture lost.
        resends: what was sent again.
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
    return Tallies(
        packet_count=number(np.ones(len(fd), np.bool_)), acking_count=number(segments.ack >= 0), ending_count=number(ends),
        closing_count=number(closes), pushed_count=number(ends | ((flags & PSH) > 0)), data_count=number(data), pure_count=number(pure),
        longest_run=_longest_runs(segments, fd, data, pure, count), resent_count=_count(fd[_lost_behind(segments, resends)], count),
        fill_count=number(kind == Kind.FILL), ttl=ttl, outgoing_count=number(marks == 1), incoming_count=number(marks == 0),
        split_count=number(split), whole_count=number(whole), short_count=number(short), padded_count=number(padded),
        turnaround_ns=_turnaround_ns(segments, fd, count), **_of_bytes(acks, pieces, gaps, count),
    )  # fmt: skip


def _turnaround_ns(segments: Segments, fd: I64, count: int) -> I64:
    least = np.full(count, NEVER)
    sampled = np.flatnonzero(segments.rtt_ns >= 0)
    np.minimum.at(least, fd[sampled], segments.rtt_ns[sampled])
    return least


def _of_bytes(acks: Acks, pieces: Pieces, gaps: Gaps, count: int) -> dict[str, NDArray[Any]]:
    """The columns that count bytes seen and unseen."""
    broken = (pieces.fd[1:] == pieces.fd[:-1]) & (pieces.start[1:] > pieces.stop[:-1])
    seen_len = pieces.stop - pieces.start
    return {
        "piece_count": _count(pieces.fd, count), "broken_count": _count(pieces.fd[1:][broken], count),
        "seen_len": _total(pieces.fd, seen_len, count), "longest_len": _most(pieces.fd, seen_len, count),
        "gap_count": _count(gaps.fd, count), "told_count": _count(acks.fd[_told(acks, gaps)], count),
        "unseen_len": _total(gaps.fd, gaps.stop - gaps.start, count),
    }  # fmt: skip


def _count(fd: I64, count: int) -> I32:
    return np.bincount(fd, minlength=count).astype(np.int32)


def _lost_behind(segments: Segments, resends: Resends) -> Rows:
    """Rows of Segments that repeat bytes which were lost: what had arrived is repeated at the receiver, too (CAUSES section 13)."""
    rows = resends.segment[(resends.kind != ResendKind.SPURIOUS) & (resends.kind != ResendKind.REORDERED)]
    again: Rows = rows[segments.kind[rows] == Kind.SEEN_AGAIN]
    return again


def _total(fd: I64, length: I64, count: int) -> I64:
    total = np.zeros(count, np.int64)
    np.add.at(total, fd, length)
    return total


def _most(fd: I64, length: I64, count: int) -> I64:
    most = np.zeros(count, np.int64)
    np.maximum.at(most, fd, length)
    return most


def _told(acks: Acks, gaps: Gaps) -> Bools:
    """ACKs whose number lies in or at the end of a gap."""
    if not len(gaps):
        return np.zeros(len(acks), np.bool_)
    within = np.searchsorted(key(gaps.fd, gaps.start), key(acks.fd, acks.offset - 1), side="right") - 1
    told: Bools = (within >= 0) & (gaps.fd[within] == acks.fd) & (gaps.stop[within] >= acks.offset)
    return told


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
