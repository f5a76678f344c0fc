"""The shape that findings about a capture share: a few frames that show it, and one conclusion per capture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcapdiag.findings.types import Conclusion, FindingKind
from pcapdiag.stalls.evidence import frames_of_packets, mark, marked
from pcapdiag.stalls.sign import Confidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pcapdiag.capture.frames import Capture
    from pcapdiag.flows.table import Quality
    from pcapdiag.stalls.sign import Sign
    from pcapdiag.trace import Tables, Trace

SHOWN = 6
"""Frames shown per capture and kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """What is to be said of one capture."""

    evidence: str
    """The piece of evidence, by name."""
    summary: str
    contrast: str
    """What would look else, and the observation that tells them apart."""
    details: Mapping[str, Any]
    confidence: float = 0.95
    flows: tuple[int, ...] = field(default=())
    exchanges: tuple[int, ...] = field(default=())
    lowers_verdict: bool = False


def shown(trace: Trace, code: str, frames: Callable[[Quality], Sequence[int]], note: str) -> Iterable[Sign]:
    """One mark per capture whose quality names frames: the first of them, with a note."""
    for capture, quality in enumerate(trace.quality):
        numbers = frames(quality)[:SHOWN]
        if numbers:
            yield mark(code, frames_of_packets(trace, trace.packets.rows_of(capture, numbers), note))


def concluded(
    code: str, tables: Tables, signs: Sequence[Sign], of: Callable[[int, Capture, Quality], Defect | None]
) -> Iterable[Conclusion]:
    """One conclusion per capture that has the defect; `of` says what it is, by the capture's index."""
    for index, (capture, quality) in enumerate(zip(tables.captures, tables.quality, strict=True)):
        defect = of(index, capture, quality)
        if defect is not None:
            yield Conclusion(
                code=code, kind=FindingKind.CAPTURE, confidence=Confidence(defect.confidence, (defect.evidence,)),
                flows=defect.flows, exchanges=defect.exchanges, frames=marked(signs, index), summary=defect.summary,
                contrast=defect.contrast, details=defect.details, lowers_verdict=defect.lowers_verdict,
            )  # fmt: skip
