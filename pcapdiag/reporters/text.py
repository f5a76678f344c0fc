"""The report for a terminal: verdict first, then the diagnoses, where the time went, and what could not be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pcapdiag.findings import FindingKind, Severity, summarise
from pcapdiag.reporters import between
from pcapdiag.reporters.escape import visible
from pcapdiag.reporters.page import Page, Part
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
from pcapdiag.reporters.selection import Selection, select

if TYPE_CHECKING:
    from pcapdiag.findings import Diagnosis, Finding, Summary
    from pcapdiag.stalls.sign import Frame

_FIELD: Final = 12
"""Width of the column of field names."""

_BAR: Final = 40
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"

_ROOM_FOR_GLOSS: Final = 120
"""Columns from which the table of labels explains those that are no cause."""

_DISSECTION_LINES: Final = 8

_SEVERITY: Final = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}


def plain(diagnosis: Diagnosis, *, width: int) -> str:
    """The report without styles: for pipes, files and terminals without colour."""
    return _report(diagnosis, Page(width, styles=False))


def styled(diagnosis: Diagnosis, *, width: int) -> str:
    """The same report with ANSI styles."""
    return _report(diagnosis, Page(width, styles=True))


def _report(diagnosis: Diagnosis, page: Page) -> str:
    summary, chosen = summarise(diagnosis.tables, diagnosis.ledger), select(diagnosis.findings)
    _verdict(diagnosis, summary, page)
    _captures(diagnosis, page)
    _diagnoses(diagnosis, summary, chosen, page)
    _brief("Also seen, at little cost", chosen.minor, diagnosis, page)
    _brief("Risks: nothing lost to them in this capture", chosen.risks, diagnosis, page)
    _time(summary, page)
    _agents(summary, page)
    _between(diagnosis, page)
    _brief("About the capture", chosen.capture, diagnosis, page)
    _unseen(diagnosis, page)
    _failures(diagnosis, page)
    return page.text()


def _verdict(diagnosis: Diagnosis, summary: Summary, page: Page) -> None:
    word, sentence = headline(diagnosis, summary)
    style = "bold green" if diagnosis.verdict == "healthy" else "bold yellow" if diagnosis.verdict == "capture" else "bold red"
    page.hang("", word, [f"  {visible(sentence)}"], style=style)


def _captures(diagnosis: Diagnosis, page: Page) -> None:
    tables = diagnosis.tables
    page.blank()
    for (number, capture), vantage, quality in zip(numbered(diagnosis), tables.vantages, tables.quality, strict=True):
        side = "an unknown place" if vantage.side == "unknown" else f"the {vantage.side}"
        seen = f"seen from {side} ({vantage.confidence:.2f})"
        page.hang(
            "",
            f"[{number}] {visible(capture_name(capture))}" if number else visible(capture_name(capture)),
            [(f"  {capture.frame_count:,} frames over {lasted(capture)}, {seen}, quality {quality.grade}", "dim")],
        )
    for file, about in cited_files(diagnosis):
        page.hang("  ", f"[{file}] {visible(capture_name(about))}", [(f"  {about.frame_count:,} frames over {lasted(about)}", "dim")])


def _diagnoses(diagnosis: Diagnosis, summary: Summary, chosen: Selection, page: Page) -> None:
    if not chosen.diagnoses:
        return
    page.heading("Diagnoses")
    for finding, depth in chosen.diagnoses:
        page.blank()
        _diagnosis(finding, diagnosis, summary, page, indent=4 * depth)


def _diagnosis(finding: Finding, diagnosis: Diagnosis, summary: Summary, page: Page, *, indent: int) -> None:
    conclusion, inner = finding.conclusion, indent + len(f"{finding.rank}. ")
    word = (finding.severity.word, _SEVERITY[finding.severity])
    page.spread([f"{finding.rank}. ", (visible(finding.title), "bold")], [word, f"  {visible(finding.code)}"], indent=indent)
    page.hang("", visible(conclusion.summary), indent=inner)

    def field(name: str, *parts: Part) -> None:
        page.field(name, list(parts), indent=inner, name_width=_FIELD)

    amount, rest = cost(finding, summary)
    field("cost", (amount, "bold" if finding.blocked_ns else ""), rest)
    sure = "; ".join(map(visible, conclusion.confidence.evidence))
    field("confidence", f"{finding.score.confidence:.2f}, {grade(finding.score.confidence)}{': ' if sure else ''}{sure}")
    if finding.blocked_ns:
        field("score", factors(finding.score))
    if finding.caused_by:
        field("caused by", _named(finding.caused_by, diagnosis))
    _frames(finding, diagnosis, page, inner)
    if conclusion.contrast:
        field("rival", visible(conclusion.contrast))
    if finding.wireshark_filter:
        field("filter", visible(finding.wireshark_filter))
    for number, step in enumerate(finding.remedy):
        field("remedy" if number == 0 else "", f"{'- ' if len(finding.remedy) > 1 else ''}{visible(step)}")
    if finding.references:
        field("reference", ("; ".join(map(visible, finding.references)), "dim"))


def _named(code: str, diagnosis: Diagnosis) -> str:
    """A finding by rank and code."""
    parent = next((finding for finding in diagnosis.findings if finding.code == code), None)
    return visible(code) if parent is None else f"{parent.rank}. {visible(parent.title)} ({visible(code)})"


def _frames(finding: Finding, diagnosis: Diagnosis, page: Page, indent: int) -> None:
    frames, start_ns = cited(finding.conclusion.frames), diagnosis.tables.start_ns
    if not frames:
        return
    names = [_frame_name(frame, diagnosis) for frame in frames]
    times = [relative(frame.ts_ns, start_ns) for frame in frames]
    name_width, time_width = max(map(len, names)), max(map(len, times))
    for number, (frame, name, time_s) in enumerate(zip(frames, names, times, strict=True)):
        label = f"{'frames' if number == 0 else '':<{_FIELD}}{name:>{name_width}}  {time_s:>{time_width}} s  "
        page.field(label, [visible(frame.note)], indent=indent, name_width=len(label))
        dissection = diagnosis.dissections.get((frame.capture, frame.number), "").splitlines()
        for line in dissection[:_DISSECTION_LINES]:
            page.line([" " * (indent + _FIELD + name_width + 2), (visible(line), "dim")])
    left_out = distinct_count(finding.conclusion.frames) - len(frames)
    if left_out:
        page.field("", [(f"and {count(left_out, 'more frame')}", "dim")], indent=indent, name_width=_FIELD)


def _frame_name(frame: Frame, diagnosis: Diagnosis) -> str:
    """Its number; with several files, that of the file too."""
    file, number = diagnosis.tables.place(frame.capture, frame.number)
    return f"[{file}] {number}" if len(diagnosis.tables.files) > 1 else str(number)


def _brief(title: str, findings: tuple[Finding, ...], diagnosis: Diagnosis, page: Page) -> None:
    """A section of one short entry per finding."""
    if not findings:
        return
    page.heading(title)
    for finding in findings:
        conclusion = finding.conclusion
        lead = f"{finding.rank}. "
        frames = ", ".join(_frame_name(frame, diagnosis) for frame in cited(conclusion.frames)[:4])
        noun = "frame" if len(conclusion.frames) == 1 else "frames"
        amount = f"{blocked(finding)}, " if finding.blocked_ns else ""
        facts = f"{amount}confidence {finding.score.confidence:.2f}{f', {noun} {frames}' if frames else ''}"
        word = (finding.severity.word, _SEVERITY[finding.severity])
        page.spread([lead, visible(finding.title)], [word, f"  {visible(finding.code)}"], indent=0)
        page.hang("", visible(conclusion.summary), [(f" ({facts})", "dim")], indent=len(lead))
        if conclusion.kind is FindingKind.RISK:
            for step in finding.remedy:
                page.hang("- ", visible(step), indent=len(lead))


def _time(summary: Summary, page: Page) -> None:
    if not summary.ledger_ns:
        return
    page.heading("Where the time went", f"{seconds(summary.ledger_ns)} added up over {count(summary.exchanges, 'exchange')}")
    total, most = summary.ledger_ns, max(summary.by_label_ns.values())
    name_width = max(map(len, summary.by_label_ns))
    amounts = {code: f"{ns / 1e9:,.3f} s" for code, ns in summary.by_label_ns.items()}
    amount_width = max(map(len, amounts.values()))
    room = min(_BAR, page.width - name_width - amount_width - 14)
    for code, ns in summary.by_label_ns.items():
        if not ns:
            continue
        idle = code in LABELS
        bar = _bar(ns / most, room, idle=idle)
        gloss = f"{' ' * (room - len(bar) + 2)}{LABELS[code]}" if idle and page.width >= _ROOM_FOR_GLOSS else ""
        row = f"{visible(code):<{name_width}}  {amounts[code]:>{amount_width}}  {share(ns, total):>6}  "
        page.line(["  ", (row, "dim" if idle else ""), (bar, "dim" if idle else "red"), (gloss, "dim")])


def _bar(ratio: float, room: int, *, idle: bool) -> str:
    """Solid for causes, in eighths of a column; shaded for what is none."""
    if idle:
        return "░" * max(round(ratio * room), 1)
    eighths = max(round(ratio * room * 8), 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _agents(summary: Summary, page: Page) -> None:
    if len(summary.agents) < 2:
        return
    page.heading("Agents")
    agents = sorted(summary.agents, key=lambda a: (-a.blocked_ns, a.id))
    cells = [
        (
            agent.host,
            f"{seconds(agent.blocked_ns)} blocked of {seconds(agent.wall_ns)}",
            share(agent.blocked_ns, agent.wall_ns),
            count(agent.exchanges, "exchange"),
        )
        for agent in agents
    ]
    host, amount, part, number = (max(map(len, column)) for column in zip(*cells, strict=True))
    for row in cells:
        page.line([f"  {row[0]:<{host}}  {row[1]:>{amount}}  {row[2]:>{part}}  {row[3]:>{number}}"])


def _between(diagnosis: Diagnosis, page: Page) -> None:
    if (pair := diagnosis.tables.pair) is not None:
        page.heading(between.TITLE)
        for line in between.lines(diagnosis.tables, pair):
            page.hang("- ", visible(line), indent=2)


def _unseen(diagnosis: Diagnosis, page: Page) -> None:
    if lines := unseen(diagnosis):
        page.heading("What could not be seen")
    for line in lines:
        page.hang("- ", visible(line), indent=2)


def _failures(diagnosis: Diagnosis, page: Page) -> None:
    if diagnosis.failures:
        page.heading("What failed", "the rest of this report stands")
    for failure in diagnosis.failures:
        page.hang("- ", f"{visible(failure.where)}: {visible(failure.what)}", indent=2)
