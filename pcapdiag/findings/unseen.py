"""What a capture cannot show, said in so many words: silence about it is no all-clear (CAUSES section 0, vantage honesty)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.exchanges.table import Protocol
from pcapdiag.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pcapdiag.flows.table import Quality
    from pcapdiag.trace import Tables


_HIDDEN = {
    Loss.ESP: ("IPsec ESP", "packets", "capture on the virtual interface behind it (xfrm, vti), or where it ends"),
    Loss.WIREGUARD: ("WireGuard", "packets", "capture on the tunnel's own interface (wg0)"),
    Loss.OPENVPN: ("OpenVPN", "packets", "capture on the tunnel's own interface (tun0)"),
    Loss.DTLS: ("DTLS", "records", "capture where it ends"),
    Loss.MACSEC: ("MACsec", "frames", "capture on the MACsec interface (macsec0) of a host"),
    Loss.PPP_HIDDEN: ("compressed or encrypted PPP", "frames", "capture on the interface it ends at (ppp0)"),
    Loss.WLAN_ENCRYPTED: (
        "encrypted Wi-Fi",
        "frames",
        "capture on a station's own interface without monitor mode, or behind the access point",
    ),
}
"""What is counted of traffic that nobody can look into -> its name, what the count counts, and where it can be seen."""


def not_observable(tables: Tables) -> tuple[str, ...]:
    """Sentences, in a fixed order."""
    return tuple(dict.fromkeys(_sentences(tables)))


def _sentences(tables: Tables) -> Iterator[str]:
    several = len(tables.captures) > 1
    for index, (capture, quality, opinion) in enumerate(zip(tables.captures, tables.quality, tables.vantages, strict=True)):
        prefix = f"{capture.name}: " if several else ""
        for sentence in (
            *(_of_vantage(opinion.side) if tables.pair is None else ()),
            *_of_content(quality),
            *_of_tunnels(tables.losses.of(index)),
        ):
            yield prefix + sentence
    if tables.pair is not None:
        near, far = (tables.captures[one].name for one in (tables.pair.near, tables.pair.far))
        yield f"what happens before {near} and behind {far}: between the two nothing goes unseen but what both of them dropped"
    if tables.exchanges.is_any(Protocol.TLS).any():
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
    if quality.filtered in {"port", "declared"}:
        yield f"everything outside the capture's filter ({quality.filter_note})"
    if quality.cut_frames:
        yield f"the end of {quality.cut_frames} packets: the capture kept only their beginning (snaplen)"


def _of_tunnels(losses: Mapping[Loss, int]) -> Iterator[str]:
    for loss, (name, counted, elsewhere) in _HIDDEN.items():
        if loss in losses:
            yield f"the traffic inside {name} ({losses[loss]:,} {counted}): {elsewhere}"
