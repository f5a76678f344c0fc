"""What a user may choose of an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TABLES_SHARE = 16
"""The tables may take a sixteenth of the memory: they are read a column at a time, and exchanges, signs and the report need more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may choose of an analysis."""

    vantage: str | None = None
    """client, server or middle: where the capture was taken, when the user knows better."""
    pair: bool = False
    """The two inputs are captures of one path, the client's side first."""
    dissect: bool = False
    """Add tshark's own dissection of each cited frame."""
    digest: bool = True
    """Compute the SHA-256 of every file; only some reports show it."""
    jobs: int | None = None
    """Processes that share the work; None: one per core."""
    memory_bytes: int = 1 << 30
    """What an analysis may take: beyond a share of it, tables lie in temporary files."""
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Detector code -> threshold -> value."""


DEFAULTS = Options()
