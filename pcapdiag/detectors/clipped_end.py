"""clipped-end: the capture stops before what it shows was over.

## What it does
It counts requests that were still open at the last packet, and says so when the file itself ends inside a record.
Seconds of such requests are lower bounds: they may have gone on, or been answered a moment later.

## Why it matters
"Never answered" and "not yet answered" look the same. The last wait of an open request is charged to whoever had the
turn, with "at least" in front of it.

## When it is wrong
A client that was killed without closing its connections leaves them open as well; nothing more would have come.

## Remedy
Stop the capture a few seconds after the client has finished, with SIGINT, and write through (`tcpdump -U`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pcapdiag.exchanges.table import Exchange, Outcome
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limits
from pcapdiag.stalls.evidence import frames_of_packets, mark, marked
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import UNATTRIBUTED, Confidence, Sign
from pcapdiag.trace import Tables, Trace

CODE = "clipped-end"
SHOWN = 6


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """The last packets of open exchanges, and the last packet of a file that is cut."""
    for rows in trace.packets.captures(trace.room):
        capture = int(trace.packets.capture[rows.start])
        ends = [frame for row in _open(capture, trace) for at, frame in row.frames[-1:] if at == capture]
        if ends:
            shown = trace.packets.rows_of(capture, ends[:SHOWN])
            yield mark(CODE, frames_of_packets(trace, shown, "last packet of an exchange that was still open"))
        if trace.captures[capture].cut_at is not None:
            yield mark(CODE, frames_of_packets(trace, [rows.stop - 1], "last whole record of the file"))


def _open(capture: int, tables: Tables) -> list[Exchange]:
    """The exchanges that were still open when a capture ended."""
    exchanges = tables.exchanges
    here = tables.flows.capture[exchanges.flow] == capture
    return list(exchanges.where(exchanges.ended(Outcome.INCOMPLETE) & (exchanges.part_of < 0) & here))


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture that ends too early."""
    for capture, about in enumerate(tables.captures):
        unfinished = _open(capture, tables)
        if not unfinished and about.cut_at is None:
            continue
        said = []
        if about.cut_at is not None:
            said.append(f"{about.name} ends inside a record, at byte {about.cut_at:,}; the {about.frame_count:,} frames before were read")
        if unfinished:
            count = len(unfinished)
            were, their = ("exchange was", "its") if count == 1 else ("exchanges were", "their")
            said.append(f"{count} {were} still open when {about.name} ended: {their} seconds are lower bounds")
        yield Conclusion(
            code=CODE, kind=FindingKind.CAPTURE, confidence=Confidence(0.95, ("open at the last packet, or half a record",)),
            exchanges=tuple(row.id for row in unfinished), flows=tuple(sorted({row.flow for row in unfinished})),
            frames=marked(signs, capture), summary="; ".join(said),
            contrast="a request that its client gave up would show a FIN, RST or RST_STREAM",
            details={"open_exchanges": len(unfinished), "cut_at": about.cut_at, "cut_note": about.cut_note},
            lowers_verdict=any(_unexplained(ledger, row) for row in unfinished),
        )  # fmt: skip


def _unexplained(ledger: Ledger, row: Exchange) -> bool:
    """Was it waiting at the end, for longer than the stall trigger, and nothing says for what?"""
    entries = ledger.exchanges[row.id]
    return bool(entries) and entries[-1].label == UNATTRIBUTED and entries[-1].duration_ns > ledger.trigger_ns[row.id]


DETECTOR = Detector(
    code=CODE,
    title="The capture ends too early",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Stop a few seconds after the client has finished, with Ctrl-C or kill -INT <pid of tcpdump>, never kill -9.",
        "Write packet by packet (tcpdump -U) and keep the disk from filling (-C 100 -W 20 rotates).",
        "Rotated files: give all of them to one analysis, in any order.",
    ),
    references=("RFC 9293 section 3.6", "draft-ietf-opsawg-pcap section 5"),
    wireshark_filter="http.request && !http.response_in",
)
