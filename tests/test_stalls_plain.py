"""Exchanges laid all at once: the same entries as one by one, for any exchanges and for conversations with faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.stalls.phases import Part, Phases
from pcapdiag.stalls.plain import LABELS, Plain, Scales
from tests.exchange_cases import exchanges, trace_of
from tests.test_stalls_properties import CONVERSATION, VANTAGE, Round, tell
from tests.wire import Wire, merge

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Exchange
    from pcapdiag.trace import Trace
    from tests.wire_line import Vantage

Entries = dict[int, list[tuple[int, int, str]]]
"""Exchange -> begin, end and label of its entries."""


def merged(parts: list[Part]) -> list[tuple[int, int, str]]:
    """Parts with equal neighbours as one."""
    found: list[tuple[int, int, str]] = []
    for part in parts:
        if found and found[-1][2] == part.label.code:
            found[-1] = found[-1][0], part.end_ns, part.label.code
        else:
            found.append((part.start_ns, part.end_ns, part.label.code))
    return found


def laid(trace: Trace) -> tuple[Entries, list[int]]:
    """What Plain lays, and the exchanges it leaves to Phases."""
    rows, paused = Plain(Scales(trace.exchanges, trace.tcp), trace.streams, np.arange(len(trace.exchanges)), 0, len(trace.flows)).lay()
    found: Entries = {}
    for owner, start, end, label in zip(*(column.tolist() for column in rows), strict=True):
        found.setdefault(owner, []).append((start, end, LABELS[label].code))
    return found, paused.tolist()


def agrees(trace: Trace) -> list[int]:
    """Compares both ways; the exchanges in which something paused."""
    found, paused = laid(trace)
    phases = Phases(trace.exchanges, trace.tcp, trace.streams)
    scales = Scales(trace.exchanges, trace.tcp)
    for exchange in trace.exchanges:
        assert scales.trigger_ns[exchange.id] == phases.trigger_ns(exchange)
        if exchange.id not in paused:
            assert found.get(exchange.id, []) == merged(phases.parts(exchange))
    assert not set(found) & set(paused)
    return paused


@given(exchanges())
def test_any_exchanges_are_laid_as_one_by_one(rows: list[Exchange]) -> None:
    agrees(trace_of(rows))


@settings(max_examples=40)
@given(st.lists(CONVERSATION, min_size=1, max_size=2), VANTAGE)
def test_conversations_with_faults_are_laid_as_one_by_one(told: list[list[Round]], vantage: Vantage) -> None:
    agrees(merge(*(tell(rounds, vantage, number) for number, rounds in enumerate(told))).trace())


def test_only_what_paused_is_left_over() -> None:
    steady = Wire().handshake().http_get(body=40_000, think_ms=400)
    stuck = Wire(cport=50_001).handshake().http_get(body=9_000, think_ms=20).send(300).wait(ms=30).reply(2_000).wait(ms=900).reply(2_000)
    trace = merge(steady, stuck).trace()
    assert {trace.exchanges[number].flow for number in agrees(trace)} <= {1}
    alone = steady.trace()
    assert agrees(alone) == []
    request = next(exchange.id for exchange in alone.exchanges if not exchange.is_setup)
    assert [code for _, _, code in laid(alone)[0][request]][-3:] == ["server-think", "propagation", "transfer"]
