"""The JSON report: it follows its schema, its sums hold, and nothing off the wire gets out raw."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.findings import Domain, FindingKind
from pcapdiag.losses import Loss
from pcapdiag.reporters import REPORTERS
from pcapdiag.reporters.json_report import document
from pcapdiag.reporters.json_rows import apportioned, seconds
from pcapdiag.reporters.linktypes import link_type_name
from pcapdiag.reporters.phrases import microseconds
from tests.diagnoses import HOSTILE, at, capture, capture_only, conclusion, diagnosis, empty, exchange, healthy, ledger, rich, tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcapdiag.findings import Diagnosis

SCHEMA = json.loads(resources.files("pcapdiag.reporters").joinpath("schema.json").read_text(encoding="utf-8"))
EXAMPLES = [rich, healthy, empty, capture_only]


def reported(found: Diagnosis) -> Any:
    return json.loads(REPORTERS["json"](found, width=80))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_reports_follow_the_schema(example: Callable[[], Diagnosis]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(reported(example()))


def test_the_schema_is_strict() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    report = reported(rich())
    spoilt: list[tuple[list[str | int], Any]] = [
        (["more"], 1),
        (["findings", 0, "more"], 1),
        (["summary", "verdict"], "fine"),
        (["exchanges", 0, "ledger_s"], None),
        (["exchanges", 2, "stalls", 0, "frames", 0], [0, 1, 2]),
    ]
    for (*way, last), value in spoilt:
        broken = json.loads(json.dumps(report))
        place = broken
        for step in way:
            place = place[step]
        place[last] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate(broken)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("exchange", "protocol"), Protocol),
        (("exchange", "outcome"), Outcome),
        (("finding", "kind"), FindingKind),
        (("finding", "domain"), Domain),
    ],
)
def test_the_schema_knows_every_word_of_the_program(place: tuple[str, str], words: type[Enum]) -> None:
    kind, name = place
    assert {word.value for word in words} <= set(SCHEMA["$defs"][kind]["properties"][name]["enum"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_every_ledger_sums_to_its_duration(example: Callable[[], Diagnosis]) -> None:
    for row in reported(example())["exchanges"]:
        assert sum(microseconds(round(s * 1e9)) for s in row["ledger_s"].values()) == microseconds(round(row["duration_s"] * 1e9))


@given(st.lists(st.lists(st.integers(0, 10**13), min_size=1, max_size=8), max_size=5))
def test_rounding_keeps_the_sum_and_every_part_within_a_microsecond(groups: list[list[int]]) -> None:
    group = np.repeat(np.arange(len(groups)), [len(parts) for parts in groups])
    parts_ns = np.array([ns for parts in groups for ns in parts], np.int64)
    rounded = apportioned(group, parts_ns)
    for number, parts in enumerate(groups):
        assert rounded[group == number].sum() == microseconds(sum(parts))
    assert (abs(rounded * 1000 - parts_ns) < 1000).all()


def test_largest_remainders_are_rounded_up() -> None:
    assert apportioned(np.array([0, 0, 0]), np.array([1_400, 1_700, 900])).tolist() == [1, 2, 1]


def test_by_cause_leaves_out_phases_and_what_is_no_cause() -> None:
    assert reported(rich())["summary"]["by_cause_s"] == {
        "pmtu-black-hole": 12.58, "h2-tcp-hol": 8.6, "server-think": 5.8, "tail-loss-rto": 0.4,
    }  # fmt: skip


def test_frames_are_decoded_or_counted() -> None:
    (row,) = reported(rich())["captures"]
    assert (row["frames"], row["decoded"], row["not_decoded"]) == (812, 806, {"arp": 6})
    assert Loss.HPACK_LOST.value not in row["not_decoded"]  # not a frame


def test_times_are_exact() -> None:
    report = reported(rich())
    assert report["captures"][0]["start"] == "2026-01-02T03:04:05.678901234Z"
    assert report["captures"][0]["duration_s"] == 31.2
    assert (report["exchanges"][2]["start_s"], report["exchanges"][2]["first_byte_s"]) == (0.3, None)
    assert seconds(at(1.234567) - at(0)) == 1.234567
    assert reported(empty())["captures"][0]["start"] is None


def test_stalls_are_the_intervals_above_the_trigger_with_their_frames() -> None:
    assert reported(rich())["exchanges"][2]["stalls"] == [
        {"start_s": 0.45, "end_s": 13.03, "cause": "pmtu-black-hole", "at_least": False, "frames": [[0, 102], [0, 202]]}
    ]


def test_phases_have_an_agent_and_no_call() -> None:
    rows = reported(rich())["exchanges"]
    assert [(row["agent"], row["call"], row["part_of"]) for row in rows[:3]] == [(0, None, 2), (0, None, 2), (0, 0, None)]
    assert rows[5]["details"] == {"aborted_by": "client"}


def test_evidence_is_capped_and_counted() -> None:
    finding = reported(rich())["findings"][0]
    assert (len(finding["evidence"]), finding["evidence_count"]) == (12, 14)
    assert finding["evidence"][0]["frame"] == 123
    assert "dissection" in finding["evidence"][0]
    assert "dissection" not in finding["evidence"][1]


def test_flows_say_what_they_speak() -> None:
    assert [flow["application"] for flow in reported(rich())["flows"]] == ["h2", "http/1.1", "http/1.1", "dns"]
    assert [flow["protocol"] for flow in reported(rich())["flows"]] == ["tcp", "tcp", "tcp", "udp"]


def test_details_are_plain_json() -> None:
    rows = (exchange(0, 0, 9),)
    details = {"count": np.int64(7), "ratio": float("nan"), "sizes": (np.float64(0.5), 2), "deep": {"kind": Loss.ARP}}
    (finding,) = reported(diagnosis(tables(rows), ledger(rows), (conclusion("policer", (0, 1, 2), details=details),)))["findings"]
    assert finding["details"] == {"variant": None, "count": 7, "ratio": None, "sizes": [0.5, 2], "deep": {"kind": "arp"}}


def test_details_that_are_no_data_are_refused() -> None:
    rows = (exchange(0, 0, 9),)
    found = diagnosis(tables(rows), ledger(rows), (conclusion("policer", (0, 1, 2), details={"thing": object()}),))
    with pytest.raises(TypeError, match="object cannot be a detail"):
        document(found)


def test_the_text_is_ascii_without_controls_and_loses_nothing() -> None:
    text = REPORTERS["json"](rich(), width=80)
    assert text.isascii()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert json.loads(text)["exchanges"][2]["name"].endswith(HOSTILE)


def test_rows_are_one_a_line() -> None:
    lines = REPORTERS["json"](rich(), width=80).splitlines()
    assert len([line for line in lines if line.startswith('    {"id": ')]) == 2 + 4 + 6 + 4  # agents, calls, exchanges, flows


def test_width_does_not_matter() -> None:
    assert REPORTERS["json"](rich(), width=40) == REPORTERS["json"](rich(), width=200)


def test_an_unknown_link_type_is_a_number() -> None:
    assert (link_type_name(1), link_type_name(4711)) == ("EN10MB", "LINKTYPE_4711")
    two = capture(interfaces=(*capture().interfaces, *capture().interfaces))
    assert reported(replace(empty(), tables=replace(empty().tables, captures=(two,))))["captures"][0]["link_types"] == ["EN10MB"]
