"""A label's seconds, grouped by client host and server."""

from __future__ import annotations

from pcapdiag.findings.shares import shares
from tests.diagnoses import exchange, ledger, tables

S = 1_000_000_000
ROWS = exchange(0, 0, 3), exchange(1, 0, 3), exchange(2, 0, 3, flow=1)
LOSSES = (0, 1.0, 1.5, "tail-loss-rto"), (1, 1.0, 2.0, "tail-loss-rto"), (2, 0.5, 2.5, "tail-loss-rto")


def test_there_is_a_share_for_each_pair_of_hosts_the_costliest_first() -> None:
    found = list(shares(ledger(ROWS, *LOSSES), "tail-loss-rto", tables(ROWS)))
    assert [(share.exchanges, share.stall_ns) for share in found] == [((2,), 2 * S), ((0, 1), 3 * S // 2)]
    assert found[0].longest.duration_ns == 2 * S


def test_another_label_has_no_share() -> None:
    assert list(shares(ledger(ROWS, *LOSSES), "zero-window", tables(ROWS))) == []


def test_the_evidence_comes_in_the_order_of_time_each_frame_once() -> None:
    for share in shares(ledger(ROWS, *LOSSES), "tail-loss-rto", tables(ROWS)):
        times = [(frame.ts_ns, frame.number) for frame in share.frames()]
        assert times == sorted(set(times))
        assert share.best() in share.signs
