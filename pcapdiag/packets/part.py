"""What the frames of one batch become: columns in frame order, and the small tables beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pcapdiag.columns import Rows
from pcapdiag.packets.addresses import AddressBook
from pcapdiag.packets.cursor import Batch
from pcapdiag.packets.icmp import Quote
from pcapdiag.packets.ip import IpPackets
from pcapdiag.packets.layers import read_transports
from pcapdiag.packets.table import SackBlocks
from pcapdiag.packets.usual import Columns, Usual


@dataclass(frozen=True, slots=True)
class Part:
    """Rows count from 0; `frame` says which frame each is of, and ascends."""

    frame: Rows
    columns: Columns
    sacks: list[SackBlocks]
    quotes: list[Quote]
    pieces: list[Columns]
    """Of the fragments: row, fragment_id, at, length, captured."""

    def __len__(self) -> int:
        return len(self.frame)


def assemble(batch: Batch, chunks: list[IpPackets], book: AddressBook, usual: Usual | None = None) -> Part:
    """The columns of all chunks of a batch, and of its usual frames, in the order of its frames."""
    done = [read_transports(batch, packets) for packets in chunks]
    done = [(packets, to) for packets, to in done if len(packets)]
    columns = [_ip_columns(packets) | {name: getattr(to, name) for name in to.columns()} for packets, to in done]
    keyed = [(packets.frame, packets.addresses) for packets, _ in done]
    if usual is not None:
        columns.append(usual.columns)
        keyed.append((usual.frame, usual.addresses))
    if not keyed:
        return Part(np.empty(0, np.intp), {}, [], [], [])
    for values, pair in zip(columns, book.number_pairs(keyed), strict=True):
        values["src"], values["dst"] = pair[:, 0], pair[:, 1]
    frame = np.concatenate([frame for frame, _ in keyed])
    if len(columns) == 1:
        whole = {name: np.ascontiguousarray(column) for name, column in columns[0].items()}
    else:
        order = np.argsort(frame, kind="stable")
        frame = frame[order]
        whole = {name: np.concatenate([c[name] for c in columns])[order] for name in columns[0]}
    sacks: list[SackBlocks] = []
    quotes: list[Quote] = []
    for packets, to in done:
        rows = np.searchsorted(frame, packets.frame) if to.sacks or to.quotes else packets.frame
        sacks += [replace(blocks, row=rows[blocks.row]) for blocks in to.sacks]
        quotes += [quote._replace(row=int(rows[quote.row])) for quote in to.quotes]
    return Part(
        frame,
        whole,
        sacks,
        quotes,
        [_pieces_of(packets, frame) for packets, _ in done if packets.more_fragments.any() or packets.frag_offset.any()],
    )


def _ip_columns(packets: IpPackets) -> Columns:
    return {
        "path": packets.path,
        "overhead": (packets.header_at - packets.outer_at).astype(np.int32),
        "cut": packets.ip_end > packets.end,
        "ip_version": np.full(len(packets), packets.version, np.uint8),
        "ttl": packets.ttl,
        "ip_id": packets.fragment_id.astype(np.uint16),
        "dont_fragment": packets.dont_fragment,
        "ecn": packets.tos & 3,
        "ip_len": packets.ip_len.astype(np.int32),
        "ip_len_zero": packets.ip_len_zero,
        "frag_offset": packets.frag_offset,
        "more_fragments": packets.more_fragments,
        "proto": packets.proto,
    }


def _pieces_of(packets: IpPackets, frame: Rows) -> Columns:
    some = packets.take(packets.more_fragments | (packets.frag_offset > 0))
    return {
        "row": np.searchsorted(frame, some.frame),
        "fragment_id": some.fragment_id,
        "at": some.at,
        "length": some.ip_end - some.at,
        "captured": some.end - some.at,
    }
