"""The wire between the two hosts: it carries frames from one TAP device to the other and does what its rules say.

Each direction has a delay, optionally a rate with a queue of limited length, and a list of rules that drop or hold back frames.
The program is started by `hosts.Network`: it inherits the two TAP descriptors, reads `t0 <epoch seconds>` from its standard input
when the traffic starts, ends when that input is closed, and writes every event as a line of JSON.
"""

from __future__ import annotations

import collections
import heapq
import json
import os
import select
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TextIO

C2S, S2C = "c2s", "s2c"
SYN, ACK = 0x02, 0x10
_HALF = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Link:
    """One direction of the path."""

    delay_s: float = 0.02
    rate_bps: int = 0
    """0: as fast as the machine."""
    queue_count: int = 0
    """Packets that may wait for the rate; 0: any number."""
    step_at_s: float = 0.0
    step_delay_s: float | None = None
    """The delay from `step_at_s` after the start of the run on."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Frames that are dropped or held back. Every condition given must hold; times are seconds after the start of the run."""

    label: str
    action: str = "drop"
    """drop, or hold (for `extra_s`)."""
    direction: str = "both"
    after_s: float = 0.0
    until_s: float = 1e9
    port: int = 0
    """The server's port; 0: any."""
    flow: int = -1
    """The how-manieth connection to that port, from 0; -1: any."""
    min_ip_len: int = 0
    kind: str = "any"
    """any, data, syn or synack."""
    nth: tuple[int, ...] = ()
    """Only these of the matching new data segments, counted from 1."""
    contains: str = ""
    """Only new data segments with this text in them."""
    copies: int = 1
    """With nth or contains: how many transmissions of the chosen bytes are lost."""
    every: int = 0
    """Only every how-manieth matching frame."""
    limit: int = 0
    """At most so many frames; 0: no limit."""
    extra_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The whole wire."""

    c2s: Link = field(default_factory=Link)
    s2c: Link = field(default_factory=Link)
    rules: tuple[Rule, ...] = ()
    hops: int = 11
    """Taken off the TTL of every packet, as the routers of a path would."""
    limit_s: float = 90.0

    def to_json(self) -> str:
        """The specification as text for the wire program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The specification that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        c2s, s2c = Link(**fields.pop(C2S)), Link(**fields.pop(S2C))
        rules = tuple(Rule(**rule | {"nth": tuple(rule["nth"])}) for rule in fields.pop("rules"))
        return cls(c2s=c2s, s2c=s2c, rules=rules, **fields)


class Segment(NamedTuple):
    """The TCP facts of one frame; payload_len is in bytes."""

    ip_len: int
    src: str
    dst: str
    src_port: int
    dst_port: int
    seq: int
    flags: int
    payload_len: int
    payload: bytes

    @property
    def end(self) -> int:
        """The sequence number after the last payload byte."""
        return (self.seq + self.payload_len) & 0xFFFFFFFF


def parse(frame: bytes) -> Segment | None:
    """The segment in an Ethernet frame, or None if it is not TCP over IPv4 (RFC 791 section 3.1, RFC 9293 section 3.1)."""
    if len(frame) < 54 or frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return None
    header_len = (frame[14] & 15) * 4
    ip_len = int.from_bytes(frame[16:18], "big")
    tcp = 14 + header_len
    src_port, dst_port, seq = struct.unpack_from("!HHI", frame, tcp)
    start = tcp + (frame[tcp + 12] >> 4) * 4
    payload = frame[start : 14 + ip_len]
    src, dst = (".".join(map(str, frame[at : at + 4])) for at in (26, 30))
    return Segment(ip_len, src, dst, src_port, dst_port, seq, frame[tcp + 13], len(payload), payload)


def before(a: int, b: int) -> bool:
    """Whether sequence number a lies before b (RFC 9293 section 3.4)."""
    return ((a - b) & 0xFFFFFFFF) >= _HALF


@dataclass
class _Chosen:
    """Bytes that a rule has picked: their next `remaining` transmissions are lost."""

    key: tuple[str, int, int]
    start: int
    end: int
    remaining: int


class RuleState:
    """One rule at work: how often it matched and which bytes it picked."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.matched_count = 0
        self.chosen: list[_Chosen] = []

    def applies(self, direction: str, segment: Segment, flow: int, is_new: bool, since_s: float) -> bool:
        """Whether the rule acts on this frame; called once for each frame, in order."""
        rule = self.rule
        key = (direction, segment.src_port, segment.dst_port)
        for chosen in self.chosen:
            if chosen.key == key and before(segment.seq, chosen.end) and before(chosen.start, segment.end):
                chosen.remaining -= 1
                return chosen.remaining >= 0
        if not self._matches(direction, segment, flow, since_s):
            return False
        if rule.nth or rule.contains:
            return is_new and self._choose(key, segment)
        self.matched_count += 1
        if rule.every and self.matched_count % rule.every:
            return False
        return not rule.limit or self.matched_count <= rule.limit

    def _matches(self, direction: str, segment: Segment, flow: int, since_s: float) -> bool:
        rule = self.rule
        port = segment.dst_port if direction == C2S else segment.src_port
        handshake = {"syn": SYN, "synack": SYN | ACK}.get(rule.kind)
        return (
            rule.direction in {direction, "both"}
            and rule.after_s <= since_s < rule.until_s
            and rule.port in {0, port}
            and rule.flow in {-1, flow}
            and segment.ip_len >= rule.min_ip_len
            and (rule.kind != "data" or segment.payload_len > 0)
            and (handshake is None or segment.flags & (SYN | ACK) == handshake)
        )

    def _choose(self, key: tuple[str, int, int], segment: Segment) -> bool:
        rule = self.rule
        if segment.payload_len == 0 or (rule.contains and rule.contains.encode() not in segment.payload):
            return False
        self.matched_count += 1
        if rule.nth and self.matched_count not in rule.nth:
            return False
        if rule.limit and len(self.chosen) >= rule.limit:
            return False
        self.chosen.append(_Chosen(key, segment.seq, segment.end, rule.copies - 1))
        return True


class Direction:
    """One direction's clock: when a frame that arrives now leaves at the other end."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frame_count = 0
        self.queue_max_s = 0.0
        self._free_at = 0.0
        self._last = 0.0
        self._departures: collections.deque[float] = collections.deque()

    def leave_at(self, now: float, since_s: float, length: int) -> float | None:
        """The time of delivery, or None when the queue is full."""
        link = self.link
        departure = now
        if link.rate_bps:
            while self._departures and self._departures[0] <= now:
                self._departures.popleft()
            if link.queue_count and len(self._departures) >= link.queue_count:
                return None
            departure = max(now, self._free_at) + length * 8 / link.rate_bps
            self._free_at = departure
            self._departures.append(departure)
            self.queue_max_s = max(self.queue_max_s, departure - now)
        stepped = link.step_delay_s is not None and since_s >= link.step_at_s
        delay = link.step_delay_s if stepped and link.step_delay_s is not None else link.delay_s
        self._last = max(self._last, departure + delay)
        return self._last


class Wire:
    """Both directions, their rules, and the log of what was done."""

    def __init__(self, spec: Spec, descriptors: dict[str, int], macs: dict[str, bytes], log: TextIO) -> None:
        self.spec = spec
        self.directions = {C2S: Direction(spec.c2s), S2C: Direction(spec.s2c)}
        self.start = float("inf")
        self._states = [RuleState(rule) for rule in spec.rules]
        self._in = {C2S: descriptors["client"], S2C: descriptors["server"]}
        self._out = {C2S: descriptors["server"], S2C: descriptors["client"]}
        self._macs = {C2S: macs["server"], S2C: macs["client"]}
        self._log = log
        self._epoch = time.time() - time.monotonic()
        self._pending: list[tuple[float, int, str, bytes]] = []
        self._sequence = 0
        self._flows: dict[tuple[int, int], int] = {}
        self._flow_counts: collections.Counter[int] = collections.Counter()
        self._highest: dict[tuple[str, int, int], int] = {}
        self._lost: list[tuple[tuple[str, int, int], Segment, float, str]] = []
        self._late_max_s = 0.0
        self._late_count = 0

    def run(self) -> None:
        """Carry frames until standard input is closed, at most `limit_s` seconds."""
        end = time.monotonic() + self.spec.limit_s
        sources = {self._in[C2S]: C2S, self._in[S2C]: S2C}
        while (now := time.monotonic()) < end:
            due = self._pending[0][0] - now if self._pending else 1.0
            readable, _, _ = select.select([*sources, 0], [], [], min(max(due, 0.0), 1.0))
            for descriptor in readable:
                if descriptor == 0:
                    line = sys.stdin.readline()
                    if not line:
                        break
                    self.start = float(line.split()[1]) - self._epoch
                else:
                    self._read(descriptor, sources[descriptor])
            else:
                self._release()
                continue
            break
        self._summary()

    def _read(self, descriptor: int, direction: str) -> None:
        for _ in range(64):
            try:
                frame = os.read(descriptor, 65_536)
            except BlockingIOError:
                return
            self.arrive(direction, frame, time.monotonic())
            self._release()

    def arrive(self, direction: str, frame: bytes, now: float) -> None:
        """Decide what becomes of one frame."""
        segment = parse(frame)
        if segment is None:
            return
        since_s = now - self.start
        held_s = 0.0
        flow, is_new = self._place(direction, segment)
        for state in self._states:
            if state.applies(direction, segment, flow, is_new, since_s):
                if state.rule.action == "drop":
                    self._drop(direction, segment, now, state.rule.label)
                    return
                held_s = state.rule.extra_s
                self._event(f"hold:{state.rule.label}", direction, segment, now)
        line = self.directions[direction]
        leave_at = line.leave_at(now, since_s, len(frame))
        if leave_at is None:
            self._drop(direction, segment, now, "tail-drop")
            return
        line.frame_count += 1
        if self._lost:
            self._recovered(direction, segment, now)
        self._sequence += 1
        heapq.heappush(self._pending, (leave_at + held_s, self._sequence, direction, self._rewrite(direction, frame)))

    def _place(self, direction: str, segment: Segment) -> tuple[int, bool]:
        """The flow's ordinal on its server port, and whether the segment carries bytes not sent before."""
        ports = (segment.src_port, segment.dst_port) if direction == C2S else (segment.dst_port, segment.src_port)
        if ports not in self._flows:
            self._flows[ports] = self._flow_counts[ports[1]]
            self._flow_counts[ports[1]] += 1
        key = (direction, *ports)
        highest = self._highest.get(key)
        is_new = segment.payload_len > 0 and (highest is None or before(highest, segment.end))
        if is_new:
            self._highest[key] = segment.end
        return self._flows[ports], is_new

    def _rewrite(self, direction: str, frame: bytes) -> bytes:
        """The frame as the last router of the path sends it: its own MAC addresses, a lower TTL, a new header checksum."""
        header_len = (frame[14] & 15) * 4
        header = bytearray(frame[14 : 14 + header_len])
        header[8] -= self.spec.hops
        header[10:12] = b"\x00\x00"
        total = sum(struct.unpack(f"!{header_len // 2}H", header))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        header[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
        return self._macs[direction] + frame[12:14] + bytes(header) + frame[14 + header_len :]

    def _release(self) -> None:
        while self._pending and self._pending[0][0] <= (now := time.monotonic()):
            leave_at, _, direction, frame = heapq.heappop(self._pending)
            late_s = now - leave_at
            self._late_max_s = max(self._late_max_s, late_s)
            self._late_count += late_s > 0.002
            os.write(self._out[direction], frame)

    def _drop(self, direction: str, segment: Segment, now: float, label: str) -> None:
        self._event(f"drop:{label}", direction, segment, now)
        if segment.payload_len:
            self._lost.append(((direction, segment.src_port, segment.dst_port), segment, now, label))

    def _recovered(self, direction: str, segment: Segment, now: float) -> None:
        key = (direction, segment.src_port, segment.dst_port)
        kept = []
        for entry in self._lost:
            lost_key, lost, at, label = entry
            if lost_key == key and not before(lost.seq, segment.seq) and before(lost.seq, segment.end):
                self._event("recovered", direction, lost, at, cause=label, gap_s=round(now - at, 6))
            else:
                kept.append(entry)
        self._lost = kept

    def _event(self, event: str, direction: str, segment: Segment, at: float, **more: object) -> None:
        ends = {"src": f"{segment.src}:{segment.src_port}", "dst": f"{segment.dst}:{segment.dst_port}"}
        record = {"event": event, "t": round(at + self._epoch, 6), "dir": direction, **ends, "seq": segment.seq, "len": segment.payload_len}
        self._log.write(json.dumps(record | more) + "\n")

    def _summary(self) -> None:
        record = {
            "event": "summary",
            "frames": [self.directions[name].frame_count for name in (C2S, S2C)],
            "queue_max_ms": [round(self.directions[name].queue_max_s * 1e3, 3) for name in (C2S, S2C)],
            "late_max_ms": round(self._late_max_s * 1e3, 3),
            "late_over_2ms": self._late_count,
            "unrecovered_segments": len(self._lost),
        }
        self._log.write(json.dumps(record) + "\n")


def main() -> None:
    """Run the wire that the arguments describe: specification, log file, both descriptors, the MAC pair for each side."""
    spec = Spec.from_json(sys.argv[1])
    client, server = int(sys.argv[3]), int(sys.argv[4])
    macs = {"client": bytes.fromhex(sys.argv[5]), "server": bytes.fromhex(sys.argv[6])}
    os.set_blocking(client, False)
    os.set_blocking(server, False)
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    with open(sys.argv[2], "w", encoding="utf-8") as log:  # noqa: PTH123 - one short-lived program, one file
        Wire(spec, {"client": client, "server": server}, macs, log).run()


if __name__ == "__main__":
    main()
