"""What opening and closing packets say of a connection."""

from __future__ import annotations

from typing import Any

import pytest

from pcapdiag.columns import NEVER
from pcapdiag.flows import group_flows
from pcapdiag.flows.table import Flows
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from tests.packet_rows import BEGIN_NS, MS, Row, capture, packets, row
from tests.wire import START_NS, Wire


def flow(*rows: Row) -> Flows:
    flows = group_flows(packets(*rows), (capture(),)).flows
    assert len(flows) == 1
    return flows


def syn(at_ms: int = 0, **options: Any) -> Row:
    return row(at_ms * MS, seq=99, flags=SYN, **options)


def syn_ack(at_ms: int = 10, **options: Any) -> Row:
    return row(at_ms * MS, back=True, seq=499, ack=100, flags=SYN | ACK, **options)


def ack(at_ms: int = 11, **options: Any) -> Row:
    return row(at_ms * MS, seq=100, ack=500, **options)


def since(ns: Any) -> int | None:
    return None if int(ns) == NEVER else (int(ns) - BEGIN_NS) // MS


def test_times_counts_and_both_halves_of_the_round_trip() -> None:
    flows = Wire(rtt_ms=20, vantage="middle").handshake().trace().flows
    assert (flows.syn_count[0], flows.syn_ack_count[0]) == (1, 1)
    assert [round((int(ns[0]) - START_NS) / 1e6) for ns in (flows.syn_ns, flows.syn_ack_ns, flows.established_ns)] == [5, 15, 25]
    assert [round(int(ns[0]) / 1e6) for ns in (flows.near_rtt_ns, flows.far_rtt_ns)] == [10, 10]


def test_after_a_resent_syn_nobody_knows_which_one_was_answered() -> None:
    flows = flow(syn(0), syn(1_000), syn_ack(1_010), ack(1_011))
    assert (flows.syn_count[0], flows.far_rtt_ns[0], flows.near_rtt_ns[0]) == (2, -1, MS)
    assert since(flows.syn_ns[0]) == 0


def test_after_a_resent_syn_ack_nobody_knows_which_one_was_acknowledged() -> None:
    flows = flow(syn(0), syn_ack(10), syn_ack(1_010), ack(1_011))
    assert (flows.syn_ack_count[0], flows.far_rtt_ns[0], flows.near_rtt_ns[0]) == (2, 10 * MS, -1)


def test_an_acknowledgment_before_the_syn_ack_establishes_nothing() -> None:
    flows = flow(syn(0), row(5 * MS, seq=100, ack=500), syn_ack(10), row(12 * MS, seq=100, ack=500, flags=RST | ACK))
    assert since(flows.established_ns[0]) is None
    assert flows.near_rtt_ns[0] == -1


def test_a_half_seen_handshake() -> None:
    only_syn, only_answer = flow(syn()), flow(syn_ack(), ack())
    assert (since(only_syn.syn_ns[0]), since(only_syn.syn_ack_ns[0]), only_syn.far_rtt_ns[0]) == (0, None, -1)
    assert (since(only_answer.syn_ns[0]), only_answer.far_rtt_ns[0], only_answer.near_rtt_ns[0]) == (None, -1, MS)


@pytest.mark.parametrize(("client", "server", "shifts", "sack"), [
    ({"window_shift": 7, "sack_permitted": True, "mss": 1_460}, {"window_shift": 9, "sack_permitted": True, "mss": 1_400}, (7, 9), 1),
    ({"window_shift": 14}, {"window_shift": 0}, (14, 0), 0),
    ({"window_shift": 7}, {}, (0, 0), 0),
    ({}, {"window_shift": 7}, (0, 0), 0),
    ({"window_shift": 7, "sack_permitted": True}, None, (-1, -1), -1),
    ({"window_shift": -1, "sack_permitted": False}, None, (0, 0), 0),
    (None, {"window_shift": 9, "sack_permitted": True}, (-1, 9), -1),
    (None, {"window_shift": 0}, (-1, 0), 0),
    (None, {}, (0, 0), 0),
], ids=[
    "both", "largest", "server refuses", "client asks not", "no answer seen", "no answer, nothing asked", "answer alone",
    "unscaled answer alone", "plain answer",
])  # fmt: skip
def test_options_hold_when_both_sides_agreed(
    client: dict[str, int] | None, server: dict[str, int] | None, shifts: tuple[int, int], sack: int
) -> None:
    rows = ([] if client is None else [syn(**client)]) + ([] if server is None else [syn_ack(**server)])
    flows = flow(*rows, ack())
    assert (int(flows.client_shift[0]), int(flows.server_shift[0])) == shifts
    assert flows.sack_ok[0] == sack
    assert (flows.client_mss[0], flows.server_mss[0]) == ((client or {}).get("mss", 0), (server or {}).get("mss", 0))


def test_windows_are_scaled_where_the_scale_is_known_and_never_in_a_syn() -> None:
    both = group_flows(packets(syn(window_shift=3), syn_ack(window_shift=2), ack(window=50), row(9**9, back=True, window=50)), (capture(),))
    assert both.segments.window.tolist() == [1_000, 1_000, 400, 200]
    unknown = group_flows(packets(ack(window=50)), (capture(),))
    assert unknown.segments.window.tolist() == [50]


def test_how_a_connection_ended() -> None:
    flows = flow(syn(), syn_ack(), ack(), row(20 * MS, seq=100, flags=FIN | ACK), row(30 * MS, back=True, seq=500, flags=FIN | ACK))
    assert (since(flows.client_fin_ns[0]), since(flows.server_fin_ns[0]), since(flows.rst_ns[0]), flows.rst_direction[0]) == (
        20,
        30,
        None,
        -1,
    )
    flows = flow(syn(), syn_ack(), ack(), row(20 * MS, back=True, seq=500, flags=RST), row(30 * MS, seq=100, flags=RST))
    assert (since(flows.client_fin_ns[0]), since(flows.rst_ns[0]), flows.rst_direction[0]) == (None, 20, 1)


def test_two_flows_do_not_mix() -> None:
    other = ("10.0.0.1", 50_001)
    rows = [
        syn(),
        row(MS, src=other, seq=1, flags=SYN),
        syn_ack(10),
        row(40 * MS, back=True, dst=other, seq=2, ack=2, flags=SYN | ACK),
        ack(12),
    ]
    flows = group_flows(packets(*rows), (capture(),)).flows
    assert flows.far_rtt_ns.tolist() == [10 * MS, 39 * MS]
    assert [since(ns) for ns in flows.established_ns] == [12, None]
