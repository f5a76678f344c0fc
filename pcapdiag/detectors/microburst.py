"""microburst: traffic of several connections arrives in bursts of a few milliseconds, near the rate of the link.

## What it does
Where the capture file names the speed of its interface, it looks for milliseconds at more than half of that speed, made
by several connections towards one host, while the average over a second is low. It charges no time: losses in such
bursts are microburst-loss.

## Why it matters
A queue that just absorbs a burst today drops packets when one more call joins in. Averages and five-minute graphs do not
show it.

## When it is wrong
Segmentation offload and interrupt coalescing bunch packets within a millisecond; bins are therefore never shorter. Files
without an interface speed (all classic pcap files) give no verdict, since the busiest moment of any trace is a burst by
its own measure.

## Remedy
Spread the fan-out by a few milliseconds, pace senders with `fq`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits
from pcapdiag.flows.bursts import Load, Loads
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

_NO_TIME = Label(Tier.REST, 8, "microburst")
"""Below every label of the ledger: its signs carry facts, never seconds."""
LIMITS = Limits(
    hot=Limit(0.5, "", "share of the link rate that makes a bin hot (Zhang et al., IMC 2017)"),
    mean=Limit(0.25, "", "share of the link rate over a second; above it the link is busy, not hit by bursts"),
    flows=Limit(4, "", "connections in one burst: a fan-out, not a single transfer"),
    events=Limit(3, "", "bursts before it is a habit"),
    apart=Limit(5, "ms", "packets further apart than this are of two bursts"),
)
_HALF_SECOND_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """The bursts towards one host."""

    host: str
    bursts: int
    flows: int
    peak_bps: int
    link_bps: int


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per host that bursts arrive at."""
    named = [index for index, capture in enumerate(trace.captures) if any(interface.speed_bps for interface in capture.interfaces)]
    hosts, count = np.unique(np.concatenate([trace.flows.client, trace.flows.server]), return_counts=True)
    crowded = hosts[count >= limits.flows].tolist()
    if not named or not crowded:
        return
    loads = Loads(trace.packets, trace.captures, aside=trace.tcp.aside, room=trace.room)
    for index in named:
        for dst in crowded:
            load = loads.towards(index, dst)
            if not load.measured:
                yield from _towards(trace, load, dst, limits)
            trace.release()


def _towards(trace: Trace, load: Load, dst: int, limits: Limits) -> Iterator[Sign]:
    packets = trace.packets
    found = []
    for begin, stop in load.bursts(limits.hot, limits.ns("apart")):
        rows = load.rows[begin:stop]
        flows = np.unique(trace.tcp.flow_of_row[rows])
        start, end = int(packets.ts_ns[rows[0]]), int(packets.ts_ns[rows[-1]])
        crowd = int((flows >= 0).sum())
        if crowd >= limits.flows and load.mean_bps(start - _HALF_SECOND_NS, end + _HALF_SECOND_NS) <= limits.mean * load.link_bps:
            found.append((crowd, load.peak_bps(begin, stop), int(rows[0]), int(flows[-1])))
    if len(found) < limits.events:
        return
    at = found[0][2]
    yield Sign(
        label=_NO_TIME, scope=OfFlow(found[0][3]), start_ns=int(packets.ts_ns[at]), end_ns=int(packets.ts_ns[at]),
        confidence=Confidence(0.7, ("interface speed from the file", "bins of 1 ms")),
        facts=Facts(packets.addresses.text(dst), len(found), max(one[0] for one in found), max(one[1] for one in found), load.link_bps),
        frames=tuple(
            Frame(int(packets.capture[row]), int(packets.frame[row]), int(packets.ts_ns[row]), f"a burst of {crowd} connections begins")
            for crowd, _, row, _ in found[:6]
        ),
    )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One risk per host."""
    for sign in signs:
        fact = sign.facts
        if isinstance(fact, Facts) and isinstance(sign.scope, OfFlow):
            yield Conclusion(
                code=_NO_TIME.code, kind=FindingKind.RISK, confidence=sign.confidence, flows=(sign.scope.flow,), frames=sign.frames,
                summary=f"{fact.bursts} bursts of up to {fact.flows} connections towards {fact.host} reached "
                f"{fact.peak_bps / 1e6:.3g} Mbit/s over 1 ms on an interface of {fact.link_bps / 1e6:.3g} Mbit/s",
                contrast="a busy link shows a high average, too; here the average over a second is below a quarter",
                details={"bursts": fact.bursts, "connections": fact.flows, "peak_bps": fact.peak_bps, "link_bps": fact.link_bps},
            )  # fmt: skip


DETECTOR = Detector(
    code=_NO_TIME.code,
    title="Traffic arrives in short bursts",
    domain=Domain.NETWORK,
    label=None,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Spread the fan-out: start parallel calls with a few milliseconds of jitter.",
        "Pace senders: tc qdisc replace dev <if> root fq",
        "Watch drops, not averages: ethtool -S <if>, tc -s qdisc show dev <if>",
    ),
    references=("Zhang et al., High-Resolution Measurement of Data Center Microbursts (IMC 2017)",),
    wireshark_filter="tcp.len > 0",
)
