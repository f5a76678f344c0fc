"""duplicate-packets: copies that the capture made."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.duplicate_packets import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose, load, scan
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.test_flows_legs import Translated
from tests.wire import Wire
from tests.wire_bytes import pcap


def talk(*, copied: bool = True, timestamps: bool = True, ipv6: bool = False) -> Wire:
    wire = Wire(rtt_ms=30, timestamps=timestamps, ipv6=ipv6)
    return (wire.duplicate() if copied else wire).handshake().http_get(body=20_000, think_ms=100).close()


def behind_a_router() -> Wire:
    return Wire(rtt_ms=30, vantage="middle").handshake().http_get(body=20_000, think_ms=100).close()


@pytest.mark.parametrize("host", [{}, {"timestamps": False}, {"ipv6": True}])
def test_a_mirror_port_that_copies_everything_fires(host: dict[str, bool]) -> None:
    trace = talk(**host).trace()
    (found,) = conclusions(DETECTOR, trace)
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, False)
    assert found.details["copies"] * 2 == found.details["frames"]
    assert len(found.frames) == 6


def test_copies_are_no_retransmissions() -> None:
    codes = {finding.code for finding in diagnose(talk().trace()).findings}
    assert codes == {"duplicate-packets", "server-think"}


def test_both_sides_of_a_translator_are_named() -> None:
    trace = Translated(behind_a_router()).trace()
    (found,) = conclusions(DETECTOR, trace)
    assert (found.details["variant"], found.details["nat_legs"], found.flows) == ("nat", 1, (0,))
    assert found.details["nat_packets"] == found.details["copies"] == found.details["frames"] // 2
    assert "203.0.113.7:51000 to 10.0.0.2:80 is 10.0.0.1:50000 to 10.0.0.2:80" in found.summary
    assert found.frames[0].note.startswith("the same packet on the other side")


def test_a_request_behind_a_translator_counts_once() -> None:
    once, twice = (diagnose(recording.trace()) for recording in (behind_a_router(), Translated(behind_a_router())))
    assert [row.name for row in twice.tables.exchanges] == [row.name for row in once.tables.exchanges]
    assert {finding.code for finding in twice.findings} == {"duplicate-packets", *(finding.code for finding in once.findings)}


def test_a_second_view_is_no_copy_that_the_capture_made(tmp_path: Path) -> None:
    for side in ("client", "server"):
        wire = Wire(rtt_ms=30, vantage=side).handshake().http_get(body=20_000, think_ms=100).close()
        (tmp_path / f"{side}.pcap").write_bytes(pcap(wire.frames()))
    trace, _ = scan([str(tmp_path / "client.pcap"), str(tmp_path / "server.pcap")], Options())
    (found,) = conclusions(DETECTOR, trace)
    assert (found.details["variant"], found.details["views"]) == ("view", found.details["frames"])
    assert [quality.grade for quality in trace.quality] == ["A", "A"]
    assert sum("duplicate-packets" in quality.issues for quality in trace.quality) == 1
    assert found.frames[0].note == "of a connection that another capture shows"


def test_a_resend_stays_quiet() -> None:
    wire = Wire(rtt_ms=30).handshake().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", lose="after").wait(ms=220).resend()
    assert conclusions(DETECTOR, wire.reply(b"HTTP/1.1 204 No Content\r\n\r\n").trace()) == []


def test_single_packets_stay_quiet() -> None:
    assert conclusions(DETECTOR, talk(copied=False).trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, talk(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    for quiet in ("clean-control", "link-blackout", "h2-hol", "tail-loss-rto", "retry-storm"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap"))) == [], quiet
