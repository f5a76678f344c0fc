"""Columns in files are the columns in memory."""

from __future__ import annotations

import numpy as np
import pytest

from pcapdiag.spool import Room, Spool


def parts(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(count)
    return [{"a": rng.integers(0, 1 << 40, rows), "b": rng.integers(0, 2, rows).astype(np.bool_)} for rows in rng.integers(1, 500, count)]


@pytest.mark.parametrize("free", [None, 0, 3_000, 1 << 30])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_all_rows_in_order_whatever_the_room(count: int, free: int | None) -> None:
    room = None if free is None else Room(free)
    spool = Spool(room)
    for part in parts(count):
        spool.append(part)
    whole = spool.finish()
    assert list(whole) == ["a", "b"]
    for name, column in whole.items():
        expected = np.concatenate([part[name] for part in parts(count)])
        assert column.dtype == expected.dtype
        np.testing.assert_array_equal(column, expected)


def test_no_rows_are_no_columns() -> None:
    assert Spool(Room(0)).finish() == {}


def test_what_goes_to_files_gives_its_room_back() -> None:
    room = Room(10_000)
    first, second = Spool(room), Spool(room)
    first.append({"a": np.zeros(1_000)})
    assert room.free_bytes == 2_000
    first.append({"a": np.zeros(1_000)})
    assert room.free_bytes == 10_000
    second.append({"a": np.zeros(1_250)})
    assert room.free_bytes == 0
    assert len(first.finish()["a"]) == 2_000


def test_released_pages_keep_their_contents() -> None:
    room = Room(0)
    spool = Spool(room)
    spool.append({"a": np.arange(100_000)})
    column = spool.finish()["a"]
    column[7] = -1
    room.release()
    assert column[7] == -1
    assert int(column.sum()) == sum(range(100_000)) - 7 - 1


def test_a_part_that_is_a_strided_view_is_written_as_it_looks() -> None:
    spool = Spool(Room(0))
    spool.append({"a": np.arange(20)[::2]})
    np.testing.assert_array_equal(spool.finish()["a"], np.arange(0, 20, 2))
