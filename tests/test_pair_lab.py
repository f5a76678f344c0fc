"""The labelled captures, as pairs: what truth.json says was lost is placed between the taps, and clocks are recovered."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose_files
from pcapdiag.reporters import REPORTERS
from pcapdiag.reporters.between import document, lines
from tests.two_taps import Taps, codes, counts, finding, read_pcap

if TYPE_CHECKING:
    from pcapdiag.findings import Diagnosis

LAB = Path(__file__).parents[2] / "shared" / "captures" / "lab"
SCENARIOS = sorted(path.parent.name for path in LAB.glob("*/truth.json"))
MS, SECOND = 1_000_000, 1_000_000_000

pytestmark = pytest.mark.skipif(not SCENARIOS, reason="the labelled captures are not here")


@cache
def diagnosed(scenario: str) -> Diagnosis:
    ends = [str(next((LAB / scenario).glob(f"{side}.pcap*"))) for side in ("client", "server")]
    return diagnose_files(ends, Options(pair=True, jobs=1))


def truth(scenario: str) -> dict[str, object]:
    told: dict[str, object] = json.loads((LAB / scenario / "truth.json").read_text("utf-8"))
    return told


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_packet_is_accounted_for_and_both_taps_share_a_clock(scenario: str) -> None:
    pair = diagnosed(scenario).tables.pair
    assert pair is not None
    assert (pair.swapped, pair.unmatched, pair.clocks.steps, pair.clocks.drift_ppb) == (False, (), (), 0)
    assert abs(pair.clocks.offset_ns) < MS // 5
    rtt_s = truth(scenario).get("rtt_s")
    if isinstance(rtt_s, float):
        assert pair.clocks.uncertainty_ns == pytest.approx(rtt_s / 2 * SECOND, rel=0.02)
    for direction, way in enumerate(pair.ways):
        of_tcp = (pair.placed.direction == direction) & (pair.placed.start >= -1) & (pair.placed.flow >= 0)
        missing = pair.placed.counts(of_tcp)
        lost = sum(missing.get(place, 0) for place in ("between", "receiving-capture", "undecided", "outside"))
        assert lost >= way.sent_count - way.passed_count >= 0


def test_a_quiet_path_lost_nothing() -> None:
    for scenario in ("clean-control", "slow-client", "zero-window", "h2-flow-control", "nagle-delayed-ack", "handshake-per-call"):
        pair = diagnosed(scenario).tables.pair
        assert pair is not None
        assert counts(pair) == ({}, {}), scenario


def test_what_an_overloaded_capture_host_dropped_is_no_loss_on_the_network() -> None:
    pair = diagnosed("capture-loss").tables.pair
    assert pair is not None
    assert counts(pair) == ({"sending-capture": 4, "undecided": 3}, {"receiving-capture": 7, "sending-capture": 8})
    assert set(codes(diagnosed("capture-loss"))) == {"server-think"}


@pytest.mark.parametrize(
    ("scenario", "code", "direction"),
    [
        ("pmtu-blackhole-download", "pmtu-black-hole", "server to client"),
        ("tail-loss-rto", "tail-loss-rto", "client to server"),
        ("h2-hol", "fast-retransmit-loss", "server to client"),
        ("syn-loss", "syn-loss", "client to server"),
        ("link-blackout", "path-outage", "server to client"),
        ("microburst-loss", "microburst-loss", "server to client"),
        ("ip-fragment-loss", "ip-fragment-loss", "server to client"),
    ],
)
def test_a_finding_says_where_its_packets_went(scenario: str, code: str, direction: str) -> None:
    found = finding(diagnosed(scenario), code)
    placed = found.conclusion.details["placed"]
    assert placed[direction]["between"] >= 1
    assert {frame.capture for frame in found.conclusion.frames} == {0, 1}
    if code != "microburst-loss":
        assert found.score.confidence >= 0.95


def test_no_packet_above_the_path_mtu_arrived() -> None:
    placed = finding(diagnosed("pmtu-blackhole-download"), "pmtu-black-hole").conclusion.details["placed"]["server to client"]
    assert (placed["between"], placed["lost_min_len"]) == (24, 1_500)
    assert placed["passed_max_len"] < 1_500


def test_a_forged_reset_was_made_between_the_taps() -> None:
    pair = diagnosed("rst-injected").tables.pair
    assert pair is not None
    assert counts(pair) == ({"injected": 1}, {"injected": 1})


@pytest.mark.parametrize("scenario", ["tls-sse-loss", "microburst-loss", "tail-loss-rto", "syn-loss", "link-blackout"])
def test_the_seconds_are_those_that_the_applications_lost(scenario: str) -> None:
    told = truth(scenario)["stall_seconds_by_cause"]
    assert isinstance(told, dict)
    blamed = [f for f in diagnosed(scenario).findings if f.domain.value == "network" and f.conclusion.kind.value == "cause"]
    assert sum(f.conclusion.stall_ns for f in blamed) / SECOND == pytest.approx(sum(told.values()), rel=0.12)


@pytest.mark.parametrize(
    ("offset_ns", "drift_ppb"), [(3_600 * SECOND, 0), (-86_400 * SECOND, 40_000), (123_456_789, -75_000)], ids=["hour", "day", "odd"]
)
@pytest.mark.parametrize("scenario", ["microburst-loss", "reordering-control"])
def test_a_clock_is_put_right(tmp_path: Path, scenario: str, offset_ns: int, drift_ppb: int) -> None:
    begin_ns = read_pcap(LAB / scenario / "server.pcap")[0][0]
    taps = Taps(read_pcap(LAB / scenario / "client.pcap"), read_pcap(LAB / scenario / "server.pcap"))
    shifted = taps.clocked(lambda ns: ns + offset_ns + (ns - begin_ns) * drift_ppb // SECOND).diagnosed(tmp_path)
    pair, straight = shifted.tables.pair, diagnosed(scenario).tables.pair
    assert pair is not None
    assert straight is not None
    assert pair.clocks.offset_ns == pytest.approx(straight.clocks.offset_ns + offset_ns, abs=MS // 5)
    assert pair.clocks.drift_ppb == pytest.approx(drift_ppb, abs=max(abs(drift_ppb) // 10, pair.clocks.drift_error_ppb))
    assert counts(pair) == counts(straight)
    assert codes(shifted) == codes(diagnosed(scenario))


def test_a_clock_that_stepped_in_the_middle_is_put_right(tmp_path: Path) -> None:
    taps = Taps(read_pcap(LAB / "clean-control" / "client.pcap"), read_pcap(LAB / "clean-control" / "server.pcap"))
    middle_ns = taps.server[len(taps.server) // 2][0]
    pair = taps.clocked(lambda ns: ns + (40 * MS if ns >= middle_ns else 0)).paired(tmp_path)
    assert [step.by_ns for step in pair.clocks.steps] == [pytest.approx(40 * MS, abs=MS)]
    assert counts(pair) == ({}, {})


@pytest.mark.parametrize("scenario", ["capture-loss", "pmtu-blackhole-download"])
def test_the_reports_tell_of_it(scenario: str) -> None:
    diagnosis = diagnosed(scenario)
    pair = diagnosis.tables.pair
    assert pair is not None
    text, markdown = (REPORTERS[form](diagnosis, width=100) for form in ("text", "markdown"))
    assert "BETWEEN THE TWO CAPTURES" in text
    assert "## Between the two captures" in markdown
    assert any("ahead" in line for line in lines(diagnosis.tables, pair))
    told = json.loads(REPORTERS["json"](diagnosis, width=100))["pair"]
    assert told == json.loads(json.dumps(document(diagnosis.tables, pair)))
    assert told["clock"]["offset_ns"] == pair.clocks.offset_ns
