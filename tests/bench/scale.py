"""What large captures cost: the marginal cost of a packet, and memory that does not grow with the file."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Final

from tests.bench import BenchError
from tests.bench.contest import CONTENDERS, JSON
from tests.bench.cost import Cost, measure, warm
from tests.bench.repeat import Recording

_MEMORY, _MEMORY_LEN = "1.5GiB", 3 << 29
"""What --memory is given, and what the sum of all processes must stay within."""
_UNIT: Final = 500_000
_TIMES: Final = (1, 3, 6, 10)
"""The marginal cost is measured on the first packets of a capture, repeated: every step adds packets of the same kind."""
_FLAT: Final = 1.2
_LIMIT_S: Final = 3_600
_SPARE_LEN: Final = 4 << 30
"""Disk that is left to others."""


@contextmanager
def repeated(source: Path, folder: Path, packets: int, *, unit: int | None = None) -> Iterator[Path]:
    """A capture of `packets` packets in `folder`, made of the first `unit` of `source` (or of all), while the context lasts.

    Raises:
        BenchError: the disk has no room for it, and for as much again that an analysis may spill.
    """
    recording = Recording(source, packets=unit)
    need_len = int(2 * recording.mean_len * packets) + _SPARE_LEN
    folder.mkdir(parents=True, exist_ok=True)
    free_len = shutil.disk_usage(folder).free
    if need_len > free_len:
        raise BenchError(f"{folder} has {free_len / 1e9:.1f} GB free; {packets:,} packets want {need_len / 1e9:.1f}")
    target = folder / f"repeated-{packets}.pcap"
    try:
        recording.repeat(target, packets)
        yield target
    finally:
        target.unlink(missing_ok=True)


def marginal(source: Path, folder: Path, rounds: int, jobs: int | None = None) -> str:
    """What each further packet costs, from 500,000 to 5,000,000, and whether that is one number.

    Sizes take turns, each for as long as the largest one needs, and means count: the least of several times would favour short runs,
    which find a quiet moment of the machine more easily.
    """
    sizes = [_UNIT * times for times in _TIMES]
    turns = [max(1, round(_TIMES[-1] / times)) for times in _TIMES]
    with ExitStack() as stack:
        captures = [stack.enter_context(repeated(source, folder, count, unit=_UNIT)) for count in sizes]
        runs: list[list[Cost]] = [[] for _ in sizes]
        for turn in [turn for _ in range(rounds) for turn in range(turns[0])]:
            for capture, mine, most in zip(captures, runs, turns, strict=True):
                if turn < most:
                    mine.append(_analysis(capture, jobs))
        peaks = [_analysis(capture, jobs, memory=True).peak_len for capture in captures]
    costs = [
        Cost(fmean(run.wall_s for run in mine), fmean(run.cpu_s for run in mine), peak) for mine, peak in zip(runs, peaks, strict=True)
    ]
    wall, cpu = (steps_us(sizes, values) for values in ([cost.wall_s for cost in costs], [cost.cpu_s for cost in costs]))
    lines = [f"{'packets':>12}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'us a packet more: wall':>24}{'CPU':>7}"]
    for index, (count, cost) in enumerate(zip(sizes, costs, strict=True)):
        more = f"{wall[index - 1]:>24.2f} {cpu[index - 1]:>6.2f}" if index else ""
        lines.append(f"{count:>12,}{cost.wall_s:>9.2f}{cost.cpu_s:>9.2f}{cost.peak_len / 2**20:>10,.0f}{more}")
    return "\n".join([*lines, flat("wall", sizes, wall), flat("CPU", sizes, cpu)])


def _analysis(capture: Path, jobs: int | None, *, memory: bool = False) -> Cost:
    warm(capture)
    options = () if jobs is None else ("--jobs", str(jobs))
    return measure((*CONTENDERS[JSON], *options, str(capture)), limit_s=_LIMIT_S, memory=memory)


def steps_us(sizes: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """Microseconds that each further packet adds, between one size and the next."""
    return [
        1e6 * (after - before) / (more - fewer) for (fewer, more), (before, after) in zip(pairwise(sizes), pairwise(seconds), strict=True)
    ]


def flat(what: str, sizes: Sequence[int], steps: Sequence[float]) -> str:
    """Whether the dearest step is within 20 % of the cheapest; and how far from the slope over all of them the odd one is."""
    spread = max(steps) / min(steps) if min(steps) > 0 else float("inf")
    weights = [more - fewer for fewer, more in pairwise(sizes)]
    slope = sum(step * weight for step, weight in zip(steps, weights, strict=True)) / sum(weights)
    off = max(abs(step / slope - 1) for step in steps) if slope > 0 else float("inf")
    said = "met" if spread <= _FLAT else "MISSED"
    return (
        f"{what} time of a further packet: {slope:.2f} us over all, no step is more than {off:.0%} off; "
        f"the dearest step is {spread:.2f} times the cheapest [goal {_FLAT:g}: {said}]"
    )


def big(source: Path, folder: Path, size_len: int) -> tuple[str, bool]:
    """A capture of so many bytes, analysed with one process and with two: what it took, and whether reports and memory are right."""
    packets = int(size_len / Recording(source).mean_len) + 1
    reports = [folder / f"big-jobs{jobs}.json" for jobs in (1, 2)]
    lines, right = [], True
    with repeated(source, folder, packets) as capture:
        lines.append(f"{packets:,} packets, {capture.stat().st_size / 1e9:.2f} GB; --memory {_MEMORY}")
        for jobs, report in enumerate(reports, start=1):
            options = ("--jobs", str(jobs), "--memory", _MEMORY, "-o", str(report))
            warm(capture)
            cost = measure((*CONTENDERS[JSON], *options, str(capture)), limit_s=_LIMIT_S, memory=True)
            within = cost.peak_len <= _MEMORY_LEN
            right &= within
            lines.append(
                f"--jobs {jobs}: wall {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s, {packets / cost.wall_s:,.0f} packets/s, peak "
                f"{cost.peak_len / 2**20:,.0f} MiB of {_MEMORY_LEN / 2**20:,.0f} [{'met' if within else 'MISSED'}]"
            )
    if filecmp.cmp(reports[0], reports[1], shallow=False):
        lines.append(f"the reports are the same, byte for byte ({reports[0].stat().st_size:,} bytes)")
        for report in reports:
            report.unlink()
    else:
        right = False
        lines.append(f"the reports DIFFER: compare {reports[0]} and {reports[1]}")
    return "\n".join(lines), right
