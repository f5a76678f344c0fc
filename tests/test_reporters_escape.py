"""Strings off the wire cannot command a terminal, a page or a ticket."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.reporters.escape import LONGEST, markdown, markdown_code, visible
from tests.diagnoses import HOSTILE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /v1/messages", "GET /v1/messages"),
        ("naïve 東京 😀", "naïve 東京 😀"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f", "\\x7f"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("gnp\u202eexe", "gnp\\u202eexe"),
        ("\u2066\u2069\u200b\ufeff", "\\u2066\\u2069\\u200b\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_spelt(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(), max_size=60))
def test_shown_text_is_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert shown.splitlines() in ([], [shown])


def test_long_strings_are_cut_and_say_so() -> None:
    assert visible("a" * LONGEST) == "a" * LONGEST
    assert visible("a" * (LONGEST + 1)) == "a" * (LONGEST - 1) + "…"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain words, 18.8 s (ok)", "plain words, 18.8 s (ok)"),
        ("a|b", "a\\|b"),
        ("`code` *bold* _it_", "\\`code\\` \\*bold\\* \\_it\\_"),
        ("<script>&amp;", "&lt;script&gt;&amp;amp;"),
        ("[a](b) ![c](d)", "\\[a\\](b) \\!\\[c\\](d)"),
        ("back\\slash", "back\\\\slash"),
        ("https://evil.example www.evil.example", "https:\\//evil.example www\\.evil.example"),
        ("me@evil.example", "me\\@evil.example"),
        ("# head", "\\# head"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("12) item", "12\\) item"),
        ("line\nbreak", "line\\\\nbreak"),
    ],
)
def test_markdown_renders_as_the_text_itself(text: str, written: str) -> None:
    assert markdown(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [("tcp.len > 9", "`tcp.len > 9`"), ("a`b", "``a`b``"), ("``", "``` `` ```"), ("", ""), ("a\nb", "`a\\nb`")],
)
def test_a_code_span_cannot_be_left(text: str, written: str) -> None:
    assert markdown_code(text) == written


def test_the_worst_string_we_know_stays_one_table_cell() -> None:
    written = markdown(HOSTILE)
    assert "\n" not in written
    assert "|" not in written.replace("\\|", "")
    assert "<" not in written
