"""capture-loss: packets that crossed the wire are not in the file; the network did not lose them.

## What it does
It adds up bytes that the receiver acknowledged but no captured packet holds, and the drop counters that the capturing
system wrote into the file. Time in which an exchange's own bytes were missing in this way is taken out of every
diagnosis (`capture-gap` in the ledger): nobody can say what happened then. Where packets of both directions are missing
behind a silence, the capture was blind (it was stopped and started again, or its host was): the whole silence is taken
out for all requests of the connection, and the rest of a request whose connection never shows again. A request that nobody
saw answered is left open from the first hole in what its server said: the answer may lie there.

## Why it matters
A hole that the capture made looks like a loss, and the acknowledgment behind it like a miracle. Above a few percent no
verdict about loss can be trusted, and requests or responses in the holes cannot be read.

## When it is wrong
Bytes that went another way (two links, asymmetric routing) are missing here too; the file still lacks them. A filter
that leaves out part of a connection has the same effect.

## Remedy
A bigger buffer (`tcpdump -B 65536`), fewer bytes per packet (`-s 128` where headers suffice), a filter on the hosts of
interest, a faster disk or `-w` into memory; then look at "packets dropped by kernel" when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pcapdiag.columns import I64, NEVER, Bools
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits
from pcapdiag.flows.filtered import Filtered
from pcapdiag.flows.pieces import first_ack
from pcapdiag.flows.table import SERVER_TO_CLIENT
from pcapdiag.packets.table import TCP
from pcapdiag.spool import Room, windows
from pcapdiag.stalls.evidence import frames_of, mark, marked
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import CAPTURE_GAP, Confidence, Frame, OfExchange, OfFlow, Sign
from pcapdiag.trace import Tables, Trace

CODE = "capture-loss"
LIMITS = Limits(
    least_gap=Limit(5, "ms", "a shorter gap hides no stall; interrupt coalescing alone takes milliseconds"),
    harmless_ratio=Limit(0.01, "", "up to one byte in a hundred missing leaves a verdict standing (quality grade B)"),
    harmless_gap=Limit(200, "ms", "the stall trigger: less time unexplained hides no stall"),
    longest_delayed_ack=Limit(500, "ms", "RFC 9293 section 3.8.6.3: what came earlier would have been acknowledged before"),
    one_ack=Limit(65_536, "bytes", "one ACK covers no more than receive offload puts into one packet"),
)
SHOWN = 6
_LOOK = 1 << 10
"""Packets looked through at a time for the next of the other side."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One capture-gap sign per gap that lasted, on the bytes that were not captured; and the first gaps as evidence."""
    gaps, tcp = trace.tcp.gaps, trace.tcp
    if not len(gaps):
        return
    row = first_ack(tcp.acks, gaps.fd, gaps.stop - 1)
    ack = np.append(tcp.acks.segment, -1)[row]
    captures = trace.flows.capture[gaps.fd // 2]
    cited = {int(at) for capture in np.unique(captures) for at in _largest(gaps.stop - gaps.start, captures == capture)}
    blind: list[Sign] = []
    for at in trace.paced(range(len(gaps))):
        lasted = gaps.stop_ns[at] - gaps.start_ns[at] >= limits.ns("least_gap")
        if not (lasted or at in cited):
            continue
        missing = int(gaps.stop[at] - gaps.start[at])
        frames = frames_of(trace, (
            (int(gaps.segment[at]) if gaps.segment[at] != ack[at] else -1, f"{missing} bytes before this packet are not in the file"),
            (int(ack[at]), f"acknowledges {missing} bytes that no packet in this file holds"),
        ))  # fmt: skip
        if at in cited:
            yield mark(CODE, frames)
        if lasted:
            own = _hidden(trace, at, min(int(gaps.segment[at]), int(ack[at])), frames, limits)
            if own.scope == OfFlow(int(gaps.fd[at]) // 2):
                blind.append(own)
            else:
                yield own
    yield from blind
    yield from _never_again(trace, blind)
    yield from _perhaps_answered(trace)


def _hidden(trace: Trace, at: int, shown: int, frames: tuple[Frame, ...], limits: Limits) -> Sign:
    """The time that a gap hides, shown first by row `shown` of Segments: on its bytes, or on the connection when both sides went unseen."""
    gaps, segments = trace.tcp.gaps, trace.segments
    flow, direction = divmod(int(gaps.fd[at]), 2)
    start_ns, end_ns = int(gaps.start_ns[at]), int(gaps.stop_ns[at])
    own = Sign(
        label=CAPTURE_GAP, scope=OfFlow(flow, direction, int(gaps.start[at]), int(gaps.stop[at])),
        start_ns=start_ns, end_ns=end_ns, frames=frames,
        confidence=Confidence(0.95, ("bytes acknowledged, never captured, never resent",)),
    )  # fmt: skip
    if segments.ts_ns[shown] - start_ns < limits.ns("harmless_gap"):
        return own
    skipped = _skipped_by_receiver(trace, shown, flow, direction)
    if skipped > 0 or (skipped < 0 and gaps.stop[at] - gaps.start[at] > limits.one_ack):
        return replace(own, scope=OfFlow(flow))
    return own if skipped else replace(own, start_ns=max(start_ns, end_ns - limits.ns("longest_delayed_ack")))


def _skipped_by_receiver(trace: Trace, shown: int, flow: int, direction: int) -> int:
    """How many packets of the receiver went unseen before its first one from row `shown` on; -1 if its IP-IDs do not say."""
    segments = trace.segments
    for begin in range(shown, int(trace.flows.stop[flow]), _LOOK):
        theirs = np.flatnonzero(segments.direction[begin : min(begin + _LOOK, int(trace.flows.stop[flow]))] != direction)
        if len(theirs):
            return int(segments.id_gap[begin + theirs[0]])
    return -1


def _never_again(trace: Trace, blind: Sequence[Sign]) -> Iterable[Sign]:
    """Connections that were open when the capture went blind, of which no packet came afterwards: they may have gone on."""
    flows, packets = trace.flows, trace.packets
    open_ = (flows.proto == TCP) & (flows.client_fin_ns == NEVER) & (flows.server_fin_ns == NEVER) & (flows.rst_ns == NEVER)
    for rows in packets.captures(trace.room) if blind else ():
        capture = int(packets.capture[rows.start])
        mine = [sign for sign in blind if flows.capture[_flow_of(sign)] == capture]
        begins, ends, end_ns = _silences(packets.ts_ns, rows, trace.room) if mine else (np.empty(0, np.int64), np.empty(0, np.int64), 0)
        dark = {}
        for sign in mine:
            inside = begins[(begins >= sign.start_ns) & (ends <= sign.end_ns)]
            dark.update(dict.fromkeys(inside.tolist(), sign))
        for since_ns, sign in dark.items():
            gone = open_ & (flows.capture == capture) & (flows.last_ns <= since_ns)
            for flow in np.flatnonzero(gone).tolist():
                yield replace(sign, scope=OfFlow(flow), start_ns=int(flows.last_ns[flow]), end_ns=end_ns + 1)


def _silences(ts_ns: I64, rows: slice, room: Room | None) -> tuple[I64, I64, int]:
    """Begins and ends of times without any packet, long enough to hide a stall; and the time of the last packet."""
    parts, last_ns = [np.empty((0, 2), np.int64)], 0
    for part in windows(rows.stop - rows.start, room):
        times = ts_ns[max(rows.start + part.start - 1, rows.start) : rows.start + part.stop]
        at = np.flatnonzero(np.diff(times) >= LIMITS.ns("harmless_gap"))
        parts.append(np.stack([times[at], times[at + 1]], axis=1))
        last_ns = max(last_ns, int(times.max()))
    both = np.concatenate(parts)
    return both[:, 0], both[:, 1], last_ns


def _perhaps_answered(trace: Trace) -> Iterable[Sign]:
    """Requests without an answer on connections whose server said something that nobody saw: it may have been the answer."""
    exchanges, gaps = trace.exchanges, trace.tcp.gaps
    open_ = ~exchanges.is_setup & (exchanges.first_byte_ns == NEVER) & (exchanges.request_end_ns < NEVER)
    for row in np.flatnonzero(open_).tolist():
        answers = 2 * int(exchanges.flow[row]) + SERVER_TO_CLIENT
        said = gaps.take(slice(*np.searchsorted(gaps.fd, [answers, answers + 1]).tolist()))
        asked_ns, end_ns = int(exchanges.request_end_ns[row]), int(exchanges.end_ns[row])
        mine = np.flatnonzero((said.stop_ns > asked_ns) & (said.start_ns < end_ns))
        if len(mine):
            first = mine[np.argmin(said.start_ns[mine])]
            hole = (int(said.segment[first]), "the bytes before this packet, which are not in the file, may be the answer")
            yield Sign(
                label=CAPTURE_GAP, scope=OfExchange(row), start_ns=max(asked_ns, int(said.start_ns[first])), end_ns=end_ns,
                frames=frames_of(trace, (hole,)), confidence=Confidence(0.95, ("bytes acknowledged, never captured, never resent",)),
            )  # fmt: skip


def _flow_of(sign: Sign) -> int:
    assert isinstance(sign.scope, OfFlow)
    return sign.scope.flow


def _largest(size: I64, mine: Bools) -> list[int]:
    rows = np.flatnonzero(mine)
    return [int(row) for row in rows[np.argsort(-size[rows], kind="stable")][:SHOWN]]


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture that lacks packets."""
    for capture, quality in enumerate(tables.quality):
        dropped = quality.dropped_count or 0
        lost = 0 if Filtered(quality.filtered).tears else quality.unseen_bytes  # what a filter left out the capture did not lose
        if not lost and not dropped:
            continue
        said = []
        if lost:
            said.append(
                f"{quality.unseen_bytes:,} acknowledged bytes ({quality.capture_loss_ratio:.1%}) are not in {tables.captures[capture].name}"
            )
        if dropped:
            said.append(f"the capturing system says it dropped {dropped:,} packets")
        hidden_ns = sum(
            entry.duration_ns for entry in ledger.entries(CAPTURE_GAP.code)
            if int(tables.flows.capture[tables.exchanges[entry.owner].flow]) == capture
        )  # fmt: skip
        hides = f"{hidden_ns / 1e9:.2f} s of requests cannot be explained for it" if hidden_ns else "no request's time is hidden by it"
        yield Conclusion(
            code=CODE, kind=FindingKind.CAPTURE, confidence=Confidence(0.95, ("acknowledged bytes without packets, or drop counters",)),
            frames=marked(signs, capture), summary="; ".join(said) + f": {hides}",
            contrast="bytes that the network lost would have been sent again, or never acknowledged",
            details={
                "unseen_bytes": quality.unseen_bytes, "capture_loss_ratio": round(quality.capture_loss_ratio, 6),
                "dropped_count": quality.dropped_count, "hidden_s": round(hidden_ns / 1e9, 6),
            },
            lowers_verdict=quality.capture_loss_ratio > LIMITS.harmless_ratio or hidden_ns > LIMITS.ns("harmless_gap"),
        )  # fmt: skip


DETECTOR = Detector(
    code=CODE,
    title="The capture lost packets",
    domain=Domain.CAPTURE,
    label=None,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture again with a bigger buffer: tcpdump -B 65536 -w trace.pcap (KiB), and read its closing line 'packets dropped by kernel'.",
        "Keep less: a filter on the hosts of interest, -s 128 when headers suffice (encrypted traffic); write to a fast disk or tmpfs.",
        "At the card: ethtool -S <interface> | grep -i -E 'drop|miss', ethtool -G <interface> rx 4096.",
        "On a mirror port: its own link may be too slow for both directions; mirror less, or capture at an end host.",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3", "RFC 9293 section 3.4"),
    wireshark_filter="tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment",
)
