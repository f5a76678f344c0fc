"""pcapdiag explain."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from typing import TYPE_CHECKING

import click

from pcapdiag.cli.terminal import has_colours, print_report, report_width, to_terminal
from pcapdiag.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pcapdiag.findings import Detector, Limits

_WIDEST = 100


@click.command("explain")
@click.argument("code")
def command(code: str) -> None:
    """Print the page for one diagnosis: what it means, its thresholds, what to do."""
    from pcapdiag.detectors import DETECTORS  # noqa: PLC0415 - not for --help
    from pcapdiag.reporters.phrases import LABELS  # noqa: PLC0415 - not for --help

    if code in LABELS:
        print_report(f"{code}: {LABELS[code]}. A label of seconds that are nobody's fault; not a diagnosis.\n")
        return
    text = page(find(code, DETECTORS), min(report_width(to_terminal=to_terminal()), _WIDEST))
    print_report(text if has_colours() else click.unstyle(text))


def find(code: str, detectors: Sequence[Detector]) -> Detector:
    """The detector of a code.

    Raises:
        OptionError: there is none; the message names those most like it.
    """
    by_code = {detector.code: detector for detector in detectors}
    if code in by_code:
        return by_code[code]
    parts = [known for known in by_code if code and code in known]
    near = list(dict.fromkeys([*difflib.get_close_matches(code, by_code, n=4, cutoff=0.6), *parts]))[:5]
    hint = f"did you mean {', '.join(near)}?" if near else "`pcapdiag detectors` lists them"
    raise OptionError(f"explain: no diagnosis has the code {code!r}; {hint}")


def page(detector: Detector, width: int) -> str:
    """A detector's own documentation, its limits, remedy, references and filter; with ANSI styles."""
    module = inspect.getmodule(detector.conclude)
    doc = inspect.getdoc(module) if module is not None else None
    first, _, body = (doc or "").partition("\n")
    title = first if first.startswith(f"{detector.code}:") else f"{detector.code}: {detector.title}"
    lines = [
        *(click.style(line, bold=True) for line in textwrap.wrap(title, width)),
        "",
        f"Who can mend it: {detector.domain.value}",
        *_prose(body, width),
    ]
    if detector.limits:
        lines += ["", click.style("Limits", bold=True), *_limits(detector.limits, width)]
    lines += _section("Remedy, as reports print it", detector.remedy, width)
    lines += _section("References", detector.references, width)
    if detector.wireshark_filter:
        lines += ["", click.style("Wireshark filter", bold=True), f"  {detector.wireshark_filter}"]
    return "\n".join(lines) + "\n"


def _prose(body: str, width: int) -> Iterator[str]:
    """Markdown of a docstring: headings bold, paragraphs and list items filled, indented text as it is."""
    for block in re.split(r"\n\s*\n", body.strip("\n")):
        if not block.strip():
            continue
        yield ""
        heading, _, rest = block.partition("\n") if block.startswith("## ") else ("", "", block)
        if heading:
            yield click.style(heading.removeprefix("## "), bold=True)
        if rest.startswith("    "):
            yield from rest.splitlines()
        elif rest:
            for item in re.split(r"\n(?=[-*] )", rest):
                hang = "    " if item[:2] in {"- ", "* "} else "  "
                yield from textwrap.wrap(" ".join(item.split()), width, initial_indent="  ", subsequent_indent=hang, break_on_hyphens=False)


def _limits(limits: Limits, width: int) -> Iterator[str]:
    amounts = {name: f"{limit.value:g} {limit.unit}".strip() for name, limit in limits.items()}
    name_width, amount_width = max(map(len, amounts)), max(map(len, amounts.values()))
    for name, limit in limits.items():
        margin = f"  {name:<{name_width}}  {amounts[name]:>{amount_width}}  "
        room = max(width, len(margin) + 20)
        yield from textwrap.wrap(limit.source, room, initial_indent=margin, subsequent_indent=" " * len(margin)) or [margin.rstrip()]


def _section(title: str, entries: Sequence[str], width: int) -> Iterator[str]:
    if not entries:
        return
    yield ""
    yield click.style(title, bold=True)
    for entry in entries:
        yield from textwrap.wrap(entry, width, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
