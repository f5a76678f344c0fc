"""Single impossible times are mended; what has another explanation keeps its times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pcapdiag.findings import Domain, FindingKind
from pcapdiag.flows.untimely import find_untimely, times_of_neighbours
from pcapdiag.packets.table import Packets
from pcapdiag.pipeline import diagnose
from tests.wire import Recording, Wire

S = 1_000_000_000


class Odd(Recording):
    """The same records in the same places, some with other times."""

    def __init__(self, whole: Recording, change: Callable[[int, int], int]) -> None:
        self._whole, self._change = whole, change

    def frames(self) -> list[tuple[int, bytes]]:
        return [(self._change(i, ts_ns), frame) for i, (ts_ns, frame) in enumerate(self._whole.frames())]

    def sights(self) -> list[tuple[int, int, bytes]]:
        return self._whole.sights()


def untimely(packets: Packets) -> list[int]:
    """Of a trace of one capture."""
    found: list[int] = find_untimely(packets, slice(0, len(packets))).tolist()
    return found


def talk() -> Wire:
    wire = Wire(rtt_ms=30).handshake()
    for _ in range(4):
        wire.http_get(body=60_000, think_ms=100)
    return wire.close()


def shifted(every: int, seconds: float) -> Callable[[int, int], int]:
    return lambda i, ts_ns: ts_ns + round(seconds * S) * (i % every == 3)


@pytest.mark.parametrize("seconds", [-5, -0.5, 5])
@pytest.mark.parametrize("every", [7, 20])
def test_the_diagnosis_is_that_of_right_times(seconds: float, every: int) -> None:
    plain, odd = talk().trace(), Odd(talk(), shifted(every, seconds)).trace()
    assert odd.quality[0].untimely > 3
    assert "misordered-packets" in odd.quality[0].issues
    assert odd.quality[0].unseen_bytes == plain.quality[0].unseen_bytes == 0
    findings = diagnose(odd).findings
    assert [f.code for f in findings if f.conclusion.kind is FindingKind.CAUSE and f.domain is Domain.NETWORK] == []
    assert [f.code for f in findings if f.conclusion.kind is FindingKind.CAPTURE] == ["misordered-packets"]


def test_only_the_odd_records_are_touched() -> None:
    odd = Odd(talk(), shifted(7, -5)).trace().packets
    plain = talk().trace().packets
    changed = np.flatnonzero(odd.ts_ns != plain.ts_ns)
    assert set(changed.tolist()) <= set(range(3, len(plain), 7))
    assert (np.diff(odd.ts_ns) >= 0).all()


def test_two_odd_records_prove_nothing() -> None:
    plain = talk().trace().packets
    assert len(untimely(Odd(talk(), lambda i, ts_ns: ts_ns - 5 * S * (i in {20, 40})).trace().packets)) == 0
    assert len(untimely(plain)) == 0


def test_files_laid_one_behind_the_other_keep_their_times() -> None:
    """`mergecap -a`: the second half is a minute older."""
    count = len(talk().frames())
    packets = Odd(talk(), lambda i, ts_ns: ts_ns - 60 * S * (i > count // 2)).trace().packets
    assert len(untimely(packets)) == 0


def test_records_held_up_on_their_way_into_the_file_are_sorted_by_time() -> None:
    """A queue written a second late: its records lie behind later ones of the same direction, and their numbers say so."""

    class HeldUp(Odd):
        def frames(self) -> list[tuple[int, bytes]]:
            frames = self._whole.frames()
            for i in range(10, len(frames) - 6, 9):
                frames.insert(i + 5, frames.pop(i))
            begin_ns = frames[0][0]
            return [(begin_ns + 40 * (ts_ns - begin_ns), frame) for ts_ns, frame in frames]

    assert len(untimely(HeldUp(talk(), lambda _, ts_ns: ts_ns).trace().packets)) == 0


def test_records_that_come_late_into_the_file_but_in_the_order_of_their_direction_are_sorted_by_time() -> None:
    """Two cards, one a direction, each with a buffer: both the places and the times of the records fit their connection."""

    class Buffered(Recording):
        def frames(self) -> list[tuple[int, bytes]]:
            wire = Wire(rtt_ms=30).handshake()
            for _ in range(40):
                wire.wait(ms=250).send(300).wait(ms=120).reply(200)
            frames = wire.close().frames()
            answers = [i for i, (_, frame) in enumerate(frames) if frame[34:36] == (80).to_bytes(2)][2::6]
            places = {i: i + 2.5 * (i in answers) for i in range(len(frames))}
            return [frames[i] for i in sorted(places, key=lambda i: places[i])]

    quality = Buffered().trace().quality[0]
    assert (quality.backward_steps > 3, quality.untimely) == (True, 0)


def test_one_error_of_all_is_taken_out() -> None:
    packets = talk().trace().packets
    rows = np.arange(3, len(packets), 7)
    wrong = packets.ts_ns.copy()
    wrong[rows] -= 5 * S
    times = times_of_neighbours(replace(packets, ts_ns=wrong), rows)
    assert np.abs(times - packets.ts_ns[rows]).max() < S // 1_000


def test_errors_that_differ_give_way_to_the_record_before() -> None:
    packets = talk().trace().packets
    rows = np.array([0, 5, 6, 40])
    wrong = packets.ts_ns.copy()
    wrong[rows] -= np.array([3, 7, 2, 9]) * S
    times = times_of_neighbours(replace(packets, ts_ns=wrong), rows)
    assert times.tolist() == packets.ts_ns[[1, 4, 4, 39]].tolist()
