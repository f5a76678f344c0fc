"""Bad input, bad outputs and bad moments, as a shell sees them: one clear line, the right exit code, never a traceback."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from pcapdiag.cli.exits import Exit
from tests.wire import Wire

PROGRAM: Final = [sys.executable, "-m", "pcapdiag", "analyze"]
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "100"}
PATIENCE_S: Final = 30
HEADER: Final = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
SECTION: Final = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)


@cache
def good() -> bytes:
    return Wire().handshake().http_get(body=20_000).wait(ms=400).http_get(think_ms=300).close().pcap()


def run(*arguments: str | Path, stdin: bytes = b"", folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, timeout=PATIENCE_S, check=False, env=ENVIRONMENT, cwd=folder
    )
    assert b"Traceback" not in done.stderr
    return done


def record(length: int, original_len: int, data: bytes = b"", *, seconds: int = 1) -> bytes:
    return struct.pack("<IIII", seconds, 0, length, original_len) + data


DAMAGED: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "cut in the header of a record": (lambda: good()[: 24 + 16 + 74 + 5], "the file ends inside a record header (5 of 16 bytes)"),
    "cut in a packet": (lambda: good()[:-1], "the file ends inside a packet"),
    "garbage behind": (lambda: good() + b"\xee" * 90, "more than the 262,144"),
    "4 GiB": (lambda: HEADER + record(2**32 - 1, 2**32 - 1, b"x" * 900), "claims 4,294,967,295 captured bytes"),
    "gzip cut": (lambda: gzip.compress(good())[:-90], "the gzip stream ends inside a member"),
    "gzip corrupt": (lambda: gzip.compress(good())[:-6] + b"abcdef", "the gzip stream is corrupt"),
    "block of no length": (lambda: SECTION + struct.pack("<II", 1, 0) + b"x" * 99, "claims a length of 0 bytes"),
    "block of 4 GiB": (lambda: SECTION + struct.pack("<II", 6, 2**32 - 16) + b"x" * 99, "claims a length of 4,294,967,280 bytes"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_capture_is_analysed_as_far_as_it_goes(case: str, tmp_path: Path) -> None:
    make, said = DAMAGED[case]
    (tmp_path / "a.pcap").write_bytes(make())
    done = run("a.pcap", folder=tmp_path)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("pcapdiag: warning: a.pcap: cut at byte ")
    assert said in line
    assert done.returncode == Exit.OK
    assert done.stdout


ODD: Final[dict[str, Callable[[], bytes]]] = {
    "zero packets": lambda: HEADER,
    "no interface": lambda: SECTION,
    "unknown link type": lambda: HEADER[:20] + struct.pack("<I", 0xDEAD) + record(60, 60, bytes(60)) * 9,
    "nothing captured of 4 GiB": lambda: HEADER + record(0, 2**32 - 1) * 9,
    "time runs backwards": lambda: HEADER + b"".join(record(60, 60, bytes(60), seconds=2**32 - 1 - second) for second in range(9)),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_capture_is_no_error(case: str) -> None:
    done = run("-", "-f", "json", stdin=ODD[case]())
    assert (done.returncode, done.stderr) == (Exit.OK, b"")
    capture = json.loads(done.stdout)["captures"][0]
    assert capture["frames"] == sum(capture["not_decoded"].values()) == (0 if case in {"zero packets", "no interface"} else 9)


NO_CAPTURE: Final = {
    "text": (b"hello, world\n" * 9, "not a pcap or pcapng file (at offset 0: 68 65 6c 6c 6f 2c 20 77)"),
    "empty": (b"", "the file is empty (at offset 0)"),
    "half a header": (HEADER[:10], "ends inside the pcap file header (10 of 24 bytes)"),
    "gzip of text": (gzip.compress(b"hello" * 99), "not a pcap or pcapng file inside gzip (at offset 0: 68 65 6c 6c 6f 68 65 6c)"),
}


def test_what_is_no_capture_is_named_and_the_others_are_reported(tmp_path: Path) -> None:
    (tmp_path / "good.pcap").write_bytes(good())
    (tmp_path / "folder").mkdir()
    for name, (content, _) in NO_CAPTURE.items():
        (tmp_path / name).write_bytes(content)
    expected = [f"pcapdiag: {name}: {said}" for name, (_, said) in NO_CAPTURE.items()]
    expected += ["pcapdiag: folder: no capture is in it (0 other files)", "pcapdiag: missing: No such file or directory"]
    done = run(*NO_CAPTURE, "good.pcap", "folder", "missing", "-f", "json", folder=tmp_path)
    assert done.stderr.decode().splitlines() == expected
    report = json.loads(done.stdout)
    assert [capture["name"] for capture in report["captures"]] == ["good.pcap"]
    assert len(report["errors"]) == len(expected)
    assert done.returncode == Exit.UNUSABLE


def test_of_nothing_but_bad_inputs_all_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"hello, world")
    done = run("text", "missing", folder=tmp_path)
    assert (done.returncode, done.stdout) == (Exit.UNUSABLE, b"")
    assert done.stderr == (
        b"pcapdiag: text: not a pcap or pcapng file (at offset 0: 68 65 6c 6c 6f 2c 20 77); missing: No such file or directory\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_capture_nobody_may_read(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(good())
    (tmp_path / "a.pcap").chmod(0)
    done = run("a.pcap", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.UNUSABLE, b"", b"pcapdiag: a.pcap: Permission denied\n")


def test_a_file_name_does_not_command_the_terminal(tmp_path: Path) -> None:
    name = "\x1b[2Jno\nname\u202e.pcap"
    (tmp_path / name).write_bytes(b"hello")
    done = run(name, folder=tmp_path)
    assert done.stderr.startswith(b"pcapdiag: \\x1b[2Jno\\nname\\u202e.pcap: not a pcap")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("redirection", "code"), [("| head -c 1", 0), ("| true", 0), (">&-", 2), ("> /dev/full", 2), ("-o /dev/full", 2)])
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_report_nobody_can_take(redirection: str, code: int, form: str, tmp_path: Path) -> None:
    """A reader who left early has enough; no place for the report is an error."""
    (tmp_path / "a.pcap").write_bytes(good())
    nobody_takes(f"analyze a.pcap -f {form} {redirection}", code, tmp_path)


@pytest.mark.parametrize("arguments", ["--help", "analyze --help", "--version", "detectors"])
def test_a_page_nobody_can_take(arguments: str, tmp_path: Path) -> None:
    nobody_takes(f"{arguments} | true", 0, tmp_path)
    nobody_takes(f"{arguments} > /dev/full", 2, tmp_path)


def nobody_takes(arguments: str, code: int, folder: Path) -> None:
    """Runs it with a stdout that is buffered, as it is for most."""
    if "/dev/full" in arguments and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    buffered = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    command = f"set -o pipefail; '{sys.executable}' -m pcapdiag {arguments}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=PATIENCE_S, check=False, env=buffered, cwd=folder)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (0 if code == 0 else 1)
    assert b"internal" not in done.stderr


def test_ctrl_c_while_waiting_for_a_pipe() -> None:
    with subprocess.Popen(
        [*PROGRAM, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        process.stdin.write(good())
        process.stdin.flush()
        time.sleep(1.5)  # imports are over; the program waits for more
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == Exit.INTERRUPTED
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("header", [b"", HEADER], ids=["no capture", "empty records"])
def test_zeros_without_end_cost_little(header: bytes, tmp_path: Path) -> None:
    """20 MB of nothing: at most three times that and 150 MB more."""
    size = 20_000_000
    (tmp_path / "zeros").write_bytes(header + bytes(size))
    begun = time.monotonic()
    code = "import sys; from pcapdiag.__main__ import main; code = main(['analyze', 'zeros', '-f', 'json', '-o', 'out']);"
    # VmHWM begins anew with the program; ru_maxrss would carry the peak of the process that started it.
    code += "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE_S, check=False, env=ENVIRONMENT, cwd=tmp_path)
    assert done.returncode == (Exit.OK if header else Exit.UNUSABLE)
    assert int(done.stdout) * 1024 < 3 * size + 150_000_000
    assert time.monotonic() - begun < 10
