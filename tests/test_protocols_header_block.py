"""HeaderBlockReader against an independent decoder, and what it makes of a table it has not seen grow."""

from __future__ import annotations

import contextlib

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.header_block import BlockError, BlockMemo, HeaderBlockReader

NAMES = [":path", ":status", "content-type", "grpc-timeout", "x-ratelimit-left", "cookie", "authorization", "x-other", "user-agent"]
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), st.text("abc01~", max_size=12)), max_size=6, unique_by=lambda field: field[0])
BLOCKS = st.lists(st.tuples(FIELDS, st.booleans(), st.none() | st.sampled_from([0, 40, 100, 4_096, 60])), min_size=1, max_size=12)
KEPT = {":path", ":status", "content-type", "grpc-timeout", "x-ratelimit-left"}

Blocks = list[tuple[list[tuple[str, str]], bool, int | None]]


def encoded(blocks: Blocks) -> list[tuple[bytes, dict[str, str]]]:
    """Each block on the wire, and the kept fields an endpoint reads from it."""
    encoder, decoder, out = hpack.Encoder(), hpack.Decoder(), []
    for fields, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        raw = encoder.encode(fields, huffman=huffman)
        out.append((raw, {n.decode(): v.decode() for n, v in decoder.decode(raw, raw=True) if n.decode() in KEPT}))
    return out


@given(BLOCKS)
def test_it_reads_what_an_endpoint_reads(blocks: Blocks) -> None:
    reader = HeaderBlockReader(known=True)
    for raw, fields in encoded(blocks):
        decoded = reader.read(raw)
        assert dict(decoded.headers) == fields
        assert decoded.unknown_count == 0


@given(st.lists(BLOCKS, min_size=2, max_size=4), st.integers(1, 9))
def test_a_shared_memory_changes_nothing(connections: list[Blocks], moves: int) -> None:
    """Also not when it is full all the time, and when blocks fail in between."""
    memo = BlockMemo()
    memo._moves_left = moves
    for blocks in (*connections, *connections):
        shared, alone = HeaderBlockReader(known=True, memo=memo), HeaderBlockReader(known=True)
        for number, (raw, _) in enumerate(encoded(blocks)):
            for reader in (shared, alone):
                if number % 4 == 2:
                    reader.set_limit(4_096 + number)
                if number % 7 == 5:
                    with contextlib.suppress(BlockError):
                        reader.read(raw + b"\x7f")
            assert outcome(shared, raw) == outcome(alone, raw)


def outcome(reader: HeaderBlockReader, raw: bytes) -> tuple[dict[str, str], int] | str:
    try:
        decoded = reader.read(raw)
    except BlockError as error:
        return str(error)
    return dict(decoded.headers), decoded.unknown_count


@given(BLOCKS, st.integers(0, 5), st.integers(0, 11))
def test_behind_a_hole_every_field_is_true_or_unknown(blocks: Blocks, begin: int, hole: int) -> None:
    reader = HeaderBlockReader(known=False)
    for number, (raw, fields) in enumerate(encoded(blocks)):
        if number < begin or number == hole:
            reader.lose()
            continue
        decoded = reader.read(raw)
        assert dict(decoded.headers).items() <= fields.items()
        assert len(fields) - len(decoded.headers) <= decoded.unknown_count


def test_a_field_added_behind_a_hole_is_known_from_then_on() -> None:
    encoder, reader = hpack.Encoder(), HeaderBlockReader(known=False)
    encoder.encode([("content-type", "a")])
    reader.read(encoder.encode([("content-type", "b")]))
    decoded = reader.read(encoder.encode([("content-type", "b"), (":status", "200"), ("content-type", "a")]))
    assert (dict(decoded.headers), decoded.unknown_count) == ({"content-type": "b", ":status": "200"}, 1)


def test_a_new_value_under_an_unknown_name_is_unknown() -> None:
    encoder, reader = hpack.Encoder(), HeaderBlockReader(known=False)
    encoder.encode([("grpc-timeout", "1S")])
    assert reader.read(encoder.encode([("grpc-timeout", "2S")])).unknown_count == 1


def test_a_block_that_fails_leaves_the_table_unknown() -> None:
    reader = HeaderBlockReader(known=True)
    with pytest.raises(BlockError):
        reader.read(b"\xbe")
    assert reader.read(b"\xbe").unknown_count == 1


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_decoded_or_refused(block: bytes, known: bool) -> None:
    reader = HeaderBlockReader(known=known)
    with contextlib.suppress(BlockError):
        assert reader.read(block).unknown_count <= len(block)
