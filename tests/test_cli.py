"""The command line: what goes where, and every exit code."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from pcapdiag import __version__
from pcapdiag.__main__ import main
from pcapdiag.cli import _COMMANDS, analyze, cli, explain
from pcapdiag.cli.exits import Exit
from pcapdiag.detectors import DETECTORS as SHIPPED
from pcapdiag.errors import CaptureError, OptionError
from pcapdiag.findings import Detector, Failure, Limit, Limits, Severity
from pcapdiag.options import Options
from pcapdiag.reporters import REPORTERS
from tests.diagnoses import DETECTORS, capture, detector, healthy, quality, rich

if TYPE_CHECKING:
    from pcapdiag.findings import Diagnosis

Pipeline = Callable[["Diagnosis | BaseException"], None]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """`pipeline(what)` makes every analysis give `what`, or raise it."""

    def install(what: Diagnosis | BaseException) -> None:
        def diagnose(*_: object) -> Diagnosis:
            if isinstance(what, BaseException):
                raise what
            return what

        monkeypatch.setattr(analyze, "diagnose", diagnose)

    return install


def sound(**changes: Any) -> Diagnosis:
    """The rich example without its failures."""
    return replace(rich(), failures=(), **changes)


# reports


def test_the_report_is_all_of_stdout(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(healthy())
    assert main(["analyze", "a.pcap"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out == REPORTERS["text"](healthy(), width=80)
    assert err == ""


def test_the_width_is_that_of_columns(pipeline: Pipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline(sound())
    monkeypatch.setenv("COLUMNS", "140")
    main(["analyze", "a.pcap", "-o", "-"])
    assert capsys.readouterr().out == REPORTERS["text"](sound(), width=140)


def test_further_reports_go_to_files(pipeline: Pipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pipeline(healthy())
    page, data = tmp_path / "a.md", tmp_path / "a.json"
    assert main(["analyze", "a.pcap", "-f", "json", "-o", str(data), "--report", f"markdown={page}"]) == Exit.OK
    assert capsys.readouterr().out == ""
    assert json.loads(data.read_text(encoding="utf-8"))["schema_version"] == "1.0"
    assert page.read_text(encoding="utf-8") == REPORTERS["markdown"](healthy(), width=80)


def test_an_output_that_cannot_be_written_does_not_cost_the_others(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pipeline(healthy())
    missing, good = tmp_path / "no" / "a.json", tmp_path / "a.md"
    assert main(["analyze", "a.pcap", "--report", f"json={missing}", "--report", f"markdown={good}"]) == Exit.UNUSABLE
    out, err = capsys.readouterr()
    assert out.startswith("HEALTHY")
    assert good.exists()
    assert err == f"pcapdiag: {missing}: cannot be written (No such file or directory)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.pcap", "-o", "a.pcap"], "a.pcap: the report would overwrite the capture"),
        (["a.pcap", "--report", "json=./a.pcap"], "./a.pcap: the report would overwrite the capture"),
        (["a.pcap", "--report", "json=b", "--report", "text=b"], "b: two reports cannot go to one place"),
        (["a.pcap", "--report", "json=-"], "standard output: two reports cannot go to one place"),
        (["-", "-"], "standard input (-) can be read only once"),
    ],
)
def test_outputs_need_a_place_of_their_own(
    arguments: list[str], message: str, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline(AssertionError("must not come to this"))
    assert main(["analyze", *arguments]) == Exit.UNUSABLE
    assert capsys.readouterr() == ("", f"pcapdiag: {message}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.pcap", "-f", "yaml"],
        ["a.pcap", "--report", "json"],
        ["a.pcap", "--report", "yaml=x"],
        ["a.pcap", "--fail-on", "terrible"],
        ["a.pcap", "--keylog", "/does/not/exist"],
        ["a.pcap", "--no-such-option"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(AssertionError("must not come to this"))
    assert main(["analyze", *arguments]) == Exit.UNUSABLE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: pcapdiag analyze")


# exit codes


@pytest.mark.parametrize(("severity", "code"), [("critical", Exit.GATE), ("high", Exit.GATE), ("low", Exit.GATE)])
def test_the_gate(severity: str, code: int, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(sound())
    assert main(["analyze", "a.pcap", "--fail-on", severity]) == code
    assert f"of severity {severity} or more" in capsys.readouterr().err


def test_the_gate_is_off_by_default_and_open_when_nothing_is_that_severe(pipeline: Pipeline) -> None:
    pipeline(sound())
    assert main(["analyze", "a.pcap"]) == Exit.OK
    pipeline(healthy())
    assert main(["analyze", "a.pcap", "--fail-on", "info"]) == Exit.OK


def test_quality_below_what_is_required(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    poor = replace(healthy(), tables=replace(healthy().tables, quality=(quality(grade="C"),)))
    pipeline(poor)
    assert main(["analyze", "a.pcap", "--require-quality", "C"]) == Exit.OK
    assert main(["analyze", "a.pcap", "--require-quality", "B"]) == Exit.POOR
    assert capsys.readouterr().err == "pcapdiag: quality C is below the required B\n"
    assert main(["analyze", "a.pcap"]) == Exit.OK


def test_a_capture_that_is_none_is_2_with_one_line(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(CaptureError("a\x1b[2J.txt: not a pcap or pcapng file (starts with 2321)"))
    assert main(["analyze", "a.txt"]) == Exit.UNUSABLE
    assert capsys.readouterr() == ("", "pcapdiag: a\\x1b[2J.txt: not a pcap or pcapng file (starts with 2321)\n")


def test_of_several_inputs_the_good_ones_are_reported(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(replace(healthy(), failures=(Failure("input b.pcap", "b.pcap: the file is empty (at offset 0)"),)))
    assert main(["analyze", "a.pcap", "b.pcap"]) == Exit.UNUSABLE
    out, err = capsys.readouterr()
    assert out.startswith("HEALTHY")
    assert err == "pcapdiag: b.pcap: the file is empty (at offset 0)\n"


def test_a_crashed_detector_is_70_and_the_rest_is_reported(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(replace(rich(), failures=(Failure("detector zero-window", "ValueError: no"),)))
    assert main(["analyze", "a.pcap", "--fail-on", "low"]) == Exit.INTERNAL
    out, err = capsys.readouterr()
    assert out.startswith("NETWORK")
    assert "pcapdiag: internal error in detector zero-window: ValueError: no; the rest is reported" in err


def test_a_cut_capture_warns_and_is_0(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    cut = capture(cut_at=1_234, cut_note="31 bytes remain")
    pipeline(replace(healthy(), tables=replace(healthy().tables, captures=(cut,))))
    assert main(["analyze", "a.pcap"]) == Exit.OK
    assert capsys.readouterr().err == "pcapdiag: warning: client.pcap: cut at byte 1,234: 31 bytes remain; analysed as far as it goes\n"


def test_a_key_log_is_taken_and_said_to_be_of_no_use_yet(pipeline: Pipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = tmp_path / "keys.log"
    keys.touch()
    pipeline(healthy())
    assert main(["analyze", "a.pcap", "--keylog", str(keys)]) == Exit.OK
    assert "decryption is not available yet" in capsys.readouterr().err


def test_a_bug_is_one_line_and_70(pipeline: Pipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline(ZeroDivisionError("division\nby zero"))
    assert main(["analyze", "a.pcap"]) == Exit.INTERNAL
    err = capsys.readouterr().err
    assert re.fullmatch(r"pcapdiag: internal error: ZeroDivisionError: division\\nby zero \(test_cli.py:\d+\); .*report.*\n", err)
    monkeypatch.setenv("PCAPDIAG_DEBUG", "1")
    main(["analyze", "a.pcap"])
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130_and_silent(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(KeyboardInterrupt())
    assert main(["analyze", "a.pcap"]) == Exit.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_is_silent_and_0() -> None:
    with subprocess.Popen([sys.executable, "-m", "pcapdiag", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == Exit.OK


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_2() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "pcapdiag", "schema"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == Exit.UNUSABLE
    assert done.stderr == b"pcapdiag: standard output: cannot be written (No space left on device)\n"


def test_an_encoding_without_our_letters_costs_only_letters() -> None:
    code = "from pcapdiag.cli.terminal import print_report; print_report('12 \\u00d7 \\u2588\\n')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert done.stdout == b"12 ? ?\n"


# options


def test_choices_are_those_of_the_program() -> None:
    assert tuple(severity.word for severity in Severity) == analyze.SEVERITIES
    options = {option.name: option for option in analyze.command.params}
    form = options["form"].type
    assert isinstance(form, click.Choice)
    assert list(form.choices) == list(REPORTERS)


def chosen(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Options:
    """The options that a command line gives the pipeline."""
    seen: list[Options] = []

    def diagnose(_: object, options: Options) -> Diagnosis:
        seen.append(options)
        return healthy()

    monkeypatch.setattr(analyze, "diagnose", diagnose)
    main(["analyze", "a.pcap", *arguments])
    return seen[0]


def test_choices_reach_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    options = chosen(monkeypatch, "-", "--vantage", "server", "--dissect", "--jobs", "3", "--memory", "1.5GiB")
    assert options == Options(vantage="server", dissect=True, digest=False, jobs=3, memory_bytes=3 << 29)


@pytest.mark.parametrize(("size", "expected"), [("300M", 300 << 20), ("2g", 2 << 30), ("4096", 4096), ("64KiB", 1 << 16), ("1T", 1 << 40)])
def test_sizes_have_binary_units(size: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, "--memory", size).memory_bytes == expected


def test_captures_are_digested_for_the_report_that_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not chosen(monkeypatch, "--report", f"markdown={tmp_path / 'r.md'}").digest
    assert chosen(monkeypatch, "--report", f"json={tmp_path / 'r.json'}").digest


@pytest.mark.parametrize("size", ["", "M", "-1M", "5x", "1.5.2G"])
def test_what_is_no_size_is_said(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "a.pcap", f"--memory={size}"]) == Exit.UNUSABLE
    assert "is not a size like 300M" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tty", "environment", "colours"),
    [
        (True, {"TERM": "xterm"}, True),
        (False, {"TERM": "xterm"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_terminals_whose_owner_wants_them(
    tty: bool,
    environment: dict[str, str],
    colours: bool,
    pipeline: Pipeline,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pipeline(healthy())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    main(["analyze", "a.pcap"])
    assert ("\x1b[" in capsys.readouterr().out) is colours


# the other commands


def test_help_names_every_command_in_its_own_words() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    for name, (_, summary) in _COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE)
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out == f"pcapdiag {__version__}\n"


def test_help_is_quick_and_loads_no_heavy_library() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pcapdiag", "--help"]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert not re.findall(r"\| +(numpy|pandas|rich|pcapdiag\.pipeline|pcapdiag\.findings)$", imported, re.MULTILINE)
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "pcapdiag", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(spent) <= 0.150, "processor time, so that a busy machine does not fail it"


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_detectors_lists_codes_and_titles(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcapdiag.detectors.DETECTORS", DETECTORS)
    assert main(["detectors"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines == sorted(lines)
    assert "zero-window             client   The receiver stopped reading" in lines


def test_explain_prints_the_page_of_a_detector() -> None:
    limits = Limits(rate=Limit(0.05, "", "spread of goodput between losses"), wait=Limit(200, "ms", "a pause that refills the bucket"))
    text = click.unstyle(explain.page(replace(detector("policer"), limits=limits), 80))
    assert text.splitlines()[0] == "policer: Policer"
    assert "  rate    0.05  spread of goodput between losses\n  wait  200 ms  a pause that refills the bucket\n" in text
    assert text.endswith(
        "Remedy, as reports print it\n  - Mend the policer.\n\nReferences\n  - RFC 9293 section 3.8\n\nWireshark filter\n  tcp\n"
    )


def test_the_prose_of_a_page_is_filled() -> None:
    body = "\n## What it does\n\nLooks for a steady\ngoodput.\n\n- first\n- second,\n  longer\n\n    frame 1\n"
    assert list(map(click.unstyle, explain._prose(body, 30))) == [
        "", "What it does", "", "  Looks for a steady goodput.", "", "  - first", "  - second, longer", "", "    frame 1",
    ]  # fmt: skip


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped.code)
def test_every_page_fits_a_terminal(shipped: Detector) -> None:
    lines = click.unstyle(explain.page(shipped, 80)).splitlines()
    assert lines[0].startswith(f"{shipped.code}: ")
    assert [line for line in lines[:-1] if len(line) > 80] == []


def test_explain_says_which_codes_are_like_a_wrong_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcapdiag.detectors.DETECTORS", DETECTORS)
    assert main(["explain", "pmtu-blackhole"]) == Exit.UNUSABLE
    assert "did you mean pmtu-black-hole?" in capsys.readouterr().err
    with pytest.raises(OptionError, match="did you mean syn-loss, tail-loss-rto, fast-retransmit-loss, capture-loss"):
        explain.find("loss", DETECTORS)
    with pytest.raises(OptionError, match="`pcapdiag detectors` lists them"):
        explain.find("xyzzy", DETECTORS)


def test_explain_knows_the_labels_that_are_no_cause(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "propagation"]) == Exit.OK
    assert capsys.readouterr().out.startswith("propagation: the distance itself")
