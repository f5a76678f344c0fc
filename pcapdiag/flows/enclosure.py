"""Which tunnel a flow's packets travel in, and what it leaves of a path's MTU.

A tap shows packets bare on one side of a tunnel's end and wrapped on the other, so it is asked for two hosts, not for
one flow. Copies that a switch, a cloud or a host mirrors to an analyser come wrapped too, but never travelled so.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.packets.opaque import ESP
from pcapdiag.packets.table import UDP
from pcapdiag.packets.tunnel import IP_TUNNELS, TUNNEL_PROTOCOLS, UDP_TUNNELS
from pcapdiag.spool import windows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets, Tunnel
    from pcapdiag.spool import Room

_NAMES: Final = {
    "vxlan": "VXLAN", "vxlan-gpe": "VXLAN-GPE", "geneve": "GENEVE", "gre": "GRE", "erspan": "ERSPAN", "gtp-u": "GTP-U", "l2tp": "L2TP",
    "pppoe": "PPPoE", "mpls": "MPLS", "ipip": "IPIP", "gue": "GUE", "lisp": "LISP", "teredo": "Teredo", "etherip": "EtherIP", "pbb": "PBB",
    "nsh": "NSH", "mpls-in-ip": "MPLS in IP", "mpls-in-udp": "MPLS in UDP", "ethernet-in-ip": "Ethernet in IP", "fabricpath": "FabricPath",
    "macsec": "MACsec", "bridged": "bridged Ethernet", "esp": "IPsec ESP",
}  # fmt: skip
"""Label -> how people write it; others are written as they are."""
_MIRRORS: Final = frozenset({"erspan"})
_LINK_HEADERS: Final = {"pppoe": 8}
"""Bytes that headers without IP of their own take from a link's MTU (RFC 2516 section 7)."""

_LINK_MTUS: Final = (1_500, 9_000, 9_001, 8_900, 8_500)
USUAL_MTUS: Final = (*_LINK_MTUS, 1_492, 1_480, 1_476, 1_460, 1_450, 1_440, 1_420, 1_400, 1_280)
"""MTUs that links and clouds have, the likeliest first: Ethernet, jumbo frames, transit gateways, and tunnels in tunnels."""


@dataclass(frozen=True, slots=True)
class Enclosure:
    """The headers around the packets between two hosts."""

    name: str
    """Outermost first, e.g. "VXLAN" or "GRE and VXLAN"."""
    overhead_len: int
    """Bytes they take from the MTU of the path outside."""

    def outer_mtu(self, low: int, high: int, told: int | None = None) -> int | None:
        """The MTU of the path outside that leaves between low and high bytes inside: as a router told it, else a usual one, or None."""
        likely = USUAL_MTUS if told is None else (told, *USUAL_MTUS)
        return next((mtu for mtu in likely if low <= mtu - self.overhead_len <= high), None)

    def sum_of(self, outer_mtu: int) -> str:
        """The calculation, e.g. "path MTU 1,500 less 50 bytes VXLAN = 1,450 for the inner packets"."""
        inside = outer_mtu - self.overhead_len
        return f"path MTU {outer_mtu:,} less {self.overhead_len} bytes {self.name} = {inside:,} for the inner packets"


class Enclosures:
    """The tunnels between hosts: worked out once, for all pairs of them."""

    __slots__ = ("_tunnels", "_ways")

    def __init__(self, packets: Packets, room: Room | None = None) -> None:
        self._tunnels = packets.tunnels
        self._ways: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
        """(source, target) -> tunnels that take bytes, by number, and hashes of the link-layer addresses they came with."""
        taking = [number for number, tunnel in enumerate(packets.tunnels) if overhead_of(tunnel) > 0]
        for part in windows(len(packets) if taking else 0, room):
            rows = part.start + np.flatnonzero(np.isin(packets.tunnel[part], taking))
            columns = (packets.src[rows], packets.dst[rows], packets.tunnel[rows], packets.link_hash[rows])
            for src, dst, *way in np.unique(np.stack(columns, axis=1).astype(np.int64), axis=0).tolist():
                self._ways[src, dst].add((way[0], way[1]))

    def of(self, tcp: TcpTables, flow: int) -> Enclosure | None:
        """The tunnel between the two hosts of a flow; the one with most headers when there are several, None when there is none."""
        return self.between(int(tcp.flows.client[flow]), int(tcp.flows.server[flow]))

    def between(self, one: int, other: int) -> Enclosure | None:
        """The same for two addresses, by their numbers."""
        forth, back = self._ways.get((one, other), set()), self._ways.get((other, one), set())
        numbers = {number for number, _ in forth | back}
        for number in sorted(numbers, key=lambda n: (-overhead_of(self._tunnels[n]), n)):
            if not self._mirrored(number, forth, back):
                tunnel = self._tunnels[number]
                return Enclosure(name_of(tunnel), overhead_of(tunnel))
        return None

    def _mirrored(self, number: int, forth: set[tuple[int, int]], back: set[tuple[int, int]]) -> bool:
        """Was this traffic only copied to an analyser? Then both directions arrive from the same sender over the same link.

        Their network identifiers may differ: a mirror session of each end has its own.
        """
        kinds = _kinds(self._tunnels[number])
        if not _MIRRORS.isdisjoint(kinds):
            return True
        there, hither = ({link for tunnel, link in way if link > 0 and _kinds(self._tunnels[tunnel]) == kinds} for way in (forth, back))
        return not there.isdisjoint(hither)


def reported_outside(packets: Packets) -> int | None:
    """Least MTU that a Packet Too Big named for a tunnel's own packets without showing what is inside them; None: no such report.

    Many routers quote only 8 bytes behind the IP header (RFC 792), so that nobody learns which inner packet it was.
    """
    errors = packets.icmp_errors
    named = (errors.proto != UDP) | np.isin(errors.dport, list(UDP_TUNNELS))
    about = (errors.mtu > 0) & (errors.overhead_len == 0) & np.isin(errors.proto, list(TUNNEL_PROTOCOLS)) & named
    return int(errors.mtu[about].min()) if about.any() else None


def tunnel_of_datagram(packets: Packets, row: int) -> str:
    """The tunnel whose packet row `row` of FragmentGroups is: as its whole shows, else its protocol or port; "" for none."""
    groups = packets.fragments
    header, proto = int(groups.header_row[row]), int(groups.proto[row])
    if header >= 0 and packets.tunnels[packets.tunnel[header]].overhead_len and packets.src[header] != groups.src[row]:
        return name_of(packets.tunnels[packets.tunnel[header]])
    label = ""
    if proto == UDP and int(groups.dport[row]) in UDP_TUNNELS:
        label = UDP_TUNNELS[int(groups.dport[row])][0]
    elif proto in IP_TUNNELS:
        label = IP_TUNNELS[proto][0][0]
    elif proto == ESP:
        label = "esp"
    return _NAMES.get(label, label)


def explained_mtu(mtu: int, quoted_overhead_len: int, tunnel: Enclosure | None) -> str:
    """Why an MTU that was reported is that small, in brackets with a space before: what a tunnel took of it; else nothing.

    Either the report quotes a tunnel's packet, and the tunnel's headers were subtracted from what it says, or the router
    stands before the tunnel, and has done so itself.
    """
    if quoted_overhead_len:
        name = "tunnel headers" if tunnel is None or tunnel.overhead_len != quoted_overhead_len else tunnel.name
        return f" (path MTU {mtu + quoted_overhead_len:,} less {quoted_overhead_len} bytes {name}, for the inner packets)"
    if tunnel is None or mtu + tunnel.overhead_len not in _LINK_MTUS:
        return ""
    return f" (path MTU {mtu + tunnel.overhead_len:,} less {tunnel.overhead_len} bytes {tunnel.name}, for the inner packets)"


def _kinds(tunnel: Tunnel) -> tuple[str, ...]:
    """Its labels without their numbers."""
    return tuple(label.partition(" ")[0] for label in tunnel.path)


def overhead_of(tunnel: Tunnel) -> int:
    """Bytes a tunnel takes from the MTU of the path around it; bytes that only switches see do not count."""
    if tunnel.overhead_len:
        return tunnel.overhead_len
    return sum(_LINK_HEADERS.get(kind, 0) for kind in _kinds(tunnel))


def name_of(tunnel: Tunnel) -> str:
    """What a path of labels is called, without VLANs and numbers."""
    return listed(_NAMES.get(kind, kind) for kind in _kinds(tunnel) if kind != "vlan")


def listed(names: Iterable[str]) -> str:
    """Each name once, with "and" before the last."""
    once = list(dict.fromkeys(names))
    return once[0] if len(once) == 1 else f"{', '.join(once[:-1])} and {once[-1]}" if once else ""
