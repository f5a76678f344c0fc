"""Headers and records, byte by byte: Ethernet, IPv4, IPv6, TCP, UDP, ICMP and the classic capture file."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

TCP, UDP, ICMP, ICMPV6, FRAGMENT = 6, 17, 1, 58, 44
NANOSECOND_MAGIC = 0xA1B23C4D
LINKTYPE_ETHERNET = 1


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); a ones' complement sum is the number itself modulo 65,535."""
    return (0xFFFF - int.from_bytes(data + b"\0" * (len(data) % 2)) % 0xFFFF) % 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Ip:
    """What an IP header says, apart from its lengths."""

    src: str
    dst: str
    proto: int
    ttl: int = 64
    ip_id: int = 0
    dont_fragment: bool = True
    ecn: int = 0

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.src).version

    @property
    def _addresses(self) -> bytes:
        return ipaddress.ip_address(self.src).packed + ipaddress.ip_address(self.dst).packed

    def pseudo_header(self, length: int) -> bytes:
        """What TCP, UDP and ICMPv6 sum up before their own bytes (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
        return self._addresses + struct.pack("!HH" if self.version == 4 else "!II", self.proto, length)

    def packet(self, payload: bytes) -> bytes:
        """The whole packet. An IPv4 length beyond 65,535 is written as 0, as offloading kernels do."""
        if self.version == 6:
            return struct.pack("!IHBB", 6 << 28 | self.ecn << 20, len(payload), self.proto, self.ttl) + self._addresses + payload
        return self._v4(payload, 0x4000 if self.dont_fragment else 0) + payload

    def fragments(self, payload: bytes, mtu: int) -> list[bytes]:
        """The packet cut so that no piece is longer than `mtu` (RFC 791 section 2.3, RFC 8200 section 4.5)."""
        room = (mtu - (20 if self.version == 4 else 48)) // 8 * 8
        pieces = []
        for at in range(0, len(payload), room):
            piece, more = payload[at : at + room], at + room < len(payload)
            if self.version == 4:
                pieces.append(self._v4(piece, at // 8 | more << 13) + piece)
                continue
            header = struct.pack("!BBHI", self.proto, 0, at | more, self.ip_id)
            outer = struct.pack("!IHBB", 6 << 28 | self.ecn << 20, len(header + piece), FRAGMENT, self.ttl)
            pieces.append(outer + self._addresses + header + piece)
        return pieces

    def _v4(self, payload: bytes, flags_and_offset: int) -> bytes:
        length = 20 + len(payload)
        fields = (0x45, self.ecn, length if length <= 0xFFFF else 0, self.ip_id, flags_and_offset, self.ttl, self.proto)
        head = struct.pack("!BBHHHBB", *fields)
        return head + struct.pack("!H", checksum(head + self._addresses)) + self._addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp:
    """A TCP header; `window` is the field as sent."""

    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes = b""

    def segment(self, payload: bytes, ip: Ip) -> bytes:
        """Header, options and payload with the checksum for that IP header."""
        offset = 5 + len(self.options) // 4
        ports = struct.pack("!HHII", self.sport, self.dport, self.seq % 2**32, self.ack % 2**32)
        control = struct.pack("!BBH", offset << 4, self.flags, self.window)
        rest = struct.pack("!H", 0) + self.options + payload
        zeroed = ports + control + b"\0\0" + rest
        return ports + control + struct.pack("!H", checksum(ip.pseudo_header(len(zeroed)) + zeroed)) + rest


def tcp_options(
    *,
    mss: int | None = None,
    shift: int | None = None,
    sack_permitted: bool = False,
    timestamps: tuple[int, int] | None = None,
    sack: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """Options as Linux lays them out, padded with NOP to whole words."""
    options = b""
    if mss is not None:
        options += struct.pack("!BBH", 2, 4, mss)
    if sack_permitted:
        options += bytes([4, 2])
    if timestamps is not None:
        options += (b"" if sack_permitted else b"\x01\x01") + struct.pack("!BBII", 8, 10, *timestamps)
    if shift is not None:
        options += bytes([1, 3, 3, shift])
    if sack:
        edges = [edge % 2**32 for block in sack for edge in block]
        options += bytes([1, 1, 5, 2 + 4 * len(edges)]) + struct.pack(f"!{len(edges)}I", *edges)
    return options + b"\x01" * (-len(options) % 4)


def udp_datagram(ip: Ip, sport: int, dport: int, payload: bytes) -> bytes:
    """Header and payload with the checksum for that IP header."""
    head = struct.pack("!HHH", sport, dport, 8 + len(payload))
    summed = checksum(ip.pseudo_header(8 + len(payload)) + head + b"\0\0" + payload) or 0xFFFF
    return head + struct.pack("!H", summed) + payload


def icmp_error(ip: Ip, type_: int, code: int, rest: int, quote: bytes) -> bytes:
    """An ICMP or ICMPv6 error (RFC 792, RFC 4443); `rest` fills its second word."""
    body = struct.pack("!BBHI", type_, code, 0, rest) + quote
    prefix = ip.pseudo_header(len(body)) if ip.proto == ICMPV6 else b""
    return body[:2] + struct.pack("!H", checksum(prefix + body)) + body[4:]


def ethernet(src: bytes, dst: bytes, packet: bytes) -> bytes:
    """An Ethernet frame around an IP packet."""
    return dst + src + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def pcap(frames: list[tuple[int, bytes]], *, snaplen: int = 262_144) -> bytes:
    """A classic capture file with nanoseconds; frames are (time in ns since the epoch, bytes) in file order."""
    parts = [struct.pack("<IHHiIII", NANOSECOND_MAGIC, 2, 4, 0, 0, snaplen, LINKTYPE_ETHERNET)]
    for ts_ns, data in frames:
        seconds, nanoseconds = divmod(ts_ns, 1_000_000_000)
        parts += [struct.pack("<IIII", seconds, nanoseconds, min(len(data), snaplen), len(data)), data[:snaplen]]
    return b"".join(parts)
