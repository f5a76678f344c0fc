"""Amounts, grades and the headline, as people read them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pcapdiag.findings import summarise
from pcapdiag.reporters.phrases import EVIDENCE_LIMIT, cited, distinct_count, grade, headline, microseconds, seconds, share
from pcapdiag.reporters.selection import MOST, select
from pcapdiag.stalls.sign import Frame
from tests.diagnoses import at, capture_only, conclusion, diagnosis, empty, exchange, healthy, ledger, rich, tables


@pytest.mark.parametrize(
    ("ns", "said"),
    [
        (0, "0 s"),
        (1, "< 0.1 ms"),
        (4_200_000, "4.2 ms"),
        (9_949_999, "9.9 ms"),
        (9_950_000, "10 ms"),
        (999_499_999, "999 ms"),
        (999_500_000, "1.00 s"),
        (2_304_000_000, "2.30 s"),
        (9_996_000_000, "10.0 s"),
        (99_940_000_000, "99.9 s"),
        (100_000_000_000, "100 s"),
        (119_400_000_000, "119 s"),
        (119_600_000_000, "2 min"),
        (123_000_000_000, "2 min 3 s"),
        (7_169_000_000_000, "119 min 29 s"),
        (7_170_000_000_000, "2 h"),
        (12_345_000_000_000, "3 h 26 min"),
        (171_000_000_000_000, "2 d"),
        (128_911_034_000_000_000, "1492 d 1 h"),
    ],
)
def test_time_in_the_unit_a_person_would_use(ns: int, said: str) -> None:
    assert seconds(ns) == said


@pytest.mark.parametrize(("part", "whole", "said"), [(0, 9, "0 %"), (1, 1000, "< 1 %"), (1, 3, "33 %"), (3, 3, "100 %"), (0, 0, "-")])
def test_a_share_never_rounds_something_to_nothing(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


@pytest.mark.parametrize(
    ("value", "word"), [(0.95, "certain"), (0.949, "high"), (0.8, "high"), (0.5, "medium"), (0.25, "low"), (0.1, "very low")]
)
def test_grades_of_confidence(value: float, word: str) -> None:
    assert grade(value) == word


def test_microseconds_round_half_up() -> None:
    assert [microseconds(ns) for ns in (499, 500, 1_499, 1_500, -500, -501)] == [0, 1, 1, 2, 0, -1]


def test_evidence_is_the_first_and_the_last_of_many() -> None:
    frames = [Frame(0, number, at(number), "") for number in range(1, 31)]
    assert [frame.number for frame in cited([*frames, *frames])] == [1, 2, 3, 4, 5, 6, 7, 8, 27, 28, 29, 30]
    assert len(cited(frames[:EVIDENCE_LIMIT])) == EVIDENCE_LIMIT
    assert distinct_count([*frames, *frames]) == 30


def test_evidence_is_in_the_order_of_time() -> None:
    assert [frame.number for frame in cited([Frame(0, 2, at(2), ""), Frame(0, 1, at(1), "")])] == [1, 2]


def test_the_headline_says_who_how_long_and_what() -> None:
    found = rich()
    word, sentence = headline(found, summarise(found.tables, found.ledger))
    assert word == "NETWORK"
    assert sentence == "18.8 s blocked of 30.9 s. Worst: Large packets vanish on the path, 12.6 s (pmtu-black-hole)."


def test_the_headlines_of_captures_without_a_culprit() -> None:
    said = {found().verdict: headline(found(), summarise(found().tables, found().ledger)) for found in (healthy, capture_only)}
    assert said["healthy"] == ("HEALTHY", "nothing worth mending; 0 s blocked of 190 ms in 3 exchanges.")
    assert said["capture"][1].startswith("3.90 s blocked of 3.90 s; this capture cannot carry a verdict")
    assert headline(empty(), summarise(empty().tables, empty().ledger))[0] == "NOTHING TO JUDGE"


def test_nobody_calls_long_unexplained_waits_healthy() -> None:
    rows = (exchange(0, 0, 9),)
    found = diagnosis(tables(rows), ledger(rows, (0, 1, 8, "server-think")))
    assert found.verdict == "healthy"
    assert headline(found, summarise(found.tables, found.ledger))[0] == "UNEXPLAINED"


def test_a_symptom_stands_under_its_cause() -> None:
    chosen = select(rich().findings)
    assert [(f.code, depth) for f, depth in chosen.diagnoses] == [
        ("pmtu-black-hole", 0),
        ("h2-tcp-hol", 1),
        ("grpc-deadline-exceeded", 1),
        ("server-think", 0),
        ("tail-loss-rto", 0),
    ]


def test_a_symptom_that_outranks_its_cause_keeps_its_place() -> None:
    first, *others = rich().findings
    swapped = [replace(first, caused_by=others[0].code), *others]
    assert select(swapped).diagnoses[0][1] == 0


def test_every_finding_is_shown_once() -> None:
    rows = tuple(exchange(number, 0, 99) for number in range(14))
    many = tuple(conclusion("tail-loss-rto", (number, number, number + 5), details={"variant": str(number)}) for number in range(14))
    found = diagnosis(tables(rows), ledger(rows), many)
    chosen = select(found.findings)
    assert (len(chosen.diagnoses), len(chosen.minor)) == (MOST, 4)
    for one in (found, rich(), capture_only()):
        chosen = select(one.findings)
        ranks = [f.rank for f in (*(f for f, _ in chosen.diagnoses), *chosen.minor, *chosen.risks, *chosen.capture)]
        assert sorted(ranks) == [f.rank for f in one.findings]
