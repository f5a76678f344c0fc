"""What a conclusion touches: exchanges, agents, servers, hosts; and how much of the clock it blocked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.findings.intervals import Intervals
from pcapdiag.findings.summary import agents_of, per_agent_ns, roots_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pcapdiag.columns import I64
    from pcapdiag.findings.intervals import Interval
    from pcapdiag.findings.types import Conclusion
    from pcapdiag.stalls.ledger import Ledger
    from pcapdiag.trace import Tables

_PORT_BITS: Final = 16
_PORT_MASK: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Everything a conclusion hits."""

    roots: I64
    """Exchanges that are part of no other, ascending."""
    agents: frozenset[int]
    flows: I64
    """Ascending."""
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
        intervals = Intervals.of(conclusion.intervals)
        hit = np.union1d(np.array(conclusion.exchanges, np.int64), intervals.exchange)
        flows = np.union1d(np.array(conclusion.flows, np.int64), self.tables.exchanges.flow[hit])
        columns = self.tables.flows
        first_ns = int(intervals.start_ns.min()) if len(intervals) else min((frame.ts_ns for frame in conclusion.frames), default=None)
        ends = np.unique((columns.server[flows].astype(np.int64) << _PORT_BITS) | columns.server_port[flows]).tolist()
        return Reach(
            roots=np.unique(self.roots[hit]),
            agents=frozenset(np.unique(self.agents[hit]).tolist()),
            flows=flows,
            servers=frozenset((end >> _PORT_BITS, end & _PORT_MASK) for end in ends),
            clients=frozenset(np.unique(columns.client[flows]).tolist()),
            start_ns=first_ns,
        )

    def blocked_ns(self, intervals: Sequence[Interval]) -> int:
        """Union on the clock per agent, summed over agents."""
        rows = Intervals.of(intervals)
        return sum(per_agent_ns(self.agents[rows.exchange], rows.start_ns, rows.end_ns).values())

    def perceived_ns(self, intervals: Sequence[Interval]) -> int:
        """Time without new in-order bytes: every token stream's own silence, and the union of the rest per agent."""
        rows, tables = Intervals.of(intervals), self.tables.exchanges
        streamed = tables.is_stream[rows.exchange]
        silent, rest = rows.where(streamed), rows.where(~streamed)
        silent_ns = per_agent_ns(silent.exchange, silent.start_ns, silent.end_ns)
        rest_ns = per_agent_ns(self.agents[rest.exchange], rest.start_ns, rest.end_ns)
        return sum(silent_ns.values()) + sum(rest_ns.values())

    def wall_ns(self, exchanges: I64) -> int:
        """Union on the clock of whole exchanges per agent, summed over agents."""
        table = self.tables.exchanges
        return sum(per_agent_ns(self.agents[exchanges], table.start_ns[exchanges], table.end_ns[exchanges]).values())
