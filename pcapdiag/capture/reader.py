"""Opens a capture, recognises its format and gives its frames in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np

from pcapdiag.capture.frames import Capture, Frames, Interface
from pcapdiag.capture.pcap import MAGICS, PcapReader
from pcapdiag.capture.pcapng import SECTION_HEADER, PcapngReader
from pcapdiag.capture.source import Source
from pcapdiag.columns import U8
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Loss, Losses

# what people hand in beside pcap and pcapng: offset, bytes there, what it is
_STRANGERS: Final = (
    (257, b"ustar", "a tar archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\xfd7zXZ\0", "xz-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x02\x21\x4c\x18", "lz4-compressed in its legacy format"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"snoop\0\0\0", "a snoop capture"),
    (0, b"btsnoop\0", "a btsnoop capture"),
    (0, b"RTSS", "a Network Monitor capture"),
    (0, b"GMBU", "a Network Monitor capture"),
    (0, b"TRSNIFF data", "a Sniffer capture"),
    (0, b"XCP\0", "a NetXray capture"),
    (0, b"\xcd\x34\xb2\xa1", "a pcap variant (magic a1b234cd)"),
    (0, b"\xa1\xb2\x34\xcd", "a pcap variant (magic a1b234cd)"),
    (0, b"\x4d\x3c\x2b\xa1", "a pcap variant (magic a12b3c4d)"),
    (0, b"\xa1\x2b\x3c\x4d", "a pcap variant (magic a12b3c4d)"),
    (0, b"\x12\xcb\xe2\xa1", "a pcap variant (magic a1e2cb12)"),
    (0, b"\xa1\xe2\xcb\x12", "a pcap variant (magic a1e2cb12)"),
    (0, b"LOGG", "a Vector BLF log"),
)


class NoCaptureError(CaptureError):
    """What was opened can be read, and is no capture of a kind this program knows."""


class _RecordReader(Protocol):
    """What turns windows of one format into frames; `broken` says why nothing behind the last used byte can be read."""

    format: str
    header_len: int
    frame_count: int
    broken: str | None

    def read(self, window: U8) -> tuple[Frames | None, int]: ...

    def rest_note(self, rest: U8) -> str: ...

    @property
    def interfaces(self) -> tuple[Interface, ...]: ...

    @property
    def comments(self) -> tuple[str, ...]: ...

    @property
    def secrets(self) -> tuple[bytes, ...]: ...

    @property
    def other_secrets(self) -> tuple[tuple[int, bytes], ...]: ...

    @property
    def names(self) -> tuple[tuple[bytes, str], ...]: ...

    @property
    def numbered_count(self) -> int: ...


class CaptureReader:
    """Iterable once: the batches of one capture in file order. Afterwards `capture` says what the file says about itself."""

    def __init__(
        self, path: str, losses: Losses, *, index: int = 0, batch_bytes: int = 32 << 20, name: str = "", source: Source | None = None
    ) -> None:
        """Opens `path` and reads its header; see read_capture. A `source` that is open already is taken over, and named `name`."""
        if batch_bytes < 1:
            raise ValueError(f"batch_bytes is {batch_bytes}, not positive")
        self._name = name or (path if path == "-" else Path(path).name)
        self._batch_bytes = batch_bytes
        self._capture: Capture | None = None
        self._begun = False
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._source = source or Source(path)
        try:
            self._records = _recognise(self._source, path, index, partial(losses.add, capture=index))
        except CaptureError:
            self._source.close()
            raise

    @property
    def capture(self) -> Capture:
        """What is known of the capture; only once all batches were taken."""
        if self._capture is None:
            raise ValueError(f"{self._name}: not read to its end yet")
        return self._capture

    @property
    def format(self) -> str:
        """As Capture.format."""
        return self._records.format

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces described so far."""
        return self._records.interfaces

    def __iter__(self) -> Iterator[Frames]:
        if self._begun:
            raise ValueError(f"{self._name}: a capture is read once")
        self._begun = True
        return self._batches()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the input; reading to the end does so too."""
        self._source.close()

    def _batches(self) -> Iterator[Frames]:
        source, records = self._source, self._records
        offset = records.header_len
        rest: U8 = np.frombuffer(source.head, np.uint8)[offset:]
        try:
            at_end = False
            while not at_end and records.broken is None:
                window, at_end = source.window(rest, self._batch_bytes)
                frames, used = records.read(window)
                rest = window[used:]
                offset += used
                del window
                if frames is not None:
                    self._note_times(frames)
                    yield frames
                    del frames
            self._capture = self._finish(offset, rest)
        finally:
            source.close()

    def _note_times(self, frames: Frames) -> None:
        first_ns, last_ns = int(frames.ts_ns.min()), int(frames.ts_ns.max())
        self._first_ns = first_ns if self._first_ns is None else min(self._first_ns, first_ns)
        self._last_ns = last_ns if self._last_ns is None else max(self._last_ns, last_ns)

    def _finish(self, offset: int, rest: U8) -> Capture:
        records, source = self._records, self._source
        notes = [note for note in (records.broken or (records.rest_note(rest) if len(rest) else None), source.broken) if note]
        sha256, size_bytes = source.finish()
        return Capture(
            name=self._name,
            sha256=sha256,
            format=records.format,
            compression=source.compression,
            size_bytes=size_bytes,
            frame_count=records.frame_count,
            cut_at=offset if notes else None,
            cut_note="; ".join(notes) or None,
            interfaces=records.interfaces,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            comments=records.comments,
            secrets=records.secrets,
            other_secrets=records.other_secrets,
            names=records.names,
            last_number=records.numbered_count,
        )


def read_capture(path: str, losses: Losses, *, index: int = 0, batch_bytes: int = 32 << 20) -> CaptureReader:
    """Opens a pcap or pcapng file, compressed by gzip, zstd, lz4 or not at all, or standard input ("-").

    Args:
        path: File, pipe or "-". An input that cannot be opened or is no capture is a CaptureError here, not later.
        losses: Counts what is set aside while the batches are taken.
        index: Which of the inputs this is.
        batch_bytes: Uncompressed bytes read at a time; a batch has the frames that lie whole in them.
    """
    return CaptureReader(path, losses, index=index, batch_bytes=batch_bytes)


def is_capture(head: bytes) -> bool:
    """Whether a file that begins so, once unpacked, is a capture this program reads."""
    return head[:4] in MAGICS or head.startswith(SECTION_HEADER)


def _recognise(source: Source, path: str, index: int, count: Callable[[Loss, int], None]) -> _RecordReader:
    head = source.head
    if head[:4] in MAGICS:
        return PcapReader(head, path, index, count)
    if head.startswith(SECTION_HEADER):
        return PcapngReader(head, path, index, count)
    if not head:
        raise NoCaptureError(f"{path}: {source.broken or 'the file is empty'} (at offset 0)")
    inside = f" inside {source.compression}" if source.compression else ""
    for at, magic, kind in _STRANGERS:
        if head.startswith(magic, at):
            raise NoCaptureError(f"{path}: {kind}{inside}, which is not supported yet (at offset {at}: {magic.hex(' ')})")
    raise NoCaptureError(f"{path}: not a pcap or pcapng file{inside} (at offset 0: {head[:8].hex(' ')})")
