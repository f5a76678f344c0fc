"""Copies of one packet, told from resends: by number, stamp, time, and the road they came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag import spool
from pcapdiag.columns import U32
from pcapdiag.flows import copies
from pcapdiag.flows.conversations import order_by_time
from pcapdiag.flows.copies import COPY_NS, candidates, find_copies
from pcapdiag.packets.table import UDP, Blob, Packets
from pcapdiag.spool import Room
from tests.packet_rows import MS, Row, packets, row

STAMPED: dict[str, Any] = {"seq": 7, "ack": 3, "payload_len": 100, "ip_id": 0, "has_ts": True, "ts_val": 5}
BARE: dict[str, Any] = {"seq": 7, "ack": 3, "ip_id": 0}
OTHERS = [row((50 + i) * MS, seq=1_000 * i, payload_len=5) for i in range(200)]
"""So many that a copy or two are no habit."""


def found(*rows: Row) -> list[int]:
    return find_copies(packets(*rows)).row.tolist()  # type: ignore[no-any-return]  # of an array of rows


# --- the narrow search finds what the plain one does --------------------------------------------------------------------


def plain(table: Packets) -> copies.Copies:
    """The same with every packet looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "candidates", lambda _, ts_ns, *__: np.arange(len(ts_ns)))
        return find_copies(table)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.sampled_from([2, 40, 100_000]), st.integers(1, 2), st.sampled_from([4, 64, 1 << 16]))
def test_looking_at_few_packets_finds_the_same_copies(seed: int, count: int, variety: int, captures: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    base = packets(row(0, seq=1))
    table = base.take(np.zeros(count, np.intp))
    fields: dict[str, Any] = {
        "ts_ns": np.sort(rng.integers(0, 3 * COPY_NS if captures == 1 else 4 * 10**9, count)), "seq": rng.integers(0, variety, count),
        "ip_id": rng.integers(0, min(variety, 3), count), "ts_val": rng.integers(0, 2, count), "has_ts": rng.integers(0, 2, count),
        "ttl": rng.integers(62, 64, count), "payload_len": rng.integers(0, 2, count), "link_hash": rng.integers(0, 2, count),
        "proto": rng.choice([6, 17, 132], count), "capture": rng.integers(0, captures, count),
    }  # fmt: skip
    cast: dict[str, Any] = {name: values.astype(getattr(table, name).dtype) for name, values in fields.items()}
    table = replace(table, **cast)
    expected = plain(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_CHUNK", chunk)
        narrow = find_copies(table)
    for name in ("row", "original", "routed"):
        assert getattr(narrow, name).tolist() == getattr(expected, name).tolist(), name


@pytest.mark.parametrize("window", [3, 16])
def test_many_packets_in_little_memory_give_the_same_copies(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(i * MS, seq=i // 2, payload_len=9, ip_id=1 + i // 2, ttl=64 - i % 2) for i in range(60)]
    table = packets(*rows, *OTHERS)
    expected = find_copies(table)
    assert len(expected.row) == 30
    for module in (spool, copies):
        monkeypatch.setattr(module, "WINDOW", window, raising=False)
    monkeypatch.setattr(copies, "_CHUNK", window)
    few = find_copies(table, room=Room(0))
    order = np.argsort(few.row)
    for name in ("row", "original", "routed"):
        assert getattr(few, name)[order].tolist() == getattr(expected, name).tolist(), name


def test_an_order_that_is_not_the_files_is_followed() -> None:
    table = packets(row(5 * MS, seq=1, ip_id=9), row(0, seq=1, ip_id=9), row(2 * MS, seq=2))
    result = find_copies(table, order_by_time(table, None))
    assert (result.row.tolist(), result.original.tolist()) == ([0], [1])


def test_few_of_many_packets_are_candidates() -> None:
    hashes: U32 = np.random.default_rng(1).integers(0, 2**32, 100_000, dtype=np.uint32)
    hashes[60_000] = hashes[59_000]
    suspects = candidates(lambda part: hashes[part], np.arange(100_000) * 1_000, COPY_NS)
    assert {59_000, 60_000} <= set(suspects.tolist())
    assert len(suspects) < 5_000
    assert candidates(lambda _: hashes[:0], np.empty(0, np.int64), COPY_NS).tolist() == []


# --- what is a copy ----------------------------------------------------------------------------------------------------


def test_all_sights_of_a_packet_have_the_first_as_original() -> None:
    result = find_copies(packets(row(0, seq=1, ip_id=9), row(1, seq=50), row(MS, seq=1, ip_id=9), row(2 * MS, seq=1, ip_id=9)))
    assert (result.row.tolist(), result.original.tolist()) == ([2, 3], [0, 0])


def test_a_router_between_two_sights_lowers_the_ttl() -> None:
    result = find_copies(packets(row(0, seq=1, ip_id=9, ttl=64), row(1, seq=1, ip_id=9, ttl=63), row(2, seq=1, ip_id=9, ttl=63)))
    assert (result.row.tolist(), result.routed.tolist()) == ([1, 2], [True, False])


@pytest.mark.parametrize("road", [{"ttl": 63}, {"link_hash": 4}, {"interface": 1}])
def test_without_a_number_another_road_tells_a_copy_from_a_resend(road: dict[str, Any]) -> None:
    assert found(row(0, **STAMPED), row(9 * MS, **STAMPED, **road), *OTHERS) == [1]
    assert found(row(0, **BARE), row(MS, **BARE, **road), *OTHERS) == [1]
    assert found(row(0, **BARE), row(2 * MS, **BARE, **road), *OTHERS) == [], "neither number nor stamp: nearer in time"
    assert found(row(0, **STAMPED), row(2 * MS, **STAMPED), *OTHERS) == [], "the same road: a resend within a tick"


def test_behind_a_full_queue_the_same_packet_comes_later() -> None:
    numbered: dict[str, Any] = {**STAMPED, "ip_id": 40}
    assert found(row(0, **numbered), row(300 * MS, **numbered, link_hash=4)) == [1]
    assert found(row(0, **numbered, ttl=64), row(300 * MS, **numbered, ttl=63)) == [1]
    assert found(row(0, seq=1, ip_id=40, ttl=64), row(300 * MS, seq=1, ip_id=40, ttl=63)) == [1], "the router's mark will do"
    assert found(row(0, seq=1, ip_id=40), row(300 * MS, seq=1, ip_id=40, link_hash=4)) == [], (
        "some stacks number a resend like the original"
    )
    assert found(row(0, **numbered), row(300 * MS, **numbered), *OTHERS) == [], "the same road, and nothing else comes twice"
    assert found(row(0, **numbered), row(2_100 * MS, **numbered, link_hash=4)) == []


def test_where_everything_comes_twice_both_clocks_need_not_agree() -> None:
    """Both ports of a switch, captured by two cards and merged: the second sight of all comes 300 ms later, by the same road."""
    seen: list[dict[str, Any]] = [{**STAMPED, "seq": 100 * i, "ip_id": 40 + i, "ts_val": 5 + i} for i in range(30)]
    rows = [row(3 * i * MS, **one) for i, one in enumerate(seen)] + [row((300 + 3 * i) * MS, **one) for i, one in enumerate(seen)]
    assert found(*rows) == list(range(30, 60))
    blank = [replace(one, rest=tuple(x if x[0] != "ip_id" else ("ip_id", 0) for x in one.rest)) for one in rows]
    assert found(*blank) == list(range(30, 60)), "IPv6"
    unstamped = [replace(one, rest=tuple(x for x in one.rest if x[0] != "has_ts")) for one in rows]
    assert found(*unstamped) == [], "some stacks number a resend like the original"


@pytest.mark.parametrize(("again", "expected"), [(20, 40), (15, 0)])
def test_where_most_data_comes_again_at_once_it_needs_neither_number_nor_stamp(again: int, expected: int) -> None:
    """IPv6 of a stack without timestamps, captured on a port that mirrors both directions; their ACKs come twice as well."""
    rows = [
        row(30 * i * MS + late, **BARE | {"seq": 100 * i, "payload_len": 50}) for i in range(40) for late in (0, MS // 4)[: 1 + (i < again)]
    ]
    rows += [row((30 * i + 9) * MS + late, **BARE | {"seq": 9, "ack": 100 * i}) for i in range(20) for late in (0, MS // 4)]
    assert len(found(*sorted(rows, key=lambda one: one.at_ns))) == expected


def test_a_resend_has_a_new_number_or_comes_later() -> None:
    assert found(row(0, seq=1, payload_len=9, ip_id=40), row(5 * MS, seq=1, payload_len=9, ip_id=41)) == []
    assert found(row(0, seq=1, payload_len=9, ip_id=40), row(15 * MS, seq=1, payload_len=9, ip_id=40)) == []


def test_duplicate_acks_that_report_other_blocks_are_no_copies() -> None:
    habit = [one for i in range(20) for one in (row((20 + i) * MS, seq=i, ip_id=5), row((20 + i) * MS + 9, seq=i, ip_id=5))]
    first, second = row(0, **BARE, sack=((50, 60),)), row(MS, **BARE, sack=((50, 70),))
    assert found(first, second, *habit)[:1] == [3]
    assert found(first, replace(first, at_ns=MS), *habit)[:1] == [1]


def test_a_habit_is_that_of_one_capture() -> None:
    habit = [one for i in range(20) for one in (row((20 + i) * MS, seq=i, ip_id=5), row((20 + i) * MS + 9, seq=i, ip_id=5))]
    alike = [row(0, **BARE), row(3 * MS, **BARE)]
    elsewhere = [replace(one, rest=(*one.rest, ("capture", 1))) for one in alike]
    assert found(*alike, *habit)[:1] == [1]
    table = packets(*sorted((*elsewhere, *habit), key=lambda one: one.at_ns))
    assert find_copies(table).row.tolist()[:1] == [3], "the other capture shows nothing twice"


def test_protocols_that_are_not_read_are_not_compared() -> None:
    """SCTP on one host: every socket counts from 1."""
    assert found(row(0, proto=132, ip_id=1), row(MS, proto=132, ip_id=1)) == []


# --- datagrams ---------------------------------------------------------------------------------------------------------


def datagrams(*bodies: bytes, apart_ns: int = 3_000, ip_id: int = 0) -> list[int]:
    """UDP, over two interfaces in turn."""
    rows = [row(i * apart_ns, proto=UDP, flags=0, payload_len=len(body), ip_id=ip_id, interface=i % 2) for i, body in enumerate(bodies)]
    table = packets(*rows)
    starts = np.cumsum([0, *map(len, bodies)])[: len(bodies)]
    table = replace(table, payload_at=starts.astype(np.int64), blob=Blob.of([np.frombuffer(b"".join(bodies) or b"\0", np.uint8)]))
    return find_copies(table).row.tolist()  # type: ignore[no-any-return]  # of an array of rows


def test_datagrams_without_a_number_are_copies_when_they_say_the_same() -> None:
    assert datagrams(b"question one!", b"question one!") == [1]
    assert datagrams(b"question one!", b"question two!") == []
    assert datagrams(b"q" * 5_000 + b"1", b"q" * 5_000 + b"2") == [], "their ends differ"
    assert datagrams(b"question one!", b"question one!", apart_ns=2 * MS) == [], "asked again"
    assert datagrams(b"", b"") == [], "nothing to tell them by"


def test_a_sender_may_give_all_datagrams_one_number() -> None:
    assert datagrams(b"packet 1 sealed", b"packet 2 sealed", ip_id=1) == []
    assert datagrams(b"packet 1 sealed", b"packet 1 sealed", ip_id=1) == [1]
