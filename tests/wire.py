"""A conversation, written down as a test would tell it, and what a tap saw of it.

    Wire(vantage="client").handshake().send(b"GET ...").wait(ms=50).reply(4_000, lose="after").wait(ms=200).resend()

Two hosts and a tap on a line of fixed delay. An action happens at its host's own time: at once when the same host
acted last, else as soon as that host has heard what the other one did; `wait` adds to that. Lost packets are heard by
nobody. Receivers acknowledge by themselves (`acks` changes that), senders repeat nothing by themselves.
Offsets are stream offsets: byte 0 is the first one behind the SYN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

from tests.wire_bytes import ICMP, ICMPV6, Ip, ethernet, icmp_error, udp_datagram
from tests.wire_host import ACK, FIN, PSH, RST, SYN, SYN_WINDOW, Changes, Host, Mode, Offer
from tests.wire_line import MS, START_NS, TAP_NS, Fate, Line, Lose, Side, Vantage
from tests.wire_recording import Merged, Recording, merge

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["START_NS", "Merged", "Recording", "Side", "Wire", "merge"]

NEAR_TTL, FAR_TTL, MIDDLE_TTLS = 64, 57, (61, 60)


class Wire(Line):
    """One connection (or one pair of UDP ports) between a client and a server."""

    def __init__(
        self,
        client: str | None = None,
        server: str | None = None,
        cport: int = 50_000,
        sport: int = 80,
        *,
        mss: int = 1_460,
        rtt_ms: float = 20.0,
        vantage: Vantage = "client",
        timestamps: bool = True,
        sack: bool = True,
        wscale: int | None = 7,
        ipv6: bool = False,
        ip_id: bool = True,
        client_isn: int = 1_000,
        server_isn: int = 5_000_000,
        mbps: int = 1_000,
        start_ms: float = 0.0,
    ) -> None:
        offer = Offer(mss=mss, timestamps=timestamps, sack=sack, wscale=wscale)
        ttls = {"client": (NEAR_TTL, FAR_TTL), "server": (FAR_TTL, NEAR_TTL), "middle": MIDDLE_TTLS}[vantage]
        near = "2001:db8::" if ipv6 else "10.0.0."
        facts = [(client or f"{near}1", cport, client_isn, 70_000, 300), (server or f"{near}2", sport, server_isn, 9_000_000, 40_000)]
        ends = [
            Host(
                address=address,
                port=port,
                mac=bytes([2, 0, 0, 0, 0, index + 1]),
                ttl=ttls[index],
                isn=isn,
                tick_base=ticks,
                offer=offer,
                counts_ids=ip_id and not ipv6,
                next_id=first_id,
            )
            for index, (address, port, isn, ticks, first_id) in enumerate(facts)
        ]
        hosts: dict[Side, Host] = {"client": ends[0], "server": ends[1]}
        super().__init__(hosts, offer, vantage, rtt_ns=round(rtt_ms * MS), mbps=mbps, begin_ns=START_NS + round(start_ms * MS))

    # --- time and surroundings -------------------------------------------------------------------------------------

    def wait(self, ms: float) -> Self:
        """The host that acts next does so that much later than it could."""
        self._pending_ns += round(ms * MS)
        return self

    def rtt(self, ms: float) -> Self:
        """From now on the line is that long."""
        self._rtt_ns = round(ms * MS)
        return self

    def acks(self, mode: Mode, by: Side | None = None) -> Self:
        """How receivers acknowledge: "quick" (every second segment and every push), "delayed" (40 ms), or "none"."""
        for side, host in self._hosts.items():
            host.mode = mode if by in {None, side} else host.mode
        return self

    def advertise(self, by: Side, window: int) -> Self:
        """The window (bytes) in all that this host sends from now on."""
        self._hosts[by].window = window
        return self

    def duplicate(self, after_us: float = 3.0) -> Self:
        """From now on the capture shows every packet twice, as a mirror port of both directions does."""
        self._copy_after_ns = round(after_us * 1_000)
        return self

    def clock_step(self, ms: float) -> Self:
        """The clock of the capturing host jumps; true time does not."""
        self._clock_error_ns += round(ms * MS)
        return self

    # --- TCP -------------------------------------------------------------------------------------------------------

    def handshake(self) -> Self:
        """SYN, SYN-ACK, ACK."""
        return self.syn().syn_ack().ack()

    def syn(self, *, lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """The client asks for a connection; again: it asks again."""
        self._turn("client")
        return self._put("client", -1, SYN, lose=lose, changes={"window": SYN_WINDOW, **changes})

    def syn_ack(self, *, lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """The server accepts."""
        self._turn("server")
        return self._put("server", -1, SYN | ACK, lose=lose, changes={"window": SYN_WINDOW, **changes})

    def send(
        self,
        data: int | bytes,
        *,
        by: Side = "client",
        lose: Lose | None = None,
        only: Collection[int] | None = None,
        seq: int | None = None,
        late_ms: float = 0.0,
        every_ms: float = 0.0,
        **changes: Unpack[Changes],
    ) -> Self:
        """Bytes (or so many fill bytes) from the client, cut at the MSS, the last segment pushed.

        `only` names the segments of this call (from 0) that `lose` and `late_ms` concern; `seq` is a stream offset;
        `every_ms` paces the segments; `late_ms` holds packets up before the tap, so that others overtake them.
        """
        start, payload = self._turn(by).write(seq, data)
        return self._put_all(by, start, payload, Fate(lose, round(late_ms * MS), only), every_ns=round(every_ms * MS), changes=changes)

    def reply(
        self,
        data: int | bytes,
        *,
        lose: Lose | None = None,
        only: Collection[int] | None = None,
        seq: int | None = None,
        late_ms: float = 0.0,
        every_ms: float = 0.0,
        **changes: Unpack[Changes],
    ) -> Self:
        """`send`, from the server."""
        return self.send(data, by="server", lose=lose, only=only, seq=seq, late_ms=late_ms, every_ms=every_ms, **changes)

    def resend(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        by: Side | None = None,
        lose: Lose | None = None,
        only: Collection[int] | None = None,
        late_ms: float = 0.0,
        **changes: Unpack[Changes],
    ) -> Self:
        """Stream bytes [start, stop) once more.

        Without `stop` one segment; without `start` the last data segment of whoever sent data last.
        """
        side = by or self._last_data
        host = self._turn(side)
        first, last = host.last_sent if start is None else (start, start + self._offer.room)
        payload = bytes(host.stream[first : last if stop is None else stop])
        return self._put_all(side, first, payload, Fate(lose, round(late_ms * MS), only), every_ns=0, changes=changes)

    def supersegment(self, length: int, *, by: Side = "client", lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """One packet longer than the MSS, as a tap beside an offloading host shows it."""
        start, payload = self._turn(by).write(None, length)
        return self._put(by, start, PSH | ACK, payload, lose=lose, changes=changes)

    def ack(self, by: Side = "client", *, lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """A pure ACK; a `window` (bytes) given here holds from now on."""
        host = self._turn(by)
        host.window = changes.get("window", host.window)
        return self._put(by, host.next_start, ACK, lose=lose, changes=changes)

    def keepalive(self, by: Side = "client", *, length: int = 0, lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """A probe just below the next byte, with none or one old byte (RFC 9293 section 3.8.4)."""
        host = self._turn(by)
        return self._put(by, host.next_start - 1, ACK, bytes(length), lose=lose, changes=changes)

    def fin(self, by: Side = "client", *, lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """One host has sent all it will; again: the same FIN once more."""
        host = self._turn(by)
        host.fin_at = host.next_start if host.fin_at is None else host.fin_at
        host.next_start = host.fin_at + 1
        return self._put(by, host.fin_at, FIN | ACK, lose=lose, changes=changes)

    def close(self, by: Side = "client") -> Self:
        """Both FINs, `by` first."""
        return self.fin(by).fin("server" if by == "client" else "client")

    def rst(self, by: Side = "client", *, seq: int | None = None, lose: Lose | None = None, **changes: Unpack[Changes]) -> Self:
        """One host (or, with its own `ttl` and `ip_id`, somebody in its name) ends the connection."""
        host = self._turn(by)
        return self._put(by, host.next_start if seq is None else seq, RST | ACK, lose=lose, changes=changes)

    def http_get(self, path: str = "/", *, body: int | bytes = b"ok", status: str = "200 OK", think_ms: float = 0.0) -> Self:
        """A whole HTTP/1.1 exchange on the open connection; `think_ms` is the server's own time."""
        content = body if isinstance(body, bytes) else b"x" * body
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n\r\n"
        self.send(f"GET {path} HTTP/1.1\r\nHost: server.test\r\n\r\n".encode())
        return self.wait(ms=think_ms).reply(head.encode() + content)

    # --- other packets ---------------------------------------------------------------------------------------------

    def udp(self, payload: bytes, by: Side = "client", *, lose: Lose | None = None) -> Self:
        """A datagram between the two ports."""
        host, peer = self._turn(by), self._peer(by)
        ip = self._udp_ip(by)
        return self._transmit(by, ip.packet(udp_datagram(ip, host.port, peer.port, payload)), Fate(lose))

    def fragment(
        self,
        payload: bytes,
        by: Side = "server",
        *,
        mtu: int = 1_500,
        lose: Lose | None = None,
        only: Collection[int] | None = None,
    ) -> Self:
        """A datagram in IP fragments; `only` names the pieces (from 0) that `lose` concerns."""
        host, peer = self._turn(by), self._peer(by)
        ip = self._udp_ip(by, must_have_id=True)
        for index, piece in enumerate(ip.fragments(udp_datagram(ip, host.port, peer.port, payload), mtu)):
            self._transmit(by, piece, Fate(lose, 0, only).of(index))
        return self

    def icmp_ptb(self, mtu: int, *, quoting: Side | bytes = "client", router: str | None = None) -> Self:
        """A router half-way tells a host that its last packet was too big (RFC 1191, RFC 8201)."""
        version6 = ":" in self._hosts["client"].address
        return self.icmp(2 if version6 else 3, 0 if version6 else 4, rest=mtu, quoting=quoting, router=router)

    def icmp(self, type_: int, code: int, *, rest: int = 0, quoting: Side | bytes = "client", router: str | None = None) -> Self:
        """A router half-way reports an error about the last packet of a host (or about a packet given as bytes)."""
        packet = quoting if isinstance(quoting, bytes) else self._hosts[quoting].last_packet
        side: Side = "server" if quoting == "server" else "client"
        host, version6 = self._hosts[side], packet[0] >> 4 == 6
        ip = Ip(
            src=router or ("2001:db8:ffff::1" if version6 else "192.0.2.1"),
            dst=host.address,
            proto=ICMPV6 if version6 else ICMP,
            ttl=host.ttl - 1,
            dont_fragment=False,
        )
        owner = self._hosts[side]
        self._clock = max(self._clock, owner.last_sent_ns + self._rtt_ns // 2) + self._pending_ns
        self._pending_ns, self._actor = 0, side
        self._run(self._clock)
        if self._vantage in {side, "middle"}:
            body = icmp_error(ip, type_, code, rest, packet[: 1_232 if version6 else 548])
            self._record(self._clock - TAP_NS, ethernet(self._peer(side).mac, host.mac, ip.packet(body)))
        return self

    def packet(self, data: bytes, by: Side = "client") -> Self:
        """Any IP packet, as the tap sees it now."""
        return self.frame(ethernet(self._hosts[by].mac, self._peer(by).mac, data))

    def frame(self, data: bytes) -> Self:
        """Any Ethernet frame, as the tap sees it now."""
        self._clock, self._pending_ns = self._clock + self._pending_ns, 0
        self._run(self._clock)
        self._record(self._clock, data)
        return self
