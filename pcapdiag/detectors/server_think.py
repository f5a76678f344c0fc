"""server-think: the server had the whole request and was working on the answer.

## What it does
It takes the time between request and response that no other cause explains and that is not the path's: seen from the
client, from the acknowledgment of the last request byte to the first response byte; seen from the server, exactly from
request in to response out. Pauses inside an answer that is no token stream, and before a stream's first token, count
as well. It is always reported when it adds up to 50 ms or more: model time is where most of an agent's time goes. Only
work longer than the stall trigger, max(2 round trips, 200 ms), counts as blocked time and in the ranking.

## Why it matters
No change in the network makes it shorter. It is the time to first token of a model, or the work of a tool.

## When it is wrong
Behind a proxy "the server" is the proxy and all behind it. Inside TLS without keys requests are inferred from sizes and
turns, so a pause of the client may pass for work; without an acknowledgment of the request the path's share is an
estimate. The confidence says which of these holds.

## Remedy
Look at the provider's status page and your own server's traces; send less context, cache prompts, use a nearer region
or a priority tier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import CODES, Exchange, Protocol
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits, shares
from pcapdiag.findings.intervals import Intervals
from pcapdiag.findings.shares import Share
from pcapdiag.flows.table import Vantage
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import SERVER_THINK, Confidence, Frame, Sign
from pcapdiag.trace import Tables

LIMITS = Limits(material=Limit(50, "ms", "the severity floor: less than this per server is nobody's complaint"))
SHOWN = 4
"""Requests whose packets are cited: two packets each."""


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server; the ledger laid these seconds by itself, so there are no signs."""
    for share in shares(ledger, SERVER_THINK.code, tables):
        if share.stall_ns < LIMITS.ns("material"):
            continue
        turns = share.intervals
        owners, owner = np.unique(turns.exchange, return_inverse=True)
        spent_ns = np.zeros(len(owners), np.int64)
        np.add.at(spent_ns, owner, turns.duration_ns)
        # In a protocol we cannot read (a shell, a subscription) silence may be a person's or nobody's: no stall of the server.
        read = tables.exchanges.protocol[turns.exchange] != CODES[Protocol.OTHER]
        stalls = turns.where(read & (turns.duration_ns >= ledger.trigger_ns[turns.exchange]))
        slowest_first = np.lexsort((owners, -spent_ns))
        slowest, longest_ns = int(owners[slowest_first[0]]), int(spent_ns[slowest_first[0]])
        row = tables.exchanges[slowest]
        count = len(owners)
        typical = round(float(np.median(spent_ns)) / 1e9, 6)
        yield Conclusion(
            code=SERVER_THINK.code, kind=FindingKind.CAUSE, stall_ns=share.stall_ns, intervals=stalls,
            confidence=_confidence(share, tables), exchanges=tuple(np.unique(stalls.exchange).tolist()) or share.exchanges,
            flows=share.flows, frames=_frames(turns, owners[slowest_first[:SHOWN]].tolist(), tables),
            summary=f"{share.server} worked {share.stall_ns / 1e9:.2f} s on {count} {'request' if count == 1 else 'requests'} of "
            f"{share.client}: {typical:.3f} s in the median, {longest_ns / 1e9:.3f} s at most ({row.name})",
            contrast=_contrast(row),
            details={
                "requests": count, "median_s": typical, "longest_s": round(longest_ns / 1e9, 6), "longest_exchange": slowest,
                "inferred": bool(tables.exchanges.inferred[np.array(share.exchanges)].all()),
            },
        )  # fmt: skip


def _confidence(share: Share, tables: Tables) -> Confidence:
    """That of the kind of evidence behind most of the seconds."""
    flows, exchanges, owner = tables.flows, tables.exchanges, share.intervals.exchange
    flow = exchanges.flow[owner]
    facts = (
        flows.vantage[flow], exchanges.request_acked_ns[owner] < NEVER, exchanges.inferred[owner], flows.timestamps[flow],
        flows.one_way[flow],
    )  # fmt: skip
    kinds, kind = np.unique(np.stack(facts, axis=1).astype(np.int64), axis=0, return_inverse=True)
    weight = np.zeros(len(kinds), np.int64)
    np.add.at(weight, kind.reshape(-1), share.intervals.duration_ns)
    most = int(np.flatnonzero(weight == weight.max())[-1])  # they ascend: of equals the last
    vantage, acknowledged, inferred, stamped, one_way = kinds[most].tolist()
    if vantage == Vantage.SERVER:
        sure = Confidence(0.95, ("seen at the server: request in, response out",))
    elif acknowledged and stamped:
        sure = Confidence(0.85, ("the server acknowledged the request, then took its time",))
    else:
        sure = Confidence(0.7, ("response late by more than the round trip",))
    if inferred:
        sure = sure.capped(0.7, "requests are inferred from turns") if stamped else sure.capped(0.6, "inferred requests, no timestamps")
    if vantage == Vantage.UNKNOWN:
        sure = sure.capped(0.7, "vantage unknown")
    # Work is time between two directions: with one of them missing it is a guess, too weak to be shown.
    return sure.capped(0.2, "one direction captured") if one_way else sure


def _contrast(row: Exchange) -> str:
    if row.request_end_ns <= row.request_acked_ns < NEVER:
        late = (row.request_acked_ns - row.request_end_ns) / 1e6
        return f"a lost request would have been sent again; the slowest one was acknowledged after {late:.1f} ms"
    return "a lost request or response shows in bytes missing or sent twice; such time is counted elsewhere, not here"


def _frames(turns: Intervals, exchanges: Sequence[int], tables: Tables) -> tuple[Frame, ...]:
    """The packets between which the server had the turn, by time."""
    found: dict[tuple[int, int], Frame] = {}
    for exchange in exchanges:
        row = tables.exchanges[exchange]
        mine = turns.where(turns.exchange == exchange)
        start = int(mine.start_ns[np.argmax(mine.duration_ns)])
        # The landmarks hold each packet once: a request of one packet is its first and its last.
        last = 0 if row.request_start_ns == row.request_end_ns else 1
        if start < row.first_byte_ns:
            turn = ((last, row.request_end_ns, "request sent"), (last + 1, row.first_byte_ns, "first of the response"))
        else:
            turn = ((last + 1, row.first_byte_ns, "first of the response"), (len(row.frames) - 1, row.end_ns, "last of the response"))
        for at, ts_ns, note in turn:
            if 0 <= at < len(row.frames) and ts_ns < NEVER:
                found[row.frames[at]] = Frame(*row.frames[at], ts_ns, note)
    return tuple(sorted(found.values(), key=lambda frame: (frame.ts_ns, frame.capture, frame.number)))


DETECTOR = Detector(
    code=SERVER_THINK.code,
    title="The server was working",
    domain=Domain.SERVER,
    label=SERVER_THINK,
    limits=LIMITS,
    conclude=conclude,
    remedy=(
        "Compare with the server's own traces or the provider's status page for these seconds.",
        "Send less: trim the history, cache prompts, ask for shorter answers.",
        "Try a nearer region or a priority tier; stream the answer so that its beginning can be used.",
    ),
    references=("RFC 9110 section 3.4", "RFC 9293 section 3.8.6.3"),
    wireshark_filter="http.time > 1 || transum.st > 1",
)
