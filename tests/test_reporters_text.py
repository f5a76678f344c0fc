"""The reports for people: whole pages compared, and what must hold at every width."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from rich.cells import cell_len

from pcapdiag.reporters import REPORTERS
from pcapdiag.reporters.page import Page
from tests.diagnoses import capture, capture_only, conclusion, diagnosis, empty, exchange, healthy, ledger, quality, rich, tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from pcapdiag.findings import Diagnosis

GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = [rich, healthy, empty, capture_only]
each = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)


@pytest.mark.parametrize(
    ("example", "form", "width"),
    [
        *((example, "text", width) for example in EXAMPLES for width in (80, 140)),
        *((example, "markdown", 80) for example in EXAMPLES),
        (rich, "json", 80),
        (rich, "ansi", 80),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_whole_pages(example: Callable[[], Diagnosis], form: str, width: int, golden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritten by `pytest --golden`; the difference is what a review looks at."""
    for module in ("json_report", "markdown"):
        monkeypatch.setattr(f"pcapdiag.reporters.{module}.__version__", "0.0.0")
    path = GOLDEN / f"{example.__name__.replace('_', '-')}-{width}.{form}"
    text = REPORTERS[form](example(), width=width)
    if golden:
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text == path.read_text(encoding="utf-8")


@each
@pytest.mark.parametrize("width", [40, 80, 140, 200])
def test_no_line_is_wider_than_the_page(example: Callable[[], Diagnosis], width: int) -> None:
    assert [line for line in REPORTERS["text"](example(), width=width).splitlines() if cell_len(line) > width] == []


@each
@pytest.mark.parametrize("form", ["text", "markdown"])
def test_nothing_unseen_gets_out(example: Callable[[], Diagnosis], form: str) -> None:
    text = REPORTERS[form](example(), width=80)
    assert not {unicodedata.category(c) for c in text.replace("\n", "")} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert text.endswith("\n")
    assert not [line for line in text.splitlines() if line != line.rstrip()]


@each
def test_styles_change_no_letter(example: Callable[[], Diagnosis]) -> None:
    styled = REPORTERS["ansi"](example(), width=80)
    assert click.unstyle(styled) == REPORTERS["text"](example(), width=80)
    assert set(re.findall(r"\x1b\[([0-9;]*)m", styled)) <= {"0", "1", "2", "1;31", "31", "33", "36", "1;32", "1;33"}


def test_the_environment_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [REPORTERS[form](rich(), width=80) for form in ("text", "ansi")]
    for name, value in {"COLUMNS": "33", "NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "dumb", "JUPYTER_COLUMNS": "12"}.items():
        monkeypatch.setenv(name, value)
    assert [REPORTERS[form](rich(), width=80) for form in ("text", "ansi")] == pages


def test_the_verdict_is_the_first_line() -> None:
    assert REPORTERS["text"](rich(), width=140).startswith("NETWORK  18.8 s blocked of 30.9 s. Worst: Large packets vanish")
    assert REPORTERS["markdown"](rich(), width=140).startswith("# NETWORK\n\n18.8 s blocked of 30.9 s.")


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_several_captures_are_told_apart(form: str) -> None:
    rows = (exchange(0, 0, 9),)
    two = replace(
        tables(rows),
        captures=(capture(), capture(name="server.pcap", cut_at=4_096)),
        quality=(quality(), quality(grade="B", issues=("clipped-end",))),
        vantages=tables(rows).vantages * 2,
    )
    text = REPORTERS[form](diagnosis(two, ledger(rows), (conclusion("policer", (0, 1, 5)),)), width=120)
    assert "server.pcap: cut at byte 4,096; analysed as far as it goes" in text
    assert "server.pcap: quality B: clipped-end" in text
    assert re.search(r"\[0\] 10  1\.000000 s  shows it" if form == "text" else r"\| 0 \| 10 \| 1\.000000 \| shows it \|", text)


def test_seconds_that_differ_are_all_named() -> None:
    rows = (exchange(0, 0, 9), exchange(1, 0, 9))
    found = diagnosis(tables(rows), ledger(rows), (conclusion("path-outage", (0, 1, 5), (1, 1, 5)),))
    assert "4.00 s blocked, 44 % of the wall time, in 2 exchanges; 8.00 s added up over exchanges" in REPORTERS["text"](found, width=140)


def test_a_page_keeps_words_of_any_width_inside() -> None:
    page = Page(40, styles=False)
    page.field("name", ["東京" * 30], indent=2, name_width=8)
    page.line(["x" * 99])
    assert all(cell_len(line) <= 40 for line in page.text().splitlines())
    assert page.text().splitlines()[-1].endswith("…")


def test_reporters_are_found_by_name() -> None:
    assert list(REPORTERS) == ["text", "ansi", "json", "markdown"]
    with pytest.raises(KeyError):
        REPORTERS["yaml"]
