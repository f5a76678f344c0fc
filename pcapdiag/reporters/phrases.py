"""What every report for people says in the same words: amounts, grades, and the one line above all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pcapdiag.findings import FindingKind, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pcapdiag.capture.frames import Capture
    from pcapdiag.findings import Diagnosis, Finding, Score, Summary
    from pcapdiag.stalls.sign import Frame

EVIDENCE_LIMIT: Final = 12
"""Frames a report cites per finding."""

_FIRST_FRAMES: Final = 8

_UNEXPLAINED_NS: Final = 1_000_000_000
"""Blocked time without a finding from which nobody would call a capture healthy."""

TIMES: Final = "×"  # noqa: RUF001 - a multiplication sign is meant

LABELS: Final[Mapping[str, str]] = {
    "propagation": "the distance itself: one round trip per turn",
    "queueing": "waiting in queues on the path that nothing here explains",
    "transfer": "bytes arriving at the rate the path allows",
    "delivery": "a stream at its producer's own pace",
    "client-think": "the agent itself, before it asked",
    "client-produce": "the agent itself, while it wrote its request",
    "capture-gap": "the capture does not hold what happened",
    "unattributed": "seen, and not explained",
}
"""Labels of the ledger that are no cause, for people."""

GRADES: Final = ((0.95, "certain"), (0.8, "high"), (0.5, "medium"), (0.25, "low"))
"""Confidence from which a word holds."""


_LONG: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
"""Units and their parts, in seconds: from two of a unit on."""


def _rounded(ns: int, step_ns: int) -> int:
    return (ns + step_ns // 2) // step_ns


def seconds(ns: int) -> str:
    """An amount of time to about three digits, in the unit a person would say it in."""
    for unit_s, unit, part_s, part in _LONG:
        if (count := _rounded(ns, part_s * 1_000_000_000)) * part_s >= 2 * unit_s:
            whole, rest = divmod(count, unit_s // part_s)
            return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
    if ns >= 999_500_000:
        digits = 0 if ns >= 99_950_000_000 else 1 if ns >= 9_995_000_000 else 2
        return f"{ns / 1e9:.{digits}f} s"
    if ns >= 9_950_000:
        return f"{ns / 1e6:.0f} ms"
    return f"{ns / 1e6:.1f} ms" if ns >= 50_000 else "0 s" if ns == 0 else "< 0.1 ms"


def share(part: int, whole: int) -> str:
    """A percentage that never rounds something to nothing."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    return "< 1 %" if 0 < percent < 0.95 else f"{percent:.0f} %"


def count(number: int, noun: str) -> str:
    """A number with its noun, which forms its plural with s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def grade(confidence: float) -> str:
    """The word for a confidence."""
    return next((word for floor, word in GRADES if confidence >= floor), "very low")


def blocked(finding: Finding) -> str:
    """The blocked time of a finding, marked when it is a lower bound."""
    return f"{'≥ ' if finding.conclusion.at_least else ''}{seconds(finding.blocked_ns)}"


def cost(finding: Finding, summary: Summary) -> tuple[str, str]:
    """What a finding cost, and where: the amount, and the rest of the phrase."""
    conclusion = finding.conclusion
    hit = [count(len(ids), noun) for ids, noun in ((conclusion.exchanges, "exchange"), (conclusion.flows, "flow")) if ids]
    where = f", in {' on '.join(hit)}" if hit else ""
    if not finding.blocked_ns:
        return "no seconds of its own", where
    rest = f" blocked, {share(finding.blocked_ns, summary.wall_ns)} of the wall time{where}"
    if conclusion.stall_ns != finding.blocked_ns:
        rest += f"; {seconds(conclusion.stall_ns)} added up over exchanges"
    if finding.perceived_ns not in {finding.blocked_ns, conclusion.stall_ns}:
        rest += f"; {seconds(finding.perceived_ns)} of silence for who reads the streams"
    return blocked(finding), rest


def factors(score: Score) -> str:
    """The score with what it is made of."""
    parts = (f"{score.blocked_ns / 1e9:.2f} s blocked", f"{score.confidence:.2f} confidence", f"{score.blast:.2f} blast")
    return f"{score.value:.2f} = {f' {TIMES} '.join(parts)}"


def cited(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames a report shows: all distinct ones, or the first and the last of many; by time."""
    distinct = list({(frame.capture, frame.number): frame for frame in reversed(frames)}.values())[::-1]
    if len(distinct) > EVIDENCE_LIMIT:
        distinct = distinct[:_FIRST_FRAMES] + distinct[_FIRST_FRAMES - EVIDENCE_LIMIT :]
    return tuple(sorted(distinct, key=lambda frame: (frame.ts_ns, frame.capture, frame.number)))


def distinct_count(frames: Sequence[Frame]) -> int:
    """How many frames prove a finding, shown or not."""
    return len({(frame.capture, frame.number) for frame in frames})


def relative(ns: int, start_ns: int) -> str:
    """A time in a report: seconds since the first packet, to the microsecond."""
    return f"{microseconds(ns - start_ns) / 1e6:.6f}"


def microseconds(ns: int) -> int:
    """Rounded half up."""
    return (ns + 500) // 1000


def worst(diagnosis: Diagnosis) -> Finding | None:
    """The first finding that made the verdict what it is."""
    heavy = [f for f in diagnosis.findings if f.severity >= Severity.MEDIUM and f.domain.value == diagnosis.verdict]
    return heavy[0] if heavy else None


def headline(diagnosis: Diagnosis, summary: Summary) -> tuple[str, str]:
    """The verdict in capitals, and the sentence behind it."""
    word = diagnosis.verdict.upper()
    if not summary.exchanges and not any(f.conclusion.kind is not FindingKind.CAPTURE for f in diagnosis.findings):
        return "NOTHING TO JUDGE", "no request, lookup or connection attempt in what was captured."
    cost = f"{seconds(summary.blocked_ns)} blocked of {seconds(summary.wall_ns)}"
    finding = worst(diagnosis)
    if diagnosis.verdict == "healthy" and summary.blocked_ns - sum(f.blocked_ns for f in diagnosis.findings) >= _UNEXPLAINED_NS:
        return "UNEXPLAINED", f"{cost}, and no finding says why; see where the time went."
    if diagnosis.verdict == "healthy":
        return word, f"nothing worth mending; {cost} in {count(summary.exchanges, 'exchange')}."
    if finding is None:
        return word, f"{cost}; the capture is too poor to say why."
    if finding.conclusion.kind is FindingKind.CAPTURE:
        return word, f"{cost}; this capture cannot carry a verdict: {finding.title}."
    return word, f"{cost}. Worst: {finding.title}, {blocked(finding)} ({finding.code})."


def unseen(diagnosis: Diagnosis) -> list[str]:
    """What the report cannot know, and why, one sentence each; as they came, escapes not yet made."""
    tables, lines = diagnosis.tables, list(diagnosis.not_observable)
    for index, (capture, quality) in enumerate(zip(tables.captures, tables.quality, strict=True)):
        name = f"{capture.name}: " if len(tables.captures) > 1 else ""
        if quality.issues or quality.advice:
            named = f": {', '.join(quality.issues)}" if quality.issues else ""
            lines.append(f"{name}quality {quality.grade}{named}" + (f". {quality.advice}" if quality.advice else ""))
        if quality.unseen_bytes:
            lines.append(f"{name}{quality.unseen_bytes:,} bytes acknowledged but never captured ({quality.capture_loss_ratio:.2%})")
        for file in capture.each:
            if file.cut_at is not None:
                of = f"{file.name}: " if capture.files else name
                lines.append(f"{of}{cut(file)}; analysed as far as it goes")
        lines += [f"{name}{number:,} {TIMES} {loss.sentence} ({loss.value})" for loss, number in tables.losses.of(index).items()]
    return lines


def cut(capture: Capture) -> str:
    """Where a cut capture ends, and what was seen there."""
    return f"cut at byte {capture.cut_at:,}" + (f": {capture.cut_note}" if capture.cut_note else "")


def lasted(capture: Capture) -> str:
    """From its first to its last frame."""
    return seconds(0 if capture.first_ns is None or capture.last_ns is None else capture.last_ns - capture.first_ns)


def numbered(diagnosis: Diagnosis) -> list[tuple[str, Capture]]:
    """Each capture with the numbers of its files, as frames cite them: "3", or "3-22"; "" where there is one file in all."""
    tables, first = diagnosis.tables, 0
    names = []
    for capture in tables.captures:
        last = first + len(capture.each) - 1
        names.append(("" if len(tables.files) == 1 else str(first) if first == last else f"{first}-{last}", capture))
        first = last + 1
    return names


def cited_files(diagnosis: Diagnosis) -> list[tuple[int, Capture]]:
    """Number and file of those files of several that shown frames lie in: which one a number means has to be said."""
    tables = diagnosis.tables
    shown = {tables.place(frame.capture, frame.number)[0] for f in diagnosis.findings for frame in cited(f.conclusion.frames)}
    return [(number, file) for number, (index, file) in enumerate(tables.files) if tables.captures[index].files and number in shown]


def capture_name(capture: Capture) -> str:
    """Its name for people, escapes not yet made."""
    return "standard input" if capture.name == "-" else capture.name
