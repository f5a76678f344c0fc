"""The outputs of ip and ss, as iproute2 prints them, say the true MTUs."""

from __future__ import annotations

import ipaddress

import pytest

from pcapdiag.capture.host import HostFacts, HostLink, HostSocket, looks_like_facts, merge_facts, read_facts

ADDR = b"""\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
2: eth0@if7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP group default
    link/ether 0a:58:0a:80:00:05 brd ff:ff:ff:ff:ff:ff link-netnsid 0
    inet 10.128.0.5/23 brd 10.128.1.255 scope global eth0
       valid_lft forever preferred_lft forever
    inet6 fe80::858:aff:fe80:5/64 scope link
       valid_lft forever preferred_lft forever
3: tun0: <POINTOPOINT,NOARP,UP> mtu 1420 qdisc noqueue state UNKNOWN
    inet 10.9.0.2 peer 10.9.0.1/32 scope global tun0
"""
LINK = b"""\
2: eth0@if7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP mode DEFAULT group default
    link/ether 0a:58:0a:80:00:05 brd ff:ff:ff:ff:ff:ff link-netnsid 0 promiscuity 0 minmtu 68 maxmtu 65535
    veth addrgenmode eui64 numtxqueues 2 numrxqueues 2 gso_max_size 65536
4: vxlan.calico: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1410 qdisc noqueue state UNKNOWN
    link/ether 66:3b:9b:1c:2d:3e brd ff:ff:ff:ff:ff:ff
    vxlan id 4096 local 192.0.2.7 dev eth1 srcport 0 0 dstport 4789
"""
SS = b"""\
State      Recv-Q Send-Q        Local Address:Port    Peer Address:Port Process
ESTAB      0      0               10.128.0.5:50051    192.0.2.10:41234
\t cubic wscale:7,7 rto:204 rtt:0.5/0.2 mss:1398 pmtu:1450 rcvmss:536 advmss:1398 cwnd:10
LISTEN     0      128                0.0.0.0:50051         0.0.0.0:*
ESTAB      0      36     [::ffff:10.128.0.5]%eth0:22 [::ffff:192.0.2.10]:50000
\t bbr mss:1200
"""


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def test_addresses_and_mtus_of_ip_addr() -> None:
    facts = read_facts(ADDR, "node/ip_addr")
    assert facts.sources == ("node/ip_addr",)
    assert [(link.name, link.mtu, link.kind) for link in facts.links] == [
        ("lo", 65_536, None),
        ("eth0", 1_450, None),
        ("tun0", 1_420, None),
    ]
    assert facts.links[1].addresses == (packed("10.128.0.5"), packed("fe80::858:aff:fe80:5"))
    assert (facts.mtu_at(packed("10.128.0.5")), facts.mtu_at(packed("10.9.0.2")), facts.mtu_at(packed("10.9.0.1"))) == (1_450, 1_420, None)


def test_what_ip_addr_and_ip_link_say_of_an_interface_is_one() -> None:
    for order in ((ADDR, LINK), (LINK, ADDR)):
        facts = merge_facts([read_facts(text, name) for text, name in zip(order, "ab", strict=True)])
        links = {link.name: link for link in facts.links}
        assert len(facts.links) == len(links) == 4
        assert (links["eth0"].kind, links["eth0"].addresses[0]) == ("veth", packed("10.128.0.5"))
        assert (links["vxlan.calico"].kind, links["vxlan.calico"].mtu) == ("vxlan", 1_410)
        assert facts.sources == ("a", "b")


def test_interfaces_of_one_name_in_two_namespaces_stay_two() -> None:
    facts = merge_facts([read_facts(ADDR, "a"), read_facts(ADDR.replace(b"mtu 1450", b"mtu 9000"), "b")])
    assert [link.mtu for link in facts.links if link.name == "eth0"] == [1_450, 9_000]
    assert facts.mtu_at(packed("10.128.0.5")) is None, "who is meant cannot be told"


def test_sockets() -> None:
    facts = read_facts(SS, "ss")
    here, there = packed("10.128.0.5"), packed("192.0.2.10")
    assert facts.sockets == (
        HostSocket(local=here, local_port=50_051, remote=there, remote_port=41_234, mss=1_398, pmtu=1_450),
        HostSocket(local=here, local_port=22, remote=there, remote_port=50_000, mss=1_200),
    )
    assert facts.pmtu_between(here, 50_051, there, 41_234) == 1_450
    assert facts.pmtu_between(here, 22, there, 50_000) is None
    assert facts.pmtu_between(there, 41_234, here, 50_051) is None


def test_all_on_one_line_and_without_a_state_column() -> None:
    lines = b'0 0 10.0.0.1:1 10.0.0.2:2 cubic mss:1448 pmtu:1500\ntcp ESTAB 0 0 [fd00::1]:3 [fd00::2]:4 users:(("a",pid=1,fd=3)) mss:1428\n'
    assert [(s.local_port, s.mss, s.pmtu) for s in read_facts(lines, "ss").sockets] == [(1, 1_448, 1_500), (3, 1_428, None)]


@pytest.mark.parametrize("text", [ADDR, LINK, SS, b"\n" + SS])
def test_they_are_known_by_how_they_begin(text: bytes) -> None:
    assert looks_like_facts(text[:512])


@pytest.mark.parametrize("text", [b"", b"total 12\ndrwxr-xr-x 2 root", ADDR[:20], b"\0" + ADDR, b"mtu 1500", b"1: first\n2: second mtu 7"])
def test_other_texts_say_nothing(text: bytes) -> None:
    assert not looks_like_facts(text)
    assert not read_facts(text[:100], "x")
    assert read_facts(b"mtu 1500", "x").sources == ()


def test_facts_are_nothing_by_default() -> None:
    assert not HostFacts()
    assert HostFacts(links=(HostLink(name="eth0", mtu=1_500),))


def test_hostile_texts_take_no_time() -> None:
    for text in (
        b" " * 200_000,
        b"1: a: <" + b"A" * 200_000,
        b"ESTAB 0 0 " + b"1." * 100_000,
        b"x\n" * 100_000,
        b"    inet " + b":" * 200_000,
    ):
        assert not read_facts(text, "x")
        assert not looks_like_facts(text[:4_096])
    many = b"".join(b"%d: e%d: <UP> mtu 1500\n" % (i, i) for i in range(5_000))
    assert len(merge_facts([read_facts(many, "x")]).links) == 2_000


def test_a_number_that_is_cut_is_none() -> None:
    """A full disk, or a head -c, ends a text anywhere."""
    for text, whole in ((ADDR, {65_536, 1_450, 1_420}), (SS, {1_450, None})):
        for length in range(len(text)):
            facts = read_facts(text[:length], "x")
            assert {link.mtu for link in facts.links} | {socket.pmtu for socket in facts.sockets} <= whole
            assert {socket.mss for socket in facts.sockets} <= {1_398, 1_200, None}
