"""A connection that several captures hold is analysed as one of them saw it, whatever their clocks say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pcapdiag.flows.views import second_views
from pcapdiag.options import Options
from pcapdiag.packets.table import RST, UDP
from pcapdiag.pipeline import diagnose, load, scan
from tests.packet_rows import CLIENT, MS, SERVER, Row, packets, row
from tests.wire import Wire
from tests.wire_bytes import pcap
from tests.wire_line import Vantage

if TYPE_CHECKING:
    from pcapdiag.trace import Trace

ENDS: tuple[Vantage, Vantage] = ("client", "server")
LAB = Path(__file__).parent.parent.parent / "shared" / "captures" / "lab"


def talk(vantage: Vantage, *, timestamps: bool, ipv6: bool) -> Wire:
    wire = Wire(vantage=vantage, rtt_ms=150, timestamps=timestamps, ipv6=ipv6).handshake()
    for _ in range(8):
        wire.http_get(think_ms=50, body=6_000).wait(ms=300)
    wire.send(b"GET /lost HTTP/1.1\r\nHost: a\r\n\r\n").reply(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9_000, lose="after" if vantage == "server" else "before", only=(2,)
    )
    return wire.wait(ms=160).resend(8 * 6_071 + 2 * 1_448, 8 * 6_071 + 3 * 1_448, by="server").close()


@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("ipv6", [True, False])
@pytest.mark.parametrize("late_s", [0.0, 0.01, 0.5, 3.0, -3.0])
def test_two_captures_of_one_path_say_what_one_of_them_says(tmp_path: Path, timestamps: bool, ipv6: bool, late_s: float) -> None:
    near, far = (talk(side, timestamps=timestamps, ipv6=ipv6).frames() for side in ("client", "server"))
    (tmp_path / "near.pcap").write_bytes(pcap(near))
    (tmp_path / "far.pcap").write_bytes(pcap([(ns + round(late_s * 1e9), frame) for ns, frame in far]))
    alone = [spent(load(str(tmp_path / name))) for name in ("near.pcap", "far.pcap")]
    both, failures = scan([str(tmp_path / "near.pcap"), str(tmp_path / "far.pcap")], Options())
    assert failures == ()
    assert spent(both) in alone
    assert len(both.flows) == 1


@pytest.mark.parametrize("late_s", [0.0, 3.0, -3.0])
def test_of_two_that_show_as_much_the_one_nearer_to_the_client_is_taken_in_any_order(tmp_path: Path, late_s: float) -> None:
    near, far = (Wire(vantage=side, rtt_ms=150).handshake().http_get(think_ms=80).http_get(body=6_000).close() for side in ENDS)
    (tmp_path / "near.pcap").write_bytes(pcap(near.frames()))
    (tmp_path / "far.pcap").write_bytes(pcap([(ns + round(late_s * 1e9), frame) for ns, frame in far.frames()]))
    for order in (("near.pcap", "far.pcap"), ("far.pcap", "near.pcap")):
        both, _ = scan([str(tmp_path / name) for name in order], Options())
        assert spent(both) == spent(load(str(tmp_path / "near.pcap")))
        assert [both.captures[capture].name for capture in both.flows.capture.tolist()] == ["near.pcap"]


def spent(trace: Trace) -> dict[str, int]:
    return {f.code: f.conclusion.stall_ns for f in diagnose(trace).findings if f.conclusion.stall_ns}


def sight(number: int, capture: int, port: int = 1_000, **columns: Any) -> Row:
    """One packet, with the same numbers whichever capture holds it."""
    back = columns.pop("back", False)
    ends = ((SERVER[0], 80), (CLIENT[0], port))
    named = {"seq": 100 * number, "payload_len": 100, "ip_id": port + number, "src": ends[not back], "dst": ends[back], **columns}
    return row(number * MS + 5_000 * capture, capture=capture, **named)


def test_each_direction_in_a_capture_of_its_own_is_one_connection() -> None:
    assert second_views(packets(*(sight(n, n % 2, back=bool(n % 2)) for n in range(20))), 2).tolist() == []


def test_a_connection_that_goes_on_in_another_capture_is_one() -> None:
    assert second_views(packets(*(sight(n, n // 10) for n in range(20))), 2).tolist() == []


def test_the_capture_that_shows_most_of_all_is_taken_where_it_shows_enough() -> None:
    first, second = list(range(20)), list(range(16))
    most = [sight(n, 0, port) for port in (1_000, 2_000) for n in first] + [sight(n, 1, port) for port in (1_000, 2_000) for n in second]
    assert second_views(packets(*most), 2).tolist() == list(range(40, 72))
    few = [*(sight(n, 0, 1_000) for n in range(4)), *(sight(n, 0, 2_000) for n in first), *(sight(n, 1, 1_000) for n in second)]
    assert second_views(packets(*few, *(sight(n, 1, 2_000) for n in second)), 2).tolist() == list(range(24)), "the second shows more of all"


def test_a_reset_that_is_all_a_lossy_capture_holds_of_a_connection_is_no_second_one() -> None:
    whole = [sight(n, capture, 1_000) for capture in (0, 1) for n in range(20)]
    reset = {"ip_id": 0, "payload_len": 0, "flags": RST}
    opened = [sight(30, 0, 2_000, payload_len=0), sight(31, 0, 2_000, payload_len=0, back=True)]
    rest = [*opened, sight(40, 0, 2_000, **reset), sight(40, 1, 2_000, **reset)]
    assert second_views(packets(*whole, *rest), 2).tolist() == [*range(20, 40), 43]
    answered = [opened[0], *(sight(31, capture, 2_000, payload_len=0, back=True) for capture in (0, 1)), *rest[2:]]
    assert second_views(packets(*whole, *answered), 2).tolist() == [*range(20, 40), 42, 44], "one of two is told from a resend"
    assert second_views(packets(*rest), 2).tolist() == [], "two captures that have nothing else in common"


def test_files_of_one_tap_that_overlap_are_put_together() -> None:
    table = packets(*(replace(sight(n, capture), at_ns=n * MS) for capture in (0, 1) for n in range(8 * capture, 12 + 8 * capture)))
    assert second_views(table, 2).tolist() == []


@pytest.mark.parametrize("names", [("cut.pcap", "full.pcap"), ("full.pcap", "cut.pcap")])
def test_of_one_tap_that_wrote_two_files_the_fuller_packets_are_read(tmp_path: Path, names: tuple[str, str]) -> None:
    wire = Wire().handshake().http_get("/one", body=6_000, think_ms=400).http_get("/two").close()
    (tmp_path / "full.pcap").write_bytes(wire.pcap())
    (tmp_path / "cut.pcap").write_bytes(wire.pcap(snaplen=80))
    both, _ = scan([str(tmp_path / name) for name in names], Options())
    assert [one.name for one in both.exchanges if not one.is_setup] == ["GET /one", "GET /two"]
    assert spent(both) == spent(load(str(tmp_path / "full.pcap")))


@pytest.mark.parametrize("how", ["cut", "copied", "coupled"])
def test_neither_copies_nor_offload_show_more_and_a_cut_capture_shows_less(tmp_path: Path, how: str) -> None:
    near, far = (Wire(vantage=side, rtt_ms=150).handshake() for side in ENDS)
    for side, wire in zip(ENDS, (near, far), strict=True):
        wire.http_get("/one", body=9_000, think_ms=80).acks("none")
        for _ in range(4):
            wire.wait(ms=40).reply(4 * 1_448) if side == "server" or how != "coupled" else wire.wait(ms=40).supersegment(
                4 * 1_448, by="server"
            )
        wire.close()
    (tmp_path / "near.pcap").write_bytes(near.pcap(snaplen=80 if how == "cut" else 262_144))
    there = [(ns + 3_000_000_000 + late, frame) for ns, frame in far.frames() for late in ((0, 2_000) if how == "copied" else (0,))]
    (tmp_path / "far.pcap").write_bytes(pcap(there))
    both, _ = scan([str(tmp_path / name) for name in ("near.pcap", "far.pcap")], Options())
    taken = [both.captures[capture].name for capture in both.flows.capture.tolist()]
    assert taken == ["far.pcap" if how == "cut" else "near.pcap"]
    assert "GET /one" in [one.name for one in both.exchanges]


def test_datagrams_and_their_fragments() -> None:
    asked = {"proto": UDP, "payload_len": 30}
    first = {"proto": UDP, "payload_len": 1_400, "more_fragments": True, "back": True}
    near = [sight(1, 0, 5_000, **asked), sight(9, 0, 5_000, **first)]
    far = [sight(1, 1, 5_000, **asked), sight(9, 1, 5_000, **first)]
    rest = row(9 * MS, back=True, proto=UDP, ip_id=5_009, frag_offset=1_400, payload_len=300, capture=1)
    assert second_views(packets(*near, *far, rest), 2).tolist() == [2, 3, 4]


@pytest.mark.skipif(not LAB.exists(), reason="the labelled captures are not here")
@pytest.mark.parametrize("case", ["link-blackout", "rtt-step", "microburst-loss", "ip-fragment-loss"])
def test_the_lab_agrees(case: str) -> None:
    ends = [str(LAB / case / f"{end}.pcap") for end in ("client", "server")]
    assert spent(scan(ends, Options())[0]) in [spent(load(end)) for end in ends]
