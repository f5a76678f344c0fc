"""Calls: the chain of attempts for one thing an agent wanted, and the law of the gaps between them (CAUSES section 4.9)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.table import Call, Calls, Exchange, Exchanges, Outcome, Protocol

if TYPE_CHECKING:
    from pcapdiag.flows.table import Flows

_PATIENCE_NS: Final = 60_000_000_000
"""An attempt that begins this long after the last one failed is a call of its own."""
_LIKE_LEN: Final = 16
"""Bytes by which the same request may differ in length from attempt to attempt: ports, counts, dates."""
_IMMEDIATE_NS: Final = 50_000_000
_FIXED_COV: Final = 0.15
_EXPONENTIAL: Final = (1.6, 2.6)
_RETRIED_GRPC: Final = frozenset({"4", "8", "14"})
"""DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE."""
_HTTP: Final = frozenset({Protocol.HTTP1, Protocol.SSE, Protocol.H2})
"""One request may be answered as any of these: an error is no event stream."""

Key = tuple[int, str, str]
"""Agent (index into addresses), protocol family, name."""


class _Chain:
    """The attempts of a call so far."""

    __slots__ = ("agent", "attempts")

    def __init__(self, agent: int, first: Exchange) -> None:
        self.agent = agent
        self.attempts = [first]

    @property
    def last(self) -> Exchange:
        """The latest attempt."""
        return self.attempts[-1]

    def goes_on_with(self, exchange: Exchange) -> bool:
        """Whether `exchange` is the next attempt."""
        last = self.last
        if exchange.attempt is not None and exchange.attempt > 0 and (last.attempt or 0) == exchange.attempt - 1:
            return last.start_ns < exchange.start_ns <= last.end_ns + _PATIENCE_NS
        waited_ns = exchange.start_ns - last.end_ns
        alike = exchange.protocol is Protocol.CONNECT or last.protocol is Protocol.CONNECT
        alike = alike or abs(exchange.request_len - last.request_len) <= _LIKE_LEN
        return exchange.attempt in (None, 1) and alike and 0 <= waited_ns <= _PATIENCE_NS

    @property
    def is_over(self) -> bool:
        """No attempt can follow, whatever comes: the answer is final, and no header may count on from it."""
        return not _may_be_retried(self.last) and self.last.attempt is None


def make_calls(exchanges: Exchanges, flows: Flows) -> Calls:
    """Chains exchanges into calls; a call is one exchange unless that failed and was made again within a minute."""
    clients, servers, ports = flows.client.tolist(), flows.server.tolist(), flows.server_port.tolist()
    agents: dict[int, int] = {}
    chains: list[_Chain] = []
    open_chains: dict[Key, list[_Chain]] = defaultdict(list)
    for exchange in exchanges:
        if exchange.part_of is not None:
            continue
        agent = clients[exchange.flow]
        agents.setdefault(agent, len(agents))
        key = _key(exchange, agent)
        chain = _continued(open_chains[key], exchange)
        if chain is None and not exchange.is_setup:  # its connection may have been refused before
            refused: Key = agent, "connect", f"{servers[exchange.flow]} {ports[exchange.flow]}"
            chain = _continued(open_chains[refused], exchange)
            if chain is not None:
                open_chains[refused].remove(chain)
                open_chains[key].append(chain)
        if chain is None:
            chain = _Chain(agents[agent], exchange)
            chains.append(chain)
            if exchange.protocol is Protocol.CONNECT:
                key = agent, "connect", f"{servers[exchange.flow]} {ports[exchange.flow]}"
            open_chains[key].append(chain)
        else:
            chain.attempts.append(exchange)
    rows = tuple(_call(number, chain) for number, chain in enumerate(chains))
    return Calls(rows, tuple(agents), {exchange: call.id for call in rows for exchange in call.exchanges})


def _key(exchange: Exchange, agent: int) -> Key:
    family = "http" if exchange.protocol in _HTTP else exchange.protocol.value
    return agent, family, exchange.name


def _continued(chains: list[_Chain], exchange: Exchange) -> _Chain | None:
    """The chain that the exchange is the next attempt of, the one that failed first before others; drops those that are over."""
    if not chains:
        return None
    chains[:] = [c for c in chains if not c.is_over and c.last.end_ns + _PATIENCE_NS >= exchange.start_ns]
    fitting = [chain for chain in chains if chain.goes_on_with(exchange) and (_may_be_retried(chain.last) or exchange.attempt)]
    return min(fitting, key=lambda chain: chain.last.end_ns, default=None)


def _may_be_retried(exchange: Exchange) -> bool:
    """Whether clients make such an exchange again: it has no final answer, or one that asks for another try."""
    if exchange.outcome in (Outcome.ABORTED, Outcome.INCOMPLETE):
        return True
    if exchange.outcome is Outcome.OK:
        return False
    status = exchange.status
    if exchange.protocol is Protocol.GRPC:
        return status is None or status in _RETRIED_GRPC
    return status is None or status == "429" or not status.isdecimal() or len(status) != 3 or status >= "500"


def _call(number: int, chain: _Chain) -> Call:
    attempts = chain.attempts
    return Call(
        id=number,
        agent=chain.agent,
        exchanges=tuple(exchange.id for exchange in attempts),
        start_ns=attempts[0].start_ns,
        end_ns=max(exchange.end_ns for exchange in attempts),
        backoff=_backoff([later.start_ns - sooner.end_ns for sooner, later in pairwise(attempts)]),
        outcome=attempts[-1].outcome,
    )


def _backoff(gaps_ns: list[int]) -> str:
    """Names the law of the gaps; of a single gap no law can be told from chance, so it counts as jittered."""
    if not gaps_ns:
        return "none"
    if max(gaps_ns) < _IMMEDIATE_NS:
        return "immediate"
    if len(gaps_ns) > 1:
        if pstdev(gaps_ns) < _FIXED_COV * fmean(gaps_ns):
            return "fixed"
        ratios = [later / sooner for sooner, later in pairwise(gaps_ns) if sooner > 0]
        if ratios and _EXPONENTIAL[0] <= median(ratios) <= _EXPONENTIAL[1]:
            return "exponential"
    return "jittered"
