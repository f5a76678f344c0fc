"""Puts fragmented IP datagrams together again (RFC 791 section 3.2, RFC 8200 section 4.5)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np

from pcapdiag.columns import I32, I64, U8, U16, U32, Bools, Col, Rows, Table
from pcapdiag.losses import Loss, Losses
from pcapdiag.packets.table import Blob, FragmentGroups

REUSE_NS = 30_000_000_000
"""An identification seen again after this long is another datagram (Linux ipfrag_time)."""
MAX_DATAGRAM_LEN = 65_535
_SEVERAL = 2
_LOOK_BACK = 4
"""Datagrams of one identification that are compared: more tunnels than these rarely show the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments(Table):
    """One row per captured fragment, in packet order; a row of Packets has several when a fragmented tunnel packet held a fragment."""

    row: Annotated[I64, Col("row in Packets")]
    capture: Annotated[U16, Col("index of the capture among the inputs")]
    ts_ns: Annotated[I64, Col("capture time since the epoch", "ns")]
    path: Annotated[I32, Col("the tunnels around it, as TunnelPaths numbers them")]
    src: Annotated[I32, Col("index into addresses")]
    dst: Annotated[I32, Col("index into addresses")]
    proto: Annotated[U8, Col("protocol of the fragmented datagram")]
    sport: Annotated[U16, Col("source port, of a first fragment that shows one")]
    dport: Annotated[U16, Col("destination port, of a first fragment that shows one")]
    fragment_id: Annotated[U32, Col("identification")]
    offset: Annotated[I32, Col("fragment offset", "bytes")]
    more: Annotated[Bools, Col("another fragment follows")]
    at: Annotated[I64, Col("where the fragment's part of the datagram begins in `blob`", "bytes")]
    length: Annotated[I64, Col("its length on the wire", "bytes")]
    captured: Annotated[I64, Col("of it, in the capture", "bytes")]


class _Piece(NamedTuple):
    """Bytes [start, end) of a datagram; the first `captured` of them lie at `at`."""

    start: int
    end: int
    at: int
    captured: int

    def part(self, start: int, end: int) -> _Piece:
        """The part of it that lies in [start, end)."""
        skipped = start - self.start
        return _Piece(start, end, self.at + skipped, min(max(self.captured - skipped, 0), end - start))


def _start(piece: _Piece) -> int:
    return piece.start


@dataclass(slots=True)
class Group:
    """The fragments of one datagram; its pieces are disjoint and in order."""

    first: int
    """Index of its first fragment in Fragments."""
    rows: list[int]
    times_ns: list[int]
    header: int = -1
    """Index of the fragment with offset 0 in Fragments."""
    total_len: int = -1
    received_len: int = 0
    contradicted: bool = False
    pieces: list[_Piece] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every byte was covered, without contradiction."""
        return self.received_len == self.total_len and not self.contradicted

    def overlaps(self, new: _Piece) -> Iterator[tuple[_Piece, _Piece]]:
        """What it has of the bytes of a piece, beside what the piece has."""
        if not self.pieces or self.pieces[-1].end <= new.start:
            return  # fragments mostly come in order
        index = max(bisect_left(self.pieces, new.start, key=_start) - 1, 0)
        while index < len(self.pieces):
            old = self.pieces[index]
            index += 1
            if old.start >= new.end:
                return
            start, end = max(old.start, new.start), min(old.end, new.end)
            if start < end:
                yield old.part(start, end), new.part(start, end)

    def add(self, new: _Piece) -> None:
        """Takes over the bytes it did not have yet."""
        if not self.pieces or self.pieces[-1].end <= new.start:
            if new.start < new.end:
                self.pieces.append(new)
                self.received_len += new.end - new.start
            return
        start = new.start
        gaps = []
        for old, _ in self.overlaps(new):
            gaps.append((start, old.start))
            start = old.end
        for begin, end in (*gaps, (start, new.end)):
            if begin < end:
                self.pieces.insert(bisect_left(self.pieces, begin, key=_start), new.part(begin, end))
                self.received_len += end - begin

    def payload(self, blob: Blob) -> bytes:
        """The captured bytes from the beginning of the datagram to the first that is missing."""
        parts = []
        for piece in self.pieces:
            parts.append(blob.read(piece.at, piece.captured))
            if piece.captured < piece.end - piece.start:
                break
        return b"".join(parts)


def group_fragments(fragments: Fragments, blob: Blob, losses: Losses) -> list[Group]:
    """Which fragments belong together, in the order of their first rows.

    A fragment that contradicts its group spoils it and is counted (RFC 5722; Linux does the same for IPv4). One that
    contradicts a complete group begins another datagram: the identification was used again. Networks inside different
    tunnels may use the same addresses and identifications: their fragments never meet.
    """
    groups: list[Group] = []
    current: dict[tuple[int, ...], Group] = {}
    names = ("capture", "path", "src", "dst", "proto", "fragment_id", "row", "ts_ns", "offset", "more", "at", "length", "captured")
    columns = (getattr(fragments, name).tolist() for name in names)
    for index, (capture, path, src, dst, proto, fragment_id, row, ts_ns, offset, more, at, length, captured) in enumerate(
        zip(*columns, strict=True)
    ):
        piece = _Piece(offset, offset + length, at, captured)
        key = (capture, path, src, dst, proto, fragment_id)
        group = current.get(key)
        fits = group is not None and _agrees(group, piece, blob, more=more)
        if group is None or ts_ns - group.times_ns[0] > REUSE_NS or (group.complete and not fits):
            fits = True
            group = current[key] = Group(index, [], [])
            groups.append(group)
        group.rows.append(row)
        group.times_ns.append(ts_ns)
        if piece.end > MAX_DATAGRAM_LEN or not fits:
            losses.add(Loss.BAD_FRAGMENT, capture=capture)
            group.contradicted = True
            continue
        group.add(piece)
        if not more:
            group.total_len = piece.end
        if offset == 0 and group.header < 0:
            group.header = index
    return groups


def fragment_table(groups: list[Group], fragments: Fragments, blob: Blob) -> FragmentGroups:
    """The groups as a table: a datagram that was seen in several tunnels is there once."""
    groups = _distinct(groups, fragments, blob)
    first = np.array([g.first for g in groups], np.intp)
    header = np.array([g.header for g in groups], np.intp)
    known = header >= 0
    return FragmentGroups(
        first_row=np.array([min(g.rows) for g in groups], np.int64),
        last_row=np.array([max(g.rows) for g in groups], np.int64),
        header_row=np.where(known, fragments.row[header] if len(fragments) else header, -1),
        capture=fragments.capture[first],
        src=fragments.src[first],
        dst=fragments.dst[first],
        proto=fragments.proto[first],
        ip_id=fragments.fragment_id[first],
        fragment_count=np.array([len(g.rows) for g in groups], np.int32),
        total_len=np.array([g.total_len for g in groups], np.int32),
        received_len=np.array([g.received_len for g in groups], np.int32),
        complete=np.array([g.complete for g in groups], np.bool_),
        first_ns=np.array([min(g.times_ns) for g in groups], np.int64),
        last_ns=np.array([max(g.times_ns) for g in groups], np.int64),
        sport=_of_header(fragments.sport, header, known),
        dport=_of_header(fragments.dport, header, known),
    )


def _of_header(port: U16, header: Rows, known: Bools) -> U16:
    ports = np.zeros(len(header), np.uint16)
    ports[known] = port[header[known]]
    return ports


def _distinct(groups: list[Group], fragments: Fragments, blob: Blob) -> list[Group]:
    """Without the groups that another one, of another tunnel, shows too, and more of it: both have the same bytes."""
    if len(np.unique(fragments.path)) < _SEVERAL:
        return groups
    keys = [tuple(int(getattr(fragments, name)[g.first]) for name in ("capture", "src", "dst", "proto", "fragment_id")) for g in groups]
    kept: dict[tuple[int, ...], list[Group]] = {}
    for key, group in zip(keys, groups, strict=True):
        same = kept.setdefault(key, [])
        for place in range(len(same) - 1, max(len(same) - 1 - _LOOK_BACK, -1), -1):
            if _is_part(group, same[place], fragments, blob):
                break
            if _is_part(same[place], group, fragments, blob):
                same[place] = group
                break
        else:
            same.append(group)
    return sorted((group for same in kept.values() for group in same), key=lambda group: group.first)


def _is_part(group: Group, whole: Group, fragments: Fragments, blob: Blob) -> bool:
    """Whether all a group shows is what another one shows, in another tunnel and nearly at the same time."""
    apart = abs(whole.times_ns[0] - group.times_ns[0]) > REUSE_NS
    if apart or fragments.path[whole.first] == fragments.path[group.first] or group.contradicted or whole.contradicted:
        return False
    if min(group.total_len, whole.total_len) >= 0 and group.total_len != whole.total_len:
        return False
    seen = 0
    for piece in group.pieces:
        for old, new in whole.overlaps(piece):
            length = min(old.captured, new.captured)
            if blob.read(old.at, length) != blob.read(new.at, length):
                return False
            seen += old.end - old.start
    return seen == group.received_len > 0


def _agrees(group: Group, piece: _Piece, blob: Blob, *, more: bool) -> bool:
    """Whether a fragment can be of the datagram: same bytes where they overlap, same end."""
    if group.total_len >= 0 and (piece.end > group.total_len or (not more and piece.end != group.total_len)):
        return False
    if not more and group.pieces and group.pieces[-1].end > piece.end:
        return False
    for old, new in group.overlaps(piece):
        length = min(old.captured, new.captured)
        if blob.read(old.at, length) != blob.read(new.at, length):
            return False
    return True
