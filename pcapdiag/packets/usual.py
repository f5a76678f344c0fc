"""The short way for the frames most captures consist of: Ethernet, IPv4 without options, TCP with no option but timestamps.

One copy takes the three headers of every frame side by side; the columns are read from there, in cache. Whatever is in
any way different is left to the layers, which would decode these frames to the same columns (tests hold both together).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.capture.frames import Frames
from pcapdiag.columns import I64, Bools, Rows
from pcapdiag.packets.cursor import Batch, Headers, link_hash, select
from pcapdiag.packets.distinct import Keys
from pcapdiag.packets.table import ACK, TCP

Columns = dict[str, npt.NDArray[Any]]
"""Columns of Packets by name, with `path` and `overhead` in the place of `tunnel`."""

_ETHERNET_LINK_TYPE: Final = 1
_FIELDS: Final = {
    "dst_src": ("<u8", 0), "src_rest": ("<u4", 8), "type": (">u2", 12), "version_ihl": ("u1", 14), "tos": ("u1", 15),
    "total_len": (">u2", 16), "id": (">u2", 18), "fragment": (">u2", 20), "ttl": ("u1", 22), "proto": ("u1", 23),
    "addresses": ("<u4", 26), "sport": (">u2", 34), "dport": (">u2", 36), "seq": (">u4", 38), "ack": (">u4", 42), "offset": ("u1", 46),
    "flags": ("u1", 47), "window": (">u2", 48), "kinds": (">u4", 54), "ts_val": (">u4", 58), "ts_ecr": (">u4", 62),
}  # fmt: skip
_HEADERS: Final = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": [(form, (2,)) if name == "addresses" else form for name, (form, _) in _FIELDS.items()],
        "offsets": [offset for _, offset in _FIELDS.values()],
        "itemsize": 66,
    }
)
_ETHERNET_LEN, _IP_LEN, _TCP_LEN, _STAMPED_LEN = 14, 20, 20, 32
_NOP_NOP_TS: Final = 0x0101080A
_FRAGMENT_BITS: Final = 0x3FFF
"""More fragments, and the fragment offset."""
_WORTH: Final = 0.5
"""With a smaller share of such frames the look at all of them costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Usual:
    """The usual frames of a batch: which they are, their addresses as they lie in the header, and their columns."""

    frame: Rows
    addresses: Keys
    columns: Columns


def read_usual(batch: Batch, frames: Frames) -> tuple[Usual, Rows] | None:
    """The usual frames, and the rows of all others; None where they are too few."""
    count = len(frames)
    if not count or int(frames.link_type.max()) != _ETHERNET_LINK_TYPE or int(frames.link_type.min()) != _ETHERNET_LINK_TYPE:
        return None
    possible = (frames.captured >= _ETHERNET_LEN + _IP_LEN + _TCP_LEN) & (frames.data_at + _HEADERS.itemsize <= len(batch.data))
    if int(np.count_nonzero(possible)) < _WORTH * count:
        return None
    header = batch.gather(frames.data_at[select(possible)], _HEADERS)
    good = _usual(header, frames.captured[select(possible)].astype(np.int64))
    if int(np.count_nonzero(good)) < _WORTH * count:
        return None
    if possible.all() and good.all():
        rows = np.arange(count)
        rest = rows[:0]
    else:
        chosen = np.zeros(count, np.bool_)
        chosen[possible] = good
        rows, rest = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        header = header.view(f"V{_HEADERS.itemsize}")[good].view(_HEADERS)  # opaque bytes are copied many times faster
    _note_links(batch, frames, header, rows)
    return Usual(
        rows, np.ascontiguousarray(header["addresses"]), _columns(header, frames.data_at[rows], frames.captured[rows].astype(np.int64))
    ), rest


def _usual(header: Headers, captured: I64) -> Bools:
    """Which headers are whole and as expected; `captured` bytes of each frame are its own."""
    stamped = (header["offset"] >> 4 == 8) & (header["kinds"] == _NOP_NOP_TS)
    size = np.where(stamped, _STAMPED_LEN, _TCP_LEN) + _IP_LEN
    good: Bools = (header["type"] == 0x0800) & (header["version_ihl"] == 0x45) & (header["proto"] == TCP)
    good &= (header["fragment"] & _FRAGMENT_BITS == 0) & (stamped | (header["offset"] >> 4 == 5))
    good &= (header["total_len"] >= size) & (captured >= size + _ETHERNET_LEN)
    return good


def _note_links(batch: Batch, frames: Frames, header: Headers, rows: Rows) -> None:
    both, rest = header["dst_src"], header["src_rest"]
    batch.link_hash[rows] = link_hash(both, rest)
    batch.src_link_hash[rows] = link_hash(both >> np.uint64(48), rest)
    inbound = frames.flags[rows] & 3
    if inbound.any():
        batch.direction[rows[inbound == 1]] = 0
        batch.direction[rows[inbound == 2]] = 1


def _columns(header: Headers, at: I64, captured: I64) -> Columns:
    """The columns of Packets, as the layers give them."""
    count = len(header)
    total_len = header["total_len"].astype(np.int32)
    stamped = header["offset"] >> 4 == 8
    header_len = np.where(stamped, _IP_LEN + _STAMPED_LEN, _IP_LEN + _TCP_LEN).astype(np.int32)
    end = np.minimum(captured - _ETHERNET_LEN, total_len).astype(np.int32)
    flags = np.ascontiguousarray(header["flags"])
    return {
        "path": np.zeros(count, np.int32),
        "overhead": np.zeros(count, np.int32),
        "cut": total_len > end,
        "ip_version": np.full(count, 4, np.uint8),
        "ttl": np.ascontiguousarray(header["ttl"]),
        "ip_id": header["id"].astype(np.uint16),
        "dont_fragment": header["fragment"] & 0x4000 != 0,
        "ecn": header["tos"] & 3,
        "ip_len": total_len,
        "ip_len_zero": np.zeros(count, np.bool_),
        "frag_offset": np.zeros(count, np.int32),
        "more_fragments": np.zeros(count, np.bool_),
        "proto": np.full(count, TCP, np.uint8),
        "sport": header["sport"].astype(np.uint16),
        "dport": header["dport"].astype(np.uint16),
        "seq": header["seq"].astype(np.uint32),
        "ack": header["ack"].astype(np.uint32) * (flags & ACK != 0),
        "flags": flags,
        "window": header["window"].astype(np.uint16),
        "mss": np.zeros(count, np.uint16),
        "window_shift": np.full(count, -1, np.int8),
        "sack_permitted": np.zeros(count, np.bool_),
        "has_ts": stamped,
        "ts_val": header["ts_val"].astype(np.uint32) * stamped,
        "ts_ecr": header["ts_ecr"].astype(np.uint32) * stamped,
        "payload_at": at + _ETHERNET_LEN + header_len,
        "payload_len": total_len - header_len,
        "payload_captured": end - header_len,
    }
