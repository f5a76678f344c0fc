"""ip-fragmentation: packets travel in IP fragments, which firewalls drop and nobody resends.

## What it does
It counts the datagrams that were captured in fragments, per sender and receiver, and how many of them were whole. It
charges no time: lost fragments that a lookup had to wait for are ip-fragment-loss.

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

import numpy as np

from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limits
from pcapdiag.packets.table import TCP, UDP
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfFlow, Sign, Tier
from pcapdiag.trace import Tables, Trace

_NO_TIME = Label(Tier.REST, 9, "ip-fragmentation")
"""Below every label of the ledger: its signs carry facts, never seconds."""
_NO_FLOW = -1
_FRAMES = 3
_NAMES = {TCP: "TCP", UDP: "UDP"}


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


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per sender, receiver and protocol."""
    groups, packets = trace.packets.fragments, trace.packets
    between: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(groups.src.tolist(), groups.dst.tolist(), groups.proto.tolist(), strict=True)):
        between[key].append(row)
    for (src, dst, proto), found in between.items():
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
            ),
        )  # fmt: skip


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One risk for all of them."""
    facts = [sign.facts for sign in signs if isinstance(sign.facts, Facts)]
    if not facts:
        return
    most = max(facts, key=lambda fact: (fact.datagrams, fact.longest))
    datagrams, incomplete = sum(fact.datagrams for fact in facts), sum(fact.incomplete for fact in facts)
    others = f" and {len(facts) - 1} other pairs" if len(facts) > 1 else ""
    yield Conclusion(
        code=_NO_TIME.code, kind=FindingKind.RISK, confidence=signs[0].confidence,
        flows=tuple(sorted({s.scope.flow for s in signs if isinstance(s.scope, OfFlow) and s.scope.flow != _NO_FLOW})),
        frames=tuple(frame for sign in signs for frame in sign.frames)[:12],
        summary=f"{datagrams} datagrams came in IP fragments, {incomplete} of them never whole: {most.proto} of up to {most.longest} bytes "
        f"from {most.src} to {most.dst}{others}",
        contrast="TCP segments that fit the path are never fragmented; these datagrams depend on every hop to pass fragments",
        details={"datagrams": datagrams, "incomplete": incomplete, "longest_len": most.longest, "protocol": most.proto},
    )  # fmt: skip


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
