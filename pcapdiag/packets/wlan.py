"""IEEE 802.11 data frames, and the headers that capture drivers put before them.

One frame is one row: of an aggregate (A-MSDU) the first packet is read and the rest counted.
"""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64, Bools
from pcapdiag.losses import Loss
from pcapdiag.packets.cursor import Batch, Cursor, Found, Headers, Layer, link_hash, moved, select

_CONTROL = np.dtype([("value", "<u2")])
_ADDRESSES = np.dtype({"names": ["both", "rest", "sequence"], "formats": ["<u8", "<u4", "<u2"], "offsets": [4, 12, 22], "itemsize": 24})
_QOS = np.dtype([("value", "<u2")])
_SUBFRAME = np.dtype([("addresses", "S12"), ("length", ">u2")])
_RADIOTAP = np.dtype([("version", "u1"), ("pad", "u1"), ("length", "<u2"), ("present", "<u4")])
_PRESENT = np.dtype([("value", "<u4")])
_PRISM = np.dtype([("code", ">u4"), ("length", ">u4")])

# Bits of the frame control field (IEEE 802.11-2020 section 9.2.4.1).
_VERSION, _TYPE, _DATA, _NULL, _QOS_DATA = 0x0003, 0x000C, 0x0008, 0x0040, 0x0080
_TO_AND_FROM, _PROTECTED, _HIGH_THROUGHPUT = 0x0300, 0x4000, 0x8000
_AGGREGATE = 0x0080  # of the QoS field
_HEADER_LEN, _FOURTH_ADDRESS_LEN, _HT_CONTROL_LEN = 24, 6, 4

_HAS_TIME, _HAS_FLAGS, _HAS_MORE = 1 << 0, 1 << 1, 1 << 31
_PADDED = 0x20  # of the radiotap flags: the frame's header is padded to whole words
_MAX_PRESENT = 16
_PRISM_LEN, _AVS_MAGIC = 144, 0x80211


def read_radiotap(batch: Batch, cursor: Cursor) -> Found:
    """802.11 behind a radiotap header (radiotap.org), of which only the flag that tells of padding is needed."""
    cursor = batch.keep_whole(cursor, _RADIOTAP.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _RADIOTAP)
    size = header["length"].astype(np.int64)
    good = (header["version"] == 0) & (size >= _RADIOTAP.itemsize)
    cursor, size = batch.keep(cursor, good, Loss.LINK_NO_IP), size[good]
    whole = cursor.end - cursor.at > size
    cursor, size = batch.keep(cursor, whole, Loss.TRUNCATED_LINK), size[whole]
    flags_at = _radiotap_flags(batch, cursor, size, header[good][whole])
    padded = (flags_at > 0) & (batch.data[flags_at] & _PADDED != 0)
    return _read_frames(batch, moved(cursor, cursor.at + size), padded)


def _radiotap_flags(batch: Batch, cursor: Cursor, size: I64, header: Headers) -> I64:
    """Where the flags lie; 0: there are none."""
    at, present = cursor.at + 4, header["present"]
    for _ in range(_MAX_PRESENT):
        whole, word = batch.peek(at, cursor.at + size, _PRESENT)
        more = whole & (word["value"] & _HAS_MORE != 0)
        at = at + 4 * more
        if not more.any():
            break
    fields = at + 4 - cursor.at
    timed = present & _HAS_TIME != 0
    fields = np.where(timed, (fields + 7) // 8 * 8 + 8, fields)  # the clock is aligned to its own 8 bytes
    return np.where((present & _HAS_FLAGS != 0) & (fields < size), cursor.at + fields, 0)


def read_prism(batch: Batch, cursor: Cursor) -> Found:
    """802.11 behind a Prism header of fixed length, or the AVS header that took its place."""
    cursor = batch.keep_whole(cursor, _PRISM.itemsize, Loss.TRUNCATED_LINK)
    header = batch.gather(cursor.at, _PRISM)
    avs = header["code"] >> 12 == _AVS_MAGIC
    size = np.where(avs, header["length"].astype(np.int64), _PRISM_LEN)
    good = cursor.end - cursor.at >= size
    cursor = batch.keep(cursor, good, Loss.TRUNCATED_LINK)
    return read_wlan(batch, moved(cursor, cursor.at + size[good]))


def read_wlan(batch: Batch, cursor: Cursor) -> Found:
    """Plain 802.11 frames."""
    return _read_frames(batch, cursor, np.zeros(len(cursor), np.bool_))


def _read_frames(batch: Batch, cursor: Cursor, padded: Bools) -> Found:
    """Data frames that are neither encrypted nor later fragments; the others are counted by name."""
    whole = cursor.end - cursor.at >= _CONTROL.itemsize
    cursor, padded = batch.keep(cursor, whole, Loss.TRUNCATED_LINK), padded[whole]
    control = batch.gather(cursor.at, _CONTROL)["value"]
    carries = (control & (_VERSION | _TYPE) == _DATA) & (control & _NULL == 0)
    cursor, padded, control = batch.keep(cursor, carries, Loss.WLAN_NO_DATA), padded[carries], control[carries]
    whole = cursor.end - cursor.at >= _HEADER_LEN
    cursor, padded, control = batch.keep(cursor, whole, Loss.TRUNCATED_LINK), padded[whole], control[whole]
    header = batch.gather(cursor.at, _ADDRESSES)
    bare = select(cursor.depth == 0)
    frame, both, rest = cursor.frame[bare], header["both"][bare], header["rest"][bare]
    batch.link_hash[frame] = link_hash(both, rest)
    batch.src_link_hash[frame] = link_hash(both >> np.uint64(48), rest)
    open_ = control & _PROTECTED == 0
    first = header["sequence"] & 0x0F == 0
    batch.lose(Loss.WLAN_ENCRYPTED, ~open_)
    batch.lose(Loss.WLAN_FRAGMENT, open_ & ~first)
    these = select(open_ & first)
    return _read_bodies(batch, cursor.take(these), control[these].astype(np.int64), padded[these])


def _read_bodies(batch: Batch, cursor: Cursor, control: I64, padded: Bools) -> Found:
    qos = control & _QOS_DATA != 0
    qos_at = cursor.at + _HEADER_LEN + _FOURTH_ADDRESS_LEN * (control & _TO_AND_FROM == _TO_AND_FROM)
    body = qos_at + 2 * qos + _HT_CONTROL_LEN * (qos & (control & _HIGH_THROUGHPUT != 0))
    body = np.where(padded, cursor.at + (body - cursor.at + 3) // 4 * 4, body)
    good = cursor.end >= body
    cursor, qos, qos_at, body = batch.keep(cursor, good, Loss.TRUNCATED_LINK), qos[good], qos_at[good], body[good]
    _, field = batch.peek(qos_at, np.where(qos, cursor.end, qos_at), _QOS)
    aggregate = field["value"] & _AGGREGATE != 0
    cursor = moved(cursor, body)
    found: Found = [(Layer.LLC, cursor.take(select(~aggregate)))]
    if aggregate.any():
        found.append((Layer.LLC, _first_of_aggregate(batch, cursor.take(aggregate))))
    return found


def _first_of_aggregate(batch: Batch, cursor: Cursor) -> Cursor:
    """The first subframe of each A-MSDU (IEEE 802.11-2020 section 9.3.2.2.2)."""
    cursor = batch.keep_whole(cursor, _SUBFRAME.itemsize, Loss.TRUNCATED_LINK)
    length = batch.gather(cursor.at, _SUBFRAME)["length"].astype(np.int64)
    at = cursor.at + _SUBFRAME.itemsize
    wire_end = np.minimum(cursor.wire_end, at + length)
    # Behind it: at most padding and a check sum, or room for another subframe.
    batch.lose(Loss.WLAN_AGGREGATED, cursor.wire_end - wire_end > _SUBFRAME.itemsize + 3 + 4)
    return Cursor(
        frame=cursor.frame,
        at=at,
        end=np.minimum(cursor.end, wire_end),
        wire_end=wire_end,
        path=cursor.path,
        outer_at=cursor.outer_at,
        depth=cursor.depth,
    )
