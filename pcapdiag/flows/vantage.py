"""Where a capture was taken: at the client, at the server, between them, or on a host that is both (CAUSES section 13).

Every kind of evidence speaks for or against one host being the capturing one, and for one of four places of the tap in
each pair of hosts; log-likelihood ratios add up. So a file of a host that serves some and asks others is no contradiction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from pcapdiag.columns import F64, I32, I64, U8, U16, Bools
from pcapdiag.flows.table import Vantage, VantageOpinion

PLACES: Final = (Vantage.CLIENT, Vantage.SERVER, Vantage.MIDDLE, Vantage.LOCAL)
_PRIOR: Final = (0.445, 0.445, 0.08, 0.03)
_CLIENT_HERE: Final = np.array([1.0, 0.0, 0.0, 1.0])
_SERVER_HERE: Final = np.array([0.0, 1.0, 0.0, 1.0])
_NO_TIME = np.iinfo(np.int64).max
_LAN_NS = 1_000_000
"""Both halves of a handshake together under 1 ms: a LAN or loopback, undecidable by timing."""
_LOOP_NS = 100_000
_NEAR_NS = 300_000
_NEAR_SHARE = 0.05
_SURE = 0.8
_LR: Final = {"metadata": 50.0, "offload": 20.0, "ttl": 8.0, "handshake": 10.0, "behaviour": 5.0}
_HANDSHAKE_LR_MAX = 30.0
_BESIDE_LR = 200.0
_NEAR_HOPS, _REMOTE_HOPS = 2, 5
"""One hop may be the bridge or veth pair of a container on the capturing host; few ones a data centre beside it."""
_NEAR_WEIGHT = 2 / 3
"""log 4 = 2/3 log 8: what two to four hops say against a host."""
_AGREED = 0.9
"""Of a capture's connections so many must have been seen from one place for it to be the capture's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """Per TCP flow: who its ends are, and what speaks for either being the capturing host. Two-column arrays: client, server."""

    capture: U16
    ends: I32
    """Addresses, (flows, 2)."""
    near_rtt_ns: I64
    """Tap to client and back, by the handshake; -1 unknown."""
    far_rtt_ns: I64
    """Tap to server and back; -1 unknown."""
    ttl: U8
    """TTL of the first packet of each end; 0 when it sent none."""
    out: I64
    """Packets of each end that the link layer calls outgoing, minus those it calls incoming."""
    split: I64
    """Super-segments of each end whose middle was acknowledged: cut up behind the tap (TSO), so the tap is at that end."""
    whole: I64
    """Super-segments never acknowledged in the middle, as receive offload (GRO) makes them at the other end."""
    unpadded: I64
    """Ethernet frames of each end below 60 bytes, which no wire carries, minus those padded to 60."""
    turnaround_ns: I64
    """Least time from a packet to its acknowledgment by each end; -1 unknown."""
    seen_again: I64
    """Packets of each end that repeat bytes seen before, minus those that fill holes."""

    def of(self, rows: I64) -> Clues:
        """Only these flows."""
        return Clues(**{name: getattr(self, name)[rows] for name in self.__slots__})


def infer_vantage(clues: Clues, capture_count: int) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """Vantage per flow, and the opinion on each capture."""
    sides = np.zeros(len(clues.capture), np.uint8)
    opinions = []
    for capture in range(capture_count):
        rows = np.flatnonzero(clues.capture == capture)
        sides[rows], opinion = _of_capture(clues.of(rows))
        opinions.append(opinion)
    return sides, tuple(opinions)


def override(side: str, flow_count: int, capture_count: int) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """What a user says: client, server or middle."""
    value = {"client": Vantage.CLIENT, "server": Vantage.SERVER, "middle": Vantage.MIDDLE}[side]
    opinion = VantageOpinion(side, 1.0, "given on the command line")
    return np.full(flow_count, value, np.uint8), (opinion,) * capture_count


def _of_capture(clues: Clues) -> tuple[U8, VantageOpinion]:
    """The vantage of each flow of one capture, and what they come to."""
    if not len(clues.capture):
        return np.empty(0, np.uint8), VantageOpinion("unknown", 0.0, "no TCP connection to judge by")
    hosts, host = np.unique(clues.ends, return_inverse=True)
    host = host.reshape(clues.ends.shape)
    about = _Hosts.of(clues, host, len(hosts))
    pairs, pair, flow_count = np.unique(host[:, 0] * len(hosts) + host[:, 1], return_inverse=True, return_counts=True)
    client, server = pairs // len(hosts), pairs % len(hosts)
    near, far, timed = _handshakes(clues, pair, len(pairs))
    weighed = _weigh_handshakes(near, far, timed)
    here, there = about.score[client], about.score[server]
    # Two unrouted ends that no handshake holds apart share a segment: their TTLs say nothing of which one is here, and if
    # nothing else does, they are on one host or as good as.
    unrouted = np.minimum(about.kinds["ttl"][client], about.kinds["ttl"][server]).clip(min=0)
    unrouted = np.where((timed > 0) & (near + far >= _LAN_NS), 0.0, unrouted)
    here, there = here - unrouted, there - unrouted
    beside = (unrouted > 0) & (np.abs(here - there) < math.log(_LR["behaviour"]))
    weighed += np.outer(here, _CLIENT_HERE) + np.outer(there, _SERVER_HERE) + np.outer(beside * math.log(_BESIDE_LR), (0, 0, 0, 1))
    weighed += np.log(_PRIOR)
    odds = np.exp(weighed - weighed.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    place, sure = odds.argmax(axis=1), odds.max(axis=1)
    clash = _clash(near, far, timed, here - there)
    sides = np.where(clash | (sure < _SURE), Vantage.UNKNOWN, np.array(PLACES, np.uint8)[place]).astype(np.uint8)
    biggest = int(np.argmax(flow_count))
    why = "; ".join(
        (*_why_handshake(near[biggest], far[biggest], int(timed[biggest])), *about.why(int(client[biggest]), int(server[biggest])))
    )
    return sides[pair], _opinion(sides, sure, flow_count, bool(clash[biggest]), why)


def _opinion(sides: U8, sure: F64, flow_count: I64, clash: bool, why: str) -> VantageOpinion:
    """What the pairs of hosts of a capture come to."""
    share = np.bincount(sides, weights=flow_count, minlength=len(Vantage)) / flow_count.sum()
    most = int(share.argmax())
    if most != Vantage.UNKNOWN and share[most] >= _AGREED:
        mine = sides == most
        confidence = float(np.average(sure[mine], weights=flow_count[mine]))
        return VantageOpinion(Vantage(int(most)).name.lower(), min(round(confidence, 2), 0.99), why)
    known = [Vantage(side).name.lower() for side in (np.flatnonzero(share[1:]) + 1).tolist()]
    if clash or len(known) > 1:
        places = f"{' and '.join(known)} of different connections; " if len(known) > 1 else "the evidence disagrees; "
        return VantageOpinion("mixed", round(float(np.average(sure, weights=flow_count)), 2), places + why)
    return VantageOpinion("unknown", round(float(np.average(sure, weights=flow_count)), 2), why or "nothing tells")


def _clash(near: I64, far: I64, timed: I64, lead: F64) -> Bools:
    """Does the handshake put the tap at one end, and what the hosts show at the other?"""
    at_client, at_server, _ = _nearness(near, far, timed)
    bound = math.log(_LR["ttl"])
    return (at_client & (lead <= -bound)) | (at_server & (lead >= bound))


# --- the handshake -----------------------------------------------------------------------------------------------------


def _handshakes(clues: Clues, pair: I64, pair_count: int) -> tuple[I64, I64, I64]:
    """Per pair of hosts: median half round trips to client and server, and of how many handshakes."""
    known = np.flatnonzero((clues.near_rtt_ns >= 0) & (clues.far_rtt_ns >= 0))
    count = np.bincount(pair[known], minlength=pair_count)
    middle = np.minimum(np.cumsum(count) - count + count // 2, max(len(known) - 1, 0))
    halves = []
    for values in (clues.near_rtt_ns[known], clues.far_rtt_ns[known]):
        ordered = values[np.lexsort((values, pair[known]))]
        halves.append(np.where(count > 0, ordered[middle], -1) if len(known) else np.full(pair_count, -1))
    return halves[0], halves[1], count


def _nearness(near: I64, far: I64, timed: I64) -> tuple[Bools, Bools, Bools]:
    """Per pair: the tap is beside the client, beside the server, far from both. All false when the handshake cannot tell."""
    told = (timed > 0) & (near + far >= _LAN_NS)
    bound = np.maximum(_NEAR_NS, _NEAR_SHARE * (near + far))
    at_client = told & (near < bound) & (far > 3 * near)
    at_server = told & ~at_client & (far < bound) & (near > 3 * far)
    return at_client, at_server, told & ~at_client & ~at_server


def _weigh_handshakes(near: I64, far: I64, timed: I64) -> F64:
    """Log-likelihoods of the four places, (pairs, 4)."""
    at_client, at_server, between = _nearness(near, far, timed)
    weight = np.log(np.minimum(_LR["handshake"] * np.sqrt(np.maximum(timed, 1)), _HANDSHAKE_LR_MAX))
    result = np.zeros((len(near), len(PLACES)))
    for holds, speaks in ((at_client, (1, -1, 0, -1)), (at_server, (-1, 1, 0, -1)), (between, (-1, -1, 1, -1))):
        result += np.outer(weight * holds, speaks)
    loop = (timed > 0) & (near + far < _LOOP_NS)
    return result + np.outer(loop * math.log(_LR["offload"]), (0, 0, 0, 1))


def _why_handshake(near: int, far: int, timed: int) -> tuple[str, ...]:
    at_client, at_server, between = (bool(each[0]) for each in _nearness(np.array([near]), np.array([far]), np.array([timed])))
    if at_client:
        return (f"handshake: client's side takes {near / 1e6:.2f} ms of {(near + far) / 1e6:.1f} ms",)
    if at_server:
        return (f"handshake: server's side takes {far / 1e6:.2f} ms of {(near + far) / 1e6:.1f} ms",)
    return (f"handshake: {near / 1e6:.2f} ms to the client, {far / 1e6:.2f} ms to the server",) if between else ()


# --- the hosts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Hosts:
    """What speaks for each host being the capturing one: log-likelihood ratios by kind."""

    kinds: dict[str, F64]
    score: F64
    ttl: U8

    @classmethod
    def of(cls, clues: Clues, host: I64, count: int) -> _Hosts:
        """Adds up the flows of each host."""

        def total(values: I64) -> F64:
            return np.bincount(host.ravel(), weights=values.ravel(), minlength=count).astype(np.float64)

        ttl = _most_frequent(host.ravel(), clues.ttl.ravel(), count)
        hops = np.where(ttl > 0, np.array([32, 64, 128, 255])[np.searchsorted([32, 64, 128], ttl)].astype(np.int64) - ttl, -1)
        least = np.full(count, _NO_TIME)
        np.minimum.at(least, host.ravel(), np.where(clues.turnaround_ns >= 0, clues.turnaround_ns, _NO_TIME).ravel())
        split, whole = total(clues.split), total(clues.whole[:, ::-1])  # what was merged was merged at the other end
        lone = total(clues.unpadded), total(clues.unpadded[:, ::-1])
        signs = {
            "metadata": np.sign(total(clues.out)),
            "ttl": np.select([hops == 0, hops >= _REMOTE_HOPS, hops >= _NEAR_HOPS], [1.0, -1.0, -_NEAR_WEIGHT], 0.0),
            "offload": np.where(split > 0, 1.0, np.where(lone[0] * lone[1] < 0, np.sign(lone[0]), 0.0)),
            "receive offload": ((whole >= 3) & (total(clues.split[:, ::-1]) == 0)).astype(float),
            "turnaround": np.select([least < _LOOP_NS, (least >= _LAN_NS) & (least < _NO_TIME)], [1.0, -1.0], 0.0),
            "repeats": np.where(total(clues.seen_again) >= 3, 1, np.where(total(clues.seen_again) <= -3, -1, 0)),
        }  # fmt: skip
        weight = {"receive offload": _LR["behaviour"], "turnaround": _LR["behaviour"], "repeats": _LR["behaviour"]}
        kinds = {kind: math.log(weight.get(kind) or _LR[kind]) * sign for kind, sign in signs.items()}
        return cls(kinds, np.sum(list(kinds.values()), axis=0), ttl)

    def why(self, client: int, server: int) -> list[str]:
        """What speaks for the two ends of a pair; when nothing does, what speaks against them."""
        ends = ((client, "client"), (server, "server"))
        for place, sign in enumerate((1, -1)):
            said = [
                note[place].format(who=name, ttl=int(self.ttl[host]))
                for kind, note in _NOTES.items() for host, name in ends if sign * self.kinds[kind][host] > 0 and note[place]
            ]  # fmt: skip
            if said:
                return said
        return []


def _most_frequent(host: I64, ttl: U8, count: int) -> U8:
    """The TTL that most connections of each host show; 0 when it never spoke."""
    shown = np.flatnonzero(ttl)
    pairs, often = np.unique(host[shown] * 256 + ttl[shown], return_counts=True)
    result = np.zeros(count, np.uint8)
    order = np.argsort(often, kind="stable")
    result[pairs[order] // 256] = pairs[order] % 256
    return result


_NOTES: Final[dict[str, tuple[str, str]]] = {
    "metadata": ("the link layer calls the {who}'s packets outgoing", ""),
    "ttl": ("TTL {ttl} of the {who} is unrouted", "TTL {ttl} of the {who} is routed"),
    "offload": ("frames of the {who} as only their own host sees them (TSO, no padding)", ""),
    "receive offload": ("packets to the {who} merged (GRO)", ""),
    "turnaround": ("the {who} answers at once", ""),
    "repeats": ("the {who}'s resends repeat bytes seen here", "the {who}'s resends fill holes"),
}
"""What to say when a kind of evidence speaks for a host, and against it."""
