"""First sights, advances of the ACK, and what the capture itself lost."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.flows import group_flows
from pcapdiag.flows.offsets import key
from pcapdiag.flows.pieces import first_ack, time_of
from pcapdiag.flows.table import Acks, TcpTables
from pcapdiag.packets.table import ACK, FIN, RST, SYN
from tests.packet_rows import BEGIN_NS, MS, Row, capture, packets, row


def tables(*rows: Row) -> TcpTables:
    return group_flows(packets(*rows), (capture(),))


OPEN = [row(0, seq=0, flags=SYN), row(MS, back=True, seq=0, ack=1, flags=SYN | ACK), row(2 * MS, seq=1, ack=1)]


def data(at_ms: int, seq: int, length: int = 100) -> Row:
    """Stream bytes from `seq` on."""
    return row(at_ms * MS, seq=1 + seq, ack=1, payload_len=length)


def answer(at_ms: int, ack: int) -> Row:
    return row(at_ms * MS, back=True, seq=1, ack=1 + ack)


def gaps(*rows: Row) -> list[tuple[int, int, int, int]]:
    """(fd, start, stop, ms at which it was acknowledged)."""
    found = tables(*OPEN, *rows).gaps
    at = ((found.stop_ns - BEGIN_NS) // MS).tolist()
    return list(zip(found.fd.tolist(), found.start.tolist(), found.stop.tolist(), at, strict=True))


def test_one_number_sorts_by_direction_then_offset() -> None:
    fds, offsets = np.array([0, 0, 0, 1, 1, 2]), np.array([-1, 0, 2**40, -1, 3, 0])
    assert (np.diff(key(fds, offsets)) > 0).all()


def test_the_first_acknowledgment_of_a_byte() -> None:
    acks = Acks(fd=np.array([0, 0, 3]), offset=np.array([10, 20, 5]), segment=np.array([7, 8, 9]), ts_ns=np.array([100, 200, 300]))
    rows = first_ack(acks, np.array([0, 0, 0, 0, 3, 2]), np.array([0, 9, 10, 20, 4, 0]))
    assert rows.tolist() == [0, 0, 1, 3, 2, 3]
    assert time_of(acks, rows).tolist() == [100, 100, 200, NEVER, 300, NEVER]


def test_a_hole_is_the_captures_once_its_last_byte_was_acknowledged() -> None:
    assert gaps(data(3, 0), data(4, 200), answer(5, 300)) == [(0, 100, 200, 5)]
    assert gaps(data(3, 0), data(4, 200), answer(5, 199)) == []
    assert gaps(data(3, 0), data(4, 200)) == []


def test_before_the_first_byte_and_behind_the_last() -> None:
    assert gaps(data(3, 50), answer(4, 150)) == [(0, 0, 50, 4)]
    assert gaps(data(3, 0), answer(4, 100), answer(9, 700)) == [(0, 100, 700, 9)]
    assert gaps(answer(4, 300)) == [(0, 0, 300, 4)], "not one byte of it was captured"


def test_one_byte_above_all_is_the_fin() -> None:
    assert gaps(data(3, 0), answer(4, 101)) == []
    assert gaps(data(3, 0), row(4 * MS, seq=101, ack=1, flags=FIN | ACK), answer(5, 101)) == []


def test_behind_a_fin_bytes_may_still_come() -> None:
    found = tables(*OPEN, data(3, 0), row(4 * MS, seq=301, ack=1, flags=FIN | ACK), data(9, 100, 200))
    assert found.pieces.stop.tolist() == [100, 300]
    assert ((found.pieces.in_order_ns - BEGIN_NS) // MS).tolist() == [3, 9]


def test_where_a_whole_direction_is_missing_nothing_is_a_gap() -> None:
    found = tables(*(row(i * MS, seq=0, ack=1 + 500 * i) for i in range(6)))
    assert found.flows.one_way.tolist() == [True]
    assert len(found.gaps) == 0


def test_data_in_a_syn_is_data() -> None:
    """TCP Fast Open (RFC 7413)."""
    rows = [row(0, seq=0, flags=SYN, payload_len=40), row(MS, back=True, seq=0, ack=41, flags=SYN | ACK), data(2, 40)]
    found = tables(*rows)
    assert (found.pieces.start.tolist(), found.pieces.stop.tolist()) == ([0, 40], [40, 140])
    assert len(found.gaps) == 0


def test_what_a_reset_carries_is_no_data() -> None:
    """It may hold words about its cause (RFC 9293 section 3.5.3)."""
    found = tables(*OPEN, data(3, 0), row(4 * MS, seq=101, flags=RST | ACK, ack=1, payload_len=20))
    assert found.pieces.stop.tolist() == [100]


def test_each_advance_of_an_ack_is_a_row_and_counts_its_bytes() -> None:
    found = tables(*OPEN, data(3, 0), data(4, 100), answer(5, 100), answer(6, 100), answer(7, 200))
    mine = found.acks.fd == 0
    assert found.acks.offset[mine].tolist() == [0, 100, 200]
    assert found.segments.acked_len.tolist() == [0, 0, 0, 0, 0, 100, 0, 100]
