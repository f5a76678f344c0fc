"""icmp-ptb-honoured: a router said "packet too big" and the sender obeyed, at the price of a round trip or two.

## What it does
It joins every Packet Too Big (ICMP type 3 code 4, ICMPv6 type 2) to the connection whose packet it quotes, and charges
the bytes that were sent too large before the report and resent within the reported MTU after it: from when they were
due to when they were acknowledged.

## Why it matters
This is path MTU discovery at work (RFC 1191, RFC 8201). It costs each new destination one flight, again after the
cached MTU expires (10 minutes on Linux), and again on every connection whose host does not share the cache.

## When it is wrong
Bytes of the same flight that were lost for another reason and resent at the same time are counted with it. A report
seen beside the receiver shows what was sent to the sender, not what it got.

## Remedy
Usually none is needed. To save the round trips make the limit known in advance: clamp the MSS on the router, or set
the MTU of the route.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.enclosure import Enclosures, explained_mtu
from pcapdiag.flows.icmp_join import losses_of
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.waits import wait_of
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LOSS, 7, "icmp-ptb-honoured")
LIMITS = Limits(least_wait=Limit(1, "ms", "shorter waits than a scheduler tick cost nobody anything"))


@dataclass(frozen=True, slots=True)
class Facts:
    """One stretch of bytes that had to be cut smaller."""

    mtu: int
    router: str
    told: str
    """Where the MTU comes from when a tunnel takes its part of it, in brackets with a space before; else empty."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per stretch of bytes resent smaller after a Packet Too Big."""
    explained = losses_of(trace.packets, trace.tcp)
    if not explained:
        return
    tunnels = Enclosures(trace.packets, trace.room)
    trips = RoundTrips(trace.tcp)
    found = trace.tcp.recoveries
    for row, report in sorted(explained.items()):
        wait = wait_of(trace.tcp, trips, row)
        if wait.end_ns - wait.start_ns < limits.ns("least_wait"):
            continue
        packets = trace.packets
        reason = explained_mtu(report.mtu, report.overhead_len, tunnels.of(trace.tcp, report.fd // 2))
        router = packets.addresses.text(int(packets.src[report.row]))
        told = Frame(int(packets.capture[report.row]), int(packets.frame[report.row]), report.ts_ns, f"packet too big: MTU {report.mtu}")
        proof = frames_of(trace, (
            (int(found.first_segment[row]) if found.at_sender[row] else -1, f"sent in packets above {report.mtu} bytes"),
            (int(found.resent_segment[row]), "the same bytes, in smaller packets"),
            (int(found.done_segment[row]), "acknowledged"),
        ))  # fmt: skip
        yield Sign(
            label=LABEL, scope=OfFlow(report.fd // 2, report.fd % 2, int(found.start[row]), int(found.stop[row])),
            start_ns=wait.start_ns, end_ns=wait.end_ns, at_least=wait.at_least, facts=Facts(report.mtu, router, reason),
            confidence=Confidence(0.95, ("a Packet Too Big quotes the connection", "the same bytes resent within its MTU")),
            frames=tuple(sorted((*proof, told), key=lambda frame: frame.ts_ns)),
        )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        known = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        least = min(known, key=lambda fact: (fact.mtu, fact.router))
        mtu, router = least.mtu, least.router
        yield share.concluded(
            LABEL.code,
            summary=f"{router} reported an MTU of {mtu}{least.told} between {share.client} and {share.server}; "
            f"resending in smaller packets took {share.stall_ns / 1e9:.3f} s of {share.requests}",
            contrast=f"in a black hole no report comes; here the sender shrank its packets to {mtu} bytes and they arrived",
            details={"mtu": mtu, "router": router},
            identity=(f"mtu {mtu}",),
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Packets were too big, and were resent smaller",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "See what the sender has learned: ip route get <destination> (cached mtu).",
        "Save the round trips: iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "Or set the limit where it is known: ip route change <destination> mtu <mtu>",
    ),
    references=("RFC 1191 section 3", "RFC 8201 section 4", "RFC 792"),
    wireshark_filter="(icmp.type == 3 && icmp.code == 4) || icmpv6.type == 2",
)
