"""Runs detectors: a crash in one is recorded on the diagnosis and the others go on."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from pcapdiag.findings.rank import rank, verdict
from pcapdiag.findings.types import Conclusion, Diagnosis, Failure
from pcapdiag.findings.unseen import not_observable
from pcapdiag.workers import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pcapdiag.findings.types import Detector, Limits
    from pcapdiag.stalls.ledger import Ledger
    from pcapdiag.stalls.sign import Sign
    from pcapdiag.trace import Tables, Trace

_Item = TypeVar("_Item")
_WORTH_IT: Final = 1 << 17
"""Packets from which it pays to start a process for detectors."""


def see(
    trace: Trace, detectors: Sequence[Detector], overrides: Mapping[str, Mapping[str, float]], failures: list[Failure], *, jobs: int = 1
) -> list[Sign]:
    """The signs of one shard, in the order of the detectors; of large captures `jobs` processes look for them."""

    def seen(detector: Detector) -> tuple[list[Sign], list[Failure]]:
        assert detector.signs is not None
        failed: list[Failure] = []
        found = _guarded(detector.code, partial(detector.signs, trace, _limits(detector, overrides)), failed)
        trace.release()
        return found, failed

    signs: list[Sign] = []
    seeing = [detector for detector in detectors if detector.signs is not None]
    for found, failed in spread(seen, seeing, jobs if len(trace.packets) >= _WORTH_IT else 1):
        signs += found
        failures += failed
    return signs


def see_across(
    tables: Tables, detectors: Sequence[Detector], overrides: Mapping[str, Mapping[str, float]], failures: list[Failure]
) -> list[Sign]:
    """The signs that show only in the merged tables of all shards."""
    signs: list[Sign] = []
    for detector in detectors:
        if (find := detector.cross_signs) is not None:
            limits = _limits(detector, overrides)
            signs += _guarded(detector.code, partial(find, tables, limits), failures)
    return signs


def conclude(tables: Tables, ledger: Ledger, signs: Sequence[Sign], detectors: Sequence[Detector], failures: list[Failure]) -> Diagnosis:
    """The ranked diagnosis of a closed ledger."""
    conclusions: list[Conclusion] = []
    by_code: dict[str, list[Sign]] = defaultdict(list)
    for sign in signs:
        by_code[sign.code].append(sign)
    for detector in detectors:
        conclusions += _guarded(detector.code, partial(detector.conclude, ledger, by_code[detector.code], tables), failures)
        tables.release()
    findings = rank(conclusions, ledger, tables, detectors)
    return Diagnosis(
        tables=tables, ledger=ledger, findings=findings, verdict=verdict(findings, tables.quality),
        not_observable=not_observable(tables), failures=tuple(failures),
    )  # fmt: skip


def _limits(detector: Detector, overrides: Mapping[str, Mapping[str, float]]) -> Limits:
    return detector.limits.override(**overrides[detector.code]) if detector.code in overrides else detector.limits


def _guarded(code: str, call: Callable[[], Iterable[_Item]], failures: list[Failure]) -> list[_Item]:
    """What a detector gives; nothing, and a Failure, when it crashes."""
    try:
        return list(call())
    except Exception as error:  # noqa: BLE001 - the one place: an opinion that crashes must not take the others with it
        failures.append(Failure(f"detector {code}", f"{type(error).__name__}: {error}"))
        return []
