"""What a conclusion touches: exchanges, agents, servers, hosts; and how much of the clock it blocked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcapdiag.findings.summary import agents_of, roots_of, union_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    roots: tuple[int, ...]
    """Root of each exchange."""
    agents: tuple[int, ...]
    """Agent of each exchange."""

    @classmethod
    def of(cls, tables: Tables, ledger: Ledger) -> Clock:
        """Computes roots and agents."""
        return cls(tables, ledger, tuple(roots_of(tables)), tuple(agents_of(tables)))

    def reach(self, conclusion: Conclusion) -> Reach:
        """What it hits: by its exchanges, its intervals and its flows."""
        hit = {*conclusion.exchanges, *(exchange for exchange, _, _ in conclusion.intervals)}
        flows = {*conclusion.flows, *(self.tables.exchanges[exchange].flow for exchange in hit)}
        columns = self.tables.flows
        starts = [start for _, start, _ in conclusion.intervals] or [frame.ts_ns for frame in conclusion.frames]
        return Reach(
            roots=frozenset(self.roots[exchange] for exchange in hit),
            agents=frozenset(self.agents[exchange] for exchange in hit),
            flows=frozenset(flows),
            servers=frozenset((int(columns.server[flow]), int(columns.server_port[flow])) for flow in flows),
            clients=frozenset(int(columns.client[flow]) for flow in flows),
            start_ns=min(starts, default=None),
        )

    def blocked_ns(self, intervals: Iterable[tuple[int, int, int]]) -> int:
        """Union on the clock per agent, summed over agents."""
        per_agent: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for exchange, start, end in intervals:
            per_agent[self.agents[exchange]].append((start, end))
        return sum(map(union_ns, per_agent.values()))

    def perceived_ns(self, intervals: Intervals) -> int:
        """Time without new in-order bytes: every token stream's own silence, and the union of the rest per agent."""
        streams: dict[int, list[tuple[int, int]]] = defaultdict(list)
        rest = []
        for exchange, start, end in intervals:
            if self.tables.exchanges[exchange].is_stream:
                streams[exchange].append((start, end))
            else:
                rest.append((exchange, start, end))
        return sum(map(union_ns, streams.values())) + self.blocked_ns(rest)

    def wall_ns(self, exchanges: Iterable[int]) -> int:
        """Union on the clock of whole exchanges per agent, summed over agents."""
        rows = (self.tables.exchanges[exchange] for exchange in exchanges)
        return self.blocked_ns((row.id, row.start_ns, row.end_ns) for row in rows)
