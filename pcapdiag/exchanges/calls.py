"""Calls: the chain of attempts for one thing an agent wanted, and the law of the gaps between them (CAUSES section 4.9)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.abandon import SAME_LEN
from pcapdiag.exchanges.table import HTTP, Call, Calls, Exchange, Exchanges, Outcome, Protocol

if TYPE_CHECKING:
    from pcapdiag.flows.table import Flows

_PATIENCE_NS: Final = 60_000_000_000
"""An attempt that begins this long after the last one failed is a call of its own."""
_IMMEDIATE_NS: Final = 50_000_000
_FIXED_COV: Final = 0.15
_EXPONENTIAL: Final = (1.6, 2.6)
_RETRIED_GRPC: Final = frozenset({"4", "8", "14"})
"""DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE."""
_LOOKED_AT: Final = 256
"""Open chains of one name or server that a new exchange is compared with: the newest ones."""


class _Chain:
    """The attempts of a call so far; failed connects to the server it wanted are attempts, too."""

    __slots__ = ("agent", "attempts", "is_over", "number", "request")

    def __init__(self, number: int, agent: int, first: Exchange) -> None:
        self.number = number
        self.agent = agent
        self.attempts = [first]
        self.request: Exchange | None = None if first.protocol is Protocol.CONNECT else first
        """The latest attempt that got as far as a request."""
        self.is_over = _is_final(first)
        """Nothing can follow."""

    @property
    def last(self) -> Exchange:
        """The latest attempt."""
        return self.attempts[-1]

    def add(self, exchange: Exchange) -> None:
        """Takes the next attempt."""
        self.attempts.append(exchange)
        self.is_over = _is_final(exchange)
        if exchange.protocol is not Protocol.CONNECT:
            self.request = exchange

    def goes_on_with(self, exchange: Exchange) -> bool:
        """Whether `exchange` is the next attempt."""
        last, request = self.last, self.request
        in_time = 0 <= exchange.start_ns - last.end_ns <= _PATIENCE_NS
        if not in_time and not exchange.attempt:
            return False
        if request is not None and in_time and _may_be_retried(last) and _id_of(exchange) and _id_of(exchange) == _id_of(request):
            return True
        if exchange.attempt and request is not None and (request.attempt or 0) == exchange.attempt - 1:
            begins_in_time = last.start_ns < exchange.start_ns <= last.end_ns + _PATIENCE_NS  # a hedge overlaps
            return begins_in_time and _may_be_same(request, exchange)
        if exchange.attempt not in (None, 1) or not _may_be_retried(last):
            return False
        return in_time and (request is None or exchange.protocol is Protocol.CONNECT or _may_be_same(request, exchange))


class _OpenChains:
    """Chains that may go on, to be found by what they are called and by where they go."""

    def __init__(self, flows: Flows) -> None:
        self._clients, self._servers, self._ports = flows.client.tolist(), flows.server.tolist(), flows.server_port.tolist()
        self._by_key: dict[tuple[object, ...], dict[_Chain, None]] = defaultdict(dict)

    def agent_of(self, exchange: Exchange) -> int:
        """Its client, index into addresses."""
        return int(self._clients[exchange.flow])

    def _keys(self, exchange: Exchange, *, to_find: bool) -> list[tuple[object, ...]]:
        """Where the chains are filed that an exchange may go on with, or where a chain is filed whose latest attempt it is."""
        client = self._clients[exchange.flow]
        server = (client, self._servers[exchange.flow], self._ports[exchange.flow])
        if exchange.protocol is Protocol.CONNECT:
            return [("connect", *server), ("request", *server)] if to_find else [("connect", *server)]
        family = "http" if exchange.protocol in HTTP else exchange.protocol.value
        keys: list[tuple[object, ...]] = [(client, family, exchange.name)]
        if not exchange.is_setup:  # requests of other names than its own do not concern a request, unless their ids say so
            keys += [("connect" if to_find else "request", *server)]
            keys += [(_id_of(exchange), *server)] if _id_of(exchange) else []
        return keys

    def find(self, exchange: Exchange) -> _Chain | None:
        """The chain that the exchange goes on with: the one that waits longest."""
        fitting: list[_Chain] = []
        for key in self._keys(exchange, to_find=True) if self._by_key else ():
            if chains := self._by_key.get(key):
                waiting = [c for c in chains if not c.is_over and c.last.end_ns + _PATIENCE_NS >= exchange.start_ns]
                self._by_key[key] = dict.fromkeys(waiting[-_LOOKED_AT:])
                fitting += [chain for chain in waiting[-_LOOKED_AT:] if chain.goes_on_with(exchange)]
        return min(fitting, key=lambda chain: (chain.last.end_ns, chain.number), default=None)

    def keep(self, chain: _Chain) -> None:
        """Files a chain under its latest attempt."""
        if chain.is_over:
            return
        for key in self._keys(chain.last, to_find=False):
            chains = self._by_key[key]
            chains[chain] = None
            if len(chains) > 2 * _LOOKED_AT:
                self._by_key[key] = dict.fromkeys(list(chains)[-_LOOKED_AT:])


def make_calls(exchanges: Exchanges, flows: Flows) -> Calls:
    """Chains exchanges into calls; a call is one exchange unless that failed and was made again within a minute."""
    agents: dict[int, int] = {}
    chains: list[_Chain] = []
    open_chains = _OpenChains(flows)
    for exchange in exchanges:
        if exchange.part_of is not None:
            continue
        agent = agents.setdefault(open_chains.agent_of(exchange), len(agents))
        chain = open_chains.find(exchange)
        if chain is None:
            chain = _Chain(len(chains), agent, exchange)
            chains.append(chain)
        else:
            chain.add(exchange)
        open_chains.keep(chain)
    rows = tuple(_call(chain) for chain in chains)
    return Calls(rows, tuple(agents), {exchange: call.id for call in rows for exchange in call.exchanges})


def _may_be_same(sooner: Exchange, later: Exchange) -> bool:
    """Whether two requests ask for the same thing: the id their client gave them decides, else name and length."""
    if (sooner.protocol in HTTP) != (later.protocol in HTTP) or sooner.name != later.name:
        return False
    ids = _id_of(sooner), _id_of(later)
    if None not in ids:
        return ids[0] == ids[1]
    return bool(later.attempt) or abs(later.request_len - sooner.request_len) <= SAME_LEN


def _id_of(exchange: Exchange) -> object:
    """The id its client gave the request; SDKs send the same one with every attempt."""
    return exchange.facts.get("x-request-id")


def _is_final(exchange: Exchange) -> bool:
    """Whether nothing can follow: the answer is final, and no later attempt will carry a count."""
    return exchange.attempt is None and not _may_be_retried(exchange)


def _may_be_retried(exchange: Exchange) -> bool:
    """Whether clients make such an exchange again: it has no final answer, or one that asks for another try."""
    if exchange.outcome in (Outcome.ABORTED, Outcome.INCOMPLETE):
        return True
    if exchange.outcome is Outcome.OK:
        return False
    status = exchange.status
    if exchange.protocol is Protocol.GRPC:
        return status is None or status in _RETRIED_GRPC
    if exchange.protocol in HTTP:
        return status is None or status == "429" or status >= "500"
    return True


def _call(chain: _Chain) -> Call:
    attempts = chain.attempts
    return Call(
        id=chain.number,
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
