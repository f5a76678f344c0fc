"""Where a capture was taken, from what its packets show."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pcapdiag.flows import group_flows
from pcapdiag.flows.clues import gather
from pcapdiag.flows.summary import super_segments
from pcapdiag.flows.table import TcpTables, Vantage
from pcapdiag.flows.tally import tally
from pcapdiag.flows.vantage import Clues, infer_vantage, override
from pcapdiag.packets.table import ACK, SYN, UDP
from tests.packet_rows import MS, Row, capture, packets, row
from tests.wire import Recording, Wire, merge

if TYPE_CHECKING:
    from tests.wire_line import Lose


CHAIN = ("10.0.0.1", 8_080)
"""The client of the other connections, as a server."""


def tables(*rows: Row, **options: Any) -> TcpTables:
    return group_flows(packets(*rows), (capture(),), **options)


def connection(
    at_ms: float, near_ms: float, far_ms: float, *, port: int = 50_000, ttls: tuple[int, int] = (61, 60), **more: Any
) -> list[Row]:
    """A handshake with these halves of the round trip; TTLs of client and server."""
    end, at = ("10.0.0.1", port), round(at_ms * MS)
    answered, established = at + round(far_ms * MS), at + round((far_ms + near_ms) * MS)
    client_way, server_way = (more.get("out", {}).get(side, -1) for side in ("client", "server"))
    return [
        row(at, src=end, seq=0, flags=SYN, ttl=ttls[0], direction=client_way),
        row(answered, back=True, dst=end, seq=0, ack=1, flags=SYN | ACK, ttl=ttls[1], direction=server_way),
        row(established, src=end, seq=1, ack=1, ttl=ttls[0], direction=client_way),
    ]


def side(*rows: Row) -> str:
    return tables(*rows).vantages[0].side


@pytest.mark.parametrize("name", ["client", "server", "middle"])
def test_a_whole_conversation_shows_where_it_was_captured(name: str) -> None:
    told = merge(*(Wire(vantage=name, cport=50_000 + i, start_ms=i).handshake().http_get() for i in range(3)))  # type: ignore[arg-type]  # one of three
    trace = told.trace()
    assert trace.vantages[0].side == name
    assert trace.vantages[0].confidence > 0.85
    assert set(trace.flows.vantage.tolist()) == {Vantage[name.upper()]}


def test_the_handshake_alone_tells() -> None:
    assert side(*connection(0, 0.1, 30)) == "client"
    assert side(*connection(0, 30, 0.1)) == "server"
    assert side(*connection(0, 12, 15)) == "middle"


def test_a_time_to_live_that_no_router_lowered_tells_less() -> None:
    (one,) = tables(*connection(0, 0.1, 0.4, ttls=(64, 57))).vantages
    (two,) = tables(*connection(0, 0.1, 30, ttls=(64, 57))).vantages
    assert (one.side, two.side) == ("client", "client")
    assert one.confidence < two.confidence
    assert side(*connection(0, 0.1, 0.4, ttls=(57, 128))) == "server"


def test_a_router_beside_a_host_keeps_its_time_to_live() -> None:
    """A handshake that shows both ends far away is worth more than an unrouted TTL, but leaves little certainty."""
    (opinion,) = tables(*connection(0, 12, 15, ttls=(64, 57))).vantages
    assert opinion.side in {"middle", "unknown"}
    assert opinion.confidence < tables(*connection(0, 12, 15)).vantages[0].confidence


def test_near_each_other_and_unrouted_is_one_host() -> None:
    assert side(*connection(0, 0.02, 0.03, ttls=(64, 64))) == "local"


def test_what_the_link_layer_says_outranks_the_rest() -> None:
    """A client may be slow to acknowledge the handshake; the kernel knows what it sent itself."""
    assert side(*connection(0, 12, 15, ttls=(64, 57), out={"client": 1, "server": 0})) == "client"
    assert side(*connection(0, 12, 15, ttls=(57, 64), out={"client": 0, "server": 1})) == "server"
    assert side(*connection(0, 0.02, 0.03, ttls=(64, 64), out={"client": 1, "server": 1})) == "local"


def test_a_router_that_calls_everything_outgoing_is_not_believed() -> None:
    """Its own interface towards the server: the client's packets go out there, after three hops."""
    assert side(*connection(0, 12, 15, ttls=(61, 57), out={"client": 1, "server": 0})) != "client"


def test_a_gateway_that_serves_and_asks_is_mixed() -> None:
    out = {"client": 0, "server": 1}
    assert side(*connection(0, 0.1, 30, ttls=(57, 64), out=out)) == "mixed"


def test_nothing_to_go_by() -> None:
    opinion = tables(row(0, seq=5, ttl=63, payload_len=9), row(MS, back=True, seq=5, ack=14, ttl=63)).vantages[0]
    assert (opinion.side, opinion.why) == ("unknown", "nothing tells")
    assert tables().vantages[0].side == "unknown"


def test_a_host_in_the_chain_serves_some_and_asks_others() -> None:
    """An agent gateway: every connection has its own vantage."""
    asked = [one for i in range(3) for one in connection(100 * i, 0.1, 30, port=50_000 + i, ttls=(64, 54))]
    served = []
    for i in range(3):
        end = ("10.0.0.7", 40_000 + i)
        served += [replace(one, src=CHAIN if one.src[1] == 80 else end, dst=CHAIN if one.dst[1] == 80 else end)
                   for one in connection(1_000 + 100 * i, 30, 0.1, ttls=(54, 64))]  # fmt: skip
    found = tables(*asked, *served)
    assert found.flows.vantage.tolist() == [Vantage.CLIENT] * 3 + [Vantage.SERVER] * 3
    assert found.vantages[0].side == "mixed"
    assert found.vantages[0].why.startswith("client and server of different connections")


def test_many_connections_outweigh_one() -> None:
    crowd = [one for i in range(9) for one in connection(100 * i, 0.1, 30, port=50_000 + i)]
    odd = connection(5_000, 30, 0.1, port=60_000)
    (opinion,) = tables(*crowd, *odd).vantages
    assert opinion.side == "client"
    assert opinion.confidence > tables(*connection(0, 0.1, 30)).vantages[0].confidence


def test_lookups_share_the_vantage_of_the_connections() -> None:
    asked = row(0, dst=("10.0.0.53", 53), proto=UDP, flags=0)
    assert tables(asked, *connection(1, 0.1, 30)).flows.vantage.tolist() == [Vantage.CLIENT, Vantage.CLIENT]
    assert tables(asked).flows.vantage.tolist() == [Vantage.UNKNOWN]


def test_the_user_knows_better() -> None:
    found = tables(*connection(0, 0.1, 30), side="server")
    assert (found.flows.vantage.tolist(), found.vantages[0].side, found.vantages[0].confidence) == ([Vantage.SERVER], "server", 1.0)
    sides, opinions = override("middle", 3, 2)
    assert (sides.tolist(), [opinion.side for opinion in opinions]) == ([Vantage.MIDDLE] * 3, ["middle"] * 2)


# --- one kind of evidence at a time -------------------------------------------------------------------------------------


def clues(**changes: Any) -> Clues:
    """One connection of which nothing is known, with changes; two-column clues are given as (client, server)."""
    nothing: dict[str, Any] = {
        "capture": 0, "ends": (1, 2), "near_rtt_ns": -1, "far_rtt_ns": -1, "ttl": (0, 0), "out": (0, 0), "split": (0, 0), "whole": (0, 0),
        "unpadded": (0, 0), "turnaround_ns": (-1, -1), "seen_again": (0, 0),
    }  # fmt: skip
    return Clues(**{name: np.array([value]) for name, value in {**nothing, **changes}.items()})


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        ({"out": (4, -4)}, "the link layer calls the client's packets outgoing"),
        ({"split": (3, 0)}, "frames of the client as only their own host sees them (TSO, no padding)"),
        ({"unpadded": (5, -5)}, "frames of the client as only their own host sees them (TSO, no padding)"),
        ({"ttl": (64, 50)}, "TTL 64 of the client is unrouted"),
        ({"ttl": (128, 113)}, "TTL 128 of the client is unrouted"),
        (
            {"turnaround_ns": (50_000, 30_000_000), "seen_again": (4, -4)},
            "the client answers at once; the client's resends repeat bytes seen here",
        ),
        ({"whole": (0, 5), "turnaround_ns": (50_000, 30_000_000)}, "packets to the client merged (GRO); the client answers at once"),
    ],
)  # fmt: skip
def test_each_kind_of_evidence_counts_for_either_end(evidence: dict[str, tuple[int, int]], why: str) -> None:
    mirrored = {name: values[::-1] for name, values in evidence.items()}
    for change, side_, name in ((evidence, Vantage.CLIENT, "client"), (mirrored, Vantage.SERVER, "server")):
        sides, (opinion,) = infer_vantage(clues(**change), 1)
        assert (sides.tolist(), opinion.side, opinion.why) == ([side_], name, why.replace("client", name))


@pytest.mark.parametrize(
    "evidence", [{"turnaround_ns": (50_000, 60_000)}, {"unpadded": (5, 5)}, {"ttl": (63, 63)}, {"seen_again": (2, -2)}]
)
def test_what_both_ends_show_or_hardly_show_tells_nothing(evidence: dict[str, tuple[int, int]]) -> None:
    sides, (opinion,) = infer_vantage(clues(**evidence), 1)
    assert (sides.tolist(), opinion.side) == ([Vantage.UNKNOWN], "unknown")


def test_both_ends_routed_and_timed_is_the_middle() -> None:
    sides, (opinion,) = infer_vantage(clues(ttl=(58, 51), near_rtt_ns=9 * MS, far_rtt_ns=14 * MS), 1)
    assert (sides.tolist(), opinion.side) == ([Vantage.MIDDLE], "middle")
    assert (
        opinion.why
        == "handshake: 9.00 ms to the client, 14.00 ms to the server; TTL 58 of the client is routed; TTL 51 of the server is routed"
    )


def test_evidence_adds_up() -> None:
    def sure(**changes: Any) -> float:
        return infer_vantage(clues(**changes), 1)[1][0].confidence

    ttl, handshake = {"ttl": (64, 61)}, {"near_rtt_ns": MS // 10, "far_rtt_ns": 30 * MS}
    assert sure(**ttl) < sure(**ttl, **handshake) <= 0.99


def test_every_capture_has_a_vantage_of_its_own() -> None:
    two = [clues(near_rtt_ns=10**5, far_rtt_ns=3 * 10**7), clues(capture=1, near_rtt_ns=3 * 10**7, far_rtt_ns=10**5)]
    both = Clues(**{name: np.concatenate([getattr(one, name) for one in two]) for name in Clues.__slots__})
    sides, opinions = infer_vantage(both, 3)
    assert sides.tolist() == [Vantage.CLIENT, Vantage.SERVER]
    assert [opinion.side for opinion in opinions] == ["client", "server", "unknown"]


# --- where the clues come from -----------------------------------------------------------------------------------------


def clues_of(told: Recording) -> Clues:
    trace = told.trace()
    tcp, flows = trace.tcp, trace.flows
    counted = tally(
        trace.packets, tcp.segments, tcp.acks, tcp.pieces, tcp.gaps, tcp.resends, opened=flows.syn_count > 0, ethernet=np.array([True]),
        supers=super_segments(trace.packets, tcp.segments, (flows.client_mss, flows.server_mss)),
    )  # fmt: skip
    return gather(flows, counted)


def test_a_train_that_the_card_cuts_up_is_acknowledged_in_its_middle() -> None:
    cut_up = Wire(vantage="client").handshake().acks("none").supersegment(14_480).wait(ms=30)
    for offset in (2_896, 5_792, 14_480):
        cut_up.ack("server", ack=offset)
    merged = Wire(vantage="client").handshake().supersegment(14_480, by="server").ack("client")
    assert clues_of(cut_up).split.tolist() == [[1, 0]]
    assert (clues_of(merged).split.tolist(), clues_of(merged).whole.tolist()) == ([[0, 0]], [[0, 1]])


@pytest.mark.parametrize(("lose", "expected"), [("after", 1), ("before", -1)])
def test_resends_repeat_bytes_beside_their_sender_and_fill_holes_elsewhere(lose: Lose, expected: int) -> None:
    wire = Wire().handshake().send(4_344, lose=lose, only=[1]).wait(ms=40).resend(1_448, 2_896)
    assert clues_of(wire).seen_again.tolist() == [[expected, 0]]


def test_needless_resends_repeat_bytes_at_both_ends() -> None:
    """The ACKs of a server are lost; its own capture shows each request twice."""
    wire = Wire(vantage="server", rtt_ms=40).handshake()
    for _ in range(4):
        wire.acks("none", "server").send(100).ack("server", lose="after").acks("quick", "server").wait(ms=250).resend(by="client").reply(10)
    assert clues_of(wire).seen_again.tolist() == [[0, 0]]


def test_short_frames_are_seen_by_their_sender_only() -> None:
    plain = Wire(timestamps=False).handshake().http_get().close()
    assert (clues_of(plain).unpadded > 0).all(), "no wire between the two: nothing is padded"


def test_the_least_turnaround_of_each_end() -> None:
    found = clues_of(Wire(vantage="client", rtt_ms=30).handshake().http_get(body=9_000))
    client, server = found.turnaround_ns[0].tolist()
    assert 0 <= client < MS
    assert server >= 29 * MS
