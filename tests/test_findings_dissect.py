"""`analyze --dissect`: the frames that findings cite, and never a failure."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pcapdiag.__main__ import main
from pcapdiag.capture import tshark
from pcapdiag.findings import dissect_cited
from pcapdiag.findings.dissect import MOST_FRAMES
from pcapdiag.stalls.sign import Frame
from tests.diagnoses import rich

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.findings import Diagnosis

SAMPLE: Final = Path(__file__).parent.parent / "samples" / "h2-head-of-line" / "client.pcap"


class Asked:
    """A dissector that knows every frame, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[str, list[int]] = {}
        monkeypatch.setattr(tshark, "dissect", self)

    def __call__(self, path: str, frames: Iterable[int], **_options: object) -> dict[int, str]:
        self.of[path] = list(frames)
        return {number: f"frame {number}" for number in self.of[path]}


def citing(*numbers: int, path: str | None = str(SAMPLE), files: int = 0) -> Diagnosis:
    """One finding whose evidence these frames are, in a capture of one file or of several with ten frames each."""
    one = rich()
    first = replace(one.tables.captures[0], path=path, name="client.pcap", last_number=10)
    first = replace(first, files=tuple(replace(first, path=f"{n}.pcap") for n in range(files)), numbered_before=(0, 10, 20))
    one = replace(one, tables=replace(one.tables, captures=(first, *one.tables.captures[1:])))
    finding = one.findings[0]
    frames = tuple(Frame(0, number, number, "") for number in numbers)
    return replace(one, failures=(), dissections={}, findings=(replace(finding, conclusion=replace(finding.conclusion, frames=frames)),))


@pytest.mark.tshark
def test_cited_frames_are_dissected_in_every_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(SAMPLE), "--dissect", "-f", "json"]) == 0
    shown, said = capsys.readouterr()
    assert said == ""
    cited = [frame for finding in json.loads(shown)["findings"] for frame in finding["evidence"]]
    assert cited
    assert all(frame["dissection"].startswith("frame: ") for frame in cited)
    main(["analyze", str(SAMPLE), "--dissect"])
    assert "tcp: 50051 > " in capsys.readouterr().out


def test_without_tshark_the_report_is_the_same_and_one_line_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main(["analyze", str(SAMPLE)])
    plain = capsys.readouterr().out
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["analyze", str(SAMPLE), "--dissect"]) == 0
    shown, said = capsys.readouterr()
    assert shown == plain
    assert said == "pcapdiag: warning: --dissect: tshark is not installed; the diagnosis does not need it\n"


def test_what_was_piped_cannot_be_read_twice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SAMPLE.read_bytes())))
    assert main(["analyze", "-", "--dissect"]) == 0
    assert capsys.readouterr().err == "pcapdiag: warning: --dissect: -: tshark needs a file that can be read a second time\n"


def test_tshark_is_not_started_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    assert main(["analyze", str(SAMPLE)]) == 0
    assert asked.of == {}


def test_frames_are_counted_once_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    done = dissect_cited(citing(*range(1, 1000), 1, 2, 3))
    assert asked.of[str(SAMPLE)] == list(range(1, MOST_FRAMES + 1))
    assert len(done.dissections) == MOST_FRAMES
    assert done.notes == ()


def test_frames_of_a_ring_are_looked_up_in_the_files_that_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for n in range(3):
        Path(f"{n}.pcap").touch()
    asked = Asked(monkeypatch)
    assert dissect_cited(citing(5, 12, 29, files=3)).dissections == {(0, 5): "frame 5", (0, 12): "frame 2", (0, 29): "frame 9"}
    assert asked.of == {"0.pcap": [5], "1.pcap": [2], "2.pcap": [9]}


def test_frames_that_tshark_did_not_give_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tshark, "dissect", lambda *_arguments, **_options: {5: "frame 5"})
    done = dissect_cited(citing(5, 6, 7))
    assert done.dissections == {(0, 5): "frame 5"}
    assert done.notes == ("--dissect: client.pcap: tshark gave nothing for 2 of 3 cited frames",)


@pytest.mark.skipif(shutil.which("mkfifo") is None, reason="no FIFOs here")
def test_a_fifo_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "a second time" in dissect_cited(citing(5, path=str(fifo))).notes[0]
    assert "a second time" in dissect_cited(citing(5, path=None)).notes[0]
    assert asked.of == {}
