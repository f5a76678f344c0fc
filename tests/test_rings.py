"""A capture split into many files is diagnosed as if it were whole, and every frame is cited in the file that holds it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose_files, load, scan
from pcapdiag.reporters import REPORTERS
from tests.ring_files import pcap_records, split_capture, unpack
from tests.wire import Wire, merge
from tests.wire_bytes import pcap

SAMPLES = Path(__file__).parent.parent / "samples"
COUNT = 20
SCHEMA = json.loads(resources.files("pcapdiag.reporters").joinpath("schema.json").read_text("utf-8"))


def report(*paths: Path) -> Any:
    return json.loads(REPORTERS["json"](diagnose_files([str(path) for path in paths]), width=100))


def without_places(value: Any) -> Any:
    """A report without what names files and frames."""
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in value.items() if key not in {"captures", "frames", "frame", "capture"}}
    if isinstance(value, str):
        return re.sub(r"\S+\.(pcap|txt)( and \d+ more)?", "FILE", value)
    return [without_places(one) for one in value] if isinstance(value, list) else value


def places(value: Any) -> list[tuple[int, int]]:
    """(file, frame) wherever a report cites one, in its order."""
    if isinstance(value, list):
        return [place for one in value for place in places(one)]
    if not isinstance(value, dict):
        return []
    found = [(value["capture"], value["frame"])] if "frame" in value else []
    for key, one in value.items():
        found += [(file, frame) for file, frame in one] if key == "frames" and isinstance(one, list) else places(one)
    return found


def generated() -> bytes:
    """Many connections, some slow, some that lose packets, one that began before the capture and one that goes on behind it."""
    wires = [
        Wire(cport=50_000 + n, client_isn=n << 20, start_ms=80 * n).handshake().http_get(body=9_000, think_ms=30 * n).close()
        for n in range(12)
    ]
    wires += [
        Wire(cport=51_000, start_ms=50).send(b"GET /before HTTP/1.1\r\nHost: x\r\n\r\n").wait(ms=900).reply(4_000),
        Wire(cport=51_001, start_ms=300).handshake().send(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n"),
        Wire(cport=51_002, start_ms=350).handshake().send(b"GET /lost HTTP/1.1\r\nHost: x\r\n\r\n").wait(ms=40).reply(3_000, lose="after")
        .wait(ms=400).resend(),
    ]  # fmt: skip
    return pcap(merge(*wires).frames())


def captures() -> list[Any]:
    sampled = [pytest.param(path.read_bytes(), id=f"{path.parent.name}-{path.stem}") for path in sorted(SAMPLES.glob("*/client.pcap"))]
    at_server = SAMPLES / "pmtu-black-hole" / "server.pcap"
    return [*sampled, pytest.param(at_server.read_bytes(), id="pmtu-black-hole-server"), pytest.param(generated(), id="generated")]


@pytest.mark.parametrize("whole", captures())
def test_a_split_capture_is_the_whole_one(tmp_path: Path, whole: bytes) -> None:
    path, ring = tmp_path / "whole.pcap", tmp_path / "ring"
    path.write_bytes(whole)
    parts = split_capture(whole, ring, COUNT)
    (ring / "notes.md").write_text("no capture", encoding="utf-8")
    expected, found = report(path), report(ring)
    jsonschema.validate(found, SCHEMA)
    assert without_places(found) == without_places(expected)
    assert expected["findings"] or "healthy" in expected["summary"]["verdict"]
    assert [file["name"] for file in found["captures"]] == [part.relative_to(ring).as_posix() for part in parts]
    assert {file["ring"] for file in found["captures"]} == {0}
    (one,) = expected["captures"]
    for file in found["captures"]:
        assert (file["vantage"], file["quality"]) == (one["vantage"], one["quality"])
        assert file["frames"] == file["decoded"] + sum(file["not_decoded"].values())
    for key in ("frames", "decoded"):
        assert sum(file[key] for file in found["captures"]) == one[key]
    cited, records = places(expected), pcap_records(whole)
    held = [pcap_records(unpack(part)) for part in parts]
    assert [held[file][frame - 1] for file, frame in places(found)] == [records[frame - 1] for _, frame in cited]
    assert len({file for file, _ in places(found)}) > 1 or len(set(cited)) < 3


def test_the_tables_are_those_of_the_whole(tmp_path: Path) -> None:
    whole = generated()
    path = tmp_path / "whole.pcap"
    path.write_bytes(whole)
    split_capture(whole, tmp_path / "ring", COUNT)
    one, many = load(str(path)), load(str(tmp_path / "ring"))
    for name in ("flows", "segments", "packets"):
        before, after = getattr(one, name), getattr(many, name)
        for column in before.columns():
            if column != "payload_at":  # where in memory the bytes lie
                assert getattr(before, column).tolist() == getattr(after, column).tolist(), (name, column)
    assert one.quality == many.quality
    assert [many.place(0, number) for number in (1, 2)] == [(0, 1), (0, 2)]


@pytest.mark.parametrize("how", ["pattern", "files", "tar", "tar.gz"])
def test_a_set_is_one_however_it_is_named(tmp_path: Path, how: str) -> None:
    whole = generated()
    parts = split_capture(whole, tmp_path / "ring", 7)
    expected = report(tmp_path / "ring")
    named = [tmp_path / "ring" / "**" / "*.txt"] if how == "pattern" else sorted(parts)
    if how.startswith("tar"):
        named = [tmp_path / "evidence"]
        with tarfile.open(named[0], "w:gz" if how == "tar.gz" else "w") as archive:
            for part in sorted(parts):
                archive.add(part, f"host/{part.name}")
    found = report(*named)
    assert without_places(found) == without_places(expected)
    assert places(found) == places(expected)
    assert [file["sha256"] for file in found["captures"]] == [file["sha256"] for file in expected["captures"]]


def test_two_rings_side_by_side_are_two_captures(tmp_path: Path) -> None:
    for name, start_ms in (("near", 0.0), ("far", 40.0)):
        told = [
            Wire(client=f"10.0.{start_ms:.0f}.{n}", start_ms=start_ms + 300 * n).handshake().http_get(body=9_000).close()
            for n in range(1, 7)
        ]
        split_capture(pcap(merge(*told).frames()), tmp_path / name, 6, seed=len(name))
    trace, failures = scan([str(tmp_path / "near"), str(tmp_path / "far")], Options())
    assert failures == ()
    assert [len(capture.files) for capture in trace.captures] == [6, 6]
    assert [
        capture.files[0].name in {p.name for p in (tmp_path / n).rglob("*")}
        for capture, n in zip(trace.captures, ("near", "far"), strict=True)
    ]


def test_people_read_which_file_a_frame_lies_in(tmp_path: Path) -> None:
    whole = (SAMPLES / "pmtu-black-hole" / "client.pcap").read_bytes()
    split_capture(whole, tmp_path / "ring", 5)
    diagnosis = diagnose_files([str(tmp_path / "ring")])
    cited = places(report(tmp_path / "ring")["findings"])
    for form in ("text", "markdown"):
        text = REPORTERS[form](diagnosis, width=100)
        file, frame = cited[0]
        name = diagnosis.tables.files[file][1].name
        assert name.replace("-", "\\-") in text or name in text
        assert (f"[{file}] {frame}" if form == "text" else f"| {file} | {frame} |") in text
        assert "and 4 more" in text


def test_a_file_that_breaks_off_is_named_and_the_next_one_goes_on(tmp_path: Path) -> None:
    parts = split_capture(generated(), tmp_path / "ring", 4)
    parts[0].write_bytes(parts[0].read_bytes()[:-5])
    found = report(tmp_path / "ring")
    assert [file["cut_at"] is None for file in found["captures"]] == [False, True, True, True]
    assert {file["ring"] for file in found["captures"]} == {0}
    assert not any("ends inside a record" in finding["summary"] for finding in found["findings"]), "the capture went on"


def test_standard_input_can_be_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    split_capture(generated(), tmp_path / "ring", 3)
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tmp_path / "ring", "ring")
    read_end = tmp_path / "pipe"
    read_end.write_bytes(packed.getvalue())
    with read_end.open("rb") as file, io.TextIOWrapper(file) as text:
        monkeypatch.setattr("sys.stdin", text)
        assert [capture.frame_count for capture in load("-").captures] == [len(pcap_records(generated()))]
