"""pmtu-black-hole: large packets vanish without a word while small ones pass."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pcapdiag.capture.host import HostFacts, HostLink, HostSocket
from pcapdiag.detectors import pmtu_black_hole
from pcapdiag.detectors.pmtu_black_hole import DETECTOR, LIMITS
from pcapdiag.flows.enclosure import Enclosure
from pcapdiag.flows.oversize import find_oversize
from pcapdiag.pipeline import load
from pcapdiag.stalls.sign import OfFlow
from tests.detectors.opinion import LAB, diagnosed, of_cuts
from tests.detectors.wrapping import Wrapped, in_vxlan, mirrored
from tests.frame_bytes import ether, ipv4
from tests.wire import Merged, Wire, merge
from tests.wire_line import Lose, Side, Vantage

if TYPE_CHECKING:
    from pcapdiag.trace import Trace

MS = 1_000_000
GET = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6000\r\n\r\n" + b"x" * 6_000
POST = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n" + b"x" * 6_000
ROOM = 1_448
FIRST_MS, TRIES = 240, 4
HUNG_MS = FIRST_MS * (2 ** (TRIES + 1) - 1)
"""Four resends at doubling gaps, and once more as long until the client gives up."""

MACS = {"client": b"\x02\0\0\0\0\x01", "server": b"\x02\0\0\0\0\x02"}


def vanishing(vantage: Vantage, towards: Side) -> Lose:
    """How a packet that is lost near one end looks from the tap."""
    return "after" if vantage not in {towards, "middle"} else "before"


def open_connection(vantage: Vantage, *, ip_id: bool = True) -> Wire:
    """A connection on which three small requests were answered."""
    wire = Wire(vantage=vantage, rtt_ms=40, ip_id=ip_id).handshake()
    for _ in range(3):
        wire.http_get(body=300, think_ms=20).wait(ms=50)
    return wire


def download(vantage: Vantage, *, ip_id: bool = True, told: bool = False, repaired: bool = False) -> Wire:
    """The full packets of an answer vanish, its short last one passes."""
    lose = vanishing(vantage, "client")
    wire = open_connection(vantage, ip_id=ip_id).send(GET).wait(ms=20).reply(ANSWER, lose=lose, only=range(4))
    begin = wire._hosts["server"].next_start - len(ANSWER)
    if told:
        wire.icmp_ptb(1_400, quoting="server")
    for number in range(TRIES):
        wire.wait(ms=FIRST_MS * 2**number).resend(begin, begin + ROOM, by="server", lose=lose)
    wire.wait(ms=FIRST_MS * 2**TRIES)
    if not repaired:
        return wire.fin("client").ack("server")
    for start in range(begin, begin + len(ANSWER), 1_000):
        wire.resend(start, start + 1_000, by="server")
    return wire.close()


def upload(vantage: Vantage) -> Wire:
    """The full packets of a request vanish, its short last one passes."""
    lose = vanishing(vantage, "server")
    wire = open_connection(vantage)
    begin = wire._hosts["client"].next_start
    wire.send(POST, lose=lose, only=range(4))
    for number in range(TRIES):
        wire.wait(ms=FIRST_MS * 2**number).resend(begin, begin + ROOM, by="client", lose=lose)
    return wire.wait(ms=FIRST_MS * 2**TRIES).fin("client").ack("server")


def chat(vantage: Vantage, *, count: int = 12, lossy: bool = False, body: int = 300) -> Wire:
    """Small exchanges between the same hosts at the same time; when lossy, two of three answers need a resend."""
    wire = Wire(vantage=vantage, cport=50_001, rtt_ms=40).handshake()
    for number in range(count):
        if lossy and number % 3:
            wire.send(GET).wait(ms=20).reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", lose=vanishing(vantage, "client"))
            wire.wait(ms=240).resend(by="server").wait(ms=20)
        else:
            wire.http_get(body=body, think_ms=20).wait(ms=250)
    return wire.close()


def hole(vantage: Vantage, towards: Side = "client") -> Merged:
    return merge(download(vantage) if towards == "client" else upload(vantage), chat(vantage))


@pytest.mark.parametrize(("vantage", "variant", "sure"), [("server", "at-sender", 0.95), ("client", "at-receiver", 0.7)])
def test_a_download_whose_large_packets_vanish_fires(vantage: Vantage, variant: str, sure: float) -> None:
    (found,) = diagnosed(DETECTOR, hole(vantage).trace())
    assert found.stall_ns == pytest.approx(HUNG_MS * MS, abs=25 * MS)  # a lower bound: think time and flight are not in it
    assert (found.details["variant"], found.details["direction"], found.confidence.value) == (variant, "from-server", sure)
    assert found.details["path_mtu_low"] < 1_420 < found.details["path_mtu_high"] == 1_499
    assert found.at_least
    assert len(found.exchanges) == 1


def test_an_upload_whose_large_packets_vanish_fires() -> None:
    (found,) = diagnosed(DETECTOR, hole("client", "server").trace())
    assert (found.details["variant"], found.details["direction"], found.confidence.value) == ("at-sender", "from-client", 0.95)
    assert found.stall_ns == pytest.approx((HUNG_MS - 40) * MS, abs=5 * MS)


def test_at_the_server_an_upload_that_never_came_fires() -> None:
    """Its request is not in the capture: there is a sign to the end of the connection, and nothing for it to be charged to."""
    trace = hole("server", "server").trace()
    (sign,) = pmtu_black_hole.signs(trace, LIMITS)
    assert sign.scope == OfFlow(0, 0)
    assert sign.at_least
    assert sign.end_ns == pytest.approx(int(trace.flows.last_ns[0]), abs=5 * MS)


def test_the_sender_side_shows_each_transmission() -> None:
    (found,) = diagnosed(DETECTOR, hole("server").trace())
    sends = found.frames[: TRIES + 1]
    assert all(frame.note.startswith("1500-byte packet") for frame in sends)
    gaps = [(b.ts_ns - a.ts_ns) / MS for a, b in pairwise(sends)]
    assert gaps == pytest.approx([FIRST_MS * 2**n for n in range(TRIES)], abs=5)


def test_the_receiver_side_shows_what_speaks_of_missing_bytes() -> None:
    trace = hole("client").trace()
    (found,) = diagnosed(DETECTOR, trace)
    assert found.frames[0].note == f"its sequence number says {4 * ROOM} bytes before it were sent"


@pytest.mark.parametrize(("acknowledged", "expected"), [(True, 1), (False, 0)])
def test_bytes_that_only_the_capture_lost_do_not_hide_what_never_came(acknowledged: bool, expected: int) -> None:
    """The client acknowledges a small answer that the capture lacks right below the hole, or all of it: then nothing vanished."""
    wire = open_connection("client").send(GET).reply(b"s" * 40, lose="capture").ack("client").send(GET).wait(ms=20)
    wire.reply(ANSWER, lose="before" if acknowledged else "capture", only=range(4))
    begin = wire._hosts["server"].next_start - len(ANSWER)
    for number in range(TRIES if acknowledged else 0):
        wire.wait(ms=FIRST_MS * 2**number).resend(begin, begin + ROOM, by="server", lose="before")
    trace = merge(wire.wait(ms=FIRST_MS * 2**TRIES).fin("client").ack("server"), chat("client")).trace()
    assert len(diagnosed(DETECTOR, trace)) == expected
    assert all(one.missing_len == 4 * ROOM for one in find_oversize(trace.packets, trace.tcp))


def test_a_sender_that_shrinks_its_packets_fires_and_ends_the_wait() -> None:
    (found,) = diagnosed(DETECTOR, merge(download("server", repaired=True), chat("server")).trace())
    assert not found.at_least
    assert found.stall_ns == pytest.approx(HUNG_MS * MS, abs=45 * MS)
    assert found.details["path_mtu_low"] >= 1_040


def test_a_router_that_says_packet_too_big_keeps_it_quiet() -> None:
    trace = merge(download("server", told=True), chat("server")).trace()
    assert find_oversize(trace.packets, trace.tcp) != []
    assert diagnosed(DETECTOR, trace) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_dead_peer_stays_quiet(vantage: Vantage) -> None:
    """Large or small, nothing passes."""
    lose = vanishing(vantage, "client")
    wire = open_connection(vantage).send(GET).wait(ms=20).reply(ANSWER, lose=lose)
    begin = wire._hosts["server"].next_start - len(ANSWER)
    for number in range(TRIES):
        wire.wait(ms=FIRST_MS * 2**number).resend(begin, begin + ROOM, by="server", lose=lose)
    wire.wait(ms=300).rst("client")
    assert diagnosed(DETECTOR, wire.trace()) == []


def test_an_outage_towards_the_server_stays_quiet() -> None:
    """An upload vanishes; so do the ACKs of a download on another connection, whose answer the server therefore sends again."""
    upload = open_connection("client").send(POST, lose="after")
    begin = upload._hosts["client"].next_start - len(POST)
    download = Wire(cport=50_001, rtt_ms=40).handshake().http_get(body=300).wait(ms=170).send(GET).wait(ms=10).acks("none", "client")
    for start in range(0, 6_000, 600):
        download.reply(ANSWER[start : start + 600]).ack("client", lose="after")
    for number in range(TRIES):
        last = number == TRIES - 1
        upload.wait(ms=FIRST_MS * 2**number).resend(
            begin, begin + (len(POST) if last else ROOM), by="client", lose=None if last else "after"
        )
        download.wait(ms=FIRST_MS * 2**number).resend(by="server").ack("client", lose=None if last else "after")
    assert diagnosed(DETECTOR, merge(upload.reply(b"HTTP/1.1 204 No Content\r\n\r\n"), download).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_one_large_packet_lost_once_stays_quiet(vantage: Vantage) -> None:
    wire = open_connection(vantage).send(GET).reply(ANSWER, lose=vanishing(vantage, "client"), only=[0])
    begin = wire._hosts["server"].next_start - len(ANSWER)
    wire.wait(ms=900).resend(begin, begin + ROOM, by="server").close()
    assert diagnosed(DETECTOR, merge(wire, chat(vantage)).trace()) == []


def test_a_path_that_loses_small_packets_too_stays_quiet() -> None:
    assert diagnosed(DETECTOR, merge(download("server"), chat("server", lossy=True)).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_another_large_packet_that_passes_keeps_it_quiet(vantage: Vantage) -> None:
    assert diagnosed(DETECTOR, merge(download(vantage), chat(vantage, body=5_000)).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_a_zero_window_stays_quiet(vantage: Vantage) -> None:
    wire = open_connection(vantage).send(GET).reply(ANSWER[: 2 * ROOM]).ack(window=0)
    for number in range(TRIES):
        wire.wait(ms=FIRST_MS * 2**number).keepalive("server", length=1).ack(window=0)
    assert diagnosed(DETECTOR, merge(wire.fin("client").ack("server"), chat(vantage)).trace()) == []


@pytest.mark.parametrize("side", ["client", "server"])
def test_one_direction_at_the_receiver_stays_quiet(side: Side) -> None:
    """Without the other direction nobody knows what passed."""
    assert diagnosed(DETECTOR, OneWay(hole("client"), MACS[side]).trace()) == []


@pytest.mark.parametrize("side", ["client", "server"])
def test_one_direction_at_the_sender_accuses_nobody_with_confidence(side: Side) -> None:
    found = diagnosed(DETECTOR, OneWay(hole("server"), MACS[side]).trace())
    assert all(one.confidence.value <= 0.4 and one.stall_ns < MS for one in found)


class OneWay(Merged):
    """What one host sent, out of a recording."""

    def __init__(self, whole: Merged, mac: bytes) -> None:
        super().__init__((whole,))
        self._mac = mac

    def sights(self) -> list[tuple[int, int, bytes]]:
        return [sight for sight in super().sights() if sight[2][6:12] == self._mac]


def test_missing_packets_in_the_capture_alone_stay_quiet() -> None:
    """The receiver acknowledges what the capture lost."""
    wire = open_connection("client").send(GET).reply(ANSWER, lose="capture", only=range(4)).wait(ms=2_000).http_get().close()
    assert diagnosed(DETECTOR, merge(wire, chat("client")).trace()) == []


@pytest.mark.parametrize("vantage", ["client", "server"])
@pytest.mark.parametrize("towards", ["client", "server"])
def test_a_cut_capture_raises_nothing(vantage: Vantage, towards: Side, tmp_path: Path) -> None:
    assert len(of_cuts(DETECTOR, hole(vantage, towards), tmp_path, pieces=12)) > 10


@pytest.mark.parametrize("vantage", ["client", "server"])
def test_in_a_tunnel_it_says_what_the_tunnel_leaves(vantage: Vantage) -> None:
    (found,) = diagnosed(DETECTOR, Wrapped(hole(vantage)).trace())
    assert "They travel in VXLAN, and this fits: path MTU 1,500 less 50 bytes VXLAN = 1,450 for the inner packets." in found.summary
    assert (found.details["tunnel"], found.details["overhead_len"], found.details["outer_path_mtu"]) == ("VXLAN", 50, 1_500)
    assert found.details["candidates"] == ["1450 (1,500 less 50 bytes VXLAN)"]
    assert found.details["path_mtu_high"] == 1_499, "the bracket is that of the inner packets"
    assert found.remedy[0].endswith("mtu 1450 (1,500 less 50 bytes VXLAN)")
    assert "1,550" in found.remedy[1]


def test_without_a_tunnel_in_the_capture_it_guesses_as_before() -> None:
    (found,) = diagnosed(DETECTOR, hole("server").trace())
    assert "tunnel" not in found.details
    assert (found.remedy, "VXLAN" in found.summary) == ((), False)


def beside(trace: Trace, *, mtu: int, tunnel_mtu: int, pmtu: int | None) -> Trace:
    """The trace, with what `ip` and `ss` said on the host of its server."""
    flow = 0
    server, client = (trace.addresses.packed[column[flow]] for column in (trace.flows.server, trace.flows.client))
    ports = int(trace.flows.server_port[flow]), int(trace.flows.client_port[flow])
    links = (HostLink(name="eth0", mtu=mtu, addresses=(server,)), HostLink(name="wg0", mtu=tunnel_mtu, kind="wireguard"))
    socket = HostSocket(local=server, local_port=ports[0], remote=client, remote_port=ports[1], pmtu=pmtu)
    return replace(trace, host_facts=HostFacts(sources=("ip.txt",), links=links, sockets=(socket,) if pmtu else ()))


@pytest.mark.parametrize(
    ("pmtu", "said"),
    [(None, "its interface has an MTU of 9,000 bytes."), (1_500, "its sockets took the path for 1,500 bytes.")],
)
def test_what_lay_beside_the_capture_says_what_the_sender_believed(pmtu: int | None, said: str) -> None:
    (found,) = diagnosed(DETECTOR, beside(hole("server").trace(), mtu=9_000, tunnel_mtu=1_440, pmtu=pmtu))
    assert (found.details["sender_mtu"], found.details.get("sender_pmtu")) == (9_000, pmtu)
    assert said in found.summary
    assert found.details["candidates"] == ["1440 (wg0 of a host beside the capture)"]


def test_a_socket_that_knew_the_path_by_then_is_not_said_to_have_missed_it() -> None:
    """`ss` may have been run when the sender had learnt better: its interface's size then explains nothing."""
    (found,) = diagnosed(DETECTOR, beside(hole("server").trace(), mtu=9_000, tunnel_mtu=9_000, pmtu=1_300))
    assert "sender's host" not in found.summary


def test_a_host_that_knows_the_path_is_not_blamed_for_its_size() -> None:
    (found,) = diagnosed(DETECTOR, beside(hole("server").trace(), mtu=1_300, tunnel_mtu=9_000, pmtu=None))
    assert "sender's host" not in found.summary
    assert found.details["candidates"] != ["9000 (wg0 of a host beside the capture)"]


def test_a_mirrored_capture_does_not_blame_the_mirror() -> None:
    (found,) = diagnosed(DETECTOR, Wrapped(hole("server"), mirrored).trace())
    assert "tunnel" not in found.details
    assert "VXLAN" not in found.summary


def test_a_report_to_the_tunnels_end_that_quotes_too_little_is_told() -> None:
    quote = in_vxlan(b"\x02" + bytes(5) + b"\x02" + bytes(5) + b"\x08\x00" + bytes(60))[14:42]
    report = ether(ipv4(struct.pack(">BBHHH", 3, 4, 0, 0, 1_480) + quote, 1, src="192.0.2.1", dst="192.0.2.20"))
    told = Wire(vantage="server", start_ms=1_000).frame(report)
    (found,) = diagnosed(DETECTOR, Wrapped(merge(hole("server"), told), keep=lambda frame: frame == report).trace())
    assert "A Packet Too Big told the tunnel's end an MTU of 1,480, and nobody told the sender." in found.summary
    assert (found.details["outer_path_mtu"], found.details["candidates"]) == (1_480, ["1430 (1,480 less 50 bytes VXLAN)"])


def test_no_usual_mtu_in_the_bracket_leaves_a_bracket() -> None:
    tunnel = Enclosure("GRE", 24)
    assert tunnel.outer_mtu(600, 700) is None
    sentence = pmtu_black_hole._of_tunnel(tunnel, 600, 700, None)
    assert sentence == " They travel in GRE, 24 bytes more: outside, the path MTU lies between 624 and 724 bytes."


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("end", ["client", "server"])
def test_the_lab_agrees(end: str) -> None:
    (found,) = diagnosed(DETECTOR, load(str(LAB / "pmtu-blackhole-download" / f"{end}.pcap")))
    assert found.details["direction"] == "from-server"
    for quiet in (
        "clean-control",
        "capture-loss",
        "reordering-control",
        "tail-loss-rto",
        "link-blackout",
        "pmtu-icmp-honoured",
        "zero-window",
    ):
        assert diagnosed(DETECTOR, load(str(LAB / quiet / f"{end}.pcap"))) == [], quiet
