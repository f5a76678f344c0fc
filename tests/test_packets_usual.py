"""The short way for usual frames gives what the layers give."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pcapdiag.capture import read_capture
from pcapdiag.losses import Losses
from pcapdiag.packets import Packets, decode, decode_packets

SAMPLES = sorted(Path(__file__).parents[1].glob("samples/*/*.pcap"))


def decoded(path: Path) -> tuple[Packets, Losses]:
    losses = Losses()
    return decode_packets(read_capture(str(path), losses), losses), losses


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Packets, Losses], tuple[Packets, Losses]]:
    short = decoded(path)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "read_usual", lambda *_: None)
        return short, decoded(path)


def assert_same(one: Packets, other: Packets) -> None:
    for table, reference in (
        (one, other),
        (one.sacks, other.sacks),
        (one.icmp_errors, other.icmp_errors),
        (one.fragments, other.fragments),
    ):
        for name in type(reference).columns():
            np.testing.assert_array_equal(getattr(table, name), getattr(reference, name), name)
            assert getattr(table, name).dtype == getattr(reference, name).dtype, name
    assert one.addresses == other.addresses
    assert one.tunnels == other.tunnels


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_samples(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short, _), (layers, _) = both_ways(path, monkeypatch)
    assert_same(short, layers)


@pytest.mark.parametrize("seed", range(12))
def test_frames_with_flipped_bytes_and_cut_ends(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the frames is damaged anywhere in the headers, another tenth cut: both ways must agree, losses included."""
    chance = random.Random(seed)
    data = bytearray(SAMPLES[seed % len(SAMPLES)].read_bytes())
    at, out = 24, bytearray(data[:24])
    while at + 16 <= len(data):
        captured = int.from_bytes(data[at + 8 : at + 12], "little")
        record, frame = bytearray(data[at : at + 16]), bytearray(data[at + 16 : at + 16 + captured])
        at += 16 + captured
        if chance.random() < 0.1:
            place = chance.randrange(min(len(frame), 80))
            frame[place] = chance.choice([0, 0xFF, 0x45, 0x50, 0x80, chance.randrange(256)])
        if chance.random() < 0.1:
            frame = frame[: chance.randrange(90)]
        record[8:12] = len(frame).to_bytes(4, "little")
        out += record + frame
    path = tmp_path / "damaged.pcap"
    path.write_bytes(out)
    (short, short_losses), (layers, layers_losses) = both_ways(path, monkeypatch)
    assert_same(short, layers)
    assert {loss: short_losses.total(loss) for loss in short_losses.of(0)} == {
        loss: layers_losses.total(loss) for loss in layers_losses.of(0)
    }
