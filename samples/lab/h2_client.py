"""A gRPC client on the h2 library that can withhold the connection's WINDOW_UPDATE, as a client that is busy elsewhere does."""

from __future__ import annotations

import socket
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

_STREAM_WINDOW_LEN = 1 << 20


class FlowControlledClient:
    """One HTTP/2 connection; its streams have wide windows, the connection keeps the 65,535 bytes of RFC 9113 section 6.9.2."""

    def __init__(self, server: str, port: int) -> None:
        self._authority = f"{server}:{port}"
        self._socket = socket.create_connection((server, port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.initiate_connection()
        self._http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_LEN})
        self._socket.sendall(self._http.data_to_send())

    def call(self, message: bytes, withhold_after_len: int, withhold_s: float, limit_s: float) -> list[float]:
        """Send one unary call and read its answer; gives the arrival time of each DATA frame.

        Credit for the connection is given back at once until `withhold_after_len` bytes have come, then not for `withhold_s` seconds.
        """
        stream = self._http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", "/lab.Agent/Call"), (":authority", self._authority)]
        self._http.send_headers(stream, [*headers, ("content-type", "application/grpc"), ("te", "trailers")])
        self._http.send_data(stream, b"\x00" + len(message).to_bytes(4, "big") + message, end_stream=True)
        self._socket.sendall(self._http.data_to_send())
        arrivals: list[float] = []
        owed_len, read_len, resume_at, end = 0, 0, 0.0, time.monotonic() + limit_s
        while time.monotonic() < end:
            for event in self._receive(0.05):
                if isinstance(event, h2.events.DataReceived):
                    arrivals.append(time.time())
                    owed_len += event.flow_controlled_length or 0
                    read_len += len(event.data or b"")
                elif isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    self._give_back(owed_len)
                    return arrivals
            if withhold_s and not resume_at and read_len >= withhold_after_len:
                resume_at = time.monotonic() + withhold_s
            if owed_len and time.monotonic() >= resume_at:
                self._give_back(owed_len)
                owed_len = 0
        raise TimeoutError(f"no answer in {limit_s} s")

    def _receive(self, wait_s: float) -> list[h2.events.Event]:
        self._socket.settimeout(wait_s)
        try:
            data = self._socket.recv(65_536)
        except TimeoutError:
            return []
        if not data:
            raise ConnectionError("the server closed the connection")
        events = self._http.receive_data(data)
        self._socket.sendall(self._http.data_to_send())
        return events

    def _give_back(self, length: int) -> None:
        if length:
            self._http.increment_flow_control_window(length)
            self._socket.sendall(self._http.data_to_send())

    def close(self) -> None:
        """Say goodbye and close."""
        self._http.close_connection()
        self._socket.sendall(self._http.data_to_send())
        self._socket.close()
