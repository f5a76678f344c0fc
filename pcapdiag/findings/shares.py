"""What the ledger gave a label, grouped the way findings are presented: one share per client host and server."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pcapdiag.findings.intervals import Intervals
from pcapdiag.findings.types import Conclusion, FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pcapdiag.columns import I32, Rows
    from pcapdiag.stalls.ledger import Entry, Ledger
    from pcapdiag.stalls.sign import Frame, Sign
    from pcapdiag.trace import Tables

_FRAMES = 12
"""Evidence a person can still check by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The seconds of one label between one client host and one server."""

    client: str
    """Address."""
    server: str
    """address:port."""
    stall_ns: int
    intervals: Intervals
    exchanges: tuple[int, ...]
    flows: tuple[int, ...]
    signs: tuple[Sign, ...]
    """The signs that won time in it, by start; empty where the ledger labelled by itself."""
    longest: Entry
    at_least: bool

    @property
    def requests(self) -> str:
        """How many exchanges it hit, in words."""
        return f"{len(self.exchanges)} {'request' if len(self.exchanges) == 1 else 'requests'}"

    def frames(self) -> tuple[Frame, ...]:
        """Evidence of its signs, the costliest first, each frame once, in the order of time; at most 12."""
        cost: dict[int, int] = defaultdict(int)
        for sign in self.signs:
            cost[id(sign)] += sign.end_ns - sign.start_ns
        chosen: dict[tuple[int, int], Frame] = {}
        for sign in sorted(self.signs, key=lambda s: (-cost[id(s)], s.start_ns)):
            for frame in sign.frames:
                if len(chosen) < _FRAMES:
                    chosen.setdefault((frame.capture, frame.number), frame)
        return tuple(sorted(chosen.values(), key=lambda frame: (frame.ts_ns, frame.capture, frame.number)))

    def concluded(
        self,
        code: str,
        *,
        summary: str,
        contrast: str,
        details: Mapping[str, Any],
        identity: tuple[str, ...] = (),
        wireshark_filter: str = "",
    ) -> Conclusion:
        """A cause that owns the seconds of this share, as sure as its surest sign (raises ValueError when there is no sign)."""
        return Conclusion(
            code=code, kind=FindingKind.CAUSE, stall_ns=self.stall_ns, intervals=self.intervals, at_least=self.at_least,
            confidence=self.best().confidence, exchanges=self.exchanges, flows=self.flows, frames=self.frames(),
            summary=summary, contrast=contrast, details=details, identity=identity,
            wireshark_filter=wireshark_filter,
        )  # fmt: skip

    def best(self) -> Sign:
        """The surest sign; among equals the one that won first (raises ValueError when the ledger labelled by itself)."""
        return max(self.signs, key=lambda sign: (sign.confidence.value, -sign.start_ns))


def shares(ledger: Ledger, code: str, tables: Tables) -> Iterable[Share]:
    """The counted entries with label `code`, one share per (client host, server), the costliest first."""
    rows = ledger.rows(code)
    flow = tables.exchanges.flow[ledger.owner[rows]]
    columns = (tables.flows.client[flow], tables.flows.server[flow], tables.flows.server_port[flow])
    order = np.lexsort((rows, *columns))
    ends = np.stack(columns)[:, order]
    edges = [*np.flatnonzero((np.diff(ends, axis=1, prepend=-1) != 0).any(axis=0)).tolist(), len(rows)]
    found = [_share(ledger, rows[order[a:b]], flow[order[a:b]], tables) for a, b in pairwise(edges)]
    return sorted(found, key=lambda share: (-share.stall_ns, share.client, share.server))


def _share(ledger: Ledger, rows: Rows, flow: I32, tables: Tables) -> Share:
    owner, start_ns, end_ns = ledger.owner[rows], ledger.start_ns[rows], ledger.end_ns[rows]
    signs = [ledger.signs[place] for place in dict.fromkeys(ledger.sign[rows].tolist()) if place >= 0]
    longest = np.lexsort((start_ns, start_ns - end_ns))[0]
    return Share(
        client=tables.addresses.text(int(tables.flows.client[flow[0]])), server=tables.server(int(flow[0])),
        stall_ns=int((end_ns - start_ns).sum()), intervals=Intervals.of_columns(owner, start_ns, end_ns),
        exchanges=tuple(np.unique(owner).tolist()), flows=tuple(np.unique(flow).tolist()),
        signs=tuple(sorted(signs, key=lambda sign: (sign.start_ns, sign.end_ns))), longest=ledger.entry(int(rows[longest])),
        at_least=any(sign.at_least for sign in signs),
    )  # fmt: skip
