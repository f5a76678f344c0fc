"""The result as Markdown: for the terminal, and for docs/agreement.md between its marks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.agreement.classes import CLASSES
from tests.agreement.theirs import version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.agreement.compare import Agreement, Tally

PAGE = Path(__file__).parents[2] / "docs" / "agreement.md"
BEGIN, END = "<!-- written by make agreement -->\n", "<!-- end of what make agreement writes -->"
LABELS = {
    "again": "bytes seen before, or filling a hole (`retransmission`, `fast_retransmission`, `spurious_retransmission`, `out_of_order`)",
    "window": "scaled window (`tcp.window_size`)",
}


def tables(result: Agreement) -> str:
    """Both tables, and what they cover."""
    theirs_only, ours_only = sum(result.theirs_only.values()), sum(result.ours_only.values())
    lines = [
        f"{version().rstrip('.')}; {result.captures:,} captures; {result.packets:,} TCP packets that both decode.",
        f"Only tshark decodes {theirs_only:,} more, in {len(+result.theirs_only)} captures; only pcapdiag {ours_only:,}.",
        f"Captures that pcapdiag does not read: {len(result.unread)}.",
    ]
    facts = (
        (LABELS.get(name, f"`{name}`"), f"{tally.theirs:,}", f"{tally.ours:,}", f"{tally.both:,}", *_shares(tally), _aside(tally))
        for name, tally in result.facts.items()
    )
    aside = {one.name: sum(tally.aside[one.name] for tally in result.facts.values()) for one in CLASSES}
    classes = ((f"[{one.name}](#{one.name})", one.rule, f"{result.applies[one.name]:,}", f"{aside[one.name]:,}") for one in CLASSES)
    return "\n\n".join((
        " ".join(lines),
        _grid(("fact", "tshark", "pcapdiag", "both", "precision", "recall", "set aside, by class"), facts),
        _grid(("class", "packets it is about", "facts said of them", "of which differ"), classes),
    )) + "\n"  # fmt: skip


def _shares(tally: Tally) -> tuple[str, str]:
    """Precision and recall, with the packets that differ without a class."""
    return f"{_percent(tally.precision)} ({tally.extra:,} more)", f"{_percent(tally.recall)} ({tally.missed:,} fewer)"


def _percent(share: float) -> str:
    return f"{int(share * 10_000) / 100:.2f} %"  # rounded down: 99.996 % is not all


def _aside(tally: Tally) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in tally.aside.items() if count)


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *rows))


def write(text: str) -> None:
    """Puts the tables into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
