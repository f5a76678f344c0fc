"""The samples, from both ends: the report of today is the one that was read and approved, and it agrees with what was done to the path.

`samples/<case>/expected.json` holds what a user would gate on. `make golden` rewrites it; read the diff before it is committed, and give
every change a line in CHANGELOG.md under "A detector changed its mind".
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from pcapdiag.pipeline import diagnose_files
from pcapdiag.reporters import REPORTERS

SAMPLES: Final = Path(__file__).parent.parent / "samples"
CASES: Final = sorted(path.parent.name for path in SAMPLES.glob("*/truth.json"))
ENDS: Final = [(case, path.stem) for case in CASES for path in sorted((SAMPLES / case).glob("*.pcap"))]
each_end = pytest.mark.parametrize(("case", "end"), ENDS, ids=["-".join(pair) for pair in ENDS])

Report = dict[str, Any]

NAMES: Final = {
    "h2-tcp-hol": {"h2-tcp-hol"},
    "microburst-loss": {"microburst-loss", "incast"},
    "packet-loss-recovery": {"fast-retransmit-loss", "lost-retransmission"},
    "pmtu-blackhole": {"pmtu-black-hole", "icmp-ptb-ignored"},
    "server-think": {"server-think", "inter-token-gap"},
    "slow-client": {"client-slow-consumer", "zero-window"},
    "tail-loss-rto": {"tail-loss-rto", "rto-backoff"},
    "deadline-exceeded": {"grpc-deadline-exceeded", "client-timeout-abort"},
    "zero-window": {"zero-window"},
}
"""What truth.json calls it -> the codes that say so."""

RECOVERY: Final = {
    "fast-retransmit-loss", "lost-retransmission", "tail-loss-rto", "rto-backoff", "h2-tcp-hol", "cwnd-collapse", "packet-reordering",
    "spurious-retransmission",
}  # fmt: skip
COMPANIONS: Final = {
    "h2-tcp-hol": RECOVERY,
    "microburst-loss": RECOVERY | {"microburst"},
    "pmtu-blackhole": RECOVERY,
    "server-think": set[str](),
    "zero-window": {"rwnd-limited", "client-slow-consumer", "silly-window"},
}
"""Root cause -> what is just as true there: how the stack got over it, and what it looked like to others."""
NEUTRAL: Final = {
    "server-think", "inter-token-gap", "chatty-round-trips", "no-connection-reuse", "upload-limited", "slow-start-after-idle",
    "client-backoff", "silent-stream", "client-slow-consumer", "client-timeout-abort", "grpc-deadline-exceeded", "grpc-unavailable",
    "h2-reset",
}  # fmt: skip
"""True of any run: a model works, a client waits."""

SECONDS_OF: Final = {
    "h2-tcp-hol": RECOVERY,
    "pmtu-blackhole": {"pmtu-black-hole", "icmp-ptb-ignored", "h2-tcp-hol"},
    "zero-window": {"zero-window", "client-slow-consumer", "rwnd-limited"},
}
"""Root cause -> the codes whose seconds add up to those of truth.json, where the measured ones contain more than its own code."""
TOLERANCES: Final = {"h2-head-of-line": 0.3}
TOLERANCE: Final = 0.1
TOLERANCE_S: Final = 0.3
NOT_JUDGED: Final = {"microburst"}
"""Its clean run has other queues: what the applications felt in between is not on the wire of the faulty run alone."""


@cache
def report(case: str, end: str) -> Report:
    """What `pcapdiag analyze -f json` prints; made once for all tests."""
    text = REPORTERS["json"](diagnose_files([str(SAMPLES / case / f"{end}.pcap")]), width=80)
    made: Report = json.loads(text)
    return made


@cache
def truth(case: str) -> Report:
    """What was done, and what the applications felt."""
    told: Report = json.loads((SAMPLES / case / "truth.json").read_text("utf-8"))
    return told


def gist(of: Report) -> Report:
    """The part of a report that should not change unnoticed."""
    capture = of["captures"][0]
    return {
        "verdict": of["summary"]["verdict"],
        "quality": capture["quality"]["grade"],
        "vantage": capture["vantage"]["side"],
        "findings": [
            {"rank": f["rank"], "code": f["code"], "kind": f["kind"], "severity": f["severity"], "stall_s": round(f["stall_s"], 1)}
            for f in of["findings"]
        ],
    }


def claims(of: Report) -> list[Report]:
    return [finding for finding in of["findings"] if finding["kind"] in {"cause", "outcome"}]


def roots(case: str) -> set[str]:
    told = truth(case)
    return set().union(*(NAMES[label] for label in (*told["root_causes"], *told["also_acceptable"])))


def test_the_samples_are_there() -> None:
    assert len(CASES) >= 5
    assert {end for _, end in ENDS} == {"client", "server"}
    assert len(ENDS) == 2 * len(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_report_is_the_expected_one(case: str, golden: bool) -> None:
    made = {end: gist(report(case, end)) for of, end in ENDS if of == case}
    path = SAMPLES / case / "expected.json"
    if golden:
        path.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    assert made == json.loads(path.read_text("utf-8")), "if the new report is right: `make golden`, and a line in CHANGELOG.md"


@each_end
def test_the_first_cause_is_what_was_done(case: str, end: str) -> None:
    assert claims(report(case, end))[0]["code"] in roots(case)


@each_end
def test_nothing_else_is_accused(case: str, end: str) -> None:
    companions = set().union(*(COMPANIONS[label] for label in truth(case)["root_causes"]))
    loud = {finding["code"] for finding in claims(report(case, end)) if finding["severity"] in {"medium", "high", "critical"}}
    assert loud - roots(case) - companions - NEUTRAL == set()


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_JUDGED])
def test_the_seconds_at_the_client_are_those_that_its_applications_measured(case: str) -> None:
    by_cause = report(case, "client")["summary"]["by_cause_s"]
    for label, measured_s in truth(case)["stall_seconds_by_cause"].items():
        found_s = sum(by_cause.get(code, 0.0) for code in SECONDS_OF.get(label, NAMES[label]))
        allowed_s = max(TOLERANCES.get(case, TOLERANCE) * measured_s, TOLERANCE_S)
        assert found_s == pytest.approx(measured_s, abs=allowed_s), label


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_JUDGED])
def test_no_seconds_go_to_those_who_did_nothing(case: str) -> None:
    told, by_cause = truth(case), report(case, "client")["summary"]["by_cause_s"]
    assert sum(by_cause.get(code, 0.0) for code in NAMES["server-think"]) <= 1.1 * told["server_think_total_s"] + TOLERANCE_S
    companions = set().union(*(COMPANIONS[label] | SECONDS_OF.get(label, set()) for label in told["root_causes"]))
    stray_s = sum(seconds for code, seconds in by_cause.items() if code not in roots(case) | companions | NEUTRAL)
    assert stray_s <= max(TOLERANCE_S, TOLERANCE * sum(told["stall_seconds_by_cause"].values()))


@each_end
def test_the_vantage_is_known_and_the_file_is_good(case: str, end: str) -> None:
    capture = report(case, end)["captures"][0]
    assert capture["vantage"]["side"] == end
    assert capture["quality"]["grade"] == "A"
    assert capture["frames"] == capture["decoded"] + sum(capture["not_decoded"].values())


@each_end
def test_the_report_follows_its_schema(case: str, end: str) -> None:
    schema = json.loads(resources.files("pcapdiag.reporters").joinpath("schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report(case, end))


@each_end
def test_every_ledger_sums_to_its_duration(case: str, end: str) -> None:
    exchanges = report(case, end)["exchanges"]
    assert exchanges
    # each figure is rounded to a microsecond by itself
    assert [e["id"] for e in exchanges if abs(sum(e["ledger_s"].values()) - e["duration_s"]) > 5e-7 * (2 + len(e["ledger_s"]))] == []


@each_end
def test_what_is_claimed_is_shown(case: str, end: str) -> None:
    made = report(case, end)
    frames = made["captures"][0]["frames"]
    for finding in claims(made):
        assert finding["evidence"], finding["code"]
        assert [shown["frame"] for shown in finding["evidence"] if not 1 <= shown["frame"] <= frames] == []


@each_end
def test_nearly_every_request_is_found(case: str, end: str) -> None:
    """By port and time, as the applications logged them (epoch seconds)."""
    made = report(case, end)
    begin_s = _epoch_s(made["captures"][0]["start"])
    seen: dict[str, list[tuple[float, float]]] = {}
    for exchange in made["exchanges"]:
        if exchange["part_of"] is None:
            seen.setdefault(exchange["client"].rpartition(":")[2], []).append((begin_s + exchange["start_s"], begin_s + exchange["end_s"]))
    wanted = [request for request in truth(case)["requests"] if request.get("client_port")]
    found = [r for r in wanted if any(a <= r["end"] + 0.5 and b >= r["start"] - 0.5 for a, b in seen.get(str(r["client_port"]), []))]
    assert len(found) >= 0.8 * len(wanted) > 0


def _epoch_s(stamp: str) -> float:
    return datetime.fromisoformat(stamp[:26] + "+00:00").timestamp()
