"""Resends counted per flow, and those of one lost stretch."""

from __future__ import annotations

import pytest

from pcapdiag.flows.resend_table import FlowResends, ResendKind, Resends
from pcapdiag.flows.resent_stretches import Stretches, count_resends, late_originals, tallied
from tests.wire import Recording, Wire, merge

MSS = 1_448
K = ResendKind


def twice(*, late: bool = False) -> Wire:
    """A hole is resent at once; the resend is lost, or (`late`) the original overtaken by it."""
    if late:
        told = Wire(vantage="server").handshake().send(8_000, late_ms=60, only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client")
        return told.wait(ms=80).ack()
    told = Wire().handshake().send(8_000, lose="after", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client", lose="after")
    return told.wait(ms=24).resend(MSS, 2 * MSS, by="client").reply(10)


def kinds(told: Recording) -> list[tuple[ResendKind, ...]]:
    tcp = told.trace().tcp
    return [Stretches(tcp).kinds(row) for row in range(len(tcp.recoveries))]


def test_a_stretch_has_its_own_resends_only() -> None:
    told = Wire().handshake().send(12_000, lose="after", only=[1, 4]).wait(ms=21).resend(MSS, 2 * MSS, by="client")
    told.wait(ms=1).resend(4 * MSS, 5 * MSS, by="client").wait(ms=230).send(100, lose="after").wait(ms=225).resend(by="client").reply(1)
    assert kinds(told) == [(K.FAST,), (K.FAST,), (K.PROBE,)]


def test_a_stretch_that_was_never_resent_has_none() -> None:
    assert kinds(Wire(vantage="server").handshake().send(8_000, lose="before", only=[1])) == [()]


def test_a_lost_resend_is_known_where_it_was_sent() -> None:
    tcp = twice().trace().tcp
    assert kinds(twice()) == [(K.FAST, K.FAST)]
    assert Stretches(tcp).lost_again(0)


@pytest.mark.parametrize("told", [
    Wire().handshake().send(8_000, lose="after", only=[1]).wait(ms=21).resend(MSS, 2 * MSS, by="client").reply(10),
    Wire().handshake().send(100, lose="after").wait(ms=220).resend(lose="after").wait(ms=230).resend().reply(1),
], ids=["lost once", "only timers"])  # fmt: skip
def test_other_losses_are_not(told: Wire) -> None:
    tcp = told.trace().tcp
    assert not any(Stretches(tcp).lost_again(row) for row in range(len(tcp.recoveries)))


def test_an_original_behind_its_resend_makes_its_hole_an_overtaken_one() -> None:
    assert late_originals(twice(late=True).trace().tcp).tolist() == [True]
    assert late_originals(twice().trace().tcp).tolist() == [False]


def test_counts_per_flow() -> None:
    clean = Wire(cport=1_000).handshake().send(100).reply(100)
    told = merge(clean, Wire(cport=2_000, start_ms=1).handshake().send(100).reply(10).wait(ms=9_000).keepalive(), twice())
    found = told.trace().resent
    names = [name for name in FlowResends.columns() if getattr(found, name).any() and name != "flow"]
    assert {name: getattr(found, name).tolist() for name in names} == {"fast": [2, 0], "keep_alive": [0, 1], "lost_behind_tap": [2, 0]}
    assert len(found) == 2, "a flow without any has no row"
    assert len(count_resends(Resends.empty())) == 0


def test_tallied_by_name() -> None:
    assert tallied([K.RTO, K.FAST, K.RTO]) == {"rto": 2, "fast": 1}
    assert list(tallied([K.RTO, K.FAST])) == ["fast", "rto"], "equal ones by name"
