"""What a capture leaves out by rule: a filter on flags or sizes, every nth packet only, one port only (CAUSES section 10).

What such a capture does not show did happen: a hole in it is no loss, and an absence proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import Rows
from pcapdiag.flows.segmented import group_starts, running_count
from pcapdiag.flows.table import Flows, Gaps, Kind, Pieces, Segments
from pcapdiag.packets.table import ACK, FIN, PSH, RST, SYN, TCP, UDP, Packets

_ETHERNET = 1
_BLOCK = 1 << 18
_LEAST_FLAGGED, _LEAST_PUSHED = 4, 6
_LEAST_RUN = 12
"""Segments in one direction without one acknowledgment: receivers acknowledge every second one (RFC 9293 section 3.8.6.3)."""
_LEAST_PIECES = 20
_SAMPLED_LOSS = 0.3
"""Of the acknowledged bytes so many are missing: a capture that loses that much by overload loses them in runs."""
_SCATTER = 0.7
_PORT_FRAMES, _PORT_NS = 200, 60_000_000_000
"""A minute of Ethernet without ARP, ICMP, lookups or anything else but one port."""


class Filtered(Enum):
    """Why packets are missing from a capture by rule."""

    NO = ""
    FLAGS = "flags"
    """Only packets that open or close connections: SYN, FIN, RST."""
    PUSH = "push"
    """Only packets with PSH, SYN, FIN or RST."""
    NO_ACKS = "no-acks"
    """No pure acknowledgments: only packets with data."""
    SAMPLED = "sampled"
    """Every nth packet, or a random share."""
    PORT = "port"
    """One port only: nothing is missing within its connections."""
    DECLARED = "declared"
    """The file names its filter, and the connections in it are whole."""

    @property
    def tears(self) -> bool:
        """Are packets of the connections themselves missing?"""
        return self in {Filtered.FLAGS, Filtered.PUSH, Filtered.NO_ACKS, Filtered.SAMPLED}


def find_filter(packets: Packets, rows: Rows | slice, capture: Capture, talk: Talk, pieces: Pieces, gaps: Gaps) -> tuple[Filtered, str]:
    """What one capture leaves out, and how that shows.

    `rows` are its rows of packets, `talk` its TCP packets in numbers; pieces and gaps are those of its flows.
    """
    missing = int((gaps.stop - gaps.start).sum())
    if talk.total >= _LEAST_FLAGGED and talk.ends == talk.total and talk.beyond:
        return Filtered.FLAGS, f"{talk.beyond} packets close connections whose bytes are not here, and all have SYN, FIN or RST"
    unacknowledged = not talk.pure and (talk.run >= _LEAST_RUN or talk.opened_data >= _LEAST_PIECES)
    if talk.data >= _LEAST_PUSHED and talk.pushed == talk.total and (missing or unacknowledged):
        return Filtered.PUSH, "all packets have PSH, SYN, FIN or RST: others between them are missing"
    if unacknowledged:
        return Filtered.NO_ACKS, f"no pure acknowledgment at all beside {talk.data} packets with data, not even in handshakes"
    share = _sampled(pieces, gaps)
    if share:
        return Filtered.SAMPLED, f"{share:.0%} of the acknowledged bytes are missing, scattered over single packets"
    declared = sorted({interface.filter for interface in capture.interfaces if interface.filter})
    if declared:
        return Filtered.DECLARED, "; ".join(declared)
    port = _only_port(packets, rows, capture)
    return (Filtered.PORT, f"port {port}") if port else (Filtered.NO, "")


@dataclass(frozen=True, slots=True)
class Talk:
    """The TCP packets of one capture, in numbers."""

    total: int = 0
    ends: int = 0
    """With SYN, FIN or RST."""
    beyond: int = 0
    """Of them: FIN or RST whose numbers tell of bytes since the SYN."""
    data: int = 0
    pushed: int = 0
    """With PSH, SYN, FIN or RST."""
    pure: int = 0
    """Pure acknowledgments."""
    opened_data: int = 0
    """Packets with data of connections whose handshake is here, which holds a pure acknowledgment."""
    run: int = 0
    """Longest series of segments with data of one direction; counted only where there are no pure acknowledgments."""


def tally(segments: Segments, flows: Flows, capture_count: int) -> list[Talk]:
    """The TCP packets of each capture (that of their flow) in numbers, a block of rows at a time."""
    opened = (flows.syn_count > 0) | (flows.syn_ack_count > 0)
    whole = (flows.syn_count > 0) & (flows.syn_ack_count > 0) & ~flows.one_way
    counts = np.zeros((7, capture_count), np.int64)
    runs = np.zeros(capture_count, np.int64)
    for begin in range(0, len(segments), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        flow, flags, data = segments.flow[part], segments.flags[part], segments.payload_len[part] > 0
        capture = flows.capture[flow]
        ends = (flags & (SYN | FIN | RST)) > 0
        closes = ~data & ((flags & (FIN | RST)) > 0) & ((segments.seq[part] > 1) | (segments.ack[part] > 1)) & opened[flow]
        pure = (segments.kind[part] == Kind.CONTROL) & ((flags & (SYN | FIN | RST | ACK)) == ACK)
        shaken = data & whole[flow]
        for number, mask in enumerate((None, ends, closes, data, ends | ((flags & PSH) > 0), pure, shaken)):
            counts[number] += np.bincount(capture if mask is None else capture[mask], minlength=capture_count)
        if (counts[5] == 0).any():
            turn = 2 * flow.astype(np.int64) + segments.direction[part]
            np.maximum.at(runs, capture, running_count(data & ~flows.one_way[flow], group_starts(turn)))
    return [Talk(*(int(number) for number in (*counts[:, capture], runs[capture]))) for capture in range(capture_count)]


def _sampled(pieces: Pieces, gaps: Gaps) -> float:
    """Share of the bytes that are missing when they are missing everywhere, packet by packet; else 0.

    Packets left out at random break up the rest in proportion to their share; an overloaded capture loses whole stretches.
    """
    if len(pieces) < _LEAST_PIECES or len(gaps) < _LEAST_PIECES // 2:
        return 0.0
    missing = int((gaps.stop - gaps.start).sum())
    share = missing / (missing + int((pieces.stop - pieces.start).sum()))
    same = pieces.fd[1:] == pieces.fd[:-1]
    broken = float((pieces.start[1:] > pieces.stop[:-1])[same].mean()) if same.any() else 0.0
    return share if share >= _SAMPLED_LOSS and broken >= _SCATTER * share else 0.0


def _only_port(packets: Packets, rows: Rows | slice, capture: Capture) -> int:
    """The one port that all frames of a busy capture have; 0 when there are others, or other frames."""
    frame = packets.frame[rows]
    if capture.first_ns is None or capture.last_ns is None or capture.last_ns - capture.first_ns < _PORT_NS:
        return 0
    if len(frame) < _PORT_FRAMES or len(frame) < capture.frame_count or any(i.link_type != _ETHERNET for i in capture.interfaces):
        return 0
    if not np.isin(packets.proto[rows], (TCP, UDP)).all():
        return 0
    ports = packets.sport[rows], packets.dport[rows]
    for port in (int(ports[0][0]), int(ports[1][0])):
        if port and bool(((ports[0] == port) | (ports[1] == port)).all()):
            # The client's own port stays one as well when there is only one connection: nothing follows from that.
            others = np.unique(np.where(ports[0] == port, ports[1], ports[0]))
            return port if len(others) > 1 else 0
    return 0
