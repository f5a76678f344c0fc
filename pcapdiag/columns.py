"""Tables: frozen dataclasses of equally long NumPy arrays, each column with its meaning and unit.

No domain knowledge lives here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]
I8 = npt.NDArray[np.int8]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

NEVER = np.iinfo(np.int64).max
"""The time of what did not happen (ns); larger than every time that did."""


def rows_between(column: npt.NDArray[np.integer[Any]], first: int, stop: int) -> slice:
    """The rows of an ascending column whose numbers are in [first, stop).

    It is asked in its own type: NumPy would convert all of it to that of what is looked for.
    """
    if stop <= first:
        return slice(0, 0)
    low = np.searchsorted(column, column.dtype.type(first))
    return slice(int(low), int(np.searchsorted(column, column.dtype.type(stop - 1), side="right")))


@dataclass(frozen=True, slots=True)
class Col:
    """What a column means, and its unit ("" for counts, flags and numbers without one)."""

    doc: str
    unit: str = ""
    of: str = ""
    """What its numbers count (`segment`, `flow`, `fd`), when they are row numbers that move with the rows; below 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A frozen table; fields annotated `Annotated[array, Col(...)]` are its columns, all of one length."""

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in self.columns()}
        if len(lengths) > 1:
            raise ValueError(f"{type(self).__name__}: columns of different lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(getattr(self, next(iter(self.columns()))))

    @classmethod
    def columns(cls) -> dict[str, Col]:
        """Column name -> its meaning, in declaration order."""
        cached = _COLUMNS.get(cls)
        if cached is None:
            hints = get_type_hints(cls, include_extras=True)
            cached = _COLUMNS[cls] = {f.name: col for f in fields(cls) if (col := _col_of(hints[f.name])) is not None}
        return cached

    @classmethod
    def empty(cls, **rest: Any) -> Self:  # noqa: ANN401 - whatever the table's fields beside its columns are
        """A table without rows; `rest` gives the fields that are no columns."""
        hints = get_type_hints(cls, include_extras=True)
        return cls(**{name: np.empty(0, _dtype_of(hints[name])) for name in cls.columns()}, **rest)

    def take(self, rows: npt.NDArray[Any] | slice) -> Self:
        """The table of the given rows (indices, mask or slice); what is no column stays."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.columns()})

    def moved(self, steps: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
        """The columns, for rows that come behind others: `steps` says, per name that `Col.of` gives, how far what they count has moved."""
        columns = {name: getattr(self, name) for name in self.columns()}
        for name, col in self.columns().items():
            if step := steps.get(col.of, 0):
                column = columns[name]
                columns[name] = np.where(column >= 0, column + column.dtype.type(step), column)
        return columns

    def to_frame(self) -> pd.DataFrame:
        """The columns as a pandas DataFrame (pandas is imported here, and only here)."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s that only tables at the edge should cost

        return pd.DataFrame({name: getattr(self, name) for name in self.columns()})


_COLUMNS: dict[type, dict[str, Col]] = {}


def _col_of(hint: object) -> Col | None:
    return next((arg for arg in get_args(hint)[1:] if isinstance(arg, Col)), None)


def _dtype_of(hint: Any) -> np.dtype[Any]:  # noqa: ANN401 - typing objects have no common type
    array = get_args(hint)[0]
    scalar = get_args(array)[1] if get_origin(array) is np.ndarray else array
    dtype: np.dtype[Any] = np.dtype(get_args(scalar)[0])
    return dtype
