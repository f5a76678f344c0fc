"""mid-stream-start: connections were open before the capture began.

## What it does
It counts TCP connections that carry data but show no SYN and no SYN-ACK. A request that nobody saw answered is left open
(`capture-gap` in the ledger) when its client had not yet acknowledged all that the server sent before the capture began:
the answer may be among that, or wait behind it.

## Why it matters
The handshake tells who opened the connection, the MSS, the window scale and a first round trip; the beginning of an
HTTP/2 connection carries its settings, windows and the header table. Without them windows count unscaled, header
fields may be missing, roles are guessed from ports, and causes that need any of it are less sure.

## When it is wrong
A capture that lost just the handshake looks the same.

## Remedy
Start the capture before the client, or restart the client's connections once the capture runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pcapdiag.capture.frames import Capture
from pcapdiag.columns import NEVER, Bools
from pcapdiag.findings import SHOWN, Conclusion, Defect, Detector, Domain, Limits, concluded
from pcapdiag.flows.table import CLIENT_TO_SERVER, Flows, Quality
from pcapdiag.packets.table import TCP
from pcapdiag.stalls.evidence import frames_of, mark
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import CAPTURE_GAP, Confidence, OfExchange, Sign
from pcapdiag.trace import Tables, Trace

CODE = "mid-stream-start"


def _begun_before(flows: Flows) -> Bools:
    """TCP flows without a handshake (those without data too)."""
    found: Bools = (flows.proto == TCP) & (flows.syn_count == 0) & (flows.syn_ack_count == 0)
    return found


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """Per capture the first packet with data of the first such connections; the fact is the ids of all of them."""
    flows = np.flatnonzero(_begun_before(trace.flows) & (trace.tcp.tallies.data_count.reshape(-1, 2) > 0).any(axis=1))
    for capture in np.unique(trace.flows.capture[flows]).tolist():
        mine = flows[trace.flows.capture[flows] == capture]
        shown = frames_of(trace, ((_first_data(trace, flow), "first data; no handshake in this capture") for flow in mine[:SHOWN].tolist()))
        yield mark(CODE, shown, facts=tuple(mine.tolist()))
    yield from _perhaps_answered(trace)


def _perhaps_answered(trace: Trace) -> Iterable[Sign]:
    """Requests without an answer whose own packets acknowledge less than the server had sent when the capture began.

    Stream offsets of a direction without a SYN count from its first packet, so what lies below them was sent before it.
    """
    exchanges, seg = trace.exchanges, trace.segments
    asked = ~exchanges.is_setup & (exchanges.first_byte_ns == NEVER) & (exchanges.request_end_ns < NEVER)
    asked &= (exchanges.request.counts > 0) & _begun_before(trace.flows)[exchanges.flow]
    for row in trace.paced(np.flatnonzero(asked).tolist()):
        flow, last = int(exchanges.flow[row]), exchanges.request[row][-1:, 1] - 1
        at = int(trace.streams.part(flow).segment_of(2 * flow + CLIENT_TO_SERVER, last)[0])
        if at < 0 or seg.ack[at] >= -1:  # -1: no ACK
            continue
        note = f"the client still lacked {-int(seg.ack[at])} bytes that the server sent before the capture began"
        yield Sign(
            label=CAPTURE_GAP, scope=OfExchange(row), start_ns=int(exchanges.request_end_ns[row]), end_ns=int(exchanges.end_ns[row]),
            frames=frames_of(trace, ((at, note),)), confidence=Confidence(0.95, ("bytes sent before the capture began, not acknowledged",)),
        )  # fmt: skip


def _first_data(trace: Trace, flow: int) -> int:
    begin, stop = int(trace.flows.begin[flow]), int(trace.flows.stop[flow])
    return begin + int(np.argmax(trace.segments.payload_len[begin:stop] > 0))


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per capture with such connections."""

    def defect(index: int, capture: Capture, quality: Quality) -> Defect | None:
        mine = [sign for sign in signs if sign.frames[0].capture == index]
        if not quality.midstream_flows or not mine:
            return None
        return Defect(
            evidence="data without SYN or SYN-ACK",
            flows=tuple(flow for sign in mine if isinstance(sign.facts, tuple) for flow in sign.facts),
            summary=f"{quality.midstream_flows} of {quality.tcp_flows} TCP connections in {capture.name} were open before "
            f"the capture began: their window scale, MSS and HTTP/2 settings are unknown",
            contrast="a connection opened during the capture would show its SYN",
            details={"midstream_flows": quality.midstream_flows, "tcp_flows": quality.tcp_flows},
        )  # fmt: skip

    return concluded(CODE, tables, signs, defect)


DETECTOR = Detector(
    code=CODE,
    title="Connections older than the capture",
    domain=Domain.CAPTURE,
    label=None,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Start the capture first, then the client; or restart the client (or its connection pool) while it runs.",
        "For a long watch: dumpcap -b duration:600 -b files:24 keeps a day in rotation; give all files to one analysis.",
    ),
    references=("RFC 7323 section 2.2", "RFC 9293 section 3.7.1", "RFC 9113 section 6.5"),
    wireshark_filter="tcp && !(tcp.completeness & 1)",
)
