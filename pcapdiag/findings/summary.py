"""What a diagnosis sums up: wall and blocked time on the clock, exchange-seconds per cause, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.stalls.sign import CLIENT_PRODUCE, CLIENT_THINK, DELIVERY, NOT_CAUSES, PROPAGATION, TRANSFER, UNATTRIBUTED

if TYPE_CHECKING:
    from pcapdiag.columns import I64
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
    agent_of, exchanges, calls = agents_of(tables), tables.exchanges, tables.calls
    counted = np.flatnonzero(ledger.counted)
    between = np.array([(calls.agent[e.owner], e.start_ns, e.end_ns, e.label.code not in NO_STALL) for e in ledger.calls], np.int64)
    agent, start_ns, end_ns, still = between.reshape(-1, 4).T
    wall_ns = per_agent_ns(
        np.concatenate([agent_of[counted], agent]),
        np.concatenate([exchanges.start_ns[counted], start_ns]),
        np.concatenate([exchanges.end_ns[counted], end_ns]),
    )
    stalls = ledger.is_stall() & ~ledger.labelled(*NO_STALL) & ledger.counted[ledger.owner]
    claimed = (ledger.sign >= 0) & ~ledger.labelled(*NOT_CAUSES) & ledger.counted[ledger.owner]
    blocked, between_ = np.flatnonzero(stalls | claimed), np.flatnonzero(still)
    blocked_ns = per_agent_ns(
        np.concatenate([agent_of[ledger.owner[blocked]], agent[between_]]),
        np.concatenate([ledger.start_ns[blocked], start_ns[between_]]),
        np.concatenate([ledger.end_ns[blocked], end_ns[between_]]),
    )
    by_label = ledger.by_label_ns()
    made = np.bincount(agent_of[counted][agent_of[counted] >= 0], minlength=len(calls.agents)).tolist()
    return Summary(
        agents=tuple(
            AgentSummary(
                id=number, host=tables.addresses.text(address), exchanges=made[number],
                wall_ns=wall_ns.get(number, 0), blocked_ns=blocked_ns.get(number, 0),
            )
            for number, address in enumerate(calls.agents)
        ),
        exchanges=len(counted),
        stalled_exchanges=len(np.unique(ledger.owner[stalls])),
        wall_ns=sum(wall_ns.values()),
        blocked_ns=sum(blocked_ns.values()),
        by_label_ns=by_label,
        by_cause_ns={code: ns for code, ns in by_label.items() if code not in NOT_CAUSES},
        unattributed_ns=by_label.get(UNATTRIBUTED.code, 0),
    )  # fmt: skip


def stalls_of(ledger: Ledger, exchange: int) -> tuple[Entry, ...]:
    """The entries of an exchange above its stall trigger in which nothing it waited for arrived, by time."""
    trigger_ns = ledger.trigger_ns[exchange]
    return tuple(entry for entry in ledger.exchanges[exchange] if entry.duration_ns > trigger_ns and entry.label.code not in NO_STALL)


def roots_of(tables: Tables) -> I64:
    """Exchange id -> id of the exchange it is, in the end, a part of; itself when it is part of none."""
    roots = np.arange(len(tables.exchanges))
    while len(inner := np.flatnonzero(tables.exchanges.part_of[roots] >= 0)):
        roots[inner] = tables.exchanges.part_of[roots[inner]]
    return roots


def agents_of(tables: Tables) -> I64:
    """Exchange id -> agent: its call's, else the one at its flow's client address, else NO_AGENT."""
    roots, calls = roots_of(tables), tables.calls
    agents = np.full(len(roots), NO_AGENT)
    call = calls.of_exchange[roots]
    known = call >= 0
    agents[known] = calls.agent[call[known]]
    by_host = {address: agent for agent, address in enumerate(calls.agents)}
    for exchange in np.flatnonzero(~known).tolist():
        agents[exchange] = by_host.get(int(tables.flows.client[tables.exchanges.flow[roots[exchange]]]), NO_AGENT)
    return agents


def per_agent_ns(agent: I64, start_ns: I64, end_ns: I64) -> dict[int, int]:
    """Agent -> how much of the clock its intervals [start, end) cover together."""
    order = np.lexsort((start_ns, agent))
    agent, start_ns, end_ns = agent[order], start_ns[order], end_ns[order]
    edges = [*np.flatnonzero(np.diff(agent, prepend=agent[:1] - 1)).tolist(), len(agent)]
    return {int(agent[a]): covered_ns(start_ns[a:b], end_ns[a:b]) for a, b in pairwise(edges)}


def covered_ns(start_ns: I64, end_ns: I64) -> int:
    """How much of the clock [start, end) intervals cover together; they are given by start."""
    reached = np.maximum.accumulate(np.concatenate([start_ns[:1], end_ns]))[:-1]
    return int(np.maximum(end_ns - np.maximum(start_ns, reached), 0).sum())
