"""filtered-capture: packets missing by rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors import capture_loss
from pcapdiag.detectors.filtered_capture import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.flows.filtered import Filtered
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.test_flows_filtered import RULES, Kept, talk


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.value)
def test_a_torn_capture_fires(rule: Filtered) -> None:
    (found,) = conclusions(DETECTOR, Kept(talk(), RULES[rule]).trace())
    assert (found.kind, found.lowers_verdict, found.details["variant"]) == (FindingKind.CAPTURE, True, rule.value)
    assert found.frames


@pytest.mark.parametrize("rule", [Filtered.FLAGS, Filtered.PUSH, Filtered.SAMPLED], ids=lambda rule: rule.value)
def test_the_time_of_torn_connections_is_nobodys(rule: Filtered) -> None:
    diagnosis = diagnose(Kept(talk(), RULES[rule]).trace())
    codes = {entry.label.code for row in diagnosis.tables.exchanges for entry in diagnosis.ledger.exchanges[row.id]}
    assert codes <= {"capture-gap"}
    assert [finding.code for finding in diagnosis.findings if finding.conclusion.kind is not FindingKind.CAPTURE] == []


def test_a_filter_is_no_loss_of_the_capture() -> None:
    assert conclusions(capture_loss.DETECTOR, Kept(talk(), RULES[Filtered.SAMPLED]).trace()) == []


def test_whole_conversations_stay_quiet() -> None:
    assert conclusions(DETECTOR, talk().trace()) == []


def test_a_capture_that_lost_bursts_stays_quiet() -> None:
    trace = Kept(talk(), lambda one: one.number % 60 < 25).trace()
    assert conclusions(DETECTOR, trace) == []
    assert len(conclusions(capture_loss.DETECTOR, trace)) == 1


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, Kept(talk(), RULES[Filtered.PUSH]), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    for quiet in ("clean-control", "capture-loss", "pmtu-blackhole-download", "syn-loss"):
        assert [found.details["variant"] for found in conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap")))] == [], quiet
