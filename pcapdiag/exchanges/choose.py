"""Which protocol each connection speaks, by its bytes; and reading it: bytes of all TCP flows -> drafts without times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.lookups import DNS_PORT, Lookup, pair_dns_over_tcp
from pcapdiag.exchanges.pair_h2 import H2Reading
from pcapdiag.exchanges.pair_http1 import Http1Pairing, Tunnel
from pcapdiag.exchanges.pair_tls import TlsPairing
from pcapdiag.exchanges.table import Protocol
from pcapdiag.exchanges.tape import Tape
from pcapdiag.exchanges.tls_talk import Talk
from pcapdiag.protocols.guess import LOOK_LEN, START_LEN, Application, guess, starts_h2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.flows.table import TcpTables
    from pcapdiag.losses import Losses
    from pcapdiag.spool import Room
    from pcapdiag.streams import Streams

_HELD_LEN: Final = 8 << 20
"""Bytes of streams that are read before their pages are given back."""
_TUNNELS: Final = 4
"""Tunnels within tunnels that are read."""


@dataclass(slots=True, eq=False)
class Readings:
    """What the bytes of all connections said, before any time is looked up."""

    drafts: list[Draft] = field(default_factory=list)
    h2: H2Reading = field(default_factory=H2Reading)
    tls: list[TlsPairing] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    """Over TCP."""
    unknown: list[int] = field(default_factory=list)
    """Flows in no protocol that is read here."""


@dataclass(slots=True, eq=False)
class Chooser:
    """Reads flows, one at a time."""

    tcp: TcpTables
    streams: Streams
    losses: Losses
    room: Room | None = None
    readings: Readings = field(default_factory=Readings)
    _unseen: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Direction -> how far holes reach that were acknowledged."""

    def read(self, flows: Iterable[int]) -> Readings:
        """Reads these flows, which all carried bytes."""
        gaps = self.streams.gaps
        for fd, start, stop in zip(gaps.fd.tolist(), gaps.start.tolist(), gaps.stop.tolist(), strict=True):
            low, high = self._unseen.get(fd, (start, stop))
            self._unseen[fd] = min(low, start), max(high, stop)
        held = 0
        for flow in flows:
            client, server = self.tape(2 * flow), self.tape(2 * flow + 1)
            self._read(flow, client, server)
            held += client.stop - client.start + server.stop - server.start
            if held > _HELD_LEN and self.room is not None:
                self.room.release()
                held = 0
        return self.readings

    def tape(self, fd: int) -> Tape:
        """The bytes of one direction."""
        return Tape.of(self.streams, fd, self._unseen.get(fd))

    def _read(self, flow: int, client: Tape, server: Tape) -> None:
        flows = self.tcp.flows
        syn_ack = flows.syn_ack_ns[flow] != NEVER
        whole = bool((syn_ack or flows.syn_ns[flow] != NEVER) and not flows.one_way[flow])
        begins = client.begins_at(0) and server.begins_at(0)
        application = _spoken(client, server)
        if application is Application.UNKNOWN and flows.server_port[flow] == DNS_PORT:
            found = pair_dns_over_tcp(flow, int(flows.client[flow]), client, server)
            self.readings.lookups += found
            self.readings.drafts += [lookup.draft for lookup in found]
        elif application is Application.UNKNOWN:
            self.readings.unknown.append(flow)
        else:
            known = len(self.readings.drafts)
            self._read_as(application, flow, client, server, whole=whole and begins)
            if flows.one_way[flow]:
                _expect_no_answers(self.readings.drafts[known:])

    def _read_as(self, application: Application, flow: int, client: Tape, server: Tape, *, whole: bool, depth: int = 0) -> None:
        flows = self.tcp.flows
        capture = int(flows.capture[flow])
        closed = bool(flows.server_fin_ns[flow] != NEVER and flows.rst_ns[flow] == NEVER)
        if application is Application.HTTP1:
            ended = bool(flows.server_fin_ns[flow] < flows.rst_ns[flow])
            server_from = 0 if flows.syn_ack_ns[flow] != NEVER and not depth else server.start
            pairing = Http1Pairing(flow, self.losses, capture)
            drafts, tunnel = pairing.pair(client, server, self.streams, whole=whole, closed=ended, server_from=server_from)
            mute = any(not heads and tape.head(1) for heads, tape in ((pairing.asks, client), (pairing.answers, server)))
            if mute and not depth and _holed(client, server):
                self.readings.unknown.append(flow)  # who spoke when says more than what is left of what was said
                return
            self.readings.drafts += drafts
            if tunnel is not None and tunnel.draft.protocol is not Protocol.WEBSOCKET and depth < _TUNNELS:
                self._read_tunnel(flow, tunnel, client.behind(tunnel.client_at), server.behind(tunnel.server_at), depth + 1)
        elif application is Application.HTTP2:
            self.readings.h2.read(flow, client, server, whole=whole, closed=closed, losses=self.losses, capture=capture)
        elif application is Application.TLS:
            talks = [Talk.read(tape, synced=whole, losses=self.losses, capture=capture) for tape in (client, server)]
            unread = any(2 * talk.unread_len > tape.stop - tape.start for talk, tape in zip(talks, (client, server), strict=True))
            if unread and not depth and _holed(client, server):
                self.readings.unknown.append(flow)  # most records begin where nothing was captured: who spoke when is left
            else:
                self.readings.tls.append(TlsPairing(flow, *talks))

    def _read_tunnel(self, flow: int, tunnel: Tunnel, client: Tape, server: Tape, depth: int) -> None:
        """Reads what a connection carries behind CONNECT (RFC 9110 section 9.3.6) or an upgrade to HTTP/2."""
        application = _spoken(client, server)
        if tunnel.draft.status == "101" and application is Application.HTTP2:
            self.readings.h2.adopt(flow, tunnel.draft)
            capture = int(self.tcp.flows.capture[flow])
            self.readings.h2.read(flow, client, server, whole=True, closed=False, losses=self.losses, capture=capture)
        elif application is not Application.UNKNOWN:
            self._read_as(application, flow, client, server, whole=True, depth=depth)


def _spoken(client: Tape, server: Tape) -> Application:
    """The protocol by the first captured bytes; the most frequent one shows in a few of them."""
    if starts_h2(client.head(START_LEN), server.head(START_LEN)):
        return Application.HTTP2
    return guess(client.head(LOOK_LEN), server.head(LOOK_LEN))


def _holed(*tapes: Tape) -> bool:
    """Is any byte missing?"""
    return not all(tape.has_all(tape.start, tape.stop) for tape in tapes)


def _expect_no_answers(drafts: list[Draft]) -> None:
    """A capture of one direction cannot show what was answered."""
    for draft in drafts:
        if draft.ending is Ending.OPEN and not draft.response:
            draft.ending = Ending.UNSEEN
