"""A page of text of a fixed width: headings, paragraphs with a hanging indent, labelled fields. Styles are optional."""

from __future__ import annotations

from io import StringIO
from typing import Final

from rich.console import Console
from rich.text import Text

NARROWEST: Final = 40
WIDEST_PROSE: Final = 110
"""Columns beyond which lines of prose get hard to follow."""

_LEAST_ROOM: Final = 20
_DEEP_INDENT: Final = 8

Part = str | tuple[str, str]
"""A piece of text, or one with its style."""


class Page:
    """Collects lines; everything given to it must be printable already (escape.visible)."""

    def __init__(self, width: int, *, styles: bool) -> None:
        self.width = max(width, NARROWEST)
        self._out = StringIO()
        # An empty environment and a fixed size: the page depends on nothing but what it is given.
        self._console = Console(
            file=self._out,
            width=self.width,
            height=100,
            force_terminal=styles,
            force_jupyter=False,
            color_system="standard" if styles else None,
            no_color=False,
            legacy_windows=False,
            _environ={},
        )

    def text(self) -> str:
        """The whole page."""
        return "".join(f"{line.rstrip()}\n" for line in self._out.getvalue().splitlines())

    def blank(self) -> None:
        """An empty line."""
        self._out.write("\n")

    def heading(self, title: str, note: str = "") -> None:
        """A section's title, and what its figures are of."""
        self.blank()
        self.hang("", title.upper(), [("   " + note, "dim")] if note else [], style="bold")

    def hang(self, prefix: str, first: str, rest: list[Part] | None = None, *, indent: int = 0, style: str = "") -> None:
        """A paragraph: `prefix` on its first line, the further lines below what follows it."""
        body = Text.assemble((first, style), *(rest or []))
        self._wrapped(body, Text(" " * indent + prefix), min(self.width, WIDEST_PROSE + indent))

    def field(self, name: str, parts: list[Part], *, indent: int, name_width: int) -> None:
        """A labelled line: the name dim, its text in a column of its own."""
        margin = Text.assemble(" " * indent, (f"{name:<{name_width}}", "dim"))
        self._wrapped(Text.assemble(*parts), margin, min(self.width, WIDEST_PROSE + indent + name_width))

    def spread(self, left: list[Part], right: list[Part], *, indent: int) -> None:
        """`left` and, flush right on the same line if it fits, `right`."""
        start, end = Text.assemble(" " * indent, *left), Text.assemble(*right)
        right_edge = min(self.width, WIDEST_PROSE)
        space = right_edge - start.cell_len - end.cell_len
        if space >= 2:
            self._line(Text.assemble(start, " " * space, end))
        else:
            self._wrapped(Text.assemble(*left), Text(" " * indent), right_edge)
            self._wrapped(end, Text(" " * (indent + 3)), right_edge)

    def line(self, parts: list[Part]) -> None:
        """One line, as it is; what does not fit is cut."""
        text = Text.assemble(*parts)
        text.truncate(self.width, overflow="ellipsis")
        self._line(text)

    def _wrapped(self, body: Text, margin: Text, right_edge: int) -> None:
        """The body right of its margin, or, where that leaves too little room, below it."""
        if right_edge - margin.cell_len < min(_LEAST_ROOM, body.cell_len):
            self.line([margin.plain])
            margin = Text(" " * _DEEP_INDENT)
        for number, line in enumerate(body.wrap(self._console, right_edge - margin.cell_len)):
            line.rstrip()
            self._line(Text.assemble(margin if number == 0 else " " * margin.cell_len, line))

    def _line(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, overflow="ignore", crop=False, markup=False, emoji=False, highlight=False)
