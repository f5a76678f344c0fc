"""Arbitrary exchanges and signs over one small real trace: what the ledger must keep its promises for."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Call, Calls, Exchange, Outcome, Protocol
from pcapdiag.packets.table import UDP
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfCall, OfExchange, OfFlow, Sign, Tier
from tests.exchange_rows import exchanges_of
from tests.wire import Wire, merge

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pcapdiag.trace import Trace

MS = 1_000_000
CAUSES = [Label(tier, place, f"{tier.name.lower()}-{place}") for tier in Tier for place in (0, 1, 9)]
SURENESS = [Confidence(value) for value in (0.3, 0.6, 0.9)]


@cache
def scene() -> Trace:
    """Two connections with waits, a token stream and losses on both ways, and a lookup."""
    first = Wire().handshake().http_get(body=9_000, think_ms=250).wait(ms=90).send(3_000, lose="after", only=[2]).wait(ms=260).resend()
    first.wait(ms=120).reply(40, every_ms=1).wait(ms=30).reply(40).wait(ms=400).reply(40).wait(ms=20).reply(9_000, lose="before", only=[1])
    first.wait(ms=240).resend(9_220, 10_700, by="server").close()
    second = Wire(cport=50_001, start_ms=5, vantage="client").handshake().send(500).wait(ms=30).reply(70_000)
    return merge(Wire(cport=5_353, sport=53).udp(b"question").udp(b"answer", "server"), first, second).trace()


@cache
def moments() -> SearchStrategy[int]:
    """Times around the scene: on a grid, so that edges meet; a nanosecond off it; or those of its packets."""
    trace = scene()
    begin, end = int(trace.flows.first_ns.min()), int(trace.flows.last_ns.max())
    packets = np.unique(trace.segments.ts_ns).tolist()
    grid = st.integers(-20, (end - begin) // (10 * MS) + 20).map(lambda step: begin + step * 10 * MS)
    return grid | grid.map(lambda ns: ns + 1) | st.sampled_from(packets)


def _exchange(parts: tuple[Any, ...]) -> Exchange:
    """Of what `_PARTS` draws; its set-ups are not chosen yet."""
    protocol, flow, (start, end), (request_start, request_end), acked, answered, spans, (stream, outcome, status, tries, early) = parts
    flows = np.flatnonzero((scene().flows.proto == UDP) == (protocol is Protocol.DNS))
    return Exchange(
        id=0, flow=int(flows[flow % len(flows)]), protocol=protocol, name="x", start_ns=start, end_ns=end, request_start_ns=request_start,
        request_end_ns=request_end, request_acked_ns=acked, first_byte_ns=answered, request=spans[0], response=spans[1], h2_stream=stream,
        outcome=outcome, status=status, tries=tuple(range(tries)), facts={"prewarmed": True} if early else {},
    )  # fmt: skip


@cache
def exchanges() -> SearchStrategy[list[Exchange]]:
    """Up to five arbitrary exchanges; an application exchange may have waited for set-ups before it in the list."""
    maybe = moments() | st.just(NEVER)
    spans = st.lists(st.integers(0, 20_000), max_size=6, unique=True).map(lambda cuts: tuple(pairwise(sorted(cuts)))[::2])
    parts = st.tuples(
        st.sampled_from(Protocol), st.integers(0, 1), st.tuples(moments(), moments()).map(sorted), st.tuples(maybe, maybe).map(sorted),
        maybe, maybe, st.tuples(spans, spans),
        st.tuples(st.integers(0, 1), st.sampled_from(Outcome), st.sampled_from([None, "200", "TLSv1.2"]), st.integers(0, 2), st.booleans()),
    )  # fmt: skip
    return st.lists(st.tuples(parts.map(_exchange), st.sets(st.integers(0, 4), max_size=3)), min_size=1, max_size=5).map(_linked)


def _linked(drawn: list[tuple[Exchange, set[int]]]) -> list[Exchange]:
    rows: list[Exchange] = []
    for number, (row, wanted) in enumerate(drawn):
        setups = sorted(wanted & {one.id for one in rows if one.is_setup}) if not row.is_setup else []
        rows.append(replace(row, id=number, setup=tuple(setups)))
    owners = {setup: row.id for row in rows for setup in row.setup}
    return [replace(row, part_of=owners.get(row.id)) for row in rows]


def trace_of(rows: list[Exchange]) -> Trace:
    """The scene with these exchanges, chained into one call."""
    chain = [row.id for row in rows if row.part_of is None]
    times = {"start_ns": rows[chain[0]].start_ns, "end_ns": rows[chain[-1]].end_ns}
    call = Call(id=0, agent=0, exchanges=tuple(chain), backoff="none", outcome=Outcome.OK, **times)
    return replace(scene(), exchanges=exchanges_of(rows), calls=Calls.of([call], (0,), len(rows)))


@cache
def signs() -> SearchStrategy[list[Sign]]:
    """Up to six signs of any label and scope, each told from the others by its frame."""
    offset = st.none() | st.integers(0, 20_000)
    flow = st.builds(OfFlow, st.integers(0, len(scene().flows) - 1), st.sampled_from([None, 0, 1]), offset, offset)
    scope = st.builds(OfExchange, st.integers(0, 4)) | flow | st.just(OfCall(0))
    one = st.tuples(st.sampled_from(CAUSES), scope, st.tuples(moments(), moments()).map(sorted), st.sampled_from(SURENESS))
    return st.lists(one, max_size=6).map(
        lambda found: [
            Sign(label=label, scope=scope, start_ns=a, end_ns=b, confidence=sure, frames=(Frame(0, number, a, "shows it"),))
            for number, (label, scope, (a, b), sure) in enumerate(found)
        ]
    )
