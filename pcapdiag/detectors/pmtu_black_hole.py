"""pmtu-black-hole: packets above some size vanish on the path without a word, smaller ones pass.

## What it does
It looks for bytes that were sent at least three times in large packets and never acknowledged, while smaller packets
between the same two hosts, in the same direction and at the same time, arrived (RFC 2923 section 2.1, RFC 4821 section
7.7). Seen from the receiving end the large packets never show; there the proof is that the sender's own later packets
carry a sequence number far beyond what arrived, that IP-IDs are missing, and that small answers keep coming. The
largest size that passed and the smallest that failed bracket the path MTU.

## Why it matters
Small requests and answers work, pings work, every dashboard is green; each large prompt, certificate or answer hangs
until a timeout. TCP alone does not recover: it sends the same size again, for minutes.

## When it is wrong
A dead peer passes nothing, a policer passes large packets now and then, and an outage stops small ones too; each of
these silences this finding. Content filters drop the same bytes at any size. When a router does send Packet Too Big,
icmp-ptb-honoured or icmp-ptb-ignored tell that story instead.

## Remedy
Prove it with `ping -M do -s <size> <host>`, permit ICMP type 3 code 4 and ICMPv6 type 2 on the path, or clamp the MSS
on the tunnel's router and lower the interface MTU. `net.ipv4.tcp_mtu_probing=1` lets Linux senders find out themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.exchanges.table import Exchange, Outcome
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.oversize import Oversize, find_oversize
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier

if TYPE_CHECKING:
    from pcapdiag.stalls.ledger import Ledger
    from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.DEAD, 0, "pmtu-black-hole")
LIMITS = Limits(
    chance=Limit(1e-4, "", "that small packets' loss rate explains the lost large ones: p^n, n transmissions"),
    sends=Limit(3, "", "RFC 8899 section 5.1.2, MAX_PROBES"),
    passed=Limit(2, "", "one small packet may pass a dying path, two did"),
)
_OVERHEADS = {
    1492: "PPPoE", 1480: "IPIP or 6in4", 1476: "GRE", 1460: "Google Cloud default", 1450: "VXLAN or Geneve over IPv4",
    1440: "WireGuard over IPv4", 1430: "VXLAN over IPv6", 1420: "WireGuard", 1400: "Geneve of a cluster network, many VPNs",
    1380: "WireGuard on Google Cloud", 1370: "VXLAN inside WireGuard", 1280: "the IPv6 minimum: Tailscale, WARP",
}  # fmt: skip
"""Path MTU -> what commonly causes it on a 1,500-byte path."""
_NARROW = 130
"""A wider bracket fits too many tunnels to name any."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One blocked direction."""

    from_server: bool
    passed_max_len: int
    failed_min_len: int
    failed_sends: int
    passed_count: int
    at_sender: bool
    icmp_captured: bool


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per blocked direction of a connection; nothing on it can progress."""
    for one in find_oversize(trace.packets, trace.tcp):
        flow, direction = divmod(one.fd, 2)
        sure = _confidence(one, limits)
        if sure is None or _told_by_icmp(trace, one):
            continue
        start, bound = _begin(trace, one)
        icmp = trace.quality[int(trace.flows.capture[flow])].saw_icmp
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction), start_ns=start, end_ns=max(one.end_ns, start), at_least=bound or not one.repaired,
            confidence=sure.capped(0.4, "one direction captured") if trace.flows.one_way[flow] else sure,
            frames=frames_of(trace, one.proof),
            facts=Facts(direction == 1, one.passed_max_len, one.failed_min_len, one.failed_sends, one.passed_count, one.at_sender, icmp),
        )  # fmt: skip


def _confidence(one: Oversize, limits: Limits) -> Confidence | None:
    """Fixed by the kind of proof; None when chance would do."""
    if one.passed_count < limits.passed or one.passed_max_len >= one.failed_min_len:
        return None
    rate = (one.small_lost + 0.5) / (one.passed_count + one.small_lost + 1)
    if one.at_sender:
        if rate**one.failed_sends > limits.chance:
            return None
        if one.sacked_above or one.shrunk:
            return Confidence(
                0.95, ("the same bytes passed in smaller packets" if one.shrunk else "smaller packets behind them were SACKed",)
            )
        return Confidence(0.85, (f"{one.failed_sends} large packets lost, {one.passed_count} smaller ones passed, {one.small_lost} lost",))
    if one.failed_sends >= limits.sends:
        return Confidence(0.7, (f"{one.failed_sends} IP-IDs missing, sequence numbers beyond what arrived, small packets pass",))
    return Confidence(0.6, ("sequence numbers beyond what arrived, small packets pass",))


def _told_by_icmp(trace: Trace, one: Oversize) -> bool:
    """Did a router say Packet Too Big about this direction? Then it is no black hole."""
    errors, flow = trace.packets.icmp_errors, one.fd // 2
    client, server = int(trace.flows.client[flow]), int(trace.flows.server[flow])
    source, target = (client, server) if one.fd % 2 == 0 else (server, client)
    return bool(((errors.mtu >= 0) & (errors.src == source) & (errors.dst == target)).any())


def _begin(trace: Trace, one: Oversize) -> tuple[int, bool]:
    """When the wait began, and whether that is only a bound.

    At the receiver: when the server had acknowledged the request whose answer never came, plus the time that comparable
    requests took it to answer; else the last bytes that arrived.
    """
    if one.at_sender:
        return one.start_ns, False
    if one.fd % 2 == 0:
        return one.last_ns, True
    on_flow = [e for e in trace.exchanges if e.flow == one.fd // 2 and not e.is_setup and e.start_ns < one.end_ns]
    stuck = [e for e in on_flow if e.end_ns > one.last_ns and e.request_acked_ns < one.end_ns and e.outcome is not Outcome.OK]
    if not stuck:
        return max(one.last_ns, min(one.start_ns, one.end_ns)), True
    first = min(stuck, key=lambda e: e.start_ns)
    return min(max(first.request_acked_ns, one.last_ns) + _usual_think(trace, first), one.end_ns), True


def _usual_think(trace: Trace, stuck: Exchange) -> int:
    """Median time between ACK and first byte of answered requests to the same server; 0 without any."""
    server = int(trace.flows.server[stuck.flow])
    thinks = [
        e.first_byte_ns - e.request_acked_ns
        for e in trace.exchanges
        if not e.is_setup and e.outcome is Outcome.OK and int(trace.flows.server[e.flow]) == server and e.request_acked_ns < e.first_byte_ns
    ]
    return int(np.median(thinks)) if thinks else 0


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        low, high = max(f.passed_max_len for f in facts), min(f.failed_min_len for f in facts) - 1
        sender, receiver = (share.server, share.client) if facts[0].from_server else (share.client, share.server)
        failed, passed = sum(f.failed_sends for f in facts), sum(f.passed_count for f in facts)
        guesses = [f"{mtu} ({what})" for mtu, what in _OVERHEADS.items() if low <= mtu <= high] if high - low <= _NARROW else []
        counted = f"{failed} lost" if failed else "none came"
        icmp = "No Packet Too Big came." if any(f.icmp_captured for f in facts) else "No ICMP of any kind is in this capture."
        yield share.concluded(
            LABEL.code,
            summary=f"packets of {high + 1} bytes and more from {sender} to {receiver} vanish ({counted}) while {passed} smaller ones "
            f"passed: the path MTU lies between {low} and {high} bytes, and {share.requests} hung for "
            f"{share.stall_ns / 1e9:.2f} s. {icmp}",
            contrast=f"plain loss would have hit some of the {passed} smaller packets too, and a dead peer would have passed none",
            details={
                "variant": "at-sender" if facts[0].at_sender else "at-receiver",
                "direction": "from-server" if facts[0].from_server else "from-client",
                "path_mtu_low": low,
                "path_mtu_high": high,
                "candidates": guesses,
                "failed_sends": failed,
                "passed": passed,
            },
            identity=(str(low), str(high)),
            # At the receiver the large packets never show; what shows is that the sender counts on beyond them.
            wireshark_filter="" if facts[0].at_sender else "tcp.analysis.lost_segment && tcp.len == 0",
        )


DETECTOR = Detector(
    code=LABEL.code,
    title="Path MTU black hole",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Prove it: ping -M do -s <size - 28> <host> fails above the bracket and works below; tracepath -n <host> names the hop.",
        "Permit ICMP type 3 code 4 and ICMPv6 type 2 on every hop.",
        "Or clamp: iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "Or set the true size: ip link set dev <tunnel> mtu <low>; senders: sysctl -w net.ipv4.tcp_mtu_probing=1",
    ),
    references=("RFC 2923 section 2.1", "RFC 4821 section 7.7", "RFC 8899 section 4.3", "RFC 8900"),
    wireshark_filter="ip.len > 1280 && tcp.analysis.retransmission",
)
