"""Both sides of an address translation: linked packet by packet, one leg kept."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pcapdiag.flows.aside import set_aside
from pcapdiag.flows.group import group_packets
from pcapdiag.flows.legs import link_legs, rows_of_legs
from tests.wire import Recording, Wire, merge

if TYPE_CHECKING:
    from collections.abc import Callable

INSIDE, OUTSIDE = bytes([10, 0, 0, 1]), bytes([203, 0, 113, 7])
DELAY_NS = 40_000


class Translated(Recording):
    """What a router shows that hides the client behind an address of its own: both sides of every packet."""

    def __init__(
        self, inside: Recording, *, change: Callable[[bytearray], None] | None = None, only: int | None = None, ahead_ms: float = 0
    ) -> None:
        self._inside, self._change, self._only, self._ahead_ns = inside, change, only, round(ahead_ms * 1e6)

    def sights(self) -> list[tuple[int, int, bytes]]:
        sights = []
        for number, (true_ns, shown_ns, data) in enumerate(self._inside.sights()):
            upward = data[26:30] == INSIDE
            other = self._outside(bytearray(data), upward=upward)
            near, far = bytearray(data), other
            later = far if upward else near
            later[22] -= 1
            times = (0, DELAY_NS) if upward else (DELAY_NS, 0)
            sights.append((true_ns + times[0], shown_ns + times[0], bytes(near)))
            if self._only is None or number < self._only:
                sights.append((true_ns + times[1] + self._ahead_ns, shown_ns + times[1] + self._ahead_ns, bytes(far)))
        return sorted(sights, key=lambda sight: sight[0])

    def _outside(self, frame: bytearray, *, upward: bool) -> bytearray:
        address, port = (26, 34) if upward else (30, 36)
        frame[address : address + 4] = OUTSIDE
        struct.pack_into("!H", frame, port, struct.unpack_from("!H", frame, port)[0] + 1_000)
        if self._change is not None:
            self._change(frame)
        return frame


def talk(cport: int = 50_000, **host: bool) -> Wire:
    wire = Wire(cport=cport, rtt_ms=30, vantage="middle", client_isn=7 * cport, server_isn=11 * cport, **host)  # type: ignore[arg-type]  # options
    return wire.handshake().http_get(body=20_000, think_ms=100).close()


@pytest.mark.parametrize("host", [{}, {"timestamps": False}, {"ip_id": False}])
def test_the_leg_nearer_the_client_stays(host: dict[str, bool]) -> None:
    alone, both = talk(**host).trace(), Translated(talk(**host)).trace()
    assert len(both.flows) == 1
    assert both.client(0) == alone.client(0)
    for name in ("seq", "ack", "kind", "sends", "dup_ack"):
        assert getattr(both.segments, name).tolist() == getattr(alone.segments, name).tolist(), name
    assert [(row.name, row.outcome) for row in both.exchanges] == [(row.name, row.outcome) for row in alone.exchanges]


def test_the_other_leg_is_linked_counted_and_named() -> None:
    trace = Translated(talk()).trace()
    (flow,), (packet_count,) = trace.tcp.legs.flow.tolist(), trace.tcp.legs.packet_count.tolist()
    assert (flow, packet_count) == (0, len(trace.segments))
    assert trace.tcp.legs.matched.tolist() == trace.tcp.legs.compared.tolist()
    assert trace.tcp.legs.delay_ns.tolist() == [DELAY_NS]
    assert trace.addresses.endpoint(int(trace.tcp.legs.client[0]), int(trace.tcp.legs.client_port[0])) == "203.0.113.7:51000"
    quality = trace.quality[0]
    assert (quality.copies, quality.leg_packets, quality.grade) == (packet_count, packet_count, "C")
    assert quality.issues == ("duplicate-packets",)
    assert len(trace.tcp.aside) == packet_count
    assert (trace.tcp.flow_of_row[trace.tcp.aside] == -1).all()


@pytest.mark.parametrize("ahead_ms", [-1_500, -40, -3, -0.05, 0.05, 3, 40, 1_500])
def test_two_hosts_in_one_file_need_not_have_one_clock(ahead_ms: float) -> None:
    """mergecap puts the capture of the translator's far side beside that of the client."""
    alone, both = Translated(talk()).trace(), Translated(talk(), ahead_ms=ahead_ms).trace()
    assert len(both.flows) == 1
    assert both.client(0) == alone.client(0)
    assert [row.end_ns - row.start_ns for row in both.exchanges] == [row.end_ns - row.start_ns for row in alone.exchanges]
    assert both.tcp.legs.delay_ns.tolist() == [DELAY_NS]


def test_every_connection_finds_its_own_other_leg() -> None:
    trace = Translated(merge(*(talk(50_000 + 7 * i) for i in range(5)))).trace()
    assert len(trace.flows) == len(trace.tcp.legs) == 5
    assert [port - 1_000 for port in trace.tcp.legs.client_port.tolist()] == trace.flows.client_port[trace.tcp.legs.flow].tolist()


def test_a_chain_of_translators_keeps_one_leg() -> None:
    """The second one is seen as a third name of the client."""
    once = Translated(talk())

    def third(frame: bytearray) -> None:
        at = 26 if frame[26:30] == OUTSIDE else 30
        frame[at : at + 4] = bytes([198, 51, 100, 9])

    sights = sorted({*once.sights(), *Translated(talk(), change=third).sights()}, key=lambda sight: sight[0])

    class Both(Recording):
        def sights(self) -> list[tuple[int, int, bytes]]:
            return sights

    trace = Both().trace()
    assert len(trace.flows) == 1
    assert trace.client(0) == "10.0.0.1:50000"
    assert trace.tcp.legs.flow.tolist() == [0, 0]


def test_a_proxy_with_numbers_of_its_own_is_no_leg() -> None:
    def renumber(frame: bytearray) -> None:
        struct.pack_into("!I", frame, 38, (struct.unpack_from("!I", frame, 38)[0] + 77_777) % 2**32)

    trace = Translated(talk(), change=renumber).trace()
    assert (len(trace.flows), len(trace.tcp.legs)) == (2, 0)


def test_single_coincidences_link_nothing() -> None:
    """Two packets on both sides, then the connections go their own ways."""
    trace = Translated(talk(), only=2).trace()
    assert (len(trace.flows), len(trace.tcp.legs)) == (2, 0)


def test_connections_that_differ_in_their_port_alone_are_several() -> None:
    """Alike to the bit in numbers and times, as generated traffic may be."""
    trace = merge(*(Wire(cport=50_000 + i).handshake().http_get() for i in range(4))).trace()
    assert (len(trace.flows), len(trace.tcp.legs)) == (4, 0)


def test_other_hosts_that_send_the_same_on_the_same_road_are_no_translation() -> None:
    hosts = [Wire(client=f"10.0.0.{i}").handshake().http_get() for i in (1, 5)]
    trace = merge(*hosts).trace()
    assert (len(trace.flows), len(trace.tcp.legs)) == (2, 0), "no router lowered the TTL, and the link-layer addresses are the same"


def test_linking_needs_only_packets_and_groups() -> None:
    packets = Translated(talk()).trace().packets
    grouping = group_packets(packets, set_aside(packets, 1).rows)
    link = link_legs(packets, grouping)
    assert (link.near.tolist(), link.far.tolist()) == ([0], [1])
    aside = np.concatenate([*rows_of_legs(grouping, link)])
    assert len(aside) == len(packets) / 2
    assert set(aside.tolist()) == set(grouping.rows[grouping.places(link.far)].tolist())
