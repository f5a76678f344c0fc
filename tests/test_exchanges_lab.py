"""Exchanges held against what the applications of the labelled captures wrote down themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pcapdiag.exchanges.table import Exchange, Protocol
from tests.paired import Read, read_file

LAB = Path(__file__).parents[2] / "shared" / "captures" / "lab"
SCENARIOS = sorted(path.parent.name for path in LAB.glob("*/truth.json"))
NEAR_S = 0.005
READ_S = 0.015
"""An application notes the end once it has taken all bytes in, curl once its process is gone."""
PROTOCOLS = {
    "grpc-unary": Protocol.GRPC, "grpc-stream": Protocol.GRPC, "h2c": Protocol.H2, "json over http/1.1": Protocol.HTTP1,
    "openai-sse over http/1.1": Protocol.SSE, "anthropic-sse over http/1.1": Protocol.SSE, "json over http/1.1 tls": Protocol.TLS,
    "openai-sse over h2 tls": Protocol.TLS, "json (curl) over http/1.1": Protocol.HTTP1, "json (raw socket) over http/1.1": Protocol.HTTP1,
}  # fmt: skip
STARTED_BEFORE_ITS_FIRST_PACKET = {"h2-hol", "h2-flow-control", "link-blackout", "rst-injected", "tls-sse-loss"}
"""Their clients set up threads, libraries or channels after they had noted the time, or time started early."""
READ_LATE = {"slow-client"}
"""Its client reads the body long after it came."""

pytestmark = pytest.mark.skipif(not SCENARIOS, reason="the labelled captures are not here")


def truth_of(scenario: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((LAB / scenario / "truth.json").read_text())
    return loaded


def requests_of(truth: dict[str, Any]) -> list[dict[str, Any]]:
    return [request for request in truth["requests"] if request.get("client_port") and "dns" not in request["protocol"]]


def matched(read: Read, requests: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Exchange]]:
    """Each request with the exchange that ended it: same port, nearest in time, each exchange once."""
    ports = read.tcp.flows.client_port.tolist()
    pairs = sorted(
        (
            exchange.facts.get("x-request-id") != request["id"],
            abs(exchange.end_ns / 1e9 - request["end"]) + abs(exchange.start_ns / 1e9 - request["start"]),
            number,
            exchange.id,
        )
        for number, request in enumerate(requests)
        for exchange in read.applications
        if ports[exchange.flow] == request["client_port"]
        and exchange.start_ns / 1e9 <= request["end"] + 0.5
        and exchange.end_ns / 1e9 >= request["start"] - 0.5
    )
    found: dict[int, int] = {}
    for _, _, number, exchange in pairs:
        if number not in found and exchange not in found.values():
            found[number] = exchange
    return [(requests[number], read.exchanges[exchange]) for number, exchange in found.items()]


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_request_of_the_applications_is_found(scenario: str, end: str) -> None:
    truth = truth_of(scenario)
    requests = requests_of(truth)
    read = read_file(LAB / scenario / next(name for name in truth["vantage_files"] if name.startswith(end)))
    pairs = matched(read, requests)
    assert len(pairs) >= 0.95 * len(requests)
    assert [(r["id"], e.protocol) for r, e in pairs if PROTOCOLS[r["protocol"]] is not e.protocol] == []
    if end == "client":
        ends = [abs(e.end_ns / 1e9 - r["end"]) for r, e in pairs]
        assert scenario in READ_LATE or sum(off <= READ_S for off in ends) >= 0.95 * len(ends)
        calls = [read.calls.rows[read.calls.of_exchange[e.id]] for _, e in pairs]
        starts = [abs(call.start_ns / 1e9 - r["start"]) for (r, _), call in zip(pairs, calls, strict=True)]
        assert scenario in STARTED_BEFORE_ITS_FIRST_PACKET or sum(off <= NEAR_S for off in starts) >= 0.8 * len(starts)


@pytest.mark.parametrize("scenario", ["retry-storm", "rst-injected", "idle-timeout-drop"])
def test_attempts_for_one_request_are_one_call(scenario: str) -> None:
    truth = truth_of(scenario)
    read = read_file(LAB / scenario / "client.pcap")
    assert len(read.calls.rows) == len(requests_of(truth))
