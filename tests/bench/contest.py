"""The table: pcapdiag beside the programs that people use today, on one capture, in turn."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.cost import Cost, measure, warm

LIMIT_S: Final = 1_200
"""No run takes longer."""

_FIELDS: Final = ("http2.streamid", "http2.type", "http2.headers.path", "http2.headers.status", "frame.number")
_ANALYZE: Final = (sys.executable, "-m", "pcapdiag", "analyze")

TEXT, JSON, COLUMNS = "pcapdiag, text report", "pcapdiag, JSON report", "pcapdiag, TCP columns"
EXPERT, HTTP2, TCPTRACE = "tshark -q -z expert", "tshark, http2 fields", "tcptrace -l -r -n"

CONTENDERS: Final[Mapping[str, tuple[str, ...]]] = {
    TEXT: _ANALYZE,
    JSON: (*_ANALYZE, "-f", "json"),
    COLUMNS: (sys.executable, "-m", "tests.bench.columns"),
    EXPERT: ("tshark", "-q", "-z", "expert", "-r"),
    HTTP2: ("tshark", "-Y", "http2", "-T", "fields", *(word for field in _FIELDS for word in ("-e", field)), "-r"),
    TCPTRACE: ("tcptrace", "-l", "-r", "-n"),
}
"""Commands; the capture comes last."""

_SHORT: Final = {EXPERT: "expert takes", HTTP2: "http2 takes", TCPTRACE: "tcptrace takes"}
_WIDTHS: Final = (9, 9, 10, 12, 15, 14, 17)


@dataclass(frozen=True, slots=True)
class Goal:
    """What one row of the table has to be, beside another."""

    ours: str
    theirs: str
    speed: float | None = None
    """So many times faster; None: said, not asked for."""
    memory: float | None = None
    """So many times less memory."""


GOALS: Final = (
    Goal(COLUMNS, EXPERT, speed=8, memory=5),
    Goal(TEXT, HTTP2, speed=8, memory=5),
    Goal(JSON, HTTP2, memory=5),
    Goal(TEXT, EXPERT),
    Goal(COLUMNS, TCPTRACE),
    Goal(TEXT, TCPTRACE),
)


def contest(capture: Path, rounds: int) -> dict[str, Cost]:
    """The cost of each contender that is installed: median times of `rounds` rounds, and memory from a round of its own,
    so that nobody looks at a program while its time is taken.
    """
    present = [name for name, command in CONTENDERS.items() if shutil.which(command[0])]
    for name in CONTENDERS.keys() - present:
        print(f"{CONTENDERS[name][0]} is not installed: no row for {name}")
    times: dict[str, list[Cost]] = {name: [] for name in present}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}, and one for memory", file=sys.stderr)
        for name in present:
            warm(capture)
            times[name].append(measure((*CONTENDERS[name], str(capture)), limit_s=LIMIT_S))
    return {
        name: replace(
            measure((*CONTENDERS[name], str(capture)), limit_s=LIMIT_S, memory=True),
            wall_s=median(cost.wall_s for cost in times[name]),
            cpu_s=median(cost.cpu_s for cost in times[name]),
        )
        for name in present
    }


def table(costs: Mapping[str, Cost], packets: int) -> str:
    """One row a contender; the last columns say how many times longer tshark and tcptrace took than it did."""
    rivals = [name for name in (EXPERT, HTTP2, TCPTRACE) if name in costs]
    titles = ["", "wall s", "CPU s", "peak MiB", "packets/s", *(_SHORT[name] for name in rivals)]
    lines = [_line(titles)]
    for name, cost in costs.items():
        ratios = (f"{costs[rival].wall_s / cost.wall_s:.2f}x" for rival in rivals)
        speed = f"{packets / cost.wall_s:,.0f}"
        lines.append(_line([name, f"{cost.wall_s:.2f}", f"{cost.cpu_s:.2f}", f"{cost.peak_len / 2**20:,.0f}", speed, *ratios]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"{cells[0]:<22}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], _WIDTHS, strict=False))


def goals(costs: Mapping[str, Cost]) -> str:
    """How the rows compare, and with what is asked of them."""
    lines = []
    for goal in GOALS:
        if goal.theirs not in costs:
            continue
        ours, theirs = costs[goal.ours], costs[goal.theirs]
        speed = theirs.wall_s / ours.wall_s
        memory = theirs.peak_len / ours.peak_len
        lines.append(
            f"{goal.ours} against {goal.theirs}: {speed:.2f} times as fast{verdict(speed, goal.speed)} "
            f"(CPU {theirs.cpu_s / ours.cpu_s:.2f}), 1/{memory:.2f} of its memory{verdict(memory, goal.memory)}"
        )
    return "\n".join(lines)


def verdict(value: float, goal: float | None) -> str:
    """What there is to say of a number that should be at least `goal`."""
    return "" if goal is None else f" [goal {goal:g}: {'met' if value >= goal else 'MISSED'}]"
