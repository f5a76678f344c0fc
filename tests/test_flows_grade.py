"""Grades, and the sentence that says what to capture better."""

from __future__ import annotations

from typing import Any

import pytest

from pcapdiag.detectors import DETECTORS
from pcapdiag.findings import Domain
from pcapdiag.flows.filtered import Filtered
from pcapdiag.flows.grade import ADVICE, GRADES, NOTHING, UNREAD, Defects, grade

PERFECT: dict[str, Any] = {
    "packets": 100, "frames": 100, "unseen": 0.0, "dropped": 0.0, "one_way": 0.0, "midstream": 0.0, "snapped": 0.0, "copied": 0.0,
    "misordered": False, "clock_stepped": False, "offloaded": False, "cut": False, "filtered": Filtered.NO,
}  # fmt: skip


def graded(**changes: Any) -> tuple[str, str]:
    return grade(Defects(**{**PERFECT, **changes}))


def test_nothing_wrong_and_nothing_there() -> None:
    assert graded() == ("A", "")
    assert graded(packets=0, frames=0) == ("F", NOTHING)
    assert graded(packets=0) == ("F", UNREAD), "frames were captured: interface and filter had some"


@pytest.mark.parametrize(
    ("defect", "letter", "code"),
    [
        ({"unseen": 0.005}, "B", "capture-loss"), ({"dropped": 0.3}, "F", "capture-loss"), ({"one_way": 1.0}, "F", "one-way-capture"),
        ({"one_way": 0.05}, "B", "one-way-capture"), ({"midstream": 0.5}, "B", "mid-stream-start"),
        ({"midstream": 1.0}, "C", "mid-stream-start"),
        ({"snapped": 1.0}, "C", "snaplen-cut"), ({"copied": 0.5}, "C", "duplicate-packets"), ({"copied": 0.01}, "B", "duplicate-packets"),
        ({"misordered": True}, "B", "misordered-packets"), ({"clock_stepped": True}, "C", "clock-step"),
        ({"offloaded": True}, "B", "offload-segments"), ({"cut": True}, "B", "clipped-end"),
        ({"filtered": Filtered.FLAGS}, "D", "filtered-capture"), ({"filtered": Filtered.SAMPLED}, "F", "filtered-capture"),
    ],
)  # fmt: skip
def test_one_defect(defect: dict[str, Any], letter: str, code: str) -> None:
    assert graded(**defect) == (letter, ADVICE[code])


def test_a_filter_between_connections_lowers_nothing() -> None:
    assert graded(filtered=Filtered.PORT) == graded(filtered=Filtered.DECLARED) == ("A", "")


def test_the_worst_decides_and_gives_the_advice() -> None:
    assert graded(unseen=0.005, offloaded=True, copied=0.5) == ("C", ADVICE["duplicate-packets"])
    assert graded(unseen=0.5, filtered=Filtered.SAMPLED) == ("F", ADVICE["filtered-capture"]), "the rule explains what is missing"


def test_every_capture_finding_has_its_advice() -> None:
    assert set(ADVICE) == {detector.code for detector in DETECTORS if detector.domain is Domain.CAPTURE}
    assert all(sentence.endswith(".") for sentence in (*ADVICE.values(), NOTHING, UNREAD))
    assert GRADES == "ABCDF"
