"""Whole conversations with random faults, from bytes to the ledger: exact, and the same at another time or frame number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.detectors import DETECTORS
from pcapdiag.pipeline import diagnose
from tests.test_stalls_partition import is_exact
from tests.wire import Wire, merge
from tests.wire_recording import Recording

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pcapdiag.findings import Diagnosis
    from pcapdiag.stalls.sign import Sign
    from tests.wire_line import Lose, Vantage

Round = tuple["Lose | None", "Lose | None", int, int, int, bool]

FATE: SearchStrategy[Lose | None] = st.sampled_from([None, None, None, "before", "after", "capture"])
VANTAGE: SearchStrategy[Vantage] = st.sampled_from(["client", "middle", "server"])
ROUND: SearchStrategy[Round] = st.tuples(
    FATE, FATE, st.integers(0, 3), st.integers(1, 6_000), st.sampled_from([0, 5, 180, 400]), st.booleans()
)
"""(fate of the request, of some of the response, of which segment, its length, thinking, in ms; is it resent by itself)."""
CONVERSATION = st.lists(ROUND, min_size=1, max_size=4)


def tell(rounds: list[Round], vantage: Vantage, number: int = 0) -> Wire:
    """HTTP exchanges in which packets are lost, and resent after a timeout when they are."""
    wire = Wire(vantage=vantage, cport=50_000 + number, start_ms=7 * number).handshake()
    for asked, answered, which, length, think_ms, again in rounds:
        wire.send(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", lose=asked)
        if asked in {"before", "after"}:
            wire.wait(ms=230).resend(by="client")
        body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + bytes(length)
        begin = len(wire._hosts["server"].stream)
        wire.wait(ms=think_ms).reply(body, lose=answered, only=[which])
        if answered in {"before", "after"} and again:
            wire.wait(ms=220).resend(begin + which * 1_448, begin + min((which + 1) * 1_448, len(body)), by="server")
        wire.wait(ms=40)
    return wire


@dataclass(frozen=True)
class Moved(Recording):
    """The same frames at another time, behind some others that are none of ours."""

    told: Recording
    later_ns: int
    others: int

    def sights(self) -> list[tuple[int, int, bytes]]:
        arp = bytes.fromhex("ffffffffffff0200000000010806") + bytes(46)
        frames = [(true_ns + self.later_ns, shown_ns + self.later_ns, data) for true_ns, shown_ns, data in self.told.sights()]
        return [(frames[0][0] - 1, frames[0][1], arp)] * self.others + frames


def shape(diagnosis: Diagnosis) -> list[list[tuple[int, str, tuple[tuple[int, int], ...]]]]:
    """Per exchange: (length, label, (frame, time) of the evidence), times from the begin of the capture."""
    begin = diagnosis.tables.start_ns

    def evidence(sign: Sign | None) -> tuple[tuple[int, int], ...]:
        return tuple((frame.number, frame.ts_ns - begin) for frame in sign.frames) if sign else ()

    return [[(entry.duration_ns, entry.label.code, evidence(entry.sign)) for entry in entries] for entries in diagnosis.ledger.exchanges]


@settings(max_examples=25)
@given(st.lists(CONVERSATION, min_size=1, max_size=2), VANTAGE)
def test_every_second_of_a_faulty_conversation_is_accounted_for(told: list[list[Round]], vantage: Vantage) -> None:
    trace = merge(*(tell(rounds, vantage, number) for number, rounds in enumerate(told))).trace()
    diagnosis = diagnose(trace, DETECTORS)
    assert diagnosis.failures == ()
    for exchange, entries in zip(trace.exchanges, diagnosis.ledger.exchanges, strict=True):
        is_exact(exchange, entries)
    wall = sum(trace.exchanges[number].duration_ns for number in np.flatnonzero(diagnosis.ledger.counted).tolist())
    between = sum(entry.duration_ns for entry in diagnosis.ledger.calls)
    assert sum(diagnosis.ledger.by_label_ns().values()) == wall + between


@settings(max_examples=12)
@given(CONVERSATION, VANTAGE, st.integers(0, 10**9).map(lambda us: us * 1_000), st.integers(0, 5))
def test_neither_the_time_of_day_nor_frame_numbers_matter(rounds: list[Round], vantage: Vantage, later_ns: int, others: int) -> None:
    wire = tell(rounds, vantage)
    here, there = diagnose(wire.trace()), diagnose(Moved(wire, later_ns, others).trace())
    moved = [
        [(length, code, tuple((number - others, ns) for number, ns in evidence)) for length, code, evidence in entries]
        for entries in shape(there)
    ]
    assert moved == shape(here)
    assert [replace(finding.conclusion, frames=(), intervals=()) for finding in there.findings] == [
        replace(finding.conclusion, frames=(), intervals=()) for finding in here.findings
    ]
