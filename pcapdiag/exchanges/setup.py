"""Which lookups, connects and handshakes an application exchange waited for (CAUSES section 11: T0; 5.1, 5.3, 5.5)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.exchanges.turns import round_trips

if TYPE_CHECKING:
    from pcapdiag.exchanges.draft import Draft
    from pcapdiag.exchanges.lookups import Lookup
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Addresses

_PREWARMED_NS: Final = 50_000_000
"""A connection that was ready this long before its first request was not waited for.

At least two round trips: an HTTP/2 client may wait one for the server's SETTINGS.
"""
_CRITICAL_NS: Final = 100_000_000
"""A SYN this soon after an answer was waiting for it."""
_TOGETHER_NS: Final = 50_000_000
"""Lookups of one name that begin this close together are one call of the resolver (A and AAAA)."""
_FALLBACK_NS: Final = 30_000_000_000
"""A connect to another address of the same name this soon after one that failed takes its place (RFC 8305)."""


@dataclass(slots=True, eq=False)
class _Question:
    """The lookups of one name that one call of the resolver made."""

    lookups: list[Lookup]
    start_ns: int
    end_ns: int
    """Last answer, or giving up, of all of them."""
    taken: bool = False

    def served(self, syn_ns: int) -> bool:
        """Whether a SYN came soon after the last of the answers that came before it."""
        ends = [lookup.draft.end_ns for lookup in self.lookups if lookup.answered and lookup.draft.end_ns <= syn_ns]
        return bool(ends) and syn_ns - max(ends) <= _CRITICAL_NS


@dataclass(slots=True, eq=False)
class _Questions:
    """All questions, to be found by the address they led to and by when they ended."""

    by_address: dict[tuple[int, bytes], list[_Question]] = field(default_factory=lambda: defaultdict(list))
    by_end: dict[int, list[tuple[int, int, _Question]]] = field(default_factory=lambda: defaultdict(list))
    """Client -> (end, number, question), ascending."""

    @classmethod
    def of(cls, lookups: list[Lookup]) -> _Questions:
        """Groups lookups into questions."""
        questions: list[_Question] = []
        latest: dict[tuple[int, str], _Question] = {}
        found = cls()
        for lookup in sorted(lookups, key=lambda lookup: lookup.draft.order()):
            start_ns, end_ns = lookup.draft.start_ns, lookup.draft.end_ns
            question = latest.get((lookup.client, lookup.qname))
            if question is None or (start_ns - question.start_ns > _TOGETHER_NS and start_ns >= question.end_ns):
                question = latest[lookup.client, lookup.qname] = _Question([], start_ns, end_ns)
                questions.append(question)
            question.lookups.append(lookup)
            question.end_ns = max(question.end_ns, end_ns)
            for address in sorted(lookup.addresses):
                found.by_address[lookup.client, address].append(question)
        for number, question in enumerate(questions):
            found.by_end[question.lookups[0].client].append((question.end_ns, number, question))
        for ends in found.by_end.values():
            ends.sort(key=lambda item: item[:2])
        return found

    def behind(self, client: int, address: bytes, syn_ns: int) -> _Question | None:
        """The question whose answer a SYN to `address` waited for."""
        return next((q for q in reversed(self.by_address.get((client, address), [])) if not q.taken and q.served(syn_ns)), None)

    def before(self, question: _Question) -> _Question | None:
        """The question whose failure made the client ask this one: another suffix, another resolver, TCP after a truncated answer."""
        ends = self.by_end[question.lookups[0].client]
        first_label = question.lookups[0].qname.partition(".")[0]
        index = bisect_right(ends, question.start_ns, key=lambda item: item[0]) - 1
        while index >= 0 and ends[index][0] >= question.start_ns - _CRITICAL_NS:
            other = ends[index][2]
            failed = not any(lookup.usable for lookup in other.lookups)
            if other is not question and not other.taken and failed and other.lookups[0].qname.partition(".")[0] == first_label:
                return other
            index -= 1
        return None


def attach_setup(drafts: list[Draft], lookups: list[Lookup], tcp: TcpTables, addresses: Addresses) -> None:
    """Makes set-up exchanges phases of what waited for them, and lets that begin with the first of them."""
    first: dict[int, Draft] = {}
    phases: dict[int, list[Draft]] = defaultdict(list)
    for draft in sorted(drafts, key=lambda draft: draft.order()):
        if draft.protocol is Protocol.CONNECT or draft.protocol is Protocol.TLS_HANDSHAKE:
            phases[draft.flow].append(draft)
        elif draft.protocol is not Protocol.DNS or draft.request:  # a lookup over TCP waits for its connection, too
            first.setdefault(draft.flow, draft)
    rtts = round_trips(tcp)
    owners = {flow: _attach_phases(steps, first.get(flow), max(_PREWARMED_NS, 2 * rtts[flow])) for flow, steps in phases.items()}
    connects = [step for steps in phases.values() for step in steps if step.protocol is Protocol.CONNECT]
    connects.sort(key=lambda connect: connect.order())
    _attach_questions(connects, owners, _Questions.of(lookups), tcp, addresses)


def _attach_phases(steps: list[Draft], request: Draft | None, patience_ns: int) -> Draft:
    """Attaches the connect and handshake of one flow; returns what a lookup before them would be a phase of."""
    if request is None:  # a handshake that failed waited for its connect
        for step in steps[:-1]:
            _attach(step, steps[-1])
        return steps[-1]
    if request.start_ns - max(step.end_ns for step in steps) > patience_ns:
        for step in steps:
            step.facts["prewarmed"] = True
        return steps[0]
    for step in steps:
        _attach(step, request)
    return request


def _attach_questions(connects: list[Draft], owners: dict[int, Draft], questions: _Questions, tcp: TcpTables, addresses: Addresses) -> None:
    clients, servers = tcp.flows.client.tolist(), tcp.flows.server.tolist()
    failed: dict[tuple[int, int], tuple[Draft, _Question]] = {}  # client and port -> a connect that failed, and its question
    ports = tcp.flows.server_port.tolist()
    for connect in connects:
        flow, syn_ns = connect.flow, connect.tries[0]
        client, address, owner = clients[flow], addresses.packed[servers[flow]], owners[connect.flow]
        question = questions.behind(client, address, syn_ns)
        earlier = failed.get((client, ports[flow]))
        if question is None and earlier is not None and _replaces(connect, address, *earlier):
            _hand_over(earlier[0], owner)
            question = earlier[1]
        elif question is not None:
            _take(question, owner, syn_ns, questions)
        if question is not None and owner is connect and connect.outcome is not Outcome.OK:
            failed[client, ports[flow]] = connect, question
        elif question is not None:
            failed.pop((client, ports[flow]), None)


def _take(question: _Question | None, owner: Draft, before_ns: int, questions: _Questions) -> None:
    """Makes a question, and those whose failure led to it, phases of `owner`."""
    while question is not None:
        question.taken = True
        for lookup in question.lookups:
            if lookup.draft.end_ns <= before_ns:
                _attach(lookup.draft, owner)
            else:  # it went on, and nobody waited for it any more
                lookup.draft.part_of = owner
                lookup.draft.facts["awaited"] = False
        before_ns = question.start_ns + _TOGETHER_NS
        question = questions.before(question)


def _replaces(connect: Draft, address: bytes, earlier: Draft, question: _Question) -> bool:
    """Whether a connect goes to another address of the same name because the earlier one failed."""
    known = any(address in lookup.addresses for lookup in question.lookups)
    return known and connect.name != earlier.name and connect.start_ns - earlier.tries[0] <= _FALLBACK_NS


def _hand_over(earlier: Draft, owner: Draft) -> None:
    """What a failed connect and its phases were good for is what replaced it."""
    for phase in earlier.setup:
        _attach(phase, owner)
    earlier.setup = ()
    earlier.start_ns = earlier.tries[0]
    _attach(earlier, owner)


def _attach(phase: Draft, owner: Draft) -> None:
    phase.part_of = owner
    owner.setup += (phase,)
    owner.start_ns = min(owner.start_ns, phase.start_ns)
