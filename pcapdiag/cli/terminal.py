"""What the command line knows of where its words go: widths, colours, encodings; stdout for reports, stderr for the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from pcapdiag.errors import OutputError

PLAIN_WIDTH = 80
"""Columns of what is no terminal and has no COLUMNS: the same everywhere."""


def say(line: str) -> None:
    """One line on stderr, if there is one; it may hold names and strings of any origin."""
    stderr: object = sys.stderr
    if stderr is None:  # print would take standard output instead
        return
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)
    print(f"pcapdiag: {shown}", file=sys.stderr)  # noqa: T201 - the command line is the one place that prints


def report_width(*, to_terminal: bool) -> int:
    """COLUMNS, else the terminal's width where the report goes to one, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    if to_terminal:
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns or PLAIN_WIDTH
        except OSError:
            return PLAIN_WIDTH
    return PLAIN_WIDTH


def has_stdout() -> bool:
    """Was the program started with a standard output? If not, Python has none, whatever the type of sys.stdout says."""
    stdout: object = sys.stdout
    return stdout is not None


def to_terminal() -> bool:
    """Does stdout go to a terminal?"""
    return has_stdout() and sys.stdout.isatty()


def has_colours() -> bool:
    """Does stdout go to a terminal that shows colours to somebody who wants them (no-color.org)?"""
    return to_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_report(text: str | Iterable[str]) -> None:
    """A report, whole or in pieces, on stdout; what its encoding lacks becomes a question mark.

    Raises:
        OutputError: the device is full or gone; a closed pipe stays a BrokenPipeError.
    """
    if not has_stdout():
        raise OutputError("there is no standard output")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        for piece in (text,) if isinstance(text, str) else text:
            sys.stdout.write(piece.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(unwritable(error)) from error


def unwritable(error: OSError) -> str:
    """One line on a standard output that takes nothing more; from here on it takes everything, and it goes nowhere.

    What is still buffered must not fail again when the interpreter closes it.
    """
    drop_output()
    return f"standard output: cannot be written ({error.strerror})"


def drop_output() -> None:
    """Makes stdout the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
