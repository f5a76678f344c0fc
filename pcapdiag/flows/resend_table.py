"""Every packet that carries bytes again: what it was, where the copy before it was lost, and what speaks for that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Annotated

from pcapdiag.columns import F64, I64, U8, U16, Col, Table


class ResendKind(IntEnum):
    """What a packet is that carries bytes again, or an original that came late."""

    UNKNOWN = 0
    """Nothing shows what sent it (or it is a copy that the network made)."""
    FAST = 1
    """Sent on duplicate ACKs, SACK or RACK (RFC 5681 section 3.2, RFC 6675, RFC 8985 section 6)."""
    RTO = 2
    """Sent by the retransmission timer, or while what it found lost is made good (RFC 6298, RFC 5681 section 3.1)."""
    PROBE = 3
    """A tail loss probe (RFC 8985 section 7)."""
    SPURIOUS = 4
    """Needless: the original had arrived (RFC 2883, RFC 3522)."""
    ZERO_WINDOW_PROBE = 5
    """Sent beyond a closed window, to hear whether it is still closed (RFC 9293 section 3.8.6.1)."""
    KEEP_ALIVE = 6
    """Asks whether the peer is still there (RFC 9293 section 3.8.4)."""
    REORDERED = 7
    """No resend: the original itself, overtaken by others or by its own resend (RFC 4737)."""


class Placement(IntEnum):
    """Where the copy before a resend was lost."""

    UNKNOWN = 0
    BEFORE_TAP = 1
    """Between its sender and the tap: this packet fills a hole."""
    BEHIND_TAP = 2
    """Between the tap and its receiver: the tap saw it."""
    ACK_LOST = 3
    """It arrived; its acknowledgment was lost on its way back. Said only where the tap can prove it (flows/ack_loss.py)."""
    NOT_LOST = 4
    """It arrived, or there was nothing to lose. Its acknowledgment was late, or the tap cannot tell."""


class Evidence(IntFlag):
    """What speaks for the kind and the placement of a resend."""

    ACKED = 1
    """The tap had seen its bytes acknowledged before it."""
    SACKED = 2
    """The tap had seen its bytes selectively acknowledged before it."""
    DSACK = 4
    """The receiver reports that it got the bytes twice (RFC 2883)."""
    ECHO = 8
    """The ACK that covers its bytes echoes an older timestamp: the original brought it about (RFC 3522)."""
    LATE_ORIGINAL = 16
    """The original came by after it."""
    REFUSED = 32
    """The peer answered with a reset: the bytes reached a closed socket."""
    REPORTED = 64
    """The receiver had reported bytes above these (SACK, or three duplicate ACKs) when it was sent."""
    AT_ONCE = 128
    """It left right after a packet of the receiver."""
    WAITED = 256
    """Its sender had heard nothing new for at least the least retransmission timeout."""
    TAIL = 512
    """Nothing above these bytes had been sent."""
    NEWER = 1024
    """Its timestamp or IP-ID is newer than that of the packet that showed the hole."""
    OLDER = 2048
    """Its timestamp or IP-ID is older than that of a packet before it: it was sent first."""
    COPY = 4096
    """IP-ID and timestamp of the packet before it."""
    ZERO_WINDOW = 8192
    """The receiver's last window left no room for it."""
    TOO_SOON = 32768
    """The ACK that covers its bytes answers the original: it came sooner than a round trip after the resend, or every packet before
    it and the resend itself had an ACK of their own."""
    ANNOUNCED = 16384
    """Its sender had counted these bytes as sent before they came, or skipped IP-IDs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resends(Table):
    """One row per packet that carries bytes again, fills a hole or probes; sorted by fd, then time.

    Segments of kind SEEN_AGAIN, FILL, KEEP_ALIVE and SYN_AGAIN, FINs sent again, NEW ones that also repeat bytes, and
    those that bring bytes which were lost without a hole. `Recoveries` is derived from it.
    """

    segment: Annotated[I64, Col("row in Segments", of="segment")]
    fd: Annotated[I64, Col("2 * flow + direction of the data", of="fd")]
    start: Annotated[I64, Col("stream offset of the first byte sent again", "bytes")]
    stop: Annotated[I64, Col("stream offset behind the last byte sent again", "bytes")]
    kind: Annotated[U8, Col("ResendKind")]
    trigger: Annotated[U8, Col("ResendKind: what made its sender send it; another than `kind` only where that is SPURIOUS")]
    placement: Annotated[U8, Col("Placement of the copy before it")]
    evidence: Annotated[U16, Col("Evidence, as bits")]
    confidence: Annotated[F64, Col("that kind is right, 0 to 1; a fixed value per kind of evidence")]
    first_segment: Annotated[I64, Col("row in Segments: the first sight of its first byte; -1 none before it", of="segment")]
    before_segment: Annotated[I64, Col("row in Segments: the copy before it, or the one that opened the hole; -1 none seen", of="segment")]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResends(Table):
    """How many rows of Resends a flow has, by kind and by what was lost; one row per flow that has some, in order of flows."""

    flow: Annotated[I64, Col("flow id", of="flow")]
    unknown: Annotated[I64, Col("ResendKind.UNKNOWN")]
    fast: Annotated[I64, Col("ResendKind.FAST")]
    rto: Annotated[I64, Col("ResendKind.RTO")]
    probe: Annotated[I64, Col("ResendKind.PROBE")]
    spurious: Annotated[I64, Col("ResendKind.SPURIOUS")]
    zero_window_probe: Annotated[I64, Col("ResendKind.ZERO_WINDOW_PROBE")]
    keep_alive: Annotated[I64, Col("ResendKind.KEEP_ALIVE")]
    reordered: Annotated[I64, Col("ResendKind.REORDERED")]
    lost_before_tap: Annotated[I64, Col("Placement.BEFORE_TAP")]
    lost_behind_tap: Annotated[I64, Col("Placement.BEHIND_TAP")]
    lost_ack: Annotated[I64, Col("Placement.ACK_LOST")]
