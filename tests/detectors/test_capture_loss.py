"""capture-loss: packets that the capture missed, and only the capture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcapdiag.detectors.capture_loss import DETECTOR, signs
from pcapdiag.findings import FindingKind
from pcapdiag.pipeline import diagnose, load
from pcapdiag.stalls import keep_ledger
from pcapdiag.stalls.sign import CAPTURE_GAP
from tests.detectors.opinion import LAB, conclusions, of_cuts
from tests.wire import START_NS, Recording, Wire, merge
from tests.wire_bytes import pcap
from tests.wire_line import Lose

if TYPE_CHECKING:
    from pcapdiag.trace import Trace

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"


def answer(lose: Lose | None = "capture", *, length: int = 20_000) -> Wire:
    return Wire().handshake().send(GET).reply(HEAD + b"x" * length, lose=lose, only=(3, 4))


def test_fires_for_acknowledged_bytes_that_are_not_in_the_file() -> None:
    (found,) = conclusions(DETECTOR, answer().trace())
    assert found.kind is FindingKind.CAPTURE
    assert found.details["unseen_bytes"] == 2 * 1_448
    assert found.lowers_verdict
    assert found.frames


def test_a_little_loss_leaves_the_verdict_standing() -> None:
    wire = Wire().handshake()
    for _ in range(15):
        wire.http_get(body=20_000)
    wire.send(GET).reply(HEAD + b"x" * 20_000, lose="capture", only=(3,))
    (found,) = conclusions(DETECTOR, wire.trace())
    assert not found.lowers_verdict


def test_time_in_the_gap_is_nobodys() -> None:
    """A packet in the middle of the answer was not captured; the acknowledgment came half a second later."""
    wire = Wire().handshake().send(GET).acks("none").reply(HEAD + b"x" * 4_000, lose="capture", only=(1,)).wait(ms=500).ack()
    wire.reply(b"x" * 16_000)
    trace = wire.trace()
    ledger = keep_ledger(trace, list(signs(trace, DETECTOR.limits)))
    hidden = list(ledger.entries(CAPTURE_GAP.code))
    assert sum(entry.duration_ns for entry in hidden) > 400_000_000


def test_no_loss_is_reported_for_what_the_capture_missed() -> None:
    causes = {finding.code for finding in diagnose(answer().trace()).findings if finding.conclusion.kind is FindingKind.CAUSE}
    assert not {code for code in causes if "loss" in code or "rto" in code or "hol" in code}


def test_a_loss_on_the_wire_stays_quiet() -> None:
    wire = answer("before").wait(ms=30).resend(3 * 1_448, 5 * 1_448, by="server")
    assert conclusions(DETECTOR, wire.trace()) == []


def test_a_whole_capture_stays_quiet() -> None:
    assert conclusions(DETECTOR, answer(None).trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, answer(), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = conclusions(DETECTOR, load(str(LAB / "capture-loss" / f"{end}.pcap")))
    assert not found.lowers_verdict
    for quiet in ("clean-control", "h2-hol", "link-blackout", "reordering-control"):
        assert conclusions(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet


def blinded(wire: Recording, begin_s: float, end_s: float) -> Trace:
    """What a capture holds that was stopped and started again."""
    kept = [(ns, data) for ns, data in wire.frames() if not begin_s <= (ns - START_NS) / 1e9 < end_s]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.pcap").write_bytes(pcap(kept))
        return load(f"{folder}/a.pcap")


def spent(trace: Trace) -> dict[str, float]:
    ledger = keep_ledger(trace, [*signs(trace, DETECTOR.limits)])
    return {code: round(ns / 1e9, 1) for code, ns in ledger.by_label_ns().items() if ns > 50_000_000}


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def tokens() -> Wire:
    wire = Wire().handshake().send(GET).wait(ms=50).reply(STREAM)
    for number in range(300):
        wire.wait(ms=100).reply(b"%x\r\ndata: {%05d}\n\n\r\n" % (15, number))
    return wire.reply(b"0\r\n\r\n").close()


@pytest.mark.parametrize("ip_id", [True, False])
def test_a_capture_that_was_stopped_and_started_again_accuses_nobody_of_the_pause(ip_id: bool) -> None:
    download = Wire(ip_id=ip_id).handshake().send(GET).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
    for _ in range(200):
        download.wait(ms=200).reply(10_000)
    assert set(spent(blinded(download, 10, 30))) == {"transfer", "capture-gap"}
    assert spent(blinded(download, 10, 30))["capture-gap"] == pytest.approx(20, abs=0.4)


def test_nor_of_a_token_stream_or_of_requests_that_nobody_saw() -> None:
    assert spent(blinded(tokens(), 10, 22))["capture-gap"] == pytest.approx(12, abs=0.3)
    assert "inter-token-gap" not in spent(blinded(tokens(), 10, 22))
    several = Wire().handshake()
    for _ in range(40):
        several.http_get(think_ms=300).wait(ms=500)
    assert spent(blinded(several, 5.1, 25.1))["server-think"] < 10


def test_what_was_open_when_the_capture_went_blind_may_have_been_answered() -> None:
    waiting = Wire(cport=50_001, start_ms=9_000).handshake().send(GET).wait(ms=2_000).reply(HEAD + b"x" * 20_000).close()
    assert spent(blinded(merge(tokens(), waiting), 10, 22))["capture-gap"] == pytest.approx(12 + 21, abs=1)
    assert "server-think" not in spent(blinded(merge(tokens(), waiting), 10, 22))


def test_a_pause_and_one_packet_that_was_missed_is_a_pause() -> None:
    """The client's IP-IDs say that no acknowledgment is missing: the packet came when the next ones did."""
    wire = Wire().handshake().http_get().http_get().send(GET).reply(HEAD + b"x" * 2_000)
    wire.wait(ms=20_000).reply(b"x" * 18_000, lose="capture", only=(0,)).close()
    assert spent(wire.trace())["server-think"] == pytest.approx(20, abs=0.6)


def test_an_answer_that_nobody_saw_is_no_servers_silence() -> None:
    """The third request is answered while the capture is blind; the connection goes on for long."""
    wire = Wire().handshake().http_get().http_get().send(GET).wait(ms=300).reply(HEAD + b"x" * 20_000, lose="capture")
    wire.wait(ms=20_000).close()
    assert spent(wire.trace()).get("server-think", 0) < 1
