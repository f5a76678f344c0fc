"""Clocks are exact for every resolution; options that do not fit are counted."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pcapdiag.capture.blocks import FARTHEST_NS, Clock, read_options
from pcapdiag.losses import Loss
from tests.capture_files import option


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 127), st.booleans(), st.integers(-(2**63), 2**63 - 1))
@example([2**64 - 1, 1_700_000_000 << 31, 1], 31, True, 0)
@example([2**64 - 1, 2**63, 1], 32, True, -1)
@example([2**64 - 1, 2**63 + 12_345], 34, True, 4_000_000_000)
def test_time_is_exact_or_counted(raw: list[int], exponent: int, binary: bool, offset_s: int) -> None:
    units_per_s = (2 if binary else 10) ** exponent
    exact = [value * 10**9 // units_per_s + offset_s * 10**9 for value in raw]
    ns, too_far_count = Clock(exponent, binary, offset_s).to_ns(np.array(raw, np.uint64))
    for value, want in zip(ns.tolist(), exact, strict=True):
        assert abs(value) <= FARTHEST_NS
        assert value == want or too_far_count
    if too_far_count == 0:
        assert ns.tolist() == exact
    if abs(offset_s) < 10**9 and max(raw) * 10**9 // units_per_s < FARTHEST_NS - 10**18:
        assert too_far_count == 0


def test_picoseconds_round_down() -> None:
    assert Clock(12, binary=False).to_ns(np.array([1_999, 2_000], np.uint64))[0].tolist() == [1, 2]


def test_options_end_at_the_end_mark_or_where_one_does_not_fit() -> None:
    seen: list[tuple[Loss, int]] = []
    body = option(1, b"abc") + option(2, b"")
    assert read_options(body + option(0, b"") + option(3, b"x"), "<", lambda *loss: seen.append(loss)) == [(1, b"abc"), (2, b"")]
    assert seen == []
    assert read_options(body + b"\3\0\x05\0abcd", "<", lambda *loss: seen.append(loss)) == [(1, b"abc"), (2, b"")]
    assert seen == [(Loss.BAD_BLOCK_OPTION, 1)]
