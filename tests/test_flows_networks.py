"""Equal five-tuples in two tunnels: two tenants, or one connection seen in both."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pytest

from pcapdiag.flows import networks
from pcapdiag.flows.icmp_join import too_big
from pcapdiag.pipeline import load
from pcapdiag.trace import Trace
from tests.capture_files import NANO, pcap_header, pcap_record
from tests.frame_bytes import ether, ipv4, udp, vlan, vxlan
from tests.wire import Wire

Frames = list[tuple[int, bytes]]
Around = Callable[[bytes], bytes]
CLIENT: Final = bytes([10, 0, 0, 1])


def talk(isn: int = 1_000, server_isn: int = 5_000_000, *, start_ms: float = 0.0, count: int = 8, cport: int = 50_000) -> Frames:
    wire = Wire(cport=cport, client_isn=isn, server_isn=server_isn, start_ms=start_ms).handshake()
    for number in range(count):
        wire = wire.http_get(f"/{isn}/{number}", body=bytes(9_000)).wait(ms=30)
    return list(wire.close().frames())


def asked(name: bytes, *, start_ms: float = 0.0, count: int = 4) -> Frames:
    """Questions and answers between two UDP ports."""
    wire = Wire(start_ms=start_ms)
    for number in range(count):
        wire = wire.udp(name + b" asks %d" % number).udp(name + b" answers %d" % number, by="server").wait(ms=20)
    return list(wire.frames())


def in_vxlan(vni: int) -> Around:
    return lambda frame: ether(ipv4(udp(vxlan(frame, vni), dport=4789), 17, src="192.0.2.1", dst="192.0.2.2"))


def in_vlan(number: int) -> Around:
    return lambda frame: ether(*vlan(frame[14:], number))


def in_gre(key: int) -> Around:
    return lambda frame: ether(ipv4(struct.pack(">HHI", 0x2000, 0x6558, key) + frame, 47, src="192.0.2.1", dst="192.0.2.2"))


def around(frames: Iterable[tuple[int, bytes]], there: Around, back: Around | None = None, *, later_ns: int = 0) -> Frames:
    """The frames inside something, which may depend on the direction."""
    return [(at_ns + later_ns, (there if frame[26:30] == CLIENT else back or there)(frame)) for at_ns, frame in frames]


def seen(tmp_path: Path, *parts: Frames) -> Trace:
    path = tmp_path / "seen.pcap"
    by_time = sorted(frame for part in parts for frame in part)
    records = [pcap_record(frame, sec=at_ns // 10**9, fraction=at_ns % 10**9) for at_ns, frame in by_time]
    path.write_bytes(pcap_header(magic=NANO) + b"".join(records))
    return load(str(path))


def shape(trace: Trace) -> tuple[int, int]:
    """Flows, and requests that were answered."""
    return len(trace.flows), sum(exchange.status == "200" for exchange in trace.exchanges)


OTHER: Final = (3_000_000_000, 900_000_000)


@pytest.mark.parametrize("way", [in_vxlan, in_vlan, in_gre], ids=["vxlan", "vlan", "gre"])
def test_two_tenants_are_two_flows(way: Callable[[int], Around], tmp_path: Path) -> None:
    trace = seen(tmp_path, around(talk(), way(1)), around(talk(*OTHER, start_ms=7), way(2)))
    assert shape(trace) == (2, 16)
    assert trace.quality[0].grade == "A"


def test_a_tenant_and_the_network_around_it(tmp_path: Path) -> None:
    assert shape(seen(tmp_path, talk(), around(talk(*OTHER, start_ms=7), in_vxlan(2)))) == (2, 16)


def test_two_mirror_sessions_show_one_flow(tmp_path: Path) -> None:
    assert shape(seen(tmp_path, around(talk(), in_vxlan(1)), around(talk(), in_vxlan(2), later_ns=30_000))) == (1, 8)


def test_mirror_sessions_that_lose_packets_show_one_flow(tmp_path: Path) -> None:
    chance = random.Random(3)
    sessions = [[frame for frame in talk() if chance.random() > 0.1] for _ in range(2)]
    trace = seen(tmp_path, around(sessions[0], in_vxlan(1)), around(sessions[1], in_vxlan(2), later_ns=30_000))
    assert len(trace.flows) == 1


def test_two_tenants_in_two_mirror_sessions_each(tmp_path: Path) -> None:
    one, other = talk(), talk(*OTHER, start_ms=7)
    mirrored = [
        around(part, in_vxlan(vni), later_ns=at) for vni, part, at in ((1, one, 0), (2, one, 9_000), (3, other, 0), (4, other, 9_000))
    ]
    assert shape(seen(tmp_path, *mirrored)) == (2, 16)


def test_a_tunnel_for_each_direction_is_one_flow(tmp_path: Path) -> None:
    """Cilium writes the sender's identity where the network's would stand; a mirror session may show what comes in alone."""
    assert shape(seen(tmp_path, around(talk(), in_vxlan(1), in_vxlan(2)))) == (1, 8)


def test_two_tenants_with_a_tunnel_for_each_direction(tmp_path: Path) -> None:
    parts = around(talk(), in_vxlan(1), in_vxlan(2)), around(talk(*OTHER, start_ms=7), in_vxlan(3), in_vxlan(4))
    assert shape(seen(tmp_path, *parts)) == (2, 16)


@pytest.mark.parametrize("near", [networks._NEAR, 20_000])
def test_a_connection_that_moves_to_another_tunnel_stays_one(near: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it sends after it has moved."""
    monkeypatch.setattr(networks, "_NEAR", near)
    frames = talk()
    half = len(frames) // 2
    assert shape(seen(tmp_path, around(frames[:half], in_vxlan(1)), around(frames[half:], in_vxlan(2)))) == (1, 8)


def test_packets_bare_and_wrapped_by_turns_are_one_flow(tmp_path: Path) -> None:
    frames = talk()
    assert shape(seen(tmp_path, frames[::2], around(frames[1::2], in_vxlan(1)))) == (1, 8)


def test_a_port_used_again_in_the_same_two_tunnels(tmp_path: Path) -> None:
    again = talk(*OTHER, start_ms=20_000)
    assert shape(seen(tmp_path, around(talk(), in_vxlan(1), in_vxlan(2)), around(again, in_vxlan(1), in_vxlan(2)))) == (2, 16)


def test_other_connections_do_not_matter(tmp_path: Path) -> None:
    third = around(talk(cport=50_001), in_vxlan(1), in_vxlan(2))
    assert shape(seen(tmp_path, around(talk(), in_vxlan(1)), third, around(talk(*OTHER, start_ms=7), in_vxlan(2)))) == (3, 24)


def test_datagrams_of_two_tenants(tmp_path: Path) -> None:
    one, other = asked(b"one"), asked(b"other", start_ms=5)
    assert len(seen(tmp_path, around(one, in_vxlan(1)), around(other, in_vxlan(2))).flows) == 2
    assert len(seen(tmp_path, around(one, in_vxlan(1), in_vxlan(2))).flows) == 1, "a tunnel for each direction"
    mirrored = around(one[:-1], in_vxlan(1)), around(one, in_vxlan(2), later_ns=30_000)
    assert len(seen(tmp_path, *mirrored).flows) == 1, "copies"
    assert len(seen(tmp_path, around(one[:4], in_vxlan(1)), around(one[4:], in_vxlan(2))).flows) == 1, "moved"
    assert len(seen(tmp_path, one[::2], around(one[1::2], in_vxlan(1))).flows) == 1, "bare and wrapped"


def test_an_icmp_error_is_about_the_tenant_whose_number_it_quotes(tmp_path: Path) -> None:
    one = Wire().handshake().send(100).send(1_400, lose="after").icmp_ptb(1_300)
    other = Wire(client_isn=OTHER[0], server_isn=OTHER[1], start_ms=7).handshake().send(200)
    trace = seen(tmp_path, around(one.frames(), in_vxlan(1)), around(other.frames(), in_vxlan(2)))
    assert len(trace.flows) == 2
    assert [(report.fd, report.offset) for report in too_big(trace.packets, trace.tcp)] == [(0, 100)]
