"""The report for tickets; whole pages are compared with the other forms."""

from __future__ import annotations

import re

from pcapdiag.reporters.markdown import report
from tests.diagnoses import empty, rich


def test_every_row_of_a_table_has_the_columns_of_its_head() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", report(rich(), width=80), re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_there_is_one_headline_and_nothing_depends_on_the_width() -> None:
    for example in (rich, empty):
        text = report(example(), width=80)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
        assert text == report(example(), width=200)
