"""pcapdiag analyze with directories and archives: what it says about them, and what it will not overwrite."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from pcapdiag.__main__ import main
from tests.test_capture_host import ADDR, SS
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of one capture and one other file."""
    place = tmp_path / "captures"
    place.mkdir()
    Wire(client="10.128.0.5").handshake().http_get(body=2_000).close().write(place, "a.pcap")
    (place / "notes.txt").write_text("words", encoding="utf-8")
    return place


def test_what_was_passed_over_is_one_line_and_no_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(folder)]) == 0
    assert capsys.readouterr().err == f"pcapdiag: warning: {folder}: skipped 1 file that is no capture (notes.txt)\n"


def test_a_directory_without_captures_is_an_unusable_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.pcap").unlink()
    assert main(["analyze", str(folder)]) == 2
    assert capsys.readouterr().err == f"pcapdiag: {folder}: no capture is in it (1 other file)\n"


def test_a_report_never_overwrites_a_capture_but_may_lie_beside_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "a.pcap").read_bytes()
    for inputs in (folder, folder / "*.pcap"):
        assert main(["analyze", str(inputs), "-o", str(folder / "a.pcap")]) == 2
        assert "the report would overwrite the capture" in capsys.readouterr().err
    (folder / "hard").hardlink_to(folder / "a.pcap")
    (folder / "soft").symlink_to("hard")
    for other in ("hard", "soft"):
        assert main(["analyze", str(folder / "a.pcap"), "-o", str(folder / other)]) == 2
        assert "the report would overwrite the capture" in capsys.readouterr().err
    with (folder / "a.pcap").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["analyze", "-", "-o", str(folder / "a.pcap")]) == 2
    assert "the report would overwrite the capture" in capsys.readouterr().err
    assert (folder / "a.pcap").read_bytes() == before
    for _ in range(2):
        assert main(["analyze", str(folder), "-f", "json", "-o", str(folder / "report.json")]) == 0
    assert json.loads((folder / "report.json").read_text("utf-8"))["captures"][0]["name"] == "a.pcap"


def test_the_mtus_of_the_host_are_in_the_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sosreport.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / "a.pcap", "host/a.pcap")
        for name, text in (("ip_addr", ADDR), ("ss", SS)):
            about = tarfile.TarInfo(f"host/{name}\x1b[31m")
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text))
    assert main(["analyze", "-f", "json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    capture: Any = json.loads(shown)["captures"][0]
    assert capture["name"] == "sosreport.tar.gz:host/a.pcap"
    assert "ring" not in capture
    links = {link["name"]: link for link in capture["host"]["links"]}
    assert (links["eth0"]["mtu"], links["eth0"]["addresses"][0]) == (1_450, "10.128.0.5")
    assert capture["host"]["sockets"][0] == {"local": "10.128.0.5:50051", "remote": "192.0.2.10:41234", "mss": 1_398, "pmtu": 1_450}
