"""Which lookups, connects and handshakes an application exchange waited for (CAUSES section 11: T0; 5.1, 5.3, 5.5)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.table import CODES, Outcome, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pcapdiag.columns import I64, Rows
    from pcapdiag.exchanges.lookups import Lookup
    from pcapdiag.exchanges.unsettled import Unsettled
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
class _Asked:
    """A lookup, where it is among all exchanges, and its times."""

    lookup: Lookup
    row: int
    start_ns: int
    end_ns: int


@dataclass(slots=True, eq=False)
class _Question:
    """The lookups of one name that one call of the resolver made."""

    lookups: list[_Asked]
    start_ns: int
    end_ns: int
    """Last answer, or giving up, of all of them."""
    taken: bool = False

    @property
    def client(self) -> int:
        """Who asked."""
        return self.lookups[0].lookup.client

    @property
    def first_label(self) -> str:
        """Of the name asked for, which other search suffixes leave as it is."""
        return self.lookups[0].lookup.qname.partition(".")[0]

    def served(self, syn_ns: int) -> bool:
        """Whether a SYN came soon after the last of the answers that came before it."""
        ends = [asked.end_ns for asked in self.lookups if asked.lookup.answered and asked.end_ns <= syn_ns]
        return bool(ends) and syn_ns - max(ends) <= _CRITICAL_NS


@dataclass(slots=True, eq=False)
class _Questions:
    """All questions, to be found by the address they led to and by when they ended."""

    by_address: dict[tuple[int, bytes], list[_Question]] = field(default_factory=lambda: defaultdict(list))
    by_end: dict[int, list[tuple[int, int, _Question]]] = field(default_factory=lambda: defaultdict(list))
    """Client -> (end, number, question), ascending."""

    @classmethod
    def of(cls, lookups: Mapping[int, Lookup], unsettled: Unsettled) -> _Questions:
        """Groups lookups (row -> what it is) into questions."""
        questions: list[_Question] = []
        latest: dict[tuple[int, str], _Question] = {}
        found = cls()
        table = unsettled.exchanges
        for row in unsettled.order(np.array(list(lookups), np.int64)).tolist():
            asked = _Asked(lookups[row], row, int(table.start_ns[row]), int(table.end_ns[row]))
            client, qname = asked.lookup.client, asked.lookup.qname
            question = latest.get((client, qname))
            if question is None or (asked.start_ns - question.start_ns > _TOGETHER_NS and asked.start_ns >= question.end_ns):
                question = latest[client, qname] = _Question([], asked.start_ns, asked.end_ns)
                questions.append(question)
            question.lookups.append(asked)
            question.end_ns = max(question.end_ns, asked.end_ns)
            for address in sorted(asked.lookup.addresses):
                found.by_address[client, address].append(question)
        for number, question in enumerate(questions):
            found.by_end[question.client].append((question.end_ns, number, question))
        for ends in found.by_end.values():
            ends.sort(key=lambda item: item[:2])
        return found

    def behind(self, client: int, address: bytes, syn_ns: int) -> _Question | None:
        """The question whose answer a SYN to `address` waited for."""
        return next((q for q in reversed(self.by_address.get((client, address), [])) if not q.taken and q.served(syn_ns)), None)

    def before(self, question: _Question) -> _Question | None:
        """The question whose failure made the client ask this one: another suffix, another resolver, TCP after a truncated answer."""
        ends = self.by_end[question.client]
        index = bisect_right(ends, question.start_ns, key=lambda item: item[0]) - 1
        while index >= 0 and ends[index][0] >= question.start_ns - _CRITICAL_NS:
            other = ends[index][2]
            failed = not any(asked.lookup.usable for asked in other.lookups)
            if other is not question and not other.taken and failed and other.first_label == question.first_label:
                return other
            index -= 1
        return None


def attach_setup(unsettled: Unsettled, lookups: Mapping[int, Lookup], tcp: TcpTables, addresses: Addresses, rtts: I64) -> None:
    """Makes set-up exchanges phases of what waited for them, and lets that begin with the first of them.

    Args:
        unsettled: all exchanges.
        lookups: what the lookups among them are, by row.
        tcp: the flows they are in.
        addresses: what those flows' addresses refer to.
        rtts: round trip of each flow, see `round_trips`.
    """
    table = unsettled.exchanges
    order = unsettled.order()
    is_step = table.is_any(Protocol.CONNECT, Protocol.TLS_HANDSHAKE)[order]
    # A lookup over TCP waits for its connection, too.
    is_request = ~is_step & (~table.is_any(Protocol.DNS) | (table.request.counts > 0))[order]
    first = np.full(len(tcp.flows), -1)
    requests = order[is_request][::-1]
    first[table.flow[requests]] = requests  # of several the last one stays
    owner_of = _attach_phases(unsettled, order[is_step], first, rtts)
    if lookups:
        connects = order[is_step & (table.protocol[order] == CODES[Protocol.CONNECT])]
        questions = _Questions.of(lookups, unsettled)
        _Attaching(unsettled, owner_of, questions, tcp, addresses).attach(connects)


def _attach_phases(unsettled: Unsettled, steps: Rows, first: Rows, rtts: I64) -> Rows:
    """Attaches connects and handshakes, given in order, to the first request of their flow.

    Returns:
        Per flow, what a lookup before its connect would be a phase of; -1 without a connect or handshake.
    """
    table = unsettled.exchanges
    flow = table.flow[steps]
    last, earliest, ready_ns = np.full(len(first), -1), np.full(len(first), -1), np.full(len(first), np.iinfo(np.int64).min)
    last[flow] = steps
    earliest[flow[::-1]] = steps[::-1]
    np.maximum.at(ready_ns, flow, table.end_ns[steps])
    patience_ns = np.maximum(_PREWARMED_NS, 2 * rtts)
    asked = first >= 0
    warm = asked & (earliest >= 0)
    warm[warm] = table.start_ns[first[warm]] - ready_ns[warm] > patience_ns[warm]
    # A handshake that failed waited for its connect.
    owner = np.where(warm, earliest, np.where(asked, first, last))
    owner[earliest < 0] = -1
    for step in steps[warm[flow]].tolist():
        unsettled.note(step, "prewarmed", True)
    phases = steps[~warm[flow] & (owner[flow] != steps)]
    unsettled.attach(phases, owner[table.flow[phases]])
    return owner


class _Attaching:
    """Attaches lookups to what waited for the connects behind them."""

    def __init__(self, unsettled: Unsettled, owner_of: Rows, questions: _Questions, tcp: TcpTables, addresses: Addresses) -> None:
        self._unsettled, self._table, self._owner_of, self._questions = unsettled, unsettled.exchanges, owner_of, questions
        self._flows, self._addresses = tcp.flows, addresses

    def attach(self, connects: Rows) -> None:
        """Looks for the question behind each connect, in their order."""
        failed: dict[tuple[int, int], tuple[int, _Question]] = {}  # client and port -> a connect that failed, and its question
        for connect in connects.tolist():
            flow = int(self._table.flow[connect])
            syn_ns, owner = int(self._table.tries[connect][0]), int(self._owner_of[flow])
            client, address = int(self._flows.client[flow]), self._addresses.packed[self._flows.server[flow]]
            route = client, int(self._flows.server_port[flow])
            question = self._questions.behind(client, address, syn_ns)
            earlier = failed.get(route)
            if question is None and earlier is not None and self._replaces(connect, address, *earlier):
                self._hand_over(earlier[0], owner)
                question = earlier[1]
            elif question is not None:
                self._take(question, owner, syn_ns)
            if question is not None and owner == connect and self._table.outcome[connect] != CODES[Outcome.OK]:
                failed[route] = connect, question
            elif question is not None:
                failed.pop(route, None)

    def _take(self, taken: _Question, owner: int, before_ns: int) -> None:
        """Makes a question, and those whose failure led to it, phases of `owner`."""
        question: _Question | None = taken
        while question is not None:
            question.taken = True
            for asked in question.lookups:
                if asked.end_ns <= before_ns:
                    self._unsettled.attach([asked.row], owner)
                else:  # it went on, and nobody waited for it any more
                    self._table.part_of[asked.row] = owner
                    self._unsettled.note(asked.row, "awaited", False)
            before_ns = question.start_ns + _TOGETHER_NS
            question = self._questions.before(question)

    def _replaces(self, connect: int, address: bytes, earlier: int, question: _Question) -> bool:
        """Whether a connect goes to another address of the same name because the earlier one failed."""
        table = self._table
        known = any(address in asked.lookup.addresses for asked in question.lookups)
        return known and bool(
            table.name[connect] != table.name[earlier] and table.start_ns[connect] - table.tries[earlier][0] <= _FALLBACK_NS
        )

    def _hand_over(self, earlier: int, owner: int) -> None:
        """What a failed connect and its phases were good for is what replaced it."""
        phases = np.flatnonzero((self._table.part_of == earlier) & self._unsettled.attached)
        self._unsettled.attach(phases, owner)
        self._table.start_ns[earlier] = self._table.tries[earlier][0]
        self._unsettled.attach([earlier], owner)
