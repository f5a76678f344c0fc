"""What a diagnosis sums up: wall and blocked time on the clock, exchange-seconds per cause, and whose they are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pcapdiag.stalls.sign import CLIENT_PRODUCE, CLIENT_THINK, DELIVERY, NOT_CAUSES, PROPAGATION, TRANSFER, UNATTRIBUTED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.stalls.ledger import Entry, Ledger
    from pcapdiag.trace import Tables

NO_STALL = frozenset(label.code for label in (PROPAGATION, TRANSFER, DELIVERY, CLIENT_THINK, CLIENT_PRODUCE))
"""Labels under which bytes move, or nothing is waited for: however long, they are no stall."""

NO_AGENT = -1
"""The agent of an exchange whose client no call names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSummary:
    """One agent's share."""

    id: int
    """Index into Calls.agents."""
    host: str
    exchanges: int
    """Counted ones: those that are part of no other."""
    wall_ns: int
    """Union of its exchanges and of the time between the attempts of its calls."""
    blocked_ns: int
    """Union of its stalls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures above all findings. Unions are per agent, summed over agents; the rest is exchange-time."""

    agents: tuple[AgentSummary, ...]
    exchanges: int
    """Counted ones: those that are part of no other."""
    stalled_exchanges: int
    wall_ns: int
    blocked_ns: int
    by_label_ns: dict[str, int]
    """All labels, largest first; sums to `ledger_ns`."""
    by_cause_ns: dict[str, int]
    """The same without the labels that are no cause."""
    unattributed_ns: int

    @property
    def ledger_ns(self) -> int:
        """All exchange-time there is."""
        return sum(self.by_label_ns.values())

    @property
    def unattributed_ratio(self) -> float:
        """Unattributed over all exchange-time; 0 to 1."""
        return self.unattributed_ns / self.ledger_ns if self.ledger_ns else 0.0


def summarise(tables: Tables, ledger: Ledger) -> Summary:
    """Sums a closed ledger."""
    agent_of = agents_of(tables)
    wall: dict[int, list[tuple[int, int]]] = defaultdict(list)
    blocked: dict[int, list[tuple[int, int]]] = defaultdict(list)
    counts: dict[int, int] = defaultdict(int)
    stalled = 0
    for exchange in sorted(ledger.counted):
        agent, row, stalls = agent_of[exchange], tables.exchanges[exchange], stalls_of(ledger, exchange)
        wall[agent].append((row.start_ns, row.end_ns))
        claimed = (entry for entry in ledger.exchanges[exchange] if entry.sign is not None and entry.label.code not in NOT_CAUSES)
        blocked[agent] += [(entry.start_ns, entry.end_ns) for entry in (*stalls, *claimed)]
        counts[agent] += 1
        stalled += bool(stalls)
    for entry in ledger.calls:
        agent = tables.calls.rows[entry.owner].agent
        wall[agent].append((entry.start_ns, entry.end_ns))
        if entry.label.code not in NO_STALL:
            blocked[agent].append((entry.start_ns, entry.end_ns))
    hosts = {index: tables.addresses.text(address) for index, address in enumerate(tables.calls.agents)}
    by_label = ledger.by_label_ns()
    return Summary(
        agents=tuple(
            AgentSummary(id=a, host=host, exchanges=counts[a], wall_ns=union_ns(wall[a]), blocked_ns=union_ns(blocked[a]))
            for a, host in hosts.items()
        ),
        exchanges=len(ledger.counted),
        stalled_exchanges=stalled,
        wall_ns=sum(map(union_ns, wall.values())),
        blocked_ns=sum(map(union_ns, blocked.values())),
        by_label_ns=by_label,
        by_cause_ns={code: ns for code, ns in by_label.items() if code not in NOT_CAUSES},
        unattributed_ns=by_label.get(UNATTRIBUTED.code, 0),
    )


def stalls_of(ledger: Ledger, exchange: int) -> tuple[Entry, ...]:
    """The entries of an exchange above its stall trigger in which nothing it waited for arrived, by time."""
    trigger_ns = ledger.trigger_ns[exchange]
    return tuple(entry for entry in ledger.exchanges[exchange] if entry.duration_ns > trigger_ns and entry.label.code not in NO_STALL)


def roots_of(tables: Tables) -> list[int]:
    """Exchange id -> id of the exchange it is, in the end, a part of; itself when it is part of none."""
    roots = []
    for exchange in tables.exchanges:
        root = exchange
        while root.part_of is not None:
            root = tables.exchanges[root.part_of]
        roots.append(root.id)
    return roots


def agents_of(tables: Tables) -> list[int]:
    """Exchange id -> agent: its call's, else the one at its flow's client address, else NO_AGENT."""
    by_host = {address: agent for agent, address in enumerate(tables.calls.agents)}
    agents = []
    for root in roots_of(tables):
        call = tables.calls.of_exchange.get(root)
        if call is not None:
            agents.append(tables.calls.rows[call].agent)
        else:
            agents.append(by_host.get(int(tables.flows.client[tables.exchanges[root].flow]), NO_AGENT))
    return agents


def union_ns(intervals: Iterable[tuple[int, int]]) -> int:
    """How much of the clock [start, end) intervals cover together."""
    total, reach = 0, None
    for start, end in sorted(intervals):
        if reach is None or start > reach:
            reach = start
        if end > reach:
            total += end - reach
            reach = end
    return total
