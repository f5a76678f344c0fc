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
        flat = [pairs.reshape(2 * len(pairs), -1) for _, pairs in chunks]
        firsts = [first_equal(keys) for keys in flat]
        leads = [firsts_of(first) for first in firsts]
        distinct = [_packed(keys[lead]) for keys, lead in zip(flat, leads, strict=True)]
        news: list[tuple[int, bytes]] = []
        for (positions, _), lead, packed in zip(chunks, leads, distinct, strict=True):
            seen_at = (2 * positions[lead // 2] + lead % 2).tolist()
            news += [(at, key) for at, key in zip(seen_at, packed, strict=True) if key not in self._index]
        for _, key in sorted(news):
            self.number(key)
        numbered = []
        for first, lead, packed in zip(firsts, leads, distinct, strict=True):
            numbers = np.empty(len(first), np.int32)
            numbers[lead] = [self._index[key] for key in packed]
            numbered.append(numbers[first].reshape(-1, 2))
        return numbered

    def addresses(self) -> Addresses:
        """All addresses so far, by number."""
        return Addresses(tuple(self._index))


def _packed(keys: Keys) -> list[bytes]:
    size = keys.itemsize * keys.shape[1]
    raw = keys.tobytes()
    return [raw[i : i + size] for i in range(0, len(raw), size)]
