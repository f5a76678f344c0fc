"""Flags of packets, one by one: what sets them, and what nearly does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pcapdiag.flows import group_flows
from pcapdiag.flows.flags import PacketFlags, flag_packets
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from tests.packet_rows import MS, Row, capture, packets, row

if TYPE_CHECKING:
    from pcapdiag.columns import Bools


def flags(*rows: Row) -> PacketFlags:
    table = packets(*rows)
    return flag_packets(table, group_flows(table, (capture(),), as_recorded=True))


def places(mask: Bools) -> list[int]:
    """Which packets, counted from 0; one connection, so Segments have their order."""
    found: list[int] = np.flatnonzero(mask).tolist()
    return found


def data(at_ms: int, seq: int, length: int = 100, **more: Any) -> Row:
    return row(at_ms * MS, seq=seq, payload_len=length, **more)


def answer(at_ms: int, ack: int, **more: Any) -> Row:
    return row(at_ms * MS, back=True, **{"seq": 5, "ack": ack, **more})


OPEN = [
    row(0, seq=99, flags=SYN, window_shift=2),
    row(20 * MS, back=True, seq=4, ack=100, flags=SYN | ACK, window_shift=3),
    row(21 * MS, seq=100, ack=5),
]
"""The client's first byte is 100, the server's 5."""


def test_bytes_seen_and_holes_filled() -> None:
    found = flags(data(0, 0), data(1, 200), data(2, 100), data(3, 0), data(4, 250), data(5, 350))
    assert places(found.again) == [2, 3, 4]
    assert places(found.lost_segment) == [1]


def test_an_empty_packet_tells_how_far_its_sender_is() -> None:
    found = flags(data(0, 0), row(MS, seq=300), row(2 * MS, seq=300), data(3, 100), data(4, 300))
    assert places(found.lost_segment) == [1], "what is missing is told once"
    assert places(found.again) == [3]


def test_a_reset_shows_nothing() -> None:
    found = flags(data(0, 0), row(MS, seq=9_000, flags=RST), data(2, 100))
    assert (places(found.lost_segment), places(found.again)) == ([], [])


@pytest.mark.parametrize(("rows", "unseen"), [
    ([data(0, 0), answer(1, 100)], []),
    ([data(0, 0), answer(1, 300), answer(2, 300)], [1]),
    ([data(0, 0), data(1, 200), answer(2, 300)], [2]),
    ([data(0, 0), data(1, 200), answer(2, 200), data(3, 100)], [2]),
    ([data(0, 0), data(1, 200), data(2, 100), answer(3, 300)], []),
    ([data(0, 0), data(1, 100, 10, flags=ACK | FIN), answer(2, 111)], []),
    ([data(0, 0), row(MS, seq=150, flags=ACK | FIN), answer(2, 151)], [2]),
    ([answer(0, 300)], []),
], ids=["seen", "beyond, once", "over a hole", "into a hole", "filled", "a FIN", "a hole before a FIN", "nothing"])  # fmt: skip
def test_acknowledgments_of_what_was_not_captured(rows: list[Row], unseen: list[int]) -> None:
    assert places(flags(*rows).ack_lost_segment) == unseen


def test_windows() -> None:
    rows = [*OPEN, data(30, 100), answer(40, 200, window=0), answer(50, 200, window=0), answer(60, 200, window=25), data(61, 200, 200)]
    found = flags(*rows)
    assert places(found.zero_window) == [4, 5]
    assert places(found.window_update) == [6]
    assert places(found.window_full) == [7], "25 << 3 bytes"
    assert places(flags(*rows[3:]).window_full) == [], "without the SYNs nobody knows"
    assert places(flags(*rows[:-1], data(61, 200, 199)).window_full) == []


def test_a_zero_in_a_syn_fin_or_reset_is_no_closed_window() -> None:
    rows = [row(i * MS, seq=i, flags=flag, window=0) for i, flag in enumerate((SYN, FIN | ACK, RST))]
    assert places(flags(*rows).zero_window) == []


def test_a_keep_alive_and_its_answer() -> None:
    idle = [data(0, 0), answer(5, 100), row(6 * MS, seq=99, ack=5), answer(7, 100), data(8, 99, 1), answer(9, 100, window=999)]
    found = flags(*idle)
    assert places(found.keep_alive) == [2, 4]
    assert places(found.keep_alive_ack) == [3], "the other one updates the window"
    assert places(found.window_update) == [5]
    assert places(found.duplicate_ack > 0) == []


def test_a_byte_beyond_a_closed_window_is_a_probe_and_shows_nothing() -> None:
    shut = [data(0, 0), answer(5, 100, window=0), data(300, 100, 1), answer(305, 100, window=0), data(900, 100, 1)]
    found = flags(*shut, answer(905, 100), data(906, 100))
    assert places(found.window_probe) == [2, 4]
    assert places(found.again) == []
    assert places(found.keep_alive) == []


def test_ports_used_again() -> None:
    other = row(5 * MS, src=("10.0.0.1", 50_001), seq=7, flags=SYN)
    found = flags(*OPEN, other, row(9_000 * MS, seq=2**31 + 9, flags=SYN))
    assert found.reused_ports.tolist() == [False, False, False, False, True]


def test_what_an_ack_answers() -> None:
    found = flags(*OPEN, data(30, 100), data(31, 200), answer(50, 300), row(60 * MS, seq=300, ack=5, flags=ACK | FIN), answer(81, 301))
    assert found.acks_segment.tolist() == [-1, 0, 1, -1, -1, 4, -1, 6]
    assert (found.ack_rtt_ns[found.acks_segment >= 0] // MS).tolist() == [20, 1, 19, 21]


@pytest.mark.parametrize("rows", [
    [data(0, 0), data(20, 0), answer(50, 100)],
    [data(0, 0), data(10, 200), data(20, 100), answer(50, 300)],
    [row(0, seq=0, flags=SYN), row(MS, seq=0, flags=SYN), row(2 * MS, back=True, seq=0, ack=1, flags=SYN | ACK)],
], ids=["resent", "behind a hole", "SYN resent"])  # fmt: skip
def test_an_ambiguous_ack_answers_nothing(rows: list[Row]) -> None:
    assert (flags(*rows).acks_segment == -1).all()


def test_a_resend_of_what_was_acknowledged_spoils_no_sample() -> None:
    found = flags(data(0, 0), answer(50, 100), data(60, 0), data(61, 100), answer(90, 200))
    assert found.acks_segment.tolist() == [-1, 0, -1, -1, 3]


def test_what_the_receiver_holds_is_not_in_flight() -> None:
    rows = [answer(0, 0), data(1, 0), data(2, 100), data(3, 200), answer(4, 0, sack=((100, 200),)), data(5, 300)]
    assert flags(*rows).in_flight_len.tolist() == [-1, 100, 200, 300, -1, 300]
    rows[4] = answer(4, 100, sack=((50, 100),))
    assert flags(*rows).in_flight_len[5] == 300, "a DSACK lies below"


def test_no_packets_no_flags() -> None:
    assert len(flags()) == 0
