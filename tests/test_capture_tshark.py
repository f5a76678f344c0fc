"""Dissections: what they show, what they never show, and that no tshark, however odd, can do more than give none."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from pcapdiag.capture import tshark
from tests import wire_h2
from tests.wire import Wire

SECRET: Final = "s3cr3t"
ROADS: Final = ("pyshark", "pdml")

PDML: Final = """<?xml version="1.0" encoding="utf-8"?>
<pdml version="0">
<packet>
  <proto name="geninfo"><field name="num" show="7" showname="Number"/><field name="len" show="66"/>
    <field name="caplen" show="66"/><field name="timestamp" show="0" value="0"/></proto>
  <proto name="frame" showname="Frame 7"><field name="frame.len" showname="Frame Length: 66 bytes" show="66"/></proto>
  {layers}
</packet>
</pdml>
"""


def give(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    """A tshark that does what `script` says, alone on the PATH, and a capture for it."""
    program = folder / "bin" / "tshark"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\nif '-v' in sys.argv: print('TShark (Wireshark) 4.0.17.'); sys.exit()\n{script}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    capture = folder / "any.pcap"
    capture.write_bytes(b"")
    return capture


def ask(road: str, path: Path, frames: list[int], **options: float) -> dict[int, str]:
    """Inside an event loop pyshark cannot run."""

    async def inside() -> dict[int, str]:
        return tshark.dissect(str(path), frames, **options)  # type: ignore[arg-type]  # only ever the timeout

    return tshark.dissect(str(path), frames, **options) if road == "pyshark" else asyncio.run(inside())  # type: ignore[arg-type]  # as above


def layer(name: str, **fields: str) -> str:
    inner = "".join(f'<field name="{key.replace("__", ".")}" showname="{value}" show=""/>' for key, value in fields.items())
    return f'<proto name="{name}" showname="">{inner}</proto>'


@pytest.mark.tshark
def test_what_is_shown_of_a_lost_and_resent_segment(tmp_path: Path) -> None:
    wire = Wire(rtt_ms=40).handshake().send(1000).send(1000, lose="before").send(1000).wait(ms=300).resend(1000, 2000)
    texts = tshark.dissect(str(wire.write(tmp_path)), range(1, len(wire.frames()) + 1))
    (resent,) = [text for text in texts.values() if "retransmission" in text or "Out-Of-Order" in text]
    assert resent.startswith("frame: 1066 bytes")
    assert "\ntcp: 50000 > 80 " in resent
    assert " seq=1001 " in resent
    assert " len=1000 " in resent


@pytest.mark.tshark
def test_both_roads_lead_to_the_same_text(tmp_path: Path) -> None:
    wire = Wire().handshake().http_get("/", body=20_000)
    path, every = wire.write(tmp_path), list(range(1, len(wire.frames()) + 1))
    first, second = (ask(road, path, every) for road in ROADS)
    assert first == second
    assert sorted(first) == every


@pytest.mark.tshark
@pytest.mark.parametrize("road", ROADS)
def test_nothing_that_was_said_is_shown(road: str, tmp_path: Path) -> None:
    head = f"POST /{SECRET}?key={SECRET} HTTP/1.1\r\nHost: {SECRET}.test\r\nAuthorization: Bearer {SECRET}\r\nCookie: a={SECRET}\r\n"
    bodies = [
        ("application/x-www-form-urlencoded", f"password={SECRET}"),
        ("application/json", f'{{"token": "{SECRET}"}}'),
        ("text/plain", SECRET),
        ("multipart/form-data; boundary=x", f"--x\r\n\r\n{SECRET}\r\n--x--\r\n"),
    ]
    wire = Wire(sport=80).handshake()
    for kind, body in bodies:
        wire.send(f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        wire.reply(f"HTTP/1.1 200 {SECRET}\r\nSet-Cookie: {SECRET}\r\nContent-Length: 6\r\n\r\n{SECRET}".encode())
    texts = ask(road, wire.write(tmp_path), list(range(1, len(wire.frames()) + 1)))
    assert len(texts) == len(wire.frames())
    assert SECRET not in "".join(texts.values())
    assert any("http" in text for text in texts.values()), "tshark read it as HTTP"


@pytest.mark.tshark
def test_http2_frames_are_named_by_type_where_the_port_does_not_say_what_it_is(tmp_path: Path) -> None:
    encoder = wire_h2.Blocks()
    request = encoder.headers(1, [(":method", "GET"), (":path", f"/{SECRET}"), ("authorization", SECRET)])
    wire = (
        Wire(sport=50051)
        .handshake()
        .send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + wire_h2.settings())
        .send(request + wire_h2.goaway(0, 2, SECRET.encode()))
    )
    text = "".join(tshark.dissect(str(wire.write(tmp_path)), range(1, 30), decode_as={"tcp.port==50051": "http2"}).values())
    assert "http2: HEADERS (1) stream=1" in text
    assert "GOAWAY (7)" in text
    assert "error=INTERNAL_ERROR" in text
    assert SECRET not in text


@pytest.mark.tshark
def test_a_file_cut_in_a_record_gives_what_lies_before_the_cut(tmp_path: Path) -> None:
    path = Wire().handshake().http_get("/").write(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    assert sorted(tshark.dissect(str(path), [1, 2])) == [1, 2]


def test_without_tshark_the_caller_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tshark.NoTsharkError, match="tshark is not installed"):
        tshark.dissect("any.pcap", [1])


def test_no_frames_no_tshark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = give(monkeypatch, tmp_path, "open(sys.argv[0] + '.ran', 'w')")
    assert tshark.dissect(str(path), []) == {}
    assert not (tmp_path / "bin" / "tshark.ran").exists()


@pytest.mark.parametrize("road", ROADS)
def test_only_listed_fields_of_listed_layers_pass(road: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers = (
        layer("tcp", tcp__len="TCP Segment Len: 5", tcp__payload=SECRET)
        + layer("json", json__key=SECRET)
        + layer("http", http__cookie=SECRET)
    )
    path = give(monkeypatch, tmp_path, f"print({PDML.format(layers=layers)!r})")
    assert ask(road, path, [7]) == {7: "frame: 66 bytes\ntcp: len=5"}


@pytest.mark.parametrize("road", ROADS)
def test_a_dissection_is_short(road: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experts = 500 * f'<field name="_ws.expert" showname="Expert Info (Note/Sequence): {1000 * "x"}"/>'
    document = PDML.format(layers=f'<proto name="tcp" showname="">{experts}</proto>')
    path = give(monkeypatch, tmp_path, f"print({document!r})")
    lines = ask(road, path, [7])[7].splitlines()
    assert len(lines) == tshark.MAX_LINES
    assert max(map(len, lines)) == tshark.MAX_LINE_LEN


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    "script",
    [
        "sys.exit(0)",
        "sys.stderr.write('no\\n'); sys.exit(2)",
        "print('not xml at all <<< & \\x00')",
        "print('<pdml><packet></packet></pdml>')",
        f"print({PDML[:300]!r}); sys.exit(3)",
        f"print({PDML.format(layers='<proto/>')!r}); sys.exit(1)",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_a_tshark_that_fails_gives_nothing_else(road: str, script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = give(monkeypatch, tmp_path, script)
    assert set(ask(road, path, [7])) <= {7}


@pytest.mark.parametrize("road", ROADS)
def test_a_tshark_that_hangs_is_ended(road: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = give(monkeypatch, tmp_path, "time.sleep(60)")
    begin = time.monotonic()
    assert ask(road, path, [7], timeout_s=0.3) == {}
    assert time.monotonic() - begin < 20


def test_a_config_ini_of_the_working_directory_chooses_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = give(monkeypatch, tmp_path, f"print({PDML.format(layers='')!r})")
    other = tmp_path / "other"
    other.write_text(f"#!{sys.executable}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    other.chmod(0o755)
    (tmp_path / "config.ini").write_text(f"[tshark]\ntshark_path = {other}\n")
    monkeypatch.chdir(tmp_path)
    assert tshark.dissect(str(path), [7]) == {7: "frame: 66 bytes"}
    (tmp_path / "config.ini").write_text("no section\n")
    assert tshark.dissect(str(path), [7]) == {7: "frame: 66 bytes"}
    assert not (tmp_path / "ran").exists()
