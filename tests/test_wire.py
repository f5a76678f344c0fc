"""The builder that other tests stand on: what it writes is what tshark, an independent reader, sees."""

from __future__ import annotations

import struct
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.wire import START_NS, Merged, Recording, Wire, merge
from tests.wire_bytes import checksum

if TYPE_CHECKING:
    from pathlib import Path

    from tests.wire_host import Mode
    from tests.wire_line import Vantage

CHECKSUMS = ("ip.check_checksum", "tcp.check_checksum", "udp.check_checksum")
FLAGS = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment", "duplicate_ack",
         "ack_lost_segment", "zero_window", "window_update", "keep_alive", "keep_alive_ack", "reused_ports", "window_full")  # fmt: skip


def tshark(recording: Recording, folder: Path, *fields: str, only: str = "") -> list[list[str]]:
    """One row of field values per frame."""
    options = [word for name in CHECKSUMS for word in ("-o", f"{name}:TRUE")]
    shown = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(recording.write(folder)), *options, "-T", "fields", "-E", "separator=;", *shown]
    command += ["-Y", only] if only else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.split(";") for line in done.stdout.splitlines()]


def flags(recording: Recording, folder: Path) -> dict[int, set[str]]:
    """Frame number -> what tshark's TCP analysis says of it."""
    rows = tshark(recording, folder, "frame.number", *(f"tcp.analysis.{flag}" for flag in FLAGS), only="tcp.analysis.flags")
    return {int(row[0]): {flag for flag, value in zip(FLAGS, row[1:], strict=True) if value} for row in rows}


def times_ms(recording: Recording) -> list[float]:
    return [(ts_ns - START_NS) / 1e6 for ts_ns, _ in recording.frames()]


@pytest.mark.tshark
@pytest.mark.parametrize("vantage", ["client", "server", "middle"])
@pytest.mark.parametrize("ipv6", [False, True])
def test_a_lossless_conversation_has_no_analysis_flags(tmp_path: Path, wire: type[Wire], vantage: Vantage, ipv6: bool) -> None:
    told = wire(vantage=vantage, ipv6=ipv6).handshake().http_get(body=20_000, think_ms=50).wait(ms=300)
    told.http_get(body=3).wait(ms=5).send(40_000).reply(40_000, every_ms=1).close()
    assert flags(told, tmp_path) == {}


@pytest.mark.tshark
@pytest.mark.parametrize("mode", ["quick", "delayed"])
@pytest.mark.parametrize(("timestamps", "sack", "wscale"), [(True, True, 7), (False, True, 7), (True, False, None), (False, False, None)])
def test_no_choice_of_options_makes_a_flag(tmp_path: Path, mode: Mode, timestamps: bool, sack: bool, wscale: int | None) -> None:
    told = Wire(timestamps=timestamps, sack=sack, wscale=wscale).acks(mode).handshake().http_get(body=20_000).close()
    assert flags(told, tmp_path) == {}
    (row,) = tshark(
        told,
        tmp_path,
        "tcp.options.mss_val",
        "tcp.options.wscale.shift",
        "tcp.options.sack_perm",
        "tcp.options.timestamp.tsval",
        only="tcp.flags == 0x12",
    )
    assert row == ["1460", "" if wscale is None else str(wscale), "0402" if sack else "", "9000010" if timestamps else ""]


@pytest.mark.tshark
def test_sequence_numbers_may_wrap(tmp_path: Path) -> None:
    told = Wire(client_isn=2**32 - 5_000, server_isn=2**32 - 3_000).handshake().send(20_000).reply(8_000, lose="before", only=[1])
    seen = flags(told.wait(ms=20).resend(1_448, by="server").close(), tmp_path)
    assert set().union(*seen.values()) == {"lost_segment", "duplicate_ack", "retransmission", "fast_retransmission"}


@pytest.mark.tshark
def test_a_segment_lost_before_the_tap_shows_a_hole_duplicate_acks_and_a_fast_retransmission(tmp_path: Path) -> None:
    told = Wire().handshake().send(300).reply(8_000, lose="before", only=[1]).wait(ms=20).resend(1_448, by="server")
    seen = flags(told, tmp_path)
    hole, filler = min(seen), max(seen)
    assert seen[hole] == {"lost_segment"}
    assert seen[filler] == {"retransmission", "fast_retransmission"}
    assert [names for frame, names in seen.items() if hole < frame < filler] == [{"duplicate_ack"}] * 3


@pytest.mark.tshark
def test_a_segment_lost_behind_the_tap_is_seen_twice(tmp_path: Path) -> None:
    told = Wire().handshake().send(300, lose="after").wait(ms=220).resend().reply(100)
    assert flags(told, tmp_path) == {5: {"retransmission"}}


@pytest.mark.tshark
def test_a_packet_that_only_the_capture_missed_is_acknowledged(tmp_path: Path) -> None:
    told = Wire().handshake().send(300).reply(4_000, lose="capture", only=[1])
    assert {"ack_lost_segment"} in flags(told, tmp_path).values()


@pytest.mark.tshark
def test_an_overtaken_segment_is_out_of_order_and_keeps_its_time_stamp(tmp_path: Path) -> None:
    told = Wire().handshake().send(300).reply(2_000, late_ms=1, only=[0])
    (late,) = [frame for frame, names in flags(told, tmp_path).items() if "out_of_order" in names]
    ticks = {row[0] for row in tshark(told, tmp_path, "tcp.options.timestamp.tsval", only="tcp.srcport == 80 && tcp.len > 0")}
    assert len(ticks) == 1
    assert late == len(told.frames()) - 1, "then its ACK"


@pytest.mark.tshark
def test_a_resend_that_was_not_needed_earns_a_dsack(tmp_path: Path) -> None:
    told = Wire().handshake().send(300).wait(ms=250).resend()
    assert next(iter(flags(told, tmp_path).values())) == {"retransmission", "spurious_retransmission"}
    assert tshark(told, tmp_path, "tcp.options.sack_le", "tcp.options.sack_re", only="tcp.options.sack_le") == [["1", "301"]]


@pytest.mark.tshark
def test_a_closed_window_a_probe_and_the_update_that_opens_it(tmp_path: Path) -> None:
    told = Wire().handshake().send(10).reply(1_000).ack(window=0).wait(ms=200).keepalive("server").wait(ms=100).ack(window=65_536)
    seen = flags(told, tmp_path)
    assert list(seen.values()) == [{"zero_window"}, {"keep_alive"}, {"zero_window"}, {"window_update"}]


@pytest.mark.tshark
@pytest.mark.parametrize("ipv6", [False, True])
def test_every_kind_of_packet_has_right_checksums(tmp_path: Path, ipv6: bool) -> None:
    big = Wire(ipv6=ipv6).handshake().send(1_448, lose="after").icmp_ptb(1_400).resend(0, 1_340).supersegment(9_999).rst("server")
    small = Wire(ipv6=ipv6, cport=5_353, sport=53).udp(b"question").fragment(b"answer " * 600)
    both = merge(big, small)
    protocols = [name for name in ("ip", "tcp", "udp", "icmp", "icmpv6") if not (ipv6 and name in {"ip", "icmp"})]
    rows = tshark(both, tmp_path, *(f"{name}.checksum.status" for name in protocols), only="!icmp && !icmpv6")
    rows += tshark(both, tmp_path, "icmpv6.checksum.status" if ipv6 else "icmp.checksum.status", only="icmp || icmpv6")
    assert len(rows) == len(both.frames())
    assert {state for row in rows for state in row} == {"1", ""}, "1 is good; an ICMP error quotes a packet cut short, left out here"


@pytest.mark.tshark
def test_fragments_reassemble_and_one_lost_piece_prevents_it(tmp_path: Path) -> None:
    for ipv6 in (False, True):
        field = "ipv6.reassembled.length" if ipv6 else "ip.reassembled.length"
        whole, cut = (
            Wire(ipv6=ipv6, sport=9_999).fragment(bytes(4_000)),
            Wire(ipv6=ipv6, sport=9_999).fragment(bytes(4_000), lose="before", only=[1]),
        )
        assert [row for row in tshark(whole, tmp_path, field) if row != [""]] == [["4008"]]
        assert [row for row in tshark(cut, tmp_path, field) if row != [""]] == []


@pytest.mark.tshark
def test_a_packet_too_big_quotes_the_packet_it_is_about(tmp_path: Path) -> None:
    told = Wire().handshake().send(1_448, lose="after").icmp_ptb(1_400)
    (row,) = tshark(told, tmp_path, "ip.dst", "icmp.type", "icmp.code", "icmp.mtu", "tcp.dstport", "tcp.seq", only="icmp")
    assert row == ["10.0.0.1,10.0.0.2", "3", "4", "1400", "80", "1001"]
    assert Wire(vantage="server").handshake().send(10).icmp_ptb(1_400).frames()[-1][1][23] != 1, (
        "an error for the client never passes the server"
    )


@pytest.mark.tshark
def test_ids_and_ticks_count_per_sender(tmp_path: Path) -> None:
    told = Wire().handshake().http_get(body=20_000, think_ms=7).supersegment(5 * 1_448).send(1)
    for port in ("50000", "80"):
        rows = tshark(told, tmp_path, "ip.id", "tcp.options.timestamp.tsval", "tcp.len", only=f"tcp.srcport == {port}")
        ids = [int(row[0], 16) for row in rows]
        steps = [b - a for a, b in pairwise(ids)]
        assert steps == [5 if int(row[2]) > 1_448 else 1 for row in rows[:-1]]
        assert (ticks := [int(row[1]) for row in rows]) == sorted(ticks)
    assert {frame[18:20] for _, frame in Wire(ip_id=False).handshake().frames()} == {b"\0\0"}


@pytest.mark.tshark
def test_two_connections_merge_by_time(tmp_path: Path) -> None:
    both = merge(Wire().handshake().http_get(body=20_000, think_ms=30), Wire(cport=50_001, start_ms=15).handshake().http_get(body=20_000))
    assert isinstance(both, Merged)
    assert flags(both, tmp_path) == {}
    assert (times := times_ms(both)) == sorted(times)
    assert len({frame[34:36] for _, frame in both.frames()[:5]}) == 3, "both clients and the server speak in the first five frames"


def test_the_tap_sees_each_packet_when_it_passes() -> None:
    conversation = {
        side: times_ms(Wire(vantage=side).handshake().send(10).wait(ms=50).reply(10)) for side in ("client", "middle", "server")
    }
    assert [round(ms) for ms in conversation["client"]] == [0, 20, 20, 20, 40, 90, 90]
    assert [round(ms) for ms in conversation["middle"]] == [5, 15, 25, 25, 35, 85, 95]
    assert [round(ms) for ms in conversation["server"]] == [10, 10, 30, 30, 30, 80, 100]


def test_a_hop_count_tells_where_the_tap_is() -> None:
    ttls = {side: [frame[22] for _, frame in Wire(vantage=side).handshake().frames()] for side in ("client", "middle", "server")}
    assert ttls == {"client": [64, 57, 64], "middle": [61, 60, 61], "server": [57, 64, 57]}


def test_waits_belong_to_who_acts_next() -> None:
    quiet = Wire(rtt_ms=100).acks("none")
    told = times_ms(quiet.send(1).wait(ms=30).send(1).reply(1).wait(ms=7).reply(1).wait(ms=1).send(1))
    assert [round(ms, 1) for ms in told] == [0.0, 30.0, 130.0, 137.0, 138.0]


def test_receivers_can_be_told_how_to_acknowledge() -> None:
    def acks(mode: Mode) -> list[int]:
        return [round(ms) for ms in times_ms(Wire().acks(mode).send(3 * 1_448))[3:]]

    assert acks("quick") == [20, 20]
    assert acks("delayed") == [20, 60]
    assert acks("none") == []


def test_a_delayed_ack_rides_on_data() -> None:
    assert len(Wire().acks("delayed").send(10).wait(ms=39).reply(10).send(10).wait(ms=39).reply(1).frames()) == 5, (
        "the last reply's own ACK is the fifth"
    )


def test_copies_follow_their_originals() -> None:
    frames = Wire().handshake().duplicate(after_us=3).send(10).frames()
    assert [data for _, data in frames[3::2]] == [data for _, data in frames[4::2]]
    assert [b[0] - a[0] for a, b in zip(frames[3::2], frames[4::2], strict=True)] == [3_000, 3_000]


def test_a_clock_step_changes_what_the_capture_shows_and_not_the_order() -> None:
    shown = times_ms(Wire().handshake().clock_step(ms=-5_000).wait(ms=10).send(10))
    assert [round(ms) for ms in shown] == [0, 20, 20, -4_970, -4_950]


def test_cutting_keeps_the_length_on_the_wire() -> None:
    told = Wire().handshake().send(1_000)
    whole, cut = told.pcap(), told.pcap(snaplen=96)
    assert len(whole) - len(cut) == 1_066 - 96
    assert struct.unpack_from("<II", cut, len(cut) - 82 - 96 - 8) == (96, 1_066)


def test_asking_for_the_capture_does_not_disturb_the_conversation() -> None:
    told = Wire().handshake().send(3_000)
    assert told.pcap() == told.pcap()
    told.reply(10)
    assert told.pcap() == Wire().handshake().send(3_000).reply(10).pcap()


def test_resends_repeat_the_bytes() -> None:
    frames = Wire().acks("none").send(bytes(range(200))).resend().resend(50, 60).frames()
    assert [frame[66:] for _, frame in frames] == [bytes(range(200)), bytes(range(200)), bytes(range(50, 60))]


def test_a_test_may_set_any_field() -> None:
    _, frame = Wire().rst("server", ttl=99, ip_id=0xBEEF, flags=4, window=512).frames()[-1]
    assert (frame[22], frame[18:20].hex(), frame[47], frame[48:50]) == (99, "beef", 4, b"\0\x04")


def test_the_checksum_of_rfc_1071_section_3() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
