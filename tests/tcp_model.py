"""TCP analysis byte by byte: slow, and plain enough to be right at sight. The columns of step 3 must agree with it.

Offsets count from the first byte behind the SYN; a side without SYN counts from the first packet seen.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pcapdiag.columns import NEVER
from pcapdiag.flows.table import Kind
from pcapdiag.packets.table import ACK, FIN, RST, SYN, Packets
from tests.packet_rows import BEGIN_NS, MS, packets, row


class Sent(NamedTuple):
    """A packet; offsets are the sender's own (`at`) and its peer's (`ack`), 0 behind each SYN, whoever saw it."""

    side: int
    at: int
    length: int = 0
    flags: int = ACK
    ack: int = 0


class Seen(NamedTuple):
    """What the model says of a packet, under the names of Segments."""

    seq: int
    ack: int
    kind: Kind
    gap_len: int
    sends: int
    acked_len: int
    in_flight_len: int


@dataclass
class Stream:
    """One direction: every byte by its offset."""

    origin: int = 0
    synchronised: bool = False
    floor: int = 0
    """Without a SYN: where the first packet with bytes began. What lies below counts as seen before the capture."""
    high: int | None = None
    """Behind the highest byte so far; SYN and FIN count."""
    acked: int | None = None
    carried: Counter[int] = field(default_factory=Counter)
    """Data byte -> packets that carried it; the control bytes are in `controls`."""
    controls: Counter[tuple[str, int]] = field(default_factory=Counter)
    first_ns: dict[int, int] = field(default_factory=dict)
    acks: list[tuple[int, int]] = field(default_factory=list)
    """(offset, time) of each advance of the cumulative ACK for these bytes."""

    def acked_ns(self, byte: int) -> int:
        return next((ts_ns for offset, ts_ns in self.acks if offset > byte), NEVER)

    def gaps(self) -> list[tuple[int, int]]:
        """Maximal ranges that no packet carried, though their last byte was acknowledged. One byte above all is the FIN."""
        if not self.first_ns and not self.synchronised:
            return []
        last, top = max(self.first_ns, default=-1), max((offset for offset, _ in self.acks), default=0)
        ends = [top] if top > last + 2 else []
        found, at = [], 0 if self.synchronised else min(self.first_ns)
        for byte in [*sorted(b for b in self.first_ns if b >= at), *ends]:
            if byte > at and self.acked_ns(byte - 1) < NEVER:
                found.append((at, byte))
            at = byte + 1
        return found

    def in_order(self) -> dict[int, int]:
        """Data byte -> when it and all below had been seen (or, lost by the capture alone, been acknowledged)."""
        if not self.first_ns:
            return {}
        excused = {b: self.acked_ns(stop - 1) for start, stop in self.gaps() for b in range(start, stop)}
        result, latest = {}, 0
        for byte in range(0 if self.synchronised else min(self.first_ns), max(self.first_ns) + 1):
            latest = max(latest, self.first_ns.get(byte, excused.get(byte, NEVER)))
            if byte in self.first_ns:
                result[byte] = latest
        return result


def observe(sent: list[Sent]) -> tuple[list[Seen], tuple[Stream, Stream]]:
    """Every packet and both streams, packet i seen i ms after the begin."""
    streams = (Stream(), Stream())
    for side, stream in enumerate(streams):
        mine = [one for one in sent if one.side == side]
        stream.synchronised = any(one.flags & SYN and not one.flags & RST for one in mine)
        regular = [one for one in mine if not one.flags & RST] or mine
        stream.origin = 0 if stream.synchronised or not regular else regular[0].at
    return [_observe(one, BEGIN_NS + i * MS, streams) for i, one in enumerate(sent)], streams


def _observe(one: Sent, ts_ns: int, streams: tuple[Stream, Stream]) -> Seen:
    own, peer = streams[one.side], streams[1 - one.side]
    is_rst, is_syn, is_fin = bool(one.flags & RST), bool(one.flags & SYN), bool(one.flags & FIN)
    seq = one.at - own.origin
    data = range(seq + is_syn, seq + is_syn + one.length)
    stop = seq + is_syn + one.length + is_fin
    gap_len = max(0, seq - own.high) if own.high is not None and not is_rst else 0
    if own.high is None:
        own.floor = 0 if own.synchronised else seq
    kind, sends = _kind(own, one, seq, data), 0
    ack, acked_len = -1, 0
    if one.flags & ACK and not is_rst:
        ack = one.ack - peer.origin
        if peer.acked is None or ack > peer.acked:
            acked_len = ack - peer.acked if peer.acked is not None else 0
            peer.acked = ack
            peer.acks.append((ack, ts_ns))
    if not is_rst and stop > seq:
        probe = kind is Kind.KEEP_ALIVE  # its byte is garbage
        sends = 1 if probe else _count(own, data, seq, stop, is_syn=is_syn, is_fin=is_fin)
        for byte in data if not probe else ():
            if byte >= own.floor:
                own.first_ns.setdefault(byte, ts_ns)
        own.high = stop if own.high is None else max(own.high, stop)
    in_flight = own.high - own.acked if sends and own.high is not None and own.acked is not None and own.high >= own.acked else -1
    return Seen(seq, ack, kind, gap_len, sends, acked_len, in_flight)


def _kind(own: Stream, one: Sent, seq: int, data: range) -> Kind:
    if one.flags & RST:
        return Kind.CONTROL
    if one.flags & SYN:
        return Kind.SYN if own.high is None or seq >= own.high else Kind.SYN_AGAIN
    if own.high is not None and seq == own.high - 1 and len(data) <= 1 and not one.flags & FIN:
        return Kind.KEEP_ALIVE
    if not data:
        return Kind.FIN if one.flags & FIN else Kind.CONTROL
    if own.high is None or data.stop > own.high:
        return Kind.NEW
    return Kind.SEEN_AGAIN if all(byte in own.carried or byte < own.floor for byte in data) else Kind.FILL


def _count(own: Stream, data: range, seq: int, stop: int, *, is_syn: bool, is_fin: bool) -> int:
    """Notes the bytes of a packet, and says how many packets have carried its first one."""
    own.carried.update(data)
    own.controls.update([("syn", seq)] * is_syn + [("fin", stop - 1)] * is_fin)
    if is_syn:
        return own.controls["syn", seq]
    return own.carried[seq] + (seq < own.floor) if data else own.controls["fin", seq]


def as_packets(sent: list[Sent], isns: tuple[int, int]) -> Packets:
    """The same as decoded packets, sequence numbers wrapped; packet i is seen i ms after the begin."""
    return packets(
        *(
            row(
                i * MS, back=bool(one.side), seq=isns[one.side] + 1 + one.at, payload_len=one.length, flags=one.flags,
                ack=isns[1 - one.side] + 1 + one.ack if one.flags & ACK else 0,
            )
            for i, one in enumerate(sent)
        )
    )  # fmt: skip
