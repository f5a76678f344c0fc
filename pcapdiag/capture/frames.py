"""The output of step 1: frames, and what a file says about itself."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Annotated

from pcapdiag.capture.host import HostFacts
from pcapdiag.columns import I64, U8, U16, U32, Col, Table
from pcapdiag.losses import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames(Table):
    """A batch of frames in file order. One capture is read as one or many batches."""

    number: Annotated[I64, Col("frame number, as Wireshark counts: from 1, over the whole capture")]
    ts_ns: Annotated[I64, Col("capture time since the epoch", "ns")]
    link_type: Annotated[U16, Col("LINKTYPE_ value of the interface")]
    interface: Annotated[U16, Col("index into Capture.interfaces")]
    length: Annotated[U32, Col("length on the wire", "bytes")]
    captured: Annotated[U32, Col("captured length: bytes that are in the file", "bytes")]
    flags: Annotated[U32, Col("pcapng epb_flags; 0 when the file has none. Bits 0-1: 1 inbound, 2 outbound")]
    data_at: Annotated[I64, Col("where the first byte of the frame lies in `data`", "bytes")]
    data: U8
    """The bytes this batch's frames lie in; may hold other bytes between them."""
    capture: int
    """Index of the capture among the inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface of a capture; None where the file does not say."""

    link_type: int
    snaplen: int
    """0: no limit."""
    name: str | None = None
    description: str | None = None
    speed_bps: int | None = None
    filter: str | None = None
    hardware: str | None = None
    received_count: int | None = None
    """isb_ifrecv."""
    dropped_by_interface_count: int | None = None
    """isb_ifdrop."""
    dropped_by_os_count: int | None = None
    """isb_osdrop."""

    def without_counters(self) -> Interface:
        """The interface itself, as every file of a ring buffer describes it."""
        return replace(self, received_count=None, dropped_by_interface_count=None, dropped_by_os_count=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is known of one capture once it has been read to its end.

    A capture is what was taken at one place without a break: one file, or several that follow one another (a ring
    buffer). The frames of several files are numbered through, in the order of time; `place` says which file one lies in.
    """

    name: str
    """Base name as given, "-" for standard input; never an absolute path. Of several files: the first, and how many more."""
    sha256: str
    """Of the bytes of the file as they lie on disk; of several files, of their digests in hexadecimal, one behind the other."""
    format: str
    """"pcap", "pcap-ns" or "pcapng"."""
    compression: str
    """"", "gzip", "zstd" or "lz4"; of several files what they have in common, else "mixed"."""
    size_bytes: int
    """Of the files as they lie on disk."""
    frame_count: int
    cut_at: int | None
    """Offset (of the uncompressed bytes) of the record that is not whole; None for a whole file. Of several files: in the last one."""
    cut_note: str | None
    """What was seen there; None for a whole file."""
    interfaces: tuple[Interface, ...]
    first_ns: int | None = None
    """Earliest time of a frame, ns since the epoch; None without frames."""
    last_ns: int | None = None
    """Latest time of a frame; None without frames."""
    comments: tuple[str, ...] = ()
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """TLS key logs of decryption secrets blocks; never printed."""
    other_secrets: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)
    """Secrets type and bytes of the other decryption secrets blocks; never printed."""
    names: tuple[tuple[bytes, str], ...] = ()
    """What name resolution blocks say: an address of 4 or 16 bytes, and a name of it."""
    last_number: int = 0
    """The highest frame number used; above `frame_count` where a file numbers blocks that hold no packet."""
    not_decoded: tuple[tuple[Loss, int], ...] = ()
    """Of a file among several: its share of the FRAME_LOSSES of their capture."""
    path: str | None = field(default=None, compare=False, repr=False)
    """Where another program finds the file; None: it cannot be read again (a pipe, part of an archive). Never printed."""
    host: HostFacts | None = None
    """What was found beside it about the host it was taken on."""
    files: tuple[Capture, ...] = ()
    """Of several files: each, in the order of time, numbered from 1 as if it were alone; () for one file."""
    numbered_before: tuple[int, ...] = ()
    """Per file of several: the highest frame number of those before it."""

    @property
    def each(self) -> tuple[Capture, ...]:
        """Its files, of which there is at least one."""
        return self.files or (self,)

    def place(self, number: int) -> tuple[int, int]:
        """Which of its files a frame lies in, and the frame's number in that file."""
        if not self.files:
            return 0, number
        index = max(bisect_left(self.numbered_before, number) - 1, 0)
        return index, number - self.numbered_before[index]
