"""Running detectors: limits, scopes, and a crash that takes nobody with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcapdiag.findings import Detector, Failure, conclude, see, see_across
from pcapdiag.findings.types import Limit, Limits
from pcapdiag.stalls.sign import Confidence, Label, OfExchange, Sign, Tier
from tests.diagnoses import conclusion, detector, exchange, ledger, tables
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = (exchange(0, 0.0, 5.0),)
TABLES, LEDGER = tables(ROWS), ledger(ROWS, (0, 1.0, 4.0, "path-outage"))


def sign(code: str, start_ns: int = 0) -> Sign:
    return Sign(label=Label(Tier.LOSS, 0, code), scope=OfExchange(0), start_ns=start_ns, end_ns=9, confidence=Confidence(0.9), frames=())


def seeing(code: str, **changes: Any) -> Detector:
    """A detector whose signs begin at its limit."""
    limits = Limits(begin=Limit(7, "ns", "a test"))
    whole = replace(detector(code), limits=limits, signs=lambda _trace, limit: [sign(code, int(limit.begin))])
    return replace(whole, **changes)


def crashing(*_: Any) -> Iterator[Any]:
    """Gives something, then crashes."""
    yield sign("half-done")
    raise KeyError("flow 3")


def test_signs_come_in_the_order_of_detectors_and_those_without_are_silent() -> None:
    trace, failures = Wire().handshake().trace(), list[Failure]()
    silent = detector("policer")
    assert [one.code for one in see(trace, [seeing("b"), silent, seeing("a")], {}, failures)] == ["b", "a"]
    assert see_across(TABLES, [seeing("b"), silent], {}, failures) == []
    across = seeing("c", signs=None, cross_signs=lambda _tables, limit: [sign("c", int(limit.begin))])
    assert [one.start_ns for one in see_across(TABLES, [across], {"c": {"begin": 8}}, failures)] == [8]
    assert failures == []


def test_configured_limits_reach_their_detector_and_no_other() -> None:
    trace = Wire().handshake().trace()
    found = see(trace, [seeing("a"), seeing("b")], {"b": {"begin": 3}}, [])
    assert {one.code: one.start_ns for one in found} == {"a": 7, "b": 3}


def test_a_crash_is_recorded_what_it_said_before_is_dropped_and_the_others_go_on() -> None:
    trace, failures = Wire().handshake().trace(), list[Failure]()
    found = see(trace, [seeing("a"), seeing("bad", signs=crashing), seeing("c")], {}, failures)
    assert [one.code for one in found] == ["a", "c"]
    assert failures == [Failure("detector bad", "KeyError: 'flow 3'")]
    assert see_across(TABLES, [seeing("bad", cross_signs=crashing)], {}, failures) == []
    assert len(failures) == 2


def test_a_detector_concludes_from_its_own_signs() -> None:
    told: list[list[str]] = []

    def listen(_ledger: Any, signs: Any, _tables: Any) -> tuple[()]:
        told.append([one.code for one in signs])
        return ()

    signs = [sign("path-outage", 1), sign("policer", 2), sign("path-outage", 3)]
    conclude(TABLES, LEDGER, signs, [replace(detector("path-outage"), conclude=listen), replace(detector("policer"), conclude=listen)], [])
    assert told == [["path-outage", "path-outage"], ["policer"]]


def test_the_diagnosis_ranks_what_was_concluded_and_keeps_the_failures() -> None:
    failures = [Failure("input", "x.pcap: not a capture")]
    outage = replace(detector("path-outage"), conclude=lambda *_: [conclusion("path-outage", (0, 1.0, 4.0))])
    found = conclude(TABLES, LEDGER, [], [replace(detector("policer"), conclude=crashing), outage], failures)
    assert [finding.code for finding in found.findings] == ["path-outage"]
    assert found.verdict == "network"
    assert [failure.where for failure in found.failures] == ["input", "detector policer"]
    assert found.not_observable
