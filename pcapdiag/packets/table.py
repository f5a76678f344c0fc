"""The output of step 2: one row per decoded IP packet, and the small tables beside it."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from pcapdiag.columns import I8, I32, I64, U8, U16, U32, Bools, Col, Table, rows_between
from pcapdiag.spool import windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pcapdiag.spool import Room

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
"""IP protocol numbers (IANA)."""

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
"""TCP flags (RFC 9293 section 3.1, RFC 3168)."""


def address_text(packed: bytes) -> str:
    """An address of 4 or 16 bytes as people write it."""
    return str(ipaddress.ip_address(packed))


def endpoint_text(packed: bytes, port: int) -> str:
    """address:port, IPv6 in brackets."""
    address = address_text(packed)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The distinct IP addresses of a trace: 4 or 16 bytes each; a row's `src` is an index into them."""

    packed: tuple[bytes, ...]

    def text(self, index: int) -> str:
        """The address as people write it."""
        return address_text(self.packed[index])

    def endpoint(self, index: int, port: int) -> str:
        """address:port, IPv6 in brackets."""
        return endpoint_text(self.packed[index], port)


@dataclass(frozen=True, slots=True)
class Blob:
    """Captured bytes, kept as the buffers they were read into; one offset space over all of them."""

    buffers: tuple[U8, ...]
    views: tuple[memoryview, ...]
    """The same."""
    starts: tuple[int, ...]
    """Offset of each buffer, ascending; starts[0] == 0."""

    @classmethod
    def of(cls, buffers: list[U8]) -> Blob:
        """Lays buffers one behind the other."""
        ends = np.cumsum([0, *(len(b) for b in buffers)]).tolist()
        return cls(tuple(buffers), tuple(buffer.data for buffer in buffers), tuple(ends[:-1]))

    def read(self, at: int, length: int) -> memoryview:
        """The bytes [at, at + length), which never cross a buffer."""
        index = bisect_right(self.starts, at) - 1
        begin = at - self.starts[index]
        return self.views[index][begin : begin + length]


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The headers between the link layer and an inner IP packet."""

    path: tuple[str, ...]
    """Outermost first, e.g. ("vlan 10", "vxlan 42"); empty: no tunnel."""
    overhead_len: int
    """Bytes of header from the outermost IP header to the innermost one; 0 without a tunnel. Outer VLAN tags do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets(Table):
    """One row per decoded IP packet (the innermost one inside tunnels), capture by capture, each in the order of its file.

    Ports, TCP fields and payload are 0 for rows they do not apply to: later fragments (`frag_offset` > 0) and
    other protocols. A reassembled datagram is the row of its first fragment, with the ports and the whole payload
    (`payload_len` then exceeds `ip_len`, which stays that of the first fragment); a first fragment too short for its
    transport header has no ports. The payload of ICMP rows is the whole ICMP message, from its type on.
    """

    capture: Annotated[U16, Col("index of the capture among the inputs")]
    frame: Annotated[I64, Col("frame number in that capture, as Wireshark counts")]
    ts_ns: Annotated[I64, Col("capture time since the epoch", "ns")]
    interface: Annotated[U16, Col("index into the interfaces of its capture")]
    frame_len: Annotated[U32, Col("length of the frame on the wire", "bytes")]
    cut: Annotated[Bools, Col("fewer bytes were captured than the frame or its IP packet had (snaplen)")]
    direction: Annotated[I8, Col("what the link layer says: 1 sent by the capturing host, 0 received by it, -1 it does not say")]
    link_hash: Annotated[U32, Col("hash of the link-layer addresses (both MACs, VLAN ids); 0 when there are none")]
    src_link_hash: Annotated[U32, Col("hash of the sending link-layer address; 0 when there is none")]
    tunnel: Annotated[U16, Col("index into tunnels: the headers around this IP packet")]
    src: Annotated[I32, Col("index into addresses")]
    dst: Annotated[I32, Col("index into addresses")]
    ip_version: Annotated[U8, Col("4 or 6")]
    ttl: Annotated[U8, Col("TTL or hop limit")]
    ip_id: Annotated[U16, Col("IPv4 identification; of an IPv6 fragment its low 16 bits; else 0")]
    dont_fragment: Annotated[Bools, Col("IPv4 DF; true for IPv6")]
    ecn: Annotated[U8, Col("ECN field, RFC 3168")]
    ip_len: Annotated[I32, Col("IP packet length on the wire, header included (from the frame when the field is 0: TSO)", "bytes")]
    ip_len_zero: Annotated[Bools, Col("the IP length field was 0 (segmentation offload)")]
    frag_offset: Annotated[I32, Col("fragment offset", "bytes")]
    more_fragments: Annotated[Bools, Col("IPv4 MF or its IPv6 counterpart")]
    proto: Annotated[U8, Col("protocol of the transport header, behind IPv6 extension headers")]
    sport: Annotated[U16, Col("TCP or UDP source port")]
    dport: Annotated[U16, Col("TCP or UDP destination port")]
    seq: Annotated[U32, Col("TCP sequence number as sent")]
    ack: Annotated[U32, Col("TCP acknowledgment number as sent; 0 without ACK")]
    flags: Annotated[U8, Col("TCP flags")]
    window: Annotated[U16, Col("TCP window field as sent, not scaled")]
    mss: Annotated[U16, Col("MSS option; 0: none", "bytes")]
    window_shift: Annotated[I8, Col("window scale option; above 14 it counts as 14 (RFC 7323 section 2.3); -1: none")]
    sack_permitted: Annotated[Bools, Col("SACK-permitted option")]
    has_ts: Annotated[Bools, Col("timestamps option present")]
    ts_val: Annotated[U32, Col("TSval, the sender's own ticks")]
    ts_ecr: Annotated[U32, Col("TSecr, the peer's ticks echoed")]
    payload_at: Annotated[I64, Col("where the transport payload begins in `blob`", "bytes")]
    payload_len: Annotated[I32, Col("transport payload on the wire, as the IP length says, even of a frame shorter than that", "bytes")]
    payload_captured: Annotated[I32, Col("of it, in the capture", "bytes")]
    blob: Blob
    addresses: Addresses
    tunnels: tuple[Tunnel, ...]
    """Index 0 is "no tunnel"."""
    sacks: SackBlocks
    icmp_errors: IcmpErrors
    fragments: FragmentGroups

    def span_ns(self, rows: slice, room: Room | None = None) -> tuple[int, int]:
        """The earliest and the latest time of some rows (raises ValueError for none)."""
        edges = [(int(times.min()), int(times.max())) for part in windows(rows.stop - rows.start, room)
                 if len(times := self.ts_ns[rows.start + part.start : rows.start + part.stop])]  # fmt: skip
        return min(low for low, _ in edges), max(high for _, high in edges)

    def rows_of(self, capture: int, frames: Sequence[int]) -> list[int]:
        """The rows of some frames of one capture, ascending; frames that have none are left out."""
        mine = rows_between(self.capture, capture, capture + 1)
        wanted = sorted(set(frames))
        at = (mine.start + np.searchsorted(self.frame[mine], wanted)).tolist()
        return [row for row, frame in zip(at, wanted, strict=True) if row < mine.stop and int(self.frame[row]) == frame]

    def captures(self, room: Room | None = None) -> Iterator[slice]:
        """The rows of each capture that has some."""
        begin = 0
        while begin < len(self):
            stop = int(np.searchsorted(self.capture, self.capture[begin], side="right"))
            yield slice(begin, stop)
            begin = stop
            if room is not None:
                room.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class SackBlocks(Table):
    """One row per SACK block (RFC 2018), in packet order."""

    row: Annotated[I64, Col("row in Packets")]
    index: Annotated[U8, Col("position in the option, from 0; a DSACK (RFC 2883) is a block 0")]
    left: Annotated[U32, Col("first sequence number of the block, as sent")]
    right: Annotated[U32, Col("sequence number behind the block, as sent")]


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpErrors(Table):
    """One row per ICMP or ICMPv6 error that quotes a packet (RFC 792, 4443).

    The quoted packet is the innermost one that the quote still shows: of a tunnel's packet, the packet inside it.
    """

    row: Annotated[I64, Col("row in Packets: the ICMP packet itself; its src is who sent the error")]
    type: Annotated[U8, Col("ICMP type")]
    code: Annotated[U8, Col("ICMP code")]
    mtu: Annotated[I64, Col("next-hop MTU of a Packet Too Big, as reported; -1: not a PTB", "bytes")]
    src: Annotated[I32, Col("source of the quoted packet, index into addresses")]
    dst: Annotated[I32, Col("destination of the quoted packet, index into addresses")]
    proto: Annotated[U8, Col("protocol of the quoted packet")]
    sport: Annotated[U16, Col("source port of the quoted packet; 0: not quoted")]
    dport: Annotated[U16, Col("destination port of the quoted packet; 0: not quoted")]
    seq: Annotated[I64, Col("TCP sequence number of the quoted packet; -1: not quoted")]
    ip_len: Annotated[I32, Col("length of the quoted packet on the wire", "bytes")]
    ip_id: Annotated[U16, Col("IPv4 identification of the quoted packet")]
    overhead_len: Annotated[I32, Col("tunnel headers before it in the quote: within the reported MTU it has so much less", "bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentGroups(Table):
    """One row per fragmented IP datagram (RFC 791 section 3.2, RFC 8200 section 4.5), in the order of their first rows.

    Fragments of one capture with the same source, destination, protocol and identification belong together for 30 s;
    exact copies of a fragment join its group.
    """

    first_row: Annotated[I64, Col("first row in Packets")]
    last_row: Annotated[I64, Col("last row in Packets")]
    header_row: Annotated[I64, Col("row of the fragment with offset 0; -1: not captured")]
    capture: Annotated[U16, Col("index of the capture among the inputs")]
    src: Annotated[I32, Col("index into addresses")]
    dst: Annotated[I32, Col("index into addresses")]
    proto: Annotated[U8, Col("protocol of the fragmented datagram")]
    ip_id: Annotated[U32, Col("identification: 16 bits of IPv4, 32 of IPv6")]
    fragment_count: Annotated[I32, Col("captured fragments, copies included")]
    total_len: Annotated[I32, Col("IP payload of the whole datagram; -1: its last fragment was not captured", "bytes")]
    received_len: Annotated[I32, Col("bytes of it that the captured fragments cover, as lengths on the wire", "bytes")]
    complete: Annotated[Bools, Col("every byte was covered, and no two fragments contradicted each other")]
    first_ns: Annotated[I64, Col("earliest capture time of a fragment", "ns")]
    last_ns: Annotated[I64, Col("latest capture time of a fragment", "ns")]
    sport: Annotated[U16, Col("TCP or UDP source port that its first fragment shows; 0: unknown")]
    dport: Annotated[U16, Col("TCP or UDP destination port that its first fragment shows; 0: unknown")]
