"""Random conversations of two TCP senders: new bytes, skipped ones, repetitions, probes, FINs, resets."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from pcapdiag.packets.table import ACK, FIN, RST, SYN
from tests.tcp_model import Sent

Action = tuple[int, str, int, int]
"""(side, what it does, how far, how many bytes)."""

WHAT = (
    "new", "new", "skip", "back", "back", "around", "probe", "pure", "ack ahead", "ack less", "fin", "far fin", "reset", "syn",
)  # fmt: skip
ACTIONS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(WHAT), st.integers(1, 12), st.integers(1, 9)), max_size=40)


@dataclass
class Sender:
    """One side: where its stream stands, and where it ended."""

    top: int = 0
    end: int | None = None
    acked: int = 0
    """What it has acknowledged."""

    def data(self, what: str, far: int, length: int) -> tuple[int, int, int]:
        """(offset, length, flags) of a packet with bytes; nothing lies behind a FIN."""
        at = {"new": self.top, "skip": self.top + far}.get(what, max(self.top - far, 0))
        stop = at + length if self.end is None else min(at + length, self.end)
        if what == "back":
            stop = min(stop, self.top)
        at = min(at, stop)
        return at, stop - at, ACK

    def fin(self, far: int, length: int) -> tuple[int, int, int]:
        """With the last bytes, `far` ones skipped; again: the same FIN."""
        self.end = self.top + far + length if self.end is None else self.end
        length = min(length, self.end)
        return self.end - length, length, ACK | FIN

    def control(self, what: str, far: int, side: int, *, handshake: bool) -> tuple[int, int, int]:
        if what == "reset":
            return self.top + far * 10_000, 0, RST
        if what == "syn" and handshake:
            return -1, 0, SYN | ACK if side else SYN
        if what == "probe" and self.top > 0:
            return self.top - 1, far % 2, ACK
        return self.top, 0, ACK

    def step(self, what: str, far: int, length: int, *, side: int, handshake: bool) -> tuple[int, int, int]:
        if what in {"new", "skip", "back", "around"}:
            at, length, flags = self.data(what, far, length)
        elif what in {"fin", "far fin"}:
            at, length, flags = self.fin(far, 0) if what == "far fin" else self.fin(0, length)
        else:
            at, length, flags = self.control(what, far, side, handshake=handshake)
        if not flags & (RST | SYN):
            self.top = max(self.top, at + length + bool(flags & FIN))
        return at, length, flags


def told(actions: list[Action], *, handshake: bool, early: int = 0) -> list[Sent]:
    """The packets; `early` bytes come with the SYN."""
    sent = [Sent(0, -1, early, SYN), Sent(1, -1, 0, SYN | ACK, early)] if handshake else [Sent(0, 0), Sent(1, 0)]
    senders = (Sender(top=early), Sender(acked=early))
    for side, what, far, length in actions:
        own, peer = senders[side], senders[1 - side]
        at, size, flags = own.step(what, far, length, side=side, handshake=handshake)
        ack = {"ack less": max(own.acked - far, 0), "ack ahead": peer.top + far}.get(what, peer.top)
        own.acked = max(own.acked, ack)
        sent.append(Sent(side, at, size, flags, ack))
    return sent
