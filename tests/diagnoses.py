"""Hand-built tables, ledgers and diagnoses: what findings and reporters are tested with. No packet was harmed."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import numpy as np

from pcapdiag.capture.frames import Capture, Interface
from pcapdiag.columns import NEVER
from pcapdiag.exchanges.table import Call, Calls, Exchange, Outcome, Protocol
from pcapdiag.findings import Conclusion, Detector, Diagnosis, Domain, Failure, FindingKind, rank, verdict
from pcapdiag.flows.table import Flows, Quality, Vantage, VantageOpinion
from pcapdiag.losses import Loss, Losses
from pcapdiag.packets.table import Addresses
from pcapdiag.stalls.ledger import Entry, Ledger
from pcapdiag.stalls.sign import (
    DELIVERY,
    PROPAGATION,
    SERVER_THINK,
    UNATTRIBUTED,
    Confidence,
    Frame,
    Label,
    OfExchange,
    Sign,
    Tier,
)
from pcapdiag.trace import Tables
from tests.exchange_rows import exchanges_of

START_NS = 1_767_323_045_678_901_234
"""2026-01-02T03:04:05.678901234Z."""

HOSTILE = "\x1b[2J[/red]</script><b>|`x`*_\r\nline\x9b31m\u202egnp.exe\u2066 [a](http://evil.example) :boom: \x7f"
"""What a peer may put into a header, and nobody wants in a terminal, a page or a ticket."""

AGENT, OTHER_AGENT, SERVER, OTHER_SERVER, RESOLVER = range(5)
ADDRESSES = Addresses(tuple(socket.inet_aton(a) for a in ("10.0.0.1", "10.0.0.7", "10.0.0.2", "10.0.0.3", "10.0.0.53")))

LABELS = {
    code: Label(tier, 0, code)
    for code, tier in {
        "pmtu-black-hole": Tier.DEAD,
        "path-outage": Tier.DEAD,
        "rto-backoff": Tier.DEAD,
        "policer": Tier.LOSS,
        "tail-loss-rto": Tier.LOSS,
        "fast-retransmit-loss": Tier.LOSS,
        "h2-tcp-hol": Tier.HOL,
        "zero-window": Tier.FLOW_CONTROL,
        "syn-loss": Tier.SETUP,
    }.items()
} | {label.code: label for label in (DELIVERY, PROPAGATION, SERVER_THINK, UNATTRIBUTED)}


def at(seconds: float) -> int:
    """A time, given in seconds since the first packet; to the microsecond."""
    return START_NS + round(seconds * 1e6) * 1000


def flows(*rows: tuple[int, int, int, int, int]) -> Flows:
    """Flows of (client, client port, server, server port, IP protocol)."""
    table = Flows.empty()
    columns: dict[str, Any] = {name: np.zeros(len(rows), getattr(table, name).dtype) for name in Flows.columns()}
    for name, values in zip(("client", "client_port", "server", "server_port", "proto"), zip(*rows, strict=True), strict=False):
        columns[name] = np.array(values, columns[name].dtype)
    columns["first_ns"] += START_NS
    columns["last_ns"] += at(30.0)
    columns["packet_count"] += 40
    columns["byte_count"] += 12_345
    columns["vantage"] += int(Vantage.CLIENT)
    return Flows(**columns)


def quality(**changes: Any) -> Quality:
    """A perfect capture's quality, with changes."""
    perfect = Quality(
        copies=0, copy_frames=(), backward_steps=0, backward_max_ns=0, super_segments=0, super_segment_frames=(), cut_frames=0,
        tcp_data_packets=400, unseen_bytes=0, seen_bytes=80_000, one_way_flows=0, tcp_flows=3, midstream_flows=0, dropped_count=None,
        saw_icmp=True, saw_dns=True, saw_fragments=True, grade="A", issues=(),
    )  # fmt: skip
    return replace(perfect, **changes)


def capture(**changes: Any) -> Capture:
    """A whole classic capture on Ethernet, with changes."""
    whole = Capture(
        name="client.pcap",
        sha256="ab" * 32,
        format="pcap",
        compression="",
        size_bytes=190_331,
        frame_count=812,
        cut_at=None,
        cut_note=None,
        interfaces=(Interface(link_type=1, snaplen=262_144),),
        first_ns=START_NS,
        last_ns=at(31.2),
    )
    return replace(whole, **changes)


def exchange(number: int, start: float, end: float, **changes: Any) -> Exchange:
    """An HTTP/1.1 exchange on flow 0 from start to end, with changes."""
    row = Exchange(
        id=number,
        flow=0,
        protocol=Protocol.HTTP1,
        name="POST /v1/messages",
        start_ns=at(start),
        request_start_ns=at(start),
        request_end_ns=at(start),
        first_byte_ns=at(end),
        end_ns=at(end),
        status="200",
    )
    return replace(row, **changes)


def tables(rows: tuple[Exchange, ...], **changes: Any) -> Tables:
    """The tables of these exchanges: one call each for those that are part of no other, agents by the clients of flows."""
    columns = changes.pop("flows", None) or flows((AGENT, 51_522, SERVER, 443, 6), (OTHER_AGENT, 40_000, OTHER_SERVER, 443, 6))
    agents = tuple(sorted({int(columns.client[row.flow]) for row in rows}))
    whole = [row for row in rows if row.part_of is None]
    calls = tuple(
        Call(
            id=number, agent=agents.index(int(columns.client[row.flow])), exchanges=(row.id,), start_ns=row.start_ns, end_ns=row.end_ns,
            backoff="none", outcome=row.outcome,
        )
        for number, row in enumerate(whole)
    )  # fmt: skip
    base = Tables(
        captures=(capture(),),
        quality=(quality(),),
        vantages=(VantageOpinion("client", 0.98, "d2 = 0.08 ms of 24.1 ms; TTL 64 outbound"),),
        addresses=ADDRESSES,
        flows=columns,
        exchanges=exchanges_of(rows),
        calls=Calls.of(calls, agents, len(rows)),
        start_ns=START_NS,
        losses=Losses(),
    )
    return replace(base, **changes)


def ledger(rows: tuple[Exchange, ...], *stalls: tuple[int, float, float, str], rest: Label = PROPAGATION, **changes: Any) -> Ledger:
    """A ledger of these (exchange, start, end, code), `rest` in between (delivery in streams); stall trigger 200 ms."""
    entries: list[tuple[Entry, ...]] = []
    between = rest
    for row in rows:
        rest = DELIVERY if row.is_stream else between
        mine: list[Entry] = []
        reached = row.start_ns
        for _, start, end, code in sorted(stall for stall in stalls if stall[0] == row.id):
            if at(start) > reached:
                mine.append(Entry(row.id, reached, at(start), rest, None))
            mine.append(Entry(row.id, at(start), at(end), LABELS[code], _sign(row.id, start, end, code)))
            reached = at(end)
        if row.end_ns > reached:
            mine.append(Entry(row.id, reached, row.end_ns, rest, None))
        entries.append(tuple(mine))
    counted = [row.part_of is None for row in rows]
    return replace(Ledger.of(entries, counted, [200_000_000] * len(rows)), **changes)


def _sign(number: int, start: float, end: float, code: str) -> Sign | None:
    if LABELS[code].tier >= Tier.PEER:
        return None
    frames = (Frame(0, 100 + number, at(start), "sent"), Frame(0, 200 + number, at(end), "answered"))
    return Sign(label=LABELS[code], scope=OfExchange(number), start_ns=at(start), end_ns=at(end), confidence=Confidence(0.9), frames=frames)


def conclusion(code: str, *intervals: tuple[int, float, float], **changes: Any) -> Conclusion:
    """A cause that owns (exchange, start, end), with changes."""
    whole = Conclusion(
        code=code,
        kind=FindingKind.CAUSE,
        stall_ns=sum(at(end) - at(start) for _, start, end in intervals),
        intervals=tuple((number, at(start), at(end)) for number, start, end in intervals),
        confidence=Confidence(0.9, ("seen twice",)),
        exchanges=tuple(sorted({number for number, _, _ in intervals})),
        frames=tuple(Frame(0, 10 + number, at(start), "shows it") for number, start, _ in intervals),
        summary=f"{code} happened.",
    )
    return replace(whole, **changes)


def detector(code: str, domain: Domain = Domain.NETWORK, title: str = "") -> Detector:
    """A detector that says nothing by itself."""
    return Detector(
        code=code,
        title=title or code.replace("-", " ").capitalize(),
        domain=domain,
        label=LABELS.get(code),
        conclude=lambda _ledger, _signs, _tables: (),
        remedy=(f"Mend the {code}.",),
        references=("RFC 9293 section 3.8",),
        wireshark_filter="tcp",
    )


DETECTORS = (
    detector("pmtu-black-hole", title="Large packets vanish on the path"),
    detector("path-outage", title="Nothing crossed the path for a while"),
    detector("rto-backoff", title="Repeated retransmission timeouts"),
    detector("policer", title="Traffic above a rate is dropped"),
    detector("tail-loss-rto", title="The last segment of a burst was lost"),
    detector("fast-retransmit-loss", title="Segments lost and resent"),
    detector("h2-tcp-hol", title="Held up behind another stream's lost bytes"),
    detector("packet-reordering", title="Packets overtook each other"),
    detector("syn-loss", title="Connection requests went unanswered"),
    detector("zero-window", Domain.CLIENT, "The receiver stopped reading"),
    detector("server-think", Domain.SERVER, "The server was working"),
    detector("grpc-deadline-exceeded", Domain.CLIENT, "The caller's deadline fired"),
    detector("ip-fragmentation", title="Large datagrams travel in fragments"),
    detector("capture-loss", Domain.CAPTURE, "The capture lost packets"),
    detector("offload-segments", Domain.CAPTURE, "Segments larger than the wire carries"),
    detector("snaplen-cut", Domain.CAPTURE, "Packets captured in part"),
)


def diagnosis(tables_: Tables, ledger_: Ledger, conclusions: tuple[Conclusion, ...] = (), **changes: Any) -> Diagnosis:
    """Ranks the conclusions."""
    findings = rank(conclusions, ledger_, tables_, DETECTORS)
    whole = Diagnosis(tables=tables_, ledger=ledger_, findings=findings, verdict=verdict(findings, tables_.quality), not_observable=())
    return replace(whole, **changes)


def healthy() -> Diagnosis:
    """Three quick exchanges; nothing found."""
    rows = (exchange(0, 0.1, 0.15), exchange(1, 0.2, 0.24), exchange(2, 0.3, 0.4))
    return diagnosis(tables(rows), ledger(rows, (2, 0.32, 0.38, "server-think")))


def empty() -> Diagnosis:
    """A capture without frames."""
    nothing = capture(frame_count=0, first_ns=None, last_ns=None, size_bytes=24, interfaces=())
    return diagnosis(tables((), captures=(nothing,), flows=flows()), Ledger.of((), (), ()))


def capture_only() -> Diagnosis:
    """A capture that cannot carry a verdict: half of it is missing."""
    rows = (exchange(0, 0.1, 4.0),)
    lost = conclusion(
        "capture-loss",
        kind=FindingKind.CAPTURE,
        lowers_verdict=True,
        flows=(0,),
        frames=(Frame(0, 7, at(0.2), "acknowledges 40,000 bytes that are not in the file"),),
        summary="33 % of the acknowledged bytes are not in the capture; the capturing system says it dropped 512 packets.",
    )
    poor = quality(grade="F", issues=("capture-loss",), unseen_bytes=40_000, dropped_count=512)
    return diagnosis(tables(rows, quality=(poor,)), ledger(rows, rest=UNATTRIBUTED), (lost,))


def rich() -> Diagnosis:
    """Two agents, three servers, a fault with its symptoms, a slow server, and strings nobody wants printed as they are."""
    columns = flows(
        (AGENT, 51_522, SERVER, 50_051, 6),
        (AGENT, 51_530, SERVER, 50_051, 6),
        (OTHER_AGENT, 40_000, OTHER_SERVER, 443, 6),
        (AGENT, 33_333, RESOLVER, 53, 17),
    )
    rows = (
        exchange(0, 0.30, 0.34, flow=3, protocol=Protocol.DNS, name="tools.internal", status="NOERROR", part_of=2),
        exchange(1, 0.34, 0.40, protocol=Protocol.CONNECT, name="10.0.0.2:50051", status=None, part_of=2),
        exchange(
            2, 0.30, 13.05, protocol=Protocol.GRPC, name=f"POST /agent.Tools/Call{HOSTILE}", h2_stream=1, setup=(0, 1), status="4",
            outcome=Outcome.ERROR, first_byte_ns=NEVER,
        ),
        exchange(3, 0.60, 9.5, protocol=Protocol.GRPC, name="POST /agent.Tools/List", h2_stream=3, status="0"),
        exchange(4, 14.0, 29.0, flow=1, protocol=Protocol.SSE, name="GET /v1/events"),
        exchange(
            5, 2.0, 5.2, flow=2, name="POST /v1/messages", outcome=Outcome.ABORTED, aborted_by="client", status=None,
            first_byte_ns=NEVER,
        ),
    )  # fmt: skip
    cut_short = capture(frame_count=812, cut_at=190_300, cut_note="record header says 1514 bytes, 31 remain")
    mixed = quality(grade="B", issues=("offload-segments", "clipped-end"), super_segments=31)
    rich_tables = tables(rows, flows=columns, captures=(cut_short,), quality=(mixed,))
    rich_tables.losses.add(Loss.ARP, 6)
    rich_tables.losses.add(Loss.HPACK_LOST, 2)
    stalls = (
        (2, 0.45, 13.03, "pmtu-black-hole"),
        (3, 0.70, 9.30, "h2-tcp-hol"),
        (4, 14.2, 16.9, "server-think"),
        (4, 20.0, 20.4, "tail-loss-rto"),
        (5, 2.1, 5.2, "server-think"),
    )
    closed = ledger(rows, *stalls)
    found = diagnosis(rich_tables, closed, _rich_conclusions())
    cited = found.findings[0].conclusion.frames[0]
    return replace(
        found,
        not_observable=("client DNS of 10.0.0.7: no port 53 traffic of it in this capture", f"what {HOSTILE} means"),
        failures=(
            Failure("detector zero-window", f"ValueError: not a window: {HOSTILE[:12]}"),
            Failure("input b.pcap", "b.pcap: is empty"),
        ),
        dissections={(cited.capture, cited.number): "Transmission Control Protocol, Src Port: 50051\n    [TCP Segment Len: 1448]\x1b[0m"},
    )


def _rich_conclusions() -> tuple[Conclusion, ...]:
    vanished = tuple(Frame(0, 123 + 7 * n, at(0.45 + n * 0.9), f"1500-byte segment sent, time {n + 1}, no answer") for n in range(14))
    return (
        conclusion(
            "pmtu-black-hole",
            (2, 0.45, 13.03),
            confidence=Confidence(0.95, ("same size resent 14 times", "smaller packets pass", "no ICMP, though the capture holds ICMP")),
            flows=(0,),
            frames=vanished,
            summary="Packets above 1004 bytes from 10.0.0.2 vanish: a 1500-byte segment was sent 14 times while 57 small ones passed.",
            contrast="Random loss would have taken about 4 of the 57 small packets too; it took none.",
            details={"path_mtu_low": 1004, "path_mtu_high": 1499},
            remedy=("Let ICMP type 3 code 4 through on the path.", "Or clamp the MSS of 10.0.0.2 to 964 bytes."),
            wireshark_filter="ip.src == 10.0.0.2 && tcp.srcport == 50051 && tcp.analysis.retransmission && tcp.len > 964",
            identity=("1004", "1499"),
        ),
        conclusion(
            "h2-tcp-hol",
            (3, 0.70, 9.30),
            confidence=Confidence(0.85, ("all missing bytes belong to h2 stream 1",)),
            flows=(0,),
            frames=(Frame(0, 140, at(0.7), "the hole opens"), Frame(0, 301, at(9.3), "the hole is filled")),
            summary=f"POST /agent.Tools/List waited for bytes of {HOSTILE}.",
        ),
        conclusion(
            "server-think",
            (4, 14.2, 16.9),
            (5, 2.1, 5.2),
            confidence=Confidence(0.9, ("request acknowledged at once",)),
            frames=(Frame(0, 80, at(2.1), "request acknowledged"), Frame(0, 420, at(16.9), "first byte")),
            summary="Two requests were received whole and acknowledged, and nothing came back for 2.70 s and 3.10 s.",
            at_least=True,
        ),
        conclusion("tail-loss-rto", (4, 20.0, 20.4), summary="One lost last segment cost a timeout of 400 ms."),
        conclusion("packet-reordering", (4, 20.5, 20.503), confidence=Confidence(0.6, ("TSval older than the overtaker's",))),
        conclusion("zero-window", (4, 20.6, 20.7), confidence=Confidence(0.2), summary="Too doubtful to be shown."),
        conclusion(
            "grpc-deadline-exceeded", kind=FindingKind.OUTCOME, exchanges=(2,), frames=(Frame(0, 410, at(13.05), "RST_STREAM CANCEL"),),
            summary="POST /agent.Tools/Call ended at its deadline of 12.75 s.",
        ),
        conclusion(
            "ip-fragmentation", kind=FindingKind.RISK, flows=(3,), frames=(Frame(0, 20, at(0.33), "first fragment of 3"),),
            summary="DNS answers of 10.0.0.53 come in 3 fragments; each must arrive.",
        ),
        conclusion(
            "offload-segments", kind=FindingKind.CAPTURE, frames=(Frame(0, 30, at(0.5), "7240 bytes in one packet"),),
            summary="31 packets are larger than the negotiated MSS: the network card cuts them after the capture point.",
        ),
        conclusion("snaplen-cut", kind=FindingKind.CAPTURE, lowers_verdict=True, frames=(), summary="40 packets were captured in part."),
    )  # fmt: skip
