"""Nothing is dropped without being counted."""

from __future__ import annotations

import re

from pcapdiag.losses import FRAME_LOSSES, Loss, Losses


def test_losses_are_counted_per_capture_and_kind() -> None:
    losses = Losses()
    losses.add(Loss.STREAM_HOLE, 3)
    losses.add(Loss.ARP)
    losses.add(Loss.ARP, 2, capture=1)
    losses.add(Loss.LLDP, 0)
    assert losses.of(0) == {Loss.ARP: 1, Loss.STREAM_HOLE: 3}
    assert list(losses.of(0)) == [Loss.ARP, Loss.STREAM_HOLE], "as Loss declares them, not as they came"
    assert (losses.of(1), losses.of(2)) == ({Loss.ARP: 2}, {})
    assert (losses.total(Loss.ARP), losses.total(Loss.LLDP)) == (3, 0)


def test_two_counters_add_up() -> None:
    one, other = Losses(), Losses()
    one.add(Loss.ARP, 2)
    other.add(Loss.ARP, 5)
    other.add(Loss.ARP, 1, capture=3)
    one.merge(other)
    assert (one.of(0), one.of(3)) == ({Loss.ARP: 7}, {Loss.ARP: 1})
    assert other.of(0) == {Loss.ARP: 5}


def test_each_kind_has_a_name_for_reports_and_a_sentence_for_people() -> None:
    assert Loss.ARP.value == "arp"
    assert len({loss.value for loss in Loss}) == len(Loss) == len({loss.sentence for loss in Loss})
    for loss in Loss:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", loss.value), loss
        assert " " in loss.sentence, loss
        assert not loss.sentence.endswith("."), loss


def test_what_makes_a_frame_no_row_is_told_from_the_rest() -> None:
    assert FRAME_LOSSES.issubset(Loss)
    assert {Loss.STREAM_HOLE, Loss.BAD_TCP_OPTION, Loss.HPACK_LOST}.isdisjoint(FRAME_LOSSES)
