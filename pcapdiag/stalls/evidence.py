"""Frames that prove something, from rows of the TCP tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.stalls.sign import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.trace import Trace


def frame_of(trace: Trace, segment: int, note: str) -> Frame:
    """The frame of a row of Segments."""
    capture, number = trace.frame_of(segment)
    return Frame(capture, number, int(trace.segments.ts_ns[segment]), note)


def frames_of(trace: Trace, segments: Iterable[tuple[int, str]]) -> tuple[Frame, ...]:
    """The frames of (row of Segments, note); rows below 0 stand for "not seen" and are left out."""
    return tuple(frame_of(trace, segment, note) for segment, note in segments if segment >= 0)
