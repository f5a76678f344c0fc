"""pcapdiag analyze."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pcapdiag.cli.exits import Exit
from pcapdiag.cli.terminal import has_colours, print_report, report_width, say, to_terminal
from pcapdiag.errors import OptionError, OutputError
from pcapdiag.options import Options
from pcapdiag.reporters import REPORTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pcapdiag.findings import Diagnosis

SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
GRADES: Final = ("A", "B", "C", "D", "F")
SIDES: Final = ("client", "server", "middle")

STDOUT: Final = "-"
_WITH_DIGEST: Final = ("json",)
"""Reports that show the SHA-256 of the captures; for others none is computed."""

Output = tuple[str, str]
"""Format, and file or "-"."""


def diagnose(paths: Sequence[str], options: Options) -> Diagnosis:
    """The pipeline, imported when there is work for it."""
    from pcapdiag.pipeline import diagnose_files  # noqa: PLC0415 - NumPy and all steps: not for --help

    return diagnose_files(paths, options)


_SIZE_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def _size(_context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Bytes; units are powers of 1,024."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", value.strip().lower())
    if matched is None:
        raise click.BadParameter(f"{value!r} is not a size like 300M or 1.5G", param=parameter)
    return int(float(matched[1]) * 2 ** _SIZE_UNITS[matched[2]])


def _reports(_context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Output, ...]:
    outputs = []
    for value in values:
        form, equals, file = value.partition("=")
        if not equals or not file or form not in REPORTERS:
            raise click.BadParameter(f"{value!r} is not FORMAT=FILE with FORMAT one of {', '.join(REPORTERS)}", param=parameter)
        outputs.append((form, file))
    return tuple(outputs)


@click.command("analyze")
@click.argument("files", metavar="FILE...", nargs=-1)
@click.option("-f", "--format", "form", type=click.Choice(list(REPORTERS)), default="text", show_default=True, help="Format of the report.")
@click.option("-o", "--output", metavar="FILE", default=STDOUT, help="Write the report there instead of to standard output.")
@click.option("--report", "reports", metavar="FORMAT=FILE", multiple=True, callback=_reports, help="Write a further report; repeatable.")
@click.option("--fail-on", type=click.Choice(SEVERITIES), help="Exit 1 when a finding is at least this severe.")
@click.option("--require-quality", type=click.Choice(GRADES), help="Exit 3 when a capture's grade is below this one.")
@click.option("--keylog", type=click.Path(exists=True, dir_okay=False, readable=True), help="TLS secrets (SSLKEYLOGFILE).")
@click.option(
    "--pair", nargs=2, metavar="CLIENT SERVER", help="Instead of FILE: two captures of one path, from the client's and the server's side."
)
@click.option("--vantage", type=click.Choice(SIDES), help="Where the captures were taken, when you know better.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes that share the work; by default one per core.")
@click.option("--memory", metavar="SIZE", callback=_size, default="1G", show_default=True, help="Beyond it, tables lie in temporary files.")
@click.option("--dissect", is_flag=True, help="Add tshark's dissection of the frames that findings cite.")
def command(
    files: tuple[str, ...],
    form: str,
    output: str,
    reports: tuple[Output, ...],
    fail_on: str | None,
    require_quality: str | None,
    keylog: str | None,
    pair: tuple[str, str] | None,
    vantage: str | None,
    jobs: int | None,
    memory: int,
    dissect: bool,
) -> int:
    """Account for every second an agent's requests stood still, and rank the causes.

    FILE is a pcap or pcapng capture, compressed (gzip, zstd, lz4) or not; a directory, a tar archive or a quoted pattern of
    them; or "-", standard input. Files that follow one another in time are one capture, whatever their names.
    """
    outputs = ((form, output), *reports)
    if bool(files) == bool(pair):
        raise click.UsageError("--pair takes the place of FILE" if pair else "Missing argument 'FILE...'.")
    files = files or pair or ()
    _check(files, outputs)
    if keylog is not None:
        say("--keylog: decryption is not available yet; what is encrypted is judged by the sizes and times of its TLS records")
    digest = any(form in _WITH_DIGEST for form, _ in outputs)
    options = Options(pair=pair is not None, vantage=vantage, dissect=dissect, digest=digest, jobs=jobs, memory_bytes=memory)
    diagnosis = diagnose(files, options)
    _warn(diagnosis)
    written = [_write(diagnosis, form, file) for form, file in outputs]
    return _exit_code(diagnosis, fail_on, require_quality, written=all(written))


def _check(files: Sequence[str], outputs: Sequence[Output]) -> None:
    """Nothing is analysed before it is clear that its reports have a place of their own."""
    if list(files).count(STDOUT) > 1:
        raise OptionError("standard input (-) can be read only once")
    written = {Path(file).resolve() for _, file in outputs if file != STDOUT}
    inputs = _inputs(files, written) if written else set()
    taken: set[Path | str] = set()
    for _, file in outputs:
        place = STDOUT if file == STDOUT else Path(file).resolve()
        if place in inputs:
            raise OptionError(f"{file}: the report would overwrite the capture")
        if place in taken:
            raise OptionError(f"{'standard output' if file == STDOUT else file}: two reports cannot go to one place")
        taken.add(place)


def _inputs(files: Sequence[str], outputs: set[Path]) -> set[Path]:
    """Which places hold what will be read, or what nobody wants to lose: any capture, under whatever name it is read."""
    from pcapdiag.capture.inputs import may_hold_capture  # noqa: PLC0415 - NumPy: not for --help

    return {Path(file).resolve() for file in files if file != STDOUT} | set(filter(may_hold_capture, outputs))


def _write(diagnosis: Diagnosis, form: str, file: str) -> bool:
    """One report to its place; False when a file cannot be written, so that the other reports still can."""
    if file == STDOUT:
        shown = "ansi" if form == "text" and has_colours() else form
        print_report(_made(shown, diagnosis, width=report_width(to_terminal=to_terminal())))
        return True
    try:
        _save(_made(form, diagnosis, width=report_width(to_terminal=False)), file)
    except OutputError as error:
        say(str(error))
        return False
    return True


def _made(form: str, diagnosis: Diagnosis, *, width: int) -> Iterable[str]:
    """The report in pieces; only JSON grows with the capture."""
    if form != "json":
        return (REPORTERS[form](diagnosis, width=width),)
    from pcapdiag.reporters.json_report import pieces  # noqa: PLC0415 - not for --help

    return pieces(diagnosis)


def _save(text: Iterable[str], file: str) -> None:
    try:
        with Path(file).open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(text)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror})") from error


def _warn(diagnosis: Diagnosis) -> None:
    """What a person has to know even when the report goes to a file."""
    from pcapdiag.reporters.phrases import cut  # noqa: PLC0415 - not for --help

    for _, capture in diagnosis.tables.files:
        if capture.cut_at is not None:
            say(f"warning: {capture.name}: {cut(capture)}; analysed as far as it goes")
    for note in diagnosis.notes:
        say(f"warning: {note}")
    for failure in diagnosis.failures:
        if failure.where.startswith("input"):
            say(failure.what)
        else:
            say(f"internal error in {failure.where}: {failure.what}; the rest is reported; this is a bug: please report this line")


def _exit_code(diagnosis: Diagnosis, fail_on: str | None, require_quality: str | None, *, written: bool) -> Exit:
    """The first that holds: our bug, an unusable input or output, a poor capture, the gate."""
    if any(not failure.where.startswith("input") for failure in diagnosis.failures):
        return Exit.INTERNAL
    if diagnosis.failures or not written:
        return Exit.UNUSABLE
    poor = [] if require_quality is None else [q.grade for q in diagnosis.tables.quality if q.grade > require_quality]
    if poor:
        say(f"quality {max(poor)} is below the required {require_quality}")
        return Exit.POOR
    hit = 0 if fail_on is None else sum(f.severity >= SEVERITIES.index(fail_on) for f in diagnosis.findings)
    if hit:
        say(f"{hit} finding{'s' * (hit > 1)} of severity {fail_on} or more")
        return Exit.GATE
    return Exit.OK
