"""mid-stream-start: connections older than the capture."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.mid_stream_start import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose, load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire, merge
from tests.wire_bytes import pcap
from tests.wire_line import Lose


def test_data_without_a_handshake_fires() -> None:
    old = Wire(cport=50_001).http_get(think_ms=10).http_get(think_ms=10)
    (found,) = conclusions(DETECTOR, merge(old, Wire(start_ms=5).handshake().http_get()).trace())
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, False)
    assert (found.details["midstream_flows"], found.details["tcp_flows"], found.flows) == (1, 2, (0,))
    assert [frame.number for frame in found.frames] == [1]


@pytest.mark.parametrize("wire", [Wire().handshake().http_get(), Wire().syn_ack().ack().http_get()], ids=["whole", "from the SYN-ACK on"])
def test_a_handshake_that_was_seen_stays_quiet(wire: Wire) -> None:
    assert conclusions(DETECTOR, wire.trace()) == []


def test_acknowledgments_alone_stay_quiet() -> None:
    assert conclusions(DETECTOR, Wire().ack().ack("server").trace()) == []


@pytest.mark.parametrize(("lose", "told"), [("before", {"capture-gap"}), (None, {"server-think"})])
def test_an_answer_may_wait_behind_what_was_sent_before_the_capture_began(tmp_path: Path, lose: Lose | None, told: set[str]) -> None:
    get = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
    wire = Wire().handshake().send(get % b"a").reply(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + bytes(4_000), lose=lose)
    before = len(wire.wait(ms=900).frames())
    wire.send(get % b"b").wait(ms=3_000).close()
    path = tmp_path / "late.pcap"
    path.write_bytes(pcap(wire.frames()[before:]))
    trace = load(str(path))
    spent = {code for code, ns in diagnose(trace).ledger.by_label_ns().items() if ns > 1_000_000_000}
    assert ([one.name for one in trace.exchanges], spent) == (["GET /b"], told)


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, Wire().http_get(body=9_000), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    assert conclusions(DETECTOR, load(str(LAB / "clean-control" / "client.pcap"))) == []
