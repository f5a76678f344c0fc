"""Heads that are missing: cut off by the snapshot length, or lost by the capture."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from pcapdiag.detectors import tail_loss_rto
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.pipeline import diagnose
from tests.detectors.opinion import LAB, diagnosed
from tests.detectors.test_h2_tcp_hol import ANSWER, ASK, asked
from tests.paired import paired, request, response
from tests.wire import Recording, Wire
from tests.wire_h2 import PREFACE, Blocks, data, settings

if TYPE_CHECKING:
    from pcapdiag.exchanges.table import Exchange


class Cut(Recording):
    """The beginnings of the frames of a recording."""

    def __init__(self, whole: Recording, snaplen: int) -> None:
        self._whole, self._snaplen = whole, snaplen

    def pcap(self, *, snaplen: int = 262_144) -> bytes:
        return self._whole.pcap(snaplen=min(snaplen, self._snaplen))


def talk(*, lose: bool = False) -> Wire:
    wire = Wire(rtt_ms=20).handshake()
    for number in range(5):
        head = request(f"/{number}", method="GET")
        wire.wait(ms=30).send(head, lose="after" if lose and number == 3 else None)
        if lose and number == 3:
            wire.wait(ms=300).resend(by="client")
        wire.wait(ms=100).reply(response(b"y" * 400, status="200 It is all there"))
    return wire.close()


@pytest.mark.parametrize("snaplen", [68, 96, 120, 150])
def test_where_one_side_cannot_be_read_turns_tell_the_requests(snaplen: int) -> None:
    whole = [e.duration_ns for e in talk().trace().exchanges if e.protocol is Protocol.HTTP1]
    cut = [e for e in Cut(talk(), snaplen).trace().exchanges if e.protocol in {Protocol.OTHER, Protocol.HTTP1}]
    assert [e.duration_ns for e in cut] == whole
    assert {e.outcome for e in cut} == {Outcome.OK}


@pytest.mark.parametrize("snaplen", [68, 96, 120])
def test_what_headers_show_is_found_without_a_byte_of_payload(snaplen: int) -> None:
    (whole,) = diagnosed(tail_loss_rto.DETECTOR, talk(lose=True).trace())
    (found,) = diagnosed(tail_loss_rto.DETECTOR, Cut(talk(lose=True), snaplen).trace())
    assert found.stall_ns == whole.stall_ns


def test_the_last_answer_whose_head_the_capture_lost_is_an_answer() -> None:
    wire = Wire(rtt_ms=20).handshake().http_get(body=100).send(request("/last")).wait(ms=100)
    head, _, _ = response(b"y" * 600).partition(b"y")
    exchanges = paired(wire.reply(head, lose="capture").reply(b"y" * 600).close()).applications
    assert [(e.name, e.outcome, round(e.duration_ns / 1e6)) for e in exchanges][1:] == [("POST /last", Outcome.OK, 120)]
    assert [f.severity.name for f in diagnose(wire.trace()).findings if f.code == "server-think"] in ([], ["INFO"], ["LOW"])


def test_an_answer_to_a_request_that_the_capture_lost_does_not_answer_the_one_before() -> None:
    wire = Wire(rtt_ms=20).handshake().http_get(body=100).wait(ms=50)
    wire.send(request("/one")).wait(ms=40).reply(response(b"y" * 600)[:-600], lose="capture").reply(b"y" * 600)
    wire.wait(ms=200).send(request("/two"), lose="capture").wait(ms=300).reply(response(b"z"))
    exchanges = paired(wire.close()).applications
    assert [(e.name, round(e.duration_ns / 1e6)) for e in exchanges if e.name.endswith("/one")] == [("POST /one", 60)]
    assert all(e.outcome is Outcome.OK for e in exchanges)


def test_requests_whose_answers_are_all_unread_were_not_given_up() -> None:
    wire = Wire(rtt_ms=20).handshake().http_get(body=100)
    for number in range(3):
        wire.wait(ms=50).send(request(f"/{number}")).wait(ms=40).reply(response(b"y" * 600)[:-600], lose="capture").reply(b"y" * 600)
    assert {e.outcome for e in paired(wire.close()).applications} == {Outcome.OK}


def test_a_request_that_nothing_answers_still_hangs() -> None:
    wire = Wire(rtt_ms=20).handshake().http_get(body=100).send(request("/one")).wait(ms=40)
    wire.reply(response(b"y" * 600)[:-600], lose="capture").reply(b"y" * 600).wait(ms=50).send(request("/two")).wait(ms=900).fin("client")
    (hung,) = [e for e in paired(wire).applications if e.name.endswith("/two")]
    assert hung.outcome is Outcome.ABORTED
    assert hung.duration_ns / 1e6 == pytest.approx(900, abs=30)


# --- HTTP/2 --------------------------------------------------------------------------------------------------------------


def streams(*, snaplen: int = 262_144, hangs: bool = False, lost_after_ms: float | None = None) -> list[Exchange]:
    """Three requests on one connection, answered after 100 ms; the last one may hang until the client gives up."""
    wire, back = asked("client", (1, 3, 5)), Blocks()
    answers = [back.headers(stream, [*ANSWER, ("x", "y" * 80)]) + data(stream, b"x" * 300, end_stream=True) for stream in (1, 3, 5)]
    wire.wait(ms=100).reply(b"".join(answers[: 2 if hangs else 3]))
    if lost_after_ms is not None:
        wire.wait(ms=lost_after_ms).reply(data(3, b"x" * 100), lose="capture").wait(ms=1).reply(data(3, b"x" * 100))
    wire.wait(ms=2_000).fin("client")
    return [e for e in Cut(wire, snaplen).trace().exchanges if e.protocol not in {Protocol.CONNECT, Protocol.OTHER}]


@pytest.mark.parametrize("snaplen", [120, 160, 200])
def test_streams_whose_answers_were_cut_off_were_not_given_up(snaplen: int) -> None:
    whole = {e.h2_stream: e.duration_ns for e in streams()}
    cut = streams(snaplen=snaplen)
    assert {e.outcome for e in cut} == {Outcome.OK}
    assert all(e.duration_ns <= whole[e.h2_stream] for e in cut)


def test_a_stream_that_hung_is_given_up() -> None:
    (hung,) = [e for e in streams(hangs=True) if e.h2_stream == 5]
    assert (hung.outcome, hung.duration_ns > 2_000_000_000) == (Outcome.ABORTED, True)


def test_of_a_stream_that_hung_nothing_is_known_behind_bytes_that_nobody_read() -> None:
    """They may have been its answer; until then it waited."""
    (hung,) = [e for e in streams(hangs=True, lost_after_ms=900) if e.h2_stream == 5]
    assert hung.outcome is Outcome.OK
    assert hung.duration_ns / 1e6 == pytest.approx(1_040, abs=60)


def test_bytes_that_nobody_read_before_it_was_asked_are_not_its_answer() -> None:
    blocks, back = Blocks(), Blocks()
    wire = Wire(rtt_ms=20).handshake().send(PREFACE + settings()).reply(settings() + settings(ack=True))
    wire.send(blocks.headers(1, ASK, end_stream=True)).wait(ms=50).reply(back.headers(1, ANSWER, end_stream=False))
    wire.reply(data(1, b"x" * 900, end_stream=True), lose="capture").reply(settings(ack=True))
    wire.wait(ms=200).send(blocks.headers(3, ASK, end_stream=True)).wait(ms=800).fin("client")
    (hung,) = [e for e in wire.trace().exchanges if e.h2_stream == 3]
    assert (hung.outcome, round(hung.duration_ns / 1e8)) == (Outcome.ABORTED, 8)


# --- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("snaplen", [68, 96, 128, 200])
def test_records_that_begin_behind_the_cut_leave_turns(snaplen: int) -> None:
    """Two token streams: losses are found and charged as in the whole capture, and nobody is said to have worked for seconds."""

    class OfLab(Recording):
        def frames(self) -> list[tuple[int, bytes]]:
            data, at, frames = (LAB / "tls-sse-loss" / "client.pcap").read_bytes(), 24, []
            nano = data[:4] == b"\x4d\x3c\xb2\xa1"
            while at < len(data):
                seconds, fraction, length, _ = struct.unpack_from("<IIII", data, at)
                frames.append((seconds * 10**9 + fraction * (1 if nano else 1_000), data[at + 16 : at + 16 + length]))
                at += 16 + length
            return frames

    whole, cut = (diagnose(one.trace()).findings for one in (OfLab(), Cut(OfLab(), snaplen)))
    lost = [[f.conclusion.stall_ns // 1_000_000 for f in findings if f.code == "fast-retransmit-loss"] for findings in (whole, cut)]
    assert lost[0] == lost[1] != []
    assert max((f.conclusion.stall_ns for f in cut if f.code == "server-think"), default=0) < 1_000_000_000
