"""Counts where both say the same of a packet, where one says more, and which named class a difference belongs to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pcapdiag.errors import CaptureError
from tests.agreement.classes import CLASSES, Difference
from tests.agreement.ours import FACTS, Scene, our_facts, their_facts
from tests.agreement.theirs import NONE, dissect

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pcapdiag.columns import I64, Bools

FEW = 2
"""Where a fact is rare, so many packets may differ."""
SHARE = 0.99


@dataclass(slots=True)
class Tally:
    """One fact over all packets that both decode."""

    theirs: int = 0
    ours: int = 0
    both: int = 0
    """Packets of which both say the same."""
    missed: int = 0
    """tshark says something that we do not, and no class sets it aside."""
    extra: int = 0
    """The other way round."""
    aside: Counter[str] = field(default_factory=Counter)
    """Class -> packets that differ and belong to it."""
    frames: list[tuple[str, int]] = field(default_factory=list)
    """A few (capture, frame) that differ without a class."""

    @property
    def recall(self) -> float:
        """Share of what tshark says that we say too."""
        return self.both / (self.both + self.missed) if self.both + self.missed else 1.0

    @property
    def precision(self) -> float:
        """Share of what we say that tshark says too."""
        return self.both / (self.both + self.extra) if self.both + self.extra else 1.0

    @property
    def agrees(self) -> bool:
        """Is it near enough?"""
        return (self.recall >= SHARE or self.missed <= FEW) and (self.precision >= SHARE or self.extra <= FEW)


@dataclass(slots=True)
class Agreement:
    """The result over a set of captures."""

    facts: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in FACTS})
    applies: Counter[str] = field(default_factory=Counter)
    """Class -> facts that one side states of packets in it, and that it could explain."""
    captures: int = 0
    packets: int = 0
    """TCP packets that both decode."""
    theirs_only: Counter[str] = field(default_factory=Counter)
    """Capture -> TCP packets only tshark decodes."""
    ours_only: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    """Capture we do not read -> why."""

    def add(self, scene: Scene, name: str) -> None:
        """Counts the packets of one capture."""
        both = scene.at >= 0
        self.captures += 1
        self.packets += int(both.sum())
        self.theirs_only[name] += len(scene.theirs.frame) - len(np.unique(scene.at[both]))
        self.ours_only[name] += int((~both & ~np.isin(scene.frame, scene.theirs.nested)).sum())
        mine, other = our_facts(scene), their_facts(scene)
        classes = {one.name: one.applies(scene) & both for one in CLASSES}
        for fact, tally in self.facts.items():
            said = both & ((mine[fact] != NONE) | (other[fact] != NONE))
            self.applies.update({one.name: int((said & classes[one.name]).sum()) for one in _explaining(fact)})
            self._count(tally, name, scene, both, mine[fact], other[fact], {one.name: classes[one.name] for one in _explaining(fact)})

    @staticmethod
    def _count(tally: Tally, name: str, scene: Scene, both: Bools, mine: I64, other: I64, classes: dict[str, Bools]) -> None:
        ours, theirs, same = both & (mine != NONE), both & (other != NONE), mine == other
        tally.ours += int(ours.sum())
        tally.theirs += int(theirs.sum())
        tally.both += int((ours & same).sum())
        differs = (ours | theirs) & ~same
        for cause, rows in classes.items():
            tally.aside[cause] += int((differs & rows).sum())
            differs &= ~rows
        tally.missed += int((differs & theirs).sum())
        tally.extra += int((differs & ours).sum())
        tally.frames += [(name, frame) for frame in scene.frame[differs][:3].tolist()]


def _explaining(fact: str) -> list[Difference]:
    return [one for one in CLASSES if not one.facts or fact in one.facts]


def compare(captures: Iterable[tuple[str, Path]]) -> Agreement:
    """Compares all of them; a capture that we cannot read is noted."""
    result = Agreement()
    for name, path in captures:
        theirs = dissect(path)
        try:
            scene = Scene.of(path, theirs)
        except CaptureError as error:
            result.unread[name] = str(error)
            continue
        result.add(scene, name)
    return result
