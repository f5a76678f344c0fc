"""Strings off the wire, made harmless: what a peer sends must not command a terminal or a page."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

LONGEST: Final = 400
"""Characters of one string a person gets to see; JSON reports keep all."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode categories: controls (C0, DEL, C1), formats (bidi controls, zero width), surrogates, private use, separators."""

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_MARKDOWN: Final = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        **{character: f"\\{character}" for character in "\\`*_[]|~!$@"},
    }
)
_BLOCK_START: Final = re.compile(r"^(\s*)([#+\-=:]|\d+(?=[.)](?:\s|$)))")
_AUTOLINK: Final = re.compile(r"(?i)(?<=:)(?=//)|(?<=www)(?=\.)")


def visible(text: str, longest: int = LONGEST) -> str:
    r"""One line of printable text: controls and other unseen characters as \n, \x1b or \u202e; cut with an ellipsis."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def markdown(text: str) -> str:
    """Text as Markdown that renders as exactly this text, inside a paragraph, a list item or a table cell."""
    escaped = _AUTOLINK.sub("\\\\", visible(text).translate(_MARKDOWN))
    return _BLOCK_START.sub(lambda m: f"{m[1]}{m[2]}\\" if m[2].isdigit() else f"{m[1]}\\{m[2]}", escaped)


def markdown_code(text: str) -> str:
    """Text as a Markdown code span, outside tables: its fence is longer than any run of backticks in it."""
    shown = visible(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown}{padding}{fence}" if shown else ""


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
