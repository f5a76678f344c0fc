"""clipped-end: captures that stop too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors.clipped_end import DETECTOR
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_an_open_request_fires() -> None:
    (found,) = conclusions(DETECTOR, Wire().handshake().http_get().wait(ms=50).send(GET).wait(ms=30).ack("server").trace())
    assert (found.kind, found.details["open_exchanges"], found.details["cut_at"]) == (FindingKind.CAPTURE, 1, None)
    assert len(found.frames) == 1
    assert not found.lowers_verdict


def test_a_file_that_ends_inside_a_record_fires(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes(Wire().handshake().http_get(body=9_000).close().pcap()[:-9])
    (found,) = conclusions(DETECTOR, load(str(path)))
    assert found.details["cut_at"] is not None
    assert found.frames[-1].note == "last whole record of the file"


def test_a_finished_conversation_stays_quiet() -> None:
    assert conclusions(DETECTOR, Wire().handshake().http_get().trace()) == []


@pytest.mark.parametrize("by", ["client", "server"])
def test_a_connection_that_was_closed_over_an_open_request_stays_quiet(by: str) -> None:
    wire = Wire().handshake().send(GET).wait(ms=100)
    assert conclusions(DETECTOR, (wire.rst("client") if by == "client" else wire.rst("server")).trace()) == []


def test_a_cut_capture_says_so_wherever_it_is_cut(tmp_path: Path) -> None:
    results = of_cuts(DETECTOR, Wire().handshake().http_get(body=9_000).close(), tmp_path)
    assert sum(bool(found) for found in results) > len(results) // 2


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
def test_the_lab_agrees() -> None:
    for quiet in ("clean-control", "zero-window", "h2-flow-control"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / "client.pcap"))) == [], quiet
