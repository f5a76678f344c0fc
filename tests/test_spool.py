"""Columns in files are the columns in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag import spool
from pcapdiag.spool import WINDOW, Room, Spool, column, mask_of, portions, rows_by_number, rows_where, windows


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
    for name, values in whole.items():
        expected = np.concatenate([part[name] for part in parts(count)])
        assert values.dtype == expected.dtype
        np.testing.assert_array_equal(values, expected)


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
    values = spool.finish()["a"]
    values[7] = -1
    room.release()
    assert values[7] == -1
    assert int(values.sum()) == sum(range(100_000)) - 7 - 1


def test_a_part_that_is_a_strided_view_is_written_as_it_looks() -> None:
    spool = Spool(Room(0))
    spool.append({"a": np.arange(20)[::2]})
    np.testing.assert_array_equal(spool.finish()["a"], np.arange(0, 20, 2))


# --- columns of any length -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [None, Room(0), Room(1 << 20)], ids=["no room", "in files", "in memory"])
@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_a_column_holds_what_is_written(count: int, room: Room | None) -> None:
    made = column(count, np.int32, room)
    made[:] = np.arange(count)
    for part in windows(count, room, 700):
        made[part] += 1
    assert made.dtype == np.int32
    assert made.tolist() == list(range(1, count + 1))


def test_windows_cover_all_rows_once() -> None:
    assert [(part.start, part.stop) for part in windows(10, None, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert list(windows(0, None)) == []


@given(st.lists(st.integers(-1, 6), max_size=60), st.booleans())
def test_rows_by_number_is_a_stable_sort_without_the_numbers_below_zero(numbers: list[int], in_files: bool) -> None:
    number = np.array(numbers, np.int32)
    rows = rows_by_number(number, np.bincount(number[number >= 0], minlength=7), Room(0) if in_files else None)
    assert rows.tolist() == [row for row in np.argsort(number, kind="stable").tolist() if numbers[row] >= 0]


def test_rows_by_number_over_several_windows() -> None:
    number = np.random.default_rng(3).integers(-1, 1_000, 3 * WINDOW + 17).astype(np.int32)
    rows = rows_by_number(number, np.bincount(number[number >= 0], minlength=1_000), Room(0))
    order = np.argsort(number, kind="stable")
    np.testing.assert_array_equal(rows, order[number[order] >= 0])


@pytest.mark.parametrize("room", [None, Room(0)])
def test_portions_hold_every_row_once_and_equal_keys_together(room: Room | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "WINDOW", 50)
    keys = np.random.default_rng(4).integers(0, 2**63, 300, dtype=np.uint64)[np.random.default_rng(5).integers(0, 300, 1_000)]
    parts = [rows.tolist() for rows in portions(keys, room)]
    assert sorted(row for rows in parts for row in rows) == list(range(1_000))
    assert len(parts) > 10
    assert all(rows == sorted(rows) for rows in parts)
    where = {row: number for number, rows in enumerate(parts) for row in rows}
    of_key: dict[int, set[int]] = {}
    for row, key in enumerate(keys.tolist()):
        of_key.setdefault(key, set()).add(where[row])
    assert all(len(numbers) == 1 for numbers in of_key.values())


@pytest.mark.parametrize("room", [None, Room(0)])
def test_a_mask_and_the_rows_of_it(room: Room | None) -> None:
    mask = mask_of([np.array([3, 1]), np.array([], np.intp), np.array([3, 7])], 9, room)
    assert rows_where(9, lambda part: mask[part], room, step=2).tolist() == [1, 3, 7]
    assert rows_where(0, lambda part: mask[part], room).tolist() == []
