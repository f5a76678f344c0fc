"""duplicate-packets: the capture holds the same packets twice; the network sent them once.

## What it does
It counts packets that equal an earlier one in addresses, IP-ID, sequence numbers, flags, window, timestamps and length,
within 10 ms, as a resend never does (within 2 s where everything comes twice, by two clocks); a TTL one lower and other
link-layer addresses show a copy behind a router. A connection seen on both sides of an address translator (variant nat)
has two legs with the same numbers and timestamps, packet by packet. A connection that two captures show (variant view)
is analysed as one of them saw it: the one that shows most, if that is enough of the connection. Copies, the leg farther from
the client and the other view were set aside before anything else was measured.

## Why it matters
Tools that keep the copies count every one as a retransmission or duplicate ACK and report heavy loss on a healthy path.
Here they cost nothing: no diagnosis is built on them.

## When it is wrong
IPv6 and packets with IP-ID 0 have no number; such copies count only when they came another way, or with data and a
timestamp within 1 ms, or where the capture copies many others. A proxy opens connections of its own: its two sides are
no copies.

## Remedy
Capture on one interface instead of `any`, or one side of a bridge; mirror a port in one place. Old files:
`editcap -d in.pcap out.pcap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pcapdiag.capture.frames import Capture
from pcapdiag.findings import Conclusion, Defect, Detector, Domain, Limits, concluded, shown
from pcapdiag.flows.table import Quality
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Sign
from pcapdiag.trace import Tables, Trace

CODE = "duplicate-packets"


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The first copies; and the first packets of farther legs, with how the two legs are called as fact."""
    yield from shown(trace, CODE, lambda quality: quality.copy_frames, "a copy of an earlier packet")
    yield from shown(trace, CODE, lambda quality: quality.view_frames, "of a connection that another capture shows")
    legs = trace.tcp.legs
    for number in shown(trace, CODE, lambda quality: quality.leg_frames, "the same packet on the other side of an address translation"):
        mine = (legs.capture == number.frames[0].capture).nonzero()[0].tolist()
        pairs = tuple((int(legs.flow[row]), f"{_leg(trace, row)} is {_near(trace, row)}") for row in mine)
        yield replace(number, facts=pairs)


def _near(trace: Trace, row: int) -> str:
    flow = int(trace.tcp.legs.flow[row])
    return f"{trace.client(flow)} to {trace.server(flow)}"


def _leg(trace: Trace, row: int) -> str:
    legs, names = trace.tcp.legs, trace.addresses
    client = names.endpoint(int(legs.client[row]), int(legs.client_port[row]))
    return f"{client} to {names.endpoint(int(legs.server[row]), int(legs.server_port[row]))}"


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with copies."""

    def defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
        if not quality.copies:
            return _second_view(capture, quality) if quality.view_packets else None
        legs = [leg for sign in signs if sign.frames[0].capture == index and isinstance(sign.facts, tuple) for leg in sign.facts]
        said = [f"{quality.copies:,} of {capture.frame_count:,} frames in {capture.name} are copies that the capture made"]
        if legs:
            said.append(f"{quality.leg_packets:,} of them show {_counted(len(legs))} a second time behind an address translator "
                        f"({legs[0][1]}); the leg nearer the client is analysed")  # fmt: skip
        elif quality.routed_copies:
            said.append(f"{quality.routed_copies:,} of them passed a router in between")
        if quality.view_packets:
            said.append(f"{quality.view_packets:,} others show connections that another capture shows, too")
        return Defect(
            evidence="same IP-ID, sequence numbers and timestamps",
            summary="; ".join(said) + "; they were set aside and are no retransmissions",
            contrast="a resent packet carries a new IP-ID or timestamp and comes a round trip later",
            flows=tuple(sorted({leg[0] for leg in legs})),
            details={
                "variant": "nat" if legs else "routed" if quality.routed_copies else None, "copies": quality.copies,
                "frames": capture.frame_count, "routed": quality.routed_copies, "nat_packets": quality.leg_packets, "nat_legs": len(legs),
            },
        )  # fmt: skip

    return concluded(CODE, tables, signs, defect)


def _second_view(capture: Capture, quality: Quality) -> Defect:
    """What another capture shows, too."""
    return Defect(
        evidence="same IP-ID, sequence numbers and timestamps in two captures",
        summary=f"{quality.view_packets:,} of {capture.frame_count:,} frames in {capture.name} show connections that another of these "
        "captures shows, too: they are analysed as that one saw them; --pair compares two captures packet by packet",
        contrast="two taps have two clocks and stand at two places: what both show, mixed, happened nowhere",
        details={"variant": "view", "copies": 0, "views": quality.view_packets, "frames": capture.frame_count},
    )  # fmt: skip


def _counted(legs: int) -> str:
    return "one connection" if legs == 1 else f"{legs} connections"


DETECTOR = Detector(
    code=CODE,
    title="The capture holds packets twice",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Capture on one interface: tcpdump -i eth0, not -i any; one side of a bridge or veth pair.",
        "Mirror port: mirror each packet once (one direction on inner ports, or both on the uplink only).",
        "Other tools need the copies gone first: editcap -d in.pcap out.pcap",
    ),
    references=("Paxson, Automated Packet Trace Analysis of TCP Implementations, SIGCOMM 1997, section 3", "RFC 6864"),
    wireshark_filter="tcp.analysis.retransmission || tcp.analysis.duplicate_ack",
)
