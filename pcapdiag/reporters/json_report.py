"""The JSON report, schema 1.0 (schema.json beside this file): for programs; pure ASCII, so that nothing in it commands a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from pcapdiag import __version__
from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.findings import stalls_of, summarise
from pcapdiag.findings.summary import NO_AGENT, agents_of
from pcapdiag.flows.table import Vantage
from pcapdiag.losses import FRAME_LOSSES
from pcapdiag.reporters.linktypes import link_type_name
from pcapdiag.reporters.phrases import EVIDENCE_LIMIT, cited, distinct_count, microseconds

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Call, Exchange
    from pcapdiag.findings import Diagnosis, Finding, Summary
    from pcapdiag.stalls.ledger import Entry
    from pcapdiag.trace import Tables

SCHEMA_VERSION: Final = "1.0"

Json = dict[str, Any]

_ROWS: Final = frozenset({"agents", "calls", "exchanges", "flows"})
"""Lists printed one element a line: long ones, and lines can be compared."""


def report(diagnosis: Diagnosis, *, width: int) -> str:  # noqa: ARG001 - JSON has no columns to fit
    """The document as text: findings spread out, table rows one a line."""
    parts = [f"  {json.dumps(key)}: {_laid_out(key, value)}" for key, value in document(diagnosis).items()]
    return ("{\n" + ",\n".join(parts) + "\n}\n").replace("\x7f", "\\u007f")


def document(diagnosis: Diagnosis) -> Json:
    """The report as plain dicts and lists, in the order of the schema."""
    tables, summary = diagnosis.tables, summarise(diagnosis.tables, diagnosis.ledger)
    names = _Names(tables)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "pcapdiag", "version": __version__},
        "captures": [_capture(tables, index) for index in range(len(tables.captures))],
        "summary": _summary(diagnosis, summary),
        "findings": [_finding(finding, diagnosis) for finding in diagnosis.findings],
        "agents": [{"id": a.id, "host": a.host, "exchanges": a.exchanges, "blocked_s": seconds(a.blocked_ns)} for a in summary.agents],
        "calls": [_call(call, tables) for call in tables.calls.rows],
        "exchanges": [_exchange(row, diagnosis, names) for row in tables.exchanges],
        "flows": _flows(tables, names),
        "errors": [{"where": failure.where, "what": failure.what} for failure in diagnosis.failures],
    }


def seconds(ns: int) -> float:
    """Nanoseconds as seconds with six decimals."""
    return microseconds(ns) / 1_000_000


def apportioned(parts_ns: Mapping[str, int]) -> dict[str, float]:
    """Seconds whose sum, in microseconds, is that of the rounded total: largest remainders are rounded up (Hamilton)."""
    whole = {code: ns // 1000 for code, ns in parts_ns.items()}
    missing = microseconds(sum(parts_ns.values())) - sum(whole.values())
    by_remainder = sorted(parts_ns, key=lambda code: (-(parts_ns[code] % 1000), code))
    for code in by_remainder[:missing]:
        whole[code] += 1
    return {code: number / 1_000_000 for code, number in whole.items()}


class _Names:
    """Both ends of every flow as text, and every exchange's agent: many rows ask for them."""

    def __init__(self, tables: Tables) -> None:
        self.agent = [None if agent == NO_AGENT else agent for agent in agents_of(tables)]
        self.client = [tables.client(flow) for flow in range(len(tables.flows))]
        self.server = [tables.server(flow) for flow in range(len(tables.flows))]


def _laid_out(key: str, value: object) -> str:
    if key in _ROWS and isinstance(value, list) and value:
        return "[\n" + ",\n".join("    " + json.dumps(row, allow_nan=False) for row in value) + "\n  ]"
    return json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n  ")


def _capture(tables: Tables, index: int) -> Json:
    capture, quality, vantage = tables.captures[index], tables.quality[index], tables.vantages[index]
    losses = {loss.value: number for loss, number in tables.losses.of(index).items() if loss in FRAME_LOSSES}
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
        },
    }


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
        row: Json = {"capture": frame.capture, "frame": frame.number, "time_s": time_s, "note": frame.note}
        dissection = diagnosis.dissections.get((frame.capture, frame.number))
        rows.append(row if dissection is None else {**row, "dissection": dissection})
    return rows


def _call(call: Call, tables: Tables) -> Json:
    return {
        "id": call.id,
        "agent": call.agent,
        "exchanges": list(call.exchanges),
        "start_s": seconds(call.start_ns - tables.start_ns),
        "end_s": seconds(call.end_ns - tables.start_ns),
        "backoff": call.backoff,
        "outcome": call.outcome.value,
    }


def _exchange(row: Exchange, diagnosis: Diagnosis, names: _Names) -> Json:
    tables, ledger = diagnosis.tables, diagnosis.ledger
    trace_id = row.facts.get("trace_id")
    parts: dict[str, int] = {}
    for entry in ledger.exchanges[row.id]:
        parts[entry.label.code] = parts.get(entry.label.code, 0) + entry.duration_ns
    return {
        "id": row.id,
        "agent": names.agent[row.id],
        "call": tables.calls.of_exchange.get(row.id),
        "flow": row.flow,
        "part_of": row.part_of,
        "protocol": row.protocol.value,
        "inferred": row.inferred,
        "keys": row.keys,
        "name": row.name,
        "client": names.client[row.flow],
        "server": names.server[row.flow],
        "start_s": seconds(row.start_ns - tables.start_ns),
        "request_end_s": _when(row.request_end_ns, tables),
        "first_byte_s": _when(row.first_byte_ns, tables),
        "end_s": seconds(row.end_ns - tables.start_ns),
        "duration_s": seconds(row.duration_ns),
        "status": row.status,
        "outcome": row.outcome.value,
        "details": {"aborted_by": row.aborted_by} if row.outcome is Outcome.ABORTED else {},
        "ledger_s": apportioned(dict(sorted(parts.items(), key=lambda item: (-item[1], item[0])))),
        "stalls": [_stall(entry, tables) for entry in stalls_of(ledger, row.id)],
        "trace_id": None if trace_id is None else str(trace_id),
    }


def _when(ns: int, tables: Tables) -> float | None:
    return None if ns == NEVER else seconds(ns - tables.start_ns)


def _stall(entry: Entry, tables: Tables) -> Json:
    frames = entry.sign.frames[:EVIDENCE_LIMIT] if entry.sign else ()
    return {
        "start_s": seconds(entry.start_ns - tables.start_ns),
        "end_s": seconds(entry.end_ns - tables.start_ns),
        "cause": entry.label.code,
        "at_least": entry.sign is not None and entry.sign.at_least,
        "frames": [[frame.capture, frame.number] for frame in frames],
    }


def _flows(tables: Tables, names: _Names) -> list[Json]:
    flows, spoken = tables.flows, _applications(tables)
    columns = (flows.proto, flows.vantage, flows.packet_count, flows.byte_count, flows.first_ns, flows.last_ns)
    return [
        {
            "id": flow,
            "client": names.client[flow],
            "server": names.server[flow],
            "protocol": _TRANSPORTS.get(proto, str(proto)),
            "application": spoken.get(flow),
            "vantage": Vantage(vantage).name.lower(),
            "packets": packets,
            "bytes": size,
            "first_s": seconds(first_ns - tables.start_ns),
            "last_s": seconds(last_ns - tables.start_ns),
        }
        for flow, (proto, vantage, packets, size, first_ns, last_ns) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]


_TRANSPORTS: Final = {6: "tcp", 17: "udp"}


def _applications(tables: Tables) -> dict[int, str]:
    """What each flow speaks: the protocol that carries its exchanges, a handshake where there is nothing else."""
    spoken: dict[int, str] = {}
    for row in tables.exchanges:
        if row.protocol in {Protocol.CONNECT, Protocol.OTHER}:
            continue
        if row.protocol is Protocol.TLS_HANDSHAKE:
            spoken.setdefault(row.flow, Protocol.TLS.value)
        elif row.h2_stream or row.protocol is Protocol.GRPC:
            spoken[row.flow] = Protocol.H2.value
        else:
            spoken[row.flow] = Protocol.HTTP1.value if row.protocol is Protocol.SSE else row.protocol.value
    return spoken


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
