"""The ledger's promises, for any exchanges and any signs: exact sums, no overlaps, no dependence on order, precedence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pcapdiag.exchanges.table import Call, Calls, Outcome
from pcapdiag.stalls import keep_ledger
from pcapdiag.stalls.sign import Confidence, Frame, Label, OfCall, OfExchange, OfFlow, Sign, Tier
from tests.exchange_cases import exchanges, signs, trace_of
from tests.exchange_rows import exchanges_of
from tests.wire import Wire

if TYPE_CHECKING:
    from random import Random

    from pcapdiag.exchanges.table import Exchange
    from pcapdiag.stalls.ledger import Entry, Ledger
    from pcapdiag.stalls.sign import Scope


def written(ledger: Ledger) -> list[tuple[Entry, ...]]:
    """All entries, to be compared."""
    return [*ledger.exchanges, ledger.calls]


def is_exact(exchange: Exchange, entries: tuple[Entry, ...]) -> None:
    assert sum(entry.duration_ns for entry in entries) == exchange.end_ns - exchange.start_ns
    if exchange.end_ns > exchange.start_ns:
        assert (entries[0].start_ns, entries[-1].end_ns) == (exchange.start_ns, exchange.end_ns)
    assert all(entry.start_ns < entry.end_ns and entry.owner == exchange.id for entry in entries)
    for before, after in pairwise(entries):
        assert before.end_ns == after.start_ns, "adjacent: neither hole nor overlap"
        assert (before.label, before.sign) != (after.label, after.sign), "equal neighbours are one"


@given(exchanges(), signs())
def test_the_entries_of_an_exchange_are_adjacent_and_sum_to_its_wall_time(rows: list[Exchange], seen: list[Sign]) -> None:
    ledger = keep_ledger(trace_of(rows), seen)
    assert len(ledger.exchanges) == len(rows) == len(ledger.trigger_ns)
    for exchange, entries in zip(rows, ledger.exchanges, strict=True):
        is_exact(exchange, entries)


@given(exchanges(), signs(), st.randoms(use_true_random=False))
def test_the_order_in_which_signs_were_seen_changes_nothing(rows: list[Exchange], seen: list[Sign], random: Random) -> None:
    shuffled = list(seen)
    random.shuffle(shuffled)
    assert written(keep_ledger(trace_of(rows), shuffled)) == written(keep_ledger(trace_of(rows), seen))


def labels_at(entries: tuple[Entry, ...], cuts: list[int]) -> dict[int, Entry]:
    """The entry that holds from each cut on."""
    return {cut: next(entry for entry in entries if entry.start_ns <= cut < entry.end_ns) for cut in cuts}


@given(exchanges(), signs(), st.integers(0, 5))
def test_without_a_sign_its_seconds_go_to_lower_rows_and_nobody_elses_move(rows: list[Exchange], seen: list[Sign], which: int) -> None:
    """The model of who had the turn (PEER and below) is laid over what signs leave free, so it alone may move."""
    assume(seen)
    gone = seen[which % len(seen)]
    full, rest = keep_ledger(trace_of(rows), seen), keep_ledger(trace_of(rows), [sign for sign in seen if sign is not gone])
    for with_it, without in zip(full.exchanges, rest.exchanges, strict=True):
        cuts = sorted({entry.start_ns for entry in (*with_it, *without)})
        before, after = labels_at(with_it, cuts), labels_at(without, cuts)
        for cut in cuts:
            if before[cut].sign is gone:
                assert after[cut].label >= gone.label
            elif before[cut].sign is not None and before[cut].label.tier < Tier.PEER:
                assert (after[cut].label, after[cut].sign) == (before[cut].label, before[cut].sign)
            else:
                assert after[cut].label.tier >= Tier.PEER or after[cut].sign is not None


@given(exchanges(), signs())
def test_at_every_instant_the_first_in_rank_of_an_exchanges_own_signs_holds(rows: list[Exchange], seen: list[Sign]) -> None:
    """Where none covers an instant, or the ledger's own label is higher, the ledger speaks."""
    seen = [one for one in seen if isinstance(one.scope, OfExchange)]
    ledger = keep_ledger(trace_of(rows), seen)
    for exchange, entries in zip(rows, ledger.exchanges, strict=True):
        owners = {OfExchange(number) for number in (exchange.id, *exchange.setup)}
        own = sorted(
            (s for s in seen if s.scope in owners), key=lambda s: (s.label, -s.confidence.value, s.start_ns, -s.end_ns, repr(s.scope))
        )
        cuts = {edge for s in own for edge in (s.start_ns, s.end_ns)} | {entry.start_ns for entry in entries}
        for cut in cuts:
            for entry in (entry for entry in entries if entry.start_ns <= cut < entry.end_ns):
                best = next((s for s in own if s.start_ns <= cut < s.end_ns), None)
                if entry.sign is None:
                    assert best is None or best.label >= entry.label
                else:
                    assert best is not None
                    assert (entry.sign.label, entry.sign.confidence, entry.sign.start_ns) == (best.label, best.confidence, best.start_ns)


# --- which signs reach which exchange ----------------------------------------------------------------------------------

TRACE = (
    Wire(rtt_ms=20).handshake().http_get("/one", body=3_000, think_ms=300).wait(ms=50).http_get("/two", body=3_000, think_ms=300).trace()
)
ONE, TWO = (exchange for exchange in TRACE.exchanges if not exchange.is_setup)
LOSS, DEAD, THINK, FIRM = Label(Tier.LOSS, 0, "loss"), Label(Tier.DEAD, 0, "dead"), Label(Tier.PEER, 5, "think"), Confidence(0.9)


def sign(label: Label, scope: Scope, over: Exchange = ONE, *, after_ms: float = 0.0, frame: int = 1, sure: Confidence = FIRM) -> Sign:
    """A sign over a whole exchange, or what lies `after_ms` behind its start."""
    start = over.start_ns + round(after_ms * 1_000_000)
    return Sign(label=label, scope=scope, start_ns=start, end_ns=over.end_ns, confidence=sure, frames=(Frame(0, frame, start, ""),))


def seconds(exchange: Exchange, *signs_: Sign) -> dict[str, float]:
    """Label -> milliseconds, of those the signs brought."""
    codes = {one.code for one in signs_}
    found: dict[str, float] = {}
    for entry in keep_ledger(TRACE, signs_).exchanges[exchange.id]:
        if entry.label.code in codes:
            found[entry.label.code] = found.get(entry.label.code, 0.0) + entry.duration_ns / 1e6
    return found


def test_a_loss_reaches_only_the_exchange_that_owns_its_bytes() -> None:
    (start, stop), flow = ONE.response[0], ONE.flow
    assert seconds(ONE, sign(LOSS, OfFlow(flow, 1, start, stop))) != {}
    assert seconds(ONE, sign(LOSS, OfFlow(flow, 1, stop, stop + 1))) == {}, "the next byte is another's"
    assert seconds(ONE, sign(LOSS, OfFlow(flow, 0, *ONE.request[0]))) != {}
    assert seconds(ONE, sign(LOSS, OfFlow(flow + 1, 1, start, stop))) == {}, "another connection"


def test_nothing_escapes_what_kills_a_connection_whoever_owns_the_bytes() -> None:
    assert seconds(TWO, sign(DEAD, OfFlow(TWO.flow, 1, *ONE.response[0]), TWO)) != {}


def test_while_sending_only_the_request_direction_counts_and_while_receiving_the_response() -> None:
    slow = Wire().handshake().send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n" + bytes(3_000), every_ms=100)
    trace = slow.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + bytes(3_000), every_ms=100).close().trace()
    (exchange,) = (one for one in trace.exchanges if not one.is_setup)
    during: dict[int | None, float] = {}
    for direction in (0, 1, None):
        ledger = keep_ledger(trace, [sign(DEAD, OfFlow(exchange.flow, direction), exchange)])
        during[direction] = sum(entry.duration_ns for entry in ledger.entries("dead")) / 1e6
    setup = 20
    assert round(during[0] or 0) == setup + 200 + 20, "the request and the wait"
    assert round(during[1] or 0) == setup + 200 + 20, "the wait and the response"
    assert round(during[None] or 0) == setup + 200 + 20 + 200


def test_what_happened_to_its_set_up_happened_to_the_exchange() -> None:
    (connect,) = ONE.setup
    lost = replace(sign(DEAD, OfExchange(connect)), end_ns=TRACE.exchanges[connect].end_ns)
    assert seconds(ONE, lost) == {"dead": pytest.approx(20, abs=1)}
    assert seconds(TWO, lost) == {}


def test_a_higher_tier_wins_then_a_lower_place_then_the_surer_sign() -> None:
    mine = OfExchange(ONE.id)
    assert set(seconds(ONE, sign(LOSS, mine), sign(DEAD, mine))) == {"dead"}
    assert set(seconds(ONE, sign(LOSS, mine), sign(Label(Tier.LOSS, 1, "later loss"), mine))) == {"loss"}
    signs_ = [sign(LOSS, mine, sure=Confidence(0.5)), sign(LOSS, mine, frame=2, sure=Confidence(0.8))]
    assert {entry.sign for entry in keep_ledger(TRACE, signs_).entries("loss")} == {signs_[1]}


def test_of_equal_signs_one_speaks_whoever_came_first() -> None:
    signs_ = [sign(LOSS, OfExchange(ONE.id), frame=frame) for frame in (2, 1)]
    for order in (signs_, signs_[::-1]):
        assert {entry.sign for entry in keep_ledger(TRACE, order).entries("loss")} == {signs_[1]}


def test_a_sign_below_the_ledgers_own_label_changes_nothing() -> None:
    assert set(seconds(ONE, sign(Label(Tier.REST, 0, "less"), OfExchange(ONE.id)))) == set()


def test_the_model_of_a_wait_is_laid_over_what_is_left() -> None:
    """300 ms of thinking, then a loss over all but the first 100 ms: thinking keeps what the round trip leaves of those."""
    ledger = keep_ledger(TRACE, [sign(DEAD, OfFlow(TWO.flow), TWO, after_ms=100)])
    labels = {entry.label.code: round(entry.duration_ns / 1e6) for entry in ledger.exchanges[TWO.id] if entry.label.code != "propagation"}
    assert labels == {"server-think": 80, "dead": 220}
    assert sum(entry.duration_ns for entry in ledger.entries("propagation")) > 0


def test_only_what_is_part_of_nothing_counts() -> None:
    ledger = keep_ledger(TRACE, [])
    assert np.flatnonzero(ledger.counted).tolist() == [ONE.id, TWO.id]
    alone = replace(TRACE, exchanges=exchanges_of([replace(one, part_of=None, setup=()) for one in TRACE.exchanges]))
    assert keep_ledger(alone, []).counted.all()
    pooled = replace(alone, exchanges=exchanges_of([replace(one, facts={"prewarmed": True}) for one in alone.exchanges]))
    counted = keep_ledger(pooled, []).counted
    assert np.flatnonzero(counted).tolist() == [ONE.id, TWO.id], "a connection pooled ahead of need is nobody's wait"


def test_between_attempts_a_call_has_entries_only_where_a_sign_says_why() -> None:
    call = Call(id=0, agent=0, exchanges=(ONE.id, TWO.id), start_ns=ONE.start_ns, end_ns=TWO.end_ns, backoff="none", outcome=Outcome.OK)
    trace = replace(TRACE, calls=Calls.of([call], (0,), len(TRACE.exchanges)))
    slept = replace(sign(Label(Tier.CLIENT, 9, "client-backoff"), OfCall(0)), end_ns=TWO.start_ns + 7)
    assert keep_ledger(trace, []).calls == ()
    (entry,) = keep_ledger(trace, [slept]).calls
    assert (entry.owner, entry.start_ns, entry.end_ns, entry.sign) == (0, ONE.end_ns, TWO.start_ns, slept)
