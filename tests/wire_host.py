"""One end of a TCP connection, as far as a test needs it: what it sent, what it holds, what it acknowledges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from tests.wire_bytes import TCP, Ip, Tcp, tcp_options

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SYN_WINDOW = 64_240
"""As Linux offers it; the window of a SYN is never scaled (RFC 7323 section 2.2)."""
FILL = bytes(range(33, 122))
"""What bytes of no interest are, by their offset."""

Mode = Literal["quick", "delayed", "none"]
Blocks = tuple[tuple[int, int], ...]
"""Stream ranges [start, stop) of a SACK option."""


class Changes(TypedDict, total=False):
    """Header fields that a test sets itself; offsets are stream offsets, the window is in bytes."""

    ack: int
    window: int
    flags: int
    ttl: int
    ip_id: int
    ecn: int
    dont_fragment: bool
    ts_val: int
    ts_ecr: int
    sack: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A TCP segment in stream offsets: byte 0 is the first behind the SYN, whose own offset is -1."""

    start: int
    payload: bytes = b""
    flags: int = ACK
    ack: int
    window: int
    ts_val: int
    ts_ecr: int
    sack: Sequence[tuple[int, int]] = ()
    ttl: int
    ip_id: int
    ecn: int = 0
    dont_fragment: bool = True

    @property
    def stop(self) -> int:
        """Offset behind its last byte; a FIN counts as one (RFC 9293 section 3.4)."""
        return self.start + len(self.payload) + bool(self.flags & (FIN | SYN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What both SYNs offer."""

    mss: int
    timestamps: bool
    sack: bool
    wscale: int | None

    @property
    def room(self) -> int:
        """Payload of a full segment: the MSS less the options of every data segment (RFC 6691)."""
        return self.mss - (12 if self.timestamps else 0)


@dataclass(slots=True, kw_only=True)
class Host:
    """The state of one end; offsets, not sequence numbers."""

    address: str
    port: int
    mac: bytes
    ttl: int
    isn: int
    tick_base: int
    """TSval at the start of the test."""
    offer: Offer
    counts_ids: bool
    next_id: int
    window: int = 1 << 20
    mode: Mode = "quick"
    stream: bytearray = field(default_factory=bytearray)
    """All bytes it ever sent, so that a resend repeats them."""
    next_start: int = 0
    fin_at: int | None = None
    last_sent: tuple[int, int] = (0, 0)
    """Stream range of the last data segment."""
    last_packet: bytes = b""
    """The last IP packet it sent: what an ICMP error quotes."""
    last_sent_ns: int = 0
    expects: int = 0
    """Lowest byte of the peer it does not have."""
    early: list[tuple[int, int]] = field(default_factory=list)
    """Ranges received beyond `expects`, the newest first, as SACK reports them."""
    owes: int = 0
    """Data segments received and not yet acknowledged."""
    ack_due_ns: int = 0
    """When the delayed ACK for the first of them is due."""
    acknowledged: int = 0
    """The last acknowledgment it sent."""
    tick_seen: int = 0
    heard_ns: int = 0
    """When the last thing its peer did on purpose arrives."""
    free_ns: int = 0
    """When its line is free for the next packet."""

    def takes_ids(self, count: int) -> int:
        """The IP-ID of the next packet, which counts as `count` of them."""
        if not self.counts_ids:
            return 0
        first, self.next_id = self.next_id, (self.next_id + count) % 65_536
        return first

    def write(self, start: int | None, data: int | bytes) -> tuple[int, bytes]:
        """Puts bytes (or so many fill bytes) at a stream offset, and returns the offset with them."""
        at = len(self.stream) if start is None else start
        payload = data if isinstance(data, bytes) else (FILL * (data // len(FILL) + 2))[at % len(FILL) :][:data]
        if at > len(self.stream):
            self.stream += bytes(at - len(self.stream))
        self.stream[at : at + len(payload)] = payload
        self.next_start = max(self.next_start, at + len(payload))
        return at, payload

    def absorb(self, segment: Segment) -> tuple[bool, Blocks]:
        """Takes a segment in; says whether an ACK is due at once, and the DSACK block it earns (RFC 2883)."""
        if self.offer.timestamps and segment.start <= self.acknowledged:
            self.tick_seen = segment.ts_val  # RFC 7323 section 4.3
        if segment.flags & (SYN | RST):
            return False, ()
        if segment.stop == segment.start:
            return segment.start == self.expects - 1, ()  # a keep-alive is answered, a pure ACK is not
        if segment.stop <= self.expects:
            return segment.start < self.expects, ((segment.start, segment.stop),)
        had_holes = bool(self.early)
        if segment.start > self.expects:
            self._keep(segment.start, segment.stop)
            return True, ()
        self.expects = segment.stop
        while touching := [block for block in self.early if block[0] <= self.expects]:
            self.early = [block for block in self.early if block not in touching]
            self.expects = max(self.expects, *(stop for _, stop in touching))
        self.owes += 1
        pushed = self.mode == "quick" and bool(segment.flags & PSH)
        return had_holes or pushed or self.owes >= 2 or bool(segment.flags & FIN), ()

    def _keep(self, start: int, stop: int) -> None:
        touching = [block for block in self.early if block[0] <= stop and start <= block[1]]
        merged = (min([start, *(a for a, _ in touching)]), max([stop, *(b for _, b in touching)]))
        self.early = [merged, *(block for block in self.early if block not in touching)]

    def encode(self, segment: Segment, peer: Host) -> bytes:
        """The segment as an IP packet."""
        is_syn = bool(segment.flags & SYN)
        shift = 0 if is_syn or self.offer.wscale is None else self.offer.wscale
        sack = tuple((peer.isn + 1 + a, peer.isn + 1 + b) for a, b in segment.sack) if self.offer.sack else ()
        options = tcp_options(
            mss=self.offer.mss if is_syn else None,
            shift=self.offer.wscale if is_syn else None,
            sack_permitted=is_syn and self.offer.sack,
            timestamps=(segment.ts_val, segment.ts_ecr) if self.offer.timestamps else None,
            sack=sack[: 3 if self.offer.timestamps else 4],
        )
        ip = Ip(
            src=self.address,
            dst=peer.address,
            proto=TCP,
            ttl=segment.ttl,
            ip_id=segment.ip_id,
            dont_fragment=segment.dont_fragment,
            ecn=segment.ecn,
        )
        tcp = Tcp(
            sport=self.port,
            dport=peer.port,
            seq=self.isn + 1 + segment.start,
            ack=peer.isn + 1 + segment.ack if segment.flags & ACK else 0,
            flags=segment.flags,
            window=min(segment.window >> shift, 65_535),
            options=options,
        )
        return ip.packet(tcp.segment(segment.payload, ip))
