"""decode_packets: frames in, one row per IP packet out, every other frame counted."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pcapdiag.capture.frames import Frames
from pcapdiag.columns import I64, U16, Rows
from pcapdiag.losses import FRAME_LOSSES, Losses
from pcapdiag.packets.addresses import AddressBook
from pcapdiag.packets.cursor import Batch, TunnelPaths
from pcapdiag.packets.distinct import Keys, first_equal, firsts_of
from pcapdiag.packets.fragments import Fragments, Group, fragment_table, group_fragments
from pcapdiag.packets.icmp import Quote
from pcapdiag.packets.ip import IpPackets, skip_extensions
from pcapdiag.packets.kept import KeptBytes
from pcapdiag.packets.layers import read_layers
from pcapdiag.packets.link import enter_frames
from pcapdiag.packets.part import Part, assemble
from pcapdiag.packets.table import TCP, Addresses, Blob, FragmentGroups, IcmpErrors, Packets, SackBlocks, Tunnel
from pcapdiag.packets.transport import Transports
from pcapdiag.packets.tunnel import enter_tunnels
from pcapdiag.packets.usual import Columns, read_usual
from pcapdiag.spool import Room, Spool

_OTHER_TUNNELS: Final = Tunnel(("other",), 0)
_MAX_TUNNELS: Final = 0xFFFF
# What the row of a first fragment gets from its whole datagram, if that holds no tunnel.
_OF_DATAGRAM: Final = ("proto", *Transports.columns())
_HEADER_LEN: Final = {4: 20, 6: 40}


def decode_packets(batches: Iterable[Frames], losses: Losses, *, room: Room | None = None) -> Packets:
    """One row per frame that holds an IP packet, in their order; every other frame is counted by one of FRAME_LOSSES.

    What does not fit into `room` lies in files; without it all columns, and the bytes of inputs that are not mapped, are in memory.
    """
    with closing(_Decoder(losses, room)) as decoder:
        for frames in batches:
            decoder.add(frames)
        return decoder.finish()


class _Decoder:
    """Collects what the batches give, and makes one table of it."""

    def __init__(self, losses: Losses, room: Room | None) -> None:
        self._losses = losses
        self._book = AddressBook()
        self._paths = TunnelPaths()
        self._columns = Spool(room)
        self._sacks: list[SackBlocks] = []
        self._quotes: list[Quote] = []
        self._pieces: list[Columns] = []
        self._bytes = KeptBytes(room)

    def close(self) -> None:
        """Lets go of what only decoding needs."""
        self._bytes.close()

    def add(self, frames: Frames) -> None:
        """Decodes one batch."""
        data = np.ascontiguousarray(frames.data)
        batch = Batch(data, frames.capture, self._losses, self._paths, len(frames))
        short = read_usual(batch, frames)
        if short is None:
            part = assemble(batch, read_layers(batch, enter_frames(batch, frames)), self._book)
        else:
            usual, rest = short
            part = assemble(batch, self._read_rest(batch, frames, rest), self._book, usual)
        if not len(part):
            return
        some = slice(None) if len(part) == len(frames) else part.frame
        columns = part.columns
        columns["capture"] = np.full(len(part), frames.capture, np.uint16)
        columns["frame"] = frames.number[some]
        columns["ts_ns"] = frames.ts_ns[some]
        columns["interface"] = frames.interface[some]
        columns["frame_len"] = frames.length[some]
        columns["cut"] |= (frames.captured < frames.length)[some]
        columns["direction"] = batch.direction[some]
        columns["link_hash"] = batch.link_hash[some]
        columns["src_link_hash"] = batch.src_link_hash[some]
        self._collect(part, self._bytes.place(data))
        self._columns.append(columns)

    def _read_rest(self, batch: Batch, frames: Frames, rest: Rows) -> list[IpPackets]:
        """The layers of the frames that are not usual."""
        if not len(rest):
            return []
        apart = Batch(batch.data, batch.capture, self._losses, self._paths, len(rest))
        chunks = read_layers(apart, enter_frames(apart, frames.take(rest)))
        batch.direction[rest], batch.link_hash[rest], batch.src_link_hash[rest] = apart.direction, apart.link_hash, apart.src_link_hash
        return [replace(packets, frame=rest[packets.frame]) for packets in chunks]

    def finish(self) -> Packets:
        """The table of all batches."""
        if not len(self._columns):
            return _no_packets()
        columns = self._columns.finish()
        table = self._put_together(columns)
        tunnel, tunnels = _tunnels_of(columns.pop("path"), columns.pop("overhead"), self._paths)
        errors = self._icmp_errors()
        return Packets(
            **columns,
            tunnel=tunnel,
            blob=self._bytes.blob(),
            addresses=self._book.addresses(),
            tunnels=tunnels,
            sacks=_sorted_sacks(self._sacks),
            icmp_errors=errors,
            fragments=table,
        )

    def _collect(self, part: Part, base: int, rows: I64 | None = None) -> None:
        """Takes over the rows of a part, which become the given ones, by default the next."""
        if rows is None:
            rows = np.arange(len(self._columns), len(self._columns) + len(part))
        payload_at = part.columns["payload_at"]
        np.add(payload_at, base, out=payload_at, where=payload_at > 0)
        self._sacks += [replace(blocks, row=rows[blocks.row]) for blocks in part.sacks]
        self._quotes += [quote._replace(row=int(rows[quote.row])) for quote in part.quotes]
        self._pieces += [{**pieces, "row": rows[pieces["row"]], "at": pieces["at"] + base} for pieces in part.pieces]

    def _put_together(self, columns: Columns) -> FragmentGroups:
        """Decodes complete datagrams as a whole; what lies in a tunnel's may be a fragment again, and has its turn after them."""
        fragments, groups, losses = Fragments.empty(), list[Group](), Losses()
        done: set[tuple[int, int]] = set()
        while self._pieces:  # ends: whatever a datagram held lies one tunnel deeper
            fragments = _in_order(fragments, _fragments_of(columns, self._pieces))
            self._pieces, losses = [], Losses()
            groups = group_fragments(fragments, self._bytes.blob(), losses)
            whole = {(int(fragments.row[g.header]), int(fragments.path[g.header])): g for g in groups if g.complete and g.header >= 0}
            self._reassemble(columns, fragments, [group for key, group in whole.items() if key not in done])
            done |= whole.keys()
        self._losses.merge(losses)
        return fragment_table(groups, fragments, self._bytes.blob())

    def _reassemble(self, columns: Columns, fragments: Fragments, groups: list[Group]) -> None:
        """Decodes complete datagrams as a whole, into the rows of their first fragments."""
        if not groups:
            return
        blob = self._bytes.blob()
        header_rows = fragments.row[[g.header for g in groups]]
        known = (columns["proto"][header_rows] == TCP) & (columns["sport"][header_rows] > 0)  # these options were read, and counted
        keys = np.stack([columns["capture"][header_rows], columns["ip_version"][header_rows], known], axis=1)
        for key in np.unique(keys, axis=0):
            chosen = np.flatnonzero((keys == key).all(axis=1))
            losses = self._decode_datagrams(columns, header_rows[chosen], [groups[i] for i in chosen.tolist()], blob)
            for loss in {} if key[2] else losses.of(int(key[0])):
                if loss not in FRAME_LOSSES:  # what cannot be read as a whole stays the row it was
                    self._losses.add(loss, losses.total(loss), capture=int(key[0]))

    def _decode_datagrams(self, columns: Columns, rows: I64, groups: list[Group], blob: Blob) -> Losses:
        payloads = [group.payload(blob) for group in groups]
        # Room for headers that are not there: a tunnel counts its overhead from the outermost of them.
        room = 64 + int(columns["overhead"][rows].max())
        data = np.frombuffer(bytes(room) + b"".join(payloads), np.uint8)
        lengths = np.array([len(p) for p in payloads])
        at = room + np.cumsum(lengths) - lengths
        losses = Losses()
        batch = Batch(data, int(columns["capture"][rows[0]]), losses, self._paths, len(rows))
        packets = _datagrams(columns, rows, at, at + lengths, at + [g.total_len for g in groups], self._book, self._paths)
        packets, inner = enter_tunnels(batch, skip_extensions(batch, packets))
        part = assemble(batch, [p for p in (packets, *read_layers(batch, inner)) if len(p)], self._book)
        if not len(part):
            return losses
        rows = rows[part.frame]
        self._sacks = [blocks.take(~np.isin(blocks.row, rows)) for blocks in self._sacks]
        replaced = set(rows.tolist())
        self._quotes = [quote for quote in self._quotes if quote.row not in replaced]
        self._collect(part, self._bytes.place(data), rows)
        tunnelled = part.columns["path"] != columns["path"][rows]
        for name in part.columns:
            if name in columns and name != "cut":
                these = slice(None) if name in _OF_DATAGRAM else tunnelled
                columns[name][rows[these]] = part.columns[name][these]
        return losses

    def _icmp_errors(self) -> IcmpErrors:
        table = IcmpErrors.empty()
        values: Columns = {}
        quotes = sorted(self._quotes, key=lambda quote: quote.row)
        for name in IcmpErrors.columns():
            column = [getattr(quote, name) for quote in quotes]
            if name in ("src", "dst"):
                column = [self._book.number(packed) for packed in column]
            values[name] = np.array(column, getattr(table, name).dtype)
        return IcmpErrors(**values)


def _joined(parts: list[Columns]) -> Columns:
    """All parts one behind the other; each column of the parts is let go once it has been copied."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}


def _no_packets() -> Packets:
    return Packets.empty(
        blob=Blob.of([]),
        addresses=Addresses(()),
        tunnels=(Tunnel((), 0),),
        sacks=SackBlocks.empty(),
        icmp_errors=IcmpErrors.empty(),
        fragments=FragmentGroups.empty(),
    )


def _fragments_of(columns: Columns, pieces: list[Columns]) -> Fragments:
    joined = _joined(pieces)
    row = joined["row"]
    of_row = {name: columns[name][row] for name in ("capture", "ts_ns", "path", "src", "dst", "proto", "sport", "dport")}
    return Fragments(**joined, **of_row, offset=columns["frag_offset"][row], more=columns["more_fragments"][row])


def _in_order(some: Fragments, more: Fragments) -> Fragments:
    both = more if not len(some) else Fragments(**{n: np.concatenate([getattr(some, n), getattr(more, n)]) for n in some.columns()})
    return both.take(np.argsort(both.row, kind="stable"))


def _datagrams(columns: Columns, rows: I64, at: I64, end: I64, ip_end: I64, book: AddressBook, paths: TunnelPaths) -> IpPackets:
    """The rows of first fragments as packets that were never fragmented."""
    version = int(columns["ip_version"][rows[0]])
    header_at = at - _HEADER_LEN[version]
    count = len(rows)
    packed = book.addresses().packed
    both = b"".join(packed[i] for pair in zip(columns["src"][rows].tolist(), columns["dst"][rows].tolist(), strict=True) for i in pair)
    addresses: Keys = np.frombuffer(both, "<u4" if version == 4 else "<u8").reshape(count, -1)
    path = columns["path"][rows]
    return IpPackets(
        frame=np.arange(count),
        path=path,
        outer_at=header_at - columns["overhead"][rows],
        depth=paths.depths()[path],
        header_at=header_at,
        at=at,
        end=end,
        ip_end=ip_end,
        addresses=addresses,
        ttl=columns["ttl"][rows],
        tos=columns["ecn"][rows],
        fragment_id=columns["ip_id"][rows].astype(np.uint32),
        dont_fragment=columns["dont_fragment"][rows],
        ip_len=columns["ip_len"][rows].astype(np.int64),
        ip_len_zero=columns["ip_len_zero"][rows],
        frag_offset=np.zeros(count, np.int32),
        more_fragments=np.zeros(count, np.bool_),
        proto=columns["proto"][rows],
        version=version,
    )


def _tunnels_of(path: npt.NDArray[np.int32], overhead: npt.NDArray[np.int32], paths: TunnelPaths) -> tuple[U16, tuple[Tunnel, ...]]:
    """Numbers what is around the rows in the order of their first appearance, behind 0 for nothing."""
    if not path.any():
        return np.zeros(len(path), np.uint16), (Tunnel((), 0),)
    keys = path.astype(np.uint64) << np.uint64(32) | overhead.astype(np.uint64)
    first = first_equal(keys.reshape(-1, 1))
    lead = firsts_of(first)
    lead = lead[keys[lead] > 0]
    number = np.zeros(len(keys), np.uint16)
    number[lead] = np.minimum(np.arange(1, len(lead) + 1), _MAX_TUNNELS)
    tunnels = [Tunnel((), 0), *(Tunnel(paths.labels[key >> 32], key & 0xFFFFFFFF) for key in keys[lead].tolist())]
    if len(tunnels) > _MAX_TUNNELS:
        tunnels[_MAX_TUNNELS:] = [_OTHER_TUNNELS]
    return number[first], tuple(tunnels)


def _sorted_sacks(sacks: list[SackBlocks]) -> SackBlocks:
    if not sacks:
        return SackBlocks.empty()
    joined = SackBlocks(**{name: np.concatenate([getattr(s, name) for s in sacks]) for name in SackBlocks.columns()})
    return joined.take(np.lexsort((joined.index, joined.row)))
