"""Encrypted tunnels: named and counted, and their packets stay rows."""

from __future__ import annotations

import struct

import pytest

from pcapdiag.losses import FRAME_LOSSES, Loss
from pcapdiag.packets import UDP
from tests.frame_bytes import batch, decode, ether, ipv4, ipv6, tcp, udp, vxlan

ESP_BODY = struct.pack(">II", 0xC0FFEE, 1) + bytes(range(64))
IKE = bytes(range(1, 9)) + bytes(8) + b"\x21\x20\x22\x08" + bytes(40)
DATA = struct.pack("<IIQ", 4, 0xABCD, 7) + bytes(48)


def to(content: bytes, port: int, sport: int = 40_000) -> bytes:
    return ether(ipv4(udp(content, dport=port, sport=sport), UDP))


@pytest.mark.parametrize(
    ("frame", "loss"),
    [
        pytest.param(ether(ipv4(ESP_BODY, 50)), Loss.ESP, id="esp"),
        pytest.param(ether(ipv6(ESP_BODY, 50), 0x86DD), Loss.ESP, id="esp-ipv6"),
        pytest.param(to(ESP_BODY, 4500), Loss.ESP, id="esp-in-udp"),
        pytest.param(to(ESP_BODY, 33_000, 4500), Loss.ESP, id="esp-in-udp-answer"),
        pytest.param(to(b"\x01\0\0\0" + bytes(144), 999), Loss.WIREGUARD, id="wireguard-initiation"),
        pytest.param(to(b"\x02\0\0\0" + bytes(88), 999), Loss.WIREGUARD, id="wireguard-response"),
        pytest.param(to(b"\x03\0\0\0" + bytes(60), 999), Loss.WIREGUARD, id="wireguard-cookie"),
        pytest.param(to(DATA, 999), Loss.WIREGUARD, id="wireguard-data"),
        pytest.param(to(struct.pack("<IIQ", 4, 9, 0) + bytes(16), 51_820), Loss.WIREGUARD, id="wireguard-keep-alive"),
        pytest.param(to(b"\x38" + bytes(41), 1194), Loss.OPENVPN, id="openvpn-hello"),
        pytest.param(to(b"\x48\0\0\0" + bytes(96), 5000, 1194), Loss.OPENVPN, id="openvpn-data"),
        pytest.param(to(b"\x17\xfe\xfd" + bytes(8) + b"\x00\x20" + bytes(32), 443), Loss.DTLS, id="dtls"),
        pytest.param(to(vxlan(to(DATA, 51_820)), 4789), Loss.WIREGUARD, id="wireguard-in-vxlan"),
    ],
)
def test_an_encrypted_tunnel_is_counted_and_stays_a_row(frame: bytes, loss: Loss) -> None:
    packets, losses = decode(batch([frame, frame]))
    assert len(packets) == 2
    assert losses.of(0) == {loss: 2}
    assert loss not in FRAME_LOSSES


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(to(bytes(4) + IKE, 4500), id="ike-behind-a-nat"),
        pytest.param(to(IKE, 500), id="ike"),
        pytest.param(to(b"\xff", 4500), id="nat-keep-alive"),
        pytest.param(to(b"host up since 8 days, load 0.15", 4500), id="text-to-the-port-of-esp"),
        pytest.param(to(struct.pack(">II", 7, 1) + bytes(64), 4500), id="esp-of-a-reserved-index"),
        pytest.param(to(ESP_BODY[:16], 4500), id="esp-without-room-for-a-check"),
        pytest.param(to(b"\x01\0\0\0" + bytes(143), 51_820), id="wireguard-initiation-of-another-length"),
        pytest.param(to(struct.pack("<IIQ", 4, 9, 1 << 63) + bytes(48), 999), id="a-four-and-anything"),
        pytest.param(to(DATA + b"x", 999), id="no-multiple-of-16"),
        pytest.param(to(b"\x04\0\0\0", 51_820), id="short"),
        pytest.param(to(b"\xc0\0\0\0\x01" + bytes(1_200), 443), id="quic"),
        pytest.param(to(b"\x16\xfe\xfd" + bytes(8) + b"\x00\x20" + bytes(32), 443), id="dtls-handshake"),
        pytest.param(to(b"\x17\x03\x03" + bytes(8) + b"\x00\x20" + bytes(32), 443), id="tls-version"),
        pytest.param(to(b"\x80" + bytes(40), 1194), id="no-opcode-of-openvpn"),
        pytest.param(to(bytes(60), 53), id="zeros"),
        pytest.param(ether(ipv4(tcp(DATA))), id="tcp"),
    ],
)
def test_what_only_looks_like_one_is_not_counted(frame: bytes) -> None:
    packets, losses = decode(batch([frame]))
    assert len(packets) == 1
    assert losses.of(0) == {}


def test_a_fragmented_tunnel_counts_its_datagrams_once() -> None:
    whole = udp(struct.pack("<IIQ", 4, 9, 7) + bytes(2_976), dport=51_820)
    pieces = [ether(ipv4(whole[a:b], UDP, offset=a, mf=b < len(whole), df=False)) for a, b in ((0, 1_480), (1_480, len(whole)))]
    packets, losses = decode(batch(pieces))
    assert len(packets) == 2
    assert losses.of(0) == {Loss.WIREGUARD: 1}


@pytest.mark.parametrize("content", [DATA, ESP_BODY])
def test_a_cut_at_any_byte_is_a_row_or_a_loss(content: bytes) -> None:
    frame = to(content, 4500 if content is ESP_BODY else 51_820)
    packets, losses = decode(batch([frame[:n] for n in range(len(frame) + 1)], lengths=[len(frame)] * (len(frame) + 1)))
    assert packets.frame[-1] == len(frame) + 1
    assert losses.total(Loss.ESP) + losses.total(Loss.WIREGUARD) <= len(packets)
