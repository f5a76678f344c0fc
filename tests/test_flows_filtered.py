"""What a capture leaves out by rule: filters on flags and payload, samples, single ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pcapdiag.capture.frames import Interface
from pcapdiag.findings import FindingKind
from pcapdiag.flows import group_flows
from pcapdiag.flows.filtered import Filtered
from pcapdiag.pipeline import diagnose
from tests.packet_rows import BEGIN_NS, MS, capture, packets, row
from tests.wire import Recording, Wire, merge

if TYPE_CHECKING:
    from collections.abc import Callable

FIN, SYN, RST, PSH = 1, 2, 4, 8
TCP_AT = 34


class Shown(NamedTuple):
    """What a rule may look at."""

    number: int
    flags: int
    length: int
    """Of the payload."""


class Kept(Recording):
    """Only some frames of a recording."""

    def __init__(self, whole: Recording, keep: Callable[[Shown], bool]) -> None:
        self._whole, self._keep = whole, keep

    def sights(self) -> list[tuple[int, int, bytes]]:
        sights = self._whole.sights()
        shown = (Shown(i, data[TCP_AT + 13], len(data) - TCP_AT - (data[TCP_AT + 12] >> 4) * 4) for i, (_, _, data) in enumerate(sights))
        return [sight for sight, one in zip(sights, shown, strict=True) if self._keep(one)]


def talk(vantage: str = "client") -> Recording:
    """Two connections of three requests each, with answers of 30 segments."""
    parts = []
    for number in range(2):
        wire = Wire(cport=50_000 + number, start_ms=7 * number, client_isn=9 * number, vantage=vantage).handshake()  # type: ignore[arg-type]  # one of three
        for _ in range(3):
            wire.http_get(body=43_000, think_ms=120)
        parts.append(wire.close())
    return merge(*parts)


RULES: dict[Filtered, Callable[[Shown], bool]] = {
    Filtered.FLAGS: lambda one: bool(one.flags & (SYN | FIN | RST)),
    Filtered.PUSH: lambda one: bool(one.flags & (SYN | FIN | RST | PSH)),
    Filtered.NO_ACKS: lambda one: bool(one.length or one.flags & (SYN | FIN | RST)),
    Filtered.SHORT: lambda one: one.length < 1_000,
    Filtered.SAMPLED: lambda one: one.number % 3 == 0,
}


@pytest.mark.parametrize("vantage", ["client", "server"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.value)
def test_a_rule_is_recognised(rule: Filtered, vantage: str) -> None:
    quality = Kept(talk(vantage), RULES[rule]).trace().quality[0]
    assert (quality.filtered, quality.filter_note != "") == (rule.value, True)
    assert "filtered-capture" in quality.issues
    assert "capture-loss" not in quality.issues, "what a filter left out the capture did not lose"
    assert quality.grade == {Filtered.FLAGS: "D", Filtered.NO_ACKS: "C"}.get(rule, "F")
    assert quality.advice.startswith("Capture without a filter")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.value)
def test_what_a_rule_left_out_accuses_nobody_of_the_network(rule: Filtered) -> None:
    findings = diagnose(Kept(talk(), RULES[rule]).trace()).findings
    assert [f.code for f in findings if f.conclusion.kind is FindingKind.CAUSE and f.domain.value == "network"] == []


@pytest.mark.parametrize("left", [2, 4, 7])
def test_random_samples_too(left: int) -> None:
    trace = Kept(talk(), lambda one: one.number * 2_654_435_761 % 2**32 < 2**32 // left).trace()
    assert trace.quality[0].filtered == "sampled"


def test_a_capture_of_acknowledgments_alone_holds_short_packets() -> None:
    quality = Kept(talk(), lambda one: not one.length).trace().quality[0]
    assert (quality.filtered, "no packet carries any" in quality.filter_note) == ("short", True)


@pytest.mark.parametrize("phase", [0, 1])
def test_every_second_packet_of_a_regular_exchange(phase: int) -> None:
    """Data, acknowledgment, data, acknowledgment: for a while the sample holds the one, then the other."""
    wire = Wire(rtt_ms=4).handshake()
    for number in range(60):
        wire.wait(ms=30).send(200).wait(ms=80).reply(3_000 if number % 5 == 3 else 900)
    trace = Kept(wire.close(), lambda one: one.number % 2 == phase).trace()
    assert (trace.quality[0].filtered, trace.quality[0].grade) == ("sampled", "F")


# --- near misses -------------------------------------------------------------------------------------------------------


def test_whole_conversations_are_not_filtered() -> None:
    assert talk().trace().quality[0].filtered == ""
    assert Wire().handshake().http_get(body=500).close().trace().quality[0].filtered == "", "everything pushed, handshake acknowledged"


def test_a_capture_that_lost_bursts_is_not_a_sample() -> None:
    quality = Kept(talk(), lambda one: one.number % 60 < 25).trace().quality[0]
    assert quality.filtered == ""
    assert "capture-loss" in quality.issues


def test_a_capture_that_lost_one_long_stretch_holds_full_packets_too() -> None:
    quality = Kept(talk(), lambda one: not 30 < one.number < 250 or not one.length).trace().quality[0]
    assert (quality.filtered, "capture-loss" in quality.issues) == ("", True)


def test_connections_that_carry_nothing_are_no_filter() -> None:
    assert merge(*(Wire(cport=50_000 + i).handshake().close() for i in range(5))).trace().quality[0].filtered == ""


def test_refused_connections_are_no_filter() -> None:
    rows = []
    for i in range(5):
        client = ("10.0.0.1", 50_000 + i)
        rows += [row(i * MS, src=client, seq=0, flags=SYN), row(i * MS + 9, back=True, dst=client, ack=1, flags=RST | 16)]
    assert group_flows(packets(*rows), (capture(),)).quality[0].filtered == ""


def test_a_mid_stream_dialogue_that_acknowledges_with_its_data_is_no_filter() -> None:
    rows = [row(i * MS, back=bool(i % 2), seq=(i // 2) * 50, ack=((i + 1) // 2) * 50, payload_len=50) for i in range(60)]
    assert group_flows(packets(*rows), (capture(),)).quality[0].filtered == ""


# --- one port, and filters that the file names --------------------------------------------------------------------------


def one_port(
    *, seconds: float = 90, frames: int = 250, port: int = 443, link_type: int = 1, extra: tuple[Any, ...] = (), alone: bool = False
) -> str:
    rows, server = [], ("10.0.0.2", port)
    for i in range(frames):
        client = ("10.0.0.1", 50_000 if alone else 50_000 + i % 5)
        src, dst = (server, client) if i % 2 else (client, server)
        rows.append(row(round(i * seconds * 1_000 * MS / frames), src=src, dst=dst, seq=i, ack=i, payload_len=10))
    about = capture(
        frame_count=len(rows) + len(extra), first_ns=BEGIN_NS, last_ns=BEGIN_NS + round(seconds * 1e9),
        interfaces=(Interface(link_type=link_type, snaplen=0),),
    )  # fmt: skip
    return group_flows(packets(*rows, *extra), (about,)).quality[0].filtered


def test_a_minute_of_one_port_and_nothing_else_is_a_filter_most_likely() -> None:
    assert one_port() == "port"
    assert one_port(seconds=20) == "", "no neighbour need be looked up in that time"
    assert one_port(frames=50) == ""
    assert one_port(link_type=101) == "", "no Ethernet: no ARP to miss"
    assert one_port(extra=(row(9, proto=1),)) == "", "ICMP is there"
    assert one_port(alone=True) == "", "one connection has one port"


@pytest.mark.parametrize("text", ["tcp port 443", "host 10.0.0.1"])
def test_a_filter_that_the_file_names(text: str) -> None:
    rows = [row(i * MS, back=bool(i % 2), seq=i, payload_len=1) for i in range(9)]
    about = capture(interfaces=(Interface(link_type=1, snaplen=0, filter=text),))
    quality = group_flows(packets(*rows), (about,)).quality[0]
    assert (quality.filtered, quality.filter_note) == ("declared", text)
    assert not Filtered(quality.filtered).tears
