"""Binary search inside many slices of one array at once."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I64


def search_within(values: I64, low: I64, high: I64, wanted: I64, *, right: bool = False) -> I64:
    """Where `wanted[i]` belongs in values[low[i]:high[i]], which ascend; np.searchsorted for each of them.

    Args:
        values: ascending inside each slice.
        low: first position of each slice.
        high: position behind its last one.
        wanted: what to look for.
        right: behind equal values instead of before them.
    """
    low, high = low.copy(), high.copy()
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        open_ = np.flatnonzero(low < high)
        middle = (low[open_] + high[open_]) >> 1
        found = values[middle]
        above = found <= wanted[open_] if right else found < wanted[open_]
        low[open_[above]] = middle[above] + 1
        high[open_[~above]] = middle[~above]
    return low


def least_within(values: I64, low: I64, high: I64) -> I64:
    """The least of values[low[i]:high[i]] for each i; no slice may be empty."""
    order = np.argsort(low, kind="stable")
    ends = np.stack([low[order], high[order]], axis=1).ravel()
    least = np.empty(len(low), np.int64)
    least[order] = np.minimum.reduceat(np.append(values, 0), ends)[::2] if len(ends) else ends
    return least
