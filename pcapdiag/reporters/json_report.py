"""The JSON report, schema 1.0 (schema.json beside this file): for programs; pure ASCII, so that nothing in it commands a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from pcapdiag import __version__
from pcapdiag.findings import summarise
from pcapdiag.losses import FRAME_LOSSES
from pcapdiag.packets.table import address_text, endpoint_text
from pcapdiag.reporters import between
from pcapdiag.reporters.json_rows import LINE_END, long_tables, seconds
from pcapdiag.reporters.linktypes import link_type_name
from pcapdiag.reporters.phrases import cited, distinct_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pcapdiag.capture.frames import Capture
    from pcapdiag.capture.host import HostFacts
    from pcapdiag.findings import Diagnosis, Finding, Summary
    from pcapdiag.trace import Tables

SCHEMA_VERSION: Final = "1.0"

Json = dict[str, Any]

_SHOWN_SOCKETS: Final = 1_000


def report(diagnosis: Diagnosis, *, width: int) -> str:  # noqa: ARG001 - JSON has no columns to fit
    """The document as text: findings spread out, table rows one a line."""
    return "".join(pieces(diagnosis))


def pieces(diagnosis: Diagnosis) -> Iterator[str]:
    """The same, bit by bit: of a large capture the whole text is larger than all its tables."""
    tables, summary = diagnosis.tables, summarise(diagnosis.tables, diagnosis.ledger)
    agents = [{"id": a.id, "host": a.host, "exchanges": a.exchanges, "blocked_s": seconds(a.blocked_ns)} for a in summary.agents]
    parts: dict[str, Iterable[str]] = {
        "schema_version": _spread(SCHEMA_VERSION),
        "tool": _spread({"name": "pcapdiag", "version": __version__}),
        "captures": _spread([_capture(tables, index, file) for index, file in tables.files]),
        "summary": _spread(_summary(diagnosis, summary)),
        **({} if tables.pair is None else {"pair": _spread(between.document(tables, tables.pair))}),
        "findings": _spread([_finding(finding, diagnosis) for finding in diagnosis.findings]),
        "agents": _rows(map(json.dumps, agents)),
        **{name: _rows(lines) for name, lines in long_tables(diagnosis).items()},
        "errors": _spread([{"where": failure.where, "what": failure.what} for failure in diagnosis.failures]),
    }
    before = "{\n"
    for key, texts in parts.items():
        yield f'{before}  "{key}": '
        for text in texts:
            yield text.replace("\x7f", "\\u007f")
        before = ",\n"
    yield "\n}\n"


def document(diagnosis: Diagnosis) -> Json:
    """The report as plain dicts and lists, in the order of the schema."""
    found: Json = json.loads(report(diagnosis, width=0))
    return found


def _spread(value: object) -> Iterator[str]:
    """A value over as many lines as it has parts."""
    yield json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n  ")


def _rows(lines: Iterable[str]) -> Iterator[str]:
    """A list, an element a line: long ones stay short, and lines can be compared."""
    before = "[\n    "
    for line in lines:
        yield before + line
        before = LINE_END
    yield "[]" if before.startswith("[") else "\n  ]"


def _capture(tables: Tables, index: int, capture: Capture) -> Json:
    """One file; those that follow one another share what is said of the capture they make up."""
    whole, quality, vantage = tables.captures[index], tables.quality[index], tables.vantages[index]
    lost = capture.not_decoded if whole.files else tables.losses.of(index).items()
    losses = {loss.value: number for loss, number in lost if loss in FRAME_LOSSES}
    duration_ns = 0 if capture.first_ns is None or capture.last_ns is None else capture.last_ns - capture.first_ns
    return {
        "name": capture.name,
        "sha256": capture.sha256,
        "format": capture.format,
        "link_types": list(dict.fromkeys(link_type_name(interface.link_type) for interface in capture.interfaces)),
        "bytes": capture.size_bytes,
        "frames": capture.frame_count,
        "decoded": capture.frame_count - sum(losses.values()),
        "not_decoded": losses,
        "cut_at": capture.cut_at,
        "start": None if capture.first_ns is None else _utc(capture.first_ns),
        "duration_s": seconds(duration_ns),
        "vantage": {"side": vantage.side, "confidence": round(vantage.confidence, 4), "why": vantage.why},
        "quality": {
            "grade": quality.grade,
            "issues": list(quality.issues),
            "capture_loss_ratio": round(quality.capture_loss_ratio, 6),
            "advice": quality.advice,
        },
        **({"ring": index} if whole.files else {}),
        **({"host": _host(capture.host)} if capture.host else {}),
    }


def _host(facts: HostFacts) -> Json:
    links = [
        {"name": link.name, "mtu": link.mtu, "kind": link.kind, "addresses": [address_text(one) for one in link.addresses]}
        for link in facts.links
    ]
    sockets = [
        {
            "local": endpoint_text(one.local, one.local_port),
            "remote": endpoint_text(one.remote, one.remote_port),
            "mss": one.mss,
            "pmtu": one.pmtu,
        }
        for one in facts.sockets[:_SHOWN_SOCKETS]
    ]
    return {"sources": list(facts.sources), "links": links, "sockets": sockets}


def _utc(ns: int) -> str:
    whole, fraction = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def _summary(diagnosis: Diagnosis, summary: Summary) -> Json:
    return {
        "verdict": diagnosis.verdict,
        "agents": len(summary.agents),
        "exchanges": summary.exchanges,
        "stalled_exchanges": summary.stalled_exchanges,
        "wall_s": seconds(summary.wall_ns),
        "blocked_s": seconds(summary.blocked_ns),
        "by_cause_s": {code: seconds(ns) for code, ns in summary.by_cause_ns.items()},
        "unattributed_s": seconds(summary.unattributed_ns),
        "not_observable": list(diagnosis.not_observable),
    }


def _finding(finding: Finding, diagnosis: Diagnosis) -> Json:
    conclusion, score = finding.conclusion, finding.score
    return {
        "rank": finding.rank,
        "code": finding.code,
        "title": finding.title,
        "kind": conclusion.kind.value,
        "domain": finding.domain.value,
        "severity": finding.severity.word,
        "confidence": round(score.confidence, 4),
        "confidence_evidence": list(conclusion.confidence.evidence),
        "score": {
            "value": round(score.value, 4),
            "blocked_s": seconds(score.blocked_ns),
            "confidence": round(score.confidence, 4),
            "blast": round(score.blast, 4),
        },
        "stall_s": seconds(conclusion.stall_ns),
        "blocked_s": seconds(finding.blocked_ns),
        "perceived_s": seconds(finding.perceived_ns),
        "at_least": conclusion.at_least,
        "exchanges": list(conclusion.exchanges),
        "calls": list(finding.calls),
        "flows": list(conclusion.flows),
        "caused_by": finding.caused_by,
        "summary": conclusion.summary,
        "contrast": conclusion.contrast,
        "evidence": _evidence(finding, diagnosis),
        "evidence_count": distinct_count(conclusion.frames),
        "details": {"variant": None, **_plain(conclusion.details)},
        "remedy": list(finding.remedy),
        "references": list(finding.references),
        "wireshark_filter": finding.wireshark_filter,
        "fingerprint": finding.fingerprint,
    }


def _evidence(finding: Finding, diagnosis: Diagnosis) -> list[Json]:
    rows = []
    for frame in cited(finding.conclusion.frames):
        time_s = seconds(frame.ts_ns - diagnosis.tables.start_ns)
        file, number = diagnosis.tables.place(frame.capture, frame.number)
        row: Json = {"capture": file, "frame": number, "time_s": time_s, "note": frame.note}
        dissection = diagnosis.dissections.get((frame.capture, frame.number))
        rows.append(row if dissection is None else {**row, "dissection": dissection})
    return rows


def _plain(value: Any) -> Any:  # noqa: ANN401 - details hold whatever a detector found worth saying
    """The value in JSON's own types: enums by value, NumPy scalars as Python's, what is no number as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    raise TypeError(f"{type(value).__name__} cannot be a detail of a finding")
