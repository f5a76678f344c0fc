"""The one order of findings: merged, scored, graded, each with its root.

score = blocked seconds x confidence x blast; blast = 1 + log2(exchanges)/4 + log2(peers or agents)/4, at most 3.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.table import PROTOCOLS
from pcapdiag.findings.intervals import Intervals, joined
from pcapdiag.findings.parents import PARENTS, find_parents
from pcapdiag.findings.reach import Clock
from pcapdiag.findings.severity import severity_of
from pcapdiag.findings.summary import summarise
from pcapdiag.findings.types import Domain, Finding, FindingKind, Score, Severity
from pcapdiag.flows.filtered import Filtered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pcapdiag.findings.reach import Reach
    from pcapdiag.findings.types import Conclusion, Detector
    from pcapdiag.flows.table import Quality
    from pcapdiag.stalls.ledger import Ledger
    from pcapdiag.trace import Tables

HIDDEN_BELOW: Final = 0.25
"""Confidence under which a finding is not shown."""

RISK_HIDDEN_BELOW: Final = 0.5
"""The same for a risk: nothing was lost to it, and what more likely is not there need not be looked for."""

UNATTRIBUTED_LIMIT: Final = 0.10
"""Share of unattributed exchange-time above which no confidence exceeds UNATTRIBUTED_CAP."""

UNATTRIBUTED_CAP: Final = 0.6

GRADE_F_CAP: Final = 0.4
"""Most that a capture of grade F can show: as much as one direction alone."""

NO_ACKS_CAP: Final = 0.4
"""Most that is known of a path when no acknowledgments were captured: as much as one direction alone shows."""

CUT_OPTIONS_CAP: Final = 0.6
"""Most that a resend shows where the snaplen cut TCP options: SACK blocks and timestamps say whether its original had arrived."""

_BY_RESENDS: Final = frozenset({"fast-retransmit-loss", "lost-retransmission", "tail-loss-rto", "rto-backoff", "microburst-loss"})
"""Codes that rest on resends having been needed."""

BLAST_CAP: Final = 3.0

_GROUP: Final = {FindingKind.CAUSE: 0, FindingKind.OUTCOME: 0, FindingKind.RISK: 1, FindingKind.CAPTURE: 2}


def rank(
    conclusions: Iterable[Conclusion],
    ledger: Ledger,
    tables: Tables,
    detectors: Iterable[Detector],
    parents: Mapping[str, tuple[str, ...]] = PARENTS,
) -> tuple[Finding, ...]:
    """All findings worth showing: causes and outcomes by score, then risks, then what concerns the capture."""
    by_code = {detector.code: detector for detector in detectors}
    clock = Clock.of(tables, ledger)
    shown = [one for one in _capped(_merged(conclusions, by_code, clock), by_code, tables, ledger) if _is_shown(one)]
    drafts = [(conclusion, clock.reach(conclusion)) for conclusion in shown]
    findings = [_finding(conclusion, reach, by_code[conclusion.code], clock) for conclusion, reach in drafts]
    order = sorted(range(len(findings)), key=lambda i: _order(findings[i], drafts[i][1]))
    causes = find_parents([drafts[i] for i in order], tables, parents)
    return tuple(
        replace(findings[i], rank=place + 1, caused_by=findings[order[causes[place]]].code if place in causes else None)
        for place, i in enumerate(order)
    )


def _is_shown(conclusion: Conclusion) -> bool:
    return conclusion.confidence.value >= (RISK_HIDDEN_BELOW if conclusion.kind is FindingKind.RISK else HIDDEN_BELOW)


def verdict(findings: Iterable[Finding], quality: Iterable[Quality]) -> str:
    """Who can fix it: a domain, "healthy", or "capture" when no capture is good enough to say."""
    grades = [one.grade for one in quality]
    if grades and all(grade == "F" for grade in grades):
        return Domain.CAPTURE.value
    # The first of those with the most blocked time: findings come best first.
    worst = max((f for f in findings if f.severity >= Severity.MEDIUM), key=lambda f: f.blocked_ns, default=None)
    return worst.domain.value if worst is not None else "healthy"


def _capped(conclusions: Iterable[Conclusion], by_code: Mapping[str, Detector], tables: Tables, ledger: Ledger) -> Iterable[Conclusion]:
    """What the captures cannot show, and what we do not understand of them, caps the confidence of what rests on it."""

    def concerns_traffic(one: Conclusion) -> bool:
        return one.kind is not FindingKind.CAPTURE

    quality, ratio = tables.quality, summarise(tables, ledger).unattributed_ratio
    caps: list[tuple[bool, Callable[[Conclusion], bool], float, str]] = [
        (_all(one.grade == "F" for one in quality), concerns_traffic, GRADE_F_CAP, "capture of grade F"),
        (
            _all(one.filtered == Filtered.NO_ACKS.value for one in quality),
            lambda one: by_code[one.code].domain is Domain.NETWORK, NO_ACKS_CAP, "no acknowledgments were captured",
        ),
        (_all(one.cuts_options for one in quality), lambda one: one.code in _BY_RESENDS, CUT_OPTIONS_CAP, "TCP options were cut off"),
        (ratio > UNATTRIBUTED_LIMIT, concerns_traffic, UNATTRIBUTED_CAP, f"{ratio:.0%} of the time is unattributed"),
    ]  # fmt: skip
    for holds, rests_on_it, most, why in caps:
        if holds:
            conclusions = [replace(c, confidence=c.confidence.capped(most, why)) if rests_on_it(c) else c for c in conclusions]
    return conclusions


def _all(holds: Iterable[bool]) -> bool:
    """Of all captures, of which there is one at least."""
    found = [*holds]
    return bool(found) and all(found)


def _merged(conclusions: Iterable[Conclusion], by_code: Mapping[str, Detector], clock: Clock) -> list[Conclusion]:
    """One conclusion per cause and path (network) or server (the rest); the costliest speaks for the others."""

    def group(conclusion: Conclusion) -> tuple[str, str, str, list[tuple[int, int]]]:
        servers = clock.reach(conclusion).servers
        if by_code[conclusion.code].domain is Domain.NETWORK:
            servers = frozenset((host, 0) for host, _ in servers)  # all ports of a host lie behind the same path
        return conclusion.code, conclusion.kind.value, str(conclusion.details.get("variant")), sorted(servers)

    merged = []
    for (_, _, _, servers), likes in groupby(sorted(conclusions, key=lambda c: (group(c), _place(c))), key=group):
        members = list(likes)
        merged += [_one(members)] if servers else members
    return merged


def _place(conclusion: Conclusion) -> tuple[Intervals, tuple[tuple[int, int], ...], str]:
    """Where a conclusion stands among its likes, whatever order the detectors ran in."""
    return Intervals.of(conclusion.intervals), tuple((frame.capture, frame.number) for frame in conclusion.frames), conclusion.summary


def _one(members: list[Conclusion]) -> Conclusion:
    first = max(members, key=lambda c: (c.stall_ns, c.confidence.value))
    if len(members) == 1:
        return first
    frames = [frame for one in (first, *(m for m in members if m is not first)) for frame in one.frames]
    return replace(
        first,
        stall_ns=sum(one.stall_ns for one in members),
        intervals=joined(Intervals.of(one.intervals) for one in members),
        at_least=any(one.at_least for one in members),
        exchanges=tuple(sorted({exchange for one in members for exchange in one.exchanges})),
        flows=tuple(sorted({flow for one in members for flow in one.flows})),
        frames=tuple(dict.fromkeys(frames)),
        summary=f"{first.summary} ({len(members) - 1} more like it on the same path)",
        lowers_verdict=any(one.lowers_verdict for one in members),
    )


def _finding(conclusion: Conclusion, reach: Reach, detector: Detector, clock: Clock) -> Finding:
    """A finding without its place."""
    blocked_ns = clock.blocked_ns(conclusion.intervals)
    blast = _blast(reach)
    confidence = conclusion.confidence.value
    return Finding(
        rank=0,
        conclusion=conclusion,
        title=detector.title,
        domain=detector.domain,
        severity=severity_of(conclusion, reach, detector, clock, blocked_ns),
        score=Score(value=blocked_ns / 1e9 * confidence * blast, blocked_ns=blocked_ns, confidence=confidence, blast=blast),
        blocked_ns=blocked_ns,
        perceived_ns=clock.perceived_ns(conclusion.intervals),
        calls=_calls(reach, clock.tables),
        caused_by=None,
        remedy=conclusion.remedy or detector.remedy,
        references=detector.references,
        wireshark_filter=conclusion.wireshark_filter or detector.wireshark_filter,
        fingerprint=_fingerprint(conclusion, reach, clock),
    )


def _blast(reach: Reach) -> float:
    """How wide it hit."""
    ends = max(len(reach.server_hosts), len(reach.agents), 1)
    return min(1 + 0.25 * math.log2(max(len(reach.roots), 1)) + 0.25 * math.log2(ends), BLAST_CAP)


def _calls(reach: Reach, tables: Tables) -> tuple[int, ...]:
    calls = np.unique(tables.calls.of_exchange[reach.roots])
    return tuple(calls[calls >= 0].tolist())


def _order(finding: Finding, reach: Reach) -> tuple[object, ...]:
    conclusion = finding.conclusion
    weight = finding.severity if conclusion.kind is FindingKind.CAPTURE else finding.score.value
    start = math.inf if reach.start_ns is None else reach.start_ns
    return _GROUP[conclusion.kind], -weight, -conclusion.confidence.value, start, conclusion.code, _place(conclusion)


def _fingerprint(conclusion: Conclusion, reach: Reach, clock: Clock) -> str:
    """SHA-256 of what makes the fault the same fault in another capture: no times, no counts, no ephemeral port."""
    tables = clock.tables
    roots, exchanges = reach.roots, tables.exchanges
    facts = (exchanges.facts[place] for place in np.unique(exchanges.fact[roots]).tolist())
    names = {str(name) for said in facts if (name := said.get("server_name"))}
    what = [
        conclusion.code,
        sorted(tables.addresses.text(client) for client in reach.clients),
        sorted(names) or sorted(tables.addresses.endpoint(*server) for server in reach.servers),
        sorted(PROTOCOLS[code].value for code in np.unique(exchanges.protocol[roots]).tolist()),
        conclusion.identity,
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
