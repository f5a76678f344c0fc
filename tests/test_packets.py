"""From frames to rows through the front of the package: every frame is a row or a counted loss, whatever lies in it."""

from __future__ import annotations

import socket

from pcapdiag.losses import Loss
from pcapdiag.packets import decode_packets
from tests.frame_bytes import batch, decode, ether, ipv4, tcp
from tests.wire import Wire, merge


def test_batches_are_decoded_as_one_capture() -> None:
    frames = [ether(ipv4(tcp(bytes([65 + index])))) for index in range(6)]
    whole, _ = decode(batch(frames))
    parts, _ = decode(batch(frames[:2]), batch(frames[2:], first=3))
    assert whole.frame.tolist() == parts.frame.tolist() == [1, 2, 3, 4, 5, 6]
    assert [bytes(parts.blob.read(int(at), 1)) for at in parts.payload_at] == [b"A", b"B", b"C", b"D", b"E", b"F"]


def test_what_is_no_packet_is_counted() -> None:
    packets, losses = decode(batch([ether(ipv4(tcp(b"x"))), bytes(9), ether(ipv4(tcp(b"y")))]))
    assert packets.frame.tolist() == [1, 3]
    assert sum(losses.total(loss) for loss in Loss) == 1


def test_no_frames_make_an_empty_table() -> None:
    packets, _ = decode()
    assert len(packets) == 0
    assert decode_packets.__doc__


def test_addresses_are_numbered_once_in_the_order_of_their_first_packets() -> None:
    """Of both IP versions, over both transports."""
    talk = merge(
        Wire().handshake().http_get(), Wire(ipv6=True, cport=50_001, start_ms=500).handshake(), Wire(start_ms=900, sport=53).udp(b"?")
    )
    packets = talk.trace().packets
    assert packets.addresses.packed == (
        socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2"),
        socket.inet_pton(socket.AF_INET6, "2001:db8::1"), socket.inet_pton(socket.AF_INET6, "2001:db8::2"),
    )  # fmt: skip
    assert set(packets.ip_version.tolist()) == {4, 6}
    assert set(packets.proto.tolist()) == {6, 17}
