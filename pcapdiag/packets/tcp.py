"""TCP headers (RFC 9293 section 3.1) and their options."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, U8, Bools, Rows
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, select
from pcapdiag.packets.ip import IpPackets
from pcapdiag.packets.table import ACK, SackBlocks
from pcapdiag.packets.transport import Transports

_TCP = np.dtype(
    [("sport", ">u2"), ("dport", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"), ("window", ">u2"),
     ("checksum", ">u2"), ("urgent", ">u2")]
)  # fmt: skip
HEADER_LEN = _TCP.itemsize

# The two layouts nearly every packet has: NOP NOP TS, and what Linux puts on a SYN (MSS, SACK-permitted, TS, NOP, WS).
_TIMESTAMPS_ONLY = np.dtype([("kinds", ">u4"), ("val", ">u4"), ("ecr", ">u4")])
_NOP_NOP_TS = 0x0101080A
_SYN_OPTIONS = np.dtype(
    [("mss_kind", ">u2"), ("mss", ">u2"), ("sack_ts", ">u4"), ("val", ">u4"), ("ecr", ">u4"), ("nop_ws", ">u2"), ("ws_len", "u1"),
     ("shift", "u1")]
)  # fmt: skip

_END, _NOP, _MSS, _WINDOW_SCALE, _SACK_PERMITTED, _SACK, _TIMESTAMPS = 0, 1, 2, 3, 4, 5, 8
# Kind -> length; SACK is 2 + 8 per block (RFC 2018). 0: any.
_LENGTHS: Final = np.zeros(256, np.uint8)
_LENGTHS[[_MSS, _WINDOW_SCALE, _SACK_PERMITTED, _TIMESTAMPS]] = 4, 3, 2, 10
_MAX_SHIFT = 14
_MAX_OPTIONS = 40

_U16 = np.dtype([("value", ">u2")])
_PAIR = np.dtype([("first", ">u4"), ("second", ">u4")])


def offset_fits(batch: Batch, at: I64, ip_end: I64) -> Bools:
    """Whether the data offset is at least 5 words and ends inside the packet; the header's first 20 bytes must be captured."""
    header_len = (batch.data[at + 12] >> 4).astype(np.int64) * 4
    return (header_len >= HEADER_LEN) & (at + header_len <= ip_end)


def fill_tcp(batch: Batch, packets: IpPackets, rows: Rows | slice, to: Transports) -> None:
    """Writes the TCP columns of the given rows, whose headers have been checked."""
    at, end = packets.at[rows], packets.end[rows]
    header = batch.gather(at, _TCP)
    for name in ("sport", "dport", "seq", "flags", "window"):
        getattr(to, name)[rows] = header[name]
    to.ack[rows] = header["ack"] * (header["flags"] & ACK != 0)
    payload_at = at + (header["offset"] >> 4).astype(np.int64) * 4
    to.payload_at[rows] = payload_at
    to.payload_len[rows] = packets.ip_end[rows] - payload_at
    to.payload_captured[rows] = np.maximum(end - payload_at, 0)
    options_len = payload_at - at - HEADER_LEN
    options_len[payload_at > end] = 0  # cut: which options were there is not known
    _read_options(batch, at + HEADER_LEN, options_len, rows, to)


def _read_options(batch: Batch, at: I64, length: I64, rows: Rows | slice, to: Transports) -> None:
    rest = length > 0
    likely = select(length == _TIMESTAMPS_ONLY.itemsize)
    options = batch.gather(at[likely], _TIMESTAMPS_ONLY)
    fits = options["kinds"] == _NOP_NOP_TS
    if isinstance(likely, slice) and fits.all():
        _put_timestamps(to, rows, options)
        return
    index = np.arange(len(to))[rows]
    done = np.arange(len(at))[likely][fits]
    _put_timestamps(to, index[done], options[fits])
    rest[done] = False
    likely = np.flatnonzero(length == _SYN_OPTIONS.itemsize)
    options = batch.gather(at[likely], _SYN_OPTIONS)
    fits = (options["mss_kind"] == 0x0204) & (options["sack_ts"] == 0x0402080A) & (options["nop_ws"] == 0x0103) & (options["ws_len"] == 3)
    done, options = likely[fits], options[fits]
    _put_timestamps(to, index[done], options)
    to.mss[index[done]] = options["mss"]
    to.sack_permitted[index[done]] = True
    to.window_shift[index[done]] = np.minimum(options["shift"], _MAX_SHIFT)
    rest[done] = False
    if rest.any():
        _walk_options(batch, at[rest], at[rest] + length[rest], index[rest], to)


def _put_timestamps(to: Transports, rows: Rows | slice, options: npt.NDArray[np.void]) -> None:
    to.has_ts[rows] = True
    to.ts_val[rows] = options["val"]
    to.ts_ecr[rows] = options["ecr"]


def _walk_options(batch: Batch, at: I64, stop: I64, rows: Rows, to: Transports) -> None:
    """Steps through the options of all rows at once, one option a round."""
    for _ in range(_MAX_OPTIONS):
        kind = batch.data[at]
        live = kind != _END
        at, stop, rows, kind = at[live], stop[live], rows[live], kind[live]
        if not len(at):
            return
        single = kind == _NOP
        length = batch.data[np.minimum(at + 1, stop - 1)]
        length[single] = 1
        bad = ~single & ((at + 2 > stop) | (length < 2) | (at + length > stop))
        batch.lose(Loss.BAD_TCP_OPTION, bad)
        known = ~bad & ~single
        if known.any():
            _take_options(batch, at[known], kind[known], length[known], rows[known], to)
        at = at + length
        live = ~bad & (at < stop)
        at, stop, rows = at[live], stop[live], rows[live]


def _take_options(batch: Batch, at: I64, kind: U8, length: U8, rows: Rows, to: Transports) -> None:
    """Reads one option of each row; all of it lies inside its header."""
    wanted = _LENGTHS[kind]
    odd = (wanted > 0) & (length != wanted)
    odd |= (kind == _SACK) & ((length % 8 != 2) | (length < 10))
    batch.lose(Loss.BAD_TCP_OPTION, odd)
    kind = np.where(odd, _NOP, kind)
    these = kind == _MSS
    to.mss[rows[these]] = batch.gather(at[these] + 2, _U16)["value"]
    these = kind == _WINDOW_SCALE
    to.window_shift[rows[these]] = np.minimum(batch.data[at[these] + 2], _MAX_SHIFT)
    to.sack_permitted[rows[kind == _SACK_PERMITTED]] = True
    these = kind == _TIMESTAMPS
    options = batch.gather(at[these] + 2, _PAIR)
    to.has_ts[rows[these]] = True
    to.ts_val[rows[these]] = options["first"]
    to.ts_ecr[rows[these]] = options["second"]
    these = kind == _SACK
    count = length[these] // 8
    for index in range(int(count.max(initial=0))):
        more = count > index
        blocks = batch.gather(at[these][more] + (2 + 8 * index), _PAIR)
        to.sacks.append(_sack_blocks(rows[these][more], index, blocks))


def _sack_blocks(rows: Rows, index: int, blocks: npt.NDArray[Any]) -> SackBlocks:
    return SackBlocks(
        row=rows,
        index=np.full(len(rows), index, np.uint8),
        left=blocks["first"].astype(np.uint32),
        right=blocks["second"].astype(np.uint32),
    )
