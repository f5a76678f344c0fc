"""Where words go: widths, colours, and names of any origin on stderr."""

from __future__ import annotations

import sys

import pytest

from pcapdiag.cli.terminal import has_colours, has_stdout, print_report, report_width, say, to_terminal
from pcapdiag.errors import OutputError


@pytest.mark.parametrize(("columns", "width"), [("132", 132), ("0", 80), ("", 80), ("wide", 80)])
def test_a_width_that_was_asked_for_holds(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert report_width(to_terminal=False) == width


def test_a_pipe_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    print_report("x\n")
    assert capsys.readouterr().out == "x\n"
    assert (to_terminal(), has_colours()) == (False, False)


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("no such file: \x1b[2J.pcap")
    assert capsys.readouterr().err == "pcapdiag: no such file: \\x1b[2J.pcap\n"


def test_without_a_standard_output_a_report_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert not has_stdout()
    with pytest.raises(OutputError, match="no standard output"):
        print_report("x")


def test_without_a_standard_error_nothing_is_said_on_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    say("a warning")
    assert capsys.readouterr().out == ""
