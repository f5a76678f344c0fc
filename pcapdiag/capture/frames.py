"""The output of step 1: frames, and what a file says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pcapdiag.columns import I64, U8, U16, U32, Col, Table


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is known of one capture once it has been read to its end."""

    name: str
    """Base name as given, "-" for standard input; never an absolute path."""
    sha256: str
    """Of the bytes of the file as they lie on disk."""
    format: str
    """"pcap", "pcap-ns" or "pcapng"."""
    compression: str
    """"" or "gzip"."""
    size_bytes: int
    """Of the file as it lies on disk."""
    frame_count: int
    cut_at: int | None
    """Offset (of the uncompressed bytes) of the record that is not whole; None for a whole file."""
    cut_note: str | None
    """What was seen there; None for a whole file."""
    interfaces: tuple[Interface, ...]
    first_ns: int | None = None
    """Earliest time of a frame, ns since the epoch; None without frames."""
    last_ns: int | None = None
    """Latest time of a frame; None without frames."""
    comments: tuple[str, ...] = ()
    secrets: tuple[bytes, ...] = ()
    """TLS key logs of decryption secrets blocks."""
