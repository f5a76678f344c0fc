"""What one direction of a TLS connection says without keys: its records, hellos and alerts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pcapdiag.losses import Loss
from pcapdiag.protocols.tls import (
    APPLICATION_DATA,
    AlertReceived,
    BytesUnread,
    ChangeCipherSpecReceived,
    ClientHelloReceived,
    EncryptedAlertSuspected,
    Fault,
    RecordCut,
    RecordReceived,
    ServerHelloReceived,
    TlsReader,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.exchanges.tape import Tape
    from pcapdiag.losses import Losses

_FATAL = 2  # RFC 8446 section 6


class Record(NamedTuple):
    """One whole record at stream offsets [at, end)."""

    at: int
    end: int
    length: int
    """Payload."""
    type: int
    sealed: bool
    """Behind its sender's ChangeCipherSpec."""


@dataclass(slots=True, eq=False)
class Talk:
    """What one direction said. Hellos keep the reader's offsets: `base` comes on top."""

    base: int
    """Stream offset of the first byte."""
    records: list[Record] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    """When the last byte of each record was sent (client) or deliverable (server); looked up later."""
    client_hellos: list[ClientHelloReceived] = field(default_factory=list)
    server_hellos: list[ServerHelloReceived] = field(default_factory=list)
    alert: tuple[int, int] | None = None
    """Stream offset and description of the first fatal alert in the clear."""
    sealed_alerts: set[int] = field(default_factory=set)
    """Stream offsets of the records that are taken for encrypted alerts."""
    cut: bool = False
    """The stream ends inside a record."""
    unread_len: int = 0
    """Bytes in which no record was found."""

    @classmethod
    def read(cls, tape: Tape, *, synced: bool, losses: Losses, capture: int) -> Talk:
        """Reads one direction; `synced`: its first byte is the first of a record."""
        talk, reader, sealed = cls(tape.start), TlsReader(synced=synced), False
        base = talk.base
        for event in (*tape.play(reader), *reader.finish()):
            match event:
                case RecordReceived(at, end, kind, _, length):
                    talk.records.append(Record(base + at, base + end, length, kind, sealed))
                case ChangeCipherSpecReceived():
                    sealed = True
                case ClientHelloReceived():
                    talk.client_hellos.append(event)
                case ServerHelloReceived():
                    talk.server_hellos.append(event)
                case AlertReceived(at, _, level, description) if level == _FATAL and talk.alert is None:
                    talk.alert = base + at, description
                case EncryptedAlertSuspected(at):
                    talk.sealed_alerts.add(base + at)
                case RecordCut():
                    talk.cut = True
                case BytesUnread(at, end):
                    talk.unread_len += end - at
                case Fault():
                    losses.add(Loss.PROTOCOL_FAULT, capture=capture)
        return talk

    def timed(self) -> Iterator[tuple[Record, int]]:
        """Records with their times."""
        return zip(self.records, self.times_ns, strict=True)

    def application(self) -> list[tuple[Record, int]]:
        """Application records with their times; what TLS 1.3 disguises as such is among them, alerts are not."""
        return [(record, ns) for record, ns in self.timed() if record.type == APPLICATION_DATA and record.at not in self.sealed_alerts]
