"""The truth about a run: every request as the application felt it, seconds by cause, and proof that the captures show what was done."""

from __future__ import annotations

import collections
import dataclasses
import struct
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samples.lab.hosts import CLIENT, SERVER, LabError
from samples.lab.scenario import LABELS, RESENT, Check, Scenario
from samples.lab.wire import before, parse
from samples.lab.work import GRPC_PORT, HTTP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samples.lab.run import Run

VANTAGE_FILES = ("client.pcap", "server.pcap")
_LATE_MAX_MS = 10.0
_FRAME_MAX_LEN = 1514
_SILENCE_S = 0.1
"""Gaps between tokens that are shorter belong to the stream's own pace."""


def read_pcap(path: Path) -> Iterator[tuple[float, bytes]]:
    """The frames of a file that tcpdump wrote here (little-endian, microseconds), each with its epoch time."""
    data = path.read_bytes()
    if data[:4] != b"\xd4\xc3\xb2\xa1":
        raise LabError(f"{path}: not what tcpdump writes here")
    at = 24
    while at + 16 <= len(data):
        seconds, micros, captured_len, original_len = struct.unpack_from("<IIII", data, at)
        if captured_len != original_len:
            raise LabError(f"{path}: a frame was cut")
        yield seconds + micros / 1e6, data[at + 16 : at + 16 + captured_len]
        at += 16 + captured_len


def tshark_count(path: Path, display_filter: str) -> int:
    """How many frames of a capture a display filter finds."""
    words = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-d",
        f"tcp.port=={GRPC_PORT},http2",
        "-Y",
        display_filter,
        "-T",
        "fields",
        "-e",
        "frame.number",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise LabError(f"tshark: {done.stderr.strip()}")
    return len(done.stdout.split())


def _same_at_both_ends(frame: bytes) -> bytes:
    """A frame without what the path changes: MAC addresses, TTL, header checksum."""
    return frame[12:22] + frame[23:24] + frame[26:]


def _path_checks(run: Run) -> Iterator[dict[str, Any]]:
    """What one end sent and the other did not get, held against the wire's log."""
    seen = {name: list(read_pcap(run.folder / name)) for name in VANTAGE_FILES}
    sent: collections.Counter[bytes] = collections.Counter()
    got: collections.Counter[bytes] = collections.Counter()
    for name, frames in seen.items():
        for _, frame in frames:
            from_client = (segment := parse(frame)) is not None and segment.src == CLIENT.address
            side = sent if from_client == name.startswith("client") else got
            side[_same_at_both_ends(frame)] += 1
    dropped = sum(event["event"].startswith("drop:") for event in run.events)
    missing = (sent - got).total()
    yield {"check": "frames missing at the far side == drops of the wire", "missing": missing, "dropped": dropped, "ok": missing == dropped}
    extra = (got - sent).total()
    yield {"check": "no frame that only the receiver saw", "seen": extra, "ok": extra == 0}
    longest = max(len(frame) for frames in seen.values() for _, frame in frames)
    yield {"check": "no frame longer than the link allows (no offload)", "longest": longest, "ok": longest <= _FRAME_MAX_LEN}
    yield _request_check(run, seen["client.pcap"])
    late_ms = run.summary["late_max_ms"]
    yield {"check": "the wire itself was never late by more than 10 ms", "late_max_ms": late_ms, "ok": late_ms <= _LATE_MAX_MS}
    yield {"check": "tcpdump lost nothing", "lost": run.lost, "ok": not any(run.lost)}


def _request_check(run: Run, frames: list[tuple[float, bytes]]) -> dict[str, Any]:
    arrivals: dict[int, list[float]] = collections.defaultdict(list)
    touched: dict[int, list[float]] = collections.defaultdict(list)
    for at, frame in frames:
        if segment := parse(frame):
            port: int = segment.src_port if segment.src == CLIENT.address else segment.dst_port
            touched[port].append(at)
            if segment.payload_len and segment.dst == CLIENT.address:
                arrivals[port].append(at)
    without, unexplained = [], []
    for request in run.requests:
        port = request["client_port"] or 0
        if not any(request["start"] - 0.001 <= at <= request["end"] + 0.001 for at in touched[port]):
            without.append(request["id"])
        first = request["first_byte"]
        if first and not any(first - 0.05 <= at <= first + 0.001 for at in arrivals[port]):
            unexplained.append(request["id"])
    return {
        "check": "every request has packets on its port between start and end, and data just before its first byte",
        "requests": len(run.requests),
        "without_packets": without,
        "first_byte_unexplained": unexplained,
        "ok": not without and not unexplained,
    }


def resent_count(path: Path, source: str) -> int:
    """Data segments from one address that bring no new byte, in the sender's capture; tshark calls some of them out of order."""
    highest: dict[tuple[int, int], int] = {}
    count = 0
    for _, frame in read_pcap(path):
        segment = parse(frame)
        if segment is None or segment.src != source or not segment.payload_len:
            continue
        key = (segment.src_port, segment.dst_port)
        if key in highest and not before(highest[key], segment.end):
            count += 1
        else:
            highest[key] = segment.end
    return count


def _count(run: Run, check: Check) -> dict[str, Any]:
    path = run.folder / check.file
    found = resent_count(path, check.filter.removeprefix(RESENT)) if check.filter.startswith(RESENT) else tshark_count(path, check.filter)
    return {
        "check": check.text,
        "file": check.file,
        "filter": check.filter,
        "count": found,
        "expected": [check.low, check.high],
        "ok": found >= check.low and (check.high is None or found <= check.high),
    }


def complete_requests(run: Run) -> None:
    """Add to each request what only the server knows: the client's port and the measured think time."""
    ports = {request["connection"]: run.served[request["id"]]["client_port"] for request in run.requests if request["id"] in run.served}
    for request in run.requests:
        served = run.served.get(request["id"], {})
        request["client_port"] = served.get("client_port", ports.get(request.pop("connection")))
        request.pop("connection", None)
        request["server_think_s"] = served.get("think_s", 0.0)


def _compare(scenario: Scenario, real: Run, clean: Run) -> None:
    """Add to each request its time in the clean run and the excess.

    A token stream's excess is its silences beyond the nominal interval, and the later first token: tokens that were held up arrive
    together, so that a stream need not end later than in the clean run.
    """
    intervals = {step.id: step.interval_s for step in scenario.plan.steps() if step.kind in {"sse", "grpc-stream"}}
    cleanly = {request["id"]: request for request in clean.requests}
    for request in real.requests:
        other = cleanly.get(request["id"])
        if other is None:
            continue
        request["clean_duration_s"] = other["duration_s"]
        interval_s = intervals.get(request["id"])
        if interval_s is None or request["first_byte"] is None or not request["ok"]:
            excess_s = request["duration_s"] - other["duration_s"]
        else:
            excess_s = (request["first_byte"] - request["start"]) - (other["first_byte"] - other["start"])
            excess_s += sum(gap_s - interval_s for _, gap_s in request.get("gaps", []) if gap_s > interval_s + _SILENCE_S)
        request["excess_s"] = round(excess_s, 4)


def _seconds(scenario: Scenario, real: Run, think_s: float) -> dict[str, float]:
    seconds = {"server-think": think_s} if scenario.think_is_root else {}
    if scenario.cause:
        excess_s = sum(request.get("excess_s", 0.0) for request in real.requests if request["id"].startswith(scenario.measured))
        seconds[scenario.cause] = round(max(0.0, excess_s), 3)
    return seconds


def build(scenario: Scenario, real: Run, clean: Run | None) -> dict[str, Any]:
    """The truth file of a run; clean is the same work over a clean wire."""
    complete_requests(real)
    if clean is not None:
        _compare(scenario, real, clean)
    think_s = round(sum(request["server_think_s"] for request in real.requests), 3)
    named = {*scenario.root_causes, *scenario.also_acceptable, *scenario.capture_artefacts}
    verified = [*_path_checks(real), *(_count(real, check) for check in scenario.checks)]
    steps = {step.id for step in scenario.plan.steps()}
    verified.append({"check": "every planned request was made", "ok": steps == {request["id"] for request in real.requests}})
    return {
        "scenario": scenario.name,
        "description": scenario.description,
        "vantage_files": list(VANTAGE_FILES),
        "root_causes": list(scenario.root_causes),
        "also_acceptable": list(scenario.also_acceptable),
        "capture_artefacts": list(scenario.capture_artefacts),
        "not_causes": [label for label in LABELS if label not in named],
        "stall_seconds_by_cause": _seconds(scenario, real, think_s),
        "server_think_total_s": think_s,
        "makespan_s": _makespan_s(real),
        "clean_makespan_s": _makespan_s(clean) if clean else None,
        "t0": round(real.t0, 6),
        "rtt_s": scenario.rtt_s,
        "requests": real.requests,
        "wire_events": dict(collections.Counter(event["event"] for event in real.events if event["event"] != "recovered")),
        "recovered": [{key: event[key] for key in ("t", "cause", "dir", "src", "dst", "seq", "gap_s")} for event in _recovered(real)],
        "wire_quality": {key: value for key, value in real.summary.items() if key != "event"},
        "tcpdump_lost": [],
        "notes": scenario.notes,
        "parameters": scenario.numbers,
        "verified": verified,
        "all_verified": all(check["ok"] for check in verified),
    }


def _recovered(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.events if event["event"] == "recovered"]


def _makespan_s(run: Run) -> float:
    last: float = max(request["end"] for request in run.requests)
    return round(last - run.t0, 3)


def readme(scenario: Scenario, truth: dict[str, Any]) -> str:
    """The README of a sample: purpose, topology, origin, and how it is made again."""
    seconds = ", ".join(f"{label} {value:g} s" for label, value in truth["stall_seconds_by_cause"].items())
    links = "\n".join(
        f"- towards the {end}: {_link(dataclasses.asdict(link))}"
        for end, link in (("server", scenario.wire.c2s), ("client", scenario.wire.s2c))
    )
    rules = "".join(f"- {event.replace(':', ' (', 1)}): {count} frames\n" for event, count in sorted(truth["wire_events"].items()))
    paragraphs = [textwrap.fill(text, 120) for text in (scenario.looks_like, scenario.notes) if text]
    return f"""# {scenario.name}

{textwrap.fill(scenario.description, 120)}

What the agents waited for, summed over their {len(truth["requests"])} requests: **{seconds}**.

## What to see

{chr(10).join(text + chr(10) for text in paragraphs)}
## Topology

`{CLIENT.address}` (client namespace, `client.pcap`) -- wire -- `{SERVER.address}` (server namespace, `server.pcap`).
The wire is a user-space program between two TAP devices; it decrements the TTL by {scenario.wire.hops} and has a round trip of
{scenario.rtt_s * 1e3:.0f} ms without load:

{links}
{rules}
The server answers gRPC on port {GRPC_PORT} (grpcio) and HTTP/1.1 on port {HTTP_PORT} (h11): JSON tools and an OpenAI-compatible stream. The
clients are grpcio, httpx and, where a reader has to stand still, a plain socket. All of it is real TCP by the Linux kernel, in clear text;
the texts inside are made up. MTU 1500, no offloads, whole packets captured, nothing else on the link.

## Origin

Made by this project's own lab (`samples/lab`). `truth.json` holds every request as the application felt it (epoch seconds), the server's
measured think time, and what was verified in the captures afterwards. Excess seconds are measured against a second run of the same work
without the fault. The captures and texts here are under the project's licence.

Made again (as root on Linux; times and ports will differ):

    {scenario.command}
"""


def _link(link: dict[str, Any]) -> str:
    words = [f"{link['delay_s'] * 1e3:g} ms"]
    if link["rate_bps"]:
        words.append(f"{link['rate_bps'] / 1e6:g} Mbit/s")
    if link["queue_count"]:
        words.append(f"queue of {link['queue_count']} packets")
    if link["step_delay_s"] is not None:
        words.append(f"{link['step_delay_s'] * 1e3:g} ms from second {link['step_at_s']:g} on")
    return ", ".join(words)
