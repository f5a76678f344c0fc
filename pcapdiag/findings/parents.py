"""Which fault can bring about which, and whether it did: the root of a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pcapdiag.findings.intervals import Intervals
from pcapdiag.findings.types import FindingKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pcapdiag.columns import I64
    from pcapdiag.findings.reach import Reach
    from pcapdiag.findings.types import Conclusion
    from pcapdiag.trace import Tables

RTO_ESTIMATE_NS: Final = 1_000_000_000
"""How long after its cause a symptom may begin: the initial retransmission timeout (RFC 6298 section 2.1)."""

ANY_CAUSE: Final = "*"
"""In PARENTS: every finding of kind cause."""

_OF_LOSS = ("policer", "microburst-loss", "incast", "link-freeze", "bufferbloat", "option-stripping", "seq-rewrite")
_LOSS = ("fast-retransmit-loss", "lost-retransmission", "tail-loss-rto", "rto-backoff")
_DEAD = (
    "icmp-ptb-ignored", "pmtu-black-hole", "path-outage", "ecmp-member-blackhole", "idle-timeout-drop", "idle-timeout-reset",
    "peer-dead", "injected-rst", "keepalive-race", "rst-mid-stream",
)  # fmt: skip
_GIVEN_UP = ("grpc-deadline-exceeded", "client-timeout-abort", "grpc-unavailable")

PARENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "fast-retransmit-loss": _OF_LOSS,
    "lost-retransmission": _OF_LOSS,
    "tail-loss-rto": _OF_LOSS,
    "rto-backoff": (
        "icmp-ptb-ignored",
        "pmtu-black-hole",
        "path-outage",
        "ecmp-member-blackhole",
        "idle-timeout-drop",
        "peer-dead",
        *_OF_LOSS,
    ),
    "pmtu-black-hole": ("icmp-ptb-ignored",),
    "spurious-retransmission": ("packet-reordering", "path-change", "link-freeze", "bufferbloat"),
    "syn-loss": ("path-outage", "accept-queue-overflow", "snat-exhaustion", "arp-delay"),
    "h2-tcp-hol": (*_DEAD, *_LOSS, "packet-reordering", *_OF_LOSS),
    "tls-record-hol": (*_DEAD, *_LOSS, "packet-reordering", *_OF_LOSS),
    "cwnd-collapse": (*_LOSS, "spurious-retransmission", *_OF_LOSS),
    "zero-window": ("client-slow-consumer",),
    "silly-window": ("client-slow-consumer",),
    "rwnd-limited": ("window-scale-missing", "option-stripping", "client-slow-consumer"),
    "window-scale-missing": ("option-stripping",),
    "h2-flow-control-stall": ("client-slow-consumer",),
    "h2-ping-ack-delay": ("zero-window", "client-slow-consumer"),
    "rst-mid-stream": ("idle-timeout-drop", "idle-timeout-reset", "injected-rst", "conntrack-invalid-rst", "keepalive-race", "h2-goaway"),
    "peer-dead": ("path-outage", "idle-timeout-drop"),
    "connect-filtered": ("ipv6-broken", "path-outage"),
    "dns-timeout": ("ip-fragment-loss", "dns-aaaa-race", "path-outage", "icmp-unreachable"),
    "dns-slow": ("dns-timeout", "dns-search-fanout", "dns-truncated-tcp", "dns-servfail", "ip-fragment-loss"),
    "dns-truncated-tcp": ("ip-fragmentation",),
    "tls-slow": ("tls-hello-retry", "tls-cert-over-initcwnd", "tls-pq-clienthello", *_LOSS),
    "tls-alert": ("tls-pq-clienthello",),
    "chatty-round-trips": ("path-change", "bufferbloat"),
    "grpc-deadline-exceeded": (ANY_CAUSE,),
    "client-timeout-abort": (ANY_CAUSE,),
    "h2-reset": (ANY_CAUSE,),
    "grpc-unavailable": (*_DEAD, "connect-refused", "connect-filtered", "icmp-unreachable", "h2-goaway", "h2-reset", *_LOSS),
    "ws-ping-timeout": (*_DEAD, "zero-window", "client-slow-consumer", *_LOSS),
    "retry-storm": (*_GIVEN_UP, *_DEAD, *_LOSS),
    "client-backoff": ("rate-limited", "retry-storm", *_GIVEN_UP, "connect-refused"),
    "thundering-herd": ("retry-storm",),
    "rate-limited": ("retry-storm",),
    "server-think": ("retry-storm",),
}
"""Child code -> codes that can be its cause (the root DAG of the catalogue)."""


def find_parents(drafts: Sequence[tuple[Conclusion, Reach]], tables: Tables, parents: Mapping[str, tuple[str, ...]]) -> dict[int, int]:
    """Index of a draft -> index of the draft that is its cause; drafts come best first, and no finding causes itself."""
    causes: dict[int, int] = {}
    for child, (conclusion, reach) in enumerate(drafts):
        codes = parents.get(conclusion.code, ())
        candidates = [
            (_nearness(reach, other_reach), index)
            for index, (other, other_reach) in enumerate(drafts)
            if index != child and _may_cause(other, codes) and not _descends(index, child, causes)
            if _in_time(_starts(conclusion, tables), _windows(other, tables))
        ]
        near = [(distance, index) for distance, index in candidates if distance is not None]
        if near:
            causes[child] = min(near)[1]
    return causes


def _may_cause(parent: Conclusion, codes: tuple[str, ...]) -> bool:
    if parent.kind in {FindingKind.RISK, FindingKind.CAPTURE}:
        return False
    return parent.code in codes or (ANY_CAUSE in codes and parent.kind is FindingKind.CAUSE)


def _nearness(child: Reach, parent: Reach) -> int | None:
    """0 shared exchange, 1 shared flow, 2 shared server, 3 the client of a fault towards several servers; None apart."""
    if _share(child.roots, parent.roots):
        return 0
    if _share(child.flows, parent.flows):
        return 1
    if child.server_hosts & parent.server_hosts:
        return 2
    # One client talks to many servers: a fault seen towards a single one of them says nothing about the others.
    if child.clients & parent.clients and len(parent.server_hosts) > 1:
        return 3
    return None


def _share(one: I64, other: I64) -> bool:
    """Have two ascending columns a number in common?"""
    few, many = sorted((one, other), key=len)
    at = np.searchsorted(many, few)
    return bool((many[np.minimum(at, len(many) - 1)] == few).any()) if len(few) else False


def _starts(child: Conclusion, tables: Tables) -> Intervals:
    """When a symptom shows; one without seconds of its own shows where its exchanges end."""
    if len(child.intervals):
        return Intervals.of(child.intervals)
    rows = np.array(child.exchanges, np.int64)
    ends = tables.exchanges.end_ns[rows]
    return Intervals.of_columns(rows, ends, ends)


def _windows(parent: Conclusion, tables: Tables) -> tuple[I64, I64]:
    """When a cause was at work (begins and ends); one without seconds of its own, during the whole of its exchanges."""
    if len(parent.intervals):
        own = Intervals.of(parent.intervals)
        return own.start_ns, own.end_ns
    rows = np.array(parent.exchanges, np.int64)
    return tables.exchanges.start_ns[rows], tables.exchanges.end_ns[rows]


def _in_time(starts: Intervals, windows: tuple[I64, I64]) -> bool:
    """Do the intervals that begin within a window, or an RTO behind it, make up at least half of the time (or number)?"""
    begins, ends = _spans(*windows)
    if not len(starts) or not len(begins):
        return False
    weight = np.maximum(starts.duration_ns, 1)
    span = np.searchsorted(begins, starts.start_ns, side="right") - 1
    inside = (span >= 0) & (starts.start_ns <= ends[np.maximum(span, 0)])
    return 2 * int(weight[inside].sum()) >= int(weight.sum())


def _spans(begin: I64, end: I64) -> tuple[I64, I64]:
    """Begins and ends of windows, each an RTO longer, merged where they overlap."""
    order = np.lexsort((end, begin))
    begin, reach = begin[order], np.maximum.accumulate(end[order] + RTO_ESTIMATE_NS)
    first = np.ones(len(begin), np.bool_)
    first[1:] = begin[1:] > reach[:-1]
    starts = np.flatnonzero(first)
    return begin[starts], reach[np.append(starts[1:], len(begin))[: len(starts)] - 1]


def _descends(finding: int, ancestor: int, causes: Mapping[int, int]) -> bool:
    while finding in causes:
        finding = causes[finding]
        if finding == ancestor:
            return True
    return False
