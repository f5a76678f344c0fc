"""The byte timeline: bytes with their holes, and what happened to any of them, looked up in bulk."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.columns import NEVER
from pcapdiag.flows import group_flows
from pcapdiag.packets.table import Blob
from pcapdiag.streams import NOWHERE, Streams, reassemble
from tests.packet_rows import BEGIN_NS, MS, capture
from tests.tcp_model import Sent, Stream, as_packets, observe
from tests.tcp_talk import ACTIONS, Action, told
from tests.wire import START_NS, Wire, merge

if TYPE_CHECKING:
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets

ROOM = 1_000
CONTENT = bytes(i * 7 % 251 for i in range(2 * ROOM))
"""What both sides send, by true offset: side 1 from ROOM on."""


def with_bytes(sent: list[Sent], captured: list[int]) -> tuple[Packets, TcpTables]:
    """The packets with real bytes in them; of packet i at most captured[i] were kept."""
    packets = as_packets(sent, (5, 2**32 - 9))
    kept = np.array([min(one.length, limit) for one, limit in zip(sent, captured, strict=True)], np.int32)
    at = np.array([one.side * ROOM + one.at + (one.at < 0) for one in sent], np.int64)
    packets = replace(packets, blob=Blob.of([np.frombuffer(CONTENT, np.uint8)]), payload_at=at, payload_captured=kept)
    return packets, group_flows(packets, (capture(),))


def carrier(sent: list[Sent], stream: Stream, byte: int) -> tuple[int, int]:
    """(number of the packet that brought a byte first, how far into its payload it lay)."""
    number = (stream.first_ns[byte] - BEGIN_NS) // MS
    return number, byte + stream.origin - max(sent[number].at, 0)


def bytes_of(streams: Streams, side: int) -> dict[int, int | None]:
    """Every byte of a direction by its offset; None for those that no packet holds."""
    found: dict[int, int | None] = {}
    for start, stop, address in zip(*streams.strips(side), strict=True):
        assert not found or start == max(found) + 1
        found.update(
            zip(range(start, stop), [None] * (stop - start) if address == NOWHERE else streams.read(address, stop - start), strict=True)
        )
    return found


@given(ACTIONS, st.sampled_from([None, 0, 5]), st.lists(st.sampled_from([0, 1, 4, 99]), min_size=50, max_size=50))
def test_strips_hold_every_byte_once_and_nothing_that_was_not_captured(actions: list[Action], early: int | None, limits: list[int]) -> None:
    sent = told(actions, handshake=early is not None, early=early or 0)
    packets, tcp = with_bytes(sent, limits[: len(sent)])
    for side, stream in enumerate(observe(sent)[1]):
        expected: dict[int, int | None] = {}
        for byte in range(min(stream.first_ns, default=0), max(stream.first_ns, default=-1) + 1):
            expected[byte] = None
            if byte in stream.first_ns:
                number, inside = carrier(sent, stream, byte)
                expected[byte] = CONTENT[side * ROOM + byte + stream.origin] if inside < limits[number] else None
        found = reassemble(packets, tcp)
        assert bytes_of(found, side) == expected


@given(ACTIONS, st.booleans())
def test_look_ups_agree_with_counting_bytes(actions: list[Action], handshake: bool) -> None:
    sent = told(actions, handshake=handshake)
    packets, tcp = with_bytes(sent, [99] * len(sent))
    streams, models = reassemble(packets, tcp), observe(sent)[1]
    offsets = np.tile(np.arange(-3, 300), 2)
    fds = np.repeat([0, 1], 303)
    asked = list(zip(fds.tolist(), offsets.tolist(), strict=True))
    ready = [model.in_order() for model in models]
    for side, model in enumerate(models):
        ready[side] |= {byte: model.acked_ns(stop - 1) for start, stop in model.gaps() for byte in range(start, stop)}
    assert streams.first_seen(fds, offsets).tolist() == [models[fd].first_ns.get(byte, NEVER) for fd, byte in asked]
    assert streams.in_order(fds, offsets).tolist() == [ready[fd].get(byte, NEVER) for fd, byte in asked]
    assert streams.acked(fds, offsets).tolist() == [acked_ns(models[fd], byte) for fd, byte in asked]
    rows = streams.segment_of(fds, offsets).tolist()
    seen = [BEGIN_NS + tcp.segments.row[row] * MS if row >= 0 else NEVER for row in rows]
    assert seen == [models[fd].first_ns.get(byte, NEVER) for fd, byte in asked]
    assert streams.first_seen(1, np.arange(9)).tolist() == streams.first_seen(np.full(9, 1), np.arange(9)).tolist(), "one fd for all"


def acked_ns(stream: Stream, byte: int) -> int:
    """Acknowledgments of what lies before the stream's first byte are not kept."""
    return next((ts_ns for offset, ts_ns in stream.acks if offset > byte and offset >= 0), NEVER)


@given(ACTIONS, st.lists(st.integers(0, 60), max_size=6, unique=True))
def test_progress_is_every_time_at_which_bytes_of_the_spans_became_deliverable(actions: list[Action], cuts: list[int]) -> None:
    sent = told(actions, handshake=True)
    packets, tcp = with_bytes(sent, [99] * len(sent))
    edges = sorted(cuts)
    spans = tuple(zip(edges[::2], edges[1::2], strict=False))
    ready = observe(sent)[1][0].in_order()
    expected = {ready[byte] for start, stop in spans for byte in range(start, stop) if ready.get(byte, NEVER) < NEVER}
    assert reassemble(packets, tcp).progress(0, spans).tolist() == sorted(expected)


def ms(times: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[int | None]:
    return [None if ns == NEVER else round((ns - START_NS) / 1e6) for ns in times.tolist()]


def test_the_five_times_of_a_byte_that_was_lost_and_resent() -> None:
    told_ = Wire().handshake().send(6_000, lose="after", only=[1]).wait(ms=30).resend(1_448, 2_896, by="client")
    streams = told_.trace().streams
    at = np.array([0, 1_448, 2_896, 5_999, 6_000])
    assert ms(streams.first_seen(0, at)) == [20, 20, 20, 20, None]
    assert ms(streams.in_order(0, at)) == [20, 20, 20, 20, None]
    assert ms(streams.acked(0, at)) == [40, 70, 70, 70, None]
    assert ms(streams.sacked(0, at)) == [None, None, 40, 40, None]


def test_behind_a_hole_bytes_wait_for_it() -> None:
    told_ = Wire(vantage="server").handshake().send(6_000, lose="before", only=[1]).wait(ms=30).resend(1_448, 2_896, by="client")
    streams = told_.trace().streams
    at = np.array([0, 1_448, 2_896, 5_999])
    assert ms(streams.first_seen(0, at)) == [30, 60, 30, 30]
    assert ms(streams.in_order(0, at)) == [30, 60, 60, 60]
    assert ms(streams.progress(0, ((0, 6_000),))) == [30, 60]
    assert ms(streams.progress(0, ((0, 10),))) == [30]


def test_a_hole_that_stays_holds_up_everything_behind_it_for_ever() -> None:
    streams = Wire(vantage="server").handshake().send(6_000, lose="before", only=[1]).trace().streams
    assert ms(streams.in_order(0, np.array([0, 1_448, 2_896]))) == [30, None, None]
    starts, stops, addresses = streams.strips(0)
    assert (starts, stops) == ([0, 1_448, 2_896, 4_344, 5_792], [1_448, 2_896, 4_344, 5_792, 6_000])
    assert [address == NOWHERE for address in addresses] == [False, True, False, False, False]


def test_what_only_the_capture_missed_was_there_when_it_was_acknowledged() -> None:
    streams = Wire(vantage="server").handshake().send(6_000, lose="capture", only=[1]).trace().streams
    ready = ms(streams.in_order(0, np.array([0, 1_448, 2_896])))
    assert ready == [30, 30, 30]
    assert streams.segment_of(0, np.array([1_448])).tolist() == [-1]


@given(ACTIONS, st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(-3, 300), max_size=6, unique=True)), max_size=4))
def test_arrivals_of_many_are_the_progress_of_each(actions: list[Action], asked: list[tuple[int, list[int]]]) -> None:
    sent = told(actions, handshake=True)
    streams = reassemble(*with_bytes(sent, [99] * len(sent)))
    spans = [tuple(pairwise(sorted(cuts)))[::2] for _, cuts in asked]
    begin = np.cumsum([0, *map(len, spans)])
    whole = np.array([span for one in spans for span in one], np.int64).reshape(-1, 2)
    ends, times = streams.arrivals(np.array([side for side, _ in asked], np.int64), begin, whole)
    for number, (side, _) in enumerate(asked):
        mine = times[ends[number] : ends[number + 1]]
        assert (np.diff(mine) >= 0).all()
        assert np.unique(mine).tolist() == streams.progress(side, spans[number]).tolist()


def test_a_stream_without_bytes() -> None:
    streams = Wire().handshake().trace().streams
    assert isinstance(streams, Streams)
    assert (streams.strips(0).starts, streams.progress(0, ((0, 9),)).tolist()) == ([], [])
    for look_up in (streams.first_seen, streams.in_order, streams.acked, streams.sacked):
        assert look_up(0, np.array([0, 5])).tolist() == [NEVER, NEVER]
    assert streams.segment_of(7, np.array([0])).tolist() == [-1], "a flow that is not there"


def test_the_streams_of_some_flows_are_those_of_all_of_them() -> None:
    lossy = Wire(cport=50_001, start_ms=3).handshake().send(3_000).reply(9_000, lose="capture", only=[2]).wait(ms=50).send(100)
    resent = Wire(cport=50_002, start_ms=5).handshake().send(100).reply(9_000, lose="before", only=[1]).wait(ms=90).resend(by="server")
    trace = merge(Wire().handshake().send(500).reply(4_000), lossy, resent).trace()
    whole, offsets = trace.streams, np.arange(-2, 9_100)
    for flow in range(3):
        part = Streams(trace.packets, trace.tcp, (flow, flow + 1))
        assert part.gaps.fd.tolist() == trace.tcp.gaps.fd[trace.tcp.gaps.fd >> 1 == flow].tolist()
        for fd in (2 * flow, 2 * flow + 1):
            assert part.strips(fd) == whole.strips(fd)
            for look in ("first_seen", "in_order", "acked", "sacked", "segment_of"):
                assert getattr(part, look)(fd, offsets).tolist() == getattr(whole, look)(fd, offsets).tolist()
    assert len(trace.tcp.gaps) == 1
