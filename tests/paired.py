"""A recording read up to step 5, with short names for what tests of exchanges look at."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pcapdiag.capture import read_capture
from pcapdiag.columns import NEVER
from pcapdiag.exchanges import make_calls, pair_exchanges
from pcapdiag.exchanges.table import Calls, Exchange, Exchanges, Protocol
from pcapdiag.flows import group_flows
from pcapdiag.losses import Losses
from pcapdiag.packets import decode_packets
from pcapdiag.streams import reassemble
from tests.wire import START_NS

if TYPE_CHECKING:
    from pcapdiag.exchanges.h2log import H2Log
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets
    from pcapdiag.streams import Streams
    from tests.wire_recording import Recording


@dataclass(frozen=True)
class Read:
    """All that a recording gives."""

    packets: Packets
    tcp: TcpTables
    streams: Streams
    exchanges: Exchanges
    h2: H2Log
    calls: Calls
    losses: Losses

    def of(self, *protocols: Protocol) -> list[Exchange]:
        """The exchanges of these protocols, in order."""
        return [exchange for exchange in self.exchanges if exchange.protocol in protocols]

    @property
    def applications(self) -> list[Exchange]:
        """The exchanges that are no set-up."""
        return [exchange for exchange in self.exchanges if not exchange.is_setup]


def read_file(path: Path) -> Read:
    """Reads a capture file."""
    losses = Losses()
    reader = read_capture(str(path), losses)
    packets = decode_packets(reader, losses)
    tcp = group_flows(packets, (reader.capture,))
    streams = reassemble(packets, tcp)
    paired = pair_exchanges(packets, tcp, streams, losses)
    return Read(packets, tcp, streams, paired.exchanges, paired.h2, make_calls(paired.exchanges, tcp.flows), losses)


def paired(recording: Recording) -> Read:
    """Reads a recording."""
    with tempfile.TemporaryDirectory() as folder:
        return read_file(recording.write(Path(folder)))


def ms(time_ns: int) -> float | None:
    """Milliseconds since Wires begin, None for never."""
    return None if time_ns == NEVER else round((time_ns - START_NS) / 1e6, 1)


def request(path: str = "/v1/messages", *headers: str, body: bytes = b"", method: str = "POST") -> bytes:
    """An HTTP/1.1 request."""
    fields = "".join(f"{header}\r\n" for header in ("Host: api.test", f"Content-Length: {len(body)}", *headers))
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode() + body


def response(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP/1.1 response with a length."""
    fields = "".join(f"{header}\r\n" for header in ("Content-Type: application/json", f"Content-Length: {len(body)}", *headers))
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body
