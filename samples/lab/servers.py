"""The server of a run: gRPC by grpcio, an OpenAI-compatible endpoint and JSON tools over HTTP/1.1 by h11; it logs its think times.

`python -m samples.lab.servers ADDRESS LOG [RCVBUF]` serves until it is told to stop, and says `ready` when both ports listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import threading
import time
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
import h11

from samples.lab.work import GRPC_PORT, HTTP_PORT, Order, filler, read_order, reply_body

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT_S = 120.0
SERVICE = "lab.Agent"


class Log:
    """One line of JSON for each request: who asked, and how long the server really thought."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, order: Order, port: int, think_s: float) -> None:
        """Add a line; port is the client's. The pauses that the order asks for inside the answer are think time too."""
        line = {"id": order.id, "client_port": port, "think_s": round(think_s + order.stumbles_s(), 4)}
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


class Agent:
    """The gRPC service: messages are JSON bytes, so that no generated code is needed."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def _think(self, order: Order, context: Any) -> None:  # noqa: ANN401 - grpcio ships no types
        begin = time.monotonic()
        time.sleep(order.think_s)
        self._log.write(order, int(context.peer().rpartition(":")[2]), time.monotonic() - begin)

    def call(self, request: bytes, context: Any) -> bytes:  # noqa: ANN401 - grpcio ships no types
        """Unary: think, then one answer."""
        order = read_order(request)
        self._think(order, context)
        return reply_body(order)

    def tokens(self, request: bytes, context: Any) -> Iterator[bytes]:  # noqa: ANN401 - grpcio ships no types
        """Server streaming: think, then one small message for each token, at the order's pace."""
        order = read_order(request)
        self._think(order, context)
        begin = time.monotonic()
        for index in range(order.tokens):
            time.sleep(max(0.0, begin + order.token_at_s(index) - time.monotonic()))
            yield json.dumps({"index": index, "token": filler(24)}).encode()


def serve_grpc(address: str, log: Log) -> Any:  # noqa: ANN401 - grpcio ships no types
    """A running gRPC server."""
    agent = Agent(log)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=48))
    methods = {"Call": grpc.unary_unary_rpc_method_handler(agent.call), "Tokens": grpc.unary_stream_rpc_method_handler(agent.tokens)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"{address}:{GRPC_PORT}")
    server.start()
    return server


@dataclass
class Upload:
    """What has been read of one request, and where the server is to stop reading for a while (`x-lab-pause: bytes,seconds`)."""

    body: bytearray
    pause_after_len: int = 0
    pause_s: float = 0.0

    @classmethod
    def of(cls, request: h11.Request) -> Upload:
        """The state at the start of a request."""
        for name, value in request.headers:
            if name == b"x-lab-pause":
                after, _, seconds = value.decode().partition(",")
                return cls(bytearray(), int(after), float(seconds))
        return cls(bytearray())


class Session:
    """One HTTP/1.1 connection."""

    def __init__(self, connection: socket.socket, port: int, log: Log) -> None:
        self._socket = connection
        self._port = port
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Answer requests until the client closes or breaks the connection."""
        with self._socket, contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
            while await self._request():
                self._http.start_next_cycle()

    async def _event(self) -> Any:  # noqa: ANN401 - h11's union of events
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._loop.sock_recv(self._socket, 16_384))
        return event

    async def _request(self) -> bool:
        """Read and answer one request; False when there is none left."""
        event = await self._event()
        if not isinstance(event, h11.Request):
            return False
        target, upload = event.target, Upload.of(event)
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            upload.body += event.data
            if upload.pause_s and len(upload.body) >= upload.pause_after_len:
                await asyncio.sleep(upload.pause_s)
                upload.pause_s = 0.0
        order = read_order(bytes(upload.body))
        begin = time.monotonic()
        await asyncio.sleep(order.think_s)
        self._log.write(order, self._port, time.monotonic() - begin)
        if target == b"/v1/chat/completions":
            await self._stream(order)
        else:
            await self._json(reply_body(order))
        return self._http.our_state is h11.DONE

    async def _send(self, *events: Any) -> None:  # noqa: ANN401 - h11's union of events
        data = b"".join(part for event in events if (part := self._http.send(event)) is not None)
        await self._loop.sock_sendall(self._socket, data)

    async def _json(self, body: bytes) -> None:
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        await self._send(h11.Response(status_code=200, headers=headers, reason=b"OK"), h11.Data(data=body), h11.EndOfMessage())

    async def _stream(self, order: Order) -> None:
        """Tokens as server-sent events, at the order's pace, closed by [DONE]."""
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"), ("transfer-encoding", "chunked")]
        await self._send(h11.Response(status_code=200, headers=headers, reason=b"OK"))
        begin = time.monotonic()
        for index in range(order.tokens):
            await asyncio.sleep(max(0.0, begin + order.token_at_s(index) - time.monotonic()))
            chunk = {
                "id": f"chatcmpl-{order.id}",
                "object": "chat.completion.chunk",
                "created": 0,
                "model": "lab-model",
                "choices": [{"index": 0, "delta": {"content": f"word{index} "}, "finish_reason": None}],
            }
            await self._send(h11.Data(data=f"data: {json.dumps(chunk)}\n\n".encode()))
        await self._send(h11.Data(data=b"data: [DONE]\n\n"), h11.EndOfMessage())


async def serve_http(address: str, log: Log, rcvbuf_len: int) -> None:
    """Accept HTTP/1.1 connections until the program is told to stop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.call_later(_LIMIT_S, stopped.set)
    listener = socket.create_server((address, HTTP_PORT), backlog=128)
    if rcvbuf_len:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf_len)
    listener.setblocking(False)
    sessions: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            connection, peer = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(Session(connection, peer[1], log).serve())
            sessions.add(task)
            task.add_done_callback(sessions.discard)

    acceptor = asyncio.create_task(accept())
    print("ready", flush=True)
    await stopped.wait()
    for task in (acceptor, *sessions):
        task.cancel()
    await asyncio.gather(acceptor, *sessions, return_exceptions=True)
    listener.close()


def main() -> None:
    """Serve both protocols."""
    address, log = sys.argv[1], Log(Path(sys.argv[2]))
    server = serve_grpc(address, log)
    try:
        asyncio.run(serve_http(address, log, int(sys.argv[3]) if len(sys.argv) > 3 else 0))
    finally:
        server.stop(0)


if __name__ == "__main__":
    main()
