"""Everything that can be unreadable or set aside, and its counter: nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter
from enum import Enum


class Loss(Enum):
    """Why something was not read; the value is the reason as reports print it, `sentence` explains it."""

    sentence: str

    def __new__(cls, slug: str, sentence: str) -> Loss:
        """A member's value is its slug; the sentence is an attribute."""
        member = object.__new__(cls)
        member._value_ = slug
        member.sentence = sentence
        return member

    # frames: these sum up with the decoded ones to all frames of a capture
    ARP = ("arp", "address resolution, not analysed")
    STP = ("stp", "spanning tree, not analysed")
    LLDP = ("lldp", "link-layer discovery, not analysed")
    LLC = ("llc", "IEEE 802.2 frame without IP inside")
    ETHERTYPE = ("other-ethertype", "a network protocol other than IPv4 and IPv6")
    LINK_TYPE = ("unknown-link-type", "a link type this program does not read")
    LINK_NO_IP = ("no-ip", "a link-layer frame without an IP packet in it")
    TRUNCATED_LINK = ("truncated-link-header", "captured bytes end inside the link-layer header")
    TRUNCATED_IP = ("truncated-ip-header", "captured bytes end inside the IP header")
    MALFORMED_IP = ("malformed-ip-header", "IP version, header length or total length make no sense")
    TRUNCATED_TCP = ("truncated-tcp-header", "captured bytes end inside the TCP header")
    MALFORMED_TCP = ("malformed-tcp-header", "TCP data offset below 5 words or beyond the packet")
    TRUNCATED_UDP = ("truncated-udp-header", "captured bytes end inside the UDP header")
    TRUNCATED_ICMP = ("truncated-icmp-header", "captured bytes end inside the ICMP header")
    TRUNCATED_TUNNEL = ("truncated-tunnel-header", "captured bytes end inside a tunnel header")
    TOO_DEEP = ("too-deep", "more tunnels around each other than this program opens")
    MACSEC = ("macsec", "an Ethernet frame that MACsec encrypts")
    PPP_HIDDEN = ("ppp-hidden", "a PPP frame that is compressed or encrypted")
    WLAN_NO_DATA = ("wlan-no-data", "an IEEE 802.11 frame of management, control or nothing")
    WLAN_ENCRYPTED = ("wlan-encrypted", "an encrypted IEEE 802.11 frame")
    WLAN_FRAGMENT = ("wlan-fragment", "a later fragment of an IEEE 802.11 frame")
    EMPTY_FRAME = ("empty-frame", "a record with no captured bytes")

    # records of a file
    BAD_RECORD_LENGTH = ("bad-record-length", "a record claims a length no capture can have")
    SKIPPED_BLOCK = ("skipped-block", "a pcapng block of a type that holds no packet")
    BAD_BLOCK = ("bad-block", "a pcapng block whose lengths contradict each other")
    BAD_BLOCK_OPTION = ("bad-block-option", "a pcapng option of a length it cannot have, or beyond the 256th of a packet")
    BAD_TIME = ("bad-timestamp", "a timestamp beyond the year 2116, set to that end")
    UNKNOWN_INTERFACE = ("unknown-interface", "a packet of an interface the file never described")

    # tunnels nobody can look into; the packets around them are decoded
    ESP = ("esp", "an IPsec ESP packet, whose inside is encrypted")
    WIREGUARD = ("wireguard", "a WireGuard packet, whose inside is encrypted")
    OPENVPN = ("openvpn", "an OpenVPN packet, whose inside is encrypted")
    DTLS = ("dtls", "a DTLS record, whose inside is encrypted")

    # inside what was decoded
    WLAN_AGGREGATED = ("wlan-aggregated", "an aggregated IEEE 802.11 frame, of which only the first packet is read")
    BAD_TCP_OPTION = ("bad-tcp-option", "a TCP option whose length is 0, 1, beyond the header or wrong for its kind")
    BAD_FRAGMENT = ("bad-fragment", "an IP fragment that overlaps another with different bytes, or ends beyond 65,535")
    UNDECODED_DNS = ("undecoded-dns", "a UDP port 53 payload that is no DNS message")
    HPACK_LOST = ("hpack-lost", "an HTTP/2 header block that cannot be decoded after a hole or a start in the middle")
    PROTOCOL_FAULT = ("protocol-fault", "bytes that break the protocol their stream had spoken so far")
    STREAM_HOLE = ("stream-hole", "bytes of a TCP stream that no captured packet holds")


class Losses:
    """How often each thing went unread, per capture (its index among the inputs)."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, Loss]] = Counter()

    def add(self, loss: Loss, count: int = 1, *, capture: int = 0) -> None:
        """Counts `count` more of one kind."""
        if count:
            self._counts[capture, loss] += int(count)

    def merge(self, other: Losses) -> None:
        """Adds all counts of another counter."""
        self._counts.update(other._counts)

    def of(self, capture: int) -> dict[Loss, int]:
        """The counts of one capture, in the order Loss declares them."""
        return {loss: n for loss in Loss if (n := self._counts[capture, loss])}

    def total(self, loss: Loss) -> int:
        """The count of one kind over all captures."""
        return sum(n for (_, kind), n in self._counts.items() if kind is loss)


FRAME_LOSSES = frozenset(
    {
        Loss.ARP, Loss.STP, Loss.LLDP, Loss.LLC, Loss.ETHERTYPE, Loss.LINK_TYPE, Loss.LINK_NO_IP, Loss.TRUNCATED_LINK,
        Loss.TRUNCATED_IP, Loss.MALFORMED_IP, Loss.TRUNCATED_TCP, Loss.MALFORMED_TCP, Loss.TRUNCATED_UDP,
        Loss.TRUNCATED_ICMP, Loss.TRUNCATED_TUNNEL, Loss.TOO_DEEP, Loss.MACSEC, Loss.PPP_HIDDEN, Loss.WLAN_NO_DATA,
        Loss.WLAN_ENCRYPTED, Loss.WLAN_FRAGMENT, Loss.EMPTY_FRAME,
    }
)  # fmt: skip
"""A frame is decoded, or counted under exactly one of these."""
