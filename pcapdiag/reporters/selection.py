"""What a report for people spreads out, what it says in one line, and what stands under what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pcapdiag.findings import FindingKind, Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.findings import Finding

MOST: Final = 10
"""Diagnoses spread out; further ones get a line each."""

_WORTH_RATIO: Final = 0.01
"""Share of the best score from which a finding of low severity is spread out."""
_WORTH_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Every finding, once."""

    diagnoses: tuple[tuple[Finding, int], ...]
    """With their depth: 1 for what stands under its cause."""
    minor: tuple[Finding, ...]
    """Causes and outcomes that cost next to nothing."""
    risks: tuple[Finding, ...]
    capture: tuple[Finding, ...]


def select(findings: Sequence[Finding]) -> Selection:
    """Sorts ranked findings into the sections of a report."""
    claims = [f for f in findings if f.conclusion.kind in {FindingKind.CAUSE, FindingKind.OUTCOME}]
    worth = [f for f in claims if _is_worth_a_page(f, claims[0].score.value)][:MOST]
    minor = {f.rank for f in claims} - {f.rank for f in worth}
    return Selection(
        diagnoses=_nested(worth),
        minor=tuple(f for f in claims if f.rank in minor),
        risks=tuple(f for f in findings if f.conclusion.kind is FindingKind.RISK),
        capture=tuple(f for f in findings if f.conclusion.kind is FindingKind.CAPTURE),
    )


def _is_worth_a_page(finding: Finding, best: float) -> bool:
    if finding.severity >= Severity.MEDIUM or finding.blocked_ns >= _WORTH_NS:
        return True
    return finding.severity >= Severity.LOW and finding.score.value >= _WORTH_RATIO * best


def _nested(findings: Sequence[Finding]) -> tuple[tuple[Finding, int], ...]:
    """Symptoms behind the cause that outranks them; a symptom that outranks its cause keeps its place."""
    placed: dict[int, int] = {}
    """Rank -> rank of the top-level finding it stands under."""
    for finding in findings:
        parent = next((f for f in findings if f.code == finding.caused_by and f.rank in placed), None)
        placed[finding.rank] = finding.rank if parent is None else placed[parent.rank]
    order = sorted(findings, key=lambda f: (placed[f.rank], f.rank))
    return tuple((finding, int(placed[finding.rank] != finding.rank)) for finding in order)
