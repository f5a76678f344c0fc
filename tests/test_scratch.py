"""No room for temporary files is one line that says what helps, whoever needed them."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pcapdiag import scratch
from pcapdiag.errors import OutputError
from pcapdiag.spool import Room, Spool
from pcapdiag.workers import CAN_FORK, spread


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w+b", buffering=0) as file:
        monkeypatch.setattr("pcapdiag.spool.new_file", lambda: file)
        with pytest.raises(OutputError, match=r"temporary files cannot be written \(No space left on device\): set TMPDIR"):
            Spool(Room(0)).append({"a": np.zeros(100_000)})


def test_room_that_a_map_will_need_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a mapped file that finds no room when it is written ends the process."""
    with scratch.new_file() as file:
        scratch.reserve(file, 1 << 20)
        assert os.fstat(file.fileno()).st_size == 1 << 20
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1 << 20
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OutputError, match=r"No space left on device"):
        Room(0).column(1_000, np.int64)


@pytest.mark.skipif(not CAN_FORK, reason="no fork on this system")
def test_a_full_disk_under_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    monkeypatch.setattr("pcapdiag.workers._write", full)
    with pytest.raises(OutputError, match="temporary files cannot be written"):
        list(spread(lambda _: os.getpid() == parent and __import__("time").sleep(0.1), range(4), 2))


def test_no_directory_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(OutputError, match="no directory takes temporary files: set TMPDIR"):
        scratch.new_file()


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "ulimit -v"), (errno.EACCES, "Permission denied")]
)
def test_other_limits_are_named(number: int, said: str) -> None:
    with pytest.raises(OutputError, match=said), scratch.refusals():
        raise OSError(number, os.strerror(number))
