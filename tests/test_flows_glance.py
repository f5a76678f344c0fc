"""What all packets of a capture have in common, and what some of them show."""

from __future__ import annotations

import numpy as np
import pytest

from pcapdiag.flows.glance import SHOWN, Glance, glance
from pcapdiag.packets.table import ICMP, UDP
from tests.packet_rows import Row, packets, row

HTTPS = ("10.0.0.2", 443)


def at(*rows: Row) -> Glance:
    return glance(packets(*rows), 1, None)[0]


def test_what_was_seen_at_all() -> None:
    plain = at(row(0), row(1, payload_len=7))
    assert (plain.packet_count, plain.data_count, plain.cut_count) == (2, 1, 0)
    assert (plain.saw_icmp, plain.saw_dns, plain.saw_fragments) == (False, False, False)
    assert at(row(0), row(1, proto=ICMP)).saw_icmp
    assert at(row(0), row(1, proto=UDP, dst=("10.0.0.9", 53), flags=0)).saw_dns
    assert not at(row(0, dst=("10.0.0.9", 53))).saw_dns, "TCP to port 53 is no sight of lookups"
    assert at(row(0, more_fragments=True)).saw_fragments


def test_the_first_cut_frames_are_named() -> None:
    found = at(*(row(i, cut=i % 2 == 1) for i in range(40)))
    assert found.cut_count == 20
    assert found.cut_frames == list(range(2, 2 + 2 * SHOWN, 2))


@pytest.mark.parametrize(
    ("rows", "port"),
    [
        ([row(0, dst=HTTPS), row(1, src=("10.0.0.1", 50_001), dst=HTTPS)], 443),
        ([row(0, src=HTTPS), row(1, src=("10.0.0.1", 50_001), dst=HTTPS)], 443),
        ([row(0, dst=HTTPS), row(1, dst=HTTPS)], 0),
        ([row(0, dst=HTTPS), row(1, src=("10.0.0.1", 50_001))], 0),
        ([row(0, dst=HTTPS), row(1, src=("10.0.0.1", 50_001), dst=HTTPS), row(2, proto=ICMP, src=("10.0.0.1", 0), dst=HTTPS)], 0),
    ],
    ids=["server", "server first", "one connection has two", "two servers", "another protocol"],
)
def test_the_one_port_of_all_packets(rows: list[Row], port: int) -> None:
    assert at(*rows).port == port


def test_each_capture_by_itself_in_whatever_order_they_lie() -> None:
    table = packets(*(row(i, capture=i % 2, payload_len=i % 2) for i in range(9)))
    one, other = glance(table, 2, None)
    assert (one.packet_count, one.data_count, other.packet_count, other.data_count) == (5, 0, 4, 4)
    apart = glance(table.take(np.argsort(table.capture, kind="stable")), 3, None)
    assert [part.packet_count for part in apart] == [5, 4, 0]
