"""What our columns say of every TCP packet of a capture, under tshark's names, and the scene that explains differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.capture import read_capture
from pcapdiag.flows import group_flows
from pcapdiag.flows.flags import PacketFlags, flag_packets, neighbours
from pcapdiag.flows.segmented import LOWEST, group_starts, running_max, shifted
from pcapdiag.losses import Losses
from pcapdiag.packets import decode_packets
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from tests.agreement.theirs import NONE, Theirs

if TYPE_CHECKING:
    from pathlib import Path

    from pcapdiag.columns import I64, Bools
    from pcapdiag.flows.table import Segments, TcpTables
    from pcapdiag.packets.table import Packets

FACTS = (
    "again", "lost_segment", "ack_lost_segment", "duplicate_ack", "duplicate_ack_num", "zero_window", "window_full", "window_update",
    "keep_alive", "keep_alive_ack", "reused_ports", "initial_rtt", "acks_frame", "ack_rtt", "bytes_in_flight", "window",
)  # fmt: skip
"""Everything that is compared. A fact of a packet is a number; flags are 1 where they are set, and NONE elsewhere."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A capture as both see it; arrays have one entry per row of Segments."""

    packets: Packets
    tcp: TcpTables
    flags: PacketFlags
    frame: I64
    """The frame under which tshark speaks of the packet: of a datagram in fragments the last one."""
    theirs: Theirs
    at: I64
    """Its row in theirs; -1: tshark sees no TCP there."""

    @classmethod
    def of(cls, path: Path, theirs: Theirs) -> Scene:
        """Reads the capture (raises CaptureError)."""
        losses = Losses()
        reader = read_capture(str(path), losses)
        packets = decode_packets(reader, losses)
        tcp = group_flows(packets, (reader.capture,), as_recorded=True)
        number = packets.frame.copy()
        whole = packets.fragments.header_row >= 0
        number[packets.fragments.header_row[whole]] = packets.frame[packets.fragments.last_row[whole]]
        frame = number[tcp.segments.row]
        place = np.searchsorted(theirs.frame, frame)
        known = np.append(theirs.frame, [-1])[place] == frame
        return cls(packets, tcp, flag_packets(packets, tcp), frame, theirs, np.where(known, place, -1))

    @property
    def seg(self) -> Segments:
        """The TCP packets."""
        return self.tcp.segments

    @property
    def first(self) -> Bools:
        """Is it the first packet of its flow?"""
        return group_starts(self.seg.flow.astype(np.int64))

    def around(self) -> tuple[I64, I64]:
        """Rows of the packet before in the same direction, and of the last one of the other direction; -1 none."""
        return neighbours(self.first, self.seg.direction == 0)

    def stated(self, name: str) -> I64:
        """A column of theirs; NONE where tshark sees no TCP."""
        return np.append(self.theirs.columns[name], [NONE])[self.at]

    def own(self, values: I64, *, before: bool = False) -> I64:
        """Per packet the highest of the values of its own direction up to it, or before it; LOWEST: none."""
        result = np.full(len(values), LOWEST)
        for way in (0, 1):
            mine = self.seg.direction == way
            highest = running_max(np.where(mine, values, LOWEST), self.first)
            result[mine] = (shifted(highest, self.first) if before else highest)[mine]
        return result

    def other(self, values: I64) -> I64:
        """Per packet the highest of the values of the other direction before it; LOWEST: none."""
        result = np.full(len(values), LOWEST)
        for way in (0, 1):
            mine = self.seg.direction == way
            result[~mine] = running_max(np.where(mine, values, LOWEST), self.first)[~mine]
        return result

    def last_other(self, mask: Bools) -> Bools:
        """Does the mask hold for the last packet of the other direction?"""
        return np.append(mask, [False])[self.around()[1]]

    def has(self, flag: int) -> Bools:
        """Packets with a TCP flag."""
        found: Bools = (self.seg.flags & flag) > 0
        return found

    def acked(self) -> I64:
        """What the receiver had acknowledged before each packet; LOWEST: nothing."""
        heard = self.has(ACK) & ~self.has(RST)
        return self.other(np.where(heard, self.seg.ack, LOWEST))

    def stop(self) -> I64:
        """Offset behind each packet; SYN and FIN count one each."""
        taken = self.seg.payload_len.astype(np.int64) + self.has(SYN) + self.has(FIN)
        return self.seg.seq + np.where(self.has(RST), 0, taken)


def our_facts(scene: Scene) -> dict[str, I64]:
    """Fact -> its value per row of Segments."""
    flags, seg, flows = scene.flags, scene.seg, scene.tcp.flows
    names = ("again", "lost_segment", "ack_lost_segment", "zero_window", "window_full", "window_update", "keep_alive", "keep_alive_ack")
    facts = {name: np.where(getattr(flags, name), 1, NONE) for name in (*names, "reused_ports")}
    facts["duplicate_ack"] = np.where(flags.duplicate_ack > 0, 1, NONE)
    facts["duplicate_ack_num"] = np.where(flags.duplicate_ack > 0, flags.duplicate_ack.astype(np.int64), NONE)
    facts["window"] = seg.window
    facts["bytes_in_flight"] = np.where((seg.payload_len > 0) & (flags.in_flight_len > 0), flags.in_flight_len, NONE)
    known = flags.acks_segment >= 0
    facts["acks_frame"] = np.where(known, scene.frame[flags.acks_segment], NONE)
    facts["ack_rtt"] = np.where(known, flags.ack_rtt_ns, NONE)
    both = (flows.near_rtt_ns >= 0) & (flows.far_rtt_ns >= 0)
    facts["initial_rtt"] = np.where(scene.first, np.where(both, flows.near_rtt_ns + flows.far_rtt_ns, NONE)[seg.flow], NONE)
    return facts


def their_facts(scene: Scene) -> dict[str, I64]:
    """The same of tshark's fields."""
    stated = scene.stated
    again = sum(
        np.maximum(stated(name), 0) for name in ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
    )
    facts = {"again": np.where(again > 0, 1, NONE)}
    facts |= {name: np.where(stated(name) > 0, 1, NONE) for name in FACTS if name in scene.theirs.columns and "_num" not in name}
    facts |= {name: stated(name) for name in ("duplicate_ack_num", "bytes_in_flight", "window", "acks_frame", "ack_rtt")}
    # A round trip of no time is not printed. The field of the handshake is on every packet of its connection.
    facts["ack_rtt"] = np.where((facts["acks_frame"] != NONE) & (facts["ack_rtt"] == NONE), 0, facts["ack_rtt"])
    per_flow = np.full(len(scene.tcp.flows), NONE)
    np.maximum.at(per_flow, scene.seg.flow, stated("initial_rtt"))
    facts["initial_rtt"] = np.where(scene.first, per_flow[scene.seg.flow], NONE)
    return facts
