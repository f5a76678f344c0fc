"""What the user names -> the captures to read: files, directories, patterns, pipes and archives; found by content, never by name."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, takewhile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pcapdiag.capture.archive import MAX_DEPTH, Archive, Spool
from pcapdiag.capture.frames import Frames, Interface
from pcapdiag.capture.host import MAX_FACTS_LEN, HostFacts, looks_like_facts, merge_facts, read_facts
from pcapdiag.capture.marks import Marks, read_marks
from pcapdiag.capture.reader import CaptureReader, NoCaptureError, is_capture
from pcapdiag.capture.source import HEAD_LEN, Extent, Source
from pcapdiag.capture.tar import is_tar
from pcapdiag.capture.unpack import codec_of
from pcapdiag.errors import CaptureError
from pcapdiag.losses import Losses

STDIN: Final = "-"
MAX_INPUTS: Final = 65_535
"""A packet knows its capture by a 16-bit number."""
_MAX_FACTS_FILES: Final = 1_000
_SHOWN: Final = 3
_PEEK_BYTES: Final = 1 << 16
READ_BYTES: Final = 32 << 20
"""Uncompressed bytes read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A file, as it was named or found."""

    path: str
    name: str
    """As reports print it: the base name, or the path inside the directory or archive it was found in."""
    argument: int
    """Index of the argument that names it or where it was found."""
    found: bool = False
    """Found in a directory or archive, or by a pattern: that it may be no capture was to be expected."""
    shelf: tuple[str, ...] = ()
    """Where it lies below its argument; what lies near each other is about one host. () for files named themselves."""
    extent: Extent | None = None
    """Where it lies in an open archive, if it does."""


@dataclass(slots=True, kw_only=True)
class Input:
    """A capture that was opened and looked at: what its reading order and its place among the others depend on."""

    named: Named
    first_ns: int | None
    """Time of its first frame; None if it has none."""
    format: str
    interfaces: frozenset[Interface]
    """Those described before its first frame."""
    marks: Marks = field(default_factory=Marks)
    host: HostFacts | None = None
    opened: tuple[CaptureReader, Iterator[Frames], Losses] | None = None
    """Of a pipe, which cannot be read twice: its reader, all its batches, and where it counts."""

    @property
    def path(self) -> str | None:
        """Where another program can read it; None if it cannot."""
        return self.named.path if self.opened is None and self.named.extent is None else None

    def read(self, losses: Losses, *, digest: bool = True) -> tuple[CaptureReader, Iterator[Frames]]:
        """Its reader, and its batches from the first on, to be taken once; without `digest` the capture may lack its SHA-256."""
        if self.opened is None:
            named = self.named
            source = Source(named.path, named.extent, digest=digest)
            reader = CaptureReader(named.path, losses, name=named.name, source=source, batch_bytes=READ_BYTES)
            return reader, iter(reader)
        reader, batches, counted = self.opened
        losses.merge(counted)
        return reader, batches


@dataclass(slots=True)
class Inputs:
    """All captures found, by argument, then by time; open until they are closed, for archives are read where they lie."""

    captures: list[Input] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why what was named cannot be read, a line each."""
    notes: list[str] = field(default_factory=list)
    """What was passed over, a line each."""
    host_facts: HostFacts = field(default_factory=HostFacts)
    _held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def hold(self, opened: Source | Spool) -> None:
        """Keeps something open until all is read."""
        self._held.callback(opened.close)

    def close(self) -> None:
        """Closes archives, pipes and the spool; what was read of them stays."""
        self._held.close()


def expand(argument: str, index: int, seen: dict[tuple[int, int], int]) -> Iterator[Named]:
    """The files that argument number `index` names: itself, those below a directory, those a pattern matches.

    What another argument found, by device and inode, is left out.

    Raises:
        CaptureError: a pattern that matches nothing; a directory that cannot be read, once all others were.
    """
    if argument == STDIN:
        yield Named(path=STDIN, name=STDIN, argument=index)
    elif Path(argument).is_dir():
        yield from _once(_below(argument, index), seen)
    elif glob.has_magic(argument) and not os.path.lexists(argument):
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise CaptureError(f"{argument}: no file matches this pattern")
        yield from _once(_matched(matches, index), seen)
    else:
        yield Named(path=argument, name=Path(argument).name, argument=index)


def _matched(matches: Iterable[str], index: int) -> Iterator[Named]:
    for match in matches:
        if Path(match).is_dir():
            yield from _below(match, index)
        else:
            yield Named(path=match, name=Path(match).name, argument=index, found=True, shelf=(str(index), *Path(match).parent.parts))


def _below(folder: str, index: int) -> Iterator[Named]:
    """All files below a folder; links to folders are not followed."""
    unread: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unread.append):
        folders.sort()
        inside = Path(place).relative_to(folder)
        for file in sorted(files):
            name = (inside / file).as_posix()
            yield Named(path=str(Path(place) / file), name=name, argument=index, found=True, shelf=(str(index), *inside.parts))
    if unread:
        raise CaptureError("; ".join(f"{error.filename}: {error.strerror}" for error in unread))


def _once(found: Iterable[Named], seen: dict[tuple[int, int], int]) -> Iterator[Named]:
    """Leaves out second names of a file: rings often have a link to their newest member."""
    for named in found:
        try:
            about = Path(named.path).stat()
        except OSError:
            yield named  # opening it will say why
            continue
        if (about.st_dev, about.st_ino) not in seen:
            seen[about.st_dev, about.st_ino] = 1
            yield named
        else:
            seen[about.st_dev, about.st_ino] += 1


def gather_inputs(arguments: Sequence[str]) -> Inputs:
    """Opens everything the arguments name and looks what it is; see Inputs.

    Raises:
        CaptureError: there are more captures than MAX_INPUTS.
    """
    gathering = _Gathering()
    try:
        for index, argument in enumerate(arguments):
            gathering.take(argument, index)
        return gathering.finish()
    except BaseException:
        gathering.inputs.close()
        raise


@dataclass(slots=True)
class _Gathering:
    """What was found so far."""

    inputs: Inputs = field(default_factory=Inputs)
    facts: list[tuple[Named, HostFacts]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Of the current argument: names of what is no capture."""
    spool: Spool = field(default_factory=Spool)
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    """Files found, by device and inode, and how often."""

    def __post_init__(self) -> None:
        self.inputs.hold(self.spool)

    def take(self, argument: str, index: int) -> None:
        """Looks at all that one argument names."""
        known = (len(self.inputs.captures), len(self.facts), len(self.inputs.failures))
        self.skipped, sights = [], sum(self.seen.values()) - len(self.seen)
        try:
            for named in expand(argument, index, self.seen):
                self._take_file(named)
        except CaptureError as error:
            self.inputs.failures.append(str(error))
        count, shown = len(self.skipped), ", ".join(self.skipped[:_SHOWN]) + (", ..." if len(self.skipped) > _SHOWN else "")
        is_old = sum(self.seen.values()) - len(self.seen) > sights  # all there is was found by another argument
        if known == (len(self.inputs.captures), len(self.facts), len(self.inputs.failures)) and not (is_old and known[0]):
            self.inputs.failures.append(f"{argument}: no capture is in it ({count:,} other file{'s' * (count != 1)})")
        elif count:
            self.inputs.notes.append(
                f"{argument}: skipped {count:,} {'files that are' if count > 1 else 'file that is'} no capture ({shown})"
            )

    def finish(self) -> Inputs:
        """Everything, in order."""
        inputs = self.inputs
        if not inputs.captures and not inputs.failures:
            inputs.failures.append("no capture among the inputs")
        if len(inputs.captures) > MAX_INPUTS:
            raise CaptureError(f"{len(inputs.captures):,} captures are more than the {MAX_INPUTS:,} that can be analysed together")
        inputs.captures.sort(key=lambda one: (one.named.argument, one.first_ns is None, one.first_ns or 0, one.named.name))
        inputs.host_facts = merge_facts(facts for _, facts in self.facts)
        known: dict[tuple[str, ...], HostFacts] = {}
        for one in inputs.captures if inputs.host_facts else ():
            shelf = one.named.shelf
            known[shelf] = one.host = known.get(shelf) or self._host_of(shelf)
        return inputs

    def _host_of(self, shelf: tuple[str, ...]) -> HostFacts:
        """What lies nearest to a capture; else what was named for itself."""
        near = [_shared_len(shelf, named.shelf) for named, _ in self.facts]
        nearest = max(near)
        return merge_facts(facts for n, (named, facts) in zip(near, self.facts, strict=True) if n == nearest and (n or not named.shelf))

    def _take_file(self, named: Named) -> None:
        """Opens a file that may be anything; what cannot be read is a failure of its own."""
        if named.found and not _is_file(named.path):
            self.skipped.append(named.name)
            return
        try:
            source = Source(named.path)
            if not source.is_regular:
                self.inputs.hold(source)
            try:
                self._look(named, source, 0)
            finally:
                if source.is_regular and not is_tar(source.head):
                    source.close()
        except CaptureError as error:
            self.inputs.failures.append(str(error))

    def _look(self, named: Named, source: Source, depth: int) -> None:
        """What is it? A capture, an archive, facts about the host, or nothing of interest."""
        head = source.head
        if is_tar(head):
            if depth == 0 and source.is_regular:
                self.inputs.hold(source)
            self._take_archive(named, source, depth)
        elif is_capture(head) or not looks_like_facts(head):
            try:
                self.inputs.captures.append(_peek(named, source))
            except NoCaptureError:
                if not named.found:
                    raise
                self.skipped.append(named.name)
        elif len(self.facts) < _MAX_FACTS_FILES:
            facts = read_facts(head + source.read(MAX_FACTS_LEN), named.name)
            if facts:
                self.facts.append((named, facts))
            else:
                self.skipped.append(named.name)

    def _take_archive(self, named: Named, source: Source, depth: int) -> None:
        """Looks at every file of an archive, and in archives in it."""
        if depth >= MAX_DEPTH:
            self.skipped.append(named.name)
            return
        archive = Archive(source, named.path, self.spool, _is_of_interest)
        shelf = named.shelf or (str(named.argument),)
        for member, extent in archive:
            folder = tuple(part for part in member.split("/")[:-1] if part not in ("", "."))
            label = f"{named.name}:{member}"
            inner = Named(
                path=f"{named.path}:{member}",
                name=label,
                argument=named.argument,
                found=True,
                extent=extent,
                shelf=(*shelf, named.name, *folder),
            )
            kept = len(self.inputs.captures)
            self._look_inside(inner, extent, depth + 1)
            if kept == len(self.inputs.captures):
                self.spool.drop(extent)
        self.skipped += [f"{named.name}:{name}" for name in archive.skipped]
        if archive.other_count:
            self.inputs.notes.append(f"{named.path}: skipped {archive.other_count:,} links, devices or sparse files")
        if archive.broken is not None:
            self.inputs.notes.append(f"{named.path}: {archive.broken}; read as far as it goes")

    def _look_inside(self, named: Named, extent: Extent, depth: int) -> None:
        try:
            self._look(named, Source(named.path, extent), depth)
        except CaptureError as error:
            self.inputs.failures.append(str(error))


def _shared_len(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many folders two shelves share from the top."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _is_file(path: str) -> bool:
    """A regular file, or something whose state cannot be asked: opening pipes and devices in a directory may never return."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except OSError:
        return True


def may_hold_capture(path: Path) -> bool:
    """Whether a file is a capture or an archive, or compressed, so that it may be one: overwriting it could lose packets."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_LEN)
    except OSError:
        return False
    return is_capture(head) or codec_of(head) is not None or is_tar(head)


def _is_of_interest(head: bytes) -> bool:
    return is_capture(head) or codec_of(head) is not None or is_tar(head) or looks_like_facts(head)


def _peek(named: Named, source: Source) -> Input:
    """Reads up to the first frame of a capture; of a pipe, which then is an Input that is open."""
    losses = Losses()
    reader = CaptureReader(named.path, losses, name=named.name, source=source, batch_bytes=_PEEK_BYTES if source.is_regular else READ_BYTES)
    batches = iter(reader)
    first = next(batches, None)
    about = Input(
        named=named, first_ns=None, format=reader.format, interfaces=frozenset(map(Interface.without_counters, reader.interfaces))
    )
    if first is not None:
        about.first_ns, about.marks = int(first.ts_ns[0]), read_marks(first)
    if not source.is_regular:
        about.opened = (reader, batches if first is None else chain([first], batches), losses)
    return about
