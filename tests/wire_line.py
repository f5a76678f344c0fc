"""The line between two hosts, with a tap on it: when packets leave, pass the tap, arrive, and are acknowledged."""

from __future__ import annotations

import copy
import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from tests.wire_bytes import UDP, Ip, ethernet
from tests.wire_host import ACK, PSH, Blocks, Changes, Host, Offer, Segment
from tests.wire_recording import Recording

if TYPE_CHECKING:
    from collections.abc import Collection

Side = Literal["client", "server"]
Vantage = Literal["client", "server", "middle"]
Lose = Literal["before", "after", "capture"]
"""Lost between its sender and the tap, lost behind the tap, or delivered and missed by the capture."""

START_NS = 1_767_323_045_000_000_000
"""2026-01-02T03:04:05Z: when every Wire begins."""
MS = 1_000_000
TAP_NS = 10_000
"""How far the tap is from the host it stands beside."""
DELAYED_ACK_NS = 40 * MS


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of the packets of one action on their way."""

    lose: Lose | None = None
    late_ns: int = 0
    only: Collection[int] | None = None

    def of(self, index: int) -> Fate:
        """The fate of one of them."""
        return self if self.only is None or index in self.only else Fate()


class Line(Recording):
    """Two hosts, a fixed delay, a tap."""

    def __init__(self, hosts: dict[Side, Host], offer: Offer, vantage: Vantage, *, rtt_ns: int, mbps: int, begin_ns: int) -> None:
        self._hosts, self._offer, self._vantage, self._mbps, self._rtt_ns = hosts, offer, vantage, mbps, rtt_ns
        self._clock = begin_ns
        self._pending_ns = self._clock_error_ns = 0
        self._copy_after_ns: int | None = None
        self._actor: Side | None = None
        self._last_data: Side = "client"
        self._order = 0
        self._events: list[tuple[int, int, Side, Segment | None]] = []
        """(time, tie-breaker, host, segment that arrives there, or None: its delayed ACK may be due)."""
        self._sights: list[tuple[int, int, int, bytes]] = []
        """(true time at the tap, tie-breaker, time as captured, frame)."""

    def sights(self) -> list[tuple[int, int, bytes]]:
        """What the tap saw, up to the last acknowledgment that is still to come."""
        finished = copy.deepcopy(self)
        finished._run(None)
        return [(true_ns, shown_ns, data) for true_ns, _, shown_ns, data in sorted(finished._sights)]

    def _peer(self, side: Side) -> Host:
        return self._hosts["server" if side == "client" else "client"]

    def _turn(self, side: Side) -> Host:
        """Lets time pass until this host acts, and gives the host."""
        host = self._hosts[side]
        heard_ns = self._clock if side == self._actor else host.heard_ns
        self._clock = max(self._clock, heard_ns) + self._pending_ns
        self._pending_ns, self._actor = 0, side
        self._run(self._clock)
        return host

    def _put_all(self, by: Side, start: int, payload: bytes, fate: Fate, *, every_ns: int, changes: Changes) -> Self:
        room = self._offer.room
        for index, at in enumerate(range(0, len(payload), room)):
            if index:
                self._clock = max(self._clock + every_ns, self._hosts[by].free_ns)
                self._run(self._clock)
            flags = ACK | (PSH if at + room >= len(payload) else 0)
            one = fate.of(index)
            self._put(by, start + at, flags, payload[at : at + room], lose=one.lose, late_ns=one.late_ns, changes=changes)
        return self

    def _put(
        self,
        by: Side,
        start: int,
        flags: int,
        payload: bytes = b"",
        *,
        lose: Lose | None = None,
        late_ns: int = 0,
        changes: Changes | None = None,
        duplicate_block: Blocks = (),
        at_ns: int | None = None,
    ) -> Self:
        """Builds a segment from what its host knows at this time, and sends it. `at_ns`: by itself, not as an action."""
        host = self._hosts[by]
        ids = max(1, -(-len(payload) // self._offer.room))
        segment = Segment(
            start=start,
            payload=payload,
            flags=flags,
            ack=host.expects,
            window=host.window,
            ts_val=host.tick_base + ((self._clock if at_ns is None else at_ns) - START_NS) // MS,
            ts_ecr=host.tick_seen if flags & ACK else 0,
            sack=() if payload else (*duplicate_block, *host.early),
            ttl=host.ttl,
            ip_id=host.takes_ids(0 if changes and "ip_id" in changes else ids),
        )
        segment = replace(segment, **(changes or {}))
        if segment.flags & ACK:
            host.acknowledged, host.owes = segment.ack, 0
        if payload and start >= 0:
            host.last_sent, self._last_data = (start, start + len(payload)), by
        return self._transmit(by, host.encode(segment, self._peer(by)), Fate(lose, late_ns), segment, at_ns)

    def _transmit(self, by: Side, packet: bytes, fate: Fate, segment: Segment | None = None, at_ns: int | None = None) -> Self:
        host, peer = self._hosts[by], self._peer(by)
        depart_ns = max(self._clock if at_ns is None else at_ns, host.free_ns)
        host.free_ns = depart_ns + len(packet) * 8_000 // self._mbps
        host.last_packet, host.last_sent_ns = packet, depart_ns
        if fate.lose not in {"before", "capture"}:
            self._record(depart_ns + fate.late_ns + self._to_tap(by), ethernet(host.mac, peer.mac, packet))
        if fate.lose not in {"before", "after"}:
            arrival_ns = depart_ns + fate.late_ns + self._rtt_ns // 2
            peer.heard_ns = max(peer.heard_ns, arrival_ns) if at_ns is None else peer.heard_ns
            if segment is not None:
                self._schedule(arrival_ns, "server" if by == "client" else "client", segment)
        return self

    def _to_tap(self, by: Side) -> int:
        if self._vantage == "middle":
            return self._rtt_ns // 4
        return TAP_NS if self._vantage == by else self._rtt_ns // 2 - TAP_NS

    def _record(self, true_ns: int, data: bytes) -> None:
        delays = (0,) if self._copy_after_ns is None else (0, self._copy_after_ns)
        for delay_ns in delays:
            self._order += 1
            self._sights.append((true_ns + delay_ns, self._order, true_ns + delay_ns + self._clock_error_ns, data))

    def _schedule(self, at_ns: int, side: Side, segment: Segment | None) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_ns, self._order, side, segment))

    def _run(self, until_ns: int | None) -> None:
        """Lets arrive what arrives until then (None: everything), and receivers acknowledge it."""
        while self._events and (until_ns is None or self._events[0][0] <= until_ns):
            at_ns, _, side, segment = heapq.heappop(self._events)
            host = self._hosts[side]
            block: Blocks = ()
            if segment is None:
                due = host.owes > 0 and at_ns >= host.ack_due_ns
            else:
                owed = host.owes
                due, block = host.absorb(segment)
                if host.owes > owed == 0 and not due:
                    host.ack_due_ns = at_ns + DELAYED_ACK_NS
                    self._schedule(host.ack_due_ns, side, None)
            if due and host.mode != "none":
                self._put(side, host.next_start, ACK, duplicate_block=block, at_ns=at_ns)

    def _udp_ip(self, by: Side, *, must_have_id: bool = False) -> Ip:
        host = self._hosts[by]
        ip_id = host.takes_ids(1)
        if must_have_id and not host.counts_ids:
            ip_id, host.next_id = host.next_id, host.next_id + 1
        return Ip(src=host.address, dst=self._peer(by).address, proto=UDP, ttl=host.ttl, ip_id=ip_id, dont_fragment=False)
