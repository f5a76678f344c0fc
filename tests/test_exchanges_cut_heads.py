"""HTTP/1.1 of which heads are missing: cut off by the snapshot length, or lost by the capture."""

from __future__ import annotations

import pytest

from pcapdiag.detectors import tail_loss_rto
from pcapdiag.exchanges.table import Outcome, Protocol
from pcapdiag.pipeline import diagnose
from tests.detectors.opinion import diagnosed
from tests.paired import paired, request, response
from tests.wire import Recording, Wire


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
