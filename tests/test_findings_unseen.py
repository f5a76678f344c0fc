"""What a capture cannot show is said."""

from __future__ import annotations

from typing import Any

import pytest

from pcapdiag.exchanges.table import Protocol
from pcapdiag.findings.unseen import not_observable
from pcapdiag.flows.table import VantageOpinion
from pcapdiag.losses import Loss, Losses
from tests.diagnoses import capture, exchange, quality, tables


def told(*, side: str = "client", protocol: Protocol = Protocol.HTTP1, **measured: Any) -> str:
    rows = (exchange(0, 0.0, 1.0, protocol=protocol),)
    found = not_observable(tables(rows, quality=(quality(**measured),), vantages=(VantageOpinion(side, 0.9, ""),)))
    return " | ".join(found)


@pytest.mark.parametrize(("side", "words"), [
    ("client", "taken at the client"), ("server", "taken at the server"), ("middle", "taken between them"),
    ("unknown", "vantage is unknown"), ("local", "vantage is local"), ("mixed", "vantage is mixed"),
])  # fmt: skip
def test_each_side_is_blind_to_something(side: str, words: str) -> None:
    assert words in told(side=side)
    assert ("DNS lookups" in told(side=side)) == (side in {"server", "middle"})


@pytest.mark.parametrize(("measured", "words"), [
    ({"saw_icmp": False}, "no ICMP packet"),
    ({"saw_dns": False}, "no port 53"),
    ({"one_way_flows": 2, "tcp_flows": 5}, "other direction of 2 of 5 connections"),
    ({"cut_frames": 7}, "the end of 7 packets"),
])  # fmt: skip
def test_what_is_not_in_the_capture_is_said_and_only_then(measured: dict[str, Any], words: str) -> None:
    assert words in told(**measured)
    assert words not in told()


def test_without_keys_requests_inside_tls_are_inferred() -> None:
    assert "inside TLS" in told(protocol=Protocol.TLS)
    assert "inside TLS" not in told()


def test_several_captures_are_named_and_nothing_is_said_twice() -> None:
    rows = (exchange(0, 0.0, 1.0),)
    both = tables(
        rows, captures=(capture(name="a.pcap"), capture(name="b.pcap")), quality=(quality(saw_icmp=False), quality()),
        vantages=(VantageOpinion("client", 0.9, ""), VantageOpinion("server", 0.9, "")),
    )  # fmt: skip
    found = not_observable(both)
    assert [sentence.split(":")[0] for sentence in found] == ["a.pcap", "a.pcap", "b.pcap", "b.pcap"]
    same = tables(rows, captures=(capture(),), quality=(quality(),), vantages=(VantageOpinion("client", 0.9, ""),))
    assert len(set(not_observable(same))) == len(not_observable(same)) == 1


def test_encrypted_tunnels_are_named_with_their_packets_and_where_to_look() -> None:
    losses = Losses()
    losses.add(Loss.WIREGUARD, 1_234, capture=1)
    losses.add(Loss.WLAN_ENCRYPTED, 2)
    both = tables(
        (exchange(0, 0.0, 1.0),), captures=(capture(name="a.pcap"), capture(name="b.pcap")), quality=(quality(), quality()), losses=losses,
        vantages=(VantageOpinion("client", 0.9, ""), VantageOpinion("server", 0.9, "")),
    )  # fmt: skip
    found = not_observable(both)
    assert "b.pcap: the traffic inside WireGuard (1,234 packets): capture on the tunnel's own interface (wg0)" in found
    assert any(sentence.startswith("a.pcap: the traffic inside encrypted Wi-Fi (2 frames)") for sentence in found)
    assert "inside" not in told()


def test_every_encrypted_tunnel_that_is_counted_is_told() -> None:
    counted = {loss for loss in Loss if "encrypt" in loss.sentence}
    losses = Losses()
    for loss in counted:
        losses.add(loss)
    one = (quality(),), (VantageOpinion("client", 0.9, ""),)
    found = not_observable(tables((exchange(0, 0.0, 1.0),), quality=one[0], vantages=one[1], losses=losses))
    assert sum(sentence.startswith("the traffic inside") for sentence in found) == len(counted) == 7
