"""The walk by lanes finds what the walk record by record finds, whatever the bytes are."""

from __future__ import annotations

import random
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.capture import chain
from pcapdiag.capture.chain import Links, walk, walk_one_by_one
from tests.capture_files import EPB, SHB, block, pcap_record

PCAP = Links(order="<", length_at=8, least_len=16, least_value=0, begin=re.compile(rb"\x65..[\x00-\x0f]\x00", re.DOTALL), begin_at=3)
PCAP_BIG = Links(order=">", length_at=8, least_len=16, least_value=0, begin=re.compile(rb"\x65...\x00", re.DOTALL))
SWAPPED = Links(order="<", length_at=12, least_len=16, least_value=0, begin=re.compile(rb"\x65..[\x00-\x0f]\x00", re.DOTALL), begin_at=3)
PCAPNG = Links(order="<", length_at=4, least_len=12, least_value=12, begin=re.compile(rb"\x06\0\0\0"), alignment=4, stop_word=SHB)


def both_walks(data: bytes, start: int, links: Links, lanes: int, few: int = 1) -> tuple[list[int], list[int]]:
    window = np.frombuffer(data, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "FEW_LANES", few)
        patch.setattr(chain, "LANES_FROM_LEN", 40)  # no lane shorter than a byte
        return walk(window, start, links, lanes=lanes).tolist(), walk_one_by_one(window, start, links)[0]


def records(order: str) -> st.SearchStrategy[bytes]:
    payload = st.one_of(
        st.binary(max_size=80),
        st.integers(0, 60).map(bytes),
        st.lists(st.binary(max_size=20).map(lambda data: pcap_record(data, order)), max_size=4).map(b"".join),  # a capture inside a packet
    )
    length = st.one_of(st.none(), st.integers(0, 0xFFFFFFFF))
    return st.builds(lambda data, length: pcap_record(data, order, length=length), payload, length)


def blocks() -> st.SearchStrategy[bytes]:
    inner = st.lists(st.binary(max_size=20).map(lambda body: block(EPB, body)), max_size=4).map(b"".join)
    body = st.one_of(st.binary(max_size=60), inner, st.integers(0, 60).map(bytes))
    odd = st.builds(lambda kind, length, body: struct.pack("<II", kind, length) + body, st.integers(0, 7), st.integers(0, 90), body)
    return st.one_of(st.builds(block, st.sampled_from([EPB, EPB, EPB, 4, 5]), body), body.map(lambda b: block(SHB, b)), odd)


def spoil(data: bytes, spots: list[tuple[int, int]]) -> bytes:
    spoiled = bytearray(data)
    for at, value in spots:
        if spoiled:
            spoiled[at % len(spoiled)] = value
    return bytes(spoiled)


SPOTS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3)


@given(st.lists(records("<"), max_size=40).map(b"".join), SPOTS, st.integers(2, 40), st.integers(1, 5))
def test_lanes_change_nothing_in_pcap(data: bytes, spots: list[tuple[int, int]], lanes: int, few: int) -> None:
    by_lanes, one_by_one = both_walks(spoil(data, spots), 0, PCAP, lanes, few)
    assert by_lanes == one_by_one


@given(st.lists(records(">"), max_size=40).map(b"".join), SPOTS, st.integers(2, 40), st.integers(1, 5))
def test_lanes_change_nothing_in_the_other_byte_order(data: bytes, spots: list[tuple[int, int]], lanes: int, few: int) -> None:
    by_lanes, one_by_one = both_walks(spoil(data, spots), 0, PCAP_BIG, lanes, few)
    assert by_lanes == one_by_one


@given(st.lists(blocks(), max_size=40).map(b"".join), SPOTS, st.integers(2, 40), st.integers(1, 5))
def test_lanes_change_nothing_in_pcapng(data: bytes, spots: list[tuple[int, int]], lanes: int, few: int) -> None:
    by_lanes, one_by_one = both_walks(spoil(data, spots), 0, PCAPNG, lanes, few)
    assert by_lanes == one_by_one


@given(st.binary(max_size=400), st.integers(2, 40), st.sampled_from([PCAP, PCAP_BIG, SWAPPED, PCAPNG]))
def test_lanes_change_nothing_in_noise(data: bytes, lanes: int, links: Links) -> None:
    by_lanes, one_by_one = both_walks(data, 0, links, lanes)
    assert by_lanes == one_by_one


@given(st.lists(st.sampled_from([0, 4, 8, 12, 13, 16, 20, 24, 0x65000000]), max_size=200), st.integers(2, 40))
def test_lanes_change_nothing_where_every_word_could_be_a_length(words: list[int], lanes: int) -> None:
    data = struct.pack(f"<{len(words)}I", *words)
    for links in (PCAP, SWAPPED, PCAPNG):
        by_lanes, one_by_one = both_walks(data, 0, links, lanes)
        assert by_lanes == one_by_one


def test_a_usual_window_is_hardly_walked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(1)
    data = b"".join(pcap_record(noise.randbytes(noise.choice([60, 66, 1_514])), sec=0x65000000 + i) for i in range(4_000))
    slow = 0

    def counting(*args: object, **options: object) -> tuple[list[int], int]:
        nonlocal slow
        offsets, end = walk_one_by_one(*args, **options)  # type: ignore[arg-type]  # passed on as they came
        slow += len(offsets)
        return offsets, end

    monkeypatch.setattr(chain, "walk_one_by_one", counting)
    assert len(walk(np.frombuffer(data, np.uint8), 0, PCAP)) == 4_000
    assert slow < 400


def test_the_walk_begins_where_it_is_told_and_ends_before_a_record_that_is_not_whole() -> None:
    data = b"garbage!" + pcap_record(b"abc") + pcap_record(b"") + pcap_record(b"abc")[:-1]
    assert both_walks(data, 8, PCAP, 2) == ([8, 27], [8, 27])
