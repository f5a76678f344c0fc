"""How bad a finding is: what failed because of it, or what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.table import CODES, Outcome
from pcapdiag.findings.intervals import Intervals
from pcapdiag.findings.types import Domain, FindingKind, Severity
from pcapdiag.stalls.sign import CLIENT_THINK, PROPAGATION, QUEUEING, Tier

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Exchange
    from pcapdiag.findings.reach import Clock, Reach
    from pcapdiag.findings.types import Conclusion, Detector
    from pcapdiag.stalls.ledger import Entry

SECOND_NS: Final = 1_000_000_000

FLOORS: Final[tuple[tuple[Severity, int, int], ...]] = (
    (Severity.CRITICAL, 10 * SECOND_NS, 0),
    (Severity.HIGH, 3 * SECOND_NS, 0),
    (Severity.HIGH, SECOND_NS, 25),
    (Severity.MEDIUM, SECOND_NS // 2, 0),
    (Severity.MEDIUM, SECOND_NS // 10, 25),
    (Severity.LOW, SECOND_NS // 20, 0),
)
"""Severity, blocked time from which it holds, and the percentage of the wall time of the exchanges hit it then needs."""

DOUBTFUL_BELOW: Final = 0.5
"""Confidence under which a finding stops at medium."""

_FAILED = [CODES[Outcome.ERROR], CODES[Outcome.ABORTED]]
_WAITED_TOO_LONG = frozenset({"4", "408", "504", "524"})
"""Answers that say so: gRPC DEADLINE_EXCEEDED; HTTP 408 and 504 (RFC 9110 sections 15.5.9, 15.6.5), 524 of a CDN."""
_BETWEEN = frozenset({PROPAGATION.code, QUEUEING.code, CLIENT_THINK.code})
"""What may lie between the stall an exchange died in and its end."""
_NOTHING_MOVES = frozenset({Tier.SETUP, Tier.DEAD})


def severity_of(conclusion: Conclusion, reach: Reach, detector: Detector, clock: Clock, blocked_ns: int) -> Severity:
    """The severity of a merged conclusion whose intervals cover `blocked_ns` of the clock."""
    if conclusion.kind is FindingKind.CAPTURE:
        return Severity.MEDIUM if conclusion.lowers_verdict else Severity.INFO
    if conclusion.kind is FindingKind.RISK:
        return Severity.INFO
    failed = _failed_of_it(conclusion, detector, clock)
    severity = Severity.CRITICAL if failed else _by_cost(blocked_ns, clock.wall_ns(reach.roots))
    if (detector.domain in {Domain.SERVER, Domain.CLIENT} and not failed) or conclusion.confidence.value < DOUBTFUL_BELOW:
        return min(severity, Severity.MEDIUM)
    return severity


def _by_cost(blocked_ns: int, wall_ns: int) -> Severity:
    for severity, floor_ns, percent in FLOORS:
        if blocked_ns >= floor_ns and 100 * blocked_ns >= percent * wall_ns:
            return severity
    return Severity.INFO


def _failed_of_it(conclusion: Conclusion, detector: Detector, clock: Clock) -> bool:
    """Did an exchange fail because of it: as the outcome it names, or in the stall it owns?"""
    owned, exchanges = np.unique(Intervals.of(conclusion.intervals).exchange), clock.tables.exchanges
    hit = np.union1d(np.array(conclusion.exchanges, np.int64), owned)
    failed = hit[np.isin(exchanges.outcome[hit], _FAILED)]
    if conclusion.kind is FindingKind.OUTCOME:
        return len(failed) > 0
    ends_flows = detector.label is not None and detector.label.tier in _NOTHING_MOVES
    is_owned = np.isin(failed, owned)
    if ends_flows and not is_owned.all():
        return True
    return any(_died_in(exchanges[row], conclusion, clock) for row in failed[is_owned].tolist())


def _died_in(row: Exchange, conclusion: Conclusion, clock: Clock) -> bool:
    """Is the last stall before the end of a failed exchange the conclusion's, and one that could make it fail?"""
    last = _last_wait(clock.ledger.exchanges[row.id])
    if last is None or last.label.code != conclusion.code:
        return False
    if last.label.tier in _NOTHING_MOVES:
        return True
    if last.duration_ns <= clock.ledger.trigger_ns[row.id]:
        return False
    # An answer that says no has come: only when it says "too late" is waiting the reason.
    return row.outcome is Outcome.ABORTED or row.status in _WAITED_TOO_LONG


def _last_wait(entries: tuple[Entry, ...]) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.label.code not in _BETWEEN), None)
