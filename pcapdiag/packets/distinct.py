"""Finds the distinct values among many equal ones, in the order in which they first appear; hashes that tell rows apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import U64, Rows

Keys = npt.NDArray[np.unsignedinteger[Any]]
"""One value a row, of one to four words: shape (n, words)."""

_MULTIPLIERS = tuple(np.uint64(m) for m in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F))


def first_equal(keys: Keys) -> Rows:
    """For each row the index of the first row equal to it."""
    # A trace has many packets and few addresses, tunnels, paths: a direct-mapped table finds the first of each kind in a few passes
    # over the rows, several times faster than sorting them. What collides goes to the next round's multiplier.
    first = np.arange(len(keys))
    pending: Rows | slice = slice(None)
    for multiplier in _MULTIPLIERS:
        rest, index = keys[pending], first[pending]
        if not len(rest):
            return first
        slot, bits = _slots(rest, multiplier)
        winner = np.empty(1 << bits, np.intp)
        winner[slot[::-1]] = np.arange(len(rest) - 1, -1, -1)  # the last assignment stays, so the first row wins
        lead = winner[slot]
        same = rest[lead, 0] == rest[:, 0]
        for column in range(1, rest.shape[1]):
            same &= rest[lead, column] == rest[:, column]
        first[index[same]] = index[lead[same]]
        pending = index[~same]
    if len(first[pending]):
        _, at, inverse = np.unique(keys[pending], axis=0, return_index=True, return_inverse=True)
        first[pending] = first[pending][at[inverse.reshape(-1)]]
    return first


def _slots(keys: Keys, multiplier: np.uint64) -> tuple[Rows, int]:
    bits = min(max(12, (2 * len(keys)).bit_length()), 18)
    words = keys.astype(np.uint64)
    mix = words[:, 0]
    for column in range(1, words.shape[1]):
        mix = mix ^ (words[:, column] * _MULTIPLIERS[-column])
    return ((mix * multiplier) >> np.uint64(64 - bits)).astype(np.intp), bits


def mixed(*words: npt.NDArray[np.integer[Any]]) -> U64:
    """A 64-bit hash per row: equal rows get equal ones, others practically never."""
    total = np.zeros(len(words[0]), np.uint64)
    for word in words:
        total ^= word.astype(np.uint64, copy=False)
        total *= _MULTIPLIERS[0]
        total ^= total >> np.uint64(29)
    return total


def firsts_of(first: Rows) -> Rows:
    """The rows that are the first of their kind, given what first_equal says."""
    return np.flatnonzero(first == np.arange(len(first)))
