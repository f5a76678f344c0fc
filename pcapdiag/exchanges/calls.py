"""Calls: the chain of attempts for one thing an agent wanted, and the law of the gaps between them (CAUSES section 4.9)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.abandon import SAME_LEN
from pcapdiag.exchanges.ragged import Ragged
from pcapdiag.exchanges.table import BACKOFFS, CODES, HTTP, PROTOCOLS, SETUP, Calls, Exchange, Exchanges, Outcome, Protocol
from pcapdiag.packets.distinct import mixed

if TYPE_CHECKING:
    from pcapdiag.columns import I32, U64, Bools, Rows
    from pcapdiag.flows.table import Flows

_PATIENCE_NS: Final = 60_000_000_000
"""An attempt that begins this long after the last one failed is a call of its own."""
_IMMEDIATE_NS: Final = 50_000_000
_FIXED_COV: Final = 0.15
_EXPONENTIAL: Final = (1.6, 2.6)
_RETRIED_GRPC: Final = frozenset({"4", "8", "14"})
"""DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE."""
_CONNECT: Final = CODES[Protocol.CONNECT]
_SETUPS: Final = frozenset(CODES[protocol] for protocol in SETUP)
_FAMILIES: Final = tuple("http" if protocol in HTTP else protocol.value for protocol in PROTOCOLS)
"""What the chains of a protocol are filed under, by its place in PROTOCOLS."""
_ID: Final = "x-request-id"
_NO_ID: Final = np.uint64(0)
_LOOKED_AT: Final = 256
"""Open chains of one name or server that a new exchange is compared with: the newest ones."""


class _Chain:
    """The attempts of a call so far; failed connects to the server it wanted are attempts, too."""

    __slots__ = ("attempts", "is_over", "number", "request")

    def __init__(self, first: Exchange) -> None:
        self.number = first.id
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

    def __init__(self, exchanges: Exchanges, flows: Flows) -> None:
        self._exchanges, self._flows = exchanges, flows
        self._by_key: dict[tuple[object, ...], dict[_Chain, None]] = defaultdict(dict)

    def _keys(self, row: int, *, to_find: bool) -> list[tuple[object, ...]]:
        """Where the chains are filed that an exchange may go on with, or where a chain is filed whose latest attempt it is."""
        table, flow = self._exchanges, int(self._exchanges.flow[row])
        route = int(self._flows.client[flow]), int(self._flows.server[flow]), int(self._flows.server_port[flow])
        protocol = int(table.protocol[row])
        if protocol == _CONNECT:
            return [("connect", route), ("request", route)] if to_find else [("connect", route)]
        keys: list[tuple[object, ...]] = [(route[0], _FAMILIES[protocol], int(table.name[row]))]
        if protocol not in _SETUPS:  # requests of other names than its own do not concern a request, unless their ids say so
            keys.append(("connect" if to_find else "request", route))
            if request_id := table.facts[table.fact[row]].get(_ID):
                keys.append((request_id, route))
        return keys

    def find(self, row: int, start_ns: int) -> _Chain | None:
        """The chain that the exchange in a row, which begins then, goes on with: the one that waits longest."""
        fitting: list[_Chain] = []
        for key in self._keys(row, to_find=True):
            if chains := self._by_key.get(key):
                waiting = [c for c in chains if not c.is_over and c.last.end_ns + _PATIENCE_NS >= start_ns]
                self._by_key[key] = dict.fromkeys(waiting[-_LOOKED_AT:])
                exchange = self._exchanges[row] if waiting else None
                fitting += [chain for chain in waiting[-_LOOKED_AT:] if exchange is not None and chain.goes_on_with(exchange)]
        return min(fitting, key=lambda chain: (chain.last.end_ns, chain.number), default=None)

    def keep(self, chain: _Chain) -> None:
        """Files a chain under its latest attempt."""
        if chain.is_over:
            return
        for key in self._keys(chain.last.id, to_find=False):
            chains = self._by_key[key]
            chains[chain] = None
            if len(chains) > 2 * _LOOKED_AT:
                self._by_key[key] = dict.fromkeys(list(chains)[-_LOOKED_AT:])


def make_calls(exchanges: Exchanges, flows: Flows) -> Calls:
    """Chains exchanges into calls; a call is one exchange unless that failed and was made again within a minute."""
    rows = np.flatnonzero(exchanges.part_of < 0)
    first_of = np.arange(len(exchanges))
    """Per exchange the first attempt of its call."""
    chains = _chained(exchanges, flows, rows)
    for chain in chains:
        first_of[[attempt.id for attempt in chain.attempts]] = chain.number
    order = rows[np.argsort(first_of[rows], kind="stable")]
    begin = np.flatnonzero(np.diff(first_of[order], prepend=-1))
    firsts = order[begin]
    calls = len(firsts)
    of_exchange = np.full(len(exchanges), -1, np.int32)
    of_exchange[order] = np.repeat(np.arange(calls), np.diff(begin, append=len(order)))
    agent, agents = _agents(flows.client[exchanges.flow[firsts]])
    backoff = np.full(calls, BACKOFFS.index("none"), np.uint8)
    for chain in chains:
        gaps_ns = [later.start_ns - sooner.end_ns for sooner, later in pairwise(chain.attempts)]
        backoff[of_exchange[chain.number]] = BACKOFFS.index(_backoff(gaps_ns))
    return Calls(
        agent=agent, start_ns=exchanges.start_ns[firsts], end_ns=np.maximum.reduceat(exchanges.end_ns[order], begin) if calls else begin,
        backoff=backoff, outcome=exchanges.outcome[order[np.append(begin[1:], len(order))[:calls] - 1]],
        exchanges=Ragged(np.append(begin, len(order)), order), agents=agents, of_exchange=of_exchange,
    )  # fmt: skip


def _chained(exchanges: Exchanges, flows: Flows, rows: Rows) -> list[_Chain]:
    """The calls of several attempts; exchanges before the first that may be made again cannot belong to one."""
    again = np.flatnonzero(~_final(exchanges)[rows])
    if not len(again):
        return []
    open_chains, chains = _OpenChains(exchanges, flows), list[_Chain]()
    may_go_on = np.zeros(len(exchanges), np.bool_)
    may_go_on[rows[again]] = True
    rest = rows[int(again[0]) :]
    rest = rest[may_go_on[rest] | _may_follow(exchanges, flows, rest, rows[again])]
    for row, start_ns, opens in zip(rest.tolist(), exchanges.start_ns[rest].tolist(), may_go_on[rest].tolist(), strict=True):
        chain = open_chains.find(row, start_ns)
        if chain is not None:
            chain.add(exchanges[row])
        elif opens:
            chain = _Chain(exchanges[row])
            chains.append(chain)
        else:
            continue
        open_chains.keep(chain)
    return chains


def _may_follow(exchanges: Exchanges, flows: Flows, rows: Rows, again: Rows) -> Bools:
    """Which of some exchanges may find a chain whose latest attempt is one of `again`: all that do, and few that do not."""
    ends = np.stack([flows.client, flows.server, flows.server_port], axis=1).astype(np.int64)
    route_of_flow = np.unique(ends, axis=0, return_inverse=True)[1].reshape(-1)
    numbers: dict[object, int] = {None: -1}
    id_of_fact = np.array([numbers.setdefault(facts.get(_ID) or None, len(numbers)) for facts in exchanges.facts], np.int64)
    family_of = np.array([_FAMILIES.index(family) for family in _FAMILIES])

    def keys(some: Rows) -> tuple[U64, U64, U64, Bools, Bools]:
        """Of each exchange its route, its name and its id there; is it a connect, is it a request?"""
        flow, protocol = exchanges.flow[some], exchanges.protocol[some]
        route, number = route_of_flow[flow].astype(np.uint64), id_of_fact[exchanges.fact[some]]
        name = mixed(flows.client[flow], family_of[protocol], exchanges.name[some])
        return route, name, np.where(number < 0, _NO_ID, mixed(number, route)), protocol == _CONNECT, ~np.isin(protocol, list(_SETUPS))

    old_route, old_name, old_id, old_connect, old_request = keys(again)
    route, name, number, connect, request = keys(rows)
    after_connect = np.isin(route, old_route[old_connect]) & (connect | request)
    after_request = np.isin(route, old_route[old_request]) & connect
    same_id = request & (number != _NO_ID) & np.isin(number, old_id)
    found: Bools = after_connect | after_request | same_id | (~connect & np.isin(name, old_name[~old_connect]))
    return found


def _agents(clients: I32) -> tuple[I32, tuple[int, ...]]:
    """Each call's agent, and the agents: clients in the order of their first calls."""
    hosts, first, number = np.unique(clients, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[number].astype(np.int32), tuple(hosts[order].tolist())


def _final(exchanges: Exchanges) -> Bools:
    """Which exchanges nothing can follow; see _is_final."""
    asked_again = np.isin(exchanges.outcome, [CODES[Outcome.ABORTED], CODES[Outcome.INCOMPLETE]])
    for row in np.flatnonzero(exchanges.outcome == CODES[Outcome.ERROR]).tolist():
        status = int(exchanges.status[row])
        asked_again[row] = _refused(PROTOCOLS[exchanges.protocol[row]], None if status < 0 else exchanges.texts[status])
    return (exchanges.attempt < 0) & ~asked_again


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
    return exchange.facts.get(_ID)


def _is_final(exchange: Exchange) -> bool:
    """Whether nothing can follow: the answer is final, and no later attempt will carry a count."""
    return exchange.attempt is None and not _may_be_retried(exchange)


def _may_be_retried(exchange: Exchange) -> bool:
    """Whether clients make such an exchange again: it has no final answer, or one that asks for another try."""
    if exchange.outcome in (Outcome.ABORTED, Outcome.INCOMPLETE):
        return True
    if exchange.outcome is Outcome.OK:
        return False
    return _refused(exchange.protocol, exchange.status)


def _refused(protocol: Protocol, status: str | None) -> bool:
    """Whether an answer that says no asks for another try."""
    if protocol is Protocol.GRPC:
        return status is None or status in _RETRIED_GRPC
    if protocol in HTTP:
        return status is None or status == "429" or status >= "500"
    return True


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
