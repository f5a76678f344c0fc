"""one-way-capture: one side of a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcapdiag.detectors.one_way_capture import DETECTOR
from pcapdiag.findings import Domain, FindingKind
from pcapdiag.pipeline import diagnose
from tests.detectors.opinion import conclusions, of_cuts
from tests.wire import Recording, Wire, merge

if TYPE_CHECKING:
    from tests.wire_line import Side

MAC_OF = {"client": 1, "server": 2}


class OneSide(Recording):
    """Only what one host sent."""

    def __init__(self, whole: Recording, side: Side) -> None:
        self._whole, self._mac = whole, bytes([2, 0, 0, 0, 0, MAC_OF[side]])

    def sights(self) -> list[tuple[int, int, bytes]]:
        return [sight for sight in self._whole.sights() if sight[2][6:12] == self._mac]


def talk(cport: int = 50_000) -> Wire:
    wire = Wire(cport=cport).handshake().http_get(body=20_000, think_ms=300).wait(ms=100)
    return wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").wait(ms=900).reply(20_000, lose="after", only=(13,)).wait(ms=300).resend()


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_missing_direction_fires(side: Side) -> None:
    (found,) = conclusions(DETECTOR, OneSide(talk(), side).trace())
    assert (found.kind, found.lowers_verdict) == (FindingKind.CAPTURE, True)
    assert (found.details["one_way_flows"], found.flows) == (1, (0,))
    assert found.frames[0].note.startswith(f"the {side} acknowledges")


@pytest.mark.parametrize("side", ["client", "server"])
def test_nobody_is_accused_for_what_was_not_captured(side: Side) -> None:
    """The network least of all: half a conversation cannot prove a loss."""
    causes = [f for f in diagnose(OneSide(talk(), side).trace()).findings if f.conclusion.kind is FindingKind.CAUSE]
    assert [f.code for f in causes if f.conclusion.confidence.value > 0.4 or f.domain is Domain.NETWORK] == []


def test_one_of_many_leaves_the_verdict_standing() -> None:
    many = [Wire(cport=51_000 + number).handshake().http_get() for number in range(12)]
    (found,) = conclusions(DETECTOR, merge(OneSide(talk(), "client"), *many).trace())
    assert not found.lowers_verdict


def test_both_directions_stay_quiet() -> None:
    assert conclusions(DETECTOR, talk().trace()) == []


def test_a_host_that_never_answers_stays_quiet() -> None:
    assert conclusions(DETECTOR, Wire().syn().wait(ms=1_000).syn().wait(ms=2_000).syn().trace()) == []


def test_a_cut_capture_raises_nothing(tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, OneSide(talk(), "server"), tmp_path)) > 10
