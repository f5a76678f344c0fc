"""What tshark reads in real captures, we read: TCP and UDP fields of the innermost packet of every frame."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pcapdiag.capture import read_capture
from pcapdiag.losses import FRAME_LOSSES, Losses
from pcapdiag.packets import ACK, TCP, UDP, Packets, decode_packets

CAPTURES: Final = Path(__file__).parents[2] / "shared" / "captures"
TSHARK: Final = shutil.which("tshark")

pytestmark = [
    pytest.mark.tshark,
    pytest.mark.skipif(TSHARK is None, reason="tshark is not installed"),
    pytest.mark.skipif(not CAPTURES.is_dir(), reason="the labelled captures are not here"),
]

LAB: Final = [
    f"lab/{name}.pcap"
    for name in ("pmtu-blackhole-download/client", "tail-loss-rto/server", "clean-control/client", "ip-fragment-loss/client")
]
TRACES: Final = "public/zeek+zeek/testing/btest/Traces"
PUBLIC: Final = [
    f"{TRACES}/erspan.pcap",
    f"{TRACES}/ftp/ipv6.pcap",
    f"{TRACES}/ipv6-http-atomic-frag.pcap",
    f"{TRACES}/tunnels/gtp/gtp1_gn_normal_incl_fragmentation.pcap",
    "public/seladb+PcapPlusPlus/Tests/Pcap++Test/PcapExamples/raw_ip.pcap",
    f"{TRACES}/chksums/ip6-route0-tcp-good-chksum.pcap",
    "public/wireshark+wireshark/test/captures/challenge01_ooo_stream.pcapng.gz",
    "public/wireshark+wireshark/test/captures/communityid.pcap.gz",
]

TCPDUMP: Final = "public/the-tcpdump-group+tcpdump/tests"
PCAPPLUSPLUS: Final = "public/seladb+PcapPlusPlus/Tests/Packet++Test/PacketExamples"
WRAPPED: Final = [
    *(f"{TCPDUMP}/{name}.pcap" for name in (
        "erspan-type-i-4", "erspan-type-ii-2", "erspan-type-iii-ft-0", "geneve-gcp", "gso-ipv6-geneve-ipv4", "gso-ipv4-vxlan-ipv6",
        "nsh-over-vxlan-gpe", "mpls-over-udp", "mpls-traceroute", "macsec-integonly", "nflog", "ieee802.11_htc", "ipoib", "e1000g",
        "OSPFv3_NBMA_adjacencies", "HDLC", "LINKTYPE_PKTAP", "ipv6-srh-ipproto-ether", "wccp_redirect_gre",
    )),
    *(f"{TRACES}/{name}.pcap" for name in (
        "tunnels/4in4", "tunnels/4in6", "tunnels/6in4", "tunnels/6in6in6", "tunnels/geneve-47101", "tunnels/geneve-many-options",
        "tunnels/geneve-vxlan-dns-truncated", "tunnels/gre-aruba", "tunnels/gre-erspan3-dot1q", "tunnels/gre-over-udp-4754",
        "tunnels/gre-within-gre", "tunnels/gtp/gtp7_ipv6", "tunnels/gtp/gtp8_teredo", "tunnels/teredo_bubble_with_payload",
        "tunnels/vxlan-encapsulated-http", "tunnels/vxlan-triple-v2", "radiotap", "wlanmon", "nflog-http", "vntag", "pppoe", "mpls-in-vlan",
        "mixed-vlan-mpls",
    )),
    *(f"{PCAPPLUSPLUS}/{name}.pcap" for name in ("Vxlan1", "Vxlan2", "gtp", "PPPoESession", "CiscoHDLC", "nflogPacket", "Sll2Packet")),
]  # fmt: skip

# tshark field -> column, and what the column holds when the field is absent.
FIELDS: Final = {
    "ip.version": ("ip_version", 6),
    "tcp.srcport": ("sport", None),
    "tcp.dstport": ("dport", None),
    "tcp.seq_raw": ("seq", 0),
    "tcp.ack_raw": ("ack", 0),
    "tcp.len": ("payload_len", None),
    "tcp.window_size_value": ("window", 0),
    "tcp.options.mss_val": ("mss", 0),
    "tcp.options.wscale.shift": ("window_shift", -1),
    "tcp.options.timestamp.tsval": ("ts_val", 0),
    "tcp.options.timestamp.tsecr": ("ts_ecr", 0),
    "udp.srcport": ("sport", None),
    "udp.dstport": ("dport", None),
    "ip.ttl": ("ttl", None),
    "ipv6.hlim": ("ttl", None),
    "ip.id": ("ip_id", None),
}
ONE_DATAGRAM_A_ROW = "(tcp || udp) && !icmp && !icmpv6 && !(ip.flags.mf == 1) && !(ip.frag_offset > 0) && !(ipv6.fraghdr.more == 1)"
OPTIONS: Final = (
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.relative_sequence_numbers:FALSE",
)


def tshark_rows(path: Path, wanted: str, *fields: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(frame number, field -> all its values with commas between them) of the frames of a display filter."""
    assert TSHARK is not None
    names = ["frame.number", *fields]
    arguments = ["-n", "-r", str(path), "-Y", wanted, "-T", "fields", "-E", "occurrence=a"]
    arguments += [word for option in OPTIONS for word in ("-o", option)] + [word for name in names for word in ("-e", name)]
    output = subprocess.run([TSHARK, *arguments], capture_output=True, text=True, check=False).stdout
    for line in output.splitlines():
        values = dict(zip(names, line.split("\t"), strict=True))
        yield int(values["frame.number"]), values


def read(name: str) -> tuple[Path, Packets]:
    losses = Losses()
    reader = read_capture(str(CAPTURES / name), losses)
    packets = decode_packets(reader, losses)
    assert len(packets) + sum(losses.total(loss) for loss in FRAME_LOSSES) == reader.capture.frame_count
    return CAPTURES / name, packets


def differences(packets: Packets, row: int, values: dict[str, str]) -> Iterator[str]:
    for field, (column, absent) in FIELDS.items():
        proto = packets.proto[row]
        if (field[:3] == "tcp" and proto != TCP) or (field[:3] == "udp" and proto != UDP):
            continue
        if (field in {"ip.ttl", "ip.id"} and packets.ip_version[row] == 6) or (field == "ipv6.hlim" and packets.ip_version[row] == 4):
            continue
        if field == "ip.version":
            continue
        innermost = values[field].rpartition(",")[2]
        expected = int(innermost, 0) if innermost else absent
        if field == "tcp.ack_raw" and not packets.flags[row] & ACK:
            expected = 0
        found = int(getattr(packets, column)[row])
        if found != expected:
            yield f"frame {packets.frame[row]} {field}: tshark {expected}, we {found}"


@pytest.mark.parametrize("name", LAB + PUBLIC)
def test_fields_are_those_tshark_reads(name: str) -> None:
    path, packets = read(name)
    row_of = {frame: row for row, frame in enumerate(packets.frame.tolist())}
    seen = list(tshark_rows(path, ONE_DATAGRAM_A_ROW, *FIELDS))
    found = [difference for frame, values in seen for difference in differences(packets, row_of[frame], values)]
    assert not found
    assert seen


@pytest.mark.parametrize("name", WRAPPED)
def test_the_innermost_packet_is_the_one_tshark_finds(name: str) -> None:
    """Addresses, and ports and lengths of TCP and UDP; frames that end in no IP packet are losses here."""
    path, packets = read(name)
    row_of = {frame: row for row, frame in enumerate(packets.frame.tolist())}
    compared = 0
    for frame, values in tshark_rows(path, "ip || ipv6", "frame.protocols", *INNERMOST):
        protocols = values["frame.protocols"].partition(":icmp")[0].split(":")
        last = max(at for at, protocol in enumerate(protocols) if protocol in {"ip", "ipv6"})
        if {"eth", "ppp"} & set(protocols[last:]):
            continue  # what is innermost is no IP packet: ARP, spanning tree, a control message of PPP
        row = row_of[frame]
        assert innermost(protocols, values) == ours(packets, row, protocols), frame
        compared += 1
    assert compared


INNERMOST: Final = (
    "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.len", "udp.srcport", "udp.dstport", "udp.length",
)  # fmt: skip


def innermost(protocols: list[str], values: dict[str, str]) -> tuple[str, ...]:
    """What tshark read of the last IP header before any ICMP message, and of a transport header directly behind it."""
    last = max(at for at, protocol in enumerate(protocols) if protocol in {"ip", "ipv6"})
    family, before = protocols[last], protocols[: last + 1]
    number = before.count(family) - 1
    found = [values[f"{family}.{end}"].split(",")[number] for end in ("src", "dst")]
    for transport in ("tcp", "udp"):
        if transport in protocols[last + 1 : last + 2]:
            number = before.count(transport)
            names = (f"{transport}.srcport", f"{transport}.dstport", "tcp.len" if transport == "tcp" else "udp.length")
            found += [values[name].split(",")[number] for name in names]
    return tuple(found)


def ours(packets: Packets, row: int, protocols: list[str]) -> tuple[str, ...]:
    """The same of a row."""
    found = [packets.addresses.text(int(packets.src[row])), packets.addresses.text(int(packets.dst[row]))]
    last = max(at for at, protocol in enumerate(protocols) if protocol in {"ip", "ipv6"})
    if protocols[last + 1 : last + 2] in (["tcp"], ["udp"]):
        more = 0 if packets.proto[row] == TCP else 8
        found += [str(packets.sport[row]), str(packets.dport[row]), str(packets.payload_len[row] + more)]
    return tuple(found)


def test_a_file_that_hides_its_cut_keeps_the_lengths_of_the_wire() -> None:
    """Unlike tshark, which believes the frame length: sequence numbers go on where the IP length says."""
    path, packets = read("public/blitz+tcptrace/input/fast_reuse.dmp.gz")
    expected = {
        frame: int(v["ip.len"]) - int(v["ip.hdr_len"]) - int(v["tcp.hdr_len"])
        for frame, v in tshark_rows(path, "tcp", "ip.len", "ip.hdr_len", "tcp.hdr_len")
    }
    assert dict(zip(packets.frame.tolist(), packets.payload_len.tolist(), strict=True)) == expected
    assert packets.cut.any()


def test_sack_blocks_are_those_tshark_reads() -> None:
    path, packets = read("lab/h2-hol/server.pcap")
    fields = ("tcp.options.sack_le", "tcp.options.sack_re")
    expected = [
        (frame, int(left), int(right))
        for frame, values in tshark_rows(path, "tcp.options.sack_le", *fields)
        for left, right in zip(values[fields[0]].split(","), values[fields[1]].split(","), strict=True)
    ]
    sacks = packets.sacks
    assert list(zip(packets.frame[sacks.row].tolist(), sacks.left.tolist(), sacks.right.tolist(), strict=True)) == expected
    assert expected


def test_path_mtu_errors_are_those_tshark_reads() -> None:
    path, packets = read("lab/pmtu-icmp-honoured/server.pcap")
    expected = [(frame, int(v["icmp.mtu"])) for frame, v in tshark_rows(path, "icmp.type == 3 && icmp.code == 4", "icmp.mtu")]
    errors = packets.icmp_errors
    assert list(zip(packets.frame[errors.row].tolist(), errors.mtu.tolist(), strict=True)) == expected
    assert expected


def test_whole_datagrams_are_those_tshark_puts_together() -> None:
    path, packets = read("lab/ip-fragment-loss/server.pcap")
    fragments = len(list(tshark_rows(path, "ip.flags.mf == 1 || ip.frag_offset > 0")))
    assert packets.fragments.fragment_count.sum() == fragments > 0
