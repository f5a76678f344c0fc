"""When clients gave up without a packet that says so: the same request, or another SYN, shows it."""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import total_len
from pcapdiag.exchanges.table import HTTP, Outcome, Protocol

if TYPE_CHECKING:
    from pcapdiag.exchanges.draft import Draft
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


def settle_abandoned(drafts: list[Draft], tcp: TcpTables) -> None:
    """Ends requests and connects at the attempt that replaced them, where no close, reset or answer did before."""
    ordered = sorted((draft for draft in drafts if draft.part_of is None), key=lambda draft: draft.order())
    requests = [draft for draft in ordered if not draft.is_setup]
    clients = tcp.flows.client.tolist()
    _settle_requests(requests, clients)
    servers, ports = tcp.flows.server.tolist(), tcp.flows.server_port.tolist()
    routes: dict[Route, list[Draft]] = defaultdict(list)
    for draft in drafts:
        if draft.protocol is Protocol.CONNECT:
            routes[clients[draft.flow], servers[draft.flow], ports[draft.flow]].append(draft)
    failed: dict[Route, list[Draft]] = defaultdict(list)
    for draft in requests:
        if draft.outcome in (Outcome.ABORTED, Outcome.ERROR):
            failed[clients[draft.flow], servers[draft.flow], ports[draft.flow]].append(draft)
    for route, connects in routes.items():
        if any(connect.given_up_ns is not None for connect in connects):
            _settle_connects(connects, failed[route])


def identity(draft: Draft) -> tuple[str, str]:
    """What two attempts for the same thing have in common: protocol family and name."""
    return "http" if draft.protocol in HTTP else draft.protocol.value, draft.name


def _settle_requests(requests: list[Draft], clients: list[int]) -> None:
    """A request without an end was given up when the client made it again."""
    by_id: dict[tuple[int, object], list[Draft]] = defaultdict(list)
    fresh: dict[tuple[int, tuple[str, str]], list[Draft]] = defaultdict(list)
    for draft in requests:
        client = clients[draft.flow]
        if "x-request-id" in draft.facts:
            by_id[client, draft.facts["x-request-id"]].append(draft)
        if any(phase.protocol is Protocol.CONNECT for phase in draft.setup):
            fresh[client, identity(draft)].append(draft)
    for draft in requests:
        if draft.outcome not in (Outcome.ABORTED, Outcome.INCOMPLETE) or draft.progress_ns == NEVER:
            continue
        client = clients[draft.flow]
        same = by_id[client, draft.facts["x-request-id"]] if "x-request-id" in draft.facts else []
        candidates = [other for other in same if draft.progress_ns < other.start_ns < draft.end_ns and identity(other) == identity(draft)]
        if not candidates and not same:
            later = (other for other in fresh[client, identity(draft)] if draft.progress_ns < other.start_ns < draft.end_ns)
            candidates = [other for other in islice(later, _LOOKED_AT) if _replaces(other, draft)]
        if candidates:
            _give_up(draft, candidates[0].start_ns)


def _replaces(later: Draft, draft: Draft) -> bool:
    """Whether a request that opened a connection of its own does so because `draft` hangs on a dead one."""
    if "x-request-id" in later.facts or abs(total_len(later.request) - total_len(draft.request)) > SAME_LEN:
        return False
    if draft.response:
        return later.start_ns - draft.progress_ns >= _SILENT_NS
    return draft.request_acked_ns > later.start_ns


def _settle_connects(connects: list[Draft], failed: list[Draft]) -> None:
    """Gives each new SYN to what it retries: a request that just failed, else what has waited longest.

    A request waits unseen where its FIN is held back behind bytes that nobody acknowledges.
    """
    connects.sort(key=lambda connect: connect.tries)
    ended = deque(sorted(failed, key=lambda draft: draft.end_ns))
    held = deque(draft for draft in failed if draft.aborted_by == "client" and draft.request_acked_ns != NEVER)
    waiting: deque[Draft] = deque()
    settled: set[Draft] = set()
    for connect in connects:
        syn_ns = connect.tries[0]
        while ended and (ended[0] in settled or ended[0].end_ns < syn_ns - _RETRY_NS):
            ended.popleft()
        while held and (held[0] in settled or held[0].request_acked_ns <= syn_ns):
            held.popleft()
        while waiting and _window(waiting[0])[1] < syn_ns:
            waiting.popleft()
        if ended and ended[0].end_ns <= syn_ns:
            settled.add(ended.popleft())
        elif held and held[0].request_end_ns < syn_ns < min(held[0].end_ns, held[0].first_byte_ns):
            settled.add(held[0])
            _give_up(held.popleft(), syn_ns)
        elif waiting and _window(waiting[0])[0] < syn_ns:
            _give_up(waiting.popleft(), syn_ns)
        if connect.given_up_ns is not None:
            waiting.append(connect)


def _window(connect: Draft) -> tuple[int, int]:
    return connect.given_up_ns if connect.given_up_ns is not None else (NEVER, NEVER)


def _give_up(draft: Draft, at_ns: int) -> None:
    draft.end_ns, draft.outcome, draft.aborted_by = at_ns, Outcome.ABORTED, "client"
    draft.facts.pop("at_least", None)
    draft.facts["abandoned"] = True
