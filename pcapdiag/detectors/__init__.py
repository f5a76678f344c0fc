"""Opinions: one file each, independent of each other. This tuple is the registry, in alphabetical order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.detectors import (
    bufferbloat,
    capture_loss,
    clipped_end,
    clock_step,
    duplicate_packets,
    fast_retransmit_loss,
    filtered_capture,
    h2_flow_control_stall,
    h2_tcp_hol,
    icmp_ptb_honoured,
    icmp_ptb_ignored,
    inter_token_gap,
    ip_fragment_loss,
    ip_fragmentation,
    lost_retransmission,
    microburst,
    microburst_loss,
    mid_stream_start,
    misordered_packets,
    offload_segments,
    one_way_capture,
    packet_reordering,
    path_change,
    path_outage,
    pmtu_black_hole,
    rto_backoff,
    server_think,
    snaplen_cut,
    spurious_retransmission,
    syn_loss,
    tail_loss_rto,
    zero_window,
)

if TYPE_CHECKING:
    from pcapdiag.findings import Detector

DETECTORS: tuple[Detector, ...] = (
    bufferbloat.DETECTOR,
    capture_loss.DETECTOR,
    clipped_end.DETECTOR,
    clock_step.DETECTOR,
    duplicate_packets.DETECTOR,
    fast_retransmit_loss.DETECTOR,
    filtered_capture.DETECTOR,
    h2_flow_control_stall.DETECTOR,
    h2_tcp_hol.DETECTOR,
    icmp_ptb_honoured.DETECTOR,
    icmp_ptb_ignored.DETECTOR,
    inter_token_gap.DETECTOR,
    ip_fragment_loss.DETECTOR,
    ip_fragmentation.DETECTOR,
    lost_retransmission.DETECTOR,
    microburst.DETECTOR,
    microburst_loss.DETECTOR,
    mid_stream_start.DETECTOR,
    misordered_packets.DETECTOR,
    offload_segments.DETECTOR,
    one_way_capture.DETECTOR,
    packet_reordering.DETECTOR,
    path_change.DETECTOR,
    path_outage.DETECTOR,
    pmtu_black_hole.DETECTOR,
    rto_backoff.DETECTOR,
    server_think.DETECTOR,
    snaplen_cut.DETECTOR,
    spurious_retransmission.DETECTOR,
    syn_loss.DETECTOR,
    tail_loss_rto.DETECTOR,
    zero_window.DETECTOR,
)

__all__ = ["DETECTORS"]
