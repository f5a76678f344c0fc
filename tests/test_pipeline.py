"""The eight steps from files to a diagnosis."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pcapdiag
from pcapdiag import pipeline
from pcapdiag.errors import CaptureError
from pcapdiag.findings.types import Limit, Limits
from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose, diagnose_files, load, scan
from pcapdiag.stalls.sign import Confidence, Label, OfExchange, Sign, Tier
from tests.diagnoses import detector
from tests.wire import START_NS, Wire
from tests.wire_bytes import pcap

if TYPE_CHECKING:
    from pcapdiag.findings import Detector


def request(folder: Path, name: str = "a.pcap", **options: Any) -> str:
    """A capture of one request that was thought about for 700 ms."""
    return str(Wire(**options).handshake().http_get(body=2_000, think_ms=700).close().write(folder, name))


def blaming(code: str = "policer", *, share: float = 1.0) -> Detector:
    """A detector that blames the first so many shares of each request on one cause."""

    def signs(trace: Any, limits: Limits) -> list[Sign]:
        return [
            Sign(
                label=Label(Tier.DEAD, 0, code), scope=OfExchange(one.id), start_ns=one.start_ns, frames=(), confidence=Confidence(0.9),
                end_ns=one.start_ns + round((one.end_ns - one.start_ns) * limits.share),
            )
            for one in trace.exchanges
        ]  # fmt: skip

    return replace(detector(code), signs=signs, limits=Limits(share=Limit(share, "", "a test")))


def test_a_file_becomes_a_trace(tmp_path: Path) -> None:
    trace = load(request(tmp_path))
    assert [capture.name for capture in trace.captures] == ["a.pcap"]
    assert trace.start_ns == START_NS + 10_000
    assert (len(trace.flows), len(trace.quality), len(trace.vantages)) == (1, 1, 1)
    assert [one.name for one in trace.exchanges if not one.is_setup] == ["GET /"]
    assert [len(call.exchanges) for call in trace.calls.rows] == [1]


def test_and_a_trace_a_diagnosis(tmp_path: Path) -> None:
    found = diagnose(load(request(tmp_path)), [blaming(share=0.5)])
    counted = {code: ns for code, ns in found.ledger.by_label_ns().items() if code == "policer"}
    assert counted == {"policer": pytest.approx(0.37 * 10**9, rel=0.01)}
    assert (found.failures, found.tables.start_ns) == ((), START_NS + 10_000)


def test_the_public_names_are_these_functions() -> None:
    assert (pcapdiag.load, pcapdiag.diagnose) == (load, diagnose)


def test_thresholds_and_the_vantage_are_options(tmp_path: Path) -> None:
    options = Options(vantage="server", limits={"policer": {"share": 0.25}})
    found = diagnose_files([request(tmp_path)], options, detectors=[blaming()])
    assert found.ledger.by_label_ns()["policer"] == pytest.approx(0.185 * 10**9, rel=0.01)
    assert found.tables.vantages[0].why == "given on the command line"


def test_several_captures_are_one_trace(tmp_path: Path) -> None:
    paths = [request(tmp_path, "a.pcap"), request(tmp_path, "b.pcap", cport=50_001, start_ms=100)]
    trace, failures = scan(paths, Options())
    assert [capture.name for capture in trace.captures] == ["a.pcap", "b.pcap"]
    assert (failures, trace.flows.capture.tolist(), len(trace.quality)) == ((), [0, 1], 2)
    swapped, _ = scan(paths[::-1], Options())
    assert swapped.start_ns == trace.start_ns + 100_000_000, "zero is the begin of the first capture named"


def test_a_first_capture_without_packets_does_not_move_the_begin(tmp_path: Path) -> None:
    trace, _ = scan([str(Wire().write(tmp_path, "empty.pcap")), request(tmp_path)], Options())
    assert trace.start_ns == START_NS + 10_000


def test_a_connection_that_goes_on_in_the_next_file_is_one(tmp_path: Path) -> None:
    told = Wire().handshake().http_get(body=9_000, think_ms=700).close()
    frames = told.frames()
    for name, some in (("1.pcap", frames[:6]), ("2.pcap", frames[6:])):
        (tmp_path / name).write_bytes(pcap(some))
    split, _ = scan([str(tmp_path / "1.pcap"), str(tmp_path / "2.pcap")], Options())
    whole = told.trace()
    assert len(split.flows) == 1
    assert [(one.name, one.duration_ns) for one in split.exchanges] == [(one.name, one.duration_ns) for one in whole.exchanges]


def test_what_cannot_be_read_is_a_failure_and_the_rest_is_analysed(tmp_path: Path) -> None:
    bad = tmp_path / "notes.txt"
    bad.write_text("no capture at all, just words", encoding="utf-8")
    good = request(tmp_path)
    for paths in ([str(bad), good], [good, str(bad)]):
        found = diagnose_files(paths)
        assert [capture.name for capture in found.tables.captures] == ["a.pcap"]
        ((where, what),) = ((failure.where, failure.what) for failure in found.failures)
        assert where == "input"
        assert "notes.txt" in what


def test_when_nothing_can_be_read_every_reason_is_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("no capture at all, just words", encoding="utf-8")
    with pytest.raises(CaptureError, match=r"a\.txt.*; .*b\.txt"):
        diagnose_files([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])


def test_a_detector_that_crashes_costs_only_its_own_opinion(tmp_path: Path) -> None:
    def crash(*_: Any) -> Any:
        raise ZeroDivisionError("0 flows")

    found = diagnose(load(request(tmp_path)), [replace(blaming("syn-loss"), signs=crash), blaming()])
    assert [failure.what for failure in found.failures] == ["ZeroDivisionError: 0 flows"]
    assert "policer" in found.ledger.by_label_ns()


def test_a_capture_without_packets_is_diagnosed_too(tmp_path: Path) -> None:
    empty = Wire().write(tmp_path)
    found = diagnose_files([str(empty)])
    assert (found.failures, tuple(found.ledger.exchanges), found.tables.start_ns, found.tables.quality[0].grade) == ((), (), 0, "F")


def test_nothing_of_the_day_or_place_gets_into_a_trace(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here, there = load(request(tmp_path)), load(request(tmp_path / "elsewhere"))
    assert here.captures == there.captures
    assert here.exchanges.rows[0].frames == there.exchanges.rows[0].frames


def test_the_map_of_the_program_fits_on_a_page_and_calls_the_steps_in_their_order() -> None:
    source = inspect.getsource(pipeline)
    assert len([line for line in source.splitlines() if line.strip()]) < 90
    body = source[source.index("def scan(") :]
    steps = ["gather_inputs", "decode_packets", "group_flows", "reassemble", "pair_exchanges", "see", "keep_ledger", "conclude"]
    places = [re.search(rf"\b{step}[(,]", body) for step in steps]  # called, or handed on
    assert None not in places
    lines = [place.start() for place in places if place]
    assert lines == sorted(lines)
