"""Directories, patterns, pipes and archives: what is a capture is found by content; what is none is counted in one line."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from typing import TYPE_CHECKING

import lz4.frame
import pytest

from pcapdiag.capture import archive, gather_inputs
from pcapdiag.capture.archive import Spool
from pcapdiag.capture.inputs import may_hold_capture
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Losses
from tests.capture_files import pcap_header, pcap_record
from tests.test_capture_host import ADDR, LINK, SS

if TYPE_CHECKING:
    from pathlib import Path


def capture(sec: int = 1, *, count: int = 1, size: int = 80) -> bytes:
    return pcap_header() + b"".join(pcap_record(bytes([sec % 256, n % 256]) * (size // 2), sec=sec + n) for n in range(count))


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]  # the mode is a test's parameter
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            out.addfile(about, io.BytesIO(content))
    return path


def found(*arguments: object) -> tuple[list[str], list[str], list[str]]:
    """Names of the captures, with their first seconds; failures; notes."""
    with gather_inputs([str(argument) for argument in arguments]) as inputs:
        for one in inputs.captures:  # it can be read as often as somebody asks
            if one.opened is None:
                reader, batches = one.read(Losses())
                assert sum(len(frames) for frames in batches) == reader.capture.frame_count
        captures = [one.named.name if one.first_ns is None else f"{one.named.name}@{one.first_ns // 10**9}" for one in inputs.captures]
        return captures, inputs.failures, inputs.notes


def test_a_directory_gives_its_captures_by_time(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "1.txt").write_bytes(capture(30))
    (tmp_path / "deep" / "2.pcap").write_bytes(gzip.compress(capture(10)))
    (tmp_path / "deep" / "er" / "3").write_bytes(lz4.frame.compress(capture(20)))
    (tmp_path / "4.pcap").write_bytes(pcap_header())
    (tmp_path / "fake.pcap").write_bytes(b"{}")
    (tmp_path / ".hidden").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.pcap")
    (tmp_path / "latest").symlink_to("1.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    captures, failures, notes = found(tmp_path)
    assert captures == ["deep/2.pcap@10", "deep/er/3@20", "1.txt@30", "4.pcap"]
    assert failures == []
    assert notes == [f"{tmp_path}: skipped 3 files that are no capture (.hidden, fake.pcap, pipe.pcap)"]


def test_a_pattern_is_expanded_here_too(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1", "[x]"):
        (tmp_path / name).write_bytes(capture(ord(name[-1])))
    assert found(tmp_path / "a?")[0] == ["a1@49", "a2@50"]
    assert found(tmp_path / "[x]")[0] == ["[x]@93"], "a file of that very name is meant"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a3").write_bytes(capture(7))
    assert found(tmp_path / "**" / "a*")[0] == ["a3@7", "a1@49", "a2@50"]
    assert found(tmp_path / "no*")[1] == [f"{tmp_path}/no*: no file matches this pattern"]


def test_what_was_named_and_is_no_capture_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("words", encoding="utf-8")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08")
    good = tmp_path / "good"
    good.write_bytes(capture())
    captures, failures, notes = found(tmp_path / "empty", tmp_path / "text", good, tmp_path / "gone", tmp_path / "broken.gz")
    assert captures == ["good@1"]
    assert [failure.removeprefix(f"{tmp_path}/") for failure in failures] == [
        "empty: no capture is in it (0 other files)",
        "text: not a pcap or pcapng file (at offset 0: 77 6f 72 64 73)",
        "gone: No such file or directory",
        "broken.gz: the gzip stream ends inside a member (at offset 0)",
    ]
    assert notes == []


def test_the_order_of_arguments_comes_before_that_of_time(tmp_path: Path) -> None:
    for name, sec in (("b", 5), ("a", 9)):
        (tmp_path / name).write_bytes(capture(sec))
    assert found(tmp_path / "a", tmp_path / "b")[0] == ["a@9", "b@5"]
    assert found(tmp_path / "a", tmp_path)[0] == ["a@9", "b@5", "a@9"], "a file named for itself is meant twice"
    assert found(tmp_path, tmp_path / "?", tmp_path) == (["b@5", "a@9"], [], []), "what was found is not looked for again"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("inner", [bytes, gzip.compress, lz4.frame.compress])
def test_archives(tmp_path: Path, mode: str, inner: type) -> None:
    path = tar(
        tmp_path / "evidence.bin",
        {
            "./node/late.pcap": inner(capture(20, count=900)),
            "node/early": inner(capture(10)),
            "node/messages": b"Nov 22 18:00 words\n" * 5_000,
            "node/messages.1.gz": gzip.compress(b"words\n" * 5_000),
            "../../etc/cron.d/x": b"* * * * * root",
            "/abs/\x1b[31mred.pcap": inner(capture(15)),
        },
        mode,
    )
    captures, failures, notes = found(path)
    assert captures == ["evidence.bin:node/early@10", "evidence.bin:/abs/\x1b[31mred.pcap@15", "evidence.bin:./node/late.pcap@20"]
    assert failures == []
    (note,) = notes
    assert note.startswith(f"{path}: skipped 3 files that are no capture (")
    assert [entry.name for entry in tmp_path.iterdir()] == ["evidence.bin"], "nothing was unpacked under a name"


def test_archives_in_archives_are_opened_to_a_bound(tmp_path: Path) -> None:
    content = capture(5)
    for depth in range(1, 7):
        mode = "w:gz" if depth % 2 else "w"
        path = tar(tmp_path / f"{depth}.tar", {f"level{depth}": content, "other": capture(depth)}, mode)
        content = path.read_bytes()
        captures, failures, _ = found(path)
        assert (len(captures), failures) == (min(depth + 1, archive.MAX_DEPTH + 1 - (depth > archive.MAX_DEPTH)), []), depth


def test_a_cut_archive_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    for mode in ("w", "w:gz"):
        path = tar(tmp_path / "a.tar", {"one": capture(1), "two": capture(2, count=500, size=1_000), "three": capture(3)}, mode)
        whole = path.read_bytes()
        path.write_bytes(whole[: 200_000 if mode == "w" else len(whole) // 2])
        with gather_inputs([str(path)]) as inputs:
            assert [one.named.name for one in inputs.captures] == ["a.tar:one", "a.tar:two"]
            reader, batches = inputs.captures[1].read(Losses())
            assert 0 < sum(len(frames) for frames in batches) < 500
            assert reader.capture.cut_note is not None
            (note,) = inputs.notes
            assert "read as far as it goes" in note


def test_the_spool_is_bounded_and_given_back(tmp_path: Path) -> None:
    spool = Spool(limit=1_000)
    first = spool.add(iter([b"a" * 600]), "x")
    second = spool.add(iter([b"b" * 300]), "x")
    spool.drop(first)  # not the last one: it stays
    spool.drop(second)
    assert (first.start, first.length, second.start) == (0, 600, 600)
    assert os.fstat(first.file.fileno()).st_size == 600
    with pytest.raises(CaptureError, match="x: unpacked, the archive takes more than"):
        spool.add(iter([b"c" * 401]), "x")
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_ip_and_ss_said_is_kept_with_the_captures_beside_it(tmp_path: Path, mode: str) -> None:
    path = tar(
        tmp_path / "must-gather.tar",
        {
            "a/net/eth0.pcap": capture(1),
            "b/net/eth0.pcap": capture(2),
            "a/sos_commands/ip_-d_link": LINK,
            "a/sos_commands/ip_addr": ADDR,
            "b/sos_commands/ip_addr": ADDR.replace(b"mtu 1450", b"mtu 8950"),
            "b/sos_commands/ss_-tin": SS,
        },
        mode,
    )
    with gather_inputs([str(path)]) as inputs:
        first, second = (one.host for one in inputs.captures)
        assert first is not None
        assert second is not None
        assert ([link.mtu for link in first.links if link.name == "eth0"], len(first.sockets)) == ([1_450], 0)
        assert ([link.mtu for link in second.links if link.name == "eth0"], len(second.sockets)) == ([8_950], 2)
        assert first.sources == ("must-gather.tar:a/sos_commands/ip_-d_link", "must-gather.tar:a/sos_commands/ip_addr")
        assert {link.mtu for link in inputs.host_facts.links if link.name == "eth0"} == {1_450, 8_950}
        assert inputs.notes == []


def test_facts_lie_in_directories_too_and_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.pcap").write_bytes(capture())
    (tmp_path / "d" / "ip.txt").write_bytes(ADDR)
    (tmp_path / "ip.txt").write_bytes(ADDR)
    (tmp_path / "y.pcap").write_bytes(capture())
    assert found(tmp_path / "ip.txt")[1] == ["no capture among the inputs"]
    for arguments in ((tmp_path / "d",), (tmp_path / "y.pcap", tmp_path / "ip.txt")):
        with gather_inputs([str(argument) for argument in arguments]) as inputs:
            (one,) = inputs.captures
            assert one.host is not None
            assert (one.host.sources, inputs.failures, inputs.notes) == (
                (str(arguments[-1].name),) if len(arguments) > 1 else ("ip.txt",),
                [],
                [],
            )


def test_pipes_are_read_once(tmp_path: Path) -> None:
    content, path = gzip.compress(capture(7, count=5)), tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(content))
    writer.start()
    with gather_inputs([str(path)]) as inputs:
        (one,) = inputs.captures
        losses = Losses()
        reader, batches = one.read(losses)
        assert [len(frames) for frames in batches] == [5]
        assert (reader.capture.size_bytes, one.path, one.first_ns) == (len(content), None, 7 * 10**9)
    writer.join()


def test_what_may_be_a_capture_is_not_to_be_overwritten(tmp_path: Path) -> None:
    for name, content, may in (
        ("a", capture(), True),
        ("b", gzip.compress(b"x"), True),
        ("c", b'{"schema_version"', False),
        ("d", b"", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert may_hold_capture(tmp_path / name) is may
    assert not may_hold_capture(tmp_path / "gone")
    assert may_hold_capture(tar(tmp_path / "e", {"x": b"y"}))
