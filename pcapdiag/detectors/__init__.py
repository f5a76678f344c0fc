"""Opinions: one file each, independent of each other. This tuple is the registry, in alphabetical order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.detectors import fast_retransmit_loss, h2_tcp_hol, packet_reordering, path_outage, pmtu_black_hole, rto_backoff, tail_loss_rto

if TYPE_CHECKING:
    from pcapdiag.findings import Detector

DETECTORS: tuple[Detector, ...] = (
    fast_retransmit_loss.DETECTOR,
    h2_tcp_hol.DETECTOR,
    packet_reordering.DETECTOR,
    path_outage.DETECTOR,
    pmtu_black_hole.DETECTOR,
    rto_backoff.DETECTOR,
    tail_loss_rto.DETECTOR,
)

__all__ = ["DETECTORS"]
