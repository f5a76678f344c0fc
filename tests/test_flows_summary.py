"""One row per flow, put together from all that step 3 found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.flows import assemble, group_flows
from pcapdiag.flows.table import Kind, TcpTables
from pcapdiag.packets.table import ACK, RST, SYN, UDP, Tunnel
from tests.packet_rows import BEGIN_NS, MS, Row, capture, packets, row
from tests.wire import Wire, merge

DNS = ("10.0.0.53", 53)


def tables(*rows: Row) -> TcpTables:
    return group_flows(packets(*rows), (capture(),))


def mixed() -> TcpTables:
    """Two connections, a lookup between them, and what belongs to no flow."""
    other = ("10.0.0.1", 50_001)
    return tables(
        row(0, flags=SYN), row(1, dst=DNS, proto=UDP, flags=0, payload_len=30), row(2, src=other, flags=SYN), row(3, proto=1),
        row(4, src=DNS, dst=("10.0.0.1", 50_000), proto=UDP, flags=0, payload_len=60), row(5, back=True, ack=1, flags=RST | ACK),
    )  # fmt: skip


def test_flows_of_both_protocols_are_numbered_together_and_kept_apart() -> None:
    found = mixed()
    assert found.flows.proto.tolist() == [6, UDP, 6]
    assert found.segments.flow.tolist() == [0, 0, 2]
    assert found.datagrams.flow.tolist() == [1, 1]
    assert found.datagrams.direction.tolist() == [0, 1]
    assert found.flow_of_row.tolist() == [0, 1, 2, -1, 1, 0]
    for flow, proto in enumerate(found.flows.proto.tolist()):
        table = found.datagrams if proto == UDP else found.segments
        rows = slice(int(found.flows.begin[flow]), int(found.flows.stop[flow]))
        assert set(table.flow[rows].tolist()) == {flow}
        assert rows.stop - rows.start == found.flows.packet_count[flow]


def test_totals_and_times() -> None:
    flows = mixed().flows
    assert flows.packet_count.tolist() == [2, 2, 1]
    assert flows.byte_count.tolist() == [80, 170, 40]
    assert (flows.first_ns - BEGIN_NS).tolist() == [0, 1, 2]
    assert (flows.last_ns - BEGIN_NS).tolist() == [5, 4, 2]


def test_what_only_tcp_has_is_unknown_for_the_rest() -> None:
    flows = mixed().flows
    assert (flows.syn_ns[1], flows.rst_ns[1], flows.rst_direction[1], flows.client_shift[1]) == (NEVER, NEVER, -1, -1)
    assert (flows.syn_count.tolist(), flows.rst_direction.tolist()) == ([1, 0, 1], [1, -1, -1])


def test_time_stamps_are_a_habit_of_most_packets() -> None:
    def stamped(*marks: bool) -> bool:
        return bool(tables(*(row(i, seq=i, has_ts=mark) for i, mark in enumerate(marks))).flows.timestamps[0])

    assert stamped(True, True, False)
    assert not stamped(True, False)


def test_the_largest_tunnel_around_a_flow() -> None:
    table = packets(row(0, tunnel=1), row(1, tunnel=2), row(2))
    table = replace(table, tunnels=(Tunnel((), 0), Tunnel(("vxlan 1",), 50), Tunnel(("gre",), 24)))
    assert group_flows(table, (capture(),)).flows.tunnel_overhead_len.tolist() == [50]


def test_copies_belong_to_no_flow() -> None:
    found = tables(row(0, seq=5, payload_len=9, ip_id=3), row(1_000, seq=5, payload_len=9, ip_id=3))
    assert found.flow_of_row.tolist() == [0, -1]
    assert (found.flows.packet_count.tolist(), len(found.segments)) == ([1], 1)


def test_one_way_needs_an_acknowledgment_of_what_is_missing() -> None:
    def one_way(*rows: Row) -> bool:
        return bool(tables(*rows).flows.one_way[0])

    alone = [row(i, seq=i, ack=i) for i in range(4)]
    assert one_way(*alone)
    assert one_way(*alone[:2]), "it acknowledges more and more"
    assert one_way(row(0, flags=SYN), row(1, seq=1, ack=1)), "it heard a SYN-ACK"
    assert one_way(*(row(i, seq=i, ack=7) for i in range(4))), "it goes on after an ACK"
    assert not one_way(*(row(i, seq=i, ack=7) for i in range(3))), "the end of an old connection"
    assert not one_way(row(0, seq=1, ack=7), row(1, seq=2, ack=9, flags=RST | ACK)), "a reset may carry anything"
    assert not one_way(*alone, row(9, back=True))
    assert not one_way(*(row(i, seq=i, flags=SYN) for i in range(6)))


def test_in_a_capture_of_one_direction_short_connections_are_one_way_too() -> None:
    def ends(i: int) -> dict[str, Any]:
        return {"src": ("10.0.0.1", 50_000 + i)}

    long = [row(10 * i + k, seq=k, ack=k, **ends(i)) for i in range(3) for k in range(5)]
    short = [row(1_000, seq=5, ack=5, **ends(7)), row(1_001, flags=SYN, **ends(8))]
    assert tables(*long, *short).flows.one_way.tolist() == [True, True, True, True, False], "a SYN proves nothing, in any company"
    assert tables(*long[:10], *short).flows.one_way.tolist() == [True, True, False, False], "two may be chance"
    both = [
        one
        for i in range(20, 23)
        for one in (row(2_000 + i, seq=1, ack=1, **ends(i)), row(2_100 + i, back=True, dst=ends(i)["src"], seq=1, ack=1))
    ]
    assert tables(*long, *short, *both).flows.one_way.tolist()[3] is False, "both directions are here: it is asymmetric at most"


def test_super_segments_of_older_connections_show_by_being_multiples() -> None:
    def supers(*lengths: int) -> int:
        at, rows = 0, []
        for i, length in enumerate(lengths):
            rows.append(row(i * MS, seq=at, ack=1, payload_len=length))
            at += length
        return tables(*rows).quality[0].super_segments

    assert supers(1_448, 2_896, 4_344, 700, 5_792) == 3
    assert supers(2_920, 8_760, 3_333) == 3, "the last one of a burst ends anywhere"
    assert supers(8_948, 8_948, 8_948, 300) == 0, "jumbo frames"
    assert supers(4_312, 4_312) == 0, "FDDI"
    assert supers(2_896) == 0, "one packet proves nothing"


def test_rows_find_their_segments_again() -> None:
    """Every column of Segments belongs to the packet of its row, whatever order the work was done in."""
    told = merge(*(Wire(cport=50_000 + i, start_ms=3 * i).handshake().http_get(body=5_000).close() for i in range(4)))
    trace = told.trace()
    seg, packets_ = trace.segments, trace.packets
    assert sorted(seg.row.tolist()) == list(range(len(packets_)))
    assert (seg.ts_ns == packets_.ts_ns[seg.row]).all()
    assert (seg.flags == packets_.flags[seg.row]).all()
    assert (seg.payload_len == packets_.payload_len[seg.row]).all()
    assert ((packets_.sport[seg.row] == 80) == (seg.direction == 1)).all()
    assert (np.diff(seg.flow) >= 0).all()
    for flow in range(4):
        assert (np.diff(seg.ts_ns[seg.flow == flow]) >= 0).all()
    assert set(seg.kind.tolist()) == {Kind.SYN, Kind.CONTROL, Kind.NEW, Kind.FIN}
    assert (assemble.group_flows(packets_, trace.captures).segments.seq == seg.seq).all()


def test_the_flow_order_is_that_of_first_packets_whatever_the_addresses() -> None:
    ends = [(f"10.0.0.{n}", 1_000 * n) for n in (9, 3, 7, 5)]
    found = tables(
        *(row(i * MS, src=end) for i, end in enumerate(ends)), *(row((9 - i) * MS, src=end, seq=1) for i, end in enumerate(ends))
    )
    assert found.flows.client_port.tolist() == [9_000, 3_000, 7_000, 5_000]
