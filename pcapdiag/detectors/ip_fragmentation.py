"""ip-fragmentation: packets travel in IP fragments, which firewalls drop and nobody resends.

## What it does
It counts the datagrams that were captured in fragments, per sender and receiver, and how many of them were whole. Where
they are a tunnel's packets it names the tunnel and says what MTU its inner packets must keep to. It charges no time: lost
fragments that a lookup had to wait for are ip-fragment-loss.

## Why it matters
A fragmented datagram is lost when any fragment is; firewalls, NATs and load balancers often drop later fragments,
because they carry no ports. What works today fails on another path (RFC 8900).

## When it is wrong
It never is about the fact. Whether it matters depends on the path: inside one data centre fragments may be harmless.

## Remedy
Send smaller datagrams: EDNS buffer size 1232 for DNS, path MTU discovery for the rest; fix tunnels whose inner MTU is
too large.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcapdiag.columns import Rows
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limits
from pcapdiag.flows.enclosure import USUAL_MTUS, Enclosure, tunnel_of_datagram
from pcapdiag.packets.table import TCP, UDP
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

_NO_TIME = Label(Tier.REST, 9, "ip-fragmentation")
"""Below every label of the ledger: its signs carry facts, never seconds."""
_NO_FLOW = -1
_FRAMES = 3
_FRAGMENT_STEP = 8
_FRAGMENT_HEADER_LEN = 8
_NAMES = {TCP: "TCP", UDP: "UDP"}


@dataclass(frozen=True, slots=True)
class Cut:
    """A tunnel whose packets were cut up by the IP header outside."""

    name: str
    overhead_len: int
    """Bytes of its headers; 0: no datagram was whole, so nobody knows."""
    packet_len: int
    """Its longest packet, IP header included; bytes."""
    path_mtu: int
    """What the fragments fit; bytes. 0: unknown."""

    def sentence(self) -> str:
        """The calculation behind the remedy."""
        said = f"{self.name} packets of up to {self.packet_len:,} bytes were cut up by their outer header"
        if not (self.overhead_len and self.path_mtu):
            return said
        inner = self.packet_len - self.overhead_len
        return f"{said}: {Enclosure(self.name, self.overhead_len).sum_of(self.path_mtu)}, which are up to {inner:,} bytes long"

    def remedy(self) -> tuple[str, ...]:
        """What to set on the tunnel's ends, in bytes where they are known."""
        if not (self.overhead_len and self.path_mtu):
            return (f"Lower the MTU inside {self.name} until no packet of the tunnel needs fragments, or clamp the MSS there.",)
        return (
            f"Inside {self.name}: ip link set dev <tunnel or container interface> mtu {self.path_mtu - self.overhead_len}",
            f"Or make room outside: an MTU of {self.packet_len:,} on every link under the tunnel.",
            "Or clamp: iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """The fragmented datagrams of one sender to one receiver."""

    src: str
    dst: str
    proto: str
    datagrams: int
    incomplete: int
    longest: int
    """Largest IP payload known; bytes."""
    tunnel: Cut | None = None
    """Set when the datagrams are a tunnel's packets."""


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per sender, receiver and protocol."""
    groups, packets = trace.packets.fragments, trace.packets
    between: dict[tuple[int, int, int, str], list[int]] = defaultdict(list)
    for row, (src, dst, proto) in enumerate(zip(groups.src.tolist(), groups.dst.tolist(), groups.proto.tolist(), strict=True)):
        between[src, dst, proto, tunnel_of_datagram(packets, row)].append(row)
    for (src, dst, proto, tunnel), found in between.items():
        rows = np.array(found)
        first = groups.first_row[rows]
        header = groups.header_row[rows]
        flows = trace.tcp.flow_of_row[header[header >= 0]]
        yield Sign(
            label=_NO_TIME, scope=OfFlow(int(flows.max(initial=_NO_FLOW))), start_ns=int(groups.first_ns[rows].min()),
            end_ns=int(groups.first_ns[rows].min()), confidence=Confidence(0.95, ("fragments captured",)),
            frames=tuple(
                Frame(int(packets.capture[at]), int(packets.frame[at]), int(packets.ts_ns[at]), "first fragment captured of a datagram")
                for at in first[:_FRAMES].tolist()
            ),
            facts=Facts(
                packets.addresses.text(src), packets.addresses.text(dst), _NAMES.get(proto, f"protocol {proto}"), len(rows),
                int((~groups.complete[rows]).sum()), int(np.maximum(groups.total_len[rows], groups.received_len[rows]).max()),
                _cut(trace, rows, tunnel) if tunnel else None,
            ),
        )  # fmt: skip


def _cut(trace: Trace, rows: Rows, name: str) -> Cut:
    """What the fragments of one tunnel between two hosts say about sizes."""
    groups, packets = trace.packets.fragments, trace.packets
    header_len = 20 if len(packets.addresses.packed[int(groups.src[rows[0]])]) == 4 else 40
    longest = int(np.maximum(groups.total_len[rows], groups.received_len[rows]).max()) + header_len
    opened = rows[groups.complete[rows] & (groups.header_row[rows] >= 0)]
    overhead_len = max((packets.tunnels[number].overhead_len for number in packets.tunnel[groups.header_row[opened]].tolist()), default=0)
    # Of two fragments the second begins where the first ended: that was as much as fitted, in steps of 8 bytes.
    pairs = rows[groups.fragment_count[rows] == 2]
    begins = np.maximum(packets.frag_offset[groups.first_row[pairs]], packets.frag_offset[groups.last_row[pairs]])
    first_len = int(begins.max(initial=0))
    used = first_len + header_len + (0 if header_len == 20 else _FRAGMENT_HEADER_LEN)
    fits = next((mtu for mtu in USUAL_MTUS if 0 <= mtu - used < _FRAGMENT_STEP), used)
    return Cut(name, overhead_len, longest, fits if first_len else 0)


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One risk for all of them."""
    facts = [sign.facts for sign in signs if isinstance(sign.facts, Facts)]
    if not facts:
        return
    most = max(facts, key=lambda fact: (fact.datagrams, fact.longest))
    datagrams, incomplete = sum(fact.datagrams for fact in facts), sum(fact.incomplete for fact in facts)
    said = "" if most.tunnel is None else f"; {most.tunnel.sentence()}"
    others = f" and {len(facts) - 1} other pairs" if len(facts) > 1 else ""
    yield Conclusion(
        code=_NO_TIME.code, kind=FindingKind.RISK, confidence=signs[0].confidence,
        flows=tuple(sorted({s.scope.flow for s in signs if isinstance(s.scope, OfFlow) and s.scope.flow != _NO_FLOW})),
        frames=tuple(frame for sign in signs for frame in sign.frames)[:12],
        summary=f"{datagrams} datagrams came in IP fragments, {incomplete} of them never whole: {most.proto} of up to {most.longest} bytes "
        f"from {most.src} to {most.dst}{others}{said}",
        contrast="TCP segments that fit the path are never fragmented; these datagrams depend on every hop to pass fragments",
        details={
            "datagrams": datagrams, "incomplete": incomplete, "longest_len": most.longest, "protocol": most.proto,
            **_details(most.tunnel),
        },
        remedy=() if most.tunnel is None else most.tunnel.remedy(),
    )  # fmt: skip


def _details(tunnel: Cut | None) -> dict[str, Any]:
    if tunnel is None:
        return {}
    return {"tunnel": tunnel.name, "overhead_len": tunnel.overhead_len or None, "path_mtu": tunnel.path_mtu or None}


DETECTOR = Detector(
    code=_NO_TIME.code,
    title="Traffic relies on IP fragments",
    domain=Domain.NETWORK,
    label=None,
    limits=Limits(),
    signs=signs,
    conclude=conclude,
    remedy=(
        "DNS: EDNS buffer size 1232 on resolvers and servers, TCP for larger answers.",
        "Find the sender's limit: ping -M do -s 1472 <destination>; tracepath -n <destination>",
        "Tunnels: lower the MTU inside, or clamp the MSS.",
    ),
    references=("RFC 8900", "RFC 9715"),
    wireshark_filter="ip.flags.mf == 1 || ip.frag_offset > 0 || ipv6.fraghdr.more == 1 || ipv6.fraghdr.offset > 0",
)
