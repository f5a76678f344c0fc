"""What opening and closing packets say about each TCP flow (RFC 9293 section 3.5, RFC 7323, RFC 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I8, I32, I64, NEVER, U8, Bools, Rows
from pcapdiag.packets.table import ACK, FIN, RST, SYN, Packets


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshakes:
    """Columns of Flows that the handshake and the close give, one row per flow."""

    syn_ns: I64
    syn_count: I32
    syn_ack_ns: I64
    syn_ack_count: I32
    established_ns: I64
    near_rtt_ns: I64
    far_rtt_ns: I64
    client_mss: I32
    server_mss: I32
    client_shift: I8
    server_shift: I8
    sack_ok: I8
    client_fin_ns: I64
    server_fin_ns: I64
    rst_ns: I64
    rst_direction: I8


def read_handshakes(packets: Packets, rows: Rows, direction: U8, begin: I64) -> Handshakes:
    """The handshake of every flow; rows are in flow order, begin is where each flow begins."""
    flags, ts_ns = packets.flags[rows], packets.ts_ns[rows]
    from_client = direction == 0
    syn = ((flags & (SYN | ACK)) == SYN) & from_client
    syn_ack = ((flags & (SYN | ACK)) == (SYN | ACK)) & ~from_client
    position = np.arange(len(rows))
    first_syn, first_syn_ack = _first(syn, position, begin), _first(syn_ack, position, begin)
    flow = np.repeat(np.arange(len(begin)), np.diff(begin, append=len(rows)))
    plain_ack = from_client & ((flags & (SYN | ACK | RST)) == ACK) & (first_syn_ack[flow] < position)
    first_ack = _first(plain_ack, position, begin)
    syn_ns, syn_ack_ns, ack_ns = (_time(ts_ns, at) for at in (first_syn, first_syn_ack, first_ack))
    # Karn: with resent SYNs or SYN-ACKs the pairs are ambiguous.
    syn_count, syn_ack_count = _count(syn, begin), _count(syn_ack, begin)
    far = np.where((syn_count == 1) & (syn_ack_ns < NEVER) & (syn_ns < NEVER), syn_ack_ns - np.where(syn_ns < NEVER, syn_ns, 0), -1)
    third = _answers(packets, rows, first_syn_ack, first_ack)
    near = np.where((syn_ack_count == 1) & third, ack_ns - np.where(syn_ack_ns < NEVER, syn_ack_ns, 0), -1)
    client = _Options(packets, rows, first_syn)
    server = _Options(packets, rows, first_syn_ack)
    refused = (client.seen & ~client.sack) | (server.seen & ~server.sack)
    rst_at = _first((flags & RST) > 0, position, begin)
    has_rst = rst_at < len(rows)
    fin = (flags & FIN) > 0
    return Handshakes(
        syn_ns=syn_ns, syn_count=syn_count, syn_ack_ns=syn_ack_ns, syn_ack_count=syn_ack_count, established_ns=ack_ns,
        near_rtt_ns=np.maximum(near, -1), far_rtt_ns=np.maximum(far, -1), client_mss=client.mss, server_mss=server.mss,
        client_shift=_shift(client, server),
        # A SYN-ACK has the option only when the SYN had it (RFC 7323 section 2.2): the server's own scale needs no SYN.
        server_shift=np.where(~client.seen & (server.shift >= 0), np.minimum(server.shift, 14), _shift(server, client)).astype(np.int8),
        sack_ok=np.where(refused, 0, np.where(client.seen & server.seen, 1, -1)).astype(np.int8),
        client_fin_ns=_time(ts_ns, _first(fin & from_client, position, begin)),
        server_fin_ns=_time(ts_ns, _first(fin & ~from_client, position, begin)),
        rst_ns=_time(ts_ns, rst_at),
        rst_direction=np.where(has_rst, direction[np.minimum(rst_at, len(rows) - 1)].astype(np.int8), -1).astype(np.int8),
    )  # fmt: skip


def _answers(packets: Packets, rows: Rows, syn_ack: I64, ack: I64) -> Bools:
    """Is the client's first ACK the one of the handshake, by its numbers (RFC 9293 section 3.5)? The capture may lack that one."""
    known = (syn_ack < len(rows)) & (ack < len(rows))
    one, other = (rows[np.minimum(at, len(rows) - 1)] for at in (syn_ack, ack))
    covered = (packets.ack[other] - packets.seq[one] - np.uint32(1)).astype(np.int64)  # data in a SYN-ACK: RFC 7413
    third: Bools = known & (packets.seq[other] == packets.ack[one]) & (covered <= packets.payload_len[one])
    return third


class _Options:
    """Options of one opening packet per flow."""

    __slots__ = ("mss", "sack", "seen", "shift")

    def __init__(self, packets: Packets, rows: Rows, at: I64) -> None:
        self.seen: Bools = at < len(rows)
        row = rows[np.minimum(at, len(rows) - 1)]
        self.mss: I32 = np.where(self.seen, packets.mss[row], 0).astype(np.int32)
        self.shift: I8 = np.where(self.seen, packets.window_shift[row], -1).astype(np.int8)
        self.sack: Bools = self.seen & packets.sack_permitted[row]


def _shift(own: _Options, other: _Options) -> I8:
    """The scale that holds: 0 when either SYN lacks the option (RFC 7323 section 2.2), -1 when not both are known."""
    agreed = np.where((own.shift < 0) | (other.shift < 0), 0, np.minimum(own.shift, 14))
    refused = (own.seen & (own.shift < 0)) | (other.seen & (other.shift < 0))
    return np.where(own.seen & other.seen, agreed, np.where(refused, 0, -1)).astype(np.int8)


def _first(mask: Bools, position: I64, begin: I64) -> I64:
    """Position of the first row per flow where mask holds; len(position) for none."""
    return np.minimum.reduceat(np.where(mask, position, len(position)), begin) if len(begin) else begin


def _count(mask: Bools, begin: I64) -> I32:
    return np.add.reduceat(mask.astype(np.int32), begin) if len(begin) else begin.astype(np.int32)


def _time(ts_ns: I64, at: I64) -> I64:
    """The time at each position; NEVER for none."""
    return np.append(ts_ns, [NEVER])[at]
