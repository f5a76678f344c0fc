"""Fragmented datagrams: put together when they are complete, told apart when they are not."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcapdiag.losses import Loss, Losses
from pcapdiag.packets import ICMP, TCP, UDP, Packets, Tunnel
from tests.frame_bytes import A, B, batch, decode, ether, fragment6, ipv4, ipv6, payload, tcp, udp, vxlan

DATA = random.Random(1).randbytes(4000)
SECOND = 1_000_000_000


def cut4(datagram: bytes, proto: int = UDP, *, size: int = 1480, ident: int = 7, src: str = A) -> list[bytes]:
    return [
        ether(ipv4(datagram[i : i + size], proto, offset=i, mf=i + size < len(datagram), ident=ident, df=False, src=src))
        for i in range(0, len(datagram), size)
    ]


def cut6(datagram: bytes, proto: int = UDP, *, size: int = 1448) -> list[bytes]:
    parts = [(i, datagram[i : i + size], i + size < len(datagram)) for i in range(0, len(datagram), size)]
    return [ether(ipv6(fragment6(part, proto, offset=i, more=more), 44), 0x86DD) for i, part, more in parts]


def decoded(frames: Sequence[bytes], times_ns: Sequence[int] | None = None, lengths: Sequence[int] | None = None) -> tuple[Packets, Losses]:
    packets, losses = decode(batch(frames, times_ns=times_ns, lengths=lengths))
    assert len(packets) == len(frames)
    return packets, losses


def test_the_first_fragments_row_gets_the_whole_udp_payload() -> None:
    packets, losses = decoded(cut4(udp(DATA, dport=53)))
    assert packets.frag_offset.tolist() == [0, 1480, 2960]
    assert packets.more_fragments.tolist() == [True, True, False]
    assert packets.dport.tolist() == [53, 0, 0]
    assert packets.payload_len.tolist() == [4000, 0, 0]
    assert payload(packets) == DATA
    assert packets.ip_len.tolist() == [1500, 1500, 1068]
    assert losses.of(0) == {}


def test_groups_say_what_was_seen() -> None:
    packets, _ = decoded(cut4(udp(DATA, dport=53), ident=0xABCD), times_ns=[5, 9, 7])
    groups = packets.fragments
    assert len(groups) == 1
    assert (groups.first_row[0], groups.last_row[0], groups.header_row[0]) == (0, 2, 0)
    assert (packets.addresses.text(int(groups.src[0])), packets.addresses.text(int(groups.dst[0]))) == (A, B)
    assert (groups.proto[0], groups.ip_id[0], groups.fragment_count[0]) == (UDP, 0xABCD, 3)
    assert (groups.total_len[0], groups.received_len[0], groups.complete[0]) == (4008, 4008, True)
    assert (groups.first_ns[0], groups.last_ns[0], groups.sport[0], groups.dport[0]) == (5, 9, 40000, 53)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_the_order_of_fragments_does_not_matter(order: tuple[int, ...]) -> None:
    frames = cut4(udp(DATA))
    packets, _ = decoded([frames[i] for i in order])
    header = order.index(0)
    assert payload(packets, header) == DATA
    assert packets.fragments.header_row[0] == header
    assert packets.fragments.first_row[0] == 0


def test_fragments_may_lie_in_different_batches() -> None:
    frames = cut4(udp(DATA))
    packets, _ = decode(*(batch([f], first=n) for n, f in enumerate(frames, 1)))
    assert payload(packets) == DATA


def test_ipv6_fragments_with_32_bits_of_identification() -> None:
    packets, _ = decoded(cut6(udp(DATA)))
    assert payload(packets) == DATA
    assert packets.ip_id.tolist() == [0x1234] * 3
    assert packets.fragments.ip_id[0] == 0xABCD1234


def test_ipv6_headers_behind_the_fragment_header() -> None:
    packets, _ = decoded(cut6(struct.pack(">BB6x", UDP, 0) + udp(DATA), 60))
    assert packets.proto[0] == UDP
    assert payload(packets) == DATA
    assert packets.fragments.proto[0] == 60


def test_tcp_fragments_even_tiny_ones() -> None:
    segment = tcp(DATA, seq=77, options=bytes.fromhex("020405b4"))
    packets, losses = decoded(cut4(segment, TCP, size=8))
    assert (packets.seq[0], packets.mss[0], packets.payload_len[0]) == (77, 1460, 4000)
    assert payload(packets) == DATA
    assert losses.of(0) == {}
    assert packets.sport[1:].max() == 0


def test_what_a_first_fragment_showed_is_not_told_twice() -> None:
    bad_option = tcp(bytes(3000), options=b"\x01\x01\x05\x0a" + bytes(8) + b"\x08\x00\x00\x00")
    packets, losses = decoded(cut4(bad_option, TCP))
    assert packets.sacks.row.tolist() == [0]
    assert losses.of(0) == {Loss.BAD_TCP_OPTION: 1}
    error = struct.pack(">BBHI", 3, 1, 0, 0) + ipv4(udp(bytes(2000)), UDP)
    packets, _ = decoded(cut4(error, ICMP))
    assert packets.icmp_errors.row.tolist() == [0]
    assert packets.payload_len[0] == len(error)


def test_a_missing_fragment_leaves_the_first_its_part() -> None:
    frames = cut4(udp(DATA))
    for missing in (1, 2):
        packets, _ = decoded([f for i, f in enumerate(frames) if i != missing])
        assert (packets.payload_len[0], packets.dport[0]) == (1472, 53)
        assert payload(packets) == DATA[:1472]
        groups = packets.fragments
        assert (groups.complete[0], groups.fragment_count[0]) == (False, 2)
        assert groups.total_len[0] == (4008 if missing == 1 else -1)
        assert groups.received_len[0] == (2528 if missing == 1 else 2960)
    packets, _ = decoded(frames[1:])
    groups = packets.fragments
    assert (groups.header_row[0], groups.sport[0], groups.total_len[0], groups.complete[0]) == (-1, 0, 4008, False)


def test_copies_of_a_fragment_join_their_group() -> None:
    frames = cut4(udp(DATA))
    packets, losses = decoded([f for f in frames for _ in range(2)])
    assert payload(packets) == DATA
    assert packets.fragments.fragment_count.tolist() == [6]
    assert losses.of(0) == {}


def test_an_overlap_with_the_same_bytes_is_no_contradiction() -> None:
    datagram = udp(DATA[:3000])
    frames = [ether(ipv4(datagram[a:b], UDP, offset=a, mf=b < 3008, df=False)) for a, b in ((0, 1600), (2400, 3008), (1480, 2480))]
    packets, losses = decoded(frames)
    assert payload(packets) == DATA[:3000]
    assert packets.fragments.received_len[0] == 3008
    assert losses.of(0) == {}


def test_an_overlap_with_other_bytes_spoils_the_datagram() -> None:
    frames = cut4(udp(DATA))
    frames.insert(1, ether(ipv4(b"\xff" * 1480, UDP, offset=1480, mf=True, df=False)))
    packets, losses = decoded(frames)
    assert losses.of(0) == {Loss.BAD_FRAGMENT: 1}
    assert not packets.fragments.complete[0]
    assert packets.payload_len[0] == 1472


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(ipv4(bytes(100), UDP, offset=65_456, df=False), id="ends-beyond-65535"),
        pytest.param(ipv4(bytes(16), UDP, offset=8, df=False), id="another-end"),
        pytest.param(ipv4(bytes(80), UDP, offset=4000, mf=True, df=False), id="behind-the-end"),
    ],
)
def test_fragments_that_cannot_be_of_their_datagram_are_counted(extra: bytes) -> None:
    frames = cut4(udp(DATA))
    _, losses = decoded([frames[0], frames[2], ether(extra)])
    assert losses.of(0) == {Loss.BAD_FRAGMENT: 1}


def test_an_identification_used_again_is_another_datagram() -> None:
    one, two = udp(DATA[:2000], dport=1), udp(DATA[2000:], dport=2)
    packets, losses = decoded(cut4(one) + cut4(two))
    assert [payload(packets, 0), payload(packets, 2)] == [DATA[:2000], DATA[2000:]]
    assert packets.fragments.dport.tolist() == [1, 2]
    assert losses.of(0) == {}


@pytest.mark.parametrize(("wait_s", "count"), [(29, 1), (31, 2)])
def test_after_thirty_seconds_an_identification_is_new(wait_s: int, count: int) -> None:
    packets, _ = decoded(cut4(udp(DATA[:2000])), times_ns=[0, wait_s * SECOND])
    assert len(packets.fragments) == count
    assert packets.fragments.complete.tolist() == [True] * (2 - count) + [False] * (2 * count - 2)


def test_datagrams_are_told_apart_by_their_key() -> None:
    frames = [cut4(udp(DATA)), cut4(udp(DATA), ident=8), cut4(udp(DATA), src="10.0.0.9"), cut4(tcp(DATA), TCP), cut6(udp(DATA))]
    mixed = [f for group in zip(*frames, strict=True) for f in group]
    packets, _ = decoded(mixed)
    assert packets.fragments.complete.tolist() == [True] * 5
    assert [payload(packets, row) for row in range(5)] == [DATA] * 5


def test_captures_do_not_share_datagrams() -> None:
    first, second = cut4(udp(DATA[:2000]))
    packets, _ = decode(batch([first]), batch([second], capture=1))
    assert packets.fragments.complete.tolist() == [False, False]
    assert packets.fragments.capture.tolist() == [0, 1]


def test_cut_fragments_are_complete_on_the_wire_but_not_in_the_capture() -> None:
    frames = cut4(udp(DATA))
    packets, _ = decoded([f[:200] for f in frames], lengths=[len(f) for f in frames])
    assert packets.fragments.complete[0]
    assert (packets.payload_len[0], packets.payload_captured[0]) == (4000, 200 - 42)
    assert payload(packets) == DATA[:158]
    packets, _ = decoded([f[:36] for f in frames], lengths=[len(f) for f in frames])
    assert packets.fragments.complete[0]
    assert packets.sport.tolist() == [0, 0, 0]


def test_a_tunnel_in_fragments() -> None:
    inner = ether(ipv4(tcp(DATA[:1460]), src="172.16.0.1", dst="172.16.0.2"))
    packets, _ = decoded(cut4(udp(vxlan(inner), dport=4789)))
    assert packets.addresses.text(packets.src[0]) == "172.16.0.1"
    assert packets.tunnels[packets.tunnel[0]].path == ("vxlan 42",)
    assert packets.tunnels[packets.tunnel[0]].overhead_len == 50
    assert payload(packets) == DATA[:1460]
    assert (packets.addresses.text(int(packets.fragments.src[0])), packets.fragments.dport[0]) == (A, 4789)


def test_fragments_in_a_tunnel() -> None:
    frames = [ether(ipv4(udp(vxlan(f), dport=4789), UDP)) for f in cut4(udp(DATA, dport=53))]
    packets, _ = decoded(frames)
    assert payload(packets) == DATA
    assert packets.tunnels[packets.tunnel[0]].overhead_len == 50
    assert packets.fragments.complete.tolist() == [True]


def test_a_datagram_put_together_inside_a_tunnel_opens_all_that_are_in_it() -> None:
    inner = ipv4(ipv4(tcp(DATA[:900]), src="172.16.0.1", dst="172.16.0.2"), 4, src="192.0.2.1", dst="192.0.2.2")
    outer = udp(vxlan(ether(ipv4(struct.pack(">HH", 0, 0x0800) + inner, 47))), dport=4789)
    packets, _ = decoded([ether(ipv4(struct.pack(">HH", 0, 0x0800) + frame[14:], 47)) for frame in cut4(outer, size=400)])
    assert packets.tunnels[packets.tunnel[0]] == Tunnel(("gre", "vxlan 42", "gre", "ipip"), 24 + 50 + 24 + 20)
    assert packets.addresses.text(packets.src[0]) == "172.16.0.1"
    assert payload(packets) == DATA[:900]


def test_fragments_inside_a_fragmented_tunnel() -> None:
    """A host's datagram needs fragments, and the tunnel around the larger ones needs them again."""
    frames = []
    for number, fragment in enumerate(cut4(udp(DATA[:2000], dport=53))):
        frames += cut4(udp(vxlan(fragment), dport=4789), size=1000, ident=100 + number)
    packets, losses = decoded(frames)
    assert [payload(packets, row) for row in np.flatnonzero(packets.dport == 53).tolist()] == [DATA[:2000]]
    assert packets.fragments.complete.tolist() == [True] * len(packets.fragments)
    assert packets.fragments.dport.tolist() == [4789, 53]
    assert losses.of(0) == {}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 0, 2, 1), (0, 3)], ids=str)
def test_two_networks_may_use_one_identification(order: tuple[int, ...]) -> None:
    """RFC 7348 section 1: tenants choose their addresses without asking each other, and their hosts number packets alike."""
    tenants = [cut4(udp(data, dport=53)) for data in (DATA[:2000], DATA[2000:])]
    frames = [ether(ipv4(udp(vxlan(tenants[i % 2][i // 2], vni=i % 2), dport=4789), UDP)) for i in order]
    packets, losses = decoded(frames)
    whole = len(order) == 4
    read = {payload(packets, row) for row in np.flatnonzero(packets.dport == 53).tolist()}
    assert read == ({DATA[:2000], DATA[2000:]} if whole else {DATA[:1472]})
    assert packets.fragments.complete.tolist() == [whole, whole]
    assert losses.of(0) == {}


@pytest.mark.parametrize("missing", [None, 1, 3])
def test_a_datagram_seen_in_two_tunnels_is_one(missing: int | None) -> None:
    """Mirror sessions of both ends: one copy may lack a fragment that the other has."""
    frames = [ether(ipv4(udp(vxlan(fragment, vni), dport=4789), UDP)) for fragment in cut4(udp(DATA[:2000])) for vni in (1, 2)]
    packets, _ = decoded([frame for index, frame in enumerate(frames) if index != missing])
    assert packets.fragments.complete.tolist() == [True]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 499), max_size=8, unique=True), st.randoms(use_true_random=False), st.integers(0, 9))
def test_any_cut_any_order_any_copies_give_the_same_datagram(cuts: list[int], chance: random.Random, copies: int) -> None:
    datagram = udp(DATA[:3992])
    edges = [0, *sorted(8 * c for c in cuts), len(datagram)]
    parts = [(a, b) for a, b in pairwise(edges) if a < b]
    parts += chance.choices(parts, k=copies)
    chance.shuffle(parts)
    if len(edges) == 2:
        return
    frames = [ether(ipv4(datagram[a:b], UDP, offset=a, mf=b < len(datagram), df=False)) for a, b in parts]
    packets, losses = decoded(frames)
    assert payload(packets, next(i for i, (a, _) in enumerate(parts) if a == 0)) == DATA[:3992]
    assert packets.fragments.complete.tolist() == [True]
    assert losses.of(0) == {}
