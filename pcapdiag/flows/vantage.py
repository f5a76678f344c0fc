"""Where a capture was taken: at the client, at the server, in the middle, or on a host that is both (CAUSES section 13)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pcapdiag.columns import I64, U8, U16, Bools
from pcapdiag.flows.table import Vantage, VantageOpinion

_LAN_NS = 1_000_000
"""Both halves of a handshake together under 1 ms: a LAN or loopback, undecidable by timing."""
_NEAR_NS = 300_000
_NEAR_SHARE = 0.05
_HANDSHAKE_LR, _HANDSHAKE_LR_MAX, _TTL_LR, _METADATA_LR = 10.0, 30.0, 8.0, 50.0
_SURE = 0.9
_INITIAL_TTLS = (64, 128, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """Per TCP flow, what speaks for either end being the capturing host."""

    capture: U16
    near_rtt_ns: I64
    """Tap to client and back, by the handshake; -1 unknown."""
    far_rtt_ns: I64
    """Tap to server and back; -1 unknown."""
    client_ttl: U8
    """Most frequent TTL of the client's packets; 0 when it sent none."""
    server_ttl: U8
    client_out: I64
    """Packets of the client that the link layer calls outgoing, minus those it calls incoming."""
    server_out: I64
    client_super: Bools
    """The client sent packets above the MSS in force."""
    server_super: Bools


def infer_vantage(clues: Clues, capture_count: int) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """Vantage per flow, and the opinion on each capture."""
    sides = np.zeros(len(clues.capture), np.uint8)
    opinions = []
    for capture in range(capture_count):
        rows = np.flatnonzero(clues.capture == capture)
        opinion, side = _of_capture(clues, rows)
        sides[rows] = side
        opinions.append(opinion)
    return sides, tuple(opinions)


def override(side: str, flow_count: int, capture_count: int) -> tuple[U8, tuple[VantageOpinion, ...]]:
    """What a user says: client, server or middle."""
    value = {"client": Vantage.CLIENT, "server": Vantage.SERVER, "middle": Vantage.MIDDLE}[side]
    opinion = VantageOpinion(side, 1.0, "given on the command line")
    return np.full(flow_count, value, np.uint8), (opinion,) * capture_count


def _of_capture(clues: Clues, rows: I64) -> tuple[VantageOpinion, Vantage]:
    """Log-odds of client against server over independent kinds of evidence; both unlikely means the middle."""
    if not len(rows):
        return VantageOpinion("unknown", 0.0, "no TCP connection in this capture"), Vantage.UNKNOWN
    evidence: list[str] = []
    client, server = 0.0, 0.0
    near, far = clues.near_rtt_ns[rows], clues.far_rtt_ns[rows]
    timed = (near >= 0) & (far >= 0) & (near + far >= _LAN_NS)
    middle = False
    if timed.any():
        d2, d1 = float(np.median(near[timed])), float(np.median(far[timed]))
        weight = math.log(min(_HANDSHAKE_LR * math.sqrt(int(timed.sum())), _HANDSHAKE_LR_MAX))
        bound = max(_NEAR_NS, _NEAR_SHARE * (d1 + d2))
        if d2 < bound and d1 > 3 * d2:
            client += weight
            evidence.append(f"handshake: client's side takes {d2 / 1e6:.2f} ms of {(d1 + d2) / 1e6:.1f} ms")
        elif d1 < bound and d2 > 3 * d1:
            server += weight
            evidence.append(f"handshake: server's side takes {d1 / 1e6:.2f} ms of {(d1 + d2) / 1e6:.1f} ms")
        else:
            middle = True
            evidence.append(f"handshake: {d2 / 1e6:.2f} ms to the client, {d1 / 1e6:.2f} ms to the server")
    client_zero, server_zero = _mostly_unrouted(clues.client_ttl[rows]), _mostly_unrouted(clues.server_ttl[rows])
    if client_zero != server_zero:
        ttl = int(np.median((clues.client_ttl if client_zero else clues.server_ttl)[rows]))
        client += math.log(_TTL_LR) if client_zero else 0.0
        server += math.log(_TTL_LR) if server_zero else 0.0
        evidence.append(f"TTL {ttl} of the {'client' if client_zero else 'server'} is unrouted")
    client_super, server_super = bool(clues.client_super[rows].any()), bool(clues.server_super[rows].any())
    if client_super != server_super and not middle:
        # Super-segments come from the capturing host (TSO) or arrive at it (GRO): a weak hint beside its direction.
        evidence.append(f"super-segments from the {'client' if client_super else 'server'}")
    client_out, server_out = int(clues.client_out[rows].sum()), int(clues.server_out[rows].sum())
    if client_out > 0 >= server_out:
        client += math.log(_METADATA_LR)
        evidence.append("the link layer calls the client's packets outgoing")
    elif server_out > 0 >= client_out:
        server += math.log(_METADATA_LR)
        evidence.append("the link layer calls the server's packets outgoing")
    elif client_out > 0 and server_out > 0:
        return VantageOpinion("local", 0.9, "the link layer calls both ends' packets outgoing"), Vantage.LOCAL
    return _verdict(client, server, middle=middle, both_near=client_zero and server_zero and not timed.any(), why="; ".join(evidence))


def _verdict(client: float, server: float, *, middle: bool, both_near: bool, why: str) -> tuple[VantageOpinion, Vantage]:
    """From log-odds to a side."""
    if both_near and client == server:
        return VantageOpinion("local", 0.8, why or "both ends unrouted and less than 1 ms apart"), Vantage.LOCAL
    confidence = 1 / (1 + math.exp(-abs(client - server)))
    if middle and abs(client - server) < math.log(_METADATA_LR):
        # The handshake shows distance to both ends; an unrouted TTL alone may be a bridge or router beside that end.
        return VantageOpinion("middle", _SURE if client == server else 0.7, why), Vantage.MIDDLE
    if client > 0 and server > 0:
        return VantageOpinion("mixed", round(confidence, 2), why), Vantage.UNKNOWN
    if confidence < 0.8 or client == server:
        return VantageOpinion("unknown", round(confidence, 2), why or "nothing tells"), Vantage.UNKNOWN
    side = Vantage.CLIENT if client > server else Vantage.SERVER
    return VantageOpinion(side.name.lower(), round(confidence, 2), why), side


def _mostly_unrouted(ttl: U8) -> bool:
    """Do the packets carry an initial TTL, so that no router touched them?"""
    seen = ttl[ttl > 0]
    return bool(len(seen)) and bool(np.mean(np.isin(seen, _INITIAL_TTLS)) > 0.5)
