"""What a tunnel reader says about the packets it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcapdiag.columns import I64, U8, Bools
from pcapdiag.packets.cursor import Batch, Layer, Span
from pcapdiag.packets.inside import Look, holds

Numbers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Opening:
    """One element per packet."""

    valid: Bools
    """The header is whole and is this tunnel's."""
    cut: Bools
    """The header ends behind the captured bytes."""
    inner_at: I64
    layer: U8
    """The Layer at `inner_at`; 0: one that is not read, so the packet stays closed."""
    number: Numbers | None = None
    """The network identifier, if both directions may share it; -1: this packet has none."""


Opener = Callable[[Batch, Span], Opening]
"""The span begins at the tunnel's header."""


def plain(layer: Layer) -> Opener:
    """A tunnel without a header of its own: IP in IP (RFC 2003, RFC 2473, RFC 4213), MPLS in IP (RFC 4023)."""

    def opener(_: Batch, span: Span) -> Opening:
        count = len(span.at)
        return Opening(np.ones(count, np.bool_), np.zeros(count, np.bool_), span.at, all_of(span, layer))

    return opener


def all_of(span: Span, layer: Layer) -> U8:
    """The same layer for each."""
    return np.full(len(span.at), layer, np.uint8)


def layers_of(value: Numbers, layers: dict[int, Layer]) -> U8:
    """The layer each value stands for; 0 for others."""
    found = np.zeros(len(value), np.uint8)
    for number, layer in layers.items():
        found[value == number] = layer
    return found


def opened(batch: Batch, opening: Opening, span: Span) -> Bools:
    """Which packets are tunnels: a valid header, and inside it what the header promises."""
    found = opening.valid & (opening.layer > 0) & (opening.inner_at < span.wire_end)
    for layer in np.unique(opening.layer[found]).tolist():
        rows = np.flatnonzero(found & (opening.layer == layer))
        found[rows] = holds(batch, Layer(layer), span.moved(opening.inner_at).take(rows))
    return found


def first_that(look: Look, batch: Batch, span: Span, sizes: range) -> tuple[Bools, I64]:
    """Whether each packet holds what `look` asks for behind one of these sizes, and where: the smallest that fits."""
    inner_at, found = span.at + sizes.start, np.zeros(len(span.at), np.bool_)
    for size in sizes:
        rows = np.flatnonzero(~found)
        good = rows[look(batch, span.moved(span.at + size).take(rows))]
        inner_at[good] = span.at[good] + size
        found[good] = True
    return found, inner_at
