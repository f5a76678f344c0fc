"""Writes docs/columns.md and docs/detectors.md from the code they describe: `make docs`.

tests/test_docs.py fails while a page differs from what this would write.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pcapdiag
from pcapdiag.columns import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pcapdiag.findings import Detector, Limit

FOLDER = Path(__file__).parent
WRITTEN_BY = "<!-- Written by docs/generate.py (`make docs`); change the code it reads, not this page. -->"
OUTPUTS = ("capture.frames", "packets.table", "flows.table", "flows.resend_table", "pair.table", "exchanges.table")
"""The modules of the tables that one step gives to the next, in the order in which data flows."""


def tables() -> list[type[Table]]:
    """Every table that a step gives, in the order of the steps, then of the source."""
    modules = [importlib.import_module(f"pcapdiag.{name}") for name in OUTPUTS]
    values = [value for module in modules for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    return [value for value in values if inspect.isclass(value) and issubclass(value, Table)]


def columns_page() -> str:
    """The page of all tables with their columns."""
    parts = [
        "# Columns",
        WRITTEN_BY,
        "Every table is a frozen dataclass of NumPy arrays of one length. `to_frame()` gives it as a pandas DataFrame. Times are integer\n"
        "nanoseconds; what never happened has the largest 64-bit integer. What a column cannot know is said in its line.",
    ]
    for table in tables():
        rows = [(f"`{name}`", column.unit, column.doc) for name, column in table.columns().items()]
        module = table.__module__.removeprefix("pcapdiag.")
        parts += [f"## {table.__name__}", f"`pcapdiag.{module}`. {_prose(table)}", _grid(("column", "unit", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def detectors_page() -> str:
    """The page of all detectors: their own pages, with limits, remedy and references."""
    from pcapdiag.detectors import DETECTORS  # noqa: PLC0415 - the other page does not need them

    ordered = sorted(DETECTORS, key=lambda detector: detector.code)
    index = [(f"[{d.code}](#{d.code})", d.title, d.domain.value, _tier(d)) for d in ordered]
    parts = [
        "# Detectors",
        WRITTEN_BY,
        "Each is one opinion in one file of `pcapdiag/detectors/`. `pcapdiag explain CODE` shows its page on the terminal.",
        _grid(("code", "what it says", "who can fix it", "precedence"), index),
    ]
    for detector in ordered:
        parts += _detector(detector)
    return "\n\n".join(parts) + "\n"


def _detector(detector: Detector) -> list[str]:
    _, _, page = (inspect.getdoc(inspect.getmodule(detector.conclude)) or "").partition("\n")
    parts = [f"## {detector.code}", f"{detector.title}.", re.sub(r"^## ", "### ", page.strip(), flags=re.MULTILINE)]
    parts.append(_list(detector.remedy))
    if detector.limits:
        rows = [(f"`{name}`", _number(limit), limit.source) for name, limit in detector.limits.items()]
        parts += ["### Limits", _grid(("limit", "value", "source"), rows)]
    parts += ["### References", _list(detector.references)]
    return [*parts, f"Wireshark: `{detector.wireshark_filter}`"]


def _tier(detector: Detector) -> str:
    return "" if detector.label is None else detector.label.tier.name.lower().replace("_", " ")


def _number(limit: Limit) -> str:
    return f"{limit.value:,.12g} {limit.unit}".strip()


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _prose(thing: type) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


PAGES: dict[str, Callable[[], str]] = {"columns.md": columns_page, "detectors.md": detectors_page}


def main() -> int:
    """Writes the pages that changed, and names them."""
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"docs/{name}: written for pcapdiag {pcapdiag.__version__}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
