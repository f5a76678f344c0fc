"""Which files follow one another: the members of a ring buffer are read in the order of time, and become one capture.

A file continues a recording if it begins when that has ended, soon after it, and describes the same interface. Names say
nothing about the order; folder and stem only tell two recordings side by side from each other. Files that overlap in
time, begin with the same packets (two captures of one path, whose clocks differ), or see from the far end what another saw
from the near end (two hosts), are captures of their own.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice, takewhile
from pathlib import PurePath
from typing import Final

import numpy as np

from pcapdiag.capture.blocks import FARTHEST_NS
from pcapdiag.capture.frames import Capture, Frames, Interface
from pcapdiag.capture.inputs import Input
from pcapdiag.errors import CaptureError
from pcapdiag.losses import FRAME_LOSSES, Loss, Losses

_PAUSE_NS: Final = 60_000_000_000
"""A recording may pause so long between two files, or as long as it has lasted: a quiet link fills no file."""
_OVERLAP_NS: Final = 100_000_000
"""Capture threads may misorder packets by so much across a change of files..."""
_OVERLAP_SHARE: Final = 4
"""...but by no more than this part of the file before: files that lie side by side overlap by all of it."""

_CHOICES: Final = 16
"""So many files that might come next are compared; more stand there only in sets of recordings that have nothing to do with each other."""
_SAME_SHARE: Final = 4
"""Two captures of one path have this part of their first packets in common; resends and copies are fewer..."""
_LEAST_SAME: Final = 8
"""...but keep-alives, which are all alike, may be all that a small file holds."""


@dataclass(slots=True)
class _Recording:
    """What was read of one capture so far."""

    index: int
    files: list[Capture] = field(default_factory=list)
    interfaces: dict[tuple[Interface, int], int] = field(default_factory=dict)
    """An interface without its counters, and how many such lie before it in its file -> its index."""
    last_number: int = 0

    def as_its_own(self, frames: Frames, described: Sequence[Interface]) -> Frames:
        """A batch of its next file, with the numbers of the whole recording."""
        if not self.files:
            return frames if frames.capture == self.index else replace(frames, capture=self.index)
        indices = _learn_interfaces(described, self.interfaces)
        same = indices == list(range(len(indices)))
        interface = frames.interface if same else np.array(indices, np.uint16)[frames.interface]
        return replace(frames, capture=self.index, number=frames.number + self.last_number, interface=interface)

    def add(self, file: Capture) -> None:
        """Takes note of a file that was read."""
        self.files.append(file)
        self.last_number += file.last_number
        _learn_interfaces(file.interfaces, self.interfaces)


class Recordings:
    """Iterable once: the batches of all captures, one capture after the other, each in the order of its files' first frames.

    A batch names its capture by its index in `captures`, which is complete when all batches were taken; frames are
    numbered through all files of a capture.
    """

    def __init__(self, inputs: Sequence[Input], losses: Losses, *, apart: bool = False, digest: bool = True) -> None:
        """Makes ready to read.

        Args:
            inputs: in the order the captures shall have: that of their first files.
            losses: counts while batches are taken.
            apart: what different arguments name is never one capture.
            digest: compute the SHA-256 of each file.
        """
        self._inputs, self._losses, self._apart, self._digest = inputs, losses, apart, digest
        self._by_time = sorted(inputs, key=_begins)
        self._read: set[int] = set()
        """ids of inputs."""
        self._spans: dict[int, tuple[int, int]] = {}
        """id of an input -> times of its first and last frame, as far as they were needed."""
        self._recordings: list[_Recording] = []
        self.failures: list[str] = []
        """Why inputs could not be read after all."""

    @property
    def captures(self) -> tuple[Capture, ...]:
        """All captures."""
        return tuple(_merged(recording) for recording in self._recordings)

    def __iter__(self) -> Iterator[Frames]:
        self._order_ties()
        for named in self._inputs:
            if id(named) in self._read:
                continue
            recording = _Recording(len(self._recordings))
            for one in self._chain(self._begin_of(named), self._read):
                self._read.add(id(one))
                yield from self._batches(one, recording)
            if recording.files:
                self._recordings.append(recording)

    def _order_ties(self) -> None:
        """Of files that begin in the same instant the one that ends first comes first: clocks are coarse, bursts are not."""
        begun = Counter(one.first_ns for one in self._inputs if one.first_ns is not None)
        for one in self._by_time:
            if one.first_ns is not None and begun[one.first_ns] > 1:
                self._look_for_its_end(one)
        self._by_time.sort(key=lambda one: (_begins(one), self._spans.get(id(one), (0, 0))[1]))

    def _batches(self, one: Input, recording: _Recording) -> Iterator[Frames]:
        counted = Losses()
        try:
            reader, batches = one.read(counted, digest=self._digest)
        except CaptureError as error:  # it changed since it was looked at
            self.failures.append(str(error))
            return
        before = self._losses.of(recording.index)
        for frames in batches:
            yield recording.as_its_own(frames, reader.interfaces)
        for loss, count in counted.of(0).items():
            self._losses.add(loss, count, capture=recording.index)
        self._finish(one, reader.capture, recording, before)

    def _finish(self, one: Input, file: Capture, recording: _Recording, before: dict[Loss, int]) -> None:
        """Who takes the next batch has counted by now what could not be decoded of this file."""
        lost = {loss: n - before.get(loss, 0) for loss, n in self._losses.of(recording.index).items() if loss in FRAME_LOSSES}
        recording.add(replace(file, not_decoded=tuple((k, n) for k, n in lost.items() if n), path=one.path, host=one.host))
        if file.first_ns is not None and file.last_ns is not None:
            self._spans[id(one)] = file.first_ns, file.last_ns

    def _begin_of(self, one: Input) -> Input:
        """The first file of the recording that one belongs to. Ends of files are looked up only where an earlier one may lead to it."""
        passed = set(self._read)
        for other in self._by_time:
            if other is one:
                break
            if id(other) in passed or not _may_be_joined(other, one, apart=self._apart):
                continue
            for file in self._chain(other, passed):
                if file is one:
                    return other
                passed.add(id(file))
                self._look_for_its_end(file)
        return one

    def _chain(self, first: Input, passed: set[int]) -> Iterator[Input]:
        """A file and those that follow it, without those `passed`; the times of one must be known before the next is asked for."""
        last, begin_ns, end_ns = first, 0, None
        while True:
            yield last
            span = self._spans.get(id(last))
            if span is None:
                break  # it has no frame, or cannot be read
            begin_ns, end_ns = (begin_ns, max(end_ns, span[1])) if end_ns is not None else span
            following = self._following(first, last, (begin_ns, end_ns), passed)
            if following is None:
                break
            last = following
        for one in self._by_time[self._begun_at(FARTHEST_NS) :] if first.first_ns is not None else ():
            if id(one) not in passed and _may_be_joined(one, first, apart=self._apart) and (one.named.found or _stem(one) == _stem(first)):
                yield one  # a ring's member in which nothing happened

    def _following(self, first: Input, last: Input, span: tuple[int, int], passed: set[int]) -> Input | None:
        """The next file of a recording that began with `first` and has lasted for `span`."""
        begin_ns, end_ns = span
        file_ns = self._spans[id(last)][1] - self._spans[id(last)][0]
        earliest_ns, latest_ns = end_ns - min(_OVERLAP_NS, file_ns // _OVERLAP_SHARE), end_ns + max(_PAUSE_NS, end_ns - begin_ns)
        possible = (
            one
            for one in self._by_time[self._begun_at(earliest_ns) :]
            if one is not first and id(one) not in passed and _may_be_joined(one, first, last, apart=self._apart)
        )
        near = list(islice(takewhile(lambda one: _begins(one) <= min(latest_ns, FARTHEST_NS - 1), possible), _CHOICES))
        if not near:
            return None
        likely = max(near, key=lambda one: _kinship(one, first))
        if _kinship(near[0], first) == _kinship(likely, first):
            return near[0]
        self._look_for_its_end(near[0])
        _, nearest_ends_ns = self._spans.get(id(near[0]), (0, 0))
        return likely if nearest_ends_ns > _begins(likely) else near[0]

    def _begun_at(self, ns: int) -> int:
        return bisect_left(self._by_time, ns, key=_begins)

    def _look_for_its_end(self, one: Input) -> None:
        """Reads a file for the times of its frames only; a pipe's stay unknown, for it cannot be read twice."""
        if id(one) in self._spans or one.opened is not None:
            return
        try:
            reader, batches = one.read(Losses())
            for _ in batches:
                pass
        except CaptureError:
            return  # reading it will say why
        if reader.capture.first_ns is not None and reader.capture.last_ns is not None:
            self._spans[id(one)] = reader.capture.first_ns, reader.capture.last_ns


def _begins(one: Input) -> int:
    return FARTHEST_NS if one.first_ns is None else one.first_ns


def _may_be_joined(one: Input, *others: Input, apart: bool) -> bool:
    """Whether a file can be of one recording with others, whatever their times."""
    if not any(one.interfaces & other.interfaces for other in others):
        return False
    return all(
        one.format == other.format
        and not (apart and one.named.argument != other.named.argument)
        and len(one.marks.packets & other.marks.packets) < max(_LEAST_SAME, len(one.marks.packets) / _SAME_SHARE)
        and not one.marks.turns(other.marks)
        for other in others
    )


def _stem(one: Input) -> tuple[str, str]:
    """Folder, and name without what counts or dates its files."""
    path = PurePath(one.named.path)
    return str(path.parent), re.sub(r"[\d_.:-]+", "#", path.name)


def _kinship(one: Input, other: Input) -> tuple[bool, bool, bool]:
    """How much two files look like those of one recording by where they lie; names may lie about it."""
    return _stem(one) == _stem(other), one.named.shelf == other.named.shelf, one.named.argument == other.named.argument


def _learn_interfaces(interfaces: Sequence[Interface], known: dict[tuple[Interface, int], int]) -> list[int]:
    """The recording's index of each interface of one of its files; new ones are added."""
    before = Counter[Interface]()
    indices = []
    for interface in map(Interface.without_counters, interfaces):
        indices.append(known.setdefault((interface, before[interface]), len(known)))
        before[interface] += 1
    return indices


def _merged(recording: _Recording) -> Capture:
    """One capture of all files."""
    files = recording.files
    if len(files) == 1:
        return files[0]
    with_frames = [file for file in files if file.first_ns is not None] or files
    first, last = with_frames[0], with_frames[-1]
    hosts = [file.host for file in files if file.host is not None]
    begins, ends = [f.first_ns for f in files if f.first_ns is not None], [f.last_ns for f in files if f.last_ns is not None]
    return Capture(
        name=f"{first.name} and {len(files) - 1} more", sha256=_digest_of(files), format=first.format,
        compression=_shared([f.compression for f in files]),
        size_bytes=sum(f.size_bytes for f in files), frame_count=sum(f.frame_count for f in files), cut_at=last.cut_at,
        cut_note=last.cut_note, interfaces=_with_counters(recording), first_ns=min(begins, default=None), last_ns=max(ends, default=None),
        comments=tuple(dict.fromkeys(comment for file in files for comment in file.comments)),
        secrets=tuple(dict.fromkeys(secret for file in files for secret in file.secrets)),
        other_secrets=tuple(dict.fromkeys(secret for file in files for secret in file.other_secrets)),
        names=tuple(dict.fromkeys(name for file in files for name in file.names)), last_number=recording.last_number,
        host=hosts[0] if hosts else None, files=tuple(files),
        numbered_before=tuple(accumulate((f.last_number for f in files[:-1]), initial=0)),
    )  # fmt: skip


def _digest_of(files: Sequence[Capture]) -> str:
    return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()


def _shared(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else "mixed"


def _with_counters(recording: _Recording) -> tuple[Interface, ...]:
    """Its interfaces; each counter is the highest of any file: dumpcap's go on counting, so a sum would count twice."""
    interfaces = [interface for interface, _ in recording.interfaces]
    for file in recording.files:
        for index, seen in zip(_learn_interfaces(file.interfaces, recording.interfaces), file.interfaces, strict=True):
            known = interfaces[index]
            interfaces[index] = replace(
                known,
                received_count=_most(known.received_count, seen.received_count),
                dropped_by_interface_count=_most(known.dropped_by_interface_count, seen.dropped_by_interface_count),
                dropped_by_os_count=_most(known.dropped_by_os_count, seen.dropped_by_os_count),
            )
    return tuple(interfaces)


def _most(one: int | None, other: int | None) -> int | None:
    return max((count for count in (one, other) if count is not None), default=None)
