"""The packet tables' own small parts."""

from __future__ import annotations

import numpy as np

from pcapdiag.packets import Addresses, Blob, FragmentGroups, Packets
from tests.frame_bytes import batch, decode, ether, ipv4, tcp


def test_a_blob_reads_from_the_buffer_an_offset_lies_in() -> None:
    parts = [b"abc", b"", b"defgh", b"i"]
    blob = Blob.of([np.frombuffer(part, np.uint8) for part in parts])
    assert blob.starts == (0, 3, 3, 8)
    assert [bytes(blob.read(at, length)) for at, length in ((0, 3), (2, 1), (3, 5), (7, 1), (8, 1), (9, 0))] == [
        b"abc", b"c", b"defgh", b"h", b"i", b"",
    ]  # fmt: skip


def test_endpoints_are_written_as_people_write_them() -> None:
    addresses = Addresses((bytes([192, 0, 2, 1]), bytes(15) + b"\x01"))
    assert addresses.text(0) == "192.0.2.1"
    assert addresses.endpoint(0, 80) == "192.0.2.1:80"
    assert addresses.endpoint(1, 443) == "[::1]:443"


def test_decoded_columns_have_the_declared_types() -> None:
    packets, _ = decode(batch([ether(ipv4(tcp(b"x")))]), batch([ether(ipv4(bytes(8), mf=True)), bytes(14)], first=2))
    for table, blank in ((packets, Packets.empty), (packets.fragments, FragmentGroups.empty)):
        rest = {
            name: getattr(table, name) for name in ("blob", "addresses", "tunnels", "sacks", "icmp_errors", "fragments") if table is packets
        }
        declared = blank(**rest)
        for name in table.columns():
            assert getattr(table, name).dtype == getattr(declared, name).dtype, name


def test_a_row_costs_little_memory() -> None:
    packets, _ = decode(batch([ether(ipv4(tcp(b"x")))] * 100))
    assert sum(getattr(packets, name).nbytes for name in packets.columns()) <= 120 * len(packets)
