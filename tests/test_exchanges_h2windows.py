"""The books of HTTP/2 flow control, against the sentences of RFC 9113 sections 5.2 and 6.9."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pcapdiag.exchanges.h2log import H2Log
from pcapdiag.exchanges.h2windows import DEFAULT_WINDOW, Windows, find_pauses
from pcapdiag.protocols.http2_rows import H2Kind

MS = 1_000_000
SENT, GAVE = 1, 0
"""fd of the DATA (server to client), and of its receiver."""

Row = tuple[int, H2Kind, int, int]
"""fd, kind, stream, value."""


def log(*rows: Row, every_ms: int = 1, times: list[int] | None = None, ended: tuple[int, ...] = ()) -> H2Log:
    fd, kind, stream, value = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    at = np.array(times if times is not None else range(len(rows)), np.int64) * MS * every_ms
    return H2Log(
        fd=fd, offset_stop=np.arange(len(rows)), kind=kind.astype(np.uint8), stream_id=stream, value=value, in_order_ns=at,
        first_seen_ns=at, segment=np.arange(len(rows)), end_stream=np.isin(np.arange(len(rows)), ended), flow=(fd >> 1).astype(np.int32),
    )  # fmt: skip


def data(stream: int, length: int) -> Row:
    return SENT, H2Kind.DATA, stream, length


def credit(stream: int, length: int) -> Row:
    return GAVE, H2Kind.WINDOW_UPDATE, stream, length


def initial(length: int) -> Row:
    return GAVE, H2Kind.SETTINGS_INITIAL_WINDOW, 0, length


def at_end(rows: H2Log, stream: int) -> tuple[int, int]:
    windows, end = Windows(rows, SENT), np.array([len(rows)])
    return int(windows.stream(np.int64(stream), end)[0]), int(windows.connection(end)[0])


def test_both_windows_begin_at_65535_and_data_counts_against_both() -> None:
    assert at_end(log(data(1, 1_000), data(3, 500)), 1) == (DEFAULT_WINDOW - 1_000, DEFAULT_WINDOW - 1_500)


def test_credit_counts_where_it_is_given() -> None:
    assert at_end(log(data(1, 1_000), credit(1, 10), credit(0, 20)), 1) == (DEFAULT_WINDOW - 990, DEFAULT_WINDOW - 980)


def test_settings_change_open_streams_but_not_the_connection_and_may_go_below_zero() -> None:
    assert at_end(log(data(1, 1_000), initial(400)), 1) == (-600, DEFAULT_WINDOW - 1_000)


def test_the_other_direction_has_its_own_books() -> None:
    assert at_end(log((GAVE, H2Kind.DATA, 1, 1_000), (SENT, H2Kind.WINDOW_UPDATE, 1, 5)), 1) == (DEFAULT_WINDOW, DEFAULT_WINDOW)


def test_a_row_asks_for_the_moment_before_it() -> None:
    windows = Windows(log(data(1, 1_000), data(1, 10)), SENT)
    assert windows.stream(np.int64(1), np.array([0, 1])).tolist() == [DEFAULT_WINDOW, DEFAULT_WINDOW - 1_000]


EVENTS = st.lists(
    st.builds(data, st.sampled_from([1, 3, 5]), st.integers(0, 20_000))
    | st.builds(credit, st.sampled_from([0, 1, 3, 5]), st.integers(1, 20_000))
    | st.builds(initial, st.integers(0, 100_000)),
    min_size=1,
    max_size=30,
)


@given(EVENTS)
def test_the_books_are_those_of_a_sender_that_keeps_them_one_by_one(events: list[Row]) -> None:
    start, connection, streams = DEFAULT_WINDOW, DEFAULT_WINDOW, dict.fromkeys((1, 3, 5), DEFAULT_WINDOW)
    windows = Windows(log(*events), SENT)
    for row, (_, kind, stream, value) in enumerate(events):
        here = np.array([row])
        assert int(windows.connection(here)[0]) == connection
        assert {number: int(windows.stream(np.int64(number), here)[0]) for number in streams} == streams
        if kind is H2Kind.DATA:
            connection, streams[stream] = connection - value, streams[stream] - value
        elif kind is H2Kind.WINDOW_UPDATE and stream:
            streams[stream] += value
        elif kind is H2Kind.WINDOW_UPDATE:
            connection += value
        else:
            streams = {number: window + value - start for number, window in streams.items()}
            start = value


def test_a_stream_that_goes_on_when_it_gets_credit_paused() -> None:
    rows = log(credit(0, 99_999), data(1, DEFAULT_WINDOW), credit(1, 9_000), data(1, 5_000), times=[0, 1, 801, 802], ended=(3,))
    (pause,) = find_pauses(rows, SENT, whole=True, least_ns=200 * MS, reach_ns=50 * MS)
    assert (pause.last, pause.credit, pause.resumed, pause.level, pause.left) == (1, 2, 3, "stream", 0)


def test_a_connection_window_that_another_stream_used_up_counts_from_then_on() -> None:
    rows = log(
        data(1, 5), data(3, DEFAULT_WINDOW - 5), credit(0, 9_000), data(1, 5_000), times=[0, 500, 1_500, 1_501], ended=(1, 3)
    )  # fmt: skip
    (pause,) = find_pauses(rows, SENT, whole=True, least_ns=200 * MS, reach_ns=50 * MS)
    assert (pause.stream, pause.last, pause.level) == (1, 1, "connection")


def test_credit_nobody_needed_ends_no_pause() -> None:
    rows = log(data(1, 5_000), credit(1, 9_000), data(1, 5_000), times=[0, 800, 801], ended=(2,))
    assert list(find_pauses(rows, SENT, whole=True, least_ns=200 * MS, reach_ns=50 * MS)) == []


def test_without_the_beginning_credit_and_data_speak_unless_the_receiver_asked_again() -> None:
    rows = log(data(1, 5_000), credit(1, 9_000), data(1, 5_000), times=[0, 800, 801], ended=(2,))
    (pause,) = find_pauses(rows, SENT, whole=False, least_ns=200 * MS, reach_ns=50 * MS)
    assert pause.level == "unknown"
    asked = log(data(1, 5_000), (GAVE, H2Kind.DATA, 1, 50), credit(1, 9_000), data(1, 5_000), times=[0, 799, 800, 801], ended=(3,))
    assert list(find_pauses(asked, SENT, whole=False, least_ns=200 * MS, reach_ns=50 * MS)) == []
