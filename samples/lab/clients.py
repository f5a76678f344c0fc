"""The agents of a run: each is a thread that does its steps in order and records what it felt.

`python -m samples.lab.clients SERVER T0 LOG PLAN` ends when all agents are done.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
import h11
import httpx

from samples.lab.h2_client import FlowControlledClient
from samples.lab.work import GRPC_PORT, HTTP_PORT, Plan, Step, request_body

_GAP_S = 0.1
"""Silences between pieces of an answer that are recorded one by one."""

PROTOCOLS = {
    "grpc": "grpc-unary",
    "grpc-stream": "grpc-server-stream",
    "h2": "grpc-unary",
    "json": "json over http/1.1",
    "slow-read": "json over http/1.1",
    "sse": "openai-sse over http/1.1",
}


@dataclass
class Felt:
    """What the application saw of one request; epoch seconds."""

    start: float
    arrivals: list[float] = field(default_factory=list)
    """When each piece of the answer came."""
    error: str = ""

    def record(self, step: Step) -> dict[str, Any]:
        """The request as truth.json lists it, without what only the server knows."""
        end = time.time()
        record: dict[str, Any] = {
            "id": step.id,
            "protocol": PROTOCOLS[step.kind],
            "connection": step.connection,
            "start": round(self.start, 6),
            "first_byte": round(self.arrivals[0], 6) if self.arrivals else None,
            "end": round(end, 6),
            "ok": not self.error,
            "duration_s": round(end - self.start, 4),
        }
        if self.error:
            record["error"] = self.error
        gaps = [(at, later - at) for at, later in zip(self.arrivals, self.arrivals[1:], strict=False)]
        if gaps:
            at, longest_s = max(gaps, key=lambda gap: gap[1])
            record |= {"max_gap_s": round(longest_s, 6), "max_gap_at": round(at, 6)}
            record["gaps"] = [[round(at, 6), round(gap_s, 4)] for at, gap_s in gaps if gap_s >= _GAP_S]
        return record


class Connections:
    """The channels and clients of a run, by the name that the steps give them."""

    def __init__(self, server: str) -> None:
        self.server = server
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Any] = {}

    def _get(self, kind: str, name: str) -> Any:  # noqa: ANN401 - channels and clients have nothing in common
        with self._lock:
            if (kind, name) not in self._open:
                self._open[kind, name] = self._make(kind)
            return self._open[kind, name]

    def _make(self, kind: str) -> Any:  # noqa: ANN401 - channels and clients have nothing in common
        if kind == "grpc":
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
            return grpc.insecure_channel(f"{self.server}:{GRPC_PORT}", options)
        if kind == "http":
            return httpx.Client(
                base_url=f"http://{self.server}:{HTTP_PORT}", trust_env=False, verify=False, limits=httpx.Limits(max_connections=1)
            )
        return FlowControlledClient(self.server, GRPC_PORT)

    def prepare(self, plan: Plan) -> None:
        """Make the channels and clients before the run starts, so that no request pays for it; none of them connects yet."""
        for step in plan.steps():
            if step.kind in {"grpc", "grpc-stream"}:
                self.channel(step)
            elif step.kind in {"json", "sse"}:
                self.client(step)

    def channel(self, step: Step) -> Any:  # noqa: ANN401 - grpcio ships no types
        """The gRPC channel of a step; it has a TCP connection of its own."""
        return self._get("grpc", step.connection)

    def client(self, step: Step) -> httpx.Client:
        """The HTTP/1.1 client of a step, with one keep-alive connection."""
        client = self._get("http", step.connection)
        assert isinstance(client, httpx.Client)
        return client

    def h2(self, step: Step) -> FlowControlledClient:
        """The HTTP/2 client of a step."""
        client = self._get("h2", step.connection)
        assert isinstance(client, FlowControlledClient)
        return client

    def close(self) -> None:
        """Close everything in an orderly way."""
        for connection in self._open.values():
            connection.close()


def grpc_call(connections: Connections, step: Step, felt: Felt) -> None:
    """One unary call with a deadline."""
    method = connections.channel(step).unary_unary("/lab.Agent/Call")
    method(request_body(step), timeout=step.deadline_s, wait_for_ready=True)
    felt.arrivals.append(time.time())


def grpc_stream(connections: Connections, step: Step, felt: Felt) -> None:
    """One server-streaming call."""
    method = connections.channel(step).unary_stream("/lab.Agent/Tokens")
    for _ in method(request_body(step), timeout=step.deadline_s, wait_for_ready=True):
        felt.arrivals.append(time.time())


def json_call(connections: Connections, step: Step, felt: Felt) -> None:
    """One JSON tool call; with a large request it is an upload."""
    headers = {"content-type": "application/json"}
    if step.pause_at_server and step.pause_s:
        headers["x-lab-pause"] = f"{step.pause_after_len},{step.pause_s}"
    with connections.client(step).stream(
        "POST", "/tools/search", content=request_body(step), headers=headers, timeout=step.deadline_s
    ) as response:
        for _ in response.iter_raw():
            felt.arrivals.append(time.time())


def sse_call(connections: Connections, step: Step, felt: Felt) -> None:
    """One OpenAI-compatible streamed answer."""
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    with connections.client(step).stream(
        "POST", "/v1/chat/completions", content=request_body(step), headers=headers, timeout=step.deadline_s
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                felt.arrivals.append(time.time())


def slow_read(connections: Connections, step: Step, felt: Felt) -> None:
    """One download over a socket of its own, whose reader stops for a while."""
    http = h11.Connection(h11.CLIENT)
    body = request_body(step)
    headers = [("host", f"{connections.server}:{HTTP_PORT}"), ("content-type", "application/json"), ("content-length", str(len(body)))]
    request = http.send(h11.Request(method="POST", target="/tools/fetch", headers=headers)) or b""
    request += http.send(h11.Data(data=body)) or b""
    http.send(h11.EndOfMessage())
    pause_s, read_len = step.pause_s, 0
    with socket.socket() as connection:
        if step.rcvbuf_len:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, step.rcvbuf_len)
        connection.settimeout(step.deadline_s)
        connection.connect((connections.server, HTTP_PORT))
        connection.sendall(request)
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                read_len += len(event.data)
                felt.arrivals.append(time.time())
            if pause_s and read_len >= step.pause_after_len:
                time.sleep(pause_s)
                pause_s = 0.0
            if event is h11.NEED_DATA:
                http.receive_data(connection.recv(16_384))


def h2_call(connections: Connections, step: Step, felt: Felt) -> None:
    """One gRPC call by the h2 library, which may withhold the connection's flow control credit."""
    felt.arrivals += connections.h2(step).call(request_body(step), step.pause_after_len, step.pause_s, step.deadline_s)


KINDS = {"grpc": grpc_call, "grpc-stream": grpc_stream, "json": json_call, "sse": sse_call, "slow-read": slow_read, "h2": h2_call}


def run_agent(steps: tuple[Step, ...], t0: float, connections: Connections, records: list[dict[str, Any]]) -> None:
    """Do an agent's steps in order; a failed step is recorded and the next one follows."""
    for step in steps:
        if step.at_s is not None:
            time.sleep(max(0.0, t0 + step.at_s - time.time()))
        time.sleep(step.gap_s)
        felt = Felt(time.time())
        try:
            KINDS[step.kind](connections, step, felt)
        except grpc.RpcError as error:
            felt.error = f"grpc: {error.code().name}"
        except (httpx.HTTPError, OSError) as error:
            felt.error = f"{type(error).__name__}: {error}"
        records.append(felt.record(step))


def main() -> None:
    """Run every agent of the plan and write what they felt."""
    server, t0, log, plan_file = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    plan = Plan.from_json(plan_file.read_text(encoding="utf-8"))
    connections = Connections(server)
    connections.prepare(plan)
    records: list[dict[str, Any]] = []
    time.sleep(max(0.0, t0 - time.time()))
    threads = [threading.Thread(target=run_agent, args=(steps, t0, connections, records), daemon=True) for steps in plan.agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.1, t0 + plan.limit_s - time.time()))
    log.write_text("".join(json.dumps(record) + "\n" for record in sorted(records, key=lambda r: str(r["start"]))), encoding="utf-8")
    connections.close()


if __name__ == "__main__":
    main()
