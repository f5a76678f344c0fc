"""What two captures of one path say together: the section "Between the two captures", and the `pair` object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pcapdiag.pair.table import DIRECTIONS, Place
from pcapdiag.reporters.phrases import capture_name, count, microseconds, relative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pcapdiag.pair.table import Clocks, Delays, Pair, PathChange, Unmatched, Way
    from pcapdiag.trace import Tables

TITLE: Final = "Between the two captures"

Json = dict[str, Any]

_PLACES: Final = {
    Place.BETWEEN: "lost between the captures",
    Place.RECEIVING_CAPTURE: "received, but dropped by the receiving capture",
    Place.SENDING_CAPTURE: "seen on arrival only: dropped by the sending capture",
    Place.BEHIND: "resent after passing both: lost behind the receiving capture",
    Place.ACK_LOST: "resent because their acknowledgment was lost between the captures",
    Place.SPURIOUS: "resent though they had arrived",
    Place.INJECTED: "injected between the captures",
    Place.OUTSIDE: "outside the time of the other capture",
    Place.UNDECIDED: "without bytes and in one capture only: lost, or dropped by it",
}
_SHOWN_CHANGES: Final = 8
_SHOWN_FLOWS: Final = 5


def lines(tables: Tables, pair: Pair) -> list[str]:
    """The section for people, one fact a line; escapes not yet made."""
    return list(_lines(tables, pair))


def _lines(tables: Tables, pair: Pair) -> Iterator[str]:
    near, far = (capture_name(tables.captures[one]) for one in (pair.near, pair.far))
    numbers = [tables.place(one, 1)[0] for one in (pair.near, pair.far)]
    given = "; they were given the other way round" if pair.swapped else ""
    yield f"[{numbers[0]}] {near} lies on the client's side of [{numbers[1]}] {far}: {pair.order_why}{given}"
    yield _flows(pair, near, far)
    yield _clock(pair.clocks, near, far, tables.start_ns)
    for step in pair.clocks.steps:
        yield (
            f"at {relative(step.at_ns, tables.start_ns)} s one of the clocks jumped: {far} is {_signed_ms(step.by_ns)} further ahead from "
            f"there on (frames {_both((step.near_frame, step.far_frame), tables, pair)})"
        )
    for direction, way in enumerate(pair.ways):
        yield from _way(direction, way, tables, pair)
    if pair.changes:
        shown = [_change(one) for one in pair.changes[:_SHOWN_CHANGES]]
        more = f"; {len(pair.changes) - _SHOWN_CHANGES} more" if len(pair.changes) > _SHOWN_CHANGES else ""
        yield f"changed on the way: {'; '.join(shown)}{more}"
    if pair.restored_count:
        yield f"{count(pair.restored_count, 'packet')} that {near} lacks {'was' if pair.restored_count == 1 else 'were'} taken from {far}"
    if pair.restored_payloads:
        yield f"the bytes of {count(pair.restored_payloads, 'packet')} that {near} cut short were read from {far}"
    for one in pair.unmatched[:_SHOWN_FLOWS]:
        yield f"only in {tables.captures[one.capture].name}: {one.client} to {one.server}, {count(one.packet_count, 'packet')}: {one.why}"


def _flows(pair: Pair, near: str, far: str) -> str:
    translated = pair.matched_flows - pair.matched_by_address
    nat = f", {translated} of them with other addresses or ports" if translated else ""
    alone = [f"{number:,} only in {name}" for name, number in ((near, pair.unmatched_near), (far, pair.unmatched_far)) if number]
    return f"{count(pair.matched_flows, 'connection')} in both{nat}{'; ' if alone else ''}{', '.join(alone)}"


def _clock(clocks: Clocks, near: str, far: str, start_ns: int) -> str:
    ahead = far if clocks.offset_ns >= 0 else near
    offset = f"the clock of {ahead} is {_ms(abs(clocks.offset_ns))} ahead"
    if not clocks.two_way:
        return f"{offset}, its least delay counted in: packets in common go one way only, so nothing bounds it"
    drift = (
        f"; it drifts by {clocks.drift_ppb / 1000:+.3f} ppm, as of {relative(clocks.reference_ns, start_ns)} s" if clocks.drift_ppb else ""
    )
    if not drift and clocks.drift_error_ppb:
        drift = f"; no drift above {clocks.drift_error_ppb / 1000:.3g} ppm"
    bound = f"± {_ms(clocks.uncertainty_ns)} at the very most, and exact if the least delays of both directions are equal"
    return f"{offset} ({bound}){drift}"


def _way(direction: int, way: Way, tables: Tables, pair: Pair) -> Iterator[str]:
    places = pair.placed.counts(pair.placed.direction == direction)
    sent = count(way.sent_count, "TCP packet")
    yield f"{DIRECTIONS[direction]}: {way.passed_count:,} of {sent} passed both{_delay(way.delays, tables, pair)}"
    for place in Place:
        if number := places.get(place.slug):
            sizes = ""
            if place is Place.BETWEEN and way.lost_min_len:
                sizes = f" (with bytes: {way.lost_min_len} bytes and more; the largest that passed: {way.passed_max_len})"
            yield f"{DIRECTIONS[direction]}: {number:,} {_PLACES[place]}{sizes}"


def _delay(delays: Delays | None, tables: Tables, pair: Pair) -> str:
    if delays is None:
        return ""
    worst = _both(delays.most_frames, tables, pair)
    return (
        f"; delay {_ms(delays.least_ns)} at least, {_ms(delays.median_ns)} in the median, {_ms(delays.most_ns)} at most "
        f"(at {relative(delays.most_at_ns, tables.start_ns)} s, frames {worst})"
    )


def _both(frames: tuple[int, int], tables: Tables, pair: Pair) -> str:
    """A frame of each capture, as reports name them."""
    return ", ".join(f"[{file}] {number}" for file, number in _placed(frames, tables, pair))


def _placed(frames: tuple[int, int], tables: Tables, pair: Pair) -> list[list[int]]:
    return [list(tables.place(capture, frame)) for capture, frame in zip((pair.near, pair.far), frames, strict=True)]


def _change(one: PathChange) -> str:
    return f"{one.field} {one.before} to {one.after}, {DIRECTIONS[one.direction]} ({one.count:,})"


def _ms(ns: int) -> str:
    return f"{ns / 1e9:,.6f} s" if ns >= 10_000_000_000 else f"{ns / 1e6:,.3f} ms"


def _signed_ms(ns: int) -> str:
    return f"{'-' if ns < 0 else ''}{_ms(abs(ns))}"


def document(tables: Tables, pair: Pair) -> Json:
    """The `pair` object of the JSON report."""
    return {
        "near": tables.place(pair.near, 1)[0],
        "far": tables.place(pair.far, 1)[0],
        "swapped": pair.swapped,
        "order_why": pair.order_why,
        "flows": {
            "matched": pair.matched_flows,
            "behind_nat": pair.matched_flows - pair.matched_by_address,
            "only_near": pair.unmatched_near,
            "only_far": pair.unmatched_far,
            "unmatched": [_alone(one, tables) for one in pair.unmatched],
        },
        "clock": _clocks(tables, pair),
        "directions": [_direction(direction, way, tables, pair) for direction, way in enumerate(pair.ways)],
        "changes": [
            {
                "field": one.field,
                "direction": DIRECTIONS[one.direction],
                "before": one.before,
                "after": one.after,
                "count": one.count,
                "frames": _placed(one.frames, tables, pair),
            }
            for one in pair.changes
        ],
        "restored_packets": pair.restored_count,
        "restored_payloads": pair.restored_payloads,
    }


def _alone(one: Unmatched, tables: Tables) -> Json:
    file = tables.place(one.capture, 1)[0]
    return {"capture": file, "client": one.client, "server": one.server, "packets": one.packet_count, "why": one.why}


def _clocks(tables: Tables, pair: Pair) -> Json:
    clocks = pair.clocks
    return {
        "offset_ns": clocks.offset_ns,
        "uncertainty_ns": clocks.uncertainty_ns,
        "two_way": clocks.two_way,
        "drift_ppb": clocks.drift_ppb,
        "drift_error_ppb": clocks.drift_error_ppb,
        "reference_s": _seconds(clocks.reference_ns - tables.start_ns),
        "assumption": "equal least delays in both directions",
        "steps": [
            {
                "time_s": _seconds(one.at_ns - tables.start_ns),
                "by_ns": one.by_ns,
                "frames": _placed((one.near_frame, one.far_frame), tables, pair),
            }
            for one in clocks.steps
        ],
    }


def _direction(direction: int, way: Way, tables: Tables, pair: Pair) -> Json:
    delays = way.delays
    return {
        "direction": DIRECTIONS[direction],
        "sent": way.sent_count,
        "passed": way.passed_count,
        "places": pair.placed.counts(pair.placed.direction == direction),
        "passed_max_len": way.passed_max_len,
        "lost_min_len": way.lost_min_len,
        "delay": None
        if delays is None
        else {
            "samples": delays.sample_count,
            "least_s": _seconds(delays.least_ns),
            "median_s": _seconds(delays.median_ns),
            "most_s": _seconds(delays.most_ns),
            "most_at_s": _seconds(delays.most_at_ns - tables.start_ns),
            "most_frames": _placed(delays.most_frames, tables, pair),
            "over_time": [[_seconds(at_ns - tables.start_ns), *map(_seconds, rest)] for at_ns, *rest in delays.bins],
        },
    }


def _seconds(ns: int) -> float:
    return microseconds(ns) / 1_000_000
