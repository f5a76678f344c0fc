"""What a detector is, what it concludes, and what a diagnosis holds: pure types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcapdiag.findings.intervals import Interval
    from pcapdiag.stalls.ledger import Ledger
    from pcapdiag.stalls.sign import Confidence, Frame, Label, Sign
    from pcapdiag.trace import Tables, Trace


class Domain(Enum):
    """Who can fix it."""

    NETWORK = "network"
    SERVER = "server"
    CLIENT = "client"
    DNS = "dns"
    TLS = "tls"
    CAPTURE = "capture"


class FindingKind(Enum):
    """What a finding claims."""

    CAUSE = "cause"
    """Owns seconds."""
    RISK = "risk"
    """Owns none yet."""
    OUTCOME = "outcome"
    """A symptom whose cause is another finding."""
    CAPTURE = "capture"
    """About the file, never about the network."""


class Severity(IntEnum):
    """How bad; the order is the order."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def word(self) -> str:
        """As reports and options spell it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Limit:
    """One threshold."""

    value: float
    unit: str
    source: str
    """Where the number comes from, in a few words."""


class Limits(Mapping[str, Limit]):
    """A detector's thresholds by name; `limits.name` is the value, `limits["name"]` the Limit."""

    __slots__ = ("_limits",)

    def __init__(self, **limits: Limit) -> None:
        object.__setattr__(self, "_limits", limits)

    def __getitem__(self, name: str) -> Limit:
        return self._limits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __getattr__(self, name: str) -> float:
        try:
            return self._limits[name].value
        except KeyError:
            raise AttributeError(name) from None

    def ns(self, name: str) -> int:
        """The value of a limit in nanoseconds, whose unit is ns, us, ms or s."""
        limit = self._limits[name]
        return round(limit.value * _NS[limit.unit])

    def override(self, **values: float) -> Limits:
        """The same limits with other values."""
        return Limits(**{n: Limit(values.get(n, limit.value), limit.unit, limit.source) for n, limit in self._limits.items()})

    _limits: dict[str, Limit]


_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What one detector says after the ledger is closed; rank() turns it into a Finding."""

    code: str
    kind: FindingKind
    stall_ns: int = 0
    """Exchange-nanoseconds it owns in the ledger."""
    intervals: Sequence[Interval] = ()
    """(exchange id, start_ns, end_ns) of these, for unions per agent."""
    at_least: bool = False
    confidence: Confidence
    exchanges: tuple[int, ...] = ()
    flows: tuple[int, ...] = ()
    frames: tuple[Frame, ...]
    summary: str
    """One sentence with the numbers; may hold strings off the wire."""
    contrast: str = ""
    """Strongest rival cause, and the one observation that separates them."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready facts; "variant" when the code has variants."""
    remedy: tuple[str, ...] = ()
    """Overrides the detector's remedy when it can be more exact."""
    wireshark_filter: str = ""
    """Overrides the detector's filter when it can be more exact."""
    lowers_verdict: bool = False
    """Capture findings: medium instead of info."""
    identity: tuple[str, ...] = ()
    """What defines the fault beyond code, hosts and protocol (an MTU bracket, a named timer): part of the fingerprint."""


SignsOf = Callable[["Trace", Limits], "Iterable[Sign]"]
CrossSignsOf = Callable[["Tables", Limits], "Iterable[Sign]"]
ConcludeOf = Callable[["Ledger", "Sequence[Sign]", "Tables"], Iterable[Conclusion]]
"""The signs passed are those of the detector's own code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One opinion: one file."""

    code: str
    title: str
    domain: Domain
    label: Label | None
    """Its place in the precedence table; None for detectors that label no seconds."""
    limits: Limits = field(default_factory=Limits)
    signs: SignsOf | None = None
    cross_signs: CrossSignsOf | None = None
    conclude: ConcludeOf
    remedy: tuple[str, ...]
    references: tuple[str, ...]
    """RFC sections and papers."""
    wireshark_filter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """value = blocked_s x confidence x blast; the factors are always shown."""

    value: float
    blocked_ns: int
    confidence: float
    blast: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A ranked conclusion."""

    rank: int
    conclusion: Conclusion
    title: str
    domain: Domain
    severity: Severity
    score: Score
    blocked_ns: int
    """Union on the clock, per agent, summed over agents."""
    perceived_ns: int
    """Time without new in-order bytes at the client for it."""
    calls: tuple[int, ...]
    caused_by: str | None
    """Code of the finding that is its cause."""
    remedy: tuple[str, ...]
    references: tuple[str, ...]
    wireshark_filter: str
    fingerprint: str

    @property
    def code(self) -> str:
        """The conclusion's code."""
        return self.conclusion.code


@dataclass(frozen=True, slots=True)
class Failure:
    """A part of the program that crashed while the rest went on."""

    where: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything a reporter needs."""

    tables: Tables
    ledger: Ledger
    findings: tuple[Finding, ...]
    verdict: str
    not_observable: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    dissections: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """(capture, frame) -> tshark's own dissection; only with --dissect."""
    notes: tuple[str, ...] = ()
    """What was asked for and could not be had, and is no error: for stderr, never in a report."""
    jobs: int = 1
    """Processes that may share the work of writing a long report; its text does not depend on it."""
