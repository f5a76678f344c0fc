"""zero-window: a receiver's buffer was full because its program did not read, and the sender had to wait.

## What it does
It follows the receiver's advertised window against what the sender has sent. A stall begins when less than one full
segment may still be sent, must reach an advertised window of zero, and ends when the window opens again (RFC 9293
section 3.8.6.1); seen from the receiver, one round trip is added until new bytes can arrive. It counts only while the
sender had bytes to send: window probes, or data as soon as the window opened. The finding names the host that did not
read: the client (an event loop blocked by other work) or the server (an upload nobody consumed).

## Why it matters
The network and the sender are idle and healthy; no change there helps. On a shared connection every request waits.

## When it is wrong
Without the handshake in the capture windows cannot be scaled; zero is zero all the same, but the stall's start and end
are later and earlier than the truth. A window that opens only in answer to a probe may be a lost window update: the
finding then says so in its variant, and accuses nobody.

## Remedy
Profile the receiving process named: move the work out of the reading loop, read into a queue. More buffer
(`net.ipv4.tcp_rmem`, no fixed SO_RCVBUF) only helps a receiver that pauses briefly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, Rows
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import CLIENT_TO_SERVER, Kind
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.FLOW_CONTROL, 0, "zero-window")
LIMITS = Limits(
    least_total=Limit(200, "ms", "stall trigger: max(2 SRTT, 200 ms), the sum of one connection's stalls"),
    round_trips=Limit(2, "", "stall trigger: max(2 SRTT, 200 ms), the sum of one connection's stalls"),
    prompt=Limit(50, "ms", "a sender with bytes in hand uses a new window a round trip and one scheduling delay later"),
    probe_answer=Limit(2, "ms", "a host answers a window probe at once; what opens within this was an answer"),
)
DEFAULT_MSS = 536
"""RFC 9293 section 3.7.1."""
TIMESTAMPS_LEN = 12


@dataclass(frozen=True, slots=True)
class Facts:
    """One stall."""

    receiver: int
    """0 the client did not read, 1 the server."""
    zeros: int
    """Packets that advertised a zero window."""
    probes: int
    update_lost: bool
    """The window opened only in answer to a probe."""
    scaled: bool


@dataclass(frozen=True, slots=True)
class _Side:
    """One direction of data on one flow, with its packets and those of its receiver."""

    flow: int
    direction: int
    rows: slice
    mss: int
    scaled: bool
    sender_trip_ns: int
    """Tap to the sender and back."""
    receiver_trip_ns: int


@dataclass(frozen=True, slots=True)
class _Stall:
    """Rows in Segments; -1: none."""

    first: int
    """The packet behind which less than one segment could be sent."""
    reopened: int
    resumed: int
    """First new data behind `reopened`."""
    zeros: Rows
    probes: Rows


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per stall, for connections whose stalls add up to the trigger."""
    seg = trace.segments
    zero = np.flatnonzero((seg.window == 0) & ((seg.flags & (SYN | FIN | RST | ACK)) == ACK))
    if not len(zero):
        return
    trips = RoundTrips(trace.tcp)
    for fd in np.unique(2 * seg.flow[zero].astype(np.int64) + 1 - seg.direction[zero]).tolist():
        side = _side(trace, trips, *divmod(fd, 2))
        found = [sign for stall in _stalls(trace, side) if (sign := _sign(trace, side, stall, limits)) is not None]
        trigger = max(limits.ns("least_total"), round(limits.round_trips * max(trips.whole_ns(side.flow), 0)))
        if sum(sign.end_ns - sign.start_ns for sign in found) >= trigger:
            yield from found


def _side(trace: Trace, trips: RoundTrips, flow: int, direction: int) -> _Side:
    flows = trace.flows
    announced = int(flows.server_mss[flow] if direction == CLIENT_TO_SERVER else flows.client_mss[flow])
    shift = int(flows.server_shift[flow] if direction == CLIENT_TO_SERVER else flows.client_shift[flow])
    near, far = max(trips.near(flow).floor_ns(), 0), max(trips.far(flow).floor_ns(), 0)
    sender, receiver = (near, far) if direction == CLIENT_TO_SERVER else (far, near)
    return _Side(
        flow=flow, direction=direction, rows=slice(int(flows.begin[flow]), int(flows.stop[flow])),
        mss=max((announced or DEFAULT_MSS) - (TIMESTAMPS_LEN if flows.timestamps[flow] else 0), 1), scaled=shift >= 0,
        sender_trip_ns=sender, receiver_trip_ns=receiver,
    )  # fmt: skip


def _stalls(trace: Trace, side: _Side) -> Iterator[_Stall]:
    """Runs of packets during which less than one segment may be sent, with a window of zero among them."""
    seg, rows = trace.segments, side.rows
    mine = seg.direction[rows] == side.direction
    heard = ~mine & (seg.ack[rows] >= 0) & ((seg.flags[rows] & (SYN | RST)) == 0)
    acked = np.maximum.accumulate(np.where(heard, seg.ack[rows], 0))
    edge = _latest(np.where(heard & (seg.ack[rows] == acked), acked + seg.window[rows], -1))  # an overtaken ACK says nothing new
    carries = mine & (seg.payload_len[rows] > 0) & (seg.seq[rows] >= 0)
    high = np.maximum.accumulate(np.where(carries, seg.seq[rows] + seg.payload_len[rows], 0))
    high = np.maximum(high, acked)
    # Of an unscaled window only "zero" can be read.
    closed = (edge >= 0) & (edge - high < (side.mss if side.scaled else 1))
    zero = heard & (seg.window[rows] == 0) & ((seg.flags[rows] & FIN) == 0)
    probe = mine & (seg.kind[rows] == Kind.KEEP_ALIVE)
    fresh = carries & (seg.kind[rows] == Kind.NEW)
    begins = np.flatnonzero(closed & ~np.concatenate([[False], closed[:-1]]))
    ends = np.flatnonzero(~closed & np.concatenate([[False], closed[:-1]]))
    zeros_before = np.concatenate([[0], np.cumsum(zero)])
    for begin in begins.tolist():
        at = int(np.searchsorted(ends, begin))
        end = int(ends[at]) if at < len(ends) else len(closed)
        if zeros_before[end] == zeros_before[begin]:
            continue
        later = np.flatnonzero(fresh[end:])
        yield _Stall(
            first=begin + rows.start, reopened=end + rows.start if end < len(closed) else -1,
            resumed=end + rows.start + int(later[0]) if len(later) else -1,
            zeros=np.flatnonzero(zero[begin:end]) + begin + rows.start, probes=np.flatnonzero(probe[begin:end]) + begin + rows.start,
        )  # fmt: skip


def _latest(edge: I64) -> I64:
    """Each value, or the last one before it that is not negative."""
    at = np.maximum.accumulate(np.where(edge >= 0, np.arange(len(edge)), 0))
    return edge[at]


def _sign(trace: Trace, side: _Side, stall: _Stall, limits: Limits) -> Sign | None:
    """The sign of a stall; None where the sender had nothing to send."""
    ts_ns = trace.segments.ts_ns
    start, opened = int(ts_ns[stall.first]), int(ts_ns[stall.reopened]) if stall.reopened >= 0 else int(trace.flows.last_ns[side.flow])
    resumed = int(ts_ns[stall.resumed]) if stall.resumed >= 0 else -1
    prompt = 0 <= resumed <= opened + side.sender_trip_ns + limits.ns("prompt")
    if not len(stall.probes) and not prompt:
        return None
    end = min(resumed, opened + side.sender_trip_ns) if prompt and stall.reopened >= 0 else opened
    probed = ts_ns[stall.probes[-1:]]
    answered = bool(len(probed)) and 0 <= opened - int(probed[0]) <= side.receiver_trip_ns + limits.ns("probe_answer")
    frames = frames_of(trace, (
        (stall.first, "less than one segment may still be sent"),
        (int(stall.zeros[0]), "window 0"),
        *((row, "window probe") for row in stall.probes[:2].tolist()),
        (stall.reopened, f"window {int(trace.segments.window[stall.reopened])}{'' if side.scaled else ' (unscaled)'} again"),
        (stall.resumed if prompt else -1, "data flows again"),
    ))  # fmt: skip
    return Sign(
        label=LABEL, scope=OfFlow(side.flow, side.direction), start_ns=start, end_ns=max(end, start),
        frames=tuple({(f.capture, f.number): f for f in reversed(frames)}.values())[::-1],
        at_least=stall.reopened < 0 or not side.scaled, confidence=_confidence(trace, side, start, end),
        facts=Facts(1 - side.direction, len(stall.zeros), len(stall.probes), answered, side.scaled),
    )  # fmt: skip


def _confidence(trace: Trace, side: _Side, start_ns: int, end_ns: int) -> Confidence:
    sure = Confidence(0.98, ("window 0 advertised while bytes waited",))
    gaps = trace.tcp.gaps
    if ((gaps.fd // 2 == side.flow) & (gaps.start_ns < end_ns) & (gaps.stop_ns > start_ns)).any():
        sure = sure.capped(0.3, "the capture lost packets meanwhile")
    return sure.capped(0.4, "one direction captured") if trace.flows.one_way[side.flow] else sure


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server, on the side that did not read for longer."""
    for share in shares(ledger, LABEL.code, tables):
        held = [0, 0]
        for sign in share.signs:
            if isinstance(sign.facts, Facts):
                held[sign.facts.receiver] += sign.end_ns - sign.start_ns
        at_server = held[1] > held[0]
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts) and sign.facts.receiver == at_server]
        role, host = ("server", share.server) if at_server else ("client", share.client)
        lost = all(fact.update_lost for fact in facts)
        times = f"{len(facts)} times" if len(facts) > 1 else "once"
        blame = (
            f"The window of the {role} {host} opened only in answer to a probe: its window update may have been lost"
            if lost else f"The {role} {host} stopped reading: its receive window fell to zero {times}"
        )  # fmt: skip
        probes = sum(fact.probes for fact in facts)
        yield share.concluded(
            LABEL.code,
            summary=f"{blame}, and {len(share.exchanges)} {'request' if len(share.exchanges) == 1 else 'requests'} stood still for "
            f"{share.stall_ns / 1e9:.2f} s ({probes} window {'probe' if probes == 1 else 'probes'})",
            contrast="if packets were lost, the sender would resend data; it only probed a closed window, and every probe was answered"
            if probes else "if packets were lost, the sender would resend data; it waited for the window and went on when it opened",
            details={
                "variant": "window-update-lost" if lost else None, "receiver": role, "receiver_host": host, "stalls": len(facts),
                "zero_windows": sum(fact.zeros for fact in facts), "probes": probes, "window_scale_known": all(f.scaled for f in facts),
            },
            identity=(role,),
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="The receiver stopped reading",
    domain=Domain.CLIENT,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Profile the receiving process named: py-spy dump --pid <pid>, or perf top -p <pid>, while it stands still.",
        "Read from the socket off the event loop (a reader task and a queue); do no tool work or parsing inside the read loop.",
        "Watch it fill on the receiver: ss -tmi dst <peer> (Recv-Q, rcv_space).",
        "Bursts only: raise net.ipv4.tcp_rmem and drop a fixed SO_RCVBUF.",
    ),
    references=("RFC 9293 section 3.8.6.1", "RFC 1122 section 4.2.2.17"),
    wireshark_filter="tcp.analysis.zero_window || tcp.analysis.window_update || tcp.analysis.keep_alive",
)
