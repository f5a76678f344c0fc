"""Two captures of one path: connections matched, clocks compared, every transmission placed, requests counted once."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pcapdiag.errors import OptionError
from pcapdiag.pair.table import Place
from tests.two_taps import Tapped, Taps, codes, counts, finding, merged, payload_sizes, readdressed

SECOND, MS = 1_000_000_000, 1_000_000
MSS = 1_448
REQUEST = b"POST /v1/messages HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\nhi"


def response(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length


def talk(wire: Tapped, *, requests: int = 3, think_ms: float = 30) -> None:
    """Requests and answers that nothing disturbs."""
    wire.handshake()
    for _ in range(requests):
        wire.send(REQUEST).wait(ms=think_ms).reply(response(4_000)).wait(ms=5)
    wire.close()


def lossy_reply(wire: Tapped) -> None:
    """The second segment of an answer is lost between the taps, and resent on duplicate ACKs."""
    wire.handshake().send(REQUEST).wait(ms=20).reply(response(8_000), lose=wire.between("server"), only=[1])
    wire.wait(ms=25).resend(MSS, 2 * MSS, by="server").wait(ms=10).close()


def lost_tail(wire: Tapped) -> None:
    """A whole answer is lost between the taps, and comes by timer: at the client it is nothing but late."""
    wire.handshake().send(REQUEST).wait(ms=20).reply(response(100), lose=wire.between("server"))
    wire.wait(ms=420).resend(by="server").wait(ms=5).close()


def test_a_clean_path_loses_nothing_and_a_request_counts_once(tmp_path: Path) -> None:
    diagnosis = Taps.of(talk, talk).diagnosed(tmp_path)
    pair = diagnosis.tables.pair
    assert pair is not None
    assert counts(pair) == ({}, {})
    assert (pair.matched_flows, pair.matched_by_address, pair.unmatched) == (2, 2, ())
    assert pair.ways[0].sent_count == pair.ways[0].passed_count > 0
    assert [e.outcome.value for e in diagnosis.tables.exchanges if not e.is_setup] == ["ok"] * 6
    assert pair.clocks.offset_ns == 0
    assert pair.clocks.uncertainty_ns == 10 * MS - 20_000  # half of 20 ms less the way from each host to its tap


@pytest.mark.parametrize(
    "clock",
    [lambda ns: ns + 3_600 * SECOND, lambda ns: ns - 17 * MS, lambda ns: ns + 5 * SECOND + (ns % (1_000 * SECOND)) // 20_000],
    ids=["an hour ahead", "17 ms behind", "drifting by 50 ppm"],
)
@pytest.mark.parametrize("script", [lossy_reply, lost_tail])
def test_clocks_do_not_matter_to_places_nor_to_seconds(tmp_path: Path, clock: object, script: object) -> None:
    taps = Taps.of(script, talk)  # type: ignore[arg-type]  # a script of the list above
    straight, shifted = taps.diagnosed(tmp_path), taps.clocked(clock).diagnosed(tmp_path)  # type: ignore[arg-type]  # a clock of it
    assert straight.tables.pair is not None
    assert shifted.tables.pair is not None
    assert counts(shifted.tables.pair) == counts(straight.tables.pair)
    assert codes(shifted) == codes(straight)
    assert [f.blocked_ns for f in shifted.findings] == pytest.approx([f.blocked_ns for f in straight.findings], abs=MS)


def test_a_lost_segment_is_placed_between_the_taps_with_frames_of_both(tmp_path: Path) -> None:
    diagnosis = Taps.of(lossy_reply).diagnosed(tmp_path)
    pair = diagnosis.tables.pair
    assert pair is not None
    assert counts(pair) == ({}, {"between": 1})
    row = int((pair.placed.place == Place.BETWEEN).argmax())
    assert (pair.placed.start[row], pair.placed.stop[row], pair.placed.ip_len[row]) == (MSS, 2 * MSS, 1_500)
    found = finding(diagnosis, "fast-retransmit-loss")
    assert found.score.confidence == 0.98
    assert {frame.capture for frame in found.conclusion.frames} == {0, 1}
    places = found.conclusion.details["placed"]["server to client"]
    assert (places["between"], {capture for capture, _ in places["frames"]}) == (1, {0, 1})


def test_a_tail_that_the_client_could_not_see_lost_is_timed_by_the_servers_capture(tmp_path: Path) -> None:
    diagnosis = Taps.of(lost_tail).diagnosed(tmp_path)
    found = finding(diagnosis, "tail-loss-rto")
    assert found.score.confidence == 0.98
    assert found.conclusion.stall_ns == pytest.approx(400 * MS, abs=40 * MS)
    assert codes(diagnosis, but=("tail-loss-rto",)) == []


@pytest.mark.parametrize("by", ["client", "server"])
def test_loss_behind_the_receiving_tap_is_told_from_loss_between(tmp_path: Path, by: str) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(REQUEST)
        if by == "client":
            wire.send(200, lose="after").wait(ms=300).resend(by="client")
        wire.wait(ms=20)
        if by == "server":
            wire.reply(response(100), lose="after").wait(ms=300).resend(by="server")
        else:
            wire.reply(response(100))
        wire.wait(ms=5).close()

    assert counts(Taps.of(script).paired(tmp_path))[by == "server"] == {"behind": 1}


def test_a_lost_acknowledgment_is_no_lost_request(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.acks("none").syn().syn_ack().ack().send(REQUEST).ack(by="server", lose=wire.between("server"))
        wire.wait(ms=220).resend(by="client").wait(ms=1).ack(by="server").wait(ms=20).reply(response(10)).ack().close()

    diagnosis = Taps.of(script).diagnosed(tmp_path)
    assert diagnosis.tables.pair is not None
    assert counts(diagnosis.tables.pair) == ({"ack-lost": 1}, {"between": 1})
    assert "tail-loss-rto" not in codes(diagnosis)


def test_a_needless_resend_is_spurious(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(REQUEST).wait(ms=60).resend(by="client").wait(ms=20).reply(response(10)).close()

    assert counts(Taps.of(script).paired(tmp_path))[0] == {"spurious": 1}


def test_what_a_capture_dropped_is_no_loss(tmp_path: Path) -> None:
    taps = Taps.of(talk, talk)
    data = [i for i, size in enumerate(payload_sizes(taps.client)) if size > 1_000]
    requests = [i for i, size in enumerate(payload_sizes(taps.client)) if 0 < size < 100]
    diagnosis = taps.without(client=[data[3], data[7], requests[2]]).diagnosed(tmp_path)
    pair = diagnosis.tables.pair
    assert pair is not None
    assert counts(pair) == ({"sending-capture": 1}, {"receiving-capture": 2})
    assert pair.restored_count == 3
    assert codes(diagnosis) == codes(taps.diagnosed(tmp_path))
    assert [e.outcome.value for e in diagnosis.tables.exchanges if not e.is_setup] == ["ok"] * 6
    drops = finding(diagnosis, "capture-loss").conclusion
    assert drops.details["placed"]["receiving-capture"] == 2


def test_what_the_far_capture_dropped_is_no_loss_either(tmp_path: Path) -> None:
    taps = Taps.of(talk, lossy_reply)
    sizes = payload_sizes(taps.server)
    requests = [i for i, size in enumerate(sizes) if 0 < size < 100]
    pair = taps.without(server=[requests[1]]).paired(tmp_path)
    assert counts(pair) == ({"receiving-capture": 1}, {"between": 1})


def test_packets_outside_the_other_captures_time_accuse_nobody(tmp_path: Path) -> None:
    taps = Taps.of(talk)
    half = len(taps.server) // 2
    pair = taps.without(server=range(half)).paired(tmp_path)
    assert set(counts(pair)[0]) | set(counts(pair)[1]) == {"outside"}
    assert pair.matched_flows == 1


@pytest.mark.parametrize("mid_stream", ["client", "server"])
def test_a_capture_that_began_in_the_middle_is_matched(tmp_path: Path, mid_stream: str) -> None:
    taps = Taps.of(lossy_reply, talk)
    pair = taps.without(**{mid_stream: range(6)}).paired(tmp_path)
    assert pair.matched_flows == 2
    assert counts(pair)[1]["between"] == 1
    assert pair.clocks.offset_ns == 0


def test_a_nat_between_the_taps_is_seen_through(tmp_path: Path) -> None:
    def natted(data: bytes) -> bytes:
        for port in (50_000, 50_001):
            data = readdressed(data, ("10.0.0.1", port), ("198.51.100.7", port + 9_000))
        return data

    diagnosis = Taps.of(lossy_reply, talk).altered(server=natted).diagnosed(tmp_path)
    pair = diagnosis.tables.pair
    assert pair is not None
    assert (pair.matched_flows, pair.matched_by_address) == (2, 0)
    assert counts(pair) == ({}, {"between": 1})
    assert ("source address", "10.0.0.1", "198.51.100.7", 2) in [(c.field, c.before, c.after, c.count) for c in pair.changes]
    assert len([e for e in diagnosis.tables.exchanges if not e.is_setup]) == 4
    assert finding(diagnosis, "fast-retransmit-loss").score.confidence == 0.98


def test_what_a_capture_dropped_is_restored_through_a_nat(tmp_path: Path) -> None:
    taps = Taps.of(talk).altered(server=lambda data: readdressed(data, ("10.0.0.1", 50_000), ("198.51.100.7", 61_000)))
    requests = [i for i, size in enumerate(payload_sizes(taps.client)) if 0 < size < 100]
    diagnosis = taps.without(client=[requests[1]]).diagnosed(tmp_path)
    assert [e.outcome.value for e in diagnosis.tables.exchanges if not e.is_setup] == ["ok"] * 3
    assert len(diagnosis.tables.flows) == 1


def test_super_segments_of_one_tap_are_the_packets_of_the_other(tmp_path: Path) -> None:
    taps = Taps.of(lossy_reply)
    sizes = payload_sizes(taps.server)
    first = next(i for i, size in enumerate(sizes) if size > 1_000)
    last = first
    while sizes[last + 1] > 1_000:
        last += 1
    gathered = Taps(taps.client, merged(taps.server, first, last))
    assert len(gathered.server) == len(taps.server) - (last - first)
    diagnosis = gathered.diagnosed(tmp_path)
    pair = diagnosis.tables.pair
    assert pair is not None
    assert counts(pair) == ({}, {"between": 1})
    row = int((pair.placed.place == Place.BETWEEN).argmax())
    assert (pair.placed.start[row], pair.placed.stop[row], pair.placed.ip_len[row]) == (MSS, 2 * MSS, 1_500)
    assert finding(diagnosis, "fast-retransmit-loss").score.confidence == 0.98


def test_the_sizes_of_what_passed_and_what_did_not_are_told(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(REQUEST).wait(ms=20).reply(response(300)).wait(ms=5).send(REQUEST).wait(ms=20)
        wire.reply(response(6_000), lose=wire.between("server"), only=range(4))
        for wait_ms in (250, 500, 1_000):
            wire.wait(ms=wait_ms).resend(400, 400 + MSS, by="server", lose=wire.between("server"))

    diagnosis = Taps.of(script, lambda wire: wire.wait(ms=3_000).handshake().send(REQUEST).wait(ms=20).reply(response(50))).diagnosed(
        tmp_path
    )
    pair = diagnosis.tables.pair
    assert pair is not None
    assert counts(pair)[1] == {"between": 7}
    assert (pair.ways[1].lost_min_len, pair.ways[1].passed_max_len) == (1_500, 424)
    assert codes(diagnosis)[0] == "pmtu-black-hole"


def test_a_connection_of_which_nothing_arrived_was_lost_on_the_way(tmp_path: Path) -> None:
    def refused(wire: Tapped) -> None:
        for _ in range(3):
            wire.syn(lose=wire.between("client")).wait(ms=1_000)

    pair = Taps.of(talk, refused, lambda wire: talk(wire.wait(ms=3_500))).paired(tmp_path)
    assert counts(pair)[0] == {"between": 3}
    assert (pair.matched_flows, pair.unmatched) == (2, ())


@pytest.mark.parametrize("by", ["client", "server"])
def test_it_is_told_whether_the_syn_or_its_answer_was_lost(tmp_path: Path, by: str) -> None:
    def script(wire: Tapped) -> None:
        wire.syn(lose=wire.between("client") if by == "client" else None)
        if by == "server":
            wire.syn_ack(lose=wire.between("server"))
        wire.wait(ms=1_000).syn().syn_ack().ack().send(REQUEST).wait(ms=20).reply(response(50)).close()

    found = finding(Taps.of(talk, script).diagnosed(tmp_path), "syn-loss")
    placed = found.conclusion.details["placed"]
    assert placed[{"client": "client to server", "server": "server to client"}[by]]["between"] == 1
    assert found.score.confidence == 0.98


def test_what_the_path_changed_is_told(tmp_path: Path) -> None:
    def scrubbed(data: bytes) -> bytes:
        ports = 14 + (data[14] & 15) * 4
        if not data[ports + 13] & 2:
            return data
        at = data.index(b"\x02\x04\x05\xb4", ports + 20)
        return data[:at] + b"\x02\x04\x05\x00" + data[at + 4 :]

    pair = Taps.of(talk).altered(server=scrubbed).paired(tmp_path)
    told = {(change.field, change.direction): (change.before, change.after) for change in pair.changes}
    assert told["TTL or hop limit", 0] == told["TTL or hop limit", 1] == ("64", "57")
    assert told["TCP MSS", 0] == ("1460", "1280")
    assert told["TCP MSS", 1] == ("1280", "1460")


def test_a_reset_made_between_the_taps_is_called_injected(tmp_path: Path) -> None:
    def script(wire: Tapped) -> None:
        wire.handshake().send(REQUEST).wait(ms=20).reply(response(400)).wait(ms=5).send(REQUEST)
        if wire.here == "client":
            wire.wait(ms=10).rst(by="server", ttl=51)
        else:
            wire.wait(ms=20).reply(response(400))

    _, back = counts(Taps.of(script, lambda wire: talk(wire.wait(ms=500))).paired(tmp_path))
    assert back["injected"] == 1


def test_swapped_captures_are_put_right_and_it_is_said(tmp_path: Path) -> None:
    taps = Taps.of(lossy_reply)
    right, wrong = taps.diagnosed(tmp_path), Taps(taps.server, taps.client).diagnosed(tmp_path)
    assert right.tables.pair is not None
    assert wrong.tables.pair is not None
    assert (right.tables.pair.swapped, wrong.tables.pair.swapped) == (False, True)
    assert (wrong.tables.pair.near, wrong.tables.pair.far) == (1, 0)
    assert counts(wrong.tables.pair) == counts(right.tables.pair)
    assert [f.blocked_ns for f in wrong.findings] == [f.blocked_ns for f in right.findings]


def test_bytes_that_one_capture_cut_off_are_read_from_the_other(tmp_path: Path) -> None:
    diagnosis = Taps.of(talk).diagnosed(tmp_path, snaplens=(96, 262_144))
    pair = diagnosis.tables.pair
    assert pair is not None
    assert pair.restored_payloads > 0
    assert [(e.name, e.outcome.value) for e in diagnosis.tables.exchanges if not e.is_setup] == [("POST /v1/messages", "ok")] * 3


def test_two_captures_without_anything_in_common_are_refused(tmp_path: Path) -> None:
    one, other = Taps.of(talk), Taps.of(talk, client="192.0.2.1", server="192.0.2.2", client_isn=77, server_isn=99)
    with pytest.raises(OptionError, match="no connection in common"):
        Taps(one.client, other.server).diagnosed(tmp_path)


def test_one_capture_twice_is_refused(tmp_path: Path) -> None:
    one = Taps.of(talk)
    with pytest.raises(OptionError, match="twice"):
        Taps(one.client, one.client).diagnosed(tmp_path)


@pytest.mark.parametrize("ip_id", [True, False])
def test_look_alikes_are_told_apart_by_their_times(tmp_path: Path, ip_id: bool) -> None:
    """Without IP-IDs and timestamps nothing but the time tells a probe that came from one that was lost."""

    def script(wire: Tapped) -> None:
        wire.handshake().send(REQUEST).wait(ms=20).reply(response(50))
        for lost in (True, False, True, False):
            wire.wait(ms=700).keepalive(by="client", lose=wire.between("client") if lost else None)
            if not lost:
                wire.wait(ms=1).ack(by="server")
        wire.wait(ms=50).send(REQUEST).wait(ms=20).reply(response(50))

    taps = Taps.of(script, ip_id=ip_id, timestamps=False)
    pair = taps.clocked(lambda ns: ns + 123 * SECOND).paired(tmp_path)
    assert counts(pair)[0] == {"between": 2}
    lost_s = sorted(round((ns - pair.start_ns) / 1e9, 1) for ns in pair.placed.ts_ns.tolist())
    assert lost_s == [0.8, 2.2]


def test_rewritten_sequence_numbers_are_seen_through(tmp_path: Path) -> None:
    def randomised(data: bytes) -> bytes:
        """A firewall that gives the client another initial sequence number."""
        result, at = bytearray(data), 14 + (data[14] & 15) * 4
        place = at + 4 if data[26:30] == bytes([10, 0, 0, 1]) else at + 8
        if place == at + 4 or data[at + 13] & 16:
            struct.pack_into(">I", result, place, (struct.unpack_from(">I", data, place)[0] + 0xABCDEF01) & 0xFFFFFFFF)
        return bytes(result)

    diagnosis = Taps.of(lossy_reply, sack=False).altered(server=randomised).diagnosed(tmp_path)
    pair = diagnosis.tables.pair
    assert pair is not None
    assert (pair.matched_flows, counts(pair)) == (1, ({}, {"between": 1}))
    assert "TCP sequence numbers" in [change.field for change in pair.changes]


@pytest.mark.parametrize("gathering", ["client", "server"])
@pytest.mark.parametrize("timestamps", [True, False])
def test_packets_gathered_on_arrival_are_not_lost(tmp_path: Path, gathering: str, timestamps: bool) -> None:
    taps = Taps.of(talk, timestamps=timestamps)
    frames = {"client": taps.client, "server": taps.server}
    sizes = payload_sizes(frames[gathering])
    first = next(i for i, size in enumerate(sizes) if size > 1_000)
    last = first + 1
    assert sizes[last] > 1_000
    frames[gathering] = merged(frames[gathering], first, last)
    assert counts(Taps(frames["client"], frames["server"]).paired(tmp_path)) == ({}, {})


def test_ipv6_is_paired_too(tmp_path: Path) -> None:
    pair = Taps.of(lossy_reply, talk, ipv6=True).paired(tmp_path)
    assert (pair.matched_flows, counts(pair)) == (2, ({}, {"between": 1}))


def test_a_lost_datagram_is_placed(tmp_path: Path) -> None:
    query = bytes.fromhex("1234010000010000000000000361706904746573740000010001")

    def asking(wire: Tapped) -> None:
        wire.udp(query, lose=wire.between("client")).wait(ms=1_000).udp(query).udp(query[:2] + b"\x81\x80" + query[4:], by="server")

    pair = Taps.of(asking, lambda wire: talk(wire.wait(ms=1_500)), talk, sport=53).paired(tmp_path)
    assert counts(pair) == ({"between": 1}, {})


def test_a_connection_that_only_one_capture_holds_is_named(tmp_path: Path) -> None:
    both = Taps.of(talk)
    other = Taps.of(talk, client="10.0.0.9", server="10.0.0.8", client_isn=9, server_isn=8)
    pair = Taps(both.client, sorted([*both.server, *other.server], key=lambda frame: frame[0])).paired(tmp_path)
    assert [(one.client, one.server) for one in pair.unmatched] == [("10.0.0.9:50000", "10.0.0.8:80")]
    assert (pair.unmatched_near, pair.unmatched_far) == (0, 1)


def test_requests_of_a_connection_that_only_the_far_capture_holds_are_analysed(tmp_path: Path) -> None:
    both, other = Taps.of(talk), Taps.of(talk, client="10.0.0.9", client_isn=9, server_isn=8)
    taps = Taps(both.client, sorted([*both.server, *other.server], key=lambda frame: frame[0]))
    shifted = taps.clocked(lambda ns: ns + 7 * SECOND).diagnosed(tmp_path).tables
    assert sorted(shifted.client(e.flow) for e in shifted.exchanges if not e.is_setup) == ["10.0.0.1:50000"] * 3 + ["10.0.0.9:50000"] * 3
    assert max(e.end_ns for e in shifted.exchanges) - shifted.start_ns < SECOND
