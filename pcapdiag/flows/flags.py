"""What Wireshark users look for in a packet, from the TCP columns: computed when asked for, all packets at once.

The definitions are those of the RFCs named beside them. docs/agreement.md counts where tshark says something else, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I32, I64, Bools, Col, Table
from pcapdiag.flows.measure import resent_within
from pcapdiag.flows.offsets import key
from pcapdiag.flows.segmented import LOWEST, group_starts, last_index_where, running_max, shifted
from pcapdiag.packets.table import ACK, FIN, RST, SYN, TCP

if TYPE_CHECKING:
    from pcapdiag.flows.table import Acks, Flows, Pieces, Segments, TcpTables
    from pcapdiag.packets.table import Packets, SackBlocks

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFlags(Table):
    """One row per row of Segments. A sender has "shown" a number when a packet of its own had that number, or reached up to it."""

    again: Annotated[Bools, Col("carries bytes below the highest number its sender had shown: seen before, or filling a hole")]
    lost_segment: Annotated[Bools, Col("begins above the highest number its sender had shown: what lies between was not captured")]
    ack_lost_segment: Annotated[Bools, Col("the first to acknowledge bytes that had not been captured before it")]
    duplicate_ack: Annotated[I32, Col("number of the duplicate ACK in its series (RFC 5681 section 2, RFC 6675 section 2); 0 none")]
    zero_window: Annotated[Bools, Col("advertises a window of zero; a SYN, FIN or RST does not count")]
    window_full: Annotated[Bools, Col("its last byte is the last one that the receiver allows")]
    window_update: Annotated[Bools, Col("repeats an ACK with another window, which is not zero")]
    keep_alive: Annotated[Bools, Col("0 or 1 byte just below the next sequence number (RFC 9293 section 3.8.4)")]
    keep_alive_ack: Annotated[Bools, Col("repeats an ACK in answer to a keep-alive")]
    window_probe: Annotated[Bools, Col("1 new byte, sent while the window is zero (RFC 9293 section 3.8.6.1); it shows no number")]
    reused_ports: Annotated[Bools, Col("opens a connection whose addresses and ports an earlier one had")]
    acks_segment: Annotated[
        I64, Col("row in Segments: the packet whose last byte, SYN or FIN it acknowledges first (Karn: sent once); -1 none", of="segment")
    ]
    ack_rtt_ns: Annotated[I64, Col("time since that packet; -1 none", "ns")]
    in_flight_len: Annotated[I64, Col("unacknowledged bytes of its direction, less those SACKed by the last ACK; -1 unknown", "bytes")]


def flag_packets(packets: Packets, tcp: TcpTables) -> PacketFlags:
    """The flags of every TCP packet."""
    seg = tcp.segments
    window = packets.window[seg.row].astype(np.int64)
    place = _Place.of(seg, window)
    plain = (seg.flags & (SYN | FIN | RST)) == 0
    at_next = plain & (seg.payload_len == 0) & (seg.seq == place.shown)
    same_ack = at_next & place.has_ack & _at(place.before, place.has_ack, no=False) & (seg.ack == _at(place.before, seg.ack, no=LOWEST))
    same_window = window == _at(place.before, window, no=-1)
    keep_alive = plain & (seg.payload_len <= 1) & place.known & (seg.seq == place.shown - 1) & ~place.probe
    answers = _at(place.other, keep_alive, no=False)
    again = place.occupies & place.known & (seg.seq < place.shown) & ~keep_alive & ~place.probe
    acks_segment = _acks_segment(tcp, place, again)
    return PacketFlags(
        again=again,
        lost_segment=place.known & (seg.seq > place.shown) & ((seg.flags & RST) == 0),
        ack_lost_segment=_acks_unseen(tcp, place),
        duplicate_ack=seg.dup_ack,
        zero_window=plain & (window == 0),
        window_full=_window_full(tcp.flows, seg, place, plain),
        window_update=same_ack & ~same_window & (window > 0),
        keep_alive=keep_alive,
        keep_alive_ack=same_ack & same_window & (window > 0) & answers,
        window_probe=place.probe,
        reused_ports=_reused_ports(tcp),
        acks_segment=acks_segment,
        ack_rtt_ns=np.where(acks_segment >= 0, seg.ts_ns - seg.ts_ns[acks_segment], -1),
        in_flight_len=_in_flight(seg, place, _sacked_len(packets.sacks, packets, seg)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What each packet stands beside."""

    first: Bools
    """It is the first one of its flow."""
    before: I64
    """Row of the packet before it in its direction; -1 none."""
    other: I64
    """Row of the last packet of the other direction before it; -1 none."""
    has_ack: Bools
    occupies: Bools
    """It takes sequence numbers: bytes, SYN or FIN."""
    stop: I64
    """Offset behind its last byte; SYN and FIN count one each."""
    probe: Bools
    shown: I64
    """Highest offset its sender had shown before it; LOWEST: none."""
    known: Bools
    other_shown: I64
    """Highest offset the other side had shown before it; LOWEST: none."""

    @classmethod
    def of(cls, seg: Segments, window: I64) -> _Place:
        """Looks around in flow order."""
        first = group_starts(seg.flow.astype(np.int64))
        is_rst, syn, fin = ((seg.flags & flag) > 0 for flag in (RST, SYN, FIN))
        stop = seg.seq + np.where(is_rst, 0, seg.payload_len + syn.astype(np.int64) + fin)
        before, other = neighbours(first, seg.direction == 0)
        shut = _at(other, window, no=1) == 0
        probe = (seg.payload_len == 1) & shut & ~is_rst & ~syn & ~fin
        for _ in range(2):  # a byte beyond a closed window is a probe where no other packet had shown its number
            shown, other_shown = _shown(first, seg.direction == 0, np.where(is_rst | probe, LOWEST, stop))
            probe &= seg.seq == shown
        return cls(
            first=first, before=before, other=other, has_ack=((seg.flags & ACK) > 0) & ~is_rst, occupies=(stop > seg.seq) & ~is_rst,
            stop=stop, probe=probe, shown=shown, known=shown != LOWEST, other_shown=other_shown,
        )  # fmt: skip


def neighbours(first: Bools, is_zero: Bools) -> tuple[I64, I64]:
    """Rows of the packet before each one in its direction, and of the last one of the other direction."""
    before, other = np.full(len(first), -1), np.full(len(first), -1)
    for mine in (is_zero, ~is_zero):
        last = last_index_where(mine, first)
        before[mine] = shifted(last, first, -1)[mine]
        other[~mine] = last[~mine]
    return before, other


def _shown(first: Bools, is_zero: Bools, stop: I64) -> tuple[I64, I64]:
    """The highest `stop` before each packet, of its own direction and of the other one."""
    own, other = np.full(len(first), LOWEST), np.full(len(first), LOWEST)
    for mine in (is_zero, ~is_zero):
        highest = running_max(np.where(mine, stop, LOWEST), first)
        own[mine] = shifted(highest, first)[mine]
        other[~mine] = highest[~mine]
    return own, other


def _at(rows: I64, values: npt.NDArray[_Scalar], *, no: Any) -> npt.NDArray[_Scalar]:  # noqa: ANN401 - a scalar of the array's type
    """The values at rows; `no` for row -1."""
    return np.append(values, np.array([no], values.dtype))[rows]


def _acks_unseen(tcp: TcpTables, place: _Place) -> Bools:
    """Advances of an ACK beyond all that the other side had shown, or over a hole that was open then."""
    seg, acks, pieces = tcp.segments, tcp.acks, tcp.pieces
    result = np.zeros(len(seg), np.bool_)
    row = acks.segment
    beyond = (place.other_shown[row] != LOWEST) & (acks.offset > place.other_shown[row])
    # Over a hole: some byte newly covered is in no piece, or in one that came later. A FIN is a number, but no byte.
    start = shifted(acks.offset, group_starts(acks.fd), 0)
    stop = acks.offset - _ends_in_fin(seg, place, acks)
    low = np.searchsorted(key(pieces.fd, pieces.stop), key(acks.fd, start), side="right")
    high = np.searchsorted(key(pieces.fd, pieces.start), key(acks.fd, stop))
    late = _latest_of(pieces.segment, low, high) > row
    over = (place.other_shown[row] != LOWEST) & (stop > start) & (late | _broken(pieces, start, stop, low, high))
    result[row[beyond | over]] = True
    return result


def _ends_in_fin(seg: Segments, place: _Place, acks: Acks) -> Bools:
    """Is the last number that an ACK covers a FIN?"""
    fin = np.flatnonzero((seg.flags & (FIN | RST)) == FIN)
    fd = 2 * seg.flow[fin].astype(np.int64) + seg.direction[fin]
    return np.isin(key(acks.fd, acks.offset), key(fd, place.stop[fin]))


def _latest_of(values: I64, low: I64, high: I64) -> I64:
    """The largest value of each range [low, high); -1 for empty ones."""
    result = np.full(len(low), -1, np.int64)
    some = np.flatnonzero(high > low)
    if len(some):
        edges = np.stack([low[some], high[some]], axis=1).ravel()
        result[some] = np.maximum.reduceat(np.append(values, [-1]), edges)[::2]
    return result


def _broken(pieces: Pieces, start: I64, stop: I64, low: I64, high: I64) -> Bools:
    """Do the pieces [low, high) of one direction leave out something of [start, stop)?"""
    some = high > low
    holes = np.zeros(len(pieces) + 1, np.int64)
    holes[1:-1] = np.cumsum((pieces.start[1:] > pieces.stop[:-1]) & (pieces.fd[1:] == pieces.fd[:-1]))[: max(len(pieces) - 1, 0)]
    between = holes[np.maximum(high - 1, low)] > holes[low]
    before = np.append(pieces.start, [0])[low] > start
    behind = np.append(pieces.stop, [0])[high - 1] < stop
    hit: Bools = ~some | before | between | behind
    return hit


def _window_full(flows: Flows, seg: Segments, place: _Place, plain: Bools) -> Bools:
    """Packets that end at the edge the receiver's last packet allowed; unknown without its window scale."""
    shift = np.where(seg.direction == 0, flows.server_shift[seg.flow], flows.client_shift[seg.flow])
    edge = _at(place.other, np.where(place.has_ack, seg.ack + seg.window, LOWEST), no=LOWEST)
    full: Bools = plain & (seg.payload_len > 0) & (shift >= 0) & (place.stop == edge) & ~place.probe
    return full


def _reused_ports(tcp: TcpTables) -> Bools:
    """First packets of flows whose endpoints an earlier one had."""
    flows = tcp.flows
    mine = np.flatnonzero(flows.proto == TCP)
    ends = [(address[mine].astype(np.int64) << 16) | port[mine] for address, port in
            ((flows.client, flows.client_port), (flows.server, flows.server_port))]  # fmt: skip
    _, earliest = np.unique(np.sort(np.stack(ends), axis=0), axis=1, return_index=True)
    result = np.zeros(len(tcp.segments), np.bool_)
    result[flows.begin[np.delete(mine, earliest)]] = True
    return result


def _acks_segment(tcp: TcpTables, place: _Place, again: Bools) -> I64:
    """The packet that first carried the last number of each advance, where Karn allows to tell (RFC 6298 section 3)."""
    seg, acks = tcp.segments, tcp.acks
    result = np.full(len(seg), -1, np.int64)
    fd = 2 * seg.flow.astype(np.int64) + seg.direction
    raises = np.flatnonzero(place.occupies & (~place.known | (place.stop > place.shown)))
    raises = raises[np.argsort(fd[raises], kind="stable")]
    if not len(raises) or not len(acks):
        return result
    found = np.searchsorted(key(fd[raises], place.stop[raises]), key(acks.fd, acks.offset))
    row = raises[np.minimum(found, len(raises) - 1)]
    fits = (found < len(raises)) & (fd[row] == acks.fd) & (seg.seq[row] < acks.offset) & (row < acks.segment)
    resent = np.flatnonzero(again)
    fits &= ~resent_within(acks, fd[resent], seg.seq[resent], place.stop[resent], resent)
    result[acks.segment[fits]] = row[fits]
    return result


def _sacked_len(sacks: SackBlocks, packets: Packets, seg: Segments) -> I64:
    """Bytes above its ACK that each packet reports as held (RFC 2018); a DSACK (RFC 2883) lies below."""
    above = ((sacks.left - packets.ack[sacks.row]) & 0xFFFFFFFF) < 1 << 31
    held = np.bincount(sacks.row[above], weights=(sacks.right - sacks.left)[above].astype(np.float64), minlength=len(packets))
    return held.astype(np.int64)[seg.row]


def _in_flight(seg: Segments, place: _Place, sacked_len: I64) -> I64:
    """FlightSize (RFC 5681 section 2) less what the receiver's last packet reports as held (RFC 6675 section 4)."""
    held = _at(place.other, sacked_len, no=0)
    return np.where(seg.in_flight_len >= 0, np.maximum(seg.in_flight_len - held, 0), -1)
