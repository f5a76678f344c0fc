"""The scenarios of the delivered samples; each is a function of its numbers, so that a caller can ask for a variant."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from samples.lab import faults
from samples.lab.hosts import CLIENT, SERVER
from samples.lab.scenario import RESENT, Check, Scenario, path
from samples.lab.wire import Link, Rule
from samples.lab.work import GRPC_PORT, HTTP_PORT, Plan, Step

if TYPE_CHECKING:
    from collections.abc import Callable

_ADDRESS = {"client": CLIENT.address, "server": SERVER.address}
_TOWARDS = {"client": "s2c", "server": "c2s"}
_OTHER = {"client": "server", "server": "client"}


def healthy_slow_model(
    *, rtt_s: float = 0.035, slowest_s: float = 2.5, tokens: int = 40, stumble_every: int = 0, stumble_s: float = 0.7
) -> Scenario:
    """Nothing is wrong with the network; the model is slow."""
    thinks = [slowest_s * share for share in (0.04, 0.16, 0.04, 1.0, 0.08, 0.48, 0.06)]
    tools = tuple(Step(id=f"tool-{i}", kind="grpc", connection="tools", think_s=s, reply_len=500 * i) for i, s in enumerate(thinks, 1))
    chats = tuple(
        Step(
            id=f"chat-{i}",
            kind="sse",
            connection=f"chat-{i}",
            think_s=slowest_s * share,
            tokens=tokens,
            stumble_every=stumble_every,
            stumble_s=stumble_s,
            request_len=size,
        )
        for i, (share, size) in enumerate(((0.32, 6_000), (0.88, 9_000)), 1)
    )
    rest = tuple(
        Step(id=f"rest-{i}", kind="json", connection="rest", think_s=slowest_s * share, reply_len=size)
        for i, (share, size) in enumerate(((0.02, 600), (0.12, 6_000), (0.02, 4_000), (0.6, 7_000), (0.04, 5_000)), 1)
    )
    return Scenario(
        name="healthy-slow-model",
        description=f"Healthy network, RTT {rtt_s * 1e3:.0f} ms. gRPC unary calls, two OpenAI SSE streams and HTTP/1.1 JSON calls; "
        f"the only waits "
        f"are server think times of up to {slowest_s:g} s.",
        root_causes=("server-think",),
        think_is_root=True,
        rtt_s=rtt_s,
        plan=Plan(agents=(tools, chats, rest)),
        wire=path(rtt_s),
        checks=(
            Check("no retransmission", "client.pcap", "tcp.analysis.retransmission", 0, 0),
            Check("no retransmission", "server.pcap", "tcp.analysis.retransmission", 0, 0),
            Check("no zero window", "client.pcap", "tcp.analysis.zero_window", 0, 0),
        ),
        looks_like="Requests are acknowledged within a round trip, then nothing moves until the server answers. No segment is sent twice. "
        "A tool that names a network fault here is wrong.",
    )


def _calls_into_a_black_hole(kind: str, towards: str, big_len: int, deadline_s: float) -> tuple[Step, ...]:
    """Three small calls, a big one that stalls until its deadline, and a small one behind it."""
    tools = [Step(id=f"tool-{i}", kind=kind, connection="tools", gap_s=0.1, think_s=0.08, reply_len=350 * i) for i in (1, 2, 3)]
    big = dataclasses.replace(
        tools[0],
        id="tool-4",
        deadline_s=deadline_s,
        reply_len=big_len if towards == "client" else 400,
        request_len=big_len if towards == "server" else 300,
    )
    return (*tools, big, dataclasses.replace(tools[0], id="tool-5", deadline_s=deadline_s / 2))


def pmtu_black_hole(
    *,
    rtt_s: float = 0.04,
    path_mtu: int = 1420,
    towards: str = "client",
    big_len: int = 32_000,
    deadline_s: float = 6.0,
    kind: str = "grpc",
) -> Scenario:
    """Packets above a size vanish in one direction, and no ICMP says so."""
    tools = _calls_into_a_black_hole(kind, towards, big_len, deadline_s)
    small_count = int((1.5 * deadline_s + 0.8) / 0.6)
    small = tuple(Step(id=f"small-{i}", kind=kind, connection="small", at_s=0.4 + 0.6 * i) for i in range(1, small_count))
    direction, sender = _TOWARDS[towards], _OTHER[towards]
    reset_count = 2 if kind == "grpc" and towards == "client" else 0  # towards the server it waits behind the hole
    full_size = f"ip.len > {path_mtu} && ip.dst == {_ADDRESS[towards]}"
    stuck = ("tool-",) if kind == "grpc" else ("tool-4",)
    return Scenario(
        name="pmtu-black-hole",
        description=f"Path MTU {path_mtu} towards the {towards}, ICMP suppressed. Small messages pass; the first one of "
        f"{big_len // 1000} kB stalls until its {deadline_s:g} s deadline"
        + (", and the next small call on the same connection is stuck behind it" if kind == "grpc" else "")
        + ". A second connection with only small messages stays healthy.",
        root_causes=("pmtu-blackhole",),
        cause="pmtu-blackhole",
        measured=stuck,
        also_acceptable=("deadline-exceeded",),
        rtt_s=rtt_s,
        plan=Plan(agents=(tools, small)),
        wire=path(rtt_s, Rule(label="pmtu-blackhole", direction=direction, min_ip_len=path_mtu + 1)),
        clean_wire=path(rtt_s),
        checks=(
            Check(f"full-size segments never reach the {towards}", f"{towards}.pcap", full_size, 0, 0),
            Check("but are sent", f"{sender}.pcap", full_size, 3),
            Check("and sent again", f"{sender}.pcap", RESENT + _ADDRESS[sender], 3),
            Check("no ICMP at all", f"{sender}.pcap", "icmp", 0, 0),
            Check("RST_STREAM at the deadlines of gRPC", "client.pcap", "http2.type == 3", reset_count, reset_count),
        ),
        looks_like=f"In {sender}.pcap the same full-size segments go out again and again at growing intervals, while segments below "
        f"the limit are acknowledged. In {towards}.pcap they never appear: only what is above the hole in the sequence space shows "
        f"that something is missing.",
    )


def _rounds_of_calls(calls: int, starts: list[float], reply_len: int) -> tuple[tuple[Step, ...], ...]:
    """One call to warm the shared connection, then so many agents that all call at each start."""
    warm = (Step(id="warm", kind="grpc", connection="shared", at_s=0.0, think_s=0.01),)
    agents = tuple(
        tuple(
            Step(
                id=f"call-{index}-{agent}", kind="grpc", connection="shared", at_s=start, think_s=0.02 + 0.001 * agent, reply_len=reply_len
            )
            for index, start in enumerate(starts)
        )
        for agent in range(calls)
    )
    return (warm, *agents)


def _lost_once(nth: tuple[int, ...], after_s: float, until_s: float) -> Rule:
    """Drops the nth full answer packets of an interval."""
    return Rule(label="packet-loss-recovery", direction="s2c", kind="data", min_ip_len=1400, nth=nth, after_s=after_s, until_s=until_s)


def h2_head_of_line(
    *,
    rtt_s: float = 0.08,
    calls: int = 16,
    rounds: int = 4,
    reply_len: int = 2_600,
    losses: tuple[int, ...] = (4, 14),
    every_s: float = 1.6,
) -> Scenario:
    """Isolated losses on one connection that many calls share."""
    starts = [1.0 + every_s * index for index in range(rounds)]
    rules = [_lost_once(losses, start, start + every_s - 0.2) for start in starts]
    lost_count = rounds * len(losses)
    return Scenario(
        name="h2-head-of-line",
        description=f"{calls} concurrent gRPC calls share one HTTP/2 connection, RTT {rtt_s * 1e3:.0f} ms, {rounds} rounds; "
        f"{len(losses)} isolated segments of each round's answers are lost once, and every stream behind the hole waits for the resend.",
        root_causes=("h2-tcp-hol",),
        cause="h2-tcp-hol",
        also_acceptable=("packet-loss-recovery",),
        rtt_s=rtt_s,
        plan=Plan(agents=_rounds_of_calls(calls, starts, reply_len)),
        wire=path(rtt_s, *rules),
        clean_wire=path(rtt_s),
        checks=(
            Check("the lost segments are sent again", "server.pcap", RESENT + SERVER.address, lost_count, lost_count + 4),
            Check("one connection only", "client.pcap", f"tcp.flags.syn == 1 && tcp.flags.ack == 0 && tcp.dstport == {GRPC_PORT}", 1, 1),
            Check(
                "gaps seen at the client",
                "client.pcap",
                "tcp.analysis.lost_segment || tcp.analysis.out_of_order || tcp.analysis.retransmission || tcp.analysis.fast_retransmission",
                lost_count,
            ),
        ),
        notes="Every lost segment is lost once and repaired within about a round trip. The seconds are those of all streams that "
        "waited behind the holes, summed over requests; packet-loss-recovery is the same fact seen from TCP.",
        looks_like="In client.pcap a segment is missing, the ones after it arrive at once and carry complete answers of other "
        "streams; all of them reach the application only when the missing segment has been sent again.",
    )


def zero_window(
    *,
    rtt_s: float = 0.03,
    size_len: int = 160_000,
    pause_after_len: int = 60_000,
    pause_s: float = 2.5,
    rcvbuf_len: int = 24_000,
    receiver: str = "client",
) -> Scenario:
    """The receiving application stops reading, so its window closes."""
    tools = tuple(Step(id=f"tool-{i}", kind="json", connection="tools", at_s=0.3 + 0.35 * i, reply_len=1_500) for i in range(10))
    if receiver == "client":
        bulk = Step(id="doc-2", kind="slow-read", connection="doc-2", gap_s=0.2, think_s=0.02, reply_len=size_len, rcvbuf_len=rcvbuf_len)
    else:
        bulk = Step(id="doc-2", kind="json", connection="docs", gap_s=0.2, think_s=0.02, request_len=size_len, pause_at_server=True)
    bulk = dataclasses.replace(bulk, pause_after_len=pause_after_len, pause_s=pause_s)
    first = Step(id="doc-1", kind="json", connection="docs", reply_len=3_000)
    last = Step(id="doc-3", kind="json", connection="docs", gap_s=0.1, reply_len=3_000)

    def plan(step: Step) -> Plan:
        return Plan(agents=((first, step, last), tools), server_rcvbuf_len=0 if receiver == "client" else rcvbuf_len)

    port = "dst" if receiver == "client" else "src"
    what = "downloads" if receiver == "client" else "uploads"
    return Scenario(
        name="zero-window",
        description=f"An HTTP/1.1 client {what} {size_len // 1000} kB, but after {pause_after_len // 1000} kB the {receiver}'s "
        f"application stops reading "
        f"the socket for {pause_s:g} s (small receive buffer): the window closes. Another connection is healthy.",
        root_causes=("zero-window",),
        cause="zero-window",
        measured=("doc-2",),
        also_acceptable=("slow-client",) if receiver == "client" else (),
        rtt_s=rtt_s,
        plan=plan(bulk),
        clean_plan=plan(bulk.without_pause()),
        wire=path(rtt_s),
        clean_wire=path(rtt_s),
        checks=(
            Check(f"zero windows from the {receiver}", f"{receiver}.pcap", f"tcp.analysis.zero_window && tcp.{port}port == {HTTP_PORT}", 2),
            Check("the sender probes", f"{_OTHER[receiver]}.pcap", "tcp.analysis.keep_alive || tcp.analysis.zero_window_probe", 1),
            Check("and the window opens again", f"{receiver}.pcap", "tcp.analysis.window_update", 1),
            Check("nothing is lost", "server.pcap", "tcp.analysis.lost_segment || tcp.analysis.fast_retransmission", 0, 0),
        ),
        notes="The network is healthy; the receiver's program stands still.",
        looks_like=f"The {receiver} acknowledges everything and announces window 0. The other end probes with empty segments at "
        f"growing intervals until "
        "a window update comes.",
    )


def _fan_out(workers: int, bursts: int, reply_len: int, every_s: float) -> tuple[tuple[Step, ...], ...]:
    """Each worker opens its connection with a small call, then all ask at the same instants."""
    return tuple(
        tuple(
            Step(
                id=f"w{worker:02d}-{burst}",
                kind="json",
                connection=f"w{worker:02d}",
                at_s=0.5 + every_s * burst if burst else 0.05 * worker,
                think_s=0.01,
                reply_len=reply_len if burst else 300,
            )
            for burst in range(bursts + 1)
        )
        for worker in range(workers)
    )


def microburst(
    *,
    rtt_s: float = 0.04,
    workers: int = 8,
    bursts: int = 3,
    reply_len: int = 7_200,
    queue_count: int = 12,
    rate_bps: int = 40_000_000,
    every_s: float = 1.5,
) -> Scenario:
    """A fan-out whose answers collide in a short queue."""
    narrow = Link(delay_s=rtt_s / 2, rate_bps=rate_bps, queue_count=queue_count)
    wide = dataclasses.replace(narrow, queue_count=0)
    return Scenario(
        name="microburst",
        description=f"{workers} HTTP/1.1 connections ask at the same instant, {bursts} times, {every_s:g} s apart (fan-out); the "
        f"{reply_len / 1000:g} kB "
        f"answers collide in a {queue_count}-packet queue at {rate_bps / 1e6:g} Mbit/s, RTT {rtt_s * 1e3:.0f} ms.",
        root_causes=("microburst-loss",),
        cause="microburst-loss",
        also_acceptable=("packet-loss-recovery", "tail-loss-rto"),
        rtt_s=rtt_s,
        plan=Plan(agents=_fan_out(workers, bursts, reply_len, every_s)),
        wire=path(rtt_s, s2c=narrow),
        clean_wire=path(rtt_s, s2c=wide),
        checks=(
            Check("the server sends again", "server.pcap", RESENT + SERVER.address, 2 * bursts),
            Check("nothing is lost towards the server", "client.pcap", RESENT + CLIENT.address, 0, 0),
        ),
        notes="All drops are tail drops of the queue, within milliseconds of each synchronised burst and on most of the connections; "
        "the average load "
        "is low. The clean run has the same rate and a queue without limit.",
        looks_like="All connections are quiet, then all answer within a few milliseconds, and several of them lose segments at the "
        "same instant; those "
        "that lost the end of their answer wait for a timer.",
    )


SCENARIOS: dict[str, Callable[..., Scenario]] = {
    "healthy-slow-model": healthy_slow_model,
    "pmtu-black-hole": pmtu_black_hole,
    "h2-head-of-line": h2_head_of_line,
    "zero-window": zero_window,
    "microburst": microburst,
    **faults.SCENARIOS,
}
"""Every scenario by name."""

SAMPLES = ("healthy-slow-model", "pmtu-black-hole", "h2-head-of-line", "zero-window", "microburst")
"""Those that lie in `samples/`."""
