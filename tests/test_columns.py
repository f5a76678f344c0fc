"""Tables: equally long columns that say what they mean."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
import pytest

from pcapdiag.capture.frames import Frames
from pcapdiag.columns import I64, NEVER, Bools, Col, Table, rows_between
from pcapdiag.flows.table import Acks, Datagrams, Flows, Gaps, Pieces, Recoveries, Sacked, Segments
from pcapdiag.packets.table import FragmentGroups, IcmpErrors, Packets, SackBlocks

TABLES = [Acks, Datagrams, Flows, FragmentGroups, Frames, Gaps, IcmpErrors, Packets, Pieces, Recoveries, SackBlocks, Sacked, Segments]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boats(Table):
    """One row per boat."""

    length: Annotated[I64, Col("from bow to stern", "cm")]
    afloat: Annotated[Bools, Col("not sunk yet")]
    harbour: str
    """No column."""


def boats() -> Boats:
    return Boats(length=np.array([300, 700, 500]), afloat=np.array([True, False, True]), harbour="Kiel")


def test_columns_are_the_annotated_fields_in_their_order() -> None:
    assert Boats.columns() == {"length": Col("from bow to stern", "cm"), "afloat": Col("not sunk yet", "")}
    assert Boats.columns() is Boats.columns(), "looked up once"


def test_columns_of_different_lengths_are_no_table() -> None:
    with pytest.raises(ValueError, match=r"Boats: columns of different lengths \[1, 2\]"):
        Boats(length=np.array([1, 2]), afloat=np.array([True]), harbour="")


@pytest.mark.parametrize(("rows", "lengths"), [
    (np.array([2, 0, 0]), [500, 300, 300]), (np.array([False, True, True]), [700, 500]), (slice(1), [300]), (np.array([], np.intp), []),
])  # fmt: skip
def test_rows_are_taken_by_index_mask_or_slice_and_the_rest_stays(
    rows: np.ndarray[tuple[int], np.dtype[np.intp]], lengths: list[int]
) -> None:
    taken = boats().take(rows)
    assert (taken.length.tolist(), len(taken), taken.harbour) == (lengths, len(lengths), "Kiel")


def test_an_empty_table_keeps_its_types() -> None:
    none = Boats.empty(harbour="Kiel")
    assert (len(none), str(none.length.dtype), str(none.afloat.dtype), none.harbour) == (0, "int64", "bool", "Kiel")


def test_pandas_gets_the_columns_and_nothing_else() -> None:
    frame = boats().to_frame()
    assert list(frame.columns) == ["length", "afloat"]
    assert frame["length"].tolist() == [300, 700, 500]


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        boats().harbour = "Bergen"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_column_of_every_table_is_explained(table: type[Table]) -> None:
    columns = table.columns()
    assert columns
    for name, col in columns.items():
        assert col.doc.strip(), name
        if name.endswith("_ns"):
            assert col.unit == "ns", f"{name} is a time"
        if name.endswith(("_len", "_bytes")):
            assert col.unit == "bytes", f"{name} is a length"
    assert {field.name for field in fields(table)} >= set(columns)


def test_never_is_later_than_every_time() -> None:
    assert np.array([2**62, 4_611_686_018 * 10**9]).max() < NEVER
    assert np.array([NEVER]).dtype == np.int64


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_rows_between_are_those_whose_numbers_lie_there(dtype: type[np.integer]) -> None:
    column = np.array([0, 2, 2, 3, 7, 7, 65_535], dtype)
    for first in range(10):
        for stop in (*range(10), 65_536):
            expected = [row for row, number in enumerate(column.tolist()) if first <= number < stop]
            assert list(range(len(column))[rows_between(column, first, stop)]) == expected


def test_rows_between_does_not_convert_the_column() -> None:
    """It is asked some hundred times of columns with a row per packet."""
    column = np.zeros(1_000_000, np.int32)
    tracemalloc.start()
    rows_between(column, 0, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
