"""icmp-ptb-ignored: a router said "packet too big", and the sender went on sending packets of that size.

## What it does
It joins every believable Packet Too Big to the connection whose packet it quotes (MTU legal and below the quoted
length), and looks at the later packets that carry the same bytes. When at least two of them are still above the
reported MTU, the report had no effect, and nothing on the connection moves past these bytes: it charges from when they
were due to their acknowledgment or the end of the connection.

## Why it matters
The connection hangs as in a black hole, but here the network did its part: something on or beside the sending host
throws the report away.

## When it is wrong
A capture sees the report before the host's own packet filter does. A report that a load balancer or NAT delivers to the
wrong host, or with a quote it failed to rewrite, looks ignored as well. Reports that name an impossible MTU are not
counted: ignoring them is right (RFC 8201 section 4, RFC 5927).

## Remedy
Let ICMP type 3 code 4 and ICMPv6 type 2 reach the sender (host firewall, security group, load balancer); behind anycast
or ECMP send the report to all members (RFC 7690) or clamp the MSS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.enclosure import Enclosures, explained_mtu
from pcapdiag.flows.icmp_join import TooBig, too_big
from pcapdiag.flows.rtt import RoundTrips
from pcapdiag.flows.sends import sends_of
from pcapdiag.flows.table import Vantage
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.DEAD, 1, "icmp-ptb-ignored")
LIMITS = Limits(resends=Limit(2, "", "one packet may already have been on its way when the report came"))


@dataclass(frozen=True, slots=True)
class Facts:
    """One report without effect."""

    mtu: int
    quoted_len: int
    resends: int
    router: str
    told: str
    """Where the MTU comes from when a tunnel takes its part of it, in brackets with a space before; else empty."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per stretch of bytes that stayed too large; the first report of each."""
    trips = RoundTrips(trace.tcp)
    seen: set[tuple[int, int]] = set()
    reports = too_big(trace.packets, trace.tcp)
    if not reports:
        return
    tunnels = Enclosures(trace.packets, trace.room)
    for report in reports:
        if (report.fd, report.offset) in seen:
            continue
        seen.add((report.fd, report.offset))
        sign = _sign(trace, trips, tunnels, report, limits)
        if sign is not None:
            yield sign


def _sign(trace: Trace, trips: RoundTrips, tunnels: Enclosures, report: TooBig, limits: Limits) -> Sign | None:
    tcp, packets = trace.tcp, trace.packets
    flow, direction = divmod(report.fd, 2)
    last_ns = int(tcp.flows.last_ns[flow])
    later = sends_of(tcp, report.fd, report.offset, from_ns=report.ts_ns + 1, until_ns=last_ns)
    size = packets.ip_len[tcp.segments.row[later]]
    # Longer than the quoted packet: cut up behind the capture, nobody knows into which sizes.
    big = later[(size > report.mtu) & (size <= report.quoted_len)]
    if len(big) < limits.resends:
        return None
    streams = trace.streams.part(report.fd >> 1)
    first = streams.segment_of(report.fd, np.array([report.offset]))[0]
    acked_ns = int(streams.acked(report.fd, np.array([report.offset]))[0])
    half = trips.far(flow) if direction == 0 else trips.near(flow)
    sent_ns = int(tcp.segments.ts_ns[first]) if first >= 0 else report.ts_ns
    end_ns = acked_ns if acked_ns < NEVER else last_ns
    router = packets.addresses.text(int(packets.src[report.row]))
    reason = explained_mtu(report.mtu, report.overhead_len, tunnels.of(tcp, flow))
    told = Frame(int(packets.capture[report.row]), int(packets.frame[report.row]), report.ts_ns, f"packet too big: MTU {report.mtu}")
    proof = frames_of(trace, [(int(s), f"the same bytes, still {int(n)} bytes long") for s, n in zip(big[:6], size[:6], strict=False)])
    sure = Confidence(0.9, ("a Packet Too Big quotes the connection", "the same bytes resent above its MTU"))
    side = int(tcp.flows.vantage[flow])
    if side not in {Vantage.LOCAL, Vantage.CLIENT if direction == 0 else Vantage.SERVER}:
        sure = sure.capped(0.7, "the report was not seen at the sender itself")
    return Sign(
        label=LABEL, scope=OfFlow(flow, direction), start_ns=min(sent_ns + max(half.floor_ns(), 0), end_ns), end_ns=end_ns,
        at_least=acked_ns >= NEVER, confidence=sure, facts=Facts(report.mtu, report.quoted_len, len(big), router, reason),
        frames=(*frames_of(trace, [(int(first), "the packet that was too big")]), told, *proof),
    )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        known = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        worst = max(known, key=lambda fact: fact.resends)
        yield share.concluded(
            LABEL.code,
            summary=f"{worst.router} reported an MTU of {worst.mtu}{worst.told}, yet the same bytes went out {worst.resends} "
            f"more times in packets of up to {worst.quoted_len} bytes: {share.requests} between {share.client} and {share.server} "
            f"stood still for {share.stall_ns / 1e9:.2f} s",
            contrast="in a black hole no router reports anything; here the report is in the capture and had no effect",
            details={"mtu": worst.mtu, "packet_len": worst.quoted_len, "resends": worst.resends, "router": worst.router},
            identity=(f"mtu {worst.mtu}",),
        )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Sender ignores that its packets are too big",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "See whether the sender learned it: ip route get <destination> (cached mtu); nothing there means the report was dropped.",
        "Let it in: iptables -I INPUT -p icmp --icmp-type fragmentation-needed -j ACCEPT",
        "For IPv6: ip6tables -I INPUT -p icmpv6 --icmpv6-type packet-too-big -j ACCEPT",
        "Until then clamp: iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "Behind anycast or ECMP deliver the report to every member (RFC 7690).",
    ),
    references=("RFC 1191 section 3", "RFC 8201 section 4", "RFC 5927", "RFC 7690"),
    wireshark_filter="(icmp.type == 3 && icmp.code == 4) || icmpv6.type == 2",
)
