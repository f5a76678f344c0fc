"""Start lines, framing and the search for messages in bytes of unknown phase."""

from __future__ import annotations

import pytest

from pcapdiag.protocols.events import Side
from pcapdiag.protocols.http1_message import (
    Framing,
    FramingError,
    RequestLine,
    StatusLine,
    find_chunk,
    find_message,
    framing,
    read_fields,
    request_line,
    status_line,
)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"GET / HTTP/1.1\r", RequestLine(b"GET", b"/", "1.1")),
        (b"M-SEARCH  *  HTTP/1.0", RequestLine(b"M-SEARCH", b"*", "1.0")),
        (b"GET /a b HTTP/1.1", RequestLine(b"GET", b"/a b", "1.1")),
        (b"PRI * HTTP/2.0", None),
        (b"GET /", None),
        (b"G(T / HTTP/1.1", None),
        (b"GET HTTP/1.1", None),
        (b"", None),
    ],
)
def test_request_lines(line: bytes, read: RequestLine | None) -> None:
    assert request_line(line) == read


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"HTTP/1.1 200 OK\r", StatusLine(200, "1.1")),
        (b"HTTP/1.0 999", StatusLine(999, "1.0")),
        (b"HTTP/1.1 099 X", None),
        (b"HTTP/1.1 20 OK", None),
        (b"HTTP/2 200", None),
    ],
)
def test_status_lines(line: bytes, read: StatusLine | None) -> None:
    assert status_line(line) == read


def test_folded_fields_are_one_and_lines_that_are_none_are_told() -> None:
    fields = read_fields(b"HTTP/1.1 200 OK\r\nVia: a\r\n\tb\r\nSERVER :x\nCookie: c\r\n\r\n")
    assert fields.kept == [(b"via", b"a b"), (b"server", b"x")]
    assert not fields.malformed
    assert read_fields(b"GET / HTTP/1.1\r\nno field\r\n\r\n").malformed


@pytest.mark.parametrize(
    ("fields", "method", "status", "result"),
    [
        ([], b"GET", None, (Framing.NONE, 0)),
        ([], b"GET", 200, (Framing.CLOSE, 0)),
        ([], None, 200, (Framing.CLOSE, 0)),
        ([(b"content-length", b"5")], b"POST", None, (Framing.LENGTH, 5)),
        ([(b"content-length", b"5, 5")], b"GET", 200, (Framing.LENGTH, 5)),
        ([(b"content-length", b"5")], b"HEAD", 200, (Framing.NONE, 0)),
        ([(b"transfer-encoding", b"gzip")], b"GET", 200, (Framing.CLOSE, 0)),
        ([(b"transfer-encoding", b"gzip"), (b"transfer-encoding", b"chunked")], b"GET", None, (Framing.CHUNKED, 0)),
        ([(b"content-length", b"5")], b"CONNECT", 200, (Framing.TUNNEL, 0)),
        ([(b"content-length", b"5")], b"GET", 101, (Framing.TUNNEL, 0)),
        ([(b"content-length", b"5")], b"GET", 103, (Framing.NONE, 0)),
    ],
)
def test_how_a_body_ends(fields: list[tuple[bytes, bytes]], method: bytes | None, status: int | None, result: tuple[Framing, int]) -> None:
    assert framing(fields, method, status) == result


@pytest.mark.parametrize("length", [b"-1", b"x", b"", b"5, 6", b"0x5", b"9" * 33])
def test_a_content_length_that_is_none(length: bytes) -> None:
    with pytest.raises(FramingError):
        framing([(b"content-length", length)], b"GET", 200)


def test_a_message_is_found_only_where_a_field_or_a_blank_line_follows() -> None:
    text = b"talks of HTTP/1.1 200 OK\r\nand more; HTTP/1.1 200 OK\r\nVia: x\r\n"
    assert find_message(text, 0, Side.SERVER, closed=True) == (text.index(b"; ") + 2, 0)
    assert find_message(text[:-8], 0, Side.SERVER, closed=True)[1] > 0
    assert find_message(b"a GET b}PUT /x HTTP/1.0\n\n", 0, Side.CLIENT, closed=False) == (8, 0)


def test_a_chunk_is_found_only_where_the_next_one_follows() -> None:
    body = b"...\r\n2\r\nno\r\r\n3\r\nyes\r\n4\r\n"
    assert find_chunk(body, 0, closed=True) == (body.index(b"3"), 0)
    assert find_chunk(body[:-3], 0, closed=False)[1] > 0
    assert find_chunk(b"...\r\n0\r\n\r\n", 0, closed=True) == (5, 0)
