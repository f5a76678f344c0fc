"""The README shows what the program does today: its output, its help and its lists are written by it (`make golden`), its examples run."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner

from pcapdiag.__main__ import main
from pcapdiag.cli import cli
from pcapdiag.cli.exits import Exit
from pcapdiag.detectors import DETECTORS
from pcapdiag.pipeline import diagnose_files
from pcapdiag.reporters import REPORTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
SAMPLE: Final = "samples/pmtu-black-hole/client.pcap"


def sample_output() -> str:
    """The first diagnosis and where the time went; what is left out is marked."""
    text = REPORTERS["text"](diagnose_files([str(ROOT / SAMPLE)]), width=80)
    blocks = text.strip("\n").split("\n\n")
    first = next(index for index, block in enumerate(blocks) if block.startswith("1. "))
    time = next(index for index, block in enumerate(blocks) if block.startswith("WHERE THE TIME WENT"))
    shown = blocks[: first + 1]
    shown += ["…"] * (time > first + 1) + [blocks[time]] + ["…"] * (time + 1 < len(blocks))
    return f"```console\n$ pcapdiag analyze {SAMPLE}\n" + "\n\n".join(shown) + "\n```"


def help_text() -> str:
    done = CliRunner().invoke(cli, ["analyze", "--help"], prog_name="pcapdiag", terminal_width=78)
    return f"```console\n$ pcapdiag analyze --help\n{done.output}```"


def codes() -> str:
    rows = [(f"`{d.code}`", d.title, d.domain.value) for d in sorted(DETECTORS, key=lambda d: (d.domain.value == "capture", d.code))]
    return _grid(("code", "what it says", "who can mend it"), rows)


def samples() -> str:
    told = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "samples").glob("*/truth.json"))}
    return _grid(("capture", "what happened"), [(f"[{name}](samples/{name}/)", truth["description"]) for name, truth in told.items()])


def _grid(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "sample output": sample_output,
    "help": help_text,
    "codes": codes,
    "samples": samples,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_what_the_program_writes_is_current(name: str, golden: bool) -> None:
    block = re.compile(rf"(<!-- {name}(?:: [a-z-]+)? -->\n)(.*?)(<!-- end of {name} -->\n)", re.DOTALL)
    page = README.read_text("utf-8")
    made = BLOCKS[name]() + "\n"
    if golden:
        page = block.sub(lambda match: f"{match[1]}{made}{match[3]}", page)
        README.write_text(page, encoding="utf-8")
    found = block.search(page)
    assert found is not None
    assert found[2] == made, "run `make golden`"


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


COMMANDS: Final = [
    match[0].strip() for block in fenced("sh") for line in block.splitlines() if (match := re.search(r"pcapdiag [^#|]*", line)) is not None
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / SAMPLE, "trace.pcapng")
    for name in ("a.pcap.gz", "b.pcap.gz"):
        Path(name).write_bytes(gzip.compress((ROOT / SAMPLE).read_bytes()))
    for side in ("client", "server"):
        shutil.copy((ROOT / SAMPLE).with_name(f"{side}.pcap"), f"{side}.pcap")
    Path("captures").mkdir()
    shutil.copy(ROOT / SAMPLE, Path("captures") / "0.pcap")
    _, *arguments = shlex.split(command)
    if "-" in arguments:
        arguments[arguments.index("-")] = "trace.pcapng"
    assert main(arguments) == (Exit.GATE if "--fail-on" in arguments else Exit.OK)
    assert capsys.readouterr().out
    assert Path("t.md").exists() == ("markdown=t.md" in arguments)


def test_there_are_examples_of_every_command_but_the_schema() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"analyze", "explain", "detectors"}


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT / "samples" / "pmtu-black-hole")
    (example,) = fenced("python")
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 pmtu-black-hole ")


def test_every_exit_code_is_explained() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", README.read_text("utf-8"), re.MULTILINE))
    assert set(rows) == {str(int(code)) for code in Exit}
