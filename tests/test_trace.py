"""The tables of a trace, and the names reports give its hosts and packets."""

from __future__ import annotations

import pytest

from tests.wire import Wire, merge


def test_both_ends_have_names() -> None:
    trace = merge(Wire().handshake(), Wire(ipv6=True, cport=40_000, sport=443, start_ms=9).handshake()).trace()
    assert [(trace.client(flow), trace.server(flow)) for flow in (0, 1)] == [
        ("10.0.0.1:50000", "10.0.0.2:80"),
        ("[2001:db8::1]:40000", "[2001:db8::2]:443"),
    ]


def test_a_segment_leads_to_its_frame() -> None:
    trace = merge(Wire().handshake().send(10), Wire(cport=50_001, start_ms=1).handshake()).trace()
    frames = [trace.frame_of(row) for row in range(len(trace.segments))]
    assert sorted(frames) == [(0, number) for number in range(1, len(trace.packets) + 1)]
    for row, (_, number) in enumerate(frames):
        assert trace.packets.ts_ns[number - 1] == trace.segments.ts_ns[row]


def test_a_trace_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Wire().handshake().trace().start_ns = 0  # type: ignore[misc]  # that is the point
