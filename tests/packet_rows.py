"""Packets made by hand, one row a packet: for tests of what comes behind decoding."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcapdiag.capture.frames import Capture, Interface
from pcapdiag.packets.table import ACK, TCP, Addresses, Blob, FragmentGroups, IcmpErrors, Packets, SackBlocks, Tunnel

BEGIN_NS = 1_700_000_000_000_000_000
MS = 1_000_000
CLIENT, SERVER = ("10.0.0.1", 50_000), ("10.0.0.2", 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One packet; times are relative to BEGIN_NS, sequence numbers as sent (any integer: taken modulo 2^32)."""

    at_ns: int
    src: tuple[str, int] = CLIENT
    dst: tuple[str, int] = SERVER
    seq: int = 0
    ack: int = 0
    flags: int = ACK
    payload_len: int = 0
    sack: tuple[tuple[int, int], ...] = ()
    rest: tuple[tuple[str, Any], ...] = ()
    """Other columns of Packets."""


def row(at_ns: int, *, back: bool = False, **columns: Any) -> Row:
    """A packet of the client, or with `back` of the server; names that Row lacks are columns of Packets."""
    own = {name: columns.pop(name) for name in tuple(columns) if name in Row.__slots__}
    ends = {"src": SERVER, "dst": CLIENT} if back else {}
    return Row(at_ns=at_ns, rest=tuple(columns.items()), **{**ends, **own})


def packets(*rows: Row) -> Packets:
    """The table of these packets, in this order; each has an IP-ID of its own, so that none is a copy of another."""
    book = sorted({end[0] for one in rows for end in (one.src, one.dst)})
    index = {address: i for i, address in enumerate(book)}
    table = {name: np.zeros(len(rows), dtype) for name, dtype in _dtypes().items()}
    table["frame"] += np.arange(1, len(rows) + 1)
    table["ip_id"] += (np.arange(1, len(rows) + 1) * 7 % 65_535 + 1).astype(np.uint16)
    for name, value in {"proto": TCP, "ip_version": 4, "ttl": 64, "window": 1_000, "window_shift": -1, "direction": -1}.items():
        table[name] += np.asarray(value, table[name].dtype)
    for i, one in enumerate(rows):
        fixed: dict[str, Any] = {
            "ts_ns": BEGIN_NS + one.at_ns, "src": index[one.src[0]], "dst": index[one.dst[0]], "sport": one.src[1], "dport": one.dst[1],
            "seq": one.seq % 2**32, "ack": one.ack % 2**32, "flags": one.flags, "payload_len": one.payload_len,
            "ip_len": 40 + one.payload_len, "payload_captured": one.payload_len,
        }  # fmt: skip
        for name, value in (*fixed.items(), *one.rest):
            table[name][i] = value
    blocks = [(i, k, a % 2**32, b % 2**32) for i, one in enumerate(rows) for k, (a, b) in enumerate(one.sack)]
    sacks = SackBlocks(**{name: np.array([block[k] for block in blocks], dtype) for k, (name, dtype) in enumerate(_SACK_DTYPES.items())})
    return Packets(
        **table, blob=Blob.of([np.zeros(70_000, np.uint8)]), addresses=Addresses(tuple(socket.inet_aton(a) for a in book)),
        tunnels=(Tunnel((), 0),), sacks=sacks, icmp_errors=IcmpErrors.empty(), fragments=FragmentGroups.empty(),
    )  # fmt: skip


def capture(**changes: Any) -> Capture:
    """What is known of a whole capture of nothing special."""
    known: dict[str, Any] = {
        "name": "x.pcap", "sha256": "", "format": "pcap", "compression": "", "size_bytes": 0, "frame_count": 100, "cut_at": None,
        "cut_note": None, "interfaces": (Interface(link_type=1, snaplen=0),),
    }  # fmt: skip
    return Capture(**{**known, **changes})


_SACK_DTYPES = {name: getattr(SackBlocks.empty(), name).dtype for name in SackBlocks.columns()}


def _dtypes() -> dict[str, np.dtype[Any]]:
    sacks, errors, fragments = SackBlocks.empty(), IcmpErrors.empty(), FragmentGroups.empty()
    none = Packets.empty(blob=Blob.of([]), addresses=Addresses(()), tunnels=(), sacks=sacks, icmp_errors=errors, fragments=fragments)
    return {name: getattr(none, name).dtype for name in Packets.columns()}
