"""What a capture cannot show, said in so many words: silence about it is no all-clear (CAUSES section 0, vantage honesty)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.exchanges.table import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.flows.table import Quality
    from pcapdiag.trace import Tables


def not_observable(tables: Tables) -> tuple[str, ...]:
    """Sentences, in a fixed order."""
    return tuple(dict.fromkeys(_sentences(tables)))


def _sentences(tables: Tables) -> Iterator[str]:
    several = len(tables.captures) > 1
    for capture, quality, opinion in zip(tables.captures, tables.quality, tables.vantages, strict=True):
        prefix = f"{capture.name}: " if several else ""
        for sentence in (*_of_vantage(opinion.side), *_of_content(quality)):
            yield prefix + sentence
    if any(exchange.protocol is Protocol.TLS for exchange in tables.exchanges):
        yield "requests inside TLS: the capture has no keys, so exchanges are inferred from sizes and times"


def _of_vantage(side: str) -> Iterator[str]:
    if side == "server":
        yield "client DNS lookups, SYNs lost before the server and waits inside the client: the capture was taken at the server"
        yield "packets sent by the client that never arrived show only as gaps in its IP-IDs"
    elif side == "client":
        yield "whether a lost SYN or its SYN-ACK was dropped, and what happened behind the server: the capture was taken at the client"
    elif side == "middle":
        yield "waits inside both ends and DNS lookups elsewhere: the capture was taken between them"
    else:
        yield f"on which side of this capture a packet was lost: its vantage is {side}"


def _of_content(quality: Quality) -> Iterator[str]:
    if not quality.saw_icmp:
        yield "ICMP: no ICMP packet is in this capture, so a missing Packet Too Big proves nothing"
    if not quality.saw_dns:
        yield "client DNS: no port 53 in this capture"
    if quality.one_way_flows:
        yield f"the other direction of {quality.one_way_flows} of {quality.tcp_flows} connections"
    if quality.cut_frames:
        yield f"the end of {quality.cut_frames} packets: the capture kept only their beginning (snaplen)"
