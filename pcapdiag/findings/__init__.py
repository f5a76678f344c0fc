"""Step 7: what a detector is, what it concludes, and the one order in which findings are presented.

Pure types (types), pure functions (summary, reach, parents, rank); scores and severities: docs/json-report.md.
"""

from __future__ import annotations

from pcapdiag.findings.defects import SHOWN, Defect, concluded, shown
from pcapdiag.findings.dissect import dissect_cited
from pcapdiag.findings.parents import ANY_CAUSE, PARENTS
from pcapdiag.findings.placed import place_findings, place_signs
from pcapdiag.findings.rank import rank, verdict
from pcapdiag.findings.run import conclude, see, see_across
from pcapdiag.findings.shares import Share, shares
from pcapdiag.findings.summary import AgentSummary, Summary, stalls_of, summarise
from pcapdiag.findings.types import (
    ConcludeOf,
    Conclusion,
    CrossSignsOf,
    Detector,
    Diagnosis,
    Domain,
    Failure,
    Finding,
    FindingKind,
    Limit,
    Limits,
    Score,
    Severity,
    SignsOf,
)

__all__ = [
    "ANY_CAUSE",
    "PARENTS",
    "SHOWN",
    "AgentSummary",
    "ConcludeOf",
    "Conclusion",
    "CrossSignsOf",
    "Defect",
    "Detector",
    "Diagnosis",
    "Domain",
    "Failure",
    "Finding",
    "FindingKind",
    "Limit",
    "Limits",
    "Score",
    "Severity",
    "Share",
    "SignsOf",
    "Summary",
    "conclude",
    "concluded",
    "dissect_cited",
    "place_findings",
    "place_signs",
    "rank",
    "see",
    "see_across",
    "shares",
    "shown",
    "stalls_of",
    "summarise",
    "verdict",
]
