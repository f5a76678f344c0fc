"""DNS lookups: a query and its repeats with the answer that ended them (RFC 1035 section 7)."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.exchanges.draft import Draft, Ending
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.losses import Loss
from pcapdiag.protocols.dns import DnsMessage, DnsMessageReceived, DnsTcpReader, parse_dns
from pcapdiag.spool import windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.columns import I64, Bools
    from pcapdiag.exchanges.tape import Tape
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.losses import Losses
    from pcapdiag.packets.table import Packets
    from pcapdiag.spool import Room

DNS_PORT: Final = 53
_PORTS: Final = (DNS_PORT, 5353, 5355)  # DNS, mDNS (RFC 6762), LLMNR (RFC 4795)
_REPEAT_NS: Final = 30_000_000_000
"""A query this long after the last one like it is a new lookup."""
_OTHER_ASKER_NS: Final = 900_000_000
"""Resolver libraries wait longer than this before they ask again with another port or id."""
_PATIENCE_NS: Final = 5_000_000_000
"""resolv.conf(5): default time before a query is repeated or given up."""
_RCODES: Final = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")  # RFC 1035 section 4.1.1
_TYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 64: "SVCB", 65: "HTTPS", 255: "ANY",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Lookup:
    """One lookup, and what it answered."""

    draft: Draft
    client: int
    """Who asked, index into addresses."""
    qname: str
    addresses: frozenset[bytes] = frozenset()
    """Packed addresses of the answer."""
    answered: bool = False
    usable: bool = False
    """NOERROR, with addresses, not truncated: the client need not ask again."""
    tries: list[int] = field(default_factory=list)
    """When each query was sent, ns."""
    frames: list[tuple[int, int]] = field(default_factory=list)
    resolvers: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Datagram:
    """A UDP datagram that is a DNS message."""

    flow: int
    ts_ns: int
    frame: tuple[int, int]
    src: int
    dst: int
    sport: int
    dport: int
    message: DnsMessage
    whole: bool
    """It is no fragment of a datagram that never became whole."""


class _Unanswered:
    """The open lookups of one question of one client, in the order of their last queries."""

    __slots__ = ("_by_query", "_waiting")

    def __init__(self) -> None:
        self._by_query: dict[tuple[int, int], Lookup] = {}
        """(client port, id) -> the lookup that was asked with them."""
        self._waiting: OrderedDict[Lookup, None] = OrderedDict()

    def repeated(self, datagram: _Datagram) -> Lookup | None:
        """The lookup that a query repeats: the one with its port and id, else the one that has waited longest."""
        lookup = self._by_query.get((datagram.sport, datagram.message.id))
        if lookup is not None and not lookup.answered and datagram.ts_ns - lookup.tries[-1] <= _REPEAT_NS:
            return lookup
        while self._waiting:
            lookup = next(iter(self._waiting))
            waited_ns = datagram.ts_ns - lookup.tries[-1]
            if not lookup.answered and waited_ns <= _REPEAT_NS:
                return lookup if waited_ns >= _OTHER_ASKER_NS else None
            del self._waiting[lookup]
        return None

    def keep(self, lookup: Lookup, datagram: _Datagram) -> None:
        """Files a lookup under its latest query, the datagram."""
        self._by_query[datagram.sport, datagram.message.id] = lookup
        self._waiting[lookup] = None
        self._waiting.move_to_end(lookup)


def find_lookups(packets: Packets, tcp: TcpTables, losses: Losses, *, clipped_ns: int, room: Room | None = None) -> list[Lookup]:
    """All lookups over UDP; multicast queries that nobody answered are none, since nobody need answer them."""
    lookups: list[Lookup] = []
    open_by_question: dict[tuple[int, str, int], _Unanswered] = defaultdict(_Unanswered)
    open_by_id: dict[tuple[int, int, int], Lookup] = {}
    for datagram in _datagrams(packets, tcp, losses, room):
        message = datagram.message
        if message.is_response:
            lookup = open_by_id.get((datagram.dst, datagram.dport, message.id))
            if lookup is None or lookup.answered or message.name not in (None, lookup.qname):
                continue
            if DNS_PORT in (datagram.sport, datagram.dport) and datagram.src not in lookup.resolvers:
                continue  # somebody else's answer
            if datagram.whole:
                _answer(lookup, datagram)
            else:
                lookup.draft.facts["answer_in_pieces"] = True
                lookup.frames.append(datagram.frame)
        elif message.name is not None and message.qtype is not None:
            question = (datagram.src, message.name, message.qtype)
            lookup = open_by_question[question].repeated(datagram)
            if lookup is None:
                lookup = _asked(datagram)
                lookups.append(lookup)
            open_by_question[question].keep(lookup, datagram)
            lookup.tries.append(datagram.ts_ns)
            lookup.frames.append(datagram.frame)
            lookup.resolvers.add(datagram.dst)
            open_by_id[datagram.src, datagram.sport, message.id] = lookup
    for lookup in lookups:
        lookup.draft.facts["resolvers"] = len(lookup.resolvers)
        lookup.draft.tries, lookup.draft.frames = tuple(lookup.tries), tuple(lookup.frames)
        if not lookup.answered:
            _leave_open(lookup.draft, clipped_ns)
    return [lookup for lookup in lookups if lookup.answered or tcp.flows.server_port[lookup.draft.flow] == DNS_PORT]


def _datagrams(packets: Packets, tcp: TcpTables, losses: Losses, room: Room | None) -> Iterator[_Datagram]:
    """DNS messages in time order."""
    datagrams, found = tcp.datagrams, [np.empty(0, np.intp)]
    for part in windows(len(datagrams), room):
        row = datagrams.row[part]
        on_port = np.isin(packets.sport[row], _PORTS) | np.isin(packets.dport[row], _PORTS)
        found.append(part.start + np.flatnonzero(on_port & (packets.payload_captured[row] > 0)))
    wanted = np.concatenate(found)
    wanted = wanted[np.argsort(datagrams.ts_ns[wanted], kind="stable")]
    row = datagrams.row[wanted]
    whole, ts_ns = _delivered(packets, row, datagrams.ts_ns[wanted])
    columns = (
        whole,
        datagrams.flow[wanted],
        ts_ns,
        packets.capture[row],
        packets.frame[row],
        packets.src[row],
        packets.dst[row],
        packets.sport[row],
        packets.dport[row],
        packets.payload_at[row],
        packets.payload_captured[row],
    )
    for whole, flow, ts_ns, capture, frame, src, dst, sport, dport, at, length in zip(*(c.tolist() for c in columns), strict=True):
        message = parse_dns(packets.blob.read(at, length))
        if message is not None:
            yield _Datagram(flow, ts_ns, (capture, frame), src, dst, sport, dport, message, whole)
        elif DNS_PORT in (sport, dport):
            losses.add(Loss.UNDECODED_DNS, capture=capture)


def _delivered(packets: Packets, row: I64, ts_ns: I64) -> tuple[Bools, I64]:
    """Whether each datagram is whole, and when its last fragment came."""
    whole, last_ns = np.ones(len(row), np.bool_), ts_ns.copy()
    groups = packets.fragments
    order = np.argsort(row, kind="stable")
    if len(order):
        place = order[np.minimum(np.searchsorted(row[order], groups.header_row), len(order) - 1)]
        # Of a tunnel's fragmented packet that held a fragment, two datagrams begin at one row: both have to be whole.
        known = row[place] == groups.header_row
        np.logical_and.at(whole, place[known], groups.complete[known])
        np.maximum.at(last_ns, place[known], groups.last_ns[known])
    return whole, last_ns


def _asked(datagram: _Datagram) -> Lookup:
    message = datagram.message
    draft = Draft(datagram.flow, Protocol.DNS, _question(message), ending=Ending.GIVEN)
    draft.start_ns = draft.request_start_ns = draft.request_end_ns = draft.request_in_order_ns = datagram.ts_ns
    return Lookup(draft, datagram.src, message.name or "")


def _question(message: DnsMessage) -> str:
    qtype = message.qtype if message.qtype is not None else 0
    return f"{_TYPES.get(qtype, f'TYPE{qtype}')} {message.name}"


def _answer(lookup: Lookup, datagram: _Datagram) -> None:
    lookup.answered = True
    draft = lookup.draft
    draft.first_byte_ns = draft.end_ns = max(datagram.ts_ns, draft.start_ns)
    lookup.frames.append(datagram.frame)
    _conclude(lookup, datagram.message)


def _conclude(lookup: Lookup, message: DnsMessage) -> None:
    """Notes what the answer says."""
    draft = lookup.draft
    draft.status = _RCODES[message.rcode] if message.rcode < len(_RCODES) else f"RCODE{message.rcode}"
    draft.outcome = Outcome.OK if message.rcode == 0 else Outcome.ERROR
    draft.facts |= {"truncated": message.truncated, "answers": message.answer_count}
    lookup.addresses = frozenset(message.addresses)
    lookup.usable = message.rcode == 0 and bool(message.addresses) and not message.truncated


def _leave_open(draft: Draft, clipped_ns: int) -> None:
    """No answer: the client waited about as long as it had before it last asked again, or the default time."""
    patience_ns = draft.tries[-1] - draft.tries[-2] if len(draft.tries) > 1 else _PATIENCE_NS
    draft.outcome = Outcome.INCOMPLETE
    draft.end_ns = max(draft.start_ns, min(draft.tries[-1] + patience_ns, clipped_ns))
    draft.facts["end_known"] = False


def pair_dns_over_tcp(flow: int, client_address: int, client: Tape, server: Tape) -> list[Lookup]:
    """Lookups over a TCP connection (RFC 7766): answers come in any order, with the id of their query."""
    lookups: list[Lookup] = []
    waiting: dict[int, Lookup] = {}
    for event in client.play(DnsTcpReader()):
        if isinstance(event, DnsMessageReceived) and event.message is not None and event.message.name is not None:
            draft = Draft(flow, Protocol.DNS, _question(event.message), request=[(client.start + event.at, client.start + event.end)])
            draft.facts["transport"] = "tcp"
            lookups.append(Lookup(draft, client_address, event.message.name))
            waiting[event.message.id] = lookups[-1]
    for event in server.play(DnsTcpReader()):
        if isinstance(event, DnsMessageReceived) and event.message is not None and (lookup := waiting.pop(event.message.id, None)):
            lookup.answered = True
            lookup.draft.response = [(server.start + event.at, server.start + event.end)]
            lookup.draft.ending = Ending.RESPONSE
            _conclude(lookup, event.message)
    return lookups
