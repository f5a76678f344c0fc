"""ip-fragmentation: a fact worth knowing."""

from __future__ import annotations

from pathlib import Path

from pcapdiag.detectors.ip_fragmentation import DETECTOR
from pcapdiag.findings import FindingKind
from tests.detectors.opinion import conclusions, of_cuts
from tests.wire import Wire


def test_fragments_are_found() -> None:
    wire = Wire(cport=40_000, sport=4_000).udp(b"give").fragment(b"x" * 4000).fragment(b"y" * 3000, only=(1,), lose="before")
    (found,) = conclusions(DETECTOR, wire.trace())
    assert found.kind is FindingKind.RISK
    assert found.details == {"datagrams": 2, "incomplete": 1, "longest_len": 4008, "protocol": "UDP"}
    assert len(found.frames) == 2


def test_whole_datagrams_are_quiet() -> None:
    assert conclusions(DETECTOR, Wire(cport=40_000, sport=4_000).udp(b"give").udp(b"x" * 1400, "server").trace()) == []


def test_fragments_nobody_can_name_a_flow_for_are_found() -> None:
    wire = Wire(cport=40_000, sport=4_000).fragment(b"x" * 4000, only=(0,), lose="before")
    (found,) = conclusions(DETECTOR, wire.trace())
    assert (found.flows, found.details["incomplete"]) == ((), 1)


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, Wire(cport=40_000, sport=4_000).fragment(b"x" * 9000), tmp_path)) > 5
