"""Numbers the distinct IP addresses of a trace in the order in which they first appear."""

from __future__ import annotations

import numpy as np

from pcapdiag.columns import I32, Rows
from pcapdiag.packets.distinct import Keys, first_equal, firsts_of
from pcapdiag.packets.table import Addresses


class AddressBook:
    """Gives every address its number; the same address always gets the same one."""

    def __init__(self) -> None:
        self._index: dict[bytes, int] = {}

    def number(self, packed: bytes) -> int:
        """The number of one address of 4 or 16 bytes."""
        return self._index.setdefault(packed, len(self._index))

    def number_pairs(self, chunks: list[tuple[Rows, Keys]]) -> list[I32]:
        """For each chunk, given as (position of the packet, its source and destination side by side): their numbers, shape (n, 2)."""
        keys = [_joined(pairs) for _, pairs in chunks]
        firsts = [first_equal(pairs) for pairs in keys]
        leads = [firsts_of(first) for first in firsts]
        ends = [_packed(pairs[lead].reshape(2 * len(lead), -1)) for (_, pairs), lead in zip(chunks, leads, strict=True)]
        news: list[tuple[int, bytes]] = []
        for (positions, _), lead, packed in zip(chunks, leads, ends, strict=True):
            seen_at = np.repeat(2 * positions[lead], 2)
            seen_at[1::2] += 1
            news += [(at, key) for at, key in zip(seen_at.tolist(), packed, strict=True) if key not in self._index]
        for _, key in sorted(news):
            self.number(key)
        numbered = []
        for first, lead, packed in zip(firsts, leads, ends, strict=True):
            numbers = np.empty((len(first), 2), np.int32)
            numbers[lead] = np.array([self._index[key] for key in packed], np.int32).reshape(-1, 2)
            numbered.append(numbers[first])
        return numbered

    def addresses(self) -> Addresses:
        """All addresses so far, by number."""
        return Addresses(tuple(self._index))


def _packed(keys: Keys) -> list[bytes]:
    size = keys.itemsize * keys.shape[1]
    raw = keys.tobytes()
    return [raw[i : i + size] for i in range(0, len(raw), size)]


def _joined(pairs: Keys) -> Keys:
    """Two IPv4 addresses as one word; two IPv6 ones as the four words they are."""
    return np.ascontiguousarray(pairs).view(np.uint64) if pairs.dtype.itemsize == 4 else pairs
