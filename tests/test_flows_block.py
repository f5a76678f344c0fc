"""Flows are worked on block by block; no table may depend on where one block ends."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pcapdiag.capture import read_capture
from pcapdiag.columns import Table
from pcapdiag.flows import group_flows
from pcapdiag.flows.table import TcpTables
from pcapdiag.losses import Losses
from pcapdiag.packets import decode_packets

SAMPLES = sorted(Path(__file__).parents[1].glob("samples/*/*.pcap*"))


def assert_same(one: TcpTables, other: TcpTables) -> None:
    for part in fields(one):
        mine, theirs = getattr(one, part.name), getattr(other, part.name)
        if isinstance(mine, Table):
            for name in mine.columns():
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), f"{part.name}.{name}")
                assert getattr(mine, name).dtype == getattr(theirs, name).dtype
        elif isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, part.name)
        else:
            assert mine == theirs


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_table_depends_on_the_size_of_blocks(path: Path) -> None:
    losses = Losses()
    reader = read_capture(str(path), losses)
    packets = decode_packets(reader, losses)
    whole = group_flows(packets, (reader.capture,), block_packets=len(packets))
    for size in (1, 100, 1000):
        assert_same(group_flows(packets, (reader.capture,), block_packets=size), whole)
