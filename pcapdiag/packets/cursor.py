"""Where the decoder stands in each frame of a batch, and how it reads the same header of many frames at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I8, I32, I64, U8, U32, Bools, Col, Rows, Table
from pcapdiag.losses import Loss, Losses
from pcapdiag.packets.distinct import first_equal, firsts_of, mixed

Headers = npt.NDArray[np.void]
"""One header a row; the fields of its layout are read by name."""

MAX_DEPTH = 8
"""So many tunnels are opened; what lies deeper stays payload."""

_NUMBER_MASK = (1 << 33) - 1

TableT = TypeVar("TableT", bound=Table)


class Layer(IntEnum):
    """What the bytes at a cursor are said to be."""

    ETHERNET = 1
    IPV4 = 2
    IPV6 = 3
    IP = 4
    """IPv4 or IPv6: the version field decides."""
    PPP = 5
    PPPOE = 6
    MPLS = 7
    LLC = 8
    ERSPAN_1 = 9
    """A mirrored frame without a header of its own."""
    ERSPAN_2 = 10
    ERSPAN_3 = 11
    NSH = 12
    PBB = 13
    """Provider backbone bridging: a service tag, then a whole frame."""
    FABRICPATH = 14
    MACSEC = 15
    WLAN = 16
    """IEEE 802.11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor(Table):
    """For each of some frames, in their order: where the next header begins, and where its bytes end."""

    frame: Annotated[Rows, Col("index of the frame in its batch")]
    at: Annotated[I64, Col("where the next header begins in the data of the batch", "bytes")]
    end: Annotated[I64, Col("behind the last captured byte", "bytes")]
    wire_end: Annotated[I64, Col("behind the last byte on the wire; at least `end`", "bytes")]
    path: Annotated[I32, Col("the tunnels around it, as TunnelPaths numbers them")]
    outer_at: Annotated[I64, Col("where the outermost IP header begins; -1: none so far", "bytes")]
    depth: Annotated[U8, Col("tunnels opened so far")]

    @property
    def span(self) -> Span:
        """Its three columns that say where."""
        return Span(self.at, self.end, self.wire_end)


class Span(NamedTuple):
    """Where something begins, where its captured bytes end, and where it ends on the wire; one element per packet."""

    at: I64
    end: I64
    wire_end: I64

    def moved(self, at: I64) -> Span:
        """The same ends, another beginning."""
        return Span(at, self.end, self.wire_end)

    def take(self, rows: Rows) -> Span:
        """Those of some packets."""
        return Span(self.at[rows], self.end[rows], self.wire_end[rows])


Found = list[tuple[Layer, Cursor]]
"""What a reader found behind its header."""


class TunnelPaths:
    """Numbers the ways into frames: path 0 is the bare link layer, each label on top of a path is another path."""

    def __init__(self) -> None:
        self.labels: list[tuple[str, ...]] = [()]
        self._known: dict[tuple[int, str], int] = {}

    def depths(self) -> U8:
        """How many tunnels were opened on each path; VLAN tags are none."""
        return np.array([sum(not label.startswith("vlan ") for label in labels) for labels in self.labels], np.uint8)

    def push(self, path: I32, label: str, numbers: npt.NDArray[np.integer[Any]] | None = None) -> I32:
        """The paths one label further in; `numbers` (one per row, below 2**32; -1: it has none) make it "label number"."""
        key = path.astype(np.uint64) << np.uint64(33)
        if numbers is not None:
            key |= (numbers.astype(np.int64) + 1).astype(np.uint64)
        first = first_equal(key.reshape(-1, 1))
        lead = firsts_of(first)
        paths = np.empty(len(key), np.int32)
        parents, named = (key[lead] >> np.uint64(33)).tolist(), (key[lead] & np.uint64(_NUMBER_MASK)).tolist()
        paths[lead] = [self._add(parent, f"{label} {name - 1}" if name else label) for parent, name in zip(parents, named, strict=True)]
        return paths[first]

    def _add(self, parent: int, label: str) -> int:
        path = self._known.setdefault((parent, label), len(self.labels))
        if path == len(self.labels):
            self.labels.append((*self.labels[parent], label))
        return path


@dataclass(slots=True)
class Batch:
    """The bytes of some frames, and what the link layer said about each."""

    data: U8
    capture: int
    losses: Losses
    paths: TunnelPaths
    frame_count: int
    direction: I8 = field(init=False)
    link_hash: U32 = field(init=False)
    src_link_hash: U32 = field(init=False)

    def __post_init__(self) -> None:
        self.direction = np.full(self.frame_count, -1, np.int8)
        self.link_hash = np.zeros(self.frame_count, np.uint32)
        self.src_link_hash = np.zeros(self.frame_count, np.uint32)

    def lose(self, loss: Loss, rows: Bools) -> None:
        """Counts the true elements."""
        self.losses.add(loss, int(np.count_nonzero(rows)), capture=self.capture)

    def keep(self, table: TableT, good: Bools, loss: Loss) -> TableT:
        """The rows that are good; the others are counted."""
        if good.all():
            return table
        self.lose(loss, ~good)
        return table.take(good)

    def keep_whole(self, cursor: Cursor, size: int, loss: Loss) -> Cursor:
        """The rows with `size` captured bytes at the cursor; the others are counted."""
        return self.keep(cursor, cursor.end - cursor.at >= size, loss)

    def gather(self, at: I64, layout: np.dtype[Any]) -> Headers:
        """The header at each offset, copied side by side; all its bytes must lie in the data."""
        # One copy of opaque bytes is as fast as a gather of a single field, and much faster than one of a structure.
        if not len(at):
            return np.empty(0, layout)
        size = layout.itemsize
        windows: Headers = np.ndarray((len(self.data) - size + 1,), f"V{size}", buffer=self.data, strides=(1,))
        return windows[at].view(layout)

    def look(self, span: Span, layout: np.dtype[Any]) -> tuple[Bools, Headers]:
        """The same as `peek`, where spans begin."""
        return self.peek(span.at, span.end, layout)

    def peek(self, at: I64, end: I64, layout: np.dtype[Any]) -> tuple[Bools, Headers]:
        """Which headers lie before `end` as a whole, and all of them: zeros for those that do not."""
        whole = end - at >= layout.itemsize
        if whole.all():
            return whole, self.gather(at, layout)
        headers = np.zeros(len(at), layout)
        headers[whole] = self.gather(at[whole], layout)
        return whole, headers


def moved(cursor: Cursor, at: I64) -> Cursor:
    """The same frames with the next header elsewhere."""
    return Cursor(
        frame=cursor.frame, at=at, end=cursor.end, wire_end=cursor.wire_end, path=cursor.path, outer_at=cursor.outer_at, depth=cursor.depth
    )


def advanced(cursor: Cursor, size: int) -> Cursor:
    """The same frames, `size` bytes further on."""
    return moved(cursor, cursor.at + size)


def shallow(batch: Batch, cursor: Cursor) -> Cursor:
    """The rows around which another tunnel may be opened; the others are counted."""
    return batch.keep(cursor, cursor.depth < MAX_DEPTH, Loss.TOO_DEEP)


def entered(batch: Batch, cursor: Cursor, at: I64, label: str, numbers: npt.NDArray[np.integer[Any]] | None = None) -> Cursor:
    """One tunnel further in, to the inner header at `at`."""
    return Cursor(
        frame=cursor.frame,
        at=at,
        end=cursor.end,
        wire_end=cursor.wire_end,
        path=batch.paths.push(cursor.path, label, numbers),
        outer_at=cursor.outer_at,
        depth=cursor.depth + np.uint8(1),
    )


def select(mask: Bools) -> Rows | slice:
    """The rows of a mask as an index; all rows are a slice, which NumPy does not copy."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def link_hash(*words: npt.NDArray[np.integer[Any]]) -> U32:
    """A 32-bit hash of link-layer addresses, never 0."""
    hashed: U32 = (mixed(*words) >> np.uint64(32)).astype(np.uint32)
    return np.maximum(hashed, np.uint32(1))
