"""When a tap may say that an acknowledgment was lost: the bytes had arrived, and yet their sender had to send them again.

A needless resend shows that no ACK came in time, not why: it was lost, late, or not sent yet. One tap sees half of that.

Near the receiver it sees the ACK leave. It was lost when the sender should have had it, never shows that it has, and shows
for something that passed the tap around the resend that the path to it was as quick as ever. Near the sender it sees what
comes back. An ACK was lost when the first that covers the bytes is the answer to the resend itself (it carries the DSACK), that
answer took no longer than answers did, and the original lay so long at the receiver that no ACK can have been held back.
All else is late, as far as the tap can tell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools
from pcapdiag.flows.again import Again, Entries, Heard, trip_before
from pcapdiag.flows.segmented import LOWEST
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Acks, Kind

_JITTER_NS = 2_000_000
"""Delays of hosts and captures that no round trip shows."""
_SLOWER = 1.25
"""An answer that takes so many round trips came over a path that was slower than before."""
_ALMOST = 0.9
"""Of a least round trip, and of a timer's time: clocks and captures jitter."""
_DELAYED_ACK_NS = 200_000_000
"""Longest delay of an ACK: Linux TCP_DELACK_MAX and Windows; the least retransmission timer is made to outlast it."""
_PACKETS_AHEAD = 16
"""What a sender has heard shows in the next few packets, or says nothing of the time before them."""


def acks_lost(
    again: Again, heard: Heard, sequence: Sequence, entries: Entries, *, acks: Acks, acked: Bools, told_by: I64, echoed: Bools
) -> Bools:
    """Per row: was the acknowledgment of the packet before it lost, beyond doubt?

    Args:
        again: the resends.
        heard: what their senders had heard.
        sequence: all packets.
        entries: their columns.
        acks: advances of the cumulative ACK.
        acked: the tap had seen the bytes acknowledged before the resend.
        told_by: row in Segments of the first DSACK about each; -1 none.
        echoed: the ACK that covers the bytes echoes the original's timestamp.
    """
    to_sender = trip_before(entries, again.fd, again.at, sequence.fd)
    patience_ns = (_SLOWER * to_sender).astype(np.int64) + _JITTER_NS
    lost = acked & (again.ts_ns - np.where(acked, again.done_ns, 0) > patience_ns)
    for row in np.flatnonzero(lost).tolist():
        lost[row] = _passed_by(
            _Wait(*(int(column[row]) for column in (again.fd, again.at, again.ts_ns, again.done_ns, patience_ns))), sequence, entries
        )
    return lost | _answers_resend(again, heard, sequence, entries, acks=acks, acked=acked, told_by=told_by, echoed=echoed)


# --- near the receiver -------------------------------------------------------------------------------------------------


class _Wait(NamedTuple):
    """An ACK that passed the tap, and the resend that shows that its sender had not heard it."""

    fd: int
    """Of the data."""
    at: int
    """Entry of the resend."""
    resent_ns: int
    ack_ns: int
    patience_ns: int
    """What passed the tap that long before something of the sender should have been known to it."""


def _passed_by(wait: _Wait, sequence: Sequence, entries: Entries) -> bool:
    """Did the sender, from the resend on, hear nothing of what it should have heard by then, but soon something later?"""
    late_ns = wait.resent_ns - wait.patience_ns
    for at in range(wait.at, min(wait.at + 1 + _PACKETS_AHEAD, len(entries.ts_ns))):
        if sequence.fd[at] != wait.fd:
            break
        now_ns = int(entries.ts_ns[at])
        told_ns = _last_heard(wait, at, sequence, entries)
        if told_ns < wait.ack_ns:
            continue
        if told_ns <= late_ns:
            return False  # it, or one of the same time, came after all
        if told_ns > wait.resent_ns + wait.patience_ns:
            break
        if now_ns - told_ns <= wait.patience_ns:
            return True
    return False


def _last_heard(wait: _Wait, at: int, sequence: Sequence, entries: Entries) -> int:
    """When the packet of the receiver passed the tap that a packet of the sender echoes or acknowledges; LOWEST unknown."""
    if not entries.has_ts[at]:
        return int(entries.ts_ns[at] - entries.sample_ns[at]) if entries.sample_ns[at] >= 0 else LOWEST
    begin, stop = np.searchsorted(sequence.fd, [wait.fd ^ 1, (wait.fd ^ 1) + 1])
    begin += int(np.searchsorted(entries.ts_ns[begin:stop], wait.ack_ns))
    stop = begin + int(np.searchsorted(entries.ts_ns[begin:stop], entries.ts_ns[at], side="right"))
    same = np.flatnonzero(entries.ts_val[begin:stop] == entries.ts_ecr[at])
    return int(entries.ts_ns[begin + same[0]]) if len(same) else LOWEST


# --- near the sender ---------------------------------------------------------------------------------------------------


def _answers_resend(
    again: Again, heard: Heard, sequence: Sequence, entries: Entries, *, acks: Acks, acked: Bools, told_by: I64, echoed: Bools
) -> Bools:
    """Is the first ACK for the bytes the answer to the resend, prompt, though there was time for one to the original?"""
    least = np.maximum(entries.trip_ns[again.fd], 0)
    usual = trip_before(entries, again.fd ^ 1, heard.entry, sequence.fd)
    after_ns = np.where(again.done_ns < NEVER, again.done_ns - again.ts_ns, 0)
    prompt = ~acked & (least > np.maximum(entries.trip_ns[again.fd ^ 1], 0))
    prompt &= (after_ns >= _ALMOST * least) & (after_ns <= _SLOWER * usual + _JITTER_NS)
    apart_ns = again.ts_ns - np.where(again.before >= 0, entries.ts_ns[again.before], again.ts_ns)
    handshake = (again.kind == Kind.SYN_AGAIN) & echoed & (apart_ns > _SLOWER * least)
    by_dsack = (told_by >= 0) & (np.append(acks.segment, [-1])[again.done] == told_by)
    by_dsack &= apart_ns >= _ALMOST * (_DELAYED_ACK_NS + least)
    answers: Bools = prompt & (handshake | by_dsack)
    return answers
