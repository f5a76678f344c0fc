"""Places in byte streams as numbers that sort."""

from __future__ import annotations

from typing import TypeVar

from pcapdiag.columns import I64

_Number = TypeVar("_Number", int, I64)
_SHIFT = 44
"""Stream offsets stay below 2^43 (8 TB): fd << 44 | offset is one sortable number."""


def key(fd: _Number, offset: _Number) -> _Number:
    """One number that sorts by flow direction, then stream offset."""
    return (fd << _SHIFT) + offset
