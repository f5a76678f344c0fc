"""DNS messages written byte by byte: what is read of them, and that nothing else raises."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.protocols.dns import (
    MAX_ADDRESSES,
    NXDOMAIN,
    TYPE_A,
    TYPE_AAAA,
    DnsBytesUnread,
    DnsEvent,
    DnsMessage,
    DnsMessageReceived,
    DnsTcpReader,
    parse_dns,
)

V4, V6 = bytes([192, 0, 2, 7]), bytes.fromhex("20010db8000000000000000000000007")
OPT_1232 = b"\x00" + struct.pack(">HHIH", 41, 1232, 0, 0)
TO_QUESTION = b"\xc0\x0c"


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\x00"


def question(text: str | bytes, qtype: int = TYPE_A, qclass: int = 1) -> bytes:
    return (text if isinstance(text, bytes) else name(text)) + struct.pack(">HH", qtype, qclass)


def record(owner: bytes, rtype: int, data: bytes, rclass: int = 1) -> bytes:
    return owner + struct.pack(">HHIH", rtype, rclass, 60, len(data)) + data


def message(questions: list[bytes], *, flags: int = 0x0100, answers: tuple[bytes, ...] = (), authority: tuple[bytes, ...] = (),
            additional: tuple[bytes, ...] = (), ident: int = 0x1234) -> bytes:  # fmt: skip
    counts = (len(questions), len(answers), len(authority), len(additional))
    return struct.pack(">6H", ident, flags, *counts) + b"".join([*questions, *answers, *authority, *additional])


def parsed(payload: bytes) -> DnsMessage:
    read = parse_dns(payload)
    assert read is not None
    return read


ANSWER = message(
    [question("Api.Example.COM", TYPE_AAAA)],
    flags=0x8180,
    answers=(record(TO_QUESTION, 5, name("edge.example.net")), record(b"\x04edge\xc0\x2d", TYPE_AAAA, V6), record(TO_QUESTION, TYPE_A, V4)),
    authority=(record(TO_QUESTION, 2, name("ns.example.net")),),
    additional=(record(name("ns.example.net"), TYPE_A, bytes(4)), OPT_1232),
)


def test_a_query() -> None:
    assert parse_dns(message([question("api.example.com")], additional=(OPT_1232,))) == DnsMessage(
        id=0x1234, is_response=False, opcode=0, rcode=0, truncated=False, name="api.example.com", qtype=TYPE_A,
        question_count=1, answer_count=0, addresses=(), edns_udp_len=1232, cut=False,
    )  # fmt: skip


def test_an_answer_gives_the_addresses_of_its_answer_section_only() -> None:
    assert parse_dns(ANSWER) == DnsMessage(
        id=0x1234, is_response=True, opcode=0, rcode=0, truncated=False, name="api.example.com", qtype=TYPE_AAAA,
        question_count=1, answer_count=3, addresses=(V6, V4), edns_udp_len=1232, cut=False,
    )  # fmt: skip


def test_nxdomain_truncated_and_without_edns() -> None:
    read = parsed(message([question("nowhere.svc.cluster.local")], flags=0x8183))
    assert (read.rcode, read.truncated, read.edns_udp_len) == (NXDOMAIN, False, None)
    assert parsed(message([question("big.example")], flags=0x8380)).truncated


def test_edns_extends_the_rcode() -> None:
    bad_version = b"\x00" + struct.pack(">HHIH", 41, 1232, 1 << 24, 0)
    assert parsed(message([question("a.example")], flags=0x8180, additional=(bad_version,))).rcode == 16


def test_addresses_are_bounded_and_the_count_is_not() -> None:
    read = parsed(message([question("many.example")], flags=0x8180, answers=(record(TO_QUESTION, TYPE_A, V4),) * 50))
    assert (len(read.addresses), read.answer_count, read.cut) == (MAX_ADDRESSES, 50, False)


@pytest.mark.parametrize(("rtype", "data", "rclass"), [(TYPE_A, V6, 1), (TYPE_AAAA, V4, 1), (TYPE_A, b"", 1), (TYPE_A, V4, 3), (16, V4, 1)])
def test_what_only_resembles_an_address_is_none(rtype: int, data: bytes, rclass: int) -> None:
    read = parsed(message([question("odd.example")], flags=0x8180, answers=(record(TO_QUESTION, rtype, data, rclass),)))
    assert (read.addresses, read.cut) == ((), False)


def test_mdns_sets_the_top_bit_of_the_class_and_answers_without_question() -> None:
    asked = parsed(message([question("printer.local", qclass=0x8001), question("nas.local")], flags=0))
    assert (asked.name, asked.question_count, asked.cut) == ("printer.local", 2, False)
    answered = parsed(message([], flags=0x8400, answers=(record(name("printer.local"), TYPE_A, V4, 0x8001),)))
    assert (answered.name, answered.qtype, answered.addresses) == (None, None, (V4,))


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"\x00", "."),
        (b"\x03a.b\x01C\x00", "a\\046b.c"),
        (b"\x05a\x00\x1b\\\xff\x00", "a\\000\\027\\092\\255"),
        (b"\x3f" + b"x" * 63 + b"\x00", "x" * 63),
    ],
)
def test_names_are_lower_case_printable_and_unambiguous(wire: bytes, text: str) -> None:
    assert parsed(message([question(wire)])).name == text


def test_a_name_ends_at_255_octets() -> None:
    longest = b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3d" + b"x" * 61 + b"\x00"
    assert len(longest) == 255
    assert parsed(message([question(longest)])).name is not None
    assert parse_dns(message([question(longest[:192] + b"\x3e" + b"x" * 62 + b"\x00")])) is None


@pytest.mark.parametrize(
    "wire",
    [
        b"\xc0\x0c",  # to itself
        b"\x01a\xc0\x0c",  # to its own beginning
        b"\xc0\x0e\xc0\x0c",  # forward, and back
        b"\xc0\x00",  # into the header
        b"\xff\xff",  # behind the message
        b"\x40a\x00",  # a label type of no standard
        b"\x80a\x00",
    ],
)
def test_a_question_with_a_bad_name_is_no_message(wire: bytes) -> None:
    assert parse_dns(message([question(wire)])) is None


def test_a_loop_in_an_answer_is_passed_over() -> None:
    at = len(message([question("loop.example")]))
    loop = record(struct.pack(">H", 0xC000 | at), TYPE_A, V4)
    assert parsed(message([question("loop.example")], flags=0x8180, answers=(loop,))).addresses == (V4,)


def test_every_cut_says_so() -> None:
    question_end = len(message([question("Api.Example.COM")]))
    for size in range(len(ANSWER)):
        read = parse_dns(ANSWER[:size])
        if size < question_end:
            assert read is None
        else:
            assert read is not None
            assert (read.name, read.cut, read.answer_count) == ("api.example.com", True, 3)
            assert read.addresses == (V6, V4)[: len(read.addresses)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(12),
        bytes(200),
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(60)),
        message([question("chaos.example", qclass=77)]),
        message([question("a.example")], flags=0x7800),
        message([], flags=0x8180, answers=(b"\x05",)),
    ],
)
def test_what_is_no_message_is_none(payload: bytes) -> None:
    assert parse_dns(payload) is None


def test_an_error_may_come_without_a_question() -> None:
    assert parsed(message([], flags=0x8181)).rcode == 1


@given(st.binary(max_size=600))
def test_hostile_bytes_never_raise(data: bytes) -> None:
    parse_dns(data)
    parse_dns(ANSWER[:12] + data)
    parse_dns(struct.pack(">6H", 1, 0x8180, 1, 0xFFFF, 0xFFFF, 0xFFFF) + question("x.example") + data)


@given(st.integers(0, len(ANSWER) - 1), st.integers(0, 255))
def test_one_changed_byte_never_raises_and_stays_in_bounds(at: int, value: int) -> None:
    read = parse_dns(ANSWER[:at] + bytes([value]) + ANSWER[at + 1 :])
    assert read is None or (len(read.name or "") <= 1_003 and all(len(address) in (4, 16) for address in read.addresses))


def prefixed(payload: bytes) -> bytes:
    return struct.pack(">H", len(payload)) + payload


QUERY = message([question("api.example.com")])
STREAM = prefixed(ANSWER) + prefixed(QUERY) + prefixed(b"?") + prefixed(b"") + prefixed(ANSWER)


def read_tcp(data: bytes, cuts: list[int]) -> list[DnsEvent]:
    reader = DnsTcpReader()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [event for a, b in pairwise(edges) for event in reader.feed(data[a:b])] + reader.finish()


def test_messages_over_tcp_carry_offsets() -> None:
    events = read_tcp(STREAM, [])
    assert [STREAM[e.at : e.end] for e in events] == [prefixed(p) for p in (ANSWER, QUERY, b"?", b"", ANSWER)]
    assert [e.message for e in events if isinstance(e, DnsMessageReceived)] == [
        parse_dns(ANSWER), parse_dns(QUERY), None, None, parse_dns(ANSWER),
    ]  # fmt: skip


@given(st.lists(st.integers(0, len(STREAM)), max_size=8), st.integers(0, len(STREAM)))
def test_cuts_do_not_change_the_messages(cuts: list[int], size: int) -> None:
    assert read_tcp(STREAM[:size], cuts) == read_tcp(STREAM[:size], [])


def test_a_hole_costs_its_message_or_what_follows_a_hidden_prefix() -> None:
    whole = read_tcp(STREAM, [])
    for hole in (1, 2, 40):
        for at in range(len(STREAM) - hole):
            reader = DnsTcpReader()
            split = reader.feed(STREAM[:at]) + reader.skip(hole // 2) + reader.skip(hole - hole // 2)
            split += reader.feed(STREAM[at + hole :]) + reader.finish()
            spans = [(e.at, e.end) for e in split]
            assert spans[0][0] == 0
            assert spans[-1][1] == len(STREAM)
            assert all(a[1] == b[0] for a, b in pairwise(spans))
            for event in split:
                untouched = event.end <= at or event.at >= at + hole
                assert isinstance(event, DnsBytesUnread) or (event in whole if untouched else event.message is None)
            hides_prefix = any(e.at < at + hole and at < e.at + 2 for e in whole)
            assert isinstance(split[-1], DnsBytesUnread) == hides_prefix
