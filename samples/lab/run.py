"""One run of a plan over a wire: start everything, wait for the agents, stop everything, read back what each part recorded."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from samples.lab.hosts import CLIENT, SERVER, LabError, Network

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from samples.lab.wire import Spec
    from samples.lab.work import Plan

_START_S = 1.5
"""From starting the client program to the first request: it has to import grpcio first."""
_LINGER_S = 1.2
"""After the last request, so that closing packets are in the captures."""


@dataclass(frozen=True)
class Run:
    """What one run left behind; times are epoch seconds."""

    folder: Path
    t0: float
    requests: list[dict[str, Any]]
    served: dict[str, dict[str, Any]]
    """The server's log by request id: client_port and think_s."""
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    lost: list[int]
    """Packets that tcpdump lost, per capture."""


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _await_ready(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    watchdog = threading.Timer(15.0, server.kill)
    watchdog.start()
    line = server.stdout.readline()
    watchdog.cancel()
    if line.strip() != "ready":
        raise LabError("the server did not start")


def run(plan: Plan, spec: Spec, folder: Path, *, capture: bool = True) -> Run:
    """Do the plan's work over a fresh network; every wait is bounded, and nothing is left running."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    with Network(spec, folder) as network:
        server = network.start(SERVER, "servers", SERVER.address, str(folder / "server.jsonl"), str(plan.server_rcvbuf_len))
        _await_ready(server)
        if capture:
            network.capture()
        t0 = time.time() + _START_S
        network.announce(t0)
        client = network.start(CLIENT, "clients", SERVER.address, f"{t0:.6f}", str(folder / "client.jsonl"), str(folder / "plan.json"))
        client.wait(plan.limit_s + 15)
        if client.returncode:
            raise LabError(f"the client ended with exit code {client.returncode}")
        time.sleep(_LINGER_S)
        network.finish()
        lost = [capture.lost_count for capture in network.captures]
    events = _lines(folder / "wire.jsonl")
    return Run(
        folder=folder,
        t0=t0,
        requests=_lines(folder / "client.jsonl"),
        served={line["id"]: line for line in _lines(folder / "server.jsonl")},
        events=[event for event in events if event["event"] != "summary"],
        summary=next(event for event in events if event["event"] == "summary"),
        lost=lost,
    )
