"""pmtu-black-hole: packets above some size vanish on the path without a word, smaller ones pass.

## What it does
It looks for bytes that were sent at least three times in large packets and never acknowledged, while smaller packets
between the same two hosts, in the same direction and at the same time, arrived (RFC 2923 section 2.1, RFC 4821 section
7.7). Seen from the receiving end the large packets never show; there the proof is that the sender's own later packets
carry a sequence number far beyond what arrived, that IP-IDs are missing, and that small answers keep coming. The
largest size that passed and the smallest that failed bracket the path MTU. Where the capture shows the packets inside a
tunnel, the bytes of its headers say what MTU the path outside has.

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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.exchanges.table import Exchange, Outcome
from pcapdiag.findings import Conclusion, Detector, Domain, Limit, Limits, shares
from pcapdiag.flows.enclosure import Enclosure, Enclosures, reported_outside
from pcapdiag.flows.oversize import Oversize, find_oversize
from pcapdiag.stalls.evidence import frames_of
from pcapdiag.stalls.sign import Confidence, Label, OfFlow, Sign, Tier

if TYPE_CHECKING:
    from pcapdiag.capture.host import HostFacts
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
_EVERYWHERE = (
    "Prove it: ping -M do -s <size - 28> <host> fails above the bracket and works below; tracepath -n <host> names the hop.",
    "Permit ICMP type 3 code 4 and ICMPv6 type 2 on every hop.",
    "Or clamp: iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "Or set the true size: ip link set dev <tunnel> mtu <low>; senders: sysctl -w net.ipv4.tcp_mtu_probing=1",
)
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
    tunnel: Enclosure | None
    """What is around these packets on some part of the path, if the capture shows it."""
    told_outside: int | None
    """MTU that a router named for the tunnel's own packets."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per blocked direction of a connection; nothing on it can progress."""
    found = find_oversize(trace.packets, trace.tcp)
    if not found:
        return
    tunnels = Enclosures(trace.packets, trace.room)
    for one in found:
        flow, direction = divmod(one.fd, 2)
        sure = _confidence(one, limits)
        if sure is None or trace.flows.one_way[flow] or _told_by_icmp(trace, one):
            continue  # one direction alone does not show what passed
        start, bound = _begin(trace, one)
        icmp = trace.quality[int(trace.flows.capture[flow])].saw_icmp
        yield Sign(
            label=LABEL, scope=OfFlow(flow, direction), start_ns=start, end_ns=max(one.end_ns, start), at_least=bound or not one.repaired,
            confidence=sure,
            frames=frames_of(trace, one.proof),
            facts=Facts(
                direction == 1, one.passed_max_len, one.failed_min_len, one.failed_sends, one.passed_count, one.at_sender, icmp,
                tunnels.of(trace.tcp, flow), reported_outside(trace.packets),
            ),
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
    on_flow = [e for e in trace.exchanges.of_flow(one.fd // 2) if not e.is_setup and e.start_ns < one.end_ns]
    stuck = [e for e in on_flow if e.end_ns > one.last_ns and e.request_acked_ns < one.end_ns and e.outcome is not Outcome.OK]
    if not stuck:
        return max(one.last_ns, min(one.start_ns, one.end_ns)), True
    first = min(stuck, key=lambda e: e.start_ns)
    return min(max(first.request_acked_ns, one.last_ns) + _usual_think(trace, first), one.end_ns), True


def _usual_think(trace: Trace, stuck: Exchange) -> int:
    """Median time between ACK and first byte of answered requests to the same server; 0 without any."""
    exchanges, server = trace.exchanges, trace.flows.server
    alike = ~exchanges.is_setup & exchanges.ended(Outcome.OK) & (server[exchanges.flow] == server[stuck.flow])
    alike &= exchanges.request_acked_ns < exchanges.first_byte_ns
    thinks = exchanges.first_byte_ns[alike] - exchanges.request_acked_ns[alike]
    return int(np.median(thinks)) if len(thinks) else 0


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        low, high = max(f.passed_max_len for f in facts), min(f.failed_min_len for f in facts) - 1
        sender, receiver = (share.server, share.client) if facts[0].from_server else (share.client, share.server)
        failed, passed = sum(f.failed_sends for f in facts), sum(f.passed_count for f in facts)
        tunnel = next((f.tunnel for f in facts if f.tunnel is not None), None)
        told = min((f.told_outside for f in facts if f.told_outside is not None), default=None)
        outer_mtu = None if tunnel is None else tunnel.outer_mtu(low, high, told)
        beside = _beside(tables, share.flows, from_server=facts[0].from_server)
        guesses = _guesses(low, high, tunnel, outer_mtu, tables.host_facts)
        counted = f"{failed} lost" if failed else "none came"
        conclusion = share.concluded(
            LABEL.code,
            summary=f"packets of {high + 1} bytes and more from {sender} to {receiver} vanish ({counted}) while {passed} smaller ones "
            f"passed: the path MTU lies between {low} and {high} bytes, and {share.requests} hung for "
            f"{share.stall_ns / 1e9:.2f} s.{_of_tunnel(tunnel, low, high, outer_mtu)}{_of_sender(beside, high)} {_of_icmp(facts)}",
            contrast=f"plain loss would have hit some of the {passed} smaller packets too, and a dead peer would have passed none",
            details={
                "variant": "at-sender" if facts[0].at_sender else "at-receiver",
                "direction": "from-server" if facts[0].from_server else "from-client",
                "path_mtu_low": low,
                "path_mtu_high": high,
                "candidates": guesses,
                "failed_sends": failed,
                "passed": passed,
                **beside,
                **({} if tunnel is None else {"tunnel": tunnel.name, "overhead_len": tunnel.overhead_len, "outer_path_mtu": outer_mtu}),
            },
            identity=(str(low), str(high)),
            # At the receiver the large packets never show; what shows is that the sender counts on beyond them.
            wireshark_filter="" if facts[0].at_sender else "tcp.analysis.lost_segment && tcp.len == 0",
        )
        yield conclusion if tunnel is None else replace(conclusion, remedy=_remedy_of(tunnel, low, outer_mtu))


def _of_icmp(facts: list[Facts]) -> str:
    """What routers said."""
    told = min((f.told_outside for f in facts if f.tunnel is not None and f.told_outside is not None), default=None)
    if told is not None:
        return f"A Packet Too Big told the tunnel's end an MTU of {told:,}, and nobody told the sender."
    return "No Packet Too Big came." if any(f.icmp_captured for f in facts) else "No ICMP of any kind is in this capture."


def _beside(tables: Tables, flows: Sequence[int], *, from_server: bool) -> dict[str, int]:
    """What lay beside the capture about the sender: its sockets' path MTU (`ss`), the MTU of its interface (`ip`), in bytes."""
    facts, ends = tables.host_facts, tables.flows
    found: dict[str, int] = {}
    for flow in flows if facts else ():
        client = tables.addresses.packed[ends.client[flow]], int(ends.client_port[flow])
        server = tables.addresses.packed[ends.server[flow]], int(ends.server_port[flow])
        local, remote = (server, client) if from_server else (client, server)
        for name, mtu in (("sender_pmtu", facts.pmtu_between(*local, *remote)), ("sender_mtu", facts.mtu_at(local[0]))):
            if mtu is not None:
                found[name] = max(mtu, found.get(name, 0))
    return found


def _of_sender(beside: dict[str, int], high: int) -> str:
    """The sentence about what lay beside the capture, with a space before it; only what explains the large packets."""
    if beside.get("sender_pmtu", 0) > high:
        return f" By ss on the sender's host its sockets took the path for {beside['sender_pmtu']:,} bytes."
    if "sender_pmtu" not in beside and beside.get("sender_mtu", 0) > high:
        return f" By ip on the sender's host its interface has an MTU of {beside['sender_mtu']:,} bytes."
    return ""


def _guesses(low: int, high: int, tunnel: Enclosure | None, outer_mtu: int | None, facts: HostFacts) -> list[str]:
    """What path MTUs in the bracket commonly come from; what the capture or its hosts show does not have to be guessed."""
    if tunnel is not None and outer_mtu is not None:
        return [f"{outer_mtu - tunnel.overhead_len} ({outer_mtu:,} less {tunnel.overhead_len} bytes {tunnel.name})"]
    if known := sorted({(link.mtu, link.name) for link in facts.links if low <= link.mtu <= high}):
        return [f"{mtu} ({name} of a host beside the capture)" for mtu, name in known]
    return [f"{mtu} ({what})" for mtu, what in _OVERHEADS.items() if low <= mtu <= high] if high - low <= _NARROW else []


def _of_tunnel(tunnel: Enclosure | None, low: int, high: int, outer_mtu: int | None) -> str:
    """The sentence about the tunnel that the capture shows, with a space before it."""
    if tunnel is None:
        return ""
    if outer_mtu is not None:
        return f" They travel in {tunnel.name}, and this fits: {tunnel.sum_of(outer_mtu)}."
    more = tunnel.overhead_len
    return f" They travel in {tunnel.name}, {more} bytes more: outside, the path MTU lies between {low + more} and {high + more} bytes."


def _remedy_of(tunnel: Enclosure, low: int, outer_mtu: int | None) -> tuple[str, ...]:
    """What to set on the tunnel's ends, in bytes."""
    inside = low if outer_mtu is None else outer_mtu - tunnel.overhead_len
    less = "" if outer_mtu is None else f" ({outer_mtu:,} less {tunnel.overhead_len} bytes {tunnel.name})"
    return (
        f"Tell the hosts what the tunnel leaves: ip link set dev <tunnel or container interface> mtu {inside}{less}",
        f"Or make room outside: an MTU of {1_500 + tunnel.overhead_len:,} on every link under the tunnel carries 1,500 bytes inside "
        f"{tunnel.name}.",
        *_EVERYWHERE[:3],
    )


DETECTOR = Detector(
    code=LABEL.code,
    title="Path MTU black hole",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=_EVERYWHERE,
    references=("RFC 2923 section 2.1", "RFC 4821 section 7.7", "RFC 8899 section 4.3", "RFC 8900"),
    wireshark_filter="ip.len > 1280 && tcp.analysis.retransmission",
)
