"""Selective acknowledgements: which bytes a receiver named first, and when (RFC 2018, RFC 2883)."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64
from pcapdiag.flows.cover import first_cover
from pcapdiag.flows.offsets import key
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Sacked
from pcapdiag.packets.table import SackBlocks


def first_sacks(blocks: SackBlocks, entry: I64, sequence: Sequence, ack_number: I64, ts_ns: I64, segment: I64) -> Sacked:
    """First selective acknowledgement of each byte range, and all DSACKs.

    Args:
        blocks: SACK blocks as sent.
        entry: the entry in fd order that carries each block; -1 for none.
        sequence: offsets, in fd order.
        ack_number: the ACK field as sent, in fd order; a block lies within 2^31 of it.
        ts_ns: times, in fd order.
        segment: rows in Segments, in fd order.
    """
    usable = np.flatnonzero(entry >= 0)
    usable = usable[sequence.ack[entry[usable]] >= 0]
    entry = entry[usable]
    left, right = (sequence.ack[entry] + _signed(edge[usable].astype(np.int64) - ack_number[entry]) for edge in (blocks.left, blocks.right))
    good = (right > left) & (right - left < 1 << 30)
    entry, left, right, index = entry[good], left[good], right[good], blocks.index[usable][good]
    # A first block below the cumulative ACK, or inside the second block, reports a duplicate (RFC 2883 section 4).
    next_left, next_right = np.append(left[1:], [0]), np.append(right[1:], [0])
    same_option = np.append(entry[1:] == entry[:-1], [False])
    inside = same_option & (left >= next_left) & (right <= next_right)
    duplicate = (index == 0) & ((right <= sequence.ack[entry]) | inside)
    fd = sequence.fd[entry] ^ 1
    line = key(fd, left)
    fresh = first_cover(line[~duplicate], (line + right - left)[~duplicate], entry[~duplicate])
    starts, stops, ats = (np.concatenate(columns) for columns in zip(
        fresh, (line[duplicate], (line + right - left)[duplicate], entry[duplicate]), strict=True))  # fmt: skip
    is_again = np.arange(len(starts)) >= len(fresh[0])
    order = np.lexsort((ats, starts))
    starts, stops, ats = starts[order], stops[order], ats[order]
    fds = sequence.fd[ats] ^ 1
    origin = key(fds, np.zeros(len(fds), np.int64))
    return Sacked(fd=fds, start=starts - origin, stop=stops - origin, segment=segment[ats], ts_ns=ts_ns[ats], duplicate=is_again[order])


def _signed(difference: I64) -> I64:
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000
