"""What a capture leaves out by rule: a filter on flags or sizes, every nth packet only, one port only (CAUSES section 10).

What such a capture does not show did happen: a hole in it is no loss, and an absence proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pcapdiag.capture.frames import Capture
    from pcapdiag.columns import Bools
    from pcapdiag.flows.glance import Glance
    from pcapdiag.flows.table import Flows, Tallies

_ETHERNET = 1
_LEAST_FLAGGED, _LEAST_PUSHED = 4, 6
_LEAST_RUN = 12
"""Segments in one direction without one acknowledgment: receivers acknowledge every second one (RFC 9293 section 3.8.6.3)."""
_LEAST_PIECES = 20
_SAMPLED_LOSS = 0.3
"""Of the acknowledged bytes so many are missing: a capture that loses that much by overload loses them in runs."""
_SCATTER = 0.5
"""Of a random sample's breaks: every nth packet of a regular exchange hits the same kind of packet for a while."""
_SHORT_LOSS, _LEAST_ACKS = 0.7, 10
"""Nearly all bytes are missing, and the acknowledgments that came for them bit by bit are not."""
_NOT_FULL_LEN = 1_200
"""Who captured a longer payload has captured full packets."""
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
    SHORT = "short"
    """Only packets up to some length."""
    SAMPLED = "sampled"
    """Every nth packet, or a random share."""
    PORT = "port"
    """One port only: nothing is missing within its connections."""
    DECLARED = "declared"
    """The file names its filter, and the connections in it are whole."""

    @property
    def tears(self) -> bool:
        """Are packets of the connections themselves missing?"""
        return self in {Filtered.FLAGS, Filtered.PUSH, Filtered.NO_ACKS, Filtered.SHORT, Filtered.SAMPLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """The TCP packets of one capture, in numbers."""

    total: int
    ends: int
    """With SYN, FIN or RST."""
    beyond: int
    """Of them: FIN or RST whose numbers tell of bytes since the SYN."""
    data: int
    pushed: int
    """With PSH, SYN, FIN or RST."""
    pure: int
    """Pure acknowledgments."""
    opened_data: int
    """Packets with data of connections whose handshake is here, which holds a pure acknowledgment."""
    run: int
    """Longest series of segments with data of one direction; counted only where there are no pure acknowledgments."""
    missing_len: int
    """Bytes acknowledged and never captured."""
    told: int
    """Acknowledgments of such bytes that were not of all of them at once."""
    seen_len: int
    longest_len: int
    """Bytes seen at once at the most."""
    pieces: int
    """Stretches of bytes seen at once."""
    gaps: int
    """Stretches of missing ones."""
    joints: int
    """Neighbouring pieces."""
    broken: int
    """Of them: with missing bytes in between."""

    @classmethod
    def of(cls, flows: Flows, tallies: Tallies, capture: int) -> Talk:
        """The flows of one capture."""
        mine = flows.capture == capture
        whole = mine & (flows.syn_count > 0) & (flows.syn_ack_count > 0) & ~flows.one_way

        def total(values: NDArray[np.signedinteger] | Bools, flows: Bools = mine) -> int:
            return int(values.reshape(-1, 2)[flows].sum(dtype=np.int64))

        pieces = total(tallies.piece_count)
        return cls(
            total=total(tallies.packet_count), ends=total(tallies.ending_count), beyond=total(tallies.closing_count),
            data=total(tallies.data_count), pushed=total(tallies.pushed_count), pure=total(tallies.pure_count),
            opened_data=total(tallies.data_count, whole),
            run=int(tallies.longest_run.reshape(-1, 2)[mine & ~flows.one_way].max(initial=0)), missing_len=total(tallies.unseen_len),
            told=total(tallies.told_count), seen_len=total(tallies.seen_len),
            longest_len=int(tallies.longest_len.reshape(-1, 2)[mine].max(initial=0)), pieces=pieces, gaps=total(tallies.gap_count),
            joints=pieces - total(tallies.piece_count > 0), broken=total(tallies.broken_count),
        )  # fmt: skip


def find_filter(talk: Talk, glance: Glance, capture: Capture) -> tuple[Filtered, str]:
    """What one capture leaves out, and how that shows: by its TCP packets in numbers, and all its packets at a glance."""
    if talk.total >= _LEAST_FLAGGED and talk.ends == talk.total and talk.beyond:
        return Filtered.FLAGS, f"{talk.beyond} packets close connections whose bytes are not here, and all have SYN, FIN or RST"
    unacknowledged = not talk.pure and (talk.run >= _LEAST_RUN or talk.opened_data >= _LEAST_PIECES)
    if talk.data >= _LEAST_PUSHED and talk.pushed == talk.total and (talk.missing_len or unacknowledged):
        return Filtered.PUSH, "all packets have PSH, SYN, FIN or RST: others between them are missing"
    if unacknowledged:
        return Filtered.NO_ACKS, f"no pure acknowledgment at all beside {talk.data} packets with data, not even in handshakes"
    torn = _torn(talk)
    if torn is not None:
        return torn
    declared = sorted({interface.filter for interface in capture.interfaces if interface.filter})
    if declared:
        return Filtered.DECLARED, "; ".join(declared)
    port = _only_port(glance, capture)
    return (Filtered.PORT, f"port {port}") if port else (Filtered.NO, "")


def _torn(talk: Talk) -> tuple[Filtered, str] | None:
    """The rule by which holes were torn into connections; None when they have none."""
    if _short(talk):
        what = f"no packet carries more than {talk.longest_len} bytes" if talk.longest_len else "no packet carries any"
        return Filtered.SHORT, f"{what}, and those that are acknowledged beside are missing"
    share = _sampled(talk)
    return (Filtered.SAMPLED, f"{share:.0%} of the acknowledged bytes are missing, scattered over single packets") if share else None


def _short(talk: Talk) -> bool:
    """Are all packets longer than the longest that is there missing, and no others?"""
    missing = talk.missing_len
    if talk.longest_len >= _NOT_FULL_LEN or not missing or missing < _SHORT_LOSS * (missing + talk.seen_len):
        return False
    return talk.told >= _LEAST_ACKS and missing > talk.told * talk.longest_len


def _sampled(talk: Talk) -> float:
    """Share of the bytes that are missing when they are missing everywhere, packet by packet; else 0.

    Packets left out at random break up the rest in proportion to their share; an overloaded capture loses whole stretches.
    """
    if talk.pieces < _LEAST_PIECES or talk.gaps < _LEAST_PIECES // 2:
        return 0.0
    share = talk.missing_len / (talk.missing_len + talk.seen_len)
    broken = talk.broken / max(talk.joints, 1)
    return share if share >= _SAMPLED_LOSS and broken >= _SCATTER * share else 0.0


def _only_port(glance: Glance, capture: Capture) -> int:
    """The one port that all frames of a busy capture have; 0 when there are others, or other frames."""
    if capture.first_ns is None or capture.last_ns is None or capture.last_ns - capture.first_ns < _PORT_NS:
        return 0
    whole = glance.packet_count >= max(_PORT_FRAMES, capture.frame_count) and all(i.link_type == _ETHERNET for i in capture.interfaces)
    return glance.port if whole else 0
