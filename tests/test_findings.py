"""The order of findings, their scores, severities, roots and sums."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.findings import PARENTS, Conclusion, Domain, Finding, FindingKind, Severity, rank, stalls_of, summarise, verdict
from pcapdiag.stalls.ledger import Entry, Ledger
from pcapdiag.stalls.sign import CLIENT_THINK, UNATTRIBUTED, Confidence, Frame
from tests.diagnoses import (
    AGENT,
    DETECTORS,
    OTHER_AGENT,
    OTHER_SERVER,
    SERVER,
    at,
    conclusion,
    detector,
    exchange,
    flows,
    ledger,
    quality,
    rich,
    tables,
)

if TYPE_CHECKING:
    from pcapdiag.flows.table import Flows

SECOND = 1_000_000_000


def ranked(
    rows: tuple[Exchange, ...], *conclusions: Conclusion, columns: Flows | None = None, closed: Ledger | None = None
) -> tuple[Finding, ...]:
    return rank(conclusions, closed or ledger(rows), tables(rows, flows=columns), DETECTORS)


def one(rows: tuple[Exchange, ...], found: Conclusion, closed: Ledger | None = None) -> Finding:
    (finding,) = ranked(rows, found, closed=closed)
    return finding


# score


def test_the_score_is_blocked_seconds_times_confidence_times_blast() -> None:
    rows = (exchange(0, 0, 40), exchange(1, 0, 40))
    finding = one(rows, conclusion("pmtu-black-hole", (0, 1, 13.6), (1, 5, 10), confidence=Confidence(0.95)))
    assert finding.blocked_ns == round(12.6 * SECOND)
    assert finding.score.blast == 1.25  # two exchanges, one server
    assert finding.score.value == pytest.approx(12.6 * 0.95 * 1.25)


def test_blocked_time_is_a_union_per_agent_and_a_sum_over_agents() -> None:
    columns = flows((AGENT, 1, SERVER, 443, 6), (OTHER_AGENT, 2, SERVER, 443, 6))
    rows = (exchange(0, 0, 9), exchange(1, 0, 9), exchange(2, 0, 9, flow=1))
    (finding,) = ranked(rows, conclusion("path-outage", (0, 1, 3), (1, 2, 4), (2, 1, 3)), columns=columns)
    assert finding.conclusion.stall_ns == 6 * SECOND
    assert finding.blocked_ns == (3 + 2) * SECOND


def test_the_blast_counts_servers_or_agents_and_stops_at_three() -> None:
    columns = flows(*((AGENT, 1000 + i, server, 443, 6) for i, server in enumerate((SERVER, OTHER_SERVER))))
    two = (exchange(0, 0, 9), exchange(1, 0, 9, flow=1))
    (finding,) = ranked(two, conclusion("path-outage", (0, 1, 3), (1, 1, 3)), columns=columns)
    assert finding.score.blast == 1.5
    many = tuple(exchange(i, 0, 9) for i in range(512))
    assert one(many, conclusion("path-outage", *((i, 1, 3) for i in range(512)))).score.blast == 3


def test_a_phase_counts_as_the_exchange_it_is_part_of() -> None:
    rows = (exchange(0, 0, 1, protocol=Protocol.CONNECT, part_of=1), exchange(1, 0, 9))
    finding = one(rows, conclusion("syn-loss", (1, 0, 1), exchanges=(0, 1)))
    assert finding.score.blast == 1
    assert finding.calls == (0,)


def test_streams_are_perceived_one_by_one() -> None:
    rows = (exchange(0, 0, 9, protocol=Protocol.SSE), exchange(1, 0, 9, protocol=Protocol.SSE), exchange(2, 0, 9))
    finding = one(rows, conclusion("path-outage", (0, 1, 3), (1, 1, 3), (2, 1, 3)))
    assert finding.blocked_ns == 2 * SECOND
    assert finding.perceived_ns == (2 + 2 + 2) * SECOND
    assert one(rows, conclusion("path-outage", (2, 1, 3))).perceived_ns == 2 * SECOND


# merging


def test_the_same_cause_towards_the_same_server_is_one_finding() -> None:
    columns = flows((AGENT, 1, SERVER, 443, 6), (AGENT, 2, SERVER, 443, 6), (AGENT, 3, OTHER_SERVER, 443, 6))
    rows = (exchange(0, 0, 9), exchange(1, 0, 9, flow=1), exchange(2, 0, 9, flow=2))
    small = conclusion("pmtu-black-hole", (0, 1, 2), flows=(0,), summary="small")
    large = conclusion("pmtu-black-hole", (1, 3, 7), flows=(1,), summary="large", at_least=True)
    apart = conclusion("pmtu-black-hole", (2, 1, 1.5), flows=(2,), summary="apart")
    first, second = ranked(rows, small, large, apart, columns=columns)
    assert (first.conclusion.stall_ns, first.blocked_ns) == (5 * SECOND, 5 * SECOND)
    assert first.conclusion.summary == "large (1 more like it on the same path)"
    assert (first.conclusion.exchanges, first.conclusion.flows, first.conclusion.at_least) == ((0, 1), (0, 1), True)
    assert [frame.number for frame in first.conclusion.frames] == [11, 10]
    assert second.conclusion.summary == "apart"


def test_ports_of_one_host_share_a_path_but_not_a_server() -> None:
    columns = flows((AGENT, 1, SERVER, 443, 6), (AGENT, 2, SERVER, 8000, 6))
    rows = (exchange(0, 0, 9), exchange(1, 0, 9, flow=1))
    for code, findings in (("path-outage", 1), ("server-think", 2)):
        assert len(ranked(rows, conclusion(code, (0, 1, 3)), conclusion(code, (1, 1, 3)), columns=columns)) == findings


def test_variants_and_captures_stay_apart() -> None:
    rows = (exchange(0, 0, 9),)
    syn = conclusion("syn-loss", (0, 0, 1), details={"variant": "syn-loss"})
    synack = conclusion("syn-loss", (0, 1, 2), details={"variant": "synack-loss"})
    assert len(ranked(rows, syn, synack)) == 2
    files = [conclusion("offload-segments", kind=FindingKind.CAPTURE, frames=(Frame(i, 1, at(0), ""),)) for i in (0, 1)]
    assert len(ranked(rows, *files)) == 2


# severity


@pytest.mark.parametrize(
    ("blocked_s", "wall_s", "severity"),
    [
        (10, 1000, Severity.CRITICAL),
        (9.9, 1000, Severity.HIGH),
        (3, 1000, Severity.HIGH),
        (2.9, 1000, Severity.MEDIUM),
        (1, 4, Severity.HIGH),
        (1, 4.1, Severity.MEDIUM),
        (0.5, 1000, Severity.MEDIUM),
        (0.49, 1000, Severity.LOW),
        (0.1, 0.4, Severity.MEDIUM),
        (0.1, 0.41, Severity.LOW),
        (0.05, 1000, Severity.LOW),
        (0.049, 0.05, Severity.INFO),
    ],
)
def test_severity_by_cost(blocked_s: float, wall_s: float, severity: Severity) -> None:
    assert one((exchange(0, 0, wall_s),), conclusion("path-outage", (0, 0, blocked_s))).severity is severity


def test_an_exchange_that_died_in_the_stall_makes_it_critical() -> None:
    rows = (exchange(0, 0, 1, outcome=Outcome.ABORTED),)
    found = conclusion("tail-loss-rto", (0, 0.5, 0.9))
    assert one(rows, found, ledger(rows, (0, 0.5, 0.9, "tail-loss-rto"))).severity is Severity.CRITICAL
    survived = ledger(rows, (0, 0.1, 0.5, "tail-loss-rto"), (0, 0.6, 0.9, "server-think"))
    assert one(rows, conclusion("tail-loss-rto", (0, 0.1, 0.5)), survived).severity is Severity.MEDIUM


def test_an_answer_that_says_no_is_not_the_fault_of_thinking_about_it() -> None:
    rows = (exchange(0, 0, 4, outcome=Outcome.ERROR, status="404"),)
    closed = ledger(rows, (0, 0, 4, "server-think"))
    found = conclusion("server-think", (0, 0, 4))
    assert one(rows, found, closed).severity is Severity.MEDIUM
    late = (replace(rows[0], status="504"),)
    assert one(late, found, closed).severity is Severity.CRITICAL


def test_what_ends_a_connection_fails_the_exchanges_it_names() -> None:
    rows = (exchange(0, 0, 1, outcome=Outcome.ABORTED), exchange(1, 0, 1))
    assert one(rows, conclusion("path-outage", exchanges=(0,), flows=(0,))).severity is Severity.CRITICAL
    assert one(rows, conclusion("path-outage", exchanges=(1,), flows=(0,))).severity is Severity.INFO
    assert one(rows, conclusion("packet-reordering", exchanges=(0,), flows=(0,))).severity is Severity.INFO


def test_an_outcome_is_critical_when_its_exchange_failed() -> None:
    rows = (exchange(0, 0, 1, outcome=Outcome.ERROR, status="4"),)
    found = conclusion("grpc-deadline-exceeded", kind=FindingKind.OUTCOME, exchanges=(0,))
    assert one(rows, found).severity is Severity.CRITICAL


@pytest.mark.parametrize("code", ["server-think", "zero-window"])
def test_peers_and_clients_stop_at_medium_unless_an_exchange_failed(code: str) -> None:
    assert one((exchange(0, 0, 99),), conclusion(code, (0, 0, 50))).severity is Severity.MEDIUM


def test_doubt_stops_at_medium_and_strong_doubt_is_not_shown() -> None:
    rows = (exchange(0, 0, 99, outcome=Outcome.ABORTED),)
    closed = ledger(rows, (0, 0, 99, "path-outage"))
    assert one(rows, conclusion("path-outage", (0, 0, 99), confidence=Confidence(0.49)), closed).severity is Severity.MEDIUM
    assert one(rows, conclusion("path-outage", (0, 0, 99), confidence=Confidence(0.25)), closed).severity is Severity.MEDIUM
    assert ranked(rows, conclusion("path-outage", (0, 0, 99), confidence=Confidence(0.24)), closed=closed) == ()


def test_capture_findings_are_medium_only_when_they_lower_a_verdict() -> None:
    rows = (exchange(0, 0, 1),)
    lowers = conclusion("capture-loss", kind=FindingKind.CAPTURE, lowers_verdict=True)
    remark = conclusion("offload-segments", kind=FindingKind.CAPTURE)
    assert [f.severity for f in ranked(rows, remark, lowers)] == [Severity.MEDIUM, Severity.INFO]


def test_much_unattributed_time_caps_every_confidence() -> None:
    rows = (exchange(0, 0, 10),)
    found = conclusion("path-outage", (0, 0, 8.9))
    little = ledger(rows, (0, 0, 9, "path-outage"), rest=UNATTRIBUTED)
    assert one(rows, found, little).score.confidence == 0.9
    much = ledger(rows, (0, 0, 8.9, "path-outage"), rest=UNATTRIBUTED)
    finding = one(rows, found, much)
    assert finding.score.confidence == 0.6
    assert finding.conclusion.confidence.evidence[-1] == "cap: 11% of the time is unattributed"


# order


def test_causes_come_first_then_risks_then_the_capture() -> None:
    rows = (exchange(0, 0, 9),)
    found = (
        conclusion("offload-segments", kind=FindingKind.CAPTURE),
        conclusion("ip-fragmentation", kind=FindingKind.RISK),
        conclusion("grpc-deadline-exceeded", kind=FindingKind.OUTCOME, exchanges=(0,)),
        conclusion("zero-window", (0, 0, 1)),
        conclusion("path-outage", (0, 1, 3)),
    )
    codes = ["path-outage", "zero-window", "grpc-deadline-exceeded", "ip-fragmentation", "offload-segments"]
    assert [f.code for f in ranked(rows, *found)] == codes
    assert [f.rank for f in ranked(rows, *found)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("sure", "shown"), [(0.24, []), (0.25, ["zero-window"]), (0.49, ["zero-window"]), (0.5, ["zero-window", "policer"])]
)
def test_a_risk_that_is_rather_not_there_is_not_shown(sure: float, shown: list[str]) -> None:
    """A cause that cost time is shown with its doubts; a risk cost nothing."""
    cause = conclusion("zero-window", (0, 0, 1), confidence=Confidence(sure))
    risk = conclusion("policer", kind=FindingKind.RISK, confidence=Confidence(sure))
    assert [f.code for f in ranked((exchange(0, 0, 9),), cause, risk)] == shown


def test_ties_go_to_confidence_then_to_the_earlier_then_to_the_code() -> None:
    rows = (exchange(0, 0, 9),)
    sure = conclusion("zero-window", (0, 4, 5), confidence=Confidence(0.8))
    wide = conclusion("policer", (0, 2, 4), confidence=Confidence(0.4))
    early = conclusion("tail-loss-rto", (0, 1, 3), confidence=Confidence(0.4))
    also_early = conclusion("fast-retransmit-loss", (0, 1, 3), confidence=Confidence(0.4))
    codes = ["zero-window", "fast-retransmit-loss", "tail-loss-rto", "policer"]
    assert [f.code for f in ranked(rows, wide, early, also_early, sure)] == codes


def test_the_order_in_which_detectors_ran_does_not_matter() -> None:
    rows = (exchange(0, 0, 9), exchange(1, 0, 9))
    found = (
        conclusion("path-outage", (0, 1, 3)),
        conclusion("path-outage", (1, 1, 3)),
        conclusion("h2-tcp-hol", (1, 3, 4)),
        conclusion("tail-loss-rto", (0, 3, 4)),
    )
    results = {repr(ranked(rows, *order)) for order in permutations(found)}
    assert len(results) == 1


# roots


def causes(rows: tuple[Exchange, ...], *found: Conclusion, columns: Flows | None = None) -> dict[str, str | None]:
    return {f.code: f.caused_by for f in ranked(rows, *found, columns=columns)}


def test_a_symptom_names_the_fault_that_was_at_work_when_it_began() -> None:
    rows = (exchange(0, 0, 9), exchange(1, 0, 9))
    loss, hol = conclusion("tail-loss-rto", (0, 1, 3)), conclusion("h2-tcp-hol", (1, 1.2, 3))
    assert causes(rows, loss, hol) == {"tail-loss-rto": None, "h2-tcp-hol": "tail-loss-rto"}


@pytest.mark.parametrize(("start", "parent"), [(0.9, None), (1.0, "tail-loss-rto"), (4.0, "tail-loss-rto"), (4.1, None)])
def test_a_symptom_begins_within_its_cause_or_one_timeout_behind_it(start: float, parent: str | None) -> None:
    rows = (exchange(0, 0, 9), exchange(1, 0, 9))
    assert causes(rows, conclusion("tail-loss-rto", (0, 1, 3)), conclusion("h2-tcp-hol", (1, start, 5)))["h2-tcp-hol"] == parent


def test_most_of_a_symptoms_time_must_fit() -> None:
    rows = (exchange(0, 0, 99), exchange(1, 0, 99))
    loss = conclusion("tail-loss-rto", (0, 1, 3))
    assert causes(rows, loss, conclusion("h2-tcp-hol", (1, 1, 3), (1, 50, 51)))["h2-tcp-hol"] == "tail-loss-rto"
    assert causes(rows, loss, conclusion("h2-tcp-hol", (1, 1, 2), (1, 50, 59)))["h2-tcp-hol"] is None


def test_another_server_is_another_fault_unless_the_cause_hit_several() -> None:
    columns = flows((AGENT, 1, SERVER, 443, 6), (AGENT, 2, OTHER_SERVER, 443, 6), (AGENT, 3, SERVER, 80, 6))
    rows = (exchange(0, 0, 9), exchange(1, 0, 9, flow=1), exchange(2, 0, 9, flow=2))
    symptom = conclusion("rto-backoff", (1, 1.2, 3))
    assert causes(rows, conclusion("path-outage", (0, 1, 3)), symptom, columns=columns)["rto-backoff"] is None
    wide = conclusion("path-outage", (0, 1, 3), (2, 1, 3), (1, 1, 1.1))
    assert causes(rows, wide, symptom, columns=columns)["rto-backoff"] == "path-outage"


def test_an_outcome_is_caused_by_what_held_its_exchange_at_the_end() -> None:
    rows = (exchange(0, 0, 6), exchange(1, 7, 9))
    died = conclusion("grpc-deadline-exceeded", kind=FindingKind.OUTCOME, exchanges=(0,))
    held, other = conclusion("pmtu-black-hole", (0, 1, 6)), conclusion("tail-loss-rto", (1, 8, 9))
    assert causes(rows, died, held, other)["grpc-deadline-exceeded"] == "pmtu-black-hole"
    assert causes(rows, died, other)["grpc-deadline-exceeded"] is None


def test_nothing_causes_itself_over_a_detour() -> None:
    rows = (exchange(0, 0, 9),)
    loop = {"policer": ("zero-window",), "zero-window": ("policer",)}
    found = (conclusion("policer", (0, 1, 3)), conclusion("zero-window", (0, 1, 2)))
    findings = rank(found, ledger(rows), tables(rows), DETECTORS, loop)
    assert [f.caused_by for f in findings] == ["zero-window", None]


def test_risks_and_capture_findings_cause_nothing() -> None:
    rows = (exchange(0, 0, 9),)
    found = (conclusion("policer", (0, 1, 3), kind=FindingKind.RISK), conclusion("tail-loss-rto", (0, 1, 2)))
    assert causes(rows, *found)["tail-loss-rto"] is None


def test_no_code_is_its_own_parent() -> None:
    assert [child for child, parents in PARENTS.items() if child in parents] == []


# verdict


def test_the_verdict_is_the_domain_that_blocked_most() -> None:
    rows = (exchange(0, 0, 99),)
    long = conclusion("server-think", (0, 20, 60), confidence=Confidence(0.5))
    sure = conclusion("path-outage", (0, 0, 20.5), confidence=Confidence(1.0))
    assert verdict(ranked(rows, long, sure), [quality()]) == "server"
    assert verdict(ranked(rows, sure), [quality()]) == "network"
    assert verdict(ranked(rows, sure), [quality(grade="F")]) == "capture"
    assert verdict(ranked(rows, sure), [quality(grade="F"), quality()]) == "network"


def test_healthy_means_nothing_of_medium_severity() -> None:
    rows = (exchange(0, 0, 99),)
    assert verdict(ranked(rows, conclusion("path-outage", (0, 0, 0.4))), [quality()]) == "healthy"
    lowers = conclusion("capture-loss", kind=FindingKind.CAPTURE, lowers_verdict=True)
    assert verdict(ranked(rows, lowers), [quality()]) == "capture"


# what findings carry


def test_a_conclusions_own_remedy_outranks_the_detectors() -> None:
    rows = (exchange(0, 0, 9),)
    assert one(rows, conclusion("policer", (0, 1, 3))).remedy == ("Mend the policer.",)
    assert one(rows, conclusion("policer", (0, 1, 3), remedy=("Buy more.",))).remedy == ("Buy more.",)


def test_a_conclusion_of_no_detector_is_a_mistake_of_ours() -> None:
    rows = (exchange(0, 0, 9),)
    with pytest.raises(KeyError, match="no-such-code"):
        ranked(rows, conclusion("no-such-code", (0, 1, 3)))
    extra = (*DETECTORS, detector("no-such-code", Domain.TLS))
    (finding,) = rank([conclusion("no-such-code", (0, 1, 3))], ledger(rows), tables(rows), extra)
    assert finding.domain is Domain.TLS


# sums


def test_the_summary_leaves_out_phases_and_what_is_no_cause() -> None:
    rows = (exchange(0, 0, 1, protocol=Protocol.CONNECT, part_of=1), exchange(1, 0, 9))
    closed = ledger(rows, (0, 0, 1, "syn-loss"), (1, 0, 1, "syn-loss"), (1, 2, 2.1, "server-think"))
    summary = summarise(tables(rows), closed)
    assert summary.by_cause_ns == {"syn-loss": SECOND, "server-think": SECOND // 10}
    assert summary.ledger_ns == 9 * SECOND
    assert (summary.exchanges, summary.stalled_exchanges) == (1, 1)
    assert (summary.wall_ns, summary.blocked_ns) == (9 * SECOND, SECOND)


def test_what_lies_between_attempts_is_wall_time_of_the_agent() -> None:
    rows = (exchange(0, 0, 1), exchange(1, 3, 4))
    label = rich().ledger.exchanges[2][1].label
    gaps = (Entry(0, at(1), at(2), label, None), Entry(0, at(2), at(3), CLIENT_THINK, None))
    summary = summarise(tables(rows), replace(ledger(rows), calls=gaps))
    assert (summary.wall_ns, summary.blocked_ns) == (4 * SECOND, SECOND)
    assert summary.by_label_ns["client-think"] == SECOND


def test_a_stall_is_longer_than_the_trigger_and_nothing_moved_in_it() -> None:
    rows = (exchange(0, 0, 9),)
    closed = ledger(rows, (0, 0, 0.2, "tail-loss-rto"), (0, 1, 1.201, "tail-loss-rto"), (0, 2, 5, "delivery"))
    assert [(entry.start_ns, entry.label.code) for entry in stalls_of(closed, 0)] == [(at(1), "tail-loss-rto")]
