"""Findings of a pair of captures: what both taps say about the packets that a sign blames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pcapdiag.columns import NEVER
from pcapdiag.pair.table import DIRECTIONS, Place
from pcapdiag.stalls.sign import Confidence, Frame, OfExchange, OfFlow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pcapdiag.columns import Bools, Rows
    from pcapdiag.findings.types import Diagnosis, Finding
    from pcapdiag.pair.table import Pair
    from pcapdiag.stalls.sign import Sign
    from pcapdiag.trace import Tables

_SEEN_LOST: Final = 0.98
"""A packet that one tap has and the other has not, of a capture that dropped none: nothing is inferred but the offset."""
_SEEN_LOST_BY_SIZE: Final = 0.95
"""The losses are seen; that size decides is concluded from which ones passed (CAUSES 1.1: decisive evidence at the sender)."""

SURE: Final[dict[str, float]] = {
    "fast-retransmit-loss": _SEEN_LOST,
    "ip-fragment-loss": _SEEN_LOST_BY_SIZE,
    "lost-retransmission": _SEEN_LOST,
    "path-outage": _SEEN_LOST_BY_SIZE,
    "pmtu-black-hole": _SEEN_LOST_BY_SIZE,
    "rto-backoff": _SEEN_LOST,
    "syn-loss": _SEEN_LOST,
    "tail-loss-rto": _SEEN_LOST,
}
"""Code -> confidence that a loss seen between two taps gives it."""

_COUNTED: Final = frozenset(
    {*SURE, "dns-timeout", "h2-tcp-hol", "icmp-ptb-honoured", "icmp-ptb-ignored", "microburst-loss", "packet-reordering",
     "spurious-retransmission"}
)  # fmt: skip
"""Codes whose findings count what both taps saw."""

_FRAMES: Final = 12
_OF_SIGN: Final = 2
_EARLIER_TRIPS: Final = 2
_EARLIER_NS: Final = 1_000_000
"""A sign begins when its bytes were missed: up to two round trips after they were lost."""
_LEAST_OVERSIZE: Final = 3
"""Large packets lost, with none passed, before size is called the reason."""


def place_signs(signs: Iterable[Sign], tables: Tables) -> list[Sign]:
    """Signs with the frames and the certainty that the second tap adds."""
    pair = tables.pair
    if pair is None:
        return list(signs)
    placed = []
    for sign in signs:
        rows = _rows_of(sign, tables, pair) if sign.code in _COUNTED else None
        placed.append(sign if rows is None else _surer(sign, rows, tables, pair))
    return placed


def place_findings(diagnosis: Diagnosis, signs: Sequence[Sign]) -> Diagnosis:
    """The same diagnosis; findings about losses say in `details.placed` where these packets went, by both captures."""
    pair = diagnosis.tables.pair
    if pair is None:
        return diagnosis
    return replace(diagnosis, findings=tuple(_with_places(one, diagnosis.tables, pair, signs) for one in diagnosis.findings))


def _rows_of(sign: Sign, tables: Tables, pair: Pair) -> Rows | None:
    """Rows of `placed` that a sign is about: by its bytes, else by its flow and time; None where it names no flow."""
    scope, placed = sign.scope, pair.placed
    slack_ns = _EARLIER_TRIPS * 2 * pair.clocks.uncertainty_ns + _EARLIER_NS
    inside = (placed.ts_ns >= sign.start_ns - slack_ns) & (placed.ts_ns <= sign.end_ns)
    if isinstance(scope, OfExchange):
        mine = pair.of_flow(int(tables.exchanges.flow[scope.exchange]))
        if sign.code == "ip-fragment-loss":  # a fragment names no ports, so no flow is known of it
            mine = placed.flow < 0
        return np.flatnonzero(inside & mine)
    if not isinstance(scope, OfFlow) or scope.flow < 0:
        return None
    mine = pair.of_flow(scope.flow, scope.direction)
    if scope.start is not None and scope.stop is not None:
        return np.flatnonzero(mine & (placed.start < scope.stop) & (placed.stop > scope.start))
    return np.flatnonzero(mine & inside)


def _surer(sign: Sign, rows: Rows, tables: Tables, pair: Pair) -> Sign:
    lost = rows[pair.placed.place[rows] == Place.BETWEEN]
    if not len(lost):
        return sign
    frames = (*sign.frames, *_frames(lost[:_OF_SIGN], tables, pair, known=sign.frames))
    value = SURE.get(sign.code, 0.0)
    count = int(pair.placed.count[lost].sum())
    names = [tables.captures[one].name for one in (pair.near, pair.far)]
    if pair.placed.capture[lost[0]] == pair.far:
        names.reverse()
    evidence = f"{count} {'packet' if count == 1 else 'packets'} in {names[0]} that {names[1]} never saw"
    if sign.code == "pmtu-black-hole" and not _by_size(lost, pair):
        value = 0.0
    sure = Confidence(max(value, sign.confidence.value), (evidence, *sign.confidence.evidence))
    return replace(sign, frames=frames, confidence=sure if value else sign.confidence)


def _by_size(lost: Rows, pair: Pair) -> bool:
    """Were all lost packets with bytes longer than every one that passed the same way?"""
    data = lost[pair.placed.is_data[lost]]
    if not len(data):
        return False
    way = pair.ways[int(pair.placed.direction[data[0]])]
    return int(pair.placed.count[data].sum()) >= _LEAST_OVERSIZE and int(pair.placed.ip_len[data].min()) > way.passed_max_len


def _frames(rows: Rows, tables: Tables, pair: Pair, known: Iterable[Frame] = ()) -> list[Frame]:
    """Frames of both captures that show where packets were lost, without those known."""
    placed, names = pair.placed, [capture.name for capture in tables.captures]
    seen = {(frame.capture, frame.number) for frame in known}
    found = []
    for row in rows.tolist():
        here = int(placed.capture[row])
        other = pair.near + pair.far - here
        note = _NOTES.get(Place(int(placed.place[row])), "").format(other=names[other])
        candidates = [Frame(here, int(placed.frame[row]), int(placed.ts_ns[row]), note)]
        if placed.other_ns[row] < NEVER:
            candidates.append(Frame(other, int(placed.other_frame[row]), int(placed.other_ns[row]), "what the other capture has of it"))
        for frame in candidates:
            if (frame.capture, frame.number) not in seen:
                seen.add((frame.capture, frame.number))
                found.append(frame)
    return found


_NOTES: Final = {
    Place.BETWEEN: "passes here; {other} never sees it",
    Place.RECEIVING_CAPTURE: "passes here and is acknowledged; {other} dropped it",
    Place.SENDING_CAPTURE: "arrives here; {other} dropped it",
    Place.INJECTED: "arrives here; its sender never sent it",
}


def _with_places(finding: Finding, tables: Tables, pair: Pair, signs: Sequence[Sign]) -> Finding:
    conclusion = finding.conclusion
    if finding.code == "capture-loss":
        drops = _dropped(finding, tables, pair)
        details = _of_drops(drops, tables, pair)
        frames = (*conclusion.frames, *_frames(drops[:_FRAMES], tables, pair, known=conclusion.frames))
    elif finding.code in _COUNTED:
        flows = set(conclusion.flows)
        parts = [rows for sign in signs if sign.code == finding.code and _flow_of(sign, tables) in flows
                 if (rows := _rows_of(sign, tables, pair)) is not None]  # fmt: skip
        rows = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.intp)
        details, frames = _counts(rows, tables, pair), conclusion.frames
    else:
        return finding
    if not details:
        return finding
    changed = replace(conclusion, details={**conclusion.details, "placed": details}, frames=frames)
    return replace(finding, conclusion=changed)


def _flow_of(sign: Sign, tables: Tables) -> int:
    if isinstance(sign.scope, OfExchange):
        return int(tables.exchanges.flow[sign.scope.exchange])
    return sign.scope.flow if isinstance(sign.scope, OfFlow) else -1


def _counts(rows: Rows, tables: Tables, pair: Pair) -> dict[str, Any]:
    """Packets by direction and place, the sizes that passed and did not, and frames of both captures."""
    placed, details = pair.placed, dict[str, Any]()
    for direction, name in enumerate(DIRECTIONS):
        chosen: Bools = np.zeros(len(placed), np.bool_)
        chosen[rows] = placed.direction[rows] == direction
        counts = placed.counts(chosen)
        if not counts:
            continue
        lost = np.flatnonzero(chosen & (placed.place == Place.BETWEEN) & placed.is_data)
        sizes = {"lost_min_len": int(placed.ip_len[lost].min()), "passed_max_len": pair.ways[direction].passed_max_len} if len(lost) else {}
        frames = [pair_of for row in np.flatnonzero(chosen)[:_FRAMES].tolist() for pair_of in _numbers(row, tables, pair)]
        details[name] = {**counts, **sizes, "frames": frames}
    return details


def _numbers(row: int, tables: Tables, pair: Pair) -> list[list[int]]:
    """The frames of a row of `placed`, as reports name them."""
    placed = pair.placed
    here = int(placed.capture[row])
    frames = [(here, int(placed.frame[row])), (pair.near + pair.far - here, int(placed.other_frame[row]))]
    return [list(tables.place(*frame)) for frame in frames if frame[1] >= 0]


def _dropped(finding: Finding, tables: Tables, pair: Pair) -> Rows:
    """Rows of packets that the capture which a finding is about dropped, as the other one proves."""
    details = finding.conclusion.details
    about = [one for one in (pair.near, pair.far) if tables.quality[one].unseen_bytes == details.get("unseen_bytes")]
    lacks = np.isin(pair.placed.place, (Place.RECEIVING_CAPTURE, Place.SENDING_CAPTURE))
    return np.flatnonzero(lacks & ~np.isin(pair.placed.capture, about) if len(about) == 1 else lacks)


def _of_drops(rows: Rows, tables: Tables, pair: Pair) -> dict[str, Any]:
    if not len(rows):
        return {}
    chosen: Bools = np.zeros(len(pair.placed), np.bool_)
    chosen[rows] = True
    frames = [pair_of for row in rows[:_FRAMES].tolist() for pair_of in _numbers(row, tables, pair)]
    return {**pair.placed.counts(chosen), "frames": frames}
