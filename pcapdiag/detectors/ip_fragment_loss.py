"""ip-fragment-loss: an answer came in IP fragments, one of them was lost, and the whole answer was asked for again.

## What it does
It looks for DNS lookups whose answer arrived only in part: fragments of one datagram that never became whole, from the
server asked and after the query, followed by the same query again or by the receiver's report that reassembly took too
long. It charges from the first fragment to the answer that came in the end. Where the capture sits at the server all
fragments are there, and one that is not was lost by the capture; a repeat of the question behind a fragmented answer is
then reported as a risk, since what the client waited for does not show.

## Why it matters
A datagram is lost when any of its fragments is, nobody resends a fragment, and the client notices only by its own timer
(2 to 5 s). Firewalls and NATs often drop later fragments on purpose, because only the first one carries ports: then
every large answer fails (RFC 8900).

## When it is wrong
A capture filter such as `port 53` hides later fragments, so every datagram looks incomplete; without a single later
fragment in the file nothing is claimed. Fragments that only the capture lost look the same, but no repeat follows.

## Remedy
Keep answers below the fragmentation limit: EDNS buffer size 1232 on resolver and server, TCP for the rest; let
fragments pass where they are filtered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pcapdiag.columns import Rows
from pcapdiag.exchanges.table import Exchange, Outcome, Protocol
from pcapdiag.findings import Conclusion, Detector, Domain, FindingKind, Limit, Limits, shares
from pcapdiag.packets.table import UDP
from pcapdiag.stalls.ledger import Ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfExchange, Sign, Tier
from pcapdiag.trace import Tables, Trace

LABEL = Label(Tier.LOSS, 5, "ip-fragment-loss")
LIMITS = Limits(
    least_retry=Limit(0.9, "s", "resolvers wait at least a second before they ask again (resolv.conf(5), dig(1))"),
    same_question=Limit(30, "s", "fragments are kept 30 s (Linux ipfrag_time); a later question is a new one"),
)
_REASSEMBLY_TIMEOUT = frozenset({(11, 1), (3, 1)})
"""ICMP type and code "fragment reassembly time exceeded", IPv4 (RFC 792) and IPv6 (RFC 4443 section 3.3)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One datagram that never became whole."""

    received_len: int
    total_len: int
    """-1: unknown."""
    fragments: int
    at_server: bool


def signs(trace: Trace, limits: Limits) -> Iterable[Sign]:
    """One sign per lookup that had to be repeated because of lost fragments."""
    groups = trace.packets.fragments
    udp = np.flatnonzero(groups.proto == UDP)
    if not len(udp):
        return
    # A filter that hides later fragments makes every group incomplete: at least one must have been captured.
    if (groups.complete[udp] | (groups.fragment_count[udp] > 1) | (groups.header_row[udp] < 0)).any():
        yield from _incomplete(trace, udp[~groups.complete[udp]])
        yield from _asked_again(trace, udp[groups.complete[udp]], limits)


def _incomplete(trace: Trace, rows: Rows) -> Iterator[Sign]:
    """At the receiver: the lookup whose answer is missing fragments, from the first fragment to the answer that was whole."""
    groups = trace.packets.fragments
    for exchange in trace.exchanges.where(trace.exchanges.is_any(Protocol.DNS)) if len(rows) else ():
        row = _lost_answer(trace, exchange, rows)
        if row is None:
            continue
        expired = _expired(trace, row)
        if not expired and (len(exchange.tries) < 2 or _at_server(trace, exchange)):
            continue  # the capture may have lost them
        sure = Confidence(0.6, ("fragments missing", "asked again"))
        if expired:
            sure = Confidence(0.9, ("the receiver reported a reassembly timeout",))
        yield Sign(
            label=LABEL, scope=OfExchange(exchange.id), start_ns=int(groups.first_ns[row]), end_ns=exchange.end_ns, confidence=sure,
            at_least=exchange.outcome is not Outcome.OK,
            facts=Facts(int(groups.received_len[row]), int(groups.total_len[row]), int(groups.fragment_count[row]), at_server=False),
            frames=tuple(_frames(trace, exchange, row)),
        )  # fmt: skip


def _at_server(trace: Trace, exchange: Exchange) -> bool:
    return trace.vantages[int(trace.flows.capture[exchange.flow])].side == "server"


def _lost_answer(trace: Trace, exchange: Exchange, rows: Rows) -> int | None:
    """The first answer to a lookup that came in part only, before its last question or giving up."""
    groups, flows = trace.packets.fragments, trace.flows
    until_ns = exchange.tries[-1] if exchange.outcome is Outcome.OK and exchange.tries else exchange.end_ns
    ours = (groups.src[rows] == flows.server[exchange.flow]) & (groups.dst[rows] == flows.client[exchange.flow])
    ours &= np.isin(groups.sport[rows], (0, flows.server_port[exchange.flow]))
    ours &= (groups.first_ns[rows] >= exchange.start_ns) & (groups.first_ns[rows] < until_ns)
    found = rows[ours]
    return int(found[np.argmin(groups.first_ns[found])]) if len(found) else None


def _expired(trace: Trace, row: int) -> bool:
    errors, groups = trace.packets.icmp_errors, trace.packets.fragments
    ours = (errors.src == groups.src[row]) & (errors.dst == groups.dst[row]) & (errors.ip_id == (groups.ip_id[row] & 0xFFFF))
    return any(pair in _REASSEMBLY_TIMEOUT for pair in zip(errors.type[ours].tolist(), errors.code[ours].tolist(), strict=True))


def _asked_again(trace: Trace, rows: Rows, limits: Limits) -> Iterator[Sign]:
    """At the server: the same client asks the same question again behind an answer that left in fragments."""
    groups, packets = trace.packets.fragments, trace.packets
    headers = zip(groups.header_row[rows].tolist(), rows.tolist(), strict=True)
    fragmented = {(int(packets.capture[header]), int(packets.frame[header])): row for header, row in headers if header >= 0}
    asked: dict[tuple[int, int, str], list[Exchange]] = {}
    for exchange in trace.exchanges.where(trace.exchanges.is_any(Protocol.DNS) & trace.exchanges.ended(Outcome.OK)):
        if _at_server(trace, exchange):
            key = int(trace.flows.client[exchange.flow]), int(trace.flows.server[exchange.flow]), exchange.name
            asked.setdefault(key, []).append(exchange)
    for lookups in asked.values():
        for before, after in pairwise(lookups):
            row = next((fragmented[frame] for frame in before.frames if frame in fragmented), None)
            waited = after.start_ns - before.end_ns
            if row is None or not limits.ns("least_retry") <= waited <= limits.ns("same_question"):
                continue
            yield Sign(  # lies between two exchanges: a risk, not a cost that this end can measure
                label=LABEL, scope=OfExchange(after.id), start_ns=before.end_ns, end_ns=after.start_ns,
                confidence=Confidence(0.5, ("an answer sent in fragments", "the same question again")),
                facts=Facts(int(groups.received_len[row]), int(groups.total_len[row]), int(groups.fragment_count[row]), at_server=True),
                frames=tuple(_frames(trace, after, row)),
            )  # fmt: skip


def _frames(trace: Trace, exchange: Exchange, row: int) -> Iterator[Frame]:
    """The fragments captured, and the queries around them."""
    packets, groups = trace.packets, trace.packets.fragments
    span = np.arange(int(groups.first_row[row]), int(groups.last_row[row]) + 1)
    mine = span[(packets.src[span] == groups.src[row]) & (packets.ip_id[span] == (groups.ip_id[row] & 0xFFFF))]
    for at in mine[:4].tolist():
        note = f"fragment: bytes {int(packets.frag_offset[at])} and on"
        yield Frame(int(packets.capture[at]), int(packets.frame[at]), int(packets.ts_ns[at]), note)
    capture = int(packets.capture[span[0]])
    for at in np.setdiff1d(packets.rows_of(capture, [number for _, number in exchange.frames]), mine).tolist():
        note = "the question" if int(packets.src[at]) == groups.dst[row] else "an answer"
        yield Frame(capture, int(packets.frame[at]), int(packets.ts_ns[at]), note)


def conclude(ledger: Ledger, signs: Sequence[Sign], tables: Tables) -> Iterable[Conclusion]:
    """One conclusion per client host and server; a risk where only the server's end was captured."""
    for share in shares(ledger, LABEL.code, tables):
        facts = [sign.facts for sign in share.signs if isinstance(sign.facts, Facts)]
        worst = min(facts, key=lambda fact: fact.received_len)
        of = f" of {worst.total_len}" if worst.total_len >= 0 else ""
        yield share.concluded(
            LABEL.code,
            summary=f"{len(facts)} {'answer' if len(facts) == 1 else 'answers'} from {share.server} to {share.client} arrived in part "
            f"(one with {worst.received_len}{of} bytes) and had to be asked for again: {share.stall_ns / 1e9:.2f} s lost",
            contrast="a slow or silent server would have sent no fragment at all; here some fragments of the answer did arrive",
            details={"datagrams": len(facts), "received_len": worst.received_len, "total_len": worst.total_len},
        )  # fmt: skip
    at_server = [sign for sign in signs if isinstance(sign.facts, Facts) and sign.facts.at_server]
    if at_server:
        yield _risk(at_server)


def _risk(signs: list[Sign]) -> Conclusion:
    exchanges = tuple(sorted({sign.scope.exchange for sign in signs if isinstance(sign.scope, OfExchange)}))
    return Conclusion(
        code=LABEL.code, kind=FindingKind.RISK, confidence=signs[0].confidence, exchanges=exchanges, frames=signs[0].frames[:12],
        summary=f"{len(signs)} times a client asked the same question again after an answer that left in IP fragments; a fragment may "
        "have been lost behind the capture",
        contrast="a client that polls asks again at its own pace, also after answers that fit one packet",
        details={"datagrams": len(signs)},
    )  # fmt: skip


DETECTOR = Detector(
    code=LABEL.code,
    title="Lost IP fragment of an answer",
    domain=Domain.NETWORK,
    label=LABEL,
    limits=LIMITS,
    signs=signs,
    conclude=conclude,
    remedy=(
        "Keep answers in one packet: edns-udp-size 1232 and max-udp-size 1232 (BIND), edns-buffer-size: 1232 (Unbound).",
        "CoreDNS: the bufsize plugin, bufsize 1232.",
        "Let TCP port 53 through, so that larger answers have a way.",
        "Where fragments are filtered, allow them: they carry no ports, so rules by port drop all but the first.",
        "On the client: nstat -az IpReasmFails IpReasmTimeout",
    ),
    references=("RFC 791 section 3.2", "RFC 8900", "RFC 9715"),
    wireshark_filter="ip.flags.mf == 1 || ip.frag_offset > 0 || ipv6.fraghdr.more == 1 || ipv6.fraghdr.offset > 0",
)
