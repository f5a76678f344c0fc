"""fast-retransmit-loss: a hole that duplicate ACKs reported, from both of its sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors import fast_retransmit_loss
from pcapdiag.detectors.fast_retransmit_loss import DETECTOR, LIMITS
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_line import Lose, Vantage

MS = 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000
ROOM, BARE_ROOM = 1_448, 1_460
BEFORE_OR_AFTER: dict[str, Lose] = {"client": "before", "middle": "before", "server": "after"}
"""Where a packet of the server is lost, seen from each tap, when it is lost near the client."""


def loss(vantage: Vantage = "client", *, timestamps: bool = True, ip_id: bool = True) -> Wire:
    """The third segment of an answer is lost, and resent one round trip after its first sending."""
    room = ROOM if timestamps else BARE_ROOM
    wire = Wire(vantage=vantage, rtt_ms=40, timestamps=timestamps, ip_id=ip_id).handshake().send(GET)
    wire.reply(ANSWER, lose=BEFORE_OR_AFTER[vantage], only=[2])
    return wire.wait(ms=41).resend(2 * room, 3 * room, by="server").close()


@pytest.mark.parametrize(("vantage", "side"), [("client", "before"), ("middle", "before"), ("server", "between")])
def test_a_lost_segment_fires(vantage: Vantage, side: str) -> None:
    (found,) = diagnosed(DETECTOR, loss(vantage).trace())
    assert found.stall_ns == pytest.approx(41 * MS, abs=5 * MS)
    assert (found.details["losses"], found.details["lost_bytes"]) == (1, ROOM)
    assert found.details["lost"].startswith(side)
    assert (found.details["before_tap"], found.details["behind_tap"]) == ((1, 0) if side == "before" else (0, 1))
    assert found.details["resent"] == {"fast": 1}
    assert not found.at_least


@pytest.mark.parametrize(("vantage", "timestamps", "why"), [
    ("client", True, "newer one"), ("client", False, "as late as"), ("server", True, "sent twice"), ("server", False, "sent twice"),
])  # fmt: skip
def test_only_what_the_packets_have_is_said_of_them(vantage: Vantage, *, timestamps: bool, why: str) -> None:
    (found,) = diagnosed(DETECTOR, loss(vantage, timestamps=timestamps).trace())
    assert why in found.contrast
    assert ("timestamp" in found.contrast) == (vantage == "client" and timestamps)


def test_the_sender_side_proves_it_with_both_sends_and_the_ack() -> None:
    trace = loss("server").trace()
    (found,) = diagnosed(DETECTOR, trace)
    assert [frame.note.split(";")[0] for frame in found.frames] == ["sent", "the missing bytes, resent", "acknowledged"]
    rows = [int((trace.packets.frame == frame.number).argmax()) for frame in found.frames]
    first, again, _ = (int(trace.packets.ip_len[row]) for row in rows)
    assert first == again == 1_500


def test_the_receiver_side_proves_it_with_opener_and_filler() -> None:
    (found,) = diagnosed(DETECTOR, loss("client").trace())
    opened, filled = found.frames
    assert (opened.note, filled.note) == ("arrives; bytes before it are missing", "the missing bytes, resent")
    assert filled.ts_ns - opened.ts_ns == pytest.approx(41 * MS, abs=MS)


def test_the_sign_names_the_missing_bytes() -> None:
    (sign,) = fast_retransmit_loss.signs(loss().trace(), LIMITS)
    assert (sign.scope.start, sign.scope.stop) == (2 * ROOM, 3 * ROOM)  # type: ignore[union-attr] # OfFlow, or it fails


@pytest.mark.parametrize(("vantage", "bare", "sure"), [("server", False, 0.95), ("client", False, 0.85), ("client", True, 0.5)])
def test_it_is_as_sure_as_its_evidence(vantage: Vantage, bare: bool, sure: float) -> None:
    (found,) = diagnosed(DETECTOR, loss(vantage, timestamps=not bare, ip_id=not bare).trace())
    assert found.confidence.value == sure


def test_an_overtaken_packet_stays_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().send(GET).reply(ANSWER, late_ms=15, only=[2]).wait(ms=60).close()
    assert diagnosed(DETECTOR, wire.trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_needless_resend_stays_quiet(vantage: Vantage) -> None:
    """Overtaken, then resent without need: the DSACK says so."""
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(GET).reply(ANSWER, late_ms=15, only=[2])
    assert diagnosed(DETECTOR, wire.wait(ms=42).resend(2 * ROOM, 3 * ROOM, by="server").close().trace()) == []


def test_a_packet_only_the_capture_missed_stays_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().send(GET).reply(ANSWER, lose="capture", only=[2]).close()
    assert diagnosed(DETECTOR, wire.trace()) == []


def test_a_lost_tail_stays_quiet() -> None:
    """Nothing behind it could report it: that is tail-loss-rto."""
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).reply(ANSWER, lose="after", only=[6])
    assert diagnosed(DETECTOR, wire.wait(ms=240).resend(by="server").close().trace()) == []


def test_copies_made_by_the_capture_stay_quiet() -> None:
    wire = Wire(rtt_ms=40).duplicate().handshake().send(GET).reply(ANSWER).close()
    assert diagnosed(DETECTOR, wire.trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_cut_capture_raises_nothing(vantage: Vantage, tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, loss(vantage), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    assert diagnosed(DETECTOR, load(str(LAB / "h2-hol" / f"{end}.pcap")))
    for quiet in ("clean-control", "capture-loss", "reordering-control", "tail-loss-rto", "pmtu-icmp-honoured"):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
