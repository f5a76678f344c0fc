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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.table import CLIENT_TO_SERVER
from pcapdiag.flows.window import Shut, shut_windows, window_shift
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from pcapdiag.spool import rows_where
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


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per stall, for connections whose stalls add up to the trigger."""
    seg = trace.segments
    zero = rows_where(len(seg), lambda part: (seg.window[part] == 0) & ((seg.flags[part] & (SYN | FIN | RST | ACK)) == ACK), trace.room)
    if not len(zero):
        return
    trips = RoundTrips(trace.tcp)
    for fd in trace.paced(np.unique(2 * seg.flow[zero].astype(np.int64) + 1 - seg.direction[zero]).tolist()):
        found = [sign for shut in shut_windows(trace.tcp, fd) if (sign := _sign(trace, trips, fd, shut, limits)) is not None]
        trigger = max(limits.ns("least_total"), round(limits.round_trips * max(trips.whole_ns(fd >> 1), 0)))
        if sum(sign.end_ns - sign.start_ns for sign in found) >= trigger:
            yield from found


def _sign(trace: Trace, trips: RoundTrips, fd: int, shut: Shut, limits: Limits) -> Sign | None:
    """The sign of a stall; None where the sender had nothing to send."""
    flow, direction = divmod(fd, 2)
    near, far = max(trips.near(flow).floor_ns(), 0), max(trips.far(flow).floor_ns(), 0)
    to_sender, to_receiver = (near, far) if direction == CLIENT_TO_SERVER else (far, near)
    ts_ns, opens = trace.segments.ts_ns, shut.opened >= 0
    start, opened = int(ts_ns[shut.first]), int(ts_ns[shut.opened] if opens else trace.flows.last_ns[flow])
    prompt = shut.resumed >= 0 and int(ts_ns[shut.resumed]) <= opened + to_sender + limits.ns("prompt")
    if not len(shut.probes) and not prompt:
        return None
    end = min(int(ts_ns[shut.resumed]), opened + to_sender) if prompt else opened
    answer_ns = opened - int(ts_ns[shut.probes[-1]]) if opens and len(shut.probes) else -1
    known = window_shift(trace.tcp, fd) >= 0
    frames = frames_of(trace, (
        (shut.first, "less than one segment may still be sent"),
        (int(shut.zeros[0]), "window 0"),
        *((row, "window probe") for row in shut.probes[:2].tolist()),
        (shut.opened, f"window {int(trace.segments.window[shut.opened])}{'' if known else ' (unscaled)'} again"),
        (shut.resumed if prompt else -1, "data flows again"),
    ))  # fmt: skip
    return Sign(
        label=LABEL, scope=OfFlow(flow, direction), start_ns=start, end_ns=max(end, start),
        frames=frames[int(shut.first == shut.zeros[0]) :],  # one packet may be both
        at_least=not (opens and known), confidence=_confidence(trace, flow, start, end),
        facts=Facts(
            receiver=1 - direction, zeros=len(shut.zeros), probes=len(shut.probes), scaled=known,
            update_lost=0 <= answer_ns <= to_receiver + limits.ns("probe_answer"),
        ),
    )  # fmt: skip


def _confidence(trace: Trace, flow: int, start_ns: int, end_ns: int) -> Confidence:
    sure = Confidence(0.98, ("window 0 advertised while bytes waited",))
    gaps = trace.tcp.gaps
    if ((gaps.fd >> 1 == flow) & (gaps.start_ns < end_ns) & (gaps.stop_ns > start_ns)).any():
        sure = sure.capped(0.3, "the capture lost packets meanwhile")
    return sure.capped(0.4, "one direction captured") if trace.flows.one_way[flow] else sure


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
