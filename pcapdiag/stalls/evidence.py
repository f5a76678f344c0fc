"""Frames that prove something, from rows of the TCP tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pcapdiag.stalls.sign import Confidence, Frame, Label, OfFlow, Sign, Tier

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


def frames_of_packets(trace: Trace, rows: Iterable[int], note: str) -> tuple[Frame, ...]:
    """The frames of rows of Packets."""
    packets = trace.packets
    return tuple(Frame(int(packets.capture[row]), int(packets.frame[row]), int(packets.ts_ns[row]), note) for row in rows)


def mark(code: str, frames: tuple[Frame, ...], facts: object = None) -> Sign:
    """Evidence that takes no time from any label: a sign of no duration on no flow, for findings about a capture."""
    at_ns = frames[0].ts_ns if frames else 0
    return Sign(
        label=Label(Tier.REST, 1, code),
        scope=OfFlow(-1),
        start_ns=at_ns,
        end_ns=at_ns,
        confidence=Confidence(1.0),
        frames=frames,
        facts=facts,
    )


def marked(signs: Iterable[Sign], capture: int) -> tuple[Frame, ...]:
    """The frames of one capture that signs carry: each once, by time."""
    found = {frame.number: frame for sign in signs for frame in sign.frames if frame.capture == capture}
    return tuple(sorted(found.values(), key=lambda frame: (frame.ts_ns, frame.number)))
