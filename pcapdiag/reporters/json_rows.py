"""The long tables of the JSON report: calls, exchanges and flows, one line of text each, straight from the columns.

A capture has tens of thousands of them: what is equal in many lines is encoded once, and no line is ever a dict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from itertools import islice, pairwise, starmap
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pcapdiag.columns import I64, NEVER, rows_between
from pcapdiag.exchanges.table import BACKOFFS, CODES, ENDS, KEYS, OUTCOMES, PROTOCOLS, Outcome, Protocol
from pcapdiag.findings.summary import NO_AGENT, NO_STALL, agents_of
from pcapdiag.flows.segmented import group_starts
from pcapdiag.flows.table import Vantage
from pcapdiag.reporters.phrases import EVIDENCE_LIMIT, microseconds
from pcapdiag.workers import MOST_ITEMS, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from pcapdiag.exchanges.table import Exchanges
    from pcapdiag.findings import Diagnosis
    from pcapdiag.stalls.ledger import Entry, Ledger
    from pcapdiag.trace import Tables

_CHUNK: Final = 4_096
"""Lines made at a time: Python's numbers are five times as large as the columns'."""
LINE_END: Final = ",\n    "
"""Between two rows of a table."""
_NULL: Final = "null"
_TRANSPORTS: Final = {6: "tcp", 17: "udp"}


def seconds(ns: int) -> float:
    """Nanoseconds as seconds with six decimals."""
    return microseconds(ns) / 1_000_000


def long_tables(diagnosis: Diagnosis) -> dict[str, Iterator[str]]:
    """Name of a table -> its rows, some thousand at a time with what stands between two of them; to be read in this order."""
    tables = diagnosis.tables
    ends = list(starmap(_ends, zip(*endpoints(tables), strict=True)))
    makers: dict[str, tuple[int, Callable[[int, int], Iterator[str]]]] = {
        "calls": (len(tables.calls), partial(_call_lines, tables)),
        "exchanges": (len(tables.exchanges), _exchange_lines(diagnosis, ends)),
        "flows": (len(tables.flows), _flow_lines(tables, ends)),
    }
    step = max(_CHUNK, -(-len(makers) * max(count for count, _ in makers.values()) // (MOST_ITEMS - len(makers))))
    begins = {name: range(0, count, step) for name, (count, _) in makers.items()}

    def text(item: tuple[str, int]) -> str:
        name, begin = item
        count, lines = makers[name]
        return LINE_END.join(lines(begin, min(begin + step, count)))

    texts = spread(text, [(name, begin) for name, some in begins.items() for begin in some], diagnosis.jobs)
    return {name: islice(texts, len(some)) for name, some in begins.items()}


def _call_lines(tables: Tables, begin: int, stop: int) -> Iterator[str]:
    """One object per call."""
    calls, some = tables.calls, slice(begin, stop)
    columns = (
        calls.agent[some].tolist(), _seconds(calls.start_ns[some] - tables.start_ns), _seconds(calls.end_ns[some] - tables.start_ns),
        calls.backoff[some].tolist(), calls.outcome[some].tolist(),
    )  # fmt: skip
    backoffs, outcomes = _encoded(BACKOFFS), _encoded(outcome.value for outcome in OUTCOMES)
    for number, (agent, start_s, end_s, backoff, outcome) in enumerate(zip(*columns, strict=True), begin):
        yield (
            f'{{"id": {number}, "agent": {agent}, "exchanges": {calls.exchanges[number].tolist()}, "start_s": {start_s}, '
            f'"end_s": {end_s}, "backoff": {backoffs[backoff]}, "outcome": {outcomes[outcome]}}}'
        )


def _exchange_lines(diagnosis: Diagnosis, ends: Sequence[str]) -> Callable[[int, int], Iterator[str]]:
    """One object per exchange."""
    tables, ledger = diagnosis.tables, diagnosis.ledger
    exchanges = tables.exchanges
    texts, facts = _encoded(exchanges.texts), [_trace_id(facts.get("trace_id")) for facts in exchanges.facts]
    agents, shares = agents_of(tables), _Shares(ledger)

    def lines(begin: int, stop: int) -> Iterator[str]:
        some = slice(begin, stop)
        words = (
            _words(exchanges.protocol[some], [protocol.value for protocol in PROTOCOLS]),
            _words(exchanges.keys[some], KEYS),
            _words(exchanges.outcome[some], [outcome.value for outcome in OUTCOMES]),
        )
        columns = (
            _or_null(agents[some], NO_AGENT), _or_null(tables.calls.of_exchange[some], -1), exchanges.flow[some].tolist(),
            _or_null(exchanges.part_of[some], -1), *words, np.where(exchanges.inferred[some], "true", "false").tolist(),
            exchanges.name[some].tolist(), exchanges.status[some].tolist(), exchanges.fact[some].tolist(), *_times(exchanges, some, tables),
            _details(exchanges, some), shares.of(begin, stop),
        )  # fmt: skip
        stalls = _stalls(tables, ledger, begin, stop)
        for number, (
            agent, call, flow, part_of, protocol, keys, outcome, inferred, name, status, fact, start_s, request_end_s, first_byte_s, end_s,
            duration_s, details, share,
        ) in enumerate(zip(*columns, strict=True), begin):  # fmt: skip
            yield (
                f'{{"id": {number}, "agent": {agent}, "call": {call}, "flow": {flow}, "part_of": {part_of}, "protocol": {protocol}, '
                f'"inferred": {inferred}, "keys": {keys}, "name": {texts[name]}, {ends[flow]}, "start_s": {start_s}, '
                f'"request_end_s": {request_end_s}, "first_byte_s": {first_byte_s}, "end_s": {end_s}, "duration_s": {duration_s}, '
                f'"status": {_NULL if status < 0 else texts[status]}, "outcome": {outcome}, "details": {details}, "ledger_s": {{{share}}}, '
                f'"stalls": {stalls.get(number, "[]")}, "trace_id": {facts[fact]}}}'
            )

    return lines


def _flow_lines(tables: Tables, ends: Sequence[str]) -> Callable[[int, int], Iterator[str]]:
    """One object per flow."""
    flows, spoken, resent = tables.flows, _applications(tables), _resent(tables)
    applications, vantages = [_NULL, *_encoded(protocol.value for protocol in PROTOCOLS)], {v: v.name.lower() for v in Vantage}

    def lines(begin: int, stop: int) -> Iterator[str]:
        some = slice(begin, stop)
        columns = (
            flows.proto[some].tolist(), spoken[some].tolist(), flows.vantage[some].tolist(), flows.packet_count[some].tolist(),
            flows.byte_count[some].tolist(), _seconds(flows.first_ns[some] - tables.start_ns),
            _seconds(flows.last_ns[some] - tables.start_ns),
        )  # fmt: skip
        for flow, (proto, application, vantage, packets, size, first_s, last_s) in enumerate(zip(*columns, strict=True), begin):
            yield (
                f'{{"id": {flow}, {ends[flow]}, "protocol": "{_TRANSPORTS.get(proto, proto)}", '
                f'"application": {applications[application + 1]}, "vantage": "{vantages[vantage]}", "packets": {packets}, '
                f'"bytes": {size}, "first_s": {first_s}, "last_s": {last_s}{resent.get(flow, "")}}}'
            )

    return lines


def _resent(tables: Tables) -> dict[int, str]:
    """Flow -> what its packets that carry bytes again were, and where those before them were lost, as further members."""
    resent, kinds = tables.resent, ("fast", "rto", "probe", "spurious", "zero_window_probe", "keep_alive", "reordered", "unknown")
    places = {"before_tap": resent.lost_before_tap, "behind_tap": resent.lost_behind_tap, "ack": resent.lost_ack}
    found = {}
    for row, flow in enumerate(resent.flow.tolist()):
        retransmissions = {kind: int(getattr(resent, kind)[row]) for kind in kinds}
        lost = {place: int(count[row]) for place, count in places.items()}
        found[flow] = f', "retransmissions": {json.dumps(retransmissions)}, "lost": {json.dumps(lost)}'
    return found


def endpoints(tables: Tables) -> tuple[list[str], list[str]]:
    """The clients and the servers of all flows, as address:port."""
    flows = range(len(tables.flows))
    return [tables.client(flow) for flow in flows], [tables.server(flow) for flow in flows]


def apportioned(group: I64, parts_ns: I64) -> I64:
    """Microseconds that sum, in each group of adjacent rows, to the rounded total: largest remainders are rounded up (Hamilton)."""
    if not len(group):
        return parts_ns
    begins = np.flatnonzero(group_starts(group))
    count = np.diff(begins, append=len(group))
    whole = parts_ns // 1000
    missing = (np.add.reduceat(parts_ns, begins) + 500) // 1000 - np.add.reduceat(whole, begins)
    order = np.lexsort((-(parts_ns % 1000), group))
    whole[order] += np.arange(len(group)) - np.repeat(begins, count) < np.repeat(missing, count)
    return whole


class _Shares:
    """What of each exchange's wall time each label got, as the members of an object, largest first."""

    def __init__(self, ledger: Ledger) -> None:
        codes = sorted({label.code for label in ledger.labels})
        self._ledger, self._members = ledger, [f"{json.dumps(code)}: " for code in codes]
        self._code = np.array([codes.index(label.code) for label in ledger.labels], np.int64)

    def of(self, begin: int, stop: int) -> list[str]:
        """Those of the exchanges [begin, stop)."""
        ledger = self._ledger
        some = rows_between(ledger.owner, begin, stop)
        owner, code = ledger.owner[some].astype(np.int64) - begin, self._code[ledger.label[some]]
        count = len(self._members)
        spent_ns = np.zeros((stop - begin) * count, np.int64)
        np.add.at(spent_ns, owner * count + code, ledger.end_ns[some] - ledger.start_ns[some])
        present = np.zeros(len(spent_ns), np.bool_)
        present[owner * count + code] = True
        kept = np.flatnonzero(present)
        owner, code, spent_ns = kept // max(count, 1), kept % max(count, 1), spent_ns[kept]
        share_us = apportioned(owner, spent_ns)
        by_size = np.lexsort((code, -spent_ns, owner))
        named = zip(code[by_size].tolist(), (share_us[by_size] / 1_000_000).tolist(), strict=True)
        members = [f"{self._members[number]}{share_s}" for number, share_s in named]
        edges = np.searchsorted(owner, np.arange(stop - begin + 1)).tolist()
        return [", ".join(members[a:b]) for a, b in pairwise(edges)]


def _stalls(tables: Tables, ledger: Ledger, begin: int, stop: int) -> dict[int, str]:
    """Of the exchanges [begin, stop) those with stalls, and these."""
    some = rows_between(ledger.owner, begin, stop)
    long = ledger.end_ns[some] - ledger.start_ns[some] > ledger.trigger_ns[ledger.owner[some]]
    no_stall = np.array([label.code in NO_STALL for label in ledger.labels], np.bool_)
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in (some.start + np.flatnonzero(long & ~no_stall[ledger.label[some]])).tolist():
        entry = ledger.entry(row)
        found[entry.owner].append(_stall(entry, tables))
    return {owner: json.dumps(stalls) for owner, stalls in found.items()}


def _stall(entry: Entry, tables: Tables) -> dict[str, Any]:
    frames = entry.sign.frames[:EVIDENCE_LIMIT] if entry.sign else ()
    return {
        "start_s": seconds(entry.start_ns - tables.start_ns),
        "end_s": seconds(entry.end_ns - tables.start_ns),
        "cause": entry.label.code,
        "at_least": entry.sign is not None and entry.sign.at_least,
        "frames": [list(tables.place(frame.capture, frame.number)) for frame in frames],
    }


def _seconds(ns: I64) -> list[float]:
    """`seconds` of a column."""
    column: list[float] = ((ns + 500) // 1000 / 1_000_000).tolist()
    return column


def _times(exchanges: Exchanges, some: slice, tables: Tables) -> Iterator[list[Any]]:
    """Start, end of the request, first byte, end and duration; "null" for what never was."""
    for column in (exchanges.start_ns, exchanges.request_end_ns, exchanges.first_byte_ns, exchanges.end_ns):
        times: list[Any] = _seconds(np.minimum(column[some], NEVER - 1_000) - tables.start_ns)
        for row in np.flatnonzero(column[some] == NEVER).tolist():
            times[row] = _NULL
        yield times
    yield _seconds(exchanges.end_ns[some] - exchanges.start_ns[some])


def _details(exchanges: Exchanges, some: slice) -> list[str]:
    details = ["{}"] * len(exchanges.flow[some])
    for row in np.flatnonzero(exchanges.outcome[some] == CODES[Outcome.ABORTED]).tolist():
        by = int(exchanges.aborted_by[some][row])
        details[row] = json.dumps({"aborted_by": ENDS[by] if by >= 0 else None})
    return details


def _or_null(column: npt.NDArray[np.integer[Any]], none: int) -> list[Any]:
    """The numbers of a column, "null" for those that stand for none."""
    numbers: list[Any] = column.tolist()
    for row in np.flatnonzero(column == none).tolist():
        numbers[row] = _NULL
    return numbers


def _words(column: npt.NDArray[np.integer[Any]], words: Iterable[str]) -> list[str]:
    encoded = _encoded(words)
    return [encoded[place] for place in column.tolist()]


def _encoded(texts: Iterable[str]) -> list[str]:
    return [json.dumps(text) for text in texts]


def _ends(client: str, server: str) -> str:
    return f'"client": {json.dumps(client)}, "server": {json.dumps(server)}'


def _trace_id(value: object) -> str:
    return _NULL if value is None else json.dumps(str(value))


def _applications(tables: Tables) -> I64:
    """What each flow speaks, a place in PROTOCOLS: the protocol of its last exchange, a handshake where there is nothing else; or -1."""
    exchanges, code = tables.exchanges, {protocol: place for place, protocol in enumerate(PROTOCOLS)}
    as_part_of = np.arange(len(PROTOCOLS))
    as_part_of[[code[Protocol.CONNECT], code[Protocol.OTHER]]] = -1
    as_part_of[code[Protocol.TLS_HANDSHAKE]] = code[Protocol.TLS]
    as_part_of[code[Protocol.GRPC]] = code[Protocol.H2]
    as_part_of[code[Protocol.SSE]] = code[Protocol.HTTP1]
    spoken = np.full(len(tables.flows), -1, np.int64)
    is_handshake = exchanges.protocol == code[Protocol.TLS_HANDSHAKE]
    for some in (is_handshake, ~is_handshake & (as_part_of[exchanges.protocol] >= 0)):
        protocol = np.where(exchanges.h2_stream[some] > 0, code[Protocol.H2], as_part_of[exchanges.protocol[some]])
        spoken[exchanges.flow[some]] = protocol  # the last of several counts
    return spoken
