"""Conversations are found window by window; nothing may depend on where a window ends, or on where the columns lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pcapdiag.flows.conversations import blocks, find_conversations, order_by_time
from pcapdiag.packets.table import TCP, UDP, Packets
from pcapdiag.spool import WINDOW, Room
from tests.packet_rows import packets, row

COUNT = 3 * WINDOW + 11


@pytest.fixture(scope="module")
def many() -> Packets:
    """Packets of several windows between few hosts, a tenth of them a little out of order."""
    rng = np.random.default_rng(1)
    table = packets(row(0)).take(np.zeros(COUNT, np.intp))
    ts_ns = np.arange(COUNT) * 1_000 + np.where(rng.random(COUNT) < 0.1, rng.integers(-9, 9, COUNT) * 1_000_000, 0)
    columns: dict[str, Any] = {
        "ts_ns": ts_ns, "src": rng.integers(0, 4, COUNT), "dst": rng.integers(0, 4, COUNT), "sport": rng.integers(0, 9, COUNT),
        "dport": rng.integers(0, 9, COUNT), "proto": rng.choice([TCP, UDP, 1], COUNT), "frag_offset": 8 * (rng.random(COUNT) < 0.01),
    }  # fmt: skip
    return replace(table, **{name: values.astype(getattr(table, name).dtype) for name, values in columns.items()})


@pytest.mark.parametrize("room", [None, Room(0)], ids=["in memory", "in files"])
@pytest.mark.parametrize("by_time", [True, False])
def test_each_conversation_has_all_its_packets_in_order(many: Packets, by_time: bool, room: Room | None) -> None:
    aside = np.arange(5, COUNT, 1_000)
    found = find_conversations(many, aside, by_time=by_time, room=room)
    ends = np.stack([(many.src.astype(np.int64) << 16) | many.sport, (many.dst.astype(np.int64) << 16) | many.dport])
    usable = np.isin(many.proto, (TCP, UDP)) & (many.frag_offset == 0) & ((many.sport > 0) | (many.dport > 0))
    usable[aside] = False
    rows = np.flatnonzero(usable)
    keys = (ends.min(axis=0)[rows], ends.max(axis=0)[rows], many.proto[rows])
    order = np.lexsort((rows, many.ts_ns[rows] if by_time else rows, *keys))
    assert len(found.rows) == len(rows)
    starts = np.concatenate([[True], np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)])
    assert int(starts.sum()) == len(found.length)
    expected = {tuple(part.tolist()[:3]): part for part in np.split(rows[order], np.flatnonzero(starts)[1:])}
    for part in np.split(found.rows, np.cumsum(found.length)[:-1]):
        np.testing.assert_array_equal(part, expected[tuple(part.tolist()[:3])])


@pytest.mark.parametrize("room", [None, Room(0)], ids=["in memory", "in files"])
def test_the_order_of_time_is_a_stable_sort(many: Packets, room: Room | None) -> None:
    order = order_by_time(many, room)
    assert order is not None
    np.testing.assert_array_equal(order.rows, np.argsort(many.ts_ns, kind="stable"))
    np.testing.assert_array_equal(order.ts_ns, np.sort(many.ts_ns))
    straight = replace(many, ts_ns=np.sort(many.ts_ns))
    assert order_by_time(straight, room) is None


def test_groups_are_never_split() -> None:
    assert list(blocks(np.array([3, 1, 9, 2, 2]), 4)) == [(0, 2), (2, 3), (3, 5)]
    assert list(blocks(np.array([], np.int64), 4)) == [(0, 0)], "one block of nothing: its tables have columns, too"
