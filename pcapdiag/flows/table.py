"""The output of step 3: flows, and one row per TCP packet with what its place in the flow makes of it.

Stream offsets: byte 0 of a direction is the first byte behind its SYN, or the first byte seen when there is no SYN;
they are 64 bits wide and never wrap. `fd` (flow direction) = 2 * flow + direction; direction 0 is client to server.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated

from pcapdiag.columns import I8, I32, I64, U8, U16, Bools, Col, Table
from pcapdiag.flows.resend_table import Resends

if TYPE_CHECKING:
    from pcapdiag.spool import Room

CLIENT_TO_SERVER, SERVER_TO_CLIENT = 0, 1


class Kind(IntEnum):
    """What a TCP packet is in its stream."""

    CONTROL = 0
    """No stream bytes: a pure ACK, a window update, RST."""
    NEW = 1
    """Carries bytes beyond all seen before (it may also repeat some)."""
    SEEN_AGAIN = 2
    """All its bytes were seen before: lost behind the tap, or its ACK lost, or resent needlessly."""
    FILL = 3
    """Fills (part of) a hole: lost before the tap, or overtaken."""
    KEEP_ALIVE = 4
    """0 or 1 byte just below the next sequence number (RFC 9293 section 3.8.4; Linux window probes look the same)."""
    SYN = 5
    FIN = 6
    """FIN without data."""
    SYN_AGAIN = 7


class Vantage(IntEnum):
    """Where the capture was taken, seen from one flow."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2
    MIDDLE = 3
    LOCAL = 4
    """Both ends on the capturing host, or indistinguishably near."""


class Repair(IntEnum):
    """How missing bytes came in the end."""

    NONE = 0
    """They never came, as far as the capture goes."""
    FAST = 1
    """Resent on duplicate ACKs, SACK or RACK (RFC 5681 section 3.2, 6675, 8985)."""
    PROBE = 2
    """A tail loss probe (RFC 8985 section 7)."""
    TIMEOUT = 3
    """The retransmission timer (RFC 6298)."""
    REORDERED = 4
    """The original itself, overtaken (RFC 4737)."""
    UNKNOWN = 5
    """It came, and nothing shows how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows(Table):
    """One row per TCP connection or UDP five-tuple; the row number is the flow's id, in order of first packets."""

    proto: Annotated[U8, Col("6 TCP, 17 UDP")]
    capture: Annotated[U16, Col("capture of its first packet")]
    client: Annotated[I32, Col("address that opened it, index into addresses")]
    client_port: Annotated[U16, Col("port of the client")]
    server: Annotated[I32, Col("address of the other end, index into addresses")]
    server_port: Annotated[U16, Col("port of the server")]
    roles_known: Annotated[Bools, Col("a SYN or SYN-ACK shows who opened it; else guessed from ports")]
    begin: Annotated[I64, Col("first row in Segments (TCP) or Datagrams (UDP)")]
    stop: Annotated[I64, Col("row behind the last one")]
    packet_count: Annotated[I64, Col("packets of both directions, copies removed")]
    byte_count: Annotated[I64, Col("IP bytes of both directions", "bytes")]
    first_ns: Annotated[I64, Col("time of the first packet", "ns")]
    last_ns: Annotated[I64, Col("time of the last packet", "ns")]
    syn_ns: Annotated[I64, Col("first SYN; NEVER when not seen", "ns")]
    syn_count: Annotated[I32, Col("SYNs seen, resent ones included")]
    syn_ack_ns: Annotated[I64, Col("first SYN-ACK; NEVER when not seen", "ns")]
    syn_ack_count: Annotated[I32, Col("SYN-ACKs seen")]
    established_ns: Annotated[I64, Col("first ACK of the client behind the SYN-ACK; NEVER when not seen", "ns")]
    near_rtt_ns: Annotated[I64, Col("SYN-ACK to the client's ACK: tap to client and back; -1 unknown", "ns")]
    far_rtt_ns: Annotated[I64, Col("last SYN to SYN-ACK: tap to server and back; -1 unknown", "ns")]
    client_mss: Annotated[I32, Col("MSS option of the SYN; 0 unknown", "bytes")]
    server_mss: Annotated[I32, Col("MSS option of the SYN-ACK; 0 unknown", "bytes")]
    client_shift: Annotated[I8, Col("window scale of the client's windows; -1 unknown (no SYN)")]
    server_shift: Annotated[I8, Col("window scale of the server's windows; -1 unknown")]
    sack_ok: Annotated[I8, Col("SACK negotiated: 1 yes, 0 no, -1 unknown")]
    timestamps: Annotated[Bools, Col("packets carry TCP timestamps")]
    client_fin_ns: Annotated[I64, Col("first FIN of the client; NEVER", "ns")]
    server_fin_ns: Annotated[I64, Col("first FIN of the server; NEVER", "ns")]
    rst_ns: Annotated[I64, Col("first RST; NEVER", "ns")]
    rst_direction: Annotated[I8, Col("direction of the first RST; -1 none")]
    one_way: Annotated[Bools, Col("packets of one direction only, though they acknowledge or carry data")]
    vantage: Annotated[U8, Col("Vantage of this flow")]
    tunnel_overhead_len: Annotated[I32, Col("largest tunnel overhead of its packets", "bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments(Table):
    """One row per TCP packet (copies removed), sorted by flow, then time. The TCP columns."""

    row: Annotated[I64, Col("row in Packets")]
    flow: Annotated[I32, Col("flow id", of="flow")]
    direction: Annotated[U8, Col("0 client to server, 1 server to client")]
    ts_ns: Annotated[I64, Col("capture time since the epoch", "ns")]
    seq: Annotated[I64, Col("stream offset of the first payload byte; -1 for a SYN", "bytes")]
    payload_len: Annotated[I32, Col("payload on the wire", "bytes")]
    ack: Annotated[I64, Col("stream offset of the other direction acknowledged (its FIN counts one byte); -1 without ACK", "bytes")]
    flags: Annotated[U8, Col("TCP flags")]
    window: Annotated[I64, Col("receive window, scaled where both SYNs are known", "bytes")]
    kind: Annotated[U8, Col("Kind")]
    gap_len: Annotated[I64, Col("bytes between the highest byte seen and this packet: a hole opens; 0 none", "bytes")]
    sends: Annotated[I32, Col("how many packets have carried its first byte, itself included; 0 without stream bytes")]
    acked_len: Annotated[I64, Col("bytes of the other direction newly acknowledged", "bytes")]
    dup_ack: Annotated[I32, Col("number of the duplicate ACK in its series (RFC 5681 section 2); 0 none")]
    rtt_ns: Annotated[I64, Col("RTT sample tap to peer of this ACK (Karn, RFC 6298 section 3); -1 none", "ns")]
    in_flight_len: Annotated[I64, Col("unacknowledged bytes of its direction, itself included; -1 unknown", "bytes")]
    has_sack: Annotated[Bools, Col("carries SACK blocks")]
    id_gap: Annotated[I32, Col("IP-IDs skipped since the packet before it in its direction; -1: IDs not continuous on this flow")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagrams(Table):
    """One row per UDP datagram (copies removed), sorted by flow, then time."""

    row: Annotated[I64, Col("row in Packets")]
    flow: Annotated[I32, Col("flow id", of="flow")]
    direction: Annotated[U8, Col("0 from who spoke first, 1 the other way")]
    ts_ns: Annotated[I64, Col("capture time since the epoch", "ns")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces(Table):
    """First sights of stream bytes: disjoint, sorted by fd, then offset. What lies between two pieces was never seen."""

    fd: Annotated[I64, Col("2 * flow + direction", of="fd")]
    start: Annotated[I64, Col("stream offset of the first byte", "bytes")]
    stop: Annotated[I64, Col("stream offset behind the last byte", "bytes")]
    segment: Annotated[I64, Col("row in Segments that carried them first", of="segment")]
    ts_ns: Annotated[I64, Col("its time", "ns")]
    in_order_ns: Annotated[I64, Col("when all lower bytes had been seen too (Gaps count as seen when acknowledged); NEVER", "ns")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acks(Table):
    """Advances of the cumulative ACK, sorted by fd of the data, then offset."""

    fd: Annotated[I64, Col("2 * flow + direction of the DATA acknowledged", of="fd")]
    offset: Annotated[I64, Col("stream offset acknowledged: all bytes below it", "bytes")]
    segment: Annotated[I64, Col("row in Segments of the ACK", of="segment")]
    ts_ns: Annotated[I64, Col("its time", "ns")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sacked(Table):
    """First selective acknowledgements: disjoint ranges, sorted by fd of the data, then offset."""

    fd: Annotated[I64, Col("2 * flow + direction of the DATA", of="fd")]
    start: Annotated[I64, Col("stream offset of the first byte", "bytes")]
    stop: Annotated[I64, Col("stream offset behind the last byte", "bytes")]
    segment: Annotated[I64, Col("row in Segments of the ACK that named it first", of="segment")]
    ts_ns: Annotated[I64, Col("its time", "ns")]
    duplicate: Annotated[Bools, Col("a DSACK (RFC 2883): the receiver got these bytes twice")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps(Table):
    """Bytes the peer acknowledged but no captured packet ever held: the capture lost them, not the network."""

    fd: Annotated[I64, Col("2 * flow + direction of the data", of="fd")]
    start: Annotated[I64, Col("stream offset of the first byte", "bytes")]
    stop: Annotated[I64, Col("stream offset behind the last byte", "bytes")]
    start_ns: Annotated[I64, Col("last packet of the flow before the hole showed", "ns")]
    stop_ns: Annotated[I64, Col("when it was acknowledged", "ns")]
    segment: Annotated[I64, Col("row in Segments that shows the hole", of="segment")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoveries(Table):
    """One row per stretch of stream bytes that a receiver had to wait for because they were lost or overtaken.

    `at_sender` rows: the tap saw the bytes, then saw them again (lost behind the tap). Others: a hole at the tap was
    filled late (lost before the tap, or overtaken). Times are the tap's.
    """

    fd: Annotated[I64, Col("2 * flow + direction of the data", of="fd")]
    start: Annotated[I64, Col("stream offset of the first missing byte", "bytes")]
    stop: Annotated[I64, Col("stream offset behind the last missing byte", "bytes")]
    at_sender: Annotated[Bools, Col("bytes seen at least twice here")]
    first_ns: Annotated[I64, Col("at_sender: first sight of the bytes; else when the hole opened", "ns")]
    resent_ns: Annotated[I64, Col("first resend (at_sender) or the filler; NEVER", "ns")]
    done_ns: Annotated[I64, Col("at_sender: cumulative ACK that covers them; else when the hole was filled; NEVER", "ns")]
    repair: Annotated[U8, Col("Repair")]
    sends: Annotated[I32, Col("packets that carried the first byte, as far as seen")]
    spurious: Annotated[Bools, Col("the original had arrived: DSACK or timestamps say so (RFC 2883, 3522)")]
    tail: Annotated[Bools, Col("nothing was sent above these bytes before the resend: no SACK could report them")]
    first_segment: Annotated[I64, Col("row in Segments: first sight, or the packet that opened the hole", of="segment")]
    resent_segment: Annotated[I64, Col("row in Segments: first resend or filler; -1", of="segment")]
    done_segment: Annotated[I64, Col("row in Segments: the ACK or the last filler; -1", of="segment")]
    resends: Annotated[I32, Col("resends seen at the tap")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies(Table):
    """One row per flow direction (2 * flow + direction) with what its sender's packets are; of UDP flows nothing is counted."""

    packet_count: Annotated[I32, Col("its TCP packets")]
    acking_count: Annotated[I32, Col("of them, packets with ACK")]
    ending_count: Annotated[I32, Col("with SYN, FIN or RST")]
    closing_count: Annotated[I32, Col("FIN or RST without data whose numbers tell of bytes since the handshake that was captured")]
    pushed_count: Annotated[I32, Col("with PSH, SYN, FIN or RST")]
    data_count: Annotated[I32, Col("with data")]
    pure_count: Annotated[I32, Col("pure acknowledgments")]
    longest_run: Annotated[I32, Col("most packets with data between two of the other direction; 0 on flows with pure acknowledgments")]
    resent_count: Annotated[I32, Col("packets that only repeat bytes, needless ones aside")]
    fill_count: Annotated[I32, Col("packets that fill holes")]
    ttl: Annotated[U8, Col("TTL of the first packet; 0 none")]
    outgoing_count: Annotated[I32, Col("packets that the link layer calls outgoing")]
    incoming_count: Annotated[I32, Col("packets that it calls incoming")]
    split_count: Annotated[I32, Col("super-segments whose middle was acknowledged: cut up behind the tap (TSO)")]
    whole_count: Annotated[I32, Col("super-segments acknowledged as a whole, as receive offload (GRO) makes them")]
    short_count: Annotated[I32, Col("Ethernet frames shorter than the wire allows")]
    padded_count: Annotated[I32, Col("Ethernet frames filled up to its least length")]
    turnaround_ns: Annotated[I64, Col("least time until one of its packets acknowledged something; NEVER", "ns")]
    piece_count: Annotated[I32, Col("rows in Pieces")]
    broken_count: Annotated[I32, Col("of them, those with missing bytes before them, but for the first one")]
    seen_len: Annotated[I64, Col("stream bytes seen", "bytes")]
    gap_count: Annotated[I32, Col("rows in Gaps")]
    longest_len: Annotated[I64, Col("bytes of the longest stretch seen at once", "bytes")]
    told_count: Annotated[I32, Col("ACKs that end amid what nobody captured")]
    unseen_len: Annotated[I64, Col("stream bytes acknowledged and never captured", "bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperSegments(Table):
    """One row per packet that carries more than its receiver's MSS: segmentation or receive offload, not the wire's doing."""

    row: Annotated[I64, Col("row in Packets")]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatLegs(Table):
    """One row per leg set aside: the same connection behind a translator, farther from the client than the leg analysed."""

    flow: Annotated[I64, Col("flow id of the leg that is analysed: the one nearest the client", of="flow")]
    capture: Annotated[U16, Col("capture of the other leg")]
    client: Annotated[I32, Col("client address of the other leg, index into addresses")]
    client_port: Annotated[U16, Col("its port")]
    server: Annotated[I32, Col("server address of the other leg, index into addresses")]
    server_port: Annotated[U16, Col("its port")]
    compared: Annotated[I64, Col("packets at the beginning of the connection that both legs could show")]
    matched: Annotated[I64, Col("of them, packets found on both")]
    packet_count: Annotated[I64, Col("packets of the other leg, set aside")]
    delay_ns: Annotated[I64, Col("median time between the two sights of a packet", "ns")]


@dataclass(frozen=True, slots=True)
class VantageOpinion:
    """Where one capture was taken."""

    side: str
    """client, server, middle, local, mixed or unknown."""
    confidence: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What one capture did to the traffic, measured before anything is concluded from it."""

    copies: int
    """Packets set aside: copies of others, and those of the farther legs of translated connections."""
    copy_frames: tuple[int, ...]
    """A few frame numbers of copies."""
    routed_copies: int = 0
    """Of the copies: those with a lower TTL than the sight before, so that a router lay between."""
    leg_packets: int = 0
    """Packets of the farther legs of connections that an address translator shows twice."""
    leg_frames: tuple[int, ...] = ()
    """A few frame numbers of these."""
    view_packets: int = 0
    """Packets set aside beside them: of connections that are analysed as another capture shows them."""
    view_frames: tuple[int, ...] = ()
    """A few frame numbers of these."""
    backward_steps: int
    """Records whose time lies before that of the record before them."""
    backward_max_ns: int
    backward_frames: tuple[int, ...] = ()
    untimely: int = 0
    """Single records whose times their connections contradict; they were given those of the records before them."""
    """A few frame numbers of such records."""
    clock_steps: tuple[tuple[int, int], ...] = ()
    """(first frame behind it, how far the capture's clock jumped in ns); times behind a step were moved back by it."""
    super_segments: int
    """TCP packets longer than the MSS in force allows (TSO, GSO, GRO, LRO)."""
    super_segment_frames: tuple[int, ...]
    cut_frames: int
    """Frames of which fewer bytes were captured than sent."""
    cut_frame_numbers: tuple[int, ...] = ()
    """A few of their numbers."""
    cut_headers: int = 0
    """Of these: TCP packets without data, cut in their options (SACK blocks, timestamps)."""
    tcp_data_packets: int
    unseen_bytes: int
    """Bytes acknowledged but never captured (Gaps)."""
    seen_bytes: int
    """Stream bytes captured once."""
    one_way_flows: int
    tcp_flows: int
    midstream_flows: int
    """TCP flows with data whose SYN is not in the capture."""
    dropped_count: int | None
    """Drops the capturing system reports (ISB); None when it says nothing."""
    filtered: str = ""
    """Which packets the capture leaves out by rule: flags, push, no-acks, short, sampled, port or declared; "" when nothing shows that."""
    filter_note: str = ""
    """How that shows."""
    saw_icmp: bool
    saw_dns: bool
    saw_fragments: bool
    grade: str
    """A to F."""
    advice: str = ""
    """What to capture better next time, for the defect that decided the grade; "" for an A."""
    issues: tuple[str, ...]
    """Codes of the capture findings it gives rise to."""

    @property
    def cuts_options(self) -> bool:
        """Did the snaplen end amid TCP options? Then it cut what data there was, too; single cut packets are another thing."""
        return self.cut_headers > 0 and 2 * self.cut_frames > self.tcp_data_packets

    @property
    def capture_loss_ratio(self) -> float:
        """Unseen bytes over all bytes that were acknowledged or seen; 0 to 1."""
        total = self.seen_bytes + self.unseen_bytes
        return self.unseen_bytes / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpTables:
    """All that step 3 gives."""

    flows: Flows
    segments: Segments
    datagrams: Datagrams
    pieces: Pieces
    acks: Acks
    sacked: Sacked
    gaps: Gaps
    resends: Resends
    recoveries: Recoveries
    tallies: Tallies
    flow_of_row: I32
    """Flow id of each row of Packets; -1: belongs to none, is a copy, or was seen on the farther leg of a translated connection."""
    legs: NatLegs
    """Connections seen on both sides of an address translator."""
    room: Room | None = None
    """Where the tables lie; None: in memory."""
    aside: I64
    """Rows of Packets set aside, in ascending order: copies, second views, and packets of the farther legs."""
    vantages: tuple[VantageOpinion, ...]
    """One per capture."""
    quality: tuple[Quality, ...]
    """One per capture."""
