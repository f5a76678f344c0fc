"""Further scenarios, for captures that are made when they are needed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from samples.lab.hosts import CLIENT, SERVER
from samples.lab.scenario import RESENT, Check, Scenario, path
from samples.lab.wire import Link, Rule, Spec
from samples.lab.work import GRPC_PORT, TAIL_MARK, Plan, Step

if TYPE_CHECKING:
    from collections.abc import Callable


def tail_loss(*, rtt_s: float = 0.06, where: str = "request", copies: int = 3, kind: str = "json", size_len: int = 3_600) -> Scenario:
    """The end of one message is lost, and its first resends too."""
    calls = [Step(id=f"tool-{i}", kind=kind, connection="tools", gap_s=0.15, think_s=0.04) for i in range(1, 6)]
    if where == "request":
        calls[2] = dataclasses.replace(calls[2], request_len=size_len, tail_request=True)
    else:
        calls[2] = dataclasses.replace(calls[2], reply_len=size_len, tail_reply=True)
    direction, sender, host = ("c2s", "client.pcap", CLIENT) if where == "request" else ("s2c", "server.pcap", SERVER)
    rule = Rule(label="tail-loss-rto", direction=direction, contains=TAIL_MARK, copies=copies, limit=1)
    return Scenario(
        name="tail-loss",
        description=f"Five sequential calls, RTT {rtt_s * 1e3:.0f} ms; the last segment of the third {where} is lost {copies} times, "
        f"so only the "
        "retransmission timer helps.",
        root_causes=("tail-loss-rto",),
        cause="tail-loss-rto",
        also_acceptable=("packet-loss-recovery",),
        rtt_s=rtt_s,
        plan=Plan(agents=(tuple(calls),)),
        wire=path(rtt_s, rule),
        clean_wire=path(rtt_s),
        checks=(Check("the tail is sent again", sender, RESENT + host.address, copies, copies + 1),),
        looks_like="Nothing follows the lost segment that could be acknowledged selectively; the sender waits for its timer, twice as "
        "long each time.",
    )


def link_outage(*, rtt_s: float = 0.05, start_s: float = 2.0, length_s: float = 2.5, streams: int = 2) -> Scenario:
    """For a while nothing crosses the link, in either direction."""
    count = int((start_s + length_s + 1.5) / 0.04)
    chats = [
        (Step(id=f"chat-{i}", kind="sse", connection=f"chat-{i}", think_s=0.2 + 0.1 * i, tokens=count, interval_s=0.04),)
        for i in range(streams)
    ]
    watch = (Step(id="watch-1", kind="grpc-stream", connection="watch", think_s=0.1, tokens=count, interval_s=0.04),)
    rest = tuple(Step(id=f"rest-{i}", kind="json", connection="rest", at_s=0.4 * i, think_s=0.05, reply_len=2_000) for i in range(16))
    tools = tuple(Step(id=f"tool-{i}", kind="grpc", connection="tools", at_s=0.1 + 0.5 * i, think_s=0.08, reply_len=900) for i in range(14))
    return Scenario(
        name="link-outage",
        description=f"{streams} OpenAI SSE streams, a gRPC server stream, and sequential JSON and gRPC calls meet a {length_s:g} s "
        f"outage of the link, "
        f"{start_s:g} s into the run. RTT {rtt_s * 1e3:.0f} ms.",
        root_causes=("link-blackout",),
        cause="link-blackout",
        also_acceptable=("tail-loss-rto",),
        rtt_s=rtt_s,
        plan=Plan(agents=(*chats, watch, rest, tools)),
        wire=path(rtt_s, Rule(label="link-blackout", after_s=start_s, until_s=start_s + length_s)),
        clean_wire=path(rtt_s),
        checks=(Check("the server sends again", "server.pcap", RESENT + SERVER.address, 4),),
        looks_like="All connections fall silent in the same moment and come back within one timer step of each other.",
    )


def syn_loss(*, rtt_s: float = 0.04, what: str = "synack", copies: int = 2, calls: int = 6, kind: str = "json") -> Scenario:
    """Connections are set up late because a packet of the handshake is lost."""
    steps = tuple(Step(id=f"call-{i}", kind=kind, connection=f"call-{i}", gap_s=0.15, think_s=0.1) for i in range(calls))
    direction = "c2s" if what == "syn" else "s2c"
    rule = Rule(label="syn-loss", direction=direction, kind=what, flow=calls // 2, limit=copies)
    return Scenario(
        name="syn-loss",
        description=f"{calls} calls, each on a new connection, RTT {rtt_s * 1e3:.0f} ms. The {'SYN' if what == 'syn' else 'SYN-ACK'} "
        f"of call "
        f"{calls // 2} is lost {copies} times.",
        root_causes=("syn-loss",),
        cause="syn-loss",
        rtt_s=rtt_s,
        plan=Plan(agents=(steps,)),
        wire=path(rtt_s, rule),
        clean_wire=path(rtt_s),
        checks=(Check("more SYNs than connections", "client.pcap", "tcp.flags.syn == 1 && tcp.flags.ack == 0", calls + 1),),
        looks_like="The same SYN goes out again after a second, or the same SYN-ACK comes again.",
    )


def reordering(*, rtt_s: float = 0.04, hold_s: float = 0.008, every: int = 20, reply_len: int = 120_000) -> Scenario:
    """Some segments are overtaken; nothing is lost."""
    docs = tuple(Step(id=f"doc-{i}", kind="json", connection="docs", gap_s=0.2, think_s=0.8, reply_len=reply_len) for i in range(1, 4))
    tools = tuple(Step(id=f"tool-{i}", kind="grpc", connection="tools", gap_s=0.1, think_s=0.4, reply_len=2_000) for i in range(1, 7))
    rule = Rule(label="reordering", action="hold", direction="s2c", kind="data", every=every, extra_s=hold_s)
    return Scenario(
        name="reordering-healthy",
        description=f"RTT {rtt_s * 1e3:.0f} ms, no loss; one in {every} of the server's data segments is delayed by {hold_s * 1e3:g} "
        f"ms, so that later "
        "ones overtake it. Three large HTTP/1.1 replies and gRPC calls; think time dominates.",
        root_causes=("server-think",),
        think_is_root=True,
        cause="reordering",
        also_acceptable=("reordering",),
        capture_artefacts=("reordering",),
        rtt_s=rtt_s,
        plan=Plan(agents=(docs, tools)),
        wire=path(rtt_s, rule),
        clean_wire=path(rtt_s),
        notes="No packet is dropped; a retransmission, if there is one, is spurious.",
    )


def rtt_step(*, before_s: float = 0.025, after_s: float = 0.09, step_at_s: float = 1.5, calls: int = 20) -> Scenario:
    """The path becomes longer and stays so."""
    tools = tuple(Step(id=f"tool-{i}", kind="grpc", connection="tools", gap_s=0.02, think_s=0.06, reply_len=800) for i in range(calls))
    rest = tuple(Step(id=f"rest-{i}", kind="json", connection="rest", gap_s=0.02, think_s=0.06, reply_len=800) for i in range(calls))
    link = Link(delay_s=before_s / 2, step_at_s=step_at_s, step_delay_s=after_s / 2)
    return Scenario(
        name="rtt-step",
        description=f"Two chains of {calls} sequential tool calls (gRPC and HTTP/1.1); {step_at_s:g} s into the run the RTT steps from "
        f"{before_s * 1e3:.0f} to {after_s * 1e3:.0f} ms and stays there. No loss.",
        root_causes=("rtt-step",),
        cause="rtt-step",
        also_acceptable=("server-think",),
        rtt_s=before_s,
        plan=Plan(agents=(tools, rest)),
        wire=Spec(c2s=link, s2c=link),
        clean_wire=path(before_s),
        notes="The round trip of every call after the step is longer; no packet is lost. A few spurious tail loss probes right after "
        "it are expected.",
    )


def bufferbloat(*, rtt_s: float = 0.03, rate_bps: int = 3_000_000, bulk_len: int = 900_000, uploads: int = 3, calls: int = 20) -> Scenario:
    """Uploads fill a deep queue, and small calls wait behind them."""
    small = tuple(
        tuple(
            Step(id=f"call-{agent}-{i}", kind="grpc", connection=f"agent-{agent}", at_s=0.1 * agent, gap_s=0.05, think_s=0.02)
            for i in range(calls)
        )
        for agent in range(3)
    )
    bulk = tuple((Step(id=f"bulk-{i}", kind="json", connection=f"bulk-{i}", at_s=1.0, request_len=bulk_len),) for i in range(uploads))
    narrow = Link(delay_s=rtt_s / 2, rate_bps=rate_bps)
    wire = path(rtt_s, c2s=narrow)
    return Scenario(
        name="bufferbloat",
        description=f"Uplink of {rate_bps / 1e6:g} Mbit/s with a queue without limit. {uploads} parallel HTTP POSTs of "
        f"{bulk_len // 1000} kB fill it; the "
        "small sequential gRPC calls of three agents wait in the queue behind them.",
        root_causes=("bufferbloat",),
        cause="bufferbloat",
        measured=("call-",),
        rtt_s=rtt_s,
        plan=Plan(agents=(*small, *bulk)),
        clean_plan=Plan(agents=small),
        wire=wire,
        clean_wire=wire,
        checks=(Check("small calls see long round trips", "client.pcap", f"tcp.analysis.ack_rtt > 0.15 && tcp.port == {GRPC_PORT}", 3),),
        notes="Nothing is dropped. Seconds are those of the small calls only, against a run without the uploads; the uploads "
        "themselves are limited by "
        "the rate.",
    )


def h2_flow_control(*, rtt_s: float = 0.03, size_len: int = 220_000, withhold_after_len: int = 60_000, withhold_s: float = 2.5) -> Scenario:
    """A client gives no flow control credit for its connection."""
    big = Step(id="h2-2", kind="h2", connection="h2", gap_s=0.2, reply_len=size_len, pause_after_len=withhold_after_len, pause_s=withhold_s)
    first = Step(id="h2-1", kind="h2", connection="h2", reply_len=3_000)
    last = Step(id="h2-3", kind="h2", connection="h2", gap_s=0.2, reply_len=3_000)
    tools = tuple(Step(id=f"tool-{i}", kind="grpc", connection="tools", at_s=0.4 * i, reply_len=1_200) for i in range(9))
    return Scenario(
        name="h2-flow-control",
        description=f"A client on the h2 library reads three gRPC answers on one connection; during the second, of {size_len // 1000} "
        f"kB, it withholds the "
        f"connection's WINDOW_UPDATE for {withhold_s:g} s after {withhold_after_len // 1000} kB. TCP and another channel stay healthy.",
        root_causes=("h2-flow-control",),
        cause="h2-flow-control",
        measured=("h2-",),
        rtt_s=rtt_s,
        plan=Plan(agents=((first, big, last), tools)),
        clean_plan=Plan(agents=((first, big.without_pause(), last), tools)),
        wire=path(rtt_s),
        clean_wire=path(rtt_s),
        checks=(
            Check("no zero window", "client.pcap", "tcp.analysis.zero_window", 0, 0),
            Check("credit for the connection comes", "client.pcap", "http2.type == 8 && http2.streamid == 0", 3),
        ),
        notes="Streams have windows of 1 MB; the connection has 65,535 bytes (RFC 9113 section 6.9.2), and it is used up.",
    )


SCENARIOS: dict[str, Callable[..., Scenario]] = {
    "tail-loss": tail_loss,
    "link-outage": link_outage,
    "syn-loss": syn_loss,
    "reordering-healthy": reordering,
    "rtt-step": rtt_step,
    "bufferbloat": bufferbloat,
    "h2-flow-control": h2_flow_control,
}
"""The scenarios of this file by name."""
