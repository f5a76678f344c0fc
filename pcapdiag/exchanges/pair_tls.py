"""TLS without keys: the handshake, and exchanges inferred from the sizes and times of records (RFC 8446, RFC 5246)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.exchanges.tls_talk import Record, Talk
from pcapdiag.exchanges.turns import Chunk, Turn, bursts_of, turn_draft, turns_of
from pcapdiag.flows.table import CLIENT_TO_SERVER, SERVER_TO_CLIENT
from pcapdiag.protocols.tls import ALERT_NAMES, APPLICATION_DATA, HANDSHAKE, RECORD_HEADER_LEN, TLS_1_3

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pcapdiag.columns import I64
    from pcapdiag.exchanges.draft import Facts
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.protocols.tls import ServerHelloReceived
    from pcapdiag.streams import Streams

_FINISHED_LENS: Final = frozenset({53, 69})
"""A TLS 1.3 record with nothing but Finished: 4 + 32 or 48 bytes of MAC, content type, tag (RFC 8446 sections 4.4.4, 5.2)."""
_FLIGHT_RECORDS: Final = 4
"""A client's last flight has no more records than this: certificate, its proof, Finished, in up to so many pieces."""
_CONTROL_LEN: Final = 60
"""HTTP/2 control frames (SETTINGS acknowledgement, WINDOW_UPDATE, PING, RST_STREAM) make shorter records than any request."""
_CLIENT_PREFACE_LEN: Final = 130
"""Preface, SETTINGS and WINDOW_UPDATE of an HTTP/2 client, sealed."""
_SERVER_PREFACE_LEN: Final = 110
"""SETTINGS and WINDOW_UPDATE of an HTTP/2 server, sealed."""
_TICKETS: Final = 4
"""Servers send no more session tickets than this at once, all of about one length (RFC 8446 section 4.6.1)."""
_TICKET_SPREAD_LEN: Final = 8
_LONE_TICKET_LEN: Final = 400
_AT_ONCE_NS: Final = 2_000_000
"""A ticket needs no thought: it comes this soon after Finished, and nothing else comes so soon behind it."""
_RESET_NS: Final = 5_000_000_000
"""A reset by the server this soon after its last bytes cut the response; later it closed an idle connection."""

Timed = tuple[Record, int]
"""A record and its time."""


@dataclass(slots=True, eq=False)
class TlsPairing:
    """One TLS connection: what both directions said, once the times of their records are known."""

    flow: int
    client: Talk
    server: Talk

    @property
    def name(self) -> str:
        """The server's name as the client asked for it."""
        return next((hello.server_name for hello in self.client.client_hellos if hello.server_name), "encrypted")

    @property
    def server_hello(self) -> ServerHelloReceived | None:
        """The final one, not a retry."""
        return next((hello for hello in self.server.server_hellos if not hello.retry), None)

    @property
    def is_13(self) -> bool:
        """TLS 1.3 was agreed on: handshake messages behind the hellos look like application data."""
        return self.server_hello is not None and self.server_hello.version >= TLS_1_3

    @property
    def may_be_h2(self) -> bool:
        """HTTP/2 was offered (or the offer was not seen), and not declined in the clear."""
        hellos, answer = self.client.client_hellos, self.server_hello
        offered = not hellos or any("h2" in hello.alpn for hello in hellos)
        return offered and (answer is None or answer.version >= TLS_1_3 or answer.alpn == "h2")

    def handshake(self) -> tuple[Draft, int] | None:
        """The set-up exchange, and how many of the client's application records are part of it; None if it was not seen."""
        client, server = self.client, self.server
        if not client.client_hellos:
            return None
        draft = Draft(self.flow, Protocol.TLS_HANDSHAKE, self.name)
        draft.request = [(client.base + max(0, hello.at - RECORD_HEADER_LEN), client.base + hello.end) for hello in client.client_hellos]
        done_ns, own = self._finished()
        flight = [record for record, ns in server.timed() if ns <= done_ns and (self.is_13 or record.type != APPLICATION_DATA)]
        if flight:
            draft.response = [(flight[0].at, flight[-1].end)]
        self._note(draft.facts, draft.response)
        if done_ns != NEVER:
            draft.ending, draft.end_ns = Ending.GIVEN, done_ns
        self._judge(draft, done_ns)
        return draft, own

    def _finished(self) -> tuple[int, int]:
        """When the client could send its first request, NEVER if it never could; its application records up to there."""
        client = self.client.application()
        if self.server_hello is None:
            return NEVER, 0
        if self.is_13:
            for index, (record, ns) in enumerate(client[:_FLIGHT_RECORDS]):
                if record.length in _FINISHED_LENS:
                    return ns, index + 1
            return (client[0][1], 1) if client else (NEVER, 0)
        ends = [
            min((ns for record, ns in talk.timed() if record.type == HANDSHAKE and record.sealed), default=NEVER)
            for talk in (self.client, self.server)
        ]
        return min(max(ends), client[0][1] if client else NEVER), 0

    def _note(self, facts: Facts, response: list[tuple[int, int]]) -> None:
        hello, answer = self.client.client_hellos[0], self.server_hello
        retries = [answer for answer in self.server.server_hellos if answer.retry]
        facts |= {
            "hello_len": hello.length,
            "alpn_offered": ",".join(hello.alpn),
            "key_share_groups": ",".join(str(group) for group in hello.key_share_groups),
            "ticket_offered": hello.has_psk or hello.has_ticket,
            "early_data": hello.early_data,
            "ech": hello.ech,
            "retry": len(self.client.client_hellos) > 1 or bool(retries),
        }
        if retries:
            facts["retry_at"] = self.server.base + retries[0].at
        if answer is not None:
            same_session = answer.version < TLS_1_3 and answer.session_id != b"" and answer.session_id == hello.session_id
            facts |= {
                "version": answer.version,
                "cipher": answer.cipher,
                "key_share_group": answer.key_share_group,
                "alpn": answer.alpn,
                "resumed": answer.selected_psk or same_session,
                "server_flight_len": sum(stop - start for start, stop in response),
            }

    def _judge(self, draft: Draft, done_ns: int) -> None:
        """An alert during the handshake is an answer that says no."""
        for talk, by in ((self.server, "server"), (self.client, "client")):
            alert_at, description = talk.alert if talk.alert is not None else (min(talk.sealed_alerts, default=-1), -1)
            alert_ns = next((ns for record, ns in talk.timed() if record.at <= alert_at < record.end), NEVER)
            if alert_ns < done_ns:
                draft.outcome, draft.ending, draft.end_ns = Outcome.ERROR, Ending.GIVEN, alert_ns
                draft.status = ALERT_NAMES.get(description, "alert" if description < 0 else f"alert {description}")
                draft.facts["alert_by"] = by
                return

    def chunks(self, done_ns: int, own: int, rtt_ns: int) -> list[Chunk]:
        """The application records that may be requests or parts of responses.

        Args:
            done_ns: when the handshake was over, 0 if it was not seen.
            own: the client's application records that belong to the handshake.
            rtt_ns: client to server and back.
        """
        asked, answered = self.client.application()[own:], self.server.application()
        if self.is_13:
            answered = [(record, ns) for record, ns in answered if ns > done_ns]
            answered = answered[_ticket_count(answered, done_ns + rtt_ns + rtt_ns // 8 + _AT_ONCE_NS) :]
        if self.may_be_h2:
            asked = _without_control(asked, _CLIENT_PREFACE_LEN)
            answered = _without_control(answered, _SERVER_PREFACE_LEN)
        sides = ((CLIENT_TO_SERVER, asked), (SERVER_TO_CLIENT, answered))
        return [Chunk(self.flow, ns, direction, record.at, record.end) for direction, side in sides for record, ns in side]

    def was_cut(self, last: Turn, tcp: TcpTables) -> bool:
        """Whether the last response ended in the middle: inside a record, or by a reset out of the blue."""
        if self.server.cut:
            return True
        flows, flow = tcp.flows, self.flow
        rst_ns = int(flows.rst_ns[flow])
        first_fin_ns = min(int(flows.client_fin_ns[flow]), int(flows.server_fin_ns[flow]))
        by_server = flows.rst_direction[flow] == SERVER_TO_CLIENT and not self.server.sealed_alerts
        return bool(by_server and rst_ns < first_fin_ns and rst_ns - last.last_ns < _RESET_NS)


def _ticket_count(answered: list[Timed], at_once_ns: int) -> int:
    """How many of the first records behind a TLS 1.3 handshake are session tickets (RFC 8446 section 4.6.1)."""
    if not answered:
        return 0
    first, ns = answered[0]
    alike = 1
    while alike < min(len(answered), _TICKETS) and abs(answered[alike][0].length - first.length) <= _TICKET_SPREAD_LEN:
        alike += 1
    if ns > at_once_ns or alike == _TICKETS:  # later than a ticket, or a stream of equal records: tokens
        return 0
    if alike > 1:
        return alike if answered[alike - 1][1] - ns < _AT_ONCE_NS else 0
    alone = len(answered) > 1 and answered[1][1] - ns > _AT_ONCE_NS
    return 1 if alone and first.length <= _LONE_TICKET_LEN else 0


def _without_control(side: list[Timed], preface_len: int) -> list[Timed]:
    """Leaves out records that look like HTTP/2 control frames, unless nothing else would be left."""
    kept = [(record, ns) for record, ns in side if record.length >= _CONTROL_LEN]
    if len(kept) > 1 and kept[0] == side[0] and kept[0][0].length <= preface_len:
        del kept[0]
    return kept or side


def pair_tls(pairings: list[TlsPairing], tcp: TcpTables, streams: Streams, rtts: I64) -> list[Draft]:
    """Handshakes and inferred exchanges of all TLS connections; `rtts` as `round_trips` gives them."""
    if not pairings:
        return []
    _time_records(pairings, streams)
    drafts: list[Draft] = []
    chunks: list[Chunk] = []
    for pairing in pairings:
        handshake = pairing.handshake()
        if handshake is None:
            chunks += pairing.chunks(0, 0, int(rtts[pairing.flow]))
            continue
        draft, own = handshake
        drafts.append(draft)
        if draft.ending is Ending.GIVEN and draft.outcome is Outcome.OK:
            chunks += pairing.chunks(draft.end_ns, own, int(rtts[pairing.flow]))
    drafts += _inferred(pairings, chunks, tcp, rtts)
    for draft in drafts:
        draft.keys = "none"
    return drafts


def _inferred(pairings: Iterable[TlsPairing], chunks: list[Chunk], tcp: TcpTables, rtts: I64) -> list[Draft]:
    drafts: list[Draft] = []
    by_flow = {pairing.flow: pairing for pairing in pairings}
    for flow, bursts in bursts_of(chunks).items():
        turns = turns_of(bursts, int(rtts[flow]))
        drafts += [turn_draft(flow, Protocol.TLS, by_flow[flow].name, turn) for turn in turns]
        if turns and by_flow[flow].was_cut(turns[-1], tcp):
            drafts[-1].ending = Ending.OPEN
    return drafts


def _time_records(pairings: list[TlsPairing], streams: Streams) -> None:
    """Looks up the times of all records of all connections: sent by the client, deliverable from the server."""
    talks = [(2 * pairing.flow + side, talk) for pairing in pairings for side, talk in enumerate((pairing.client, pairing.server))]
    fd = np.repeat(np.asarray([fd for fd, _ in talks], np.int64), [len(talk.records) for _, talk in talks])
    last = np.asarray([record.end - 1 for _, talk in talks for record in talk.records], np.int64)
    seen, in_order = streams.first_seen(fd, last), streams.in_order(fd, last)
    times = np.where((fd & 1 == SERVER_TO_CLIENT) | (seen == NEVER), in_order, seen).tolist()
    position = 0
    for _, talk in talks:
        talk.times_ns = times[position : position + len(talk.records)]
        position += len(talk.records)
