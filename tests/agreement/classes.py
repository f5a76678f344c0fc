"""The named classes of difference: which packets each is about, by a rule that does not ask whether both agree.

docs/agreement.md says why they may differ there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.flows.measure import resent_within
from pcapdiag.flows.segmented import LOWEST, last_index_where, running_count
from pcapdiag.packets.table import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcapdiag.columns import Bools
    from tests.agreement.ours import Scene

_UNACKED_MAX = 10_000
"""So many segments of a direction tshark remembers until they are acknowledged."""
_FAR_NS = 1 << 62
"""The reader keeps times within this."""
RTT = ("acks_frame", "ack_rtt")


@dataclass(frozen=True, slots=True)
class Difference:
    """A reason for which both may rightly differ, or tshark is known to err."""

    name: str
    facts: tuple[str, ...]
    """Which facts it may explain; none named: all."""
    rule: str
    """Which packets it is about."""
    applies: Callable[[Scene], Bools]
    """The rule: per row of Segments."""


def _of_flows(scene: Scene, rows: Bools) -> Bools:
    """All packets of the connections that have such a row."""
    found: Bools = np.isin(scene.seg.flow, scene.seg.flow[rows])
    return found


def _cut_by_frame(scene: Scene) -> Bools:
    return _of_flows(scene, (scene.at >= 0) & (scene.stated("len") < scene.seg.payload_len))


def _beyond_time(scene: Scene) -> Bools:
    return _of_flows(scene, np.abs(scene.seg.ts_ns) >= _FAR_NS - 10**9)


def _past_a_hole(scene: Scene) -> Bools:
    """Behind the first packet of its direction that acknowledged more than had been captured without a hole."""
    seen: Bools = scene.own(np.where(scene.flags.ack_lost_segment, 1, LOWEST), before=True) == 1
    return seen


def _grown_resend(scene: Scene) -> Bools:
    """The ACK newly covers a packet that began below what its sender had shown and ended above."""
    seg, acks, stop = scene.seg, scene.tcp.acks, scene.stop()
    grown = np.flatnonzero((seg.payload_len > 0) & (seg.seq < scene.own(stop, before=True)) & (stop > scene.own(stop, before=True)))
    fd = 2 * seg.flow.astype(np.int64) + seg.direction
    result = np.zeros(len(seg), np.bool_)
    result[acks.segment] = resent_within(acks, fd[grown], seg.seq[grown], stop[grown], grown)
    return result


def _sack_series(scene: Scene) -> Bools:
    """In a series of equal ACKs, from a SACK with another window than the packet before it on."""
    seg, before = scene.seg, scene.around()[0]
    window = scene.packets.window[seg.row].astype(np.int64)
    changed = seg.has_sack & (seg.payload_len == 0) & (window != np.append(window, [-1])[before])
    result = np.zeros(len(seg), np.bool_)
    for way in (0, 1):
        mine = seg.direction == way
        ack = scene.own(np.where(mine, seg.ack, LOWEST))
        advance = mine & (ack > scene.own(np.where(mine, seg.ack, LOWEST), before=True))
        last_change, last_advance = (last_index_where(rows & mine, scene.first) for rows in (changed, advance))
        result |= mine & (last_change >= 0) & (last_change >= last_advance)
    return result


def _scale_half_known(scene: Scene) -> Bools:
    """The direction's SYN offers a window scale, and the other side's SYN was not captured."""
    seg, flows = scene.seg, scene.tcp.flows
    shift = np.where(seg.direction == 0, flows.client_shift[seg.flow], flows.server_shift[seg.flow])
    offers = scene.has(SYN) & (scene.packets.window_shift[seg.row] >= 0)
    rows: Bools = (shift < 0) & (scene.own(np.where(offers, 1, LOWEST)) == 1)
    return rows


def _no_ack_seen(scene: Scene) -> Bools:
    rows: Bools = scene.acked() == LOWEST
    return rows


def _hole_in_flight(scene: Scene) -> Bools:
    """A hole lies above the ACK, or opened since the receiver's last packet."""
    lost = scene.flags.lost_segment
    return (scene.own(np.where(lost, scene.seg.seq, LOWEST)) > scene.acked()) | _unanswered(scene, lost)


def _unanswered(scene: Scene, rows: Bools) -> Bools:
    """Has there been such a packet in this direction since the last one of the other direction?"""
    result = np.zeros(len(rows), np.bool_)
    for way in (0, 1):
        mine = scene.seg.direction == way
        last, answer = last_index_where(rows & mine, scene.first), last_index_where(~mine, scene.first)
        result |= mine & (last >= 0) & (last > answer)
    return result


def _fin_in_flight(scene: Scene) -> Bools:
    rows: Bools = scene.own(np.where(scene.has(FIN), 1, LOWEST)) == 1
    return rows


def _below_the_ack(scene: Scene) -> Bools:
    return _unanswered(scene, (scene.seg.payload_len > 0) & (scene.seg.seq < scene.acked()))


def _dsack(scene: Scene) -> Bools:
    """The receiver's last packet names bytes at or below its ACK."""
    sacks, packets = scene.packets.sacks, scene.packets
    low = np.zeros(len(packets), np.bool_)
    low[sacks.row[((sacks.left - packets.ack[sacks.row]) & 0xFFFFFFFF) >= 1 << 31]] = True
    return scene.last_other(low[scene.seg.row])


def _after_a_reset(scene: Scene) -> Bools:
    return scene.last_other(scene.has(RST))


def _many_unacked(scene: Scene) -> Bools:
    """More segments than tshark remembers were unacknowledged in a direction of the connection."""
    seg = scene.seg
    many = np.zeros(len(seg), np.bool_)
    for way in (0, 1):
        mine = seg.direction == way
        sent = running_count(mine & (seg.payload_len > 0), scene.first)
        answered = last_index_where(~mine & (seg.acked_len > 0), scene.first)
        many |= mine & (sent - np.append(sent, [0])[answered] >= _UNACKED_MAX)
    return _since(scene, many)


def _since(scene: Scene, rows: Bools) -> Bools:
    """Packets of the connections from such a row on."""
    return last_index_where(rows, scene.first) >= 0


def _karn(scene: Scene) -> Bools:
    """The ACK newly covers a number that packets had carried twice, or that came behind a hole."""
    seg, acks = scene.seg, scene.tcp.acks
    resent = np.flatnonzero(scene.flags.again)
    fd = 2 * seg.flow.astype(np.int64) + seg.direction
    result = np.zeros(len(seg), np.bool_)
    result[acks.segment] = resent_within(acks, fd[resent], seg.seq[resent], scene.stop()[resent], resent)
    return result


def _inside_a_segment(scene: Scene) -> Bools:
    """The number it acknowledges is not the end of any packet of the other side."""
    seg = scene.seg
    fd = 2 * seg.flow.astype(np.int64) + seg.direction
    ends = set(zip(fd.tolist(), scene.stop().tolist(), strict=True))
    return np.array([(way ^ 1, ack) not in ends for way, ack in zip(fd.tolist(), seg.ack.tolist(), strict=True)], np.bool_)


def _handshake_resent(scene: Scene) -> Bools:
    flows = scene.tcp.flows
    return ((flows.syn_count > 1) | (flows.syn_ack_count > 1))[scene.seg.flow]


def _handshake_in_part(scene: Scene) -> Bools:
    """The SYN-ACK was not captured, or the client's first packet behind it is not the one that answers it."""
    seg, flows = scene.seg, scene.tcp.flows
    answers = (seg.direction == 0) & scene.has(ACK) & ~scene.has(SYN) & ~scene.has(RST) & (scene.last_other(scene.has(SYN)))
    third = answers & (seg.seq == 0) & (seg.ack == 0)
    whole = np.zeros(len(flows), np.bool_)
    whole[seg.flow[third]] = True
    return ~(whole & (flows.syn_ack_count > 0))[seg.flow]


def _no_time(scene: Scene) -> Bools:
    """The record times let the handshake take no time, or less, or put its SYN at the epoch."""
    flows = scene.tcp.flows
    none = (flows.syn_ns == 0) | (flows.established_ns <= flows.syn_ns) | (flows.syn_ack_ns < flows.syn_ns)
    none |= flows.established_ns < flows.syn_ack_ns
    rows: Bools = none[scene.seg.flow]
    return rows


CLASSES: tuple[Difference, ...] = (
    Difference("frame-too-short", (), "connections with a packet whose IP length exceeds the frame that carries it", _cut_by_frame),
    Difference("time-out-of-range", (), "connections with a packet whose time no 64-bit count of nanoseconds holds", _beyond_time),
    Difference(
        "acked-past-a-hole", ("ack_lost_segment",), "the direction had acknowledged something that was not captured before", _past_a_hole
    ),
    Difference("grown-resend", ("ack_lost_segment",), "a resend that also carried new bytes is newly acknowledged", _grown_resend),
    Difference(
        "sack-with-new-window", ("duplicate_ack", "duplicate_ack_num"),
        "equal ACKs, from the first one on that carries SACK blocks and another window", _sack_series,
    ),
    Difference("scale-half-known", ("window", "window_full"), "the SYN offers a scale, the answer was not captured", _scale_half_known),
    Difference("no-ack-seen", ("bytes_in_flight",), "no packet of the receiver acknowledged anything yet", _no_ack_seen),
    Difference("hole-in-flight", ("bytes_in_flight",), "bytes above the ACK were not captured, or a hole has just opened", _hole_in_flight),
    Difference("fin-in-flight", ("bytes_in_flight",), "the sender has sent its FIN", _fin_in_flight),
    Difference("below-the-ack", ("bytes_in_flight",), "acknowledged bytes were sent since the receiver's last packet", _below_the_ack),
    Difference("dsack", ("bytes_in_flight",), "the receiver's last packet reports a duplicate", _dsack),
    Difference("after-a-reset", ("bytes_in_flight", *RTT), "the other side's last packet is a RST", _after_a_reset),
    Difference(
        "many-unacked", ("bytes_in_flight", "ack_lost_segment", *RTT),
        "more than 10,000 segments of it were unacknowledged at a time", _many_unacked,
    ),
    Difference("karn", RTT, "bytes newly acknowledged had been sent twice, or came behind a hole", _karn),
    Difference("ack-inside-a-segment", RTT, "no packet ends where the ACK points to", _inside_a_segment),
    Difference("handshake-resent", ("initial_rtt",), "the SYN or the SYN-ACK was sent more than once", _handshake_resent),
    Difference("handshake-in-part", ("initial_rtt",), "the SYN-ACK or its ACK was not captured", _handshake_in_part),
    Difference("no-time", ("initial_rtt",), "by the records' times the handshake took no time, or began at the epoch", _no_time),
)  # fmt: skip
