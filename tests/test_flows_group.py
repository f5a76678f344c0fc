"""Which packets form a flow, and which end is the client."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.flows.group import Grouping, group_packets
from pcapdiag.packets.table import ACK, FIN, PSH, RST, SYN, UDP
from tests.packet_rows import CLIENT, MS, SERVER, Row, packets, row

MORE = ("10.0.0.3", 50_001)
A = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def grouped(*rows: Row) -> tuple[list[list[int]], Grouping, list[str]]:
    """Per flow its packets (from 0), by time; the grouping; the addresses by index."""
    table = packets(*rows)
    grouping = group_packets(table)
    flows = [grouping.rows[begin : begin + length].tolist() for begin, length in zip(grouping.begin, grouping.length, strict=True)]
    return flows, grouping, [table.addresses.text(i) for i in range(len(table.addresses.packed))]


def clients(*rows: Row) -> list[tuple[str, int, bool]]:
    """Per flow (client address, client port, known)."""
    _, grouping, text = grouped(*rows)
    return list(zip([text[i] for i in grouping.client], grouping.client_port.tolist(), grouping.roles_known.tolist(), strict=True))


def test_both_directions_are_one_flow_and_flows_are_numbered_by_their_first_packet() -> None:
    sent = (row(0, back=True), row(1, src=MORE), row(2), row(3, src=SERVER, dst=MORE), row(4, back=True))
    flows, grouping, _ = grouped(*sent)
    assert flows == [[0, 2, 4], [1, 3]]
    bundle = grouping.bundle(packets(*sent), 0, 2)
    assert bundle.rows.tolist() == [0, 2, 4, 1, 3]
    assert bundle.direction.tolist() == [1, 0, 1, 0, 1]
    assert bundle.flow.tolist() == [0, 0, 0, 1, 1]
    second = grouping.bundle(packets(*sent), 1, 2)
    assert (second.rows.tolist(), second.begin.tolist(), second.flow.tolist()) == ([1, 3], [0], [0, 0])


@given(st.lists(st.tuples(st.sampled_from(A), st.integers(1, 2), st.sampled_from(A), st.integers(1, 2), st.booleans()), max_size=25))
def test_a_flow_is_an_unordered_pair_of_endpoints_and_a_protocol(sent: list[tuple[str, int, str, int, bool]]) -> None:
    rows = [row(i, src=(a, p), dst=(b, q), proto=UDP if udp else 6, flags=0 if udp else ACK) for i, (a, p, b, q, udp) in enumerate(sent)]
    flows, grouping, _ = grouped(*rows)
    keys: dict[object, list[int]] = {}
    for i, (a, p, b, q, udp) in enumerate(sent):
        keys.setdefault((frozenset([(a, p), (b, q)]), udp), []).append(i)
    assert flows == list(keys.values())
    for flow, members in enumerate(flows):
        ways = grouping.bundle(packets(*rows), flow, flow + 1).direction.tolist()
        client = {sent[i][:2] if way == 0 else sent[i][2:4] for i, way in zip(members, ways, strict=True)}
        assert len(client) == 1, "one end of all of them is the client"


def test_other_protocols_and_later_fragments_belong_to_no_flow() -> None:
    rows = [row(0, proto=1), row(1, frag_offset=1480), row(2, src=("10.0.0.1", 0), dst=("10.0.0.2", 0)), row(3, proto=132)]
    assert grouped(*rows)[0] == []


def test_time_and_not_the_file_orders_the_packets_of_a_flow() -> None:
    assert grouped(row(5), row(3, back=True), row(9))[0] == [[1, 0, 2]]


def test_the_file_orders_them_when_that_is_wanted() -> None:
    grouping = group_packets(packets(row(5, src=MORE), row(3, back=True), row(9), row(1)), by_time=False)
    assert [grouping.rows[grouping.places(np.array([flow]))].tolist() for flow in range(2)] == [[0], [1, 2, 3]]


def test_what_is_set_aside_is_in_no_flow() -> None:
    grouping = group_packets(packets(*(row(i) for i in range(5)), row(6, src=MORE)), np.array([0, 3, 5]))
    assert grouping.rows.tolist() == [1, 2, 4]
    assert grouping.length.tolist() == [3]


def test_ports_that_add_up_to_a_power_of_two_are_ports() -> None:
    """65,093 + 443 is 2^16: a sum in 16 bits would be 0, which stands for packets without ports."""
    flows, _, _ = grouped(
        row(0, src=("10.0.0.1", 65_093), dst=("10.0.0.2", 443)), row(1, src=("10.0.0.1", 32_768), dst=("10.0.0.2", 32_768))
    )
    assert flows == [[0], [1]]


# --- the same endpoints again ------------------------------------------------------------------------------------------


def opening(at: int, isn: int) -> list[Row]:
    """A short connection: SYN, SYN-ACK, ACK, FIN."""
    return [
        row(at, seq=isn, flags=SYN), row(at + 1, back=True, seq=7, ack=isn + 1, flags=SYN | ACK), row(at + 2, seq=isn + 1, ack=8),
        row(at + 3, seq=isn + 1, flags=FIN | ACK),
    ]  # fmt: skip


def test_a_syn_with_another_number_opens_a_new_flow() -> None:
    flows, _, _ = grouped(*opening(0, 1_000), *opening(10, 90_000_000))
    assert flows == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("between", [[], opening(2, 1_000)[1:], [row(2, back=True, flags=RST | ACK, ack=1_001)]])
def test_a_syn_sent_again_does_not(between: list[Row]) -> None:
    assert len(grouped(row(0, seq=1_000, flags=SYN), *between, row(9, seq=1_000, flags=SYN))[0]) == 1


def test_a_syn_behind_an_older_connection_of_which_only_the_end_was_captured_opens_a_new_one() -> None:
    older = [row(0, seq=3_000_000_000, ack=5, payload_len=10), row(1, back=True, seq=5, ack=3_000_000_010)]
    for end in (older[:1], older, [*older, row(2, seq=3_000_000_010, flags=FIN | ACK)], older[1:]):
        flows, _, _ = grouped(*end, *opening(10, 1_000))
        assert flows == [list(range(len(end))), list(range(len(end), len(end) + 4))]


def test_a_syn_captured_behind_packets_of_its_own_connection_does_not() -> None:
    syn, syn_ack, ack, fin = opening(0, 2**32 - 2)
    assert len(grouped(syn_ack, row(2, seq=syn.seq, flags=SYN), ack, fin)[0]) == 1
    assert len(grouped(ack, row(3, seq=syn.seq, flags=SYN))[0]) == 1


def test_a_reset_without_a_number_to_compare_decides_nothing() -> None:
    assert len(grouped(row(0, back=True, flags=RST), row(1, seq=1_000, flags=SYN))[0]) == 1


def test_servers_that_repeat_or_change_their_answer_do_not_open_flows() -> None:
    rows = [row(0, seq=1_000, flags=SYN), *(row(i, back=True, seq=i * 10**6, ack=1_001, flags=SYN | ACK) for i in (1, 2, 3))]
    assert len(grouped(*rows)[0]) == 1


# --- roles -------------------------------------------------------------------------------------------------------------


def test_who_sent_the_syn_is_the_client_whatever_the_ports() -> None:
    assert clients(row(0, back=True, flags=SYN), row(1, flags=SYN | ACK)) == [("10.0.0.2", 80, True)]


def test_who_got_the_syn_ack_is_the_client() -> None:
    assert clients(row(0, back=True, flags=PSH | ACK), row(1, flags=SYN | ACK)) == [("10.0.0.2", 80, True)]


def test_without_a_handshake_a_system_port_serves() -> None:
    for turned in (False, True):
        assert clients(row(0, back=turned)) == [("10.0.0.1", 50_000, False)]


def test_without_a_handshake_whoever_serves_elsewhere_serves_here() -> None:
    server, other = ("10.0.0.2", 9_000), ("10.0.0.3", 8_000)
    known = row(0, dst=server, flags=SYN)
    assert clients(known, row(1, src=server, dst=other))[1] == ("10.0.0.3", 8_000, False)
    assert clients(known, row(1, src=other, dst=server))[1] == ("10.0.0.3", 8_000, False)


def test_without_a_handshake_the_end_of_many_flows_serves_then_the_lower_port() -> None:
    hub = ("10.0.0.2", 40_000)
    spokes = [(f"10.0.0.{n}", 30_000 + n) for n in (3, 4, 5)]
    assert {one[1] for one in clients(*(row(i, src=hub, dst=spoke) for i, spoke in enumerate(spokes)))} == {30_003, 30_004, 30_005}
    assert clients(row(0, src=("10.0.0.2", 9_000), dst=("10.0.0.1", 50_000))) == [("10.0.0.1", 50_000, False)]


def test_whoever_speaks_first_over_udp_is_the_client_unless_it_looks_like_a_server() -> None:
    rows = [row(0, src=("10.0.0.9", 5_353), dst=("10.0.0.2", 5_353), proto=UDP, flags=0)]
    assert clients(*rows) == [("10.0.0.9", 5_353, True)]
    assert clients(row(0, back=True, proto=UDP, flags=0)) == [(*CLIENT, True)], "an answer whose question was not captured"


# --- size --------------------------------------------------------------------------------------------------------------


def test_forty_thousand_addresses() -> None:
    count = 40_000
    table = packets(*(row(i * MS, src=(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 1_000 + i % 60_000)) for i in range(count)))
    both = np.concatenate([np.arange(count), np.arange(count)])
    grouping = group_packets(table.take(both))
    assert len(grouping.begin) == count
    assert (grouping.length == 2).all()
    assert (np.diff(grouping.rows[grouping.begin]) == 1).all()
    assert (grouping.server_port == 80).all()
