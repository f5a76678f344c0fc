"""HTTP/2 and gRPC: the frames of both directions of connections, read into rows (RFC 9113)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.draft import Ending
from pcapdiag.exchanges.h2_streams import H2Streams
from pcapdiag.exchanges.table import Protocol
from pcapdiag.losses import Loss
from pcapdiag.protocols.events import Fault, SettingsReceived, Side
from pcapdiag.protocols.header_block import BlockMemo
from pcapdiag.protocols.http2_look import LookingHttp2Reader
from pcapdiag.protocols.http2_rows import ROW_LEN, FrameRows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.exchanges.draft import Draft
    from pcapdiag.exchanges.tape import Tape
    from pcapdiag.losses import Losses
    from pcapdiag.protocols.events import Event

_HEADER_TABLE_SIZE: Final = 1  # RFC 9113 section 6.5.2


@dataclass(slots=True, eq=False)
class H2Reading:
    """Reads connections, one at a time; all of them share the rows and what header blocks said before."""

    rows: FrameRows = field(default_factory=FrameRows)
    adopted: dict[int, Draft] = field(default_factory=dict)
    """Flow -> the upgraded HTTP/1.1 request that is its stream 1 (RFC 7540 section 3.2)."""
    _memo: BlockMemo = field(default_factory=BlockMemo)
    _fds: array[int] = field(default_factory=lambda: array("q"))
    """Directions, in the order in which they were read."""
    _begins: array[int] = field(default_factory=lambda: array("q"))
    """The first row of each of them."""

    def adopt(self, flow: int, draft: Draft) -> None:
        """Makes an upgraded HTTP/1.1 request stream 1 of the connection that is read next."""
        draft.protocol, draft.h2_stream = Protocol.H2, 1
        draft.ending, draft.response = Ending.OPEN, []
        self.adopted[flow] = draft

    def read(self, flow: int, client: Tape, server: Tape, *, whole: bool, closed: bool, losses: Losses, capture: int) -> None:
        """Reads the client's side, then the server's.

        Args:
            flow: which connection.
            client: what the client sent.
            server: what the server sent.
            whole: the connection starts with these tapes: both prefaces are there.
            closed: no reset cut the connection short.
            losses: where faults are counted.
            capture: for which capture.
        """
        client_reader, server_reader = (
            LookingHttp2Reader(side, preface_expected=whole, at=tape.start, memo=self._memo)
            for side, tape in ((Side.CLIENT, client), (Side.SERVER, server))
        )
        blocks_lost = self.rows.blocks_lost
        for fd, tape, reader, peer in ((2 * flow, client, client_reader, server_reader), (2 * flow + 1, server, server_reader, None)):
            self._fds.append(fd)
            self._begins.append(len(self.rows))
            self._look(tape.show(reader, self.rows, closed=closed), tape, peer, losses, capture)
        if self.rows.blocks_lost > blocks_lost:
            losses.add(Loss.HPACK_LOST, self.rows.blocks_lost - blocks_lost, capture=capture)

    def streams(self) -> H2Streams:
        """All rows, by stream."""
        numbers = np.frombuffer(self.rows.numbers, np.int64) if self.rows.numbers else np.empty(0, np.int64)
        begin = np.array([*self._begins, len(self.rows)], np.int64)
        fd = np.repeat(np.array(self._fds, np.int64), begin[1:] - begin[:-1])
        return H2Streams(fd, numbers.reshape(-1, ROW_LEN), self.rows.sections, self.rows.bodies, self.adopted)

    @staticmethod
    def _look(events: Iterable[Event], tape: Tape, peer: LookingHttp2Reader | None, losses: Losses, capture: int) -> None:
        """Counts faults; tells the peer's reader, if it is still to read, how large its table of header fields may be."""
        for event in events:
            if isinstance(event, Fault) and tape.has_all(event.at, event.end):
                losses.add(Loss.PROTOCOL_FAULT, capture=capture)
            elif isinstance(event, SettingsReceived) and peer is not None and _HEADER_TABLE_SIZE in event.values:
                peer.set_header_table_size(event.values[_HEADER_TABLE_SIZE])
