"""tail-loss-rto: the end of a burst is lost, and only a timer brings it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcapdiag.detectors import tail_loss_rto
from pcapdiag.detectors.tail_loss_rto import DETECTOR, LIMITS
from pcapdiag.pipeline import load
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.wire import Wire
from tests.wire_line import Lose, Vantage

MS = 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3_000
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6000\r\n\r\n" + b"x" * 6_000
ROOM = 1_448
LOST: dict[str, Lose] = {"client": "before", "middle": "before", "server": "after"}
"""Where a packet of the server is lost, seen from each tap, when it is lost near the client."""


def download(vantage: Vantage = "client", *, after_ms: float = 240, ip_id: bool = True, timestamps: bool = True) -> Wire:
    """The last two segments of an answer are lost; the timer fires."""
    room = ROOM if timestamps else ROOM + 12
    wire = Wire(vantage=vantage, rtt_ms=40, ip_id=ip_id, timestamps=timestamps).handshake()
    for _ in range(3):  # pauses without skipped IP-IDs: the connection counts its own
        wire.send(GET).reply(OK).wait(ms=50)
    wire.send(GET).reply(ANSWER, lose=LOST[vantage], only=[3, 4])
    before = 3 * len(OK)
    return wire.wait(ms=after_ms).resend(before + 3 * room, before + len(ANSWER), by="server").close()


def upload(vantage: Vantage) -> Wire:
    """The last segment of a request is lost."""
    wire = Wire(vantage=vantage, rtt_ms=40).handshake().send(POST, lose="after" if vantage == "client" else "before", only=[2])
    return wire.wait(ms=260).resend(by="client").reply(OK).close()


@pytest.mark.parametrize(("vantage", "sure"), [("server", 0.95), ("client", 0.6), ("middle", 0.6)])
def test_the_lost_end_of_an_answer_fires(vantage: Vantage, sure: float) -> None:
    (found,) = diagnosed(DETECTOR, download(vantage).trace())
    assert found.stall_ns == pytest.approx(240 * MS, abs=5 * MS)
    assert (found.confidence.value, found.details["losses"], found.details["variant"]) == (sure, 1, "tail")
    assert found.at_least == (vantage != "server")


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_the_lost_end_of_a_request_fires(vantage: Vantage) -> None:
    (found,) = diagnosed(DETECTOR, upload(vantage).trace())
    assert found.stall_ns == pytest.approx(260 * MS, abs=5 * MS)


@pytest.mark.parametrize(
    ("vantage", "notes"),
    [
        ("server", ["sent; no acknowledgment comes", "the bytes, resent by timer", "acknowledged"]),
        ("client", ["last packet before the silence", "the bytes come, behind skipped IP-IDs"]),
    ],
)
def test_the_frames_stand_on_both_sides_of_the_wait(vantage: Vantage, notes: list[str]) -> None:
    (found,) = diagnosed(DETECTOR, download(vantage).trace())
    assert [frame.note for frame in found.frames] == notes
    assert found.frames[1].ts_ns - found.frames[0].ts_ns == pytest.approx(240 * MS, abs=5 * MS)


def test_two_segments_resent_once_are_not_two_resends() -> None:
    (found,) = diagnosed(DETECTOR, download("server").trace())
    assert "went out" not in found.summary


def test_a_timer_that_fires_twice_is_counted() -> None:
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).reply(ANSWER, lose="after", only=[4])
    wire.wait(ms=240).resend(by="server", lose="after").wait(ms=480).resend(by="server").close()
    (found,) = diagnosed(DETECTOR, wire.trace())
    assert found.stall_ns == pytest.approx(720 * MS, abs=5 * MS)
    assert "the same bytes went out up to 3 times" in found.summary


def test_the_sign_names_the_missing_bytes() -> None:
    (sign,) = tail_loss_rto.signs(download("server").trace(), LIMITS)
    assert (sign.scope.start, sign.scope.stop) == (3 * len(OK) + 3 * ROOM, 3 * len(OK) + len(ANSWER))  # type: ignore[union-attr] # OfFlow, or it fails


def test_a_probe_fires_too() -> None:
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).reply(ANSWER, lose="after", only=[4]).wait(ms=130).resend(by="server")
    (found,) = diagnosed(DETECTOR, wire.close().trace())
    assert found.stall_ns == pytest.approx(130 * MS, abs=5 * MS)
    assert found.details["resent"] == {"probe": 1}


def test_the_resends_are_named_and_placed() -> None:
    (found,) = diagnosed(DETECTOR, download("server").trace())
    assert found.details["resent"] == {"rto": 2}
    assert (found.details["before_tap"], found.details["behind_tap"], found.details["resends_lost"]) == (0, 1, 0)


def test_a_fast_resend_that_was_lost_until_the_timer_fired_is_named() -> None:
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).reply(ANSWER, lose="after", only=[1])
    wire.wait(ms=41).resend(ROOM, 2 * ROOM, by="server", lose="after").wait(ms=250).resend(ROOM, 2 * ROOM, by="server").close()
    (found,) = diagnosed(DETECTOR, wire.trace())
    assert found.details["resent"] == {"fast": 1, "rto": 1}
    assert found.details["resends_lost"] == 1


def test_hosts_without_timestamps_stay_quiet() -> None:
    """Windows counts the IP-IDs of all its connections together: skipped ones prove nothing about this one."""
    assert diagnosed(DETECTOR, download("client", timestamps=False).trace()) == []


def test_a_quiet_sender_that_skips_no_ip_ids_stays_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().send(GET).reply(ANSWER[: 3 * ROOM]).wait(ms=240).reply(ANSWER[3 * ROOM :]).close()
    assert diagnosed(DETECTOR, wire.trace()) == []


def test_a_receiver_without_ip_ids_says_nothing_and_stays_quiet() -> None:
    assert diagnosed(DETECTOR, download("client", ip_id=False).trace()) == []


def test_a_lost_acknowledgment_of_the_request_stays_quiet() -> None:
    """The server acknowledges the request, and thinks for 300 ms; only the ACK is lost."""
    wire = Wire(rtt_ms=40).handshake()
    for _ in range(12):
        wire.send(GET).wait(ms=300).reply(OK).wait(ms=20)
    wire.acks("none", "server").send(GET).ack("server", lose="before").acks("quick", "server").wait(ms=300).reply(OK)
    assert diagnosed(DETECTOR, wire.close().trace()) == []


def test_a_lost_acknowledgment_stays_quiet_when_dsack_tells() -> None:
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).acks("none", "client").reply(ANSWER)
    assert diagnosed(DETECTOR, wire.wait(ms=240).acks("quick", "client").resend(by="server").close().trace()) == []


def test_a_hole_that_sack_reported_stays_quiet() -> None:
    wire = Wire(vantage="server", rtt_ms=40).handshake().send(GET).reply(ANSWER, lose="after", only=[1])
    assert diagnosed(DETECTOR, wire.wait(ms=41).resend(ROOM, 2 * ROOM, by="server").close().trace()) == []


def test_a_slow_server_stays_quiet() -> None:
    wire = Wire(rtt_ms=40).handshake().http_get(think_ms=600).http_get(think_ms=900).close()
    assert diagnosed(DETECTOR, wire.trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_cut_capture_raises_nothing(vantage: Vantage, tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, download(vantage), tmp_path)) > 10


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    assert diagnosed(DETECTOR, load(str(LAB / "tail-loss-rto" / f"{end}.pcap")))
    for quiet in ("clean-control", "capture-loss", "reordering-control", "zero-window", "pmtu-icmp-honoured"):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
