"""Step 6: exchanges + signs -> the ledger. Every nanosecond of an exchange gets exactly one label (CAUSES section 11).

Signs are laid over the parts of phases.py; where several cover an instant the label of the higher tier wins, whatever
the order in which detectors spoke.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from pcapdiag.exchanges.table import SETUP, Exchange, Spans
from pcapdiag.stalls.ledger import Entry, Ledger
from pcapdiag.stalls.phases import Part, Phase, Phases
from pcapdiag.stalls.sign import OfCall, OfExchange, OfFlow, Sign, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pcapdiag.trace import Trace

_OWNED = frozenset({Tier.UNKNOWN, Tier.LOSS})
"""Tiers whose flow signs with a byte range reach only the exchanges that own some of those bytes."""


def keep_ledger(trace: Trace, signs: Iterable[Sign]) -> Ledger:
    """The ledger of all exchanges of a trace.

    Raises:
        AssertionError: the parts of an exchange do not sum to its wall time (a bug, never a property of a capture).
    """
    phases = Phases(trace.exchanges, trace.tcp, trace.streams)
    by_exchange, by_flow, by_call = _filed(signs)
    entries: list[tuple[Entry, ...]] = []
    triggers: list[int] = []
    for exchange in trace.exchanges:
        mine = _signs_of(exchange, trace.exchanges.rows, by_exchange, by_flow)
        parts = phases.parts(exchange, _covered(mine))
        entries.append(_merged(exchange.id, _labelled(parts, mine)))
        triggers.append(phases.trigger_ns(exchange))
        covered = sum(entry.duration_ns for entry in entries[-1])
        assert covered == exchange.duration_ns, f"exchange {exchange.id}: {covered} ns of {exchange.duration_ns}"
    counted = frozenset(exchange.id for exchange in trace.exchanges if exchange.part_of is None and not _prewarmed(exchange))
    return Ledger(tuple(entries), counted, tuple(triggers), tuple(_between_attempts(trace, by_call)))


def _prewarmed(exchange: Exchange) -> bool:
    """A set-up that no request waited for: pooled ahead of need; its time is nobody's wait."""
    return exchange.protocol in SETUP and bool(exchange.facts.get("prewarmed"))


class _Timeline:
    """The signs of one flow, to be found by time."""

    __slots__ = ("_latest_ends", "_signs", "_starts")

    def __init__(self, signs: list[Sign]) -> None:
        self._signs = sorted(signs, key=lambda sign: sign.start_ns)
        self._starts = [sign.start_ns for sign in self._signs]
        self._latest_ends = list(accumulate((sign.end_ns for sign in self._signs), max))

    def during(self, start_ns: int, end_ns: int) -> Iterator[Sign]:
        """Those that overlap [start_ns, end_ns)."""
        near = slice(bisect_right(self._latest_ends, start_ns), bisect_left(self._starts, end_ns))
        return (sign for sign in self._signs[near] if sign.end_ns > start_ns)


def _filed(signs: Iterable[Sign]) -> tuple[dict[int, list[Sign]], dict[int, _Timeline], dict[int, list[Sign]]]:
    """Signs by exchange, flow and call, in an order of their own, so that the detectors' order cannot matter."""
    by_exchange: dict[int, list[Sign]] = defaultdict(list)
    by_flow: dict[int, list[Sign]] = defaultdict(list)
    by_call: dict[int, list[Sign]] = defaultdict(list)
    for sign in sorted(signs, key=_order):
        match sign.scope:
            case OfExchange(exchange):
                by_exchange[exchange].append(sign)
            case OfFlow(flow):
                by_flow[flow].append(sign)
            case OfCall(call):
                by_call[call].append(sign)
    return by_exchange, {flow: _Timeline(mine) for flow, mine in by_flow.items()}, by_call


def _order(sign: Sign) -> tuple[object, ...]:
    """Higher labels first; then the surer, earlier and longer sign: the first in line gives the evidence."""
    return (sign.label, -sign.confidence.value, sign.start_ns, -sign.end_ns, repr(sign.scope), sign.frames)


def _signs_of(
    exchange: Exchange, rows: Sequence[Exchange], by_exchange: dict[int, list[Sign]], by_flow: dict[int, _Timeline]
) -> list[Sign]:
    """The signs that may label an exchange: its own, those of its set-up, and those of its connection that concern it."""
    mine = [sign for owner in (exchange.id, *exchange.setup) for sign in by_exchange.get(owner, ())]
    if exchange.flow not in by_flow:
        return mine
    request, response = _bytes_of(exchange, rows)
    for sign in by_flow[exchange.flow].during(exchange.start_ns, exchange.end_ns):
        scope = sign.scope
        assert isinstance(scope, OfFlow)
        if sign.label.tier in _OWNED and scope.start is not None and scope.stop is not None:
            spans = {0: request, 1: response, None: request + response}[scope.direction]
            if not any(start < scope.stop and stop > scope.start for start, stop in spans):
                continue
        mine.append(sign)
    return mine


def _bytes_of(exchange: Exchange, rows: Sequence[Exchange]) -> tuple[Spans, Spans]:
    """Request and response bytes, those of its handshakes on the same flow included."""
    setups = [rows[i] for i in exchange.setup if rows[i].flow == exchange.flow]
    return (
        exchange.request + tuple(span for setup in setups for span in setup.request),
        exchange.response + tuple(span for setup in setups for span in setup.response),
    )


def _covered(signs: list[Sign]) -> list[tuple[int, int]]:
    """The union of the intervals in which signs say that nothing could progress while waiting."""
    union: list[tuple[int, int]] = []
    for start, end in sorted((s.start_ns, s.end_ns) for s in signs if s.label.tier <= Tier.HELD and _eligible(s, Phase.WAIT)):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return union


def _eligible(sign: Sign, phase: Phase) -> bool:
    """May a sign label time of this phase? While sending, only what holds the request up; while receiving, the response."""
    if isinstance(sign.scope, OfExchange):
        return True
    if phase is Phase.DNS or not isinstance(sign.scope, OfFlow):
        return False
    direction = sign.scope.direction
    if phase is Phase.SEND:
        return direction in {None, 0}
    if phase is Phase.RECV:
        return direction in {None, 1}
    return True


def _labelled(parts: list[Part], signs: list[Sign]) -> list[tuple[int, int, Part, Sign | None]]:
    """Elementary intervals with the winning sign, or None where the part's own label stands."""
    if not signs:
        return [(part.start_ns, part.end_ns, part, None) for part in parts]
    ranked = sorted(signs, key=_order)
    to_come = deque(sorted(range(len(ranked)), key=lambda rank: ranked[rank].start_ns))
    result: list[tuple[int, int, Part, Sign | None]] = []
    begun: list[int] = []
    for part in parts:
        while to_come and ranked[to_come[0]].start_ns < part.end_ns:
            begun.append(to_come.popleft())
        begun = [rank for rank in begun if ranked[rank].end_ns > part.start_ns]
        over = [rank for rank in begun if ranked[rank].label < part.label and _eligible(ranked[rank], part.phase)]
        result += _won(part, ranked, over)
    return result


def _won(part: Part, ranked: list[Sign], over: list[int]) -> Iterator[tuple[int, int, Part, Sign | None]]:
    """A part, cut where signs over it (ranks, ascending by start) begin and end; of those that cover a piece the first in rank wins it."""
    edges = {edge for rank in over for edge in (ranked[rank].start_ns, ranked[rank].end_ns) if part.start_ns < edge < part.end_ns}
    open_ranks: list[int] = []
    begun = 0
    for start, end in pairwise(sorted({part.start_ns, part.end_ns} | edges)):
        while begun < len(over) and ranked[over[begun]].start_ns <= start:
            heappush(open_ranks, over[begun])
            begun += 1
        while open_ranks and ranked[open_ranks[0]].end_ns <= start:
            heappop(open_ranks)
        yield start, end, part, ranked[open_ranks[0]] if open_ranks else None


def _merged(owner: int, intervals: list[tuple[int, int, Part, Sign | None]]) -> tuple[Entry, ...]:
    """Neighbours with the same label and sign as one entry."""
    entries: list[Entry] = []
    for start, end, part, sign in intervals:
        label = sign.label if sign else part.label
        last = entries[-1] if entries else None
        if last and last.label == label and last.sign is sign:
            entries[-1] = Entry(owner, last.start_ns, end, label, sign)
        else:
            entries.append(Entry(owner, start, end, label, sign))
    return tuple(entries)


def _between_attempts(trace: Trace, by_call: dict[int, list[Sign]]) -> Iterable[Entry]:
    """What signs say of the time between the attempts of a call; the rest of it is the client's own and in no sum."""
    for call in trace.calls.rows:
        attempts = [trace.exchanges[i] for i in call.exchanges]
        for before, after in pairwise(attempts):
            for sign in by_call.get(call.id, ()):
                start, end = max(before.end_ns, sign.start_ns), min(after.start_ns, sign.end_ns)
                if start < end:
                    yield Entry(call.id, start, end, sign.label, sign)
