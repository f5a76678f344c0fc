"""When clients gave up without a packet that says so: the same request, or another SYN, shows it."""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import CODES, HTTP, Outcome, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.exchanges.unsettled import Unsettled
    from pcapdiag.flows.table import TcpTables

SAME_LEN: Final = 16
"""Bytes by which the same request may differ in length when it is made again: dates, ports, counts."""
_SILENT_NS: Final = 1_000_000_000
"""A response without progress for this long may be given up."""
_RETRY_NS: Final = 10_000_000_000
"""A SYN this soon after a failed request to the same server is taken for its retry."""
_LOOKED_AT: Final = 256
"""Later requests of the same name that are compared with one that never ended."""

Route = tuple[int, int, int]
"""Client address, server address, server port."""

_OPEN: Final = [CODES[outcome] for outcome in (Outcome.ABORTED, Outcome.INCOMPLETE)]
_FAILED: Final = [CODES[outcome] for outcome in (Outcome.ABORTED, Outcome.ERROR)]
_CLIENT: Final = 0
_IN_HTTP: Final = [CODES[protocol] for protocol in HTTP]
_ID: Final = "x-request-id"


def settle_abandoned(unsettled: Unsettled, tcp: TcpTables) -> None:
    """Ends requests and connects at the attempt that replaced them, where no close, reset or answer did before."""
    table = unsettled.exchanges
    is_request = ~table.is_setup & (table.part_of < 0)
    if (is_request & np.isin(table.outcome, _OPEN) & (unsettled.progress_ns != NEVER)).any():
        requests = unsettled.order(np.flatnonzero(is_request))
        _Requests(unsettled, tcp, requests.tolist()).settle()
    if not unsettled.given_up_ns:
        return
    routes: dict[Route, list[int]] = defaultdict(list)
    for connect in np.flatnonzero(table.is_any(Protocol.CONNECT)).tolist():
        routes[_route(unsettled, tcp, connect)].append(connect)
    failed: dict[Route, list[int]] = defaultdict(list)
    for request in unsettled.order(np.flatnonzero(is_request & np.isin(table.outcome, _FAILED))).tolist():
        failed[_route(unsettled, tcp, request)].append(request)
    for route, connects in routes.items():
        if any(connect in unsettled.given_up_ns for connect in connects):
            _settle_connects(unsettled, connects, failed[route])


def _route(unsettled: Unsettled, tcp: TcpTables, row: int) -> Route:
    flow = unsettled.exchanges.flow[row]
    return int(tcp.flows.client[flow]), int(tcp.flows.server[flow]), int(tcp.flows.server_port[flow])


class _Requests:
    """Requests without an end were given up when the client made them again."""

    def __init__(self, unsettled: Unsettled, tcp: TcpTables, requests: Iterable[int]) -> None:
        self._unsettled, self._table = unsettled, unsettled.exchanges
        self._requests = list(requests)
        self._clients = tcp.flows.client
        table = self._table
        opened = np.zeros(len(table), np.bool_)
        connects = np.flatnonzero(table.is_any(Protocol.CONNECT) & unsettled.attached)
        opened[table.part_of[connects]] = True
        self._by_id: dict[tuple[int, object], list[int]] = defaultdict(list)
        self._fresh: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        """Requests that opened a connection of their own, by what they are."""
        for row in self._requests:
            if (number := unsettled.fact(row, _ID)) is not None:
                self._by_id[self._client(row), number].append(row)
            if opened[row]:
                self._fresh[self._what(row)].append(row)

    def settle(self) -> None:
        """Ends those that some other took the place of."""
        table, unsettled = self._table, self._unsettled
        for row in self._requests:
            progress_ns, end_ns = int(unsettled.progress_ns[row]), int(table.end_ns[row])
            if table.outcome[row] not in _OPEN or progress_ns == NEVER:
                continue
            number = unsettled.fact(row, _ID)
            same = self._by_id[self._client(row), number] if number is not None else []
            found = [other for other in same if progress_ns < table.start_ns[other] < end_ns and self._what(other) == self._what(row)]
            if not found and not same:
                later = (other for other in self._fresh[self._what(row)] if progress_ns < table.start_ns[other] < end_ns)
                found = [other for other in islice(later, _LOOKED_AT) if self._replaces(other, row)]
            if found:
                _give_up(unsettled, row, int(table.start_ns[found[0]]))

    def _client(self, row: int) -> int:
        return int(self._clients[self._table.flow[row]])

    def _what(self, row: int) -> tuple[int, int, int]:
        """What two attempts for the same thing have in common: client, protocol family and name."""
        protocol = int(self._table.protocol[row])
        return self._client(row), _IN_HTTP[0] if protocol in _IN_HTTP else protocol, int(self._table.name[row])

    def _replaces(self, later: int, row: int) -> bool:
        """Whether a request that opened a connection of its own does so because `row` hangs on a dead one."""
        table = self._table
        if self._unsettled.fact(later, _ID) is not None or abs(int(table.request_len[later]) - int(table.request_len[row])) > SAME_LEN:
            return False
        if len(table.response[row]):
            return bool(table.start_ns[later] - self._unsettled.progress_ns[row] >= _SILENT_NS)
        return bool(table.request_acked_ns[row] > table.start_ns[later])


def _settle_connects(unsettled: Unsettled, connects: list[int], failed: list[int]) -> None:
    """Gives each new SYN to what it retries: a request that just failed, else what has waited longest.

    A request waits unseen where its FIN is held back behind bytes that nobody acknowledges.
    """
    table, given_up_ns = unsettled.exchanges, unsettled.given_up_ns
    end_ns, acked_ns = table.end_ns, table.request_acked_ns
    connects.sort(key=lambda connect: table.tries[connect].tolist())
    ended = deque(sorted(failed, key=lambda row: int(end_ns[row])))
    held = deque(row for row in failed if table.aborted_by[row] == _CLIENT and acked_ns[row] != NEVER)
    waiting: deque[int] = deque()
    settled: set[int] = set()
    for connect in connects:
        syn_ns = int(table.tries[connect][0])
        while ended and (ended[0] in settled or end_ns[ended[0]] < syn_ns - _RETRY_NS):
            ended.popleft()
        while held and (held[0] in settled or acked_ns[held[0]] <= syn_ns):
            held.popleft()
        while waiting and given_up_ns[waiting[0]][1] < syn_ns:
            waiting.popleft()
        if ended and end_ns[ended[0]] <= syn_ns:
            settled.add(ended.popleft())
        elif held and table.request_end_ns[held[0]] < syn_ns < min(end_ns[held[0]], table.first_byte_ns[held[0]]):
            settled.add(held[0])
            _give_up(unsettled, held.popleft(), syn_ns)
        elif waiting and given_up_ns[waiting[0]][0] < syn_ns:
            _give_up(unsettled, waiting.popleft(), syn_ns)
        if connect in given_up_ns:
            waiting.append(connect)


def _give_up(unsettled: Unsettled, row: int, at_ns: int) -> None:
    table = unsettled.exchanges
    table.end_ns[row], table.outcome[row], table.aborted_by[row] = at_ns, CODES[Outcome.ABORTED], _CLIENT
    unsettled.note(row, "at_least", None)
    unsettled.note(row, "abandoned", True)
