"""Step 6: exchanges + signs -> the ledger. Every nanosecond of an exchange gets exactly one label (CAUSES section 11).

Signs are laid over the parts of phases.py; where several cover an instant the label of the higher tier wins, whatever
the order in which detectors spoke.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pcapdiag.flows.conversations import blocks
from pcapdiag.spool import Spool, rows_by_number, taken, windows
from pcapdiag.stalls.ledger import Entry, Ledger
from pcapdiag.stalls.phases import Part, Phase, Phases
from pcapdiag.stalls.plain import LABELS, Entries, Plain, Scales
from pcapdiag.stalls.sign import OfCall, OfExchange, OfFlow, Sign, Tier
from pcapdiag.workers import spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pcapdiag.columns import I32, I64, Bools, Rows
    from pcapdiag.exchanges.table import Exchange, Exchanges, Spans
    from pcapdiag.spool import Room
    from pcapdiag.stalls.sign import Label
    from pcapdiag.streams import Streams
    from pcapdiag.trace import Trace

_PACKETS: Final = 1 << 17
"""So many packets' exchanges are worked on at a time."""
_OWNED = frozenset({Tier.UNKNOWN, Tier.LOSS})
"""Tiers whose flow signs with a byte range reach only the exchanges that own some of those bytes."""
_LOWEST = max(LABELS)
"""Whatever the ledger says by itself is at least as high: a sign that is no higher speaks of no time."""


def keep_ledger(trace: Trace, signs: Sequence[Sign], *, jobs: int = 1) -> Ledger:
    """The ledger of all exchanges of a trace, worked out by `jobs` processes, some flows at a time.

    Raises:
        AssertionError: the parts of an exchange do not sum to its wall time (a bug, never a property of a capture).
    """
    exchanges, room = trace.exchanges, trace.room
    scales, filed = Scales(exchanges, trace.tcp), Filed(signs)
    touched = np.zeros(len(exchanges), np.bool_)
    touched[filed.candidates(exchanges)] = True
    by_flow = exchanges.by_flow(np.ones(len(exchanges), np.bool_), len(trace.flows))

    def keep(flows: tuple[int, int]) -> Kept:
        rows = np.sort(by_flow.values[by_flow.begin[flows[0]] : by_flow.begin[flows[1]]])
        made = _keep(scales, filed, trace.streams.part(*flows), rows, touched[rows], flows)
        trace.release()
        return made

    book = _Book(room)
    for kept in spread(keep, [*blocks(trace.flows.packet_count, _PACKETS)], jobs):
        book.add(kept)
    return book.closed(
        signs,
        counted=(exchanges.part_of < 0) & ~(exchanges.is_setup & exchanges.fact_holds("prewarmed")),  # pooled ahead of need: nobody's wait
        trigger_ns=scales.trigger_ns,
        calls=tuple(_between_attempts(trace, filed)),
    )


class Kept(NamedTuple):
    """The ledger of some exchanges."""

    entries: Entries
    sign: I32
    """Number of the sign that won each entry; -1 for none."""
    labels: tuple[Label, ...]
    """What `entries.label` counts."""


def _keep(scales: Scales, filed: Filed, streams: Streams, rows: Rows, touched: Bools, flows: tuple[int, int]) -> Kept:
    """The ledger of exchanges, by id ascending, of the flows [first, stop); `touched`: those that signs may concern."""
    exchanges = scales.exchanges
    told = {row: mine for row in rows[touched].tolist() if (mine := filed.signs_of(exchanges[row], exchanges))}
    laid, paused = Plain(scales, streams, rows[~np.isin(rows, list(told))], *flows).lay()
    phases = Phases(exchanges, scales.tcp, streams)
    page = _Page(filed)
    for row in sorted((*told, *paused.tolist())):
        exchange, mine = exchanges[row], told.get(row, [])
        page.add(row, _labelled(phases.parts(exchange, _covered(mine)), mine))
    kept = page.with_entries(laid)
    wall_ns = exchanges.end_ns[rows] - exchanges.start_ns[rows]
    covered_ns = np.zeros(len(rows), np.int64)
    np.add.at(covered_ns, np.searchsorted(rows, kept.entries.owner), kept.entries.end_ns - kept.entries.start_ns)
    wrong = np.flatnonzero(covered_ns != wall_ns)
    assert not len(wrong), f"exchange {rows[wrong[0]]}: {covered_ns[wrong[0]]} ns of {wall_ns[wrong[0]]}"
    return kept


class _Page:
    """Entries that are laid one by one."""

    def __init__(self, filed: Filed) -> None:
        self._filed = filed
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._labels = {label: place for place, label in enumerate(LABELS)}

    def add(self, owner: int, intervals: list[tuple[int, int, Part, Sign | None]]) -> None:
        """Takes the intervals of one exchange; neighbours with the same label and sign are one entry."""
        begin = len(self._rows)
        for start, end, part, sign in intervals:
            label = self._labels.setdefault(sign.label if sign else part.label, len(self._labels))
            won = -1 if sign is None else self._filed.number(sign)
            if len(self._rows) > begin and self._rows[-1][3:] == (label, won):
                self._rows[-1] = (owner, self._rows[-1][1], end, label, won)
            else:
                self._rows.append((owner, start, end, label, won))

    def with_entries(self, laid: Entries) -> Kept:
        """These entries and those laid all at once, by exchange."""
        rows = np.array(self._rows, np.int64).reshape(-1, 5)
        at = np.searchsorted(laid.owner, rows[:, 0])  # both by exchange, and none is in both
        owner, start_ns, end_ns, label, sign = rows.T
        entries = Entries(
            np.insert(laid.owner, at, owner), np.insert(laid.start_ns, at, start_ns), np.insert(laid.end_ns, at, end_ns),
            np.insert(laid.label, at, label),
        )  # fmt: skip
        return Kept(entries, np.insert(np.full(len(laid.owner), -1, np.int32), at, sign), tuple(self._labels))


class _Book:
    """The ledger, growing page by page."""

    def __init__(self, room: Room | None) -> None:
        self._room = room
        self._columns = Spool(room)
        self._labels = {label: place for place, label in enumerate(LABELS)}

    def add(self, kept: Kept) -> None:
        """Takes the entries of further exchanges."""
        places = np.array([self._labels.setdefault(label, len(self._labels)) for label in kept.labels], np.int16)
        self._columns.append({**kept.entries._asdict(), "label": places[kept.entries.label], "sign": kept.sign})

    def closed(self, signs: Sequence[Sign], *, counted: Bools, trigger_ns: I64, calls: tuple[Entry, ...]) -> Ledger:
        """The ledger, by exchange."""
        columns = self._columns.finish()
        counts = np.zeros(len(counted), np.int64)
        for part in windows(len(columns["owner"]), self._room):
            counts += np.bincount(columns["owner"][part], minlength=len(counted))
        rows = rows_by_number(columns["owner"], counts, self._room)
        return Ledger(
            **{name: taken(column, rows, self._room) for name, column in columns.items()},
            labels=tuple(self._labels), signs=tuple(signs), counted=counted, trigger_ns=trigger_ns, calls=calls,
        )  # fmt: skip


class _Timeline:
    """The signs of one flow, to be found by time."""

    __slots__ = ("_latest_ends", "_signs", "_starts")

    def __init__(self, signs: list[Sign]) -> None:
        self._signs = sorted(signs, key=lambda sign: sign.start_ns)
        self._starts = [sign.start_ns for sign in self._signs]
        self._latest_ends = list(accumulate((sign.end_ns for sign in self._signs), max))

    def touches(self, start_ns: I64, end_ns: I64) -> Bools:
        """Which of the intervals [start_ns, end_ns) some of them may overlap."""
        near: Bools = np.searchsorted(self._latest_ends, start_ns, side="right") < np.searchsorted(self._starts, end_ns)
        return near

    def during(self, start_ns: int, end_ns: int) -> Iterator[Sign]:
        """Those that overlap [start_ns, end_ns)."""
        near = slice(bisect_right(self._latest_ends, start_ns), bisect_left(self._starts, end_ns))
        return (sign for sign in self._signs[near] if sign.end_ns > start_ns)


class Filed:
    """Signs by exchange, flow and call, in an order of their own, so that the detectors' order cannot matter."""

    __slots__ = ("_by_call", "_by_exchange", "_by_flow", "_numbers")

    def __init__(self, signs: Sequence[Sign]) -> None:
        self._numbers = {id(sign): number for number, sign in enumerate(signs)}
        self._by_exchange: dict[int, list[Sign]] = defaultdict(list)
        self._by_call: dict[int, list[Sign]] = defaultdict(list)
        by_flow: dict[int, list[Sign]] = defaultdict(list)
        for sign in sorted(signs, key=_order):
            match sign.scope:
                case OfExchange(exchange) if sign.label < _LOWEST:
                    self._by_exchange[exchange].append(sign)
                case OfFlow(flow) if sign.label < _LOWEST:
                    by_flow[flow].append(sign)
                case OfCall(call):
                    self._by_call[call].append(sign)
        self._by_flow = {flow: _Timeline(mine) for flow, mine in by_flow.items()}

    def number(self, sign: Sign) -> int:
        """Its place among the signs that were filed."""
        return self._numbers[id(sign)]

    def candidates(self, exchanges: Exchanges) -> list[int]:
        """The exchanges that signs may concern, ascending."""
        rows: list[I64] = []
        own = np.array([row for row in self._by_exchange if 0 <= row < len(exchanges)], np.int64)
        owners = exchanges.part_of[own]
        rows += [own, owners[owners >= 0].astype(np.int64)]
        by_flow = exchanges.by_flow(np.ones(len(exchanges), np.bool_), max(self._by_flow, default=0) + 1)
        for flow, timeline in self._by_flow.items():
            mine = by_flow[flow] if flow >= 0 else by_flow.values[:0]  # marks speak of no flow
            rows.append(mine[timeline.touches(exchanges.start_ns[mine], exchanges.end_ns[mine])])
        found: list[int] = np.unique(np.concatenate(rows)).tolist()
        return found

    def calls(self, count: int) -> list[int]:
        """Those of so many calls that signs concern, ascending."""
        return sorted(call for call in self._by_call if 0 <= call < count)

    def of_call(self, call: int) -> Sequence[Sign]:
        """The signs of what lies between the attempts of a call."""
        return self._by_call.get(call, ())

    def signs_of(self, exchange: Exchange, exchanges: Exchanges) -> list[Sign]:
        """The signs that may label an exchange: its own, those of its set-up, and those of its connection that concern it."""
        mine = [sign for owner in (exchange.id, *exchange.setup) for sign in self._by_exchange.get(owner, ())]
        if exchange.flow not in self._by_flow:
            return mine
        request, response = _bytes_of(exchange, exchanges)
        for sign in self._by_flow[exchange.flow].during(exchange.start_ns, exchange.end_ns):
            scope = sign.scope
            assert isinstance(scope, OfFlow)
            if sign.label.tier in _OWNED and scope.start is not None and scope.stop is not None:
                spans = {0: request, 1: response, None: request + response}[scope.direction]
                if not any(start < scope.stop and stop > scope.start for start, stop in spans):
                    continue
            mine.append(sign)
        return mine


def _order(sign: Sign) -> tuple[object, ...]:
    """Higher labels first; then the surer, earlier and longer sign: the first in line gives the evidence."""
    return (sign.label, -sign.confidence.value, sign.start_ns, -sign.end_ns, repr(sign.scope), sign.frames)


def _bytes_of(exchange: Exchange, exchanges: Exchanges) -> tuple[Spans, Spans]:
    """Request and response bytes, those of its handshakes on the same flow included."""
    setups = [setup for setup in (exchanges[i] for i in exchange.setup) if setup.flow == exchange.flow]
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


def _between_attempts(trace: Trace, filed: Filed) -> Iterator[Entry]:
    """What signs say of the time between the attempts of a call; the rest of it is the client's own and in no sum."""
    for call in filed.calls(len(trace.calls)):
        attempts = [trace.exchanges[i] for i in trace.calls[call].exchanges]
        for before, after in pairwise(attempts):
            for sign in filed.of_call(call):
                start, end = max(before.end_ns, sign.start_ns), min(after.start_ns, sign.end_ns)
                if start < end:
                    yield Entry(call, start, end, sign.label, sign)
