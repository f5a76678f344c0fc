"""Where a capture was taken, from what its packets show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pcapdiag.flows import group_flows
from pcapdiag.flows.table import TcpTables, Vantage
from pcapdiag.flows.vantage import Clues, infer_vantage, override
from pcapdiag.packets.table import ACK, SYN, UDP
from tests.packet_rows import MS, Row, capture, packets, row
from tests.wire import Wire, merge


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


def test_a_router_beside_a_host_may_keep_its_time_to_live() -> None:
    (opinion,) = tables(*connection(0, 12, 15, ttls=(64, 57))).vantages
    assert (opinion.side, opinion.confidence) == ("middle", 0.7)


def test_near_each_other_and_unrouted_is_one_host() -> None:
    assert side(*connection(0, 0.02, 0.03, ttls=(64, 64))) == "local"


def test_what_the_link_layer_says_outranks_the_rest() -> None:
    assert side(*connection(0, 12, 15, out={"client": 1, "server": 0})) == "client"
    assert side(*connection(0, 12, 15, out={"client": 0, "server": 1})) == "server"
    assert side(*connection(0, 12, 15, out={"client": 1, "server": 1})) == "local"


def test_a_gateway_that_serves_and_asks_is_mixed() -> None:
    out = {"client": 0, "server": 1}
    assert side(*connection(0, 0.1, 30, ttls=(57, 64), out=out)) == "mixed"


def test_nothing_to_go_by() -> None:
    opinion = tables(row(0, seq=5, ttl=60, payload_len=9), row(MS, back=True, seq=5, ack=14, ttl=59)).vantages[0]
    assert (opinion.side, opinion.why) == ("unknown", "nothing tells")
    assert tables().vantages[0].side == "unknown"


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


def test_every_capture_has_a_vantage_of_its_own() -> None:
    def column(*values: Any) -> Any:
        return np.array(values)

    clues = Clues(
        capture=column(0, 1), near_rtt_ns=column(10**5, 3 * 10**7), far_rtt_ns=column(3 * 10**7, 10**5), client_ttl=column(0, 0),
        server_ttl=column(0, 0), client_out=column(0, 0), server_out=column(0, 0), client_super=column(False, False),
        server_super=column(False, False),
    )  # fmt: skip
    sides, opinions = infer_vantage(clues, 3)
    assert sides.tolist() == [Vantage.CLIENT, Vantage.SERVER]
    assert [opinion.side for opinion in opinions] == ["client", "server", "unknown"]
