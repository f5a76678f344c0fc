"""The report as Markdown (CommonMark with GitHub's tables): to paste into a ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag import __version__
from pcapdiag.findings import FindingKind, summarise
from pcapdiag.reporters import between
from pcapdiag.reporters.escape import markdown, markdown_code
from pcapdiag.reporters.phrases import (
    LABELS,
    blocked,
    capture_name,
    cited,
    cited_files,
    cost,
    count,
    distinct_count,
    factors,
    grade,
    headline,
    lasted,
    numbered,
    relative,
    seconds,
    share,
    unseen,
)
from pcapdiag.reporters.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pcapdiag.findings import Diagnosis, Finding, Summary
    from pcapdiag.stalls.sign import Frame


def report(diagnosis: Diagnosis, *, width: int) -> str:  # noqa: ARG001 - who renders Markdown knows the width
    """Headline, table of diagnoses, one section per diagnosis, where the time went, what could not be seen."""
    summary, chosen = summarise(diagnosis.tables, diagnosis.ledger), select(diagnosis.findings)
    word, sentence = headline(diagnosis, summary)
    blocks = [f"# {word}", markdown(sentence), *_captures(diagnosis)]
    findings = [finding for finding, _ in chosen.diagnoses]
    if findings:
        blocks += ["## Diagnoses", _overview(findings, summary)]
    for finding in findings:
        blocks += _diagnosis(finding, diagnosis, summary)
    blocks += _brief("Also seen, at little cost", chosen.minor)
    blocks += _brief("Risks: nothing lost to them in this capture", chosen.risks)
    blocks += _time(summary)
    blocks += _agents(summary)
    if (pair := diagnosis.tables.pair) is not None:
        blocks += [f"## {between.TITLE}", _items([markdown(line) for line in between.lines(diagnosis.tables, pair)])]
    blocks += _brief("About the capture", chosen.capture)
    if lines := unseen(diagnosis):
        blocks += ["## What could not be seen", _items([markdown(line) for line in lines])]
    if diagnosis.failures:
        lines = [f"{markdown(failure.where)}: {markdown(failure.what)}" for failure in diagnosis.failures]
        blocks += ["## What failed", _items(lines)]
    blocks.append(f"<sub>pcapdiag {__version__}; frames as Wireshark numbers them, times in seconds since the first packet.</sub>")
    return "\n\n".join(blocks) + "\n"


def _captures(diagnosis: Diagnosis) -> Iterator[str]:
    tables, rows = diagnosis.tables, []
    for (number, capture), vantage, quality in zip(numbered(diagnosis), tables.vantages, tables.quality, strict=True):
        side = f"{vantage.side} ({vantage.confidence:.2f})"
        rows.append([number or "0", markdown(capture_name(capture)), f"{capture.frame_count:,}", lasted(capture), side, quality.grade])
    for file, about in cited_files(diagnosis):
        rows.append([str(file), markdown(capture_name(about)), f"{about.frame_count:,}", lasted(about), "", ""])
    if rows:
        yield _table(["#", "capture", "frames", "length", "seen from", "quality"], rows)


def _overview(findings: Sequence[Finding], summary: Summary) -> str:
    rows = [
        [
            str(finding.rank),
            markdown(finding.title),
            f"`{finding.code}`",
            finding.severity.word,
            markdown(blocked(finding)) if finding.blocked_ns else "",
            markdown(share(finding.blocked_ns, summary.wall_ns)) if finding.blocked_ns else "",
            f"{finding.score.confidence:.2f} ({grade(finding.score.confidence)})",
            f"`{finding.caused_by}`" if finding.caused_by else "",
        ]
        for finding in sorted(findings, key=lambda f: f.rank)
    ]
    return _table(["#", "diagnosis", "code", "severity", "blocked", "of wall", "confidence", "caused by"], rows)


def _diagnosis(finding: Finding, diagnosis: Diagnosis, summary: Summary) -> Iterator[str]:
    conclusion = finding.conclusion
    yield f"### {finding.rank}. {markdown(finding.title)}"
    yield markdown(conclusion.summary)
    sure = "; ".join(map(markdown, conclusion.confidence.evidence))
    lines = [
        f"**Cost:** {markdown(''.join(cost(finding, summary)))}",
        f"**Confidence:** {finding.score.confidence:.2f}, {grade(finding.score.confidence)}{': ' if sure else ''}{sure}",
    ]
    if finding.blocked_ns:
        lines.append(f"**Score:** {markdown(factors(finding.score))}")
    if conclusion.contrast:
        lines.append(f"**Rival:** {markdown(conclusion.contrast)}")
    if finding.wireshark_filter:
        lines.append(f"**Filter:** {markdown_code(finding.wireshark_filter)}")
    lines += [f"**Remedy:** {markdown(step)}" for step in finding.remedy]
    if finding.references:
        lines.append(f"**Reference:** {'; '.join(map(markdown, finding.references))}")
    yield _items(lines)
    yield from _frames(conclusion.frames, diagnosis)


def _frames(frames: Sequence[Frame], diagnosis: Diagnosis) -> Iterator[str]:
    shown, start_ns = cited(frames), diagnosis.tables.start_ns
    several = len(diagnosis.tables.files) > 1
    places = [diagnosis.tables.place(frame.capture, frame.number) for frame in shown]
    rows = [
        [*([str(file)] if several else []), str(number), relative(frame.ts_ns, start_ns), markdown(frame.note)]
        for frame, (file, number) in zip(shown, places, strict=True)
    ]
    if rows:
        yield _table([*(["capture"] if several else []), "frame", "time", "what it shows"], rows)
    if left_out := distinct_count(frames) - len(shown):
        yield f"and {count(left_out, 'more frame')}"
    for frame, (_, number) in zip(shown, places, strict=True):
        dissection = diagnosis.dissections.get((frame.capture, frame.number), "")
        if dissection:
            yield f"<details><summary>Frame {number}</summary>"
            yield "\n".join(markdown_code(line) + "<br>" for line in dissection.splitlines() if line.strip())
            yield "</details>"


def _brief(title: str, findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield f"## {title}"
    lines = []
    for finding in findings:
        amount = f", {markdown(blocked(finding))}" if finding.blocked_ns else ""
        facts = f"`{finding.code}`, {finding.severity.word}{amount}, confidence {finding.score.confidence:.2f}"
        frames = ", ".join(str(frame.number) for frame in cited(finding.conclusion.frames)[:4])
        advice = ""
        if finding.conclusion.kind is FindingKind.RISK:
            advice = "".join(f" {markdown(step)}" for step in finding.remedy)
        lines.append(
            f"{finding.rank}\\. **{markdown(finding.title)}** ({facts}): {markdown(finding.conclusion.summary)}{advice}"
            + (f" (frames {frames})" if frames else "")
        )
    yield _items(lines)


def _time(summary: Summary) -> Iterator[str]:
    total = summary.ledger_ns
    if not total:
        return
    yield "## Where the time went"
    rows = [
        [f"`{code}`", f"{ns / 1e9:,.3f}", markdown(share(ns, total)), markdown(LABELS.get(code, ""))]
        for code, ns in summary.by_label_ns.items()
        if ns
    ]
    yield _table(["label", "seconds", "share", "what it is"], rows)
    yield f"{seconds(total)} added up over {count(summary.exchanges, 'exchange')}."


def _agents(summary: Summary) -> Iterator[str]:
    if len(summary.agents) < 2:
        return
    yield "## Agents"
    rows = [
        [agent.host, seconds(agent.blocked_ns), seconds(agent.wall_ns), f"{agent.exchanges:,}"]
        for agent in sorted(summary.agents, key=lambda a: (-a.blocked_ns, a.id))
    ]
    yield _table(["agent", "blocked", "of wall", "exchanges"], [[markdown(cell) for cell in row] for row in rows])


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
