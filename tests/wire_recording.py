"""What a tap saw, ready to be written as a capture or loaded as a trace; several merge by time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.wire_bytes import pcap

if TYPE_CHECKING:
    from pcapdiag.trace import Trace


class Recording:
    """Frames in the order in which a tap saw them."""

    def frames(self) -> list[tuple[int, bytes]]:
        """(capture time in ns, Ethernet frame), in file order."""
        return [(shown_ns, data) for _, shown_ns, data in self.sights()]

    def sights(self) -> list[tuple[int, int, bytes]]:
        """(true time, time the capture shows, Ethernet frame), sorted by true time."""
        raise NotImplementedError

    def pcap(self, *, snaplen: int = 262_144) -> bytes:
        """The capture file."""
        return pcap(self.frames(), snaplen=snaplen)

    def write(self, folder: Path, name: str = "wire.pcap") -> Path:
        """Writes the capture into a folder, and gives its path."""
        path = folder / name
        path.write_bytes(self.pcap())
        return path

    def trace(self) -> Trace:
        """The capture, written and loaded as users load theirs."""
        from pcapdiag.pipeline import load  # noqa: PLC0415 - tests of lower steps must not need the upper ones

        with tempfile.TemporaryDirectory() as folder:
            return load(str(self.write(Path(folder))))


class Merged(Recording):
    """Several recordings of one tap."""

    def __init__(self, parts: tuple[Recording, ...]) -> None:
        self._parts = parts

    def sights(self) -> list[tuple[int, int, bytes]]:
        return sorted((sight for part in self._parts for sight in part.sights()), key=lambda sight: sight[0])


def merge(*parts: Recording) -> Merged:
    """One capture of several conversations."""
    return Merged(parts)
