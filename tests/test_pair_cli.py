"""`analyze --pair`: two captures or a clear refusal; the report says what both saw, and keeps to its schema."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from pcapdiag.__main__ import main
from tests.test_pair import lossy_reply, talk
from tests.two_taps import Taps


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = main(["analyze", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_pair_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = Taps.of(lossy_reply).clocked(lambda ns: ns + 2_000_000_000).write(tmp_path)
    code, out, err = run(capsys, "--pair", *paths)
    assert (code, err) == (0, "")
    assert "BETWEEN THE TWO CAPTURES" in out
    assert "the clock of server.pcap is 2,000.000 ms ahead" in out
    assert "server to client: 1 lost between the captures" in out


def test_the_json_keeps_to_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = Taps.of(lossy_reply, talk).without(client=[11]).clocked(lambda ns: ns + 40_000_000)
    code, out, _ = run(capsys, "-f", "json", "--pair", *paths.write(tmp_path))
    told = json.loads(out)
    jsonschema.Draft202012Validator(json.loads((files("pcapdiag.reporters") / "schema.json").read_text("utf-8"))).validate(told)
    assert code == 0
    assert told["pair"]["flows"]["matched"] == 2
    assert told["pair"]["directions"][1]["places"]["between"] == 1


def test_without_pair_there_is_no_such_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "-f", "json", Taps.of(talk).write(tmp_path)[0])
    assert "pair" not in json.loads(out)


def test_swapped_captures_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, server = Taps.of(talk).write(tmp_path)
    code, out, _ = run(capsys, "--pair", server, client)
    assert code == 0
    assert "they were given the other way round" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pair", "client.pcap", "client.pcap"), "the same capture twice"),
        (("--pair", "client.pcap", "other.pcap"), "no connection in common"),
        (("--pair", "client.pcap", "gone.pcap"), "gone.pcap"),
        (("client.pcap", "--pair", "client.pcap", "server.pcap"), "--pair takes the place of FILE"),
        ((), "Missing argument 'FILE...'"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    Taps.of(talk).write(tmp_path)
    other = Taps.of(talk, client="192.0.2.1", server="192.0.2.2", client_isn=77, server_isn=99).write(tmp_path / ".")[0]
    (tmp_path / "other.pcap").write_bytes(Path(other).read_bytes())
    Taps.of(talk).write(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
