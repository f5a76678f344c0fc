"""What became of packets sent again, where the other tap shows when they and their ACKs came by."""

from __future__ import annotations

from pathlib import Path

from tests.two_taps import Tapped, Taps, counts


def test_an_ack_that_could_not_have_come_in_time_brought_about_no_resend(tmp_path: Path) -> None:
    """The resend leaves 60 ms after the bytes, on a path of 100 ms; the ACK that had just left is lost, too."""

    def script(wire: Tapped) -> None:
        wire.acks("none", "server").syn().syn_ack().ack().send(300).ack("server", lose=wire.between("server"))
        wire.wait(ms=10).resend(by="client").wait(ms=2).ack("server")

    assert counts(Taps.of(script, rtt_ms=100).paired(tmp_path)) == ({"spurious": 1}, {"between": 1})


def test_original_and_resend_that_arrive_together_were_not_lost_behind(tmp_path: Path) -> None:
    """Both wait in one queue. Without SACK the receiver does not say that they came twice."""

    def script(wire: Tapped) -> None:
        wire.acks("none", "server").syn().syn_ack().ack().rtt(ms=556).send(300).wait(ms=260).rtt(ms=40).resend(by="client")
        wire.wait(ms=20).ack("server")

    assert counts(Taps.of(script, sack=False, rtt_ms=40).paired(tmp_path))[0] == {"spurious": 1}
