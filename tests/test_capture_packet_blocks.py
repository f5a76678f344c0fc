"""The flags option is found wherever it stands among a packet's options."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pcapdiag.losses import Loss
from tests.capture_files import enhanced, interface, option, read_rows, section

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = option(2, struct.pack("<I", 0x80000002))
END = option(0, b"")


@pytest.mark.parametrize("options", [[FLAGS], [FLAGS, END], [option(1, b"a comment"), option(4, bytes(8)), FLAGS, option(1, b"x"), END]])
def test_flags(tmp_path: Path, options: list[bytes]) -> None:
    path = tmp_path / "trace.pcapng"
    path.write_bytes(section() + interface() + enhanced(b"none") + enhanced(b"flags", "<", *options) + enhanced(b"", "<", *options))
    rows, _, losses = read_rows(path)
    assert [row.flags for row in rows] == [0, 0x80000002, 0x80000002]
    assert losses == {}


def test_flags_behind_the_end_mark_are_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    path.write_bytes(section() + interface() + enhanced(b"data", "<", END, FLAGS))
    assert [row.flags for row in read_rows(path).rows] == [0]


@pytest.mark.parametrize("options", [[b"\1\0\xff\xff"], [option(1, b"")] * 300 + [FLAGS]])
def test_options_that_cannot_be_read_are_counted_and_the_packet_is_kept(tmp_path: Path, options: list[bytes]) -> None:
    path = tmp_path / "trace.pcapng"
    path.write_bytes(section() + interface() + enhanced(b"data", "<", *options))
    rows, _, losses = read_rows(path)
    assert [(row.data, row.flags) for row in rows] == [(b"data", 0)]
    assert losses == {Loss.BAD_BLOCK_OPTION: 1}
