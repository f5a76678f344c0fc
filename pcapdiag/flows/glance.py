"""All packets of each capture at a glance: what it saw at all, what it cut, whether all have one port in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.packets.table import ICMP, ICMPV6, TCP, UDP
from pcapdiag.spool import windows

if TYPE_CHECKING:
    from pcapdiag.columns import Rows
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room

SHOWN = 12
"""Frame numbers that are kept of what is many."""
_DNS = 53
_PADDED_LEN = 64
"""Ethernet frames are filled up to so many bytes (IEEE 802.3 section 3.2.8): of a shorter one only padding may be missing."""
_LINK_LEN = 22
"""An Ethernet header with two VLAN tags; what is more may be a trailer."""


@dataclass(slots=True)
class Glance:
    """What the packets of one capture are."""

    packet_count: int = 0
    data_count: int = 0
    """TCP packets with data."""
    cut_count: int = 0
    cut_frames: list[int] = field(default_factory=list)
    """The first of them."""
    cut_header_count: int = 0
    """TCP packets without data that were cut all the same, in their options."""
    saw_icmp: bool = False
    saw_dns: bool = False
    saw_fragments: bool = False
    _ports: tuple[int, ...] | None = None
    """Ports that all packets so far have, the first packet's source port before its destination port; None before the first."""
    _others: dict[int, set[int]] = field(default_factory=dict)
    """For each of them a few of the ports at the other end."""

    @property
    def port(self) -> int:
        """A port that all packets have, at the end of several ports; 0 for none.

        The client's own port stays one as well when there is only one connection: nothing follows from that.
        """
        port = next((one for one in self._ports or () if one), 0)
        return port if len(self._others.get(port, ())) > 1 else 0

    def add(self, packets: Packets, rows: slice | Rows) -> None:
        """Takes the next packets of the capture."""
        proto, cut = packets.proto[rows], packets.cut[rows]
        sport, dport = packets.sport[rows], packets.dport[rows]
        self.packet_count += len(proto)
        self.data_count += int(((proto == TCP) & (packets.payload_len[rows] > 0)).sum())
        cut_at = np.flatnonzero(cut)
        self.cut_count += len(cut_at)
        self.cut_frames += packets.frame[rows][cut_at[: SHOWN - len(self.cut_frames)]].tolist()
        self.cut_header_count += _cut_headers(packets, cut_at + rows.start if isinstance(rows, slice) else rows[cut_at])
        self.saw_icmp |= bool(((proto == ICMP) | (proto == ICMPV6)).any())
        self.saw_dns |= bool(((proto == UDP) & ((sport == _DNS) | (dport == _DNS))).any())
        self.saw_fragments |= bool(((packets.frag_offset[rows] > 0) | packets.more_fragments[rows]).any())
        if self._ports is None:
            self._ports = (int(sport[0]), int(dport[0]))
        if not np.isin(proto, (TCP, UDP)).all():
            self._ports = ()
        self._ports = tuple(port for port in self._ports if bool(((sport == port) | (dport == port)).all()))
        for port in self._ports:
            others = self._others.setdefault(port, set())
            if len(others) < 2:
                others |= set(np.unique(np.where(sport == port, dport, sport))[:2].tolist())


def _cut_headers(packets: Packets, cut: Rows) -> int:
    """How many of the cut packets were cut in their TCP options, as far as packets without data show it."""
    frame_len = packets.frame_len[cut].astype(np.int64)
    bare = (packets.proto[cut] == TCP) & (packets.payload_len[cut] == 0) & (frame_len > _PADDED_LEN)
    return int((bare & (frame_len - packets.ip_len[cut] <= _LINK_LEN)).sum())


def glance(packets: Packets, capture_count: int, room: Room | None) -> list[Glance]:
    """One per capture."""
    seen = [Glance() for _ in range(capture_count)]
    for part in windows(len(packets), room):
        capture = packets.capture[part]
        if capture[0] == capture[-1] and (capture == capture[0]).all():
            seen[int(capture[0])].add(packets, part)
            continue
        for one in np.unique(capture).tolist():
            seen[one].add(packets, part.start + np.flatnonzero(capture == one))
    return seen
