"""The ledger's own look-ups, confidence, and frames that prove something."""

from __future__ import annotations

import pytest

from pcapdiag.stalls.evidence import frame_of, frames_of, frames_of_packets, mark, marked
from pcapdiag.stalls.ledger import Entry, Ledger
from pcapdiag.stalls.sign import NOT_CAUSES, PROPAGATION, SERVER_THINK, Confidence, Frame, Label, OfFlow, Tier
from tests.wire import START_NS, Wire

LOSS = Label(Tier.LOSS, 0, "loss")


def ledger() -> Ledger:
    """Two requests and the set-up of the first, which counts only as its part."""
    entries = (
        (Entry(0, 0, 40, PROPAGATION, None), Entry(0, 40, 100, LOSS, None)),
        (Entry(1, 0, 20, LOSS, None),),
        (Entry(2, 50, 120, SERVER_THINK, None), Entry(2, 120, 130, LOSS, None)),
    )
    return Ledger.of(entries, (True, False, True), (200, 200, 200), (Entry(0, 130, 430, LOSS, None),))


def test_entries_of_a_label_are_those_that_count() -> None:
    assert [(entry.owner, entry.duration_ns) for entry in ledger().entries("loss")] == [(0, 60), (2, 10)]
    assert list(ledger().entries("nothing")) == []


def test_sums_hold_calls_and_leave_parts_of_others_out() -> None:
    sums = ledger().by_label_ns()
    assert list(sums.items()) == [("loss", 370), ("server-think", 70), ("propagation", 40)], "the largest first"
    even = Ledger.of(((Entry(0, 0, 5, LOSS, None), Entry(0, 5, 10, PROPAGATION, None)),), (True,), (0,))
    assert list(even.by_label_ns()) == ["loss", "propagation"], "then by name"


def test_labels_rank_by_tier_then_place() -> None:
    assert Label(Tier.DEAD, 9, "a") < Label(Tier.LOSS, 0, "b") < Label(Tier.LOSS, 1, "a") < SERVER_THINK < PROPAGATION
    assert "propagation" in NOT_CAUSES
    assert "server-think" not in NOT_CAUSES


@pytest.mark.parametrize(("limit", "value", "added"), [(0.4, 0.4, ("cap: one-way",)), (0.9, 0.9, ()), (1.0, 0.9, ())])
def test_a_cap_lowers_a_confidence_and_says_so(limit: float, value: float, added: tuple[str, ...]) -> None:
    assert Confidence(0.9, ("seen twice",)).capped(limit, "one-way") == Confidence(value, ("seen twice", *added))


def test_frames_come_from_segments_and_what_was_not_seen_is_left_out() -> None:
    trace = Wire().handshake().send(10).trace()
    assert frame_of(trace, 1, "accepted") == Frame(0, 2, int(trace.segments.ts_ns[1]), "accepted")
    assert [frame.number for frame in frames_of(trace, [(3, "data"), (-1, "never"), (0, "opened")])] == [4, 1]
    assert [(frame.number, frame.note) for frame in frames_of_packets(trace, [2, 0], "x")] == [(3, "x"), (1, "x")]
    assert frame_of(trace, 0, "").ts_ns == START_NS + 10_000


def test_a_mark_takes_no_time_from_anybody() -> None:
    shown = (Frame(0, 7, 500, "copy"), Frame(1, 3, 400, "copy"))
    one = mark("duplicate-packets", shown, facts=3)
    assert (one.start_ns, one.end_ns, one.scope, one.code, one.facts) == (500, 500, OfFlow(-1), "duplicate-packets", 3)
    assert one.label > PROPAGATION
    assert mark("duplicate-packets", ()).start_ns == 0


def test_marks_are_sorted_out_by_capture() -> None:
    signs = [mark("x", (Frame(0, 7, 500, "b"), Frame(1, 1, 1, "other"))), mark("x", (Frame(0, 2, 100, "a"), Frame(0, 7, 500, "b")))]
    assert [frame.number for frame in marked(signs, 0)] == [2, 7]
    assert marked(signs, 2) == ()
