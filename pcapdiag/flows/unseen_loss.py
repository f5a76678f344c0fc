"""Bytes that were lost before the tap and leave no hole there: new in sequence, but late, behind proof that they were sent before.

At the receiver a tail resent by timer looks like a sender that was quiet (CAUSES "sender idle, or its bytes lost?"). Two
observations tell them apart: skipped IP-IDs, and packets of the sender that count more bytes as sent than had come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, Bools
from pcapdiag.flows.again import Entries
from pcapdiag.flows.needless import sent_earlier
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import LOWEST, last_index_where, running_max
from pcapdiag.flows.sequence import Sequence
from pcapdiag.flows.table import Kind

RTO_MIN_NS = 200_000_000
"""Linux TCP_RTO_MIN; RFC 6298 section 2.4 asks for 1 s, no current stack waits that long."""
RTO_MAX_NS = 120_000_000_000
"""Linux TCP_RTO_MAX: no timer waits longer, so a longer pause before a resend is a spliced file or a clock step."""
ALMOST = 0.9
"""Timers fire on ticks and captures have jitter: nine tenths of a timer's time count as the timer."""
_PAUSE_NS = 20_000_000
"""Gaps in which a host's other traffic would have used IP-IDs, if it counted them for all its connections together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenLosses:
    """Entries that bring such bytes, in fd order."""

    at: I64
    stop: I64
    """Offset behind the last byte known to have been lost."""
    proof: I64
    """The entry that shows it: the packet before the silence, or the one that counted more than had come."""
    since_ns: I64
    """The wait begins no earlier: more than the losses explain is not theirs."""


def find_unseen_losses(sequence: Sequence, entries: Entries) -> UnseenLosses:
    """All of both sorts; an entry that both prove is of the second one, which is exact."""
    announced, stop, claim = _announced(sequence, entries)
    silent, since_ns = _behind_silence(sequence, entries)
    alone = ~np.isin(silent, announced)
    silent, since_ns = silent[alone], since_ns[alone]
    at = np.concatenate([silent, announced])
    order = np.argsort(at, kind="stable")
    return UnseenLosses(
        at=at[order],
        stop=np.concatenate([sequence.seq[silent] + entries.payload_len[silent], stop])[order],
        proof=np.concatenate([silent - 1, claim])[order],
        since_ns=np.concatenate([since_ns, entries.ts_ns[claim]])[order],
    )


def _behind_silence(sequence: Sequence, entries: Entries) -> tuple[I64, I64]:
    """New in-order data behind a silence in which packets of its sender went missing: (entries, since when).

    Skipped IP-IDs prove packets that never came. They explain at most the timers that many losses can take: with n
    missing, a silence of up to (2^n - 1) timeouts and one round trip; a longer one is cut to that. Stacks without
    timestamps are left out: Windows, which sends none by default, counts IP-IDs for all connections of the host.
    """
    late = (entries.id_gap > 0) & (sequence.kind == Kind.NEW) & (sequence.gap_len == 0) & ~sequence.first & entries.has_ts
    if not late.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = np.flatnonzero(late & _counts_alone(sequence, entries)[sequence.fd])
    waited = entries.ts_ns[at] - entries.ts_ns[at - 1]
    rtt = np.maximum(entries.rtt_ns[sequence.fd[at]], 0)
    timeouts = (np.int64(1) << np.minimum(entries.id_gap[at], 8)) - 1
    explained = timeouts * np.maximum(RTO_MIN_NS + rtt, 2 * rtt) + rtt
    # A sender quiet for other reasons most of the time did not wait for these losses.
    fits = (waited >= ALMOST * RTO_MIN_NS) & (waited <= RTO_MAX_NS) & (waited <= 2 * explained)
    fits &= entries.id_gap[at] > _acks_owed(sequence, entries, at)
    return at[fits], np.maximum(entries.ts_ns[at] - explained, entries.ts_ns[at - 1])[fits]


def _acks_owed(sequence: Sequence, entries: Entries, at: I64) -> I64:
    """How many ACKs without bytes the sender of each packet may have sent since the one before: they use IP-IDs, too.

    One per packet of the other direction at the most (RFC 9293 section 3.8.6.3), and none when it has nothing new to acknowledge.
    """
    sent = np.flatnonzero((sequence.kind == Kind.NEW) & (entries.payload_len > 0))
    places, back = key(sequence.fd[sent], sequence.stop[sent]), sequence.fd[at] ^ 1
    edges = np.maximum(sequence.acked_before[at], 0), np.maximum(sequence.ack[at], 0)
    before, now = (np.searchsorted(places, key(back, edge), side="right") for edge in edges)
    owed: I64 = np.maximum(now - before, 0)
    return owed


def _counts_alone(sequence: Sequence, entries: Entries) -> Bools:
    """Per fd: does the connection have IP-IDs of its own? Else the host's other traffic skips some in most pauses."""
    gap_ns = np.diff(entries.ts_ns, prepend=entries.ts_ns[:1])
    pause = ~sequence.first & (gap_ns >= _PAUSE_NS) & (entries.id_gap >= 0)
    count = len(entries.rtt_ns)
    pauses = np.bincount(sequence.fd[pause], minlength=count)
    skipping = np.bincount(sequence.fd[pause & (entries.id_gap > 0)], minlength=count)
    alone: Bools = (pauses - skipping >= 3) & (skipping <= np.maximum(1, 0.1 * pauses))
    return alone


def _announced(sequence: Sequence, entries: Entries) -> tuple[I64, I64, I64]:
    """Bytes that a pure ACK or probe of their sender had counted as sent before they came: (entries, behind them, what counted them)."""
    claims = (sequence.gap_len > 0) & ((sequence.kind == Kind.CONTROL) | (sequence.kind == Kind.KEEP_ALIVE))
    if not claims.any():
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    claimed = running_max(np.where(claims, sequence.seq, LOWEST), sequence.first)
    late = (sequence.kind == Kind.NEW) & (entries.payload_len > 0) & (sequence.gap_len == 0) & (sequence.seq < claimed)
    at = np.flatnonzero(late)
    claim = last_index_where(claims, sequence.first)[at]
    earlier, tells = sent_earlier(entries, at, claim)
    at, claim = at[~(earlier & tells)], claim[~(earlier & tells)]  # those were only overtaken by what counted them
    return at, np.minimum(sequence.seq[at] + entries.payload_len[at], claimed[at]), claim
