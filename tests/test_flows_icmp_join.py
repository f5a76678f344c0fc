"""Which flow, direction and byte an ICMP error speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pcapdiag.flows.icmp_join import join_errors, losses_of, too_big
from tests.wire import Wire, merge

if TYPE_CHECKING:
    from pcapdiag.flows.table import TcpTables
    from pcapdiag.packets.table import Packets


def test_a_quote_finds_its_flow_direction_and_byte() -> None:
    other = Wire(cport=50_001).handshake().send(100)
    trace = merge(other, Wire(start_ms=500).handshake().send(100).send(1_400, lose="after").icmp_ptb(1_300)).trace()
    joined = join_errors(trace.packets, trace.tcp)
    assert (joined.flow.tolist(), joined.direction.tolist(), joined.offset.tolist()) == ([1], [0], [100])
    (report,) = too_big(trace.packets, trace.tcp)
    assert (report.fd, report.offset, report.mtu, report.quoted_len) == (2, 100, 1_300, 1_452)


def test_bytes_of_the_server_and_sequence_numbers_that_wrap() -> None:
    wire = Wire(vantage="server", server_isn=2**32 - 50).handshake().send(10).reply(100).reply(1_400, lose="after")
    trace = wire.icmp_ptb(1_300, quoting="server").trace()
    assert [(report.fd, report.offset) for report in too_big(trace.packets, trace.tcp)] == [(1, 100)]


def test_ipv6() -> None:
    trace = Wire(ipv6=True).handshake().send(1_400, lose="after").icmp_ptb(1_280).trace()
    assert [(report.fd, report.mtu) for report in too_big(trace.packets, trace.tcp)] == [(0, 1_280)]
    below = Wire(ipv6=True).handshake().send(1_400, lose="after").icmp_ptb(1_200).trace()
    assert too_big(below.packets, below.tcp) == [], "RFC 8201 section 4: below 1280 it is not to be believed"


@pytest.mark.parametrize("mtu", [0, 60, 1_452, 1_500])
def test_impossible_mtus(mtu: int) -> None:
    trace = Wire().handshake().send(1_400, lose="after").icmp_ptb(mtu).trace()
    assert too_big(trace.packets, trace.tcp) == []


def test_a_reused_port_belongs_to_the_connection_of_that_time() -> None:
    first = Wire().handshake().send(1_400, lose="after").icmp_ptb(1_300).rst()
    second = Wire(start_ms=5_000, client_isn=99_999).handshake().send(1_400, lose="after").icmp_ptb(1_300).resend()
    trace = merge(first, second).trace()
    assert join_errors(trace.packets, trace.tcp).flow.tolist() == [0, 1]


def test_other_errors_are_joined_and_name_no_mtu() -> None:
    trace = Wire().syn(lose="after").icmp(3, 1).trace()
    assert join_errors(trace.packets, trace.tcp).flow.tolist() == [0]
    assert too_big(trace.packets, trace.tcp) == []


def test_losses_are_explained_when_their_resend_fits() -> None:
    sent = Wire().handshake().send(1_400, lose="after").icmp_ptb(1_300)
    explained = losses_of(*pair(sent.resend(0, 1_200).resend(1_200, 1_400)))
    assert [report.mtu for report in explained.values()] == [1_300, 1_300], "both pieces"
    again = Wire().handshake().send(1_400, lose="after").icmp_ptb(1_300)
    assert losses_of(*pair(again.resend(0, 1_400))) == {}


def pair(wire: Wire) -> tuple[Packets, TcpTables]:
    trace = wire.trace()
    return trace.packets, trace.tcp
