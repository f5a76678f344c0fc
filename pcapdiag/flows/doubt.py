"""What a capture's own defects make doubtful: measurements that rest on packets which it may well have left out.

Round trips end with the first acknowledgment; where acknowledgments are missing, any later one looks like it. A resend is
known to have been needed by what the receiver acknowledged. Skipped IP-IDs prove packets that never came to the tap, and
where the capture itself lost packets, that is most likely one of those.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pcapdiag.columns import Bools
from pcapdiag.flows.filtered import Filtered
from pcapdiag.flows.resend_table import Evidence
from pcapdiag.flows.table import Quality, Repair, TcpTables
from pcapdiag.flows.unseen_loss import ALMOST, RTO_MIN_NS
from pcapdiag.spool import column, windows

_HOLED = 0.2
"""Of the acknowledged bytes so many are missing (quality grade F): so many acknowledgments are, too."""


def without_doubtful(tcp: TcpTables) -> TcpTables:
    """The same tables without what the capture's defects may have made up."""
    silent = np.array([Filtered(one.filtered) is Filtered.NO_ACKS for one in tcp.quality], np.bool_)
    holed = np.array([one.capture_loss_ratio > _HOLED for one in tcp.quality], np.bool_)
    leaky = np.array([_lost_packets(one) for one in tcp.quality], np.bool_)
    if (silent | holed).any():
        tcp = _without_round_trips(tcp, (silent | holed)[tcp.flows.capture])
    if silent.any():
        tcp = _without_unproven_losses(tcp, silent[tcp.flows.capture])
    return _without_lost_acks(tcp, leaky[tcp.flows.capture]) if leaky.any() else tcp


def _lost_packets(quality: Quality) -> bool:
    return bool(quality.dropped_count) or (quality.unseen_bytes > 0 and not Filtered(quality.filtered).tears)


def _without_round_trips(tcp: TcpTables, flows: Bools) -> TcpTables:
    """Some flows without samples but those of SYN and SYN-ACK."""
    segments = tcp.segments
    rtt_ns = column(len(segments), np.int64, tcp.room)
    for part in windows(len(segments), tcp.room):
        rtt_ns[part] = np.where(flows[segments.flow[part]], -1, segments.rtt_ns[part])
    return replace(
        tcp, segments=replace(segments, rtt_ns=rtt_ns),
        flows=replace(tcp.flows, near_rtt_ns=np.where(flows, -1, tcp.flows.near_rtt_ns)),
    )  # fmt: skip


def _without_unproven_losses(tcp: TcpTables, flows: Bools) -> TcpTables:
    """Without acknowledgments only a wait as long as a timer's tells a resend that was needed from one that was not."""
    found = tcp.recoveries
    short = found.at_sender & (found.resent_ns - found.first_ns < ALMOST * RTO_MIN_NS)
    return replace(tcp, recoveries=found.take(~(short & flows[found.fd >> 1])))


def _without_lost_acks(tcp: TcpTables, flows: Bools) -> TcpTables:
    """Without losses that only skipped IP-IDs show, where what was skipped may be the acknowledgment that the packet makes good.

    The peer's bytes had to be acknowledged at the latest half a second after they came (RFC 1122 section 4.2.3.2). When the
    next packet acknowledges them itself, after a silence, the one that did so before is what is missing.
    """
    found, segments = tcp.recoveries, tcp.segments
    alone = found.tail & ~found.at_sender & (found.repair == Repair.TIMEOUT) & flows[found.fd >> 1]
    alone &= (segments.gap_len[found.first_segment] == 0) & (segments.acked_len[found.resent_segment] > 0)
    if not alone.any():
        return tcp
    told = np.isin(tcp.resends.segment, found.resent_segment[alone]) & ((tcp.resends.evidence & np.uint16(Evidence.ANNOUNCED)) > 0)
    return replace(tcp, recoveries=found.take(~alone), resends=tcp.resends.take(~told))
