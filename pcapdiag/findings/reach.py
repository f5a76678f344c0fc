"""What a conclusion touches: exchanges, agents, servers, hosts; and how much of the clock it blocked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.findings.summary import agents_of, per_agent_ns, roots_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.columns import I64
    from pcapdiag.findings.types import Conclusion
    from pcapdiag.stalls.ledger import Ledger
    from pcapdiag.trace import Tables

Intervals = tuple[tuple[int, int, int], ...]
"""(exchange id, start_ns, end_ns)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Everything a conclusion hits."""

    roots: frozenset[int]
    """Exchanges that are part of no other."""
    agents: frozenset[int]
    flows: frozenset[int]
    servers: frozenset[tuple[int, int]]
    """(address, port)."""
    clients: frozenset[int]
    """Addresses."""
    start_ns: int | None
    """Its first interval, else its first frame; None when it has neither."""

    @property
    def server_hosts(self) -> frozenset[int]:
        """Addresses of the servers."""
        return frozenset(address for address, _ in self.servers)


@dataclass(frozen=True, slots=True)
class Clock:
    """Tables and ledger, with what every conclusion is measured by computed once."""

    tables: Tables
    ledger: Ledger
    roots: I64
    """Root of each exchange."""
    agents: I64
    """Agent of each exchange."""

    @classmethod
    def of(cls, tables: Tables, ledger: Ledger) -> Clock:
        """Computes roots and agents."""
        return cls(tables, ledger, roots_of(tables), agents_of(tables))

    def reach(self, conclusion: Conclusion) -> Reach:
        """What it hits: by its exchanges, its intervals and its flows."""
        hit = np.unique(np.array([*conclusion.exchanges, *(exchange for exchange, _, _ in conclusion.intervals)], np.int64))
        flows = np.union1d(np.array(conclusion.flows, np.int64), self.tables.exchanges.flow[hit])
        columns = self.tables.flows
        starts = [start for _, start, _ in conclusion.intervals] or [frame.ts_ns for frame in conclusion.frames]
        return Reach(
            roots=frozenset(self.roots[hit].tolist()),
            agents=frozenset(self.agents[hit].tolist()),
            flows=frozenset(flows.tolist()),
            servers=frozenset(zip(columns.server[flows].tolist(), columns.server_port[flows].tolist(), strict=True)),
            clients=frozenset(columns.client[flows].tolist()),
            start_ns=min(starts, default=None),
        )

    def blocked_ns(self, intervals: Iterable[tuple[int, int, int]]) -> int:
        """Union on the clock per agent, summed over agents."""
        exchange, start_ns, end_ns = np.array(list(intervals), np.int64).reshape(-1, 3).T
        return sum(per_agent_ns(self.agents[exchange], start_ns, end_ns).values())

    def perceived_ns(self, intervals: Intervals) -> int:
        """Time without new in-order bytes: every token stream's own silence, and the union of the rest per agent."""
        exchange, start_ns, end_ns = np.array(intervals, np.int64).reshape(-1, 3).T
        streamed = self.tables.exchanges.is_stream[exchange]
        silent_ns = per_agent_ns(exchange[streamed], start_ns[streamed], end_ns[streamed])
        rest_ns = per_agent_ns(self.agents[exchange[~streamed]], start_ns[~streamed], end_ns[~streamed])
        return sum(silent_ns.values()) + sum(rest_ns.values())

    def wall_ns(self, exchanges: Iterable[int]) -> int:
        """Union on the clock of whole exchanges per agent, summed over agents."""
        rows, table = np.array(list(exchanges), np.int64), self.tables.exchanges
        return sum(per_agent_ns(self.agents[rows], table.start_ns[rows], table.end_ns[rows]).values())
