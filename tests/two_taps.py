"""One conversation as two taps saw it, and what can happen to either file: clocks, drops, NAT, offload, a snaplen."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose_files
from tests.wire import Wire
from tests.wire_bytes import pcap

if TYPE_CHECKING:
    from pcapdiag.findings import Diagnosis, Finding
    from pcapdiag.pair.table import Pair
    from tests.wire import Side
    from tests.wire_line import Lose

Frames = list[tuple[int, bytes]]
"""(time in ns, Ethernet frame), in file order."""
NEAR_TTL, HOPS = 64, 7


class Tapped(Wire):
    """A Wire that knows which tap records it, so that one script serves both."""

    def between(self, by: Side) -> Lose:
        """Lost between the two taps: behind the sender's, before the other."""
        return "after" if self._vantage == by else "before"

    @property
    def here(self) -> Side:
        """The side of the tap that records."""
        assert self._vantage != "middle"
        return self._vantage


Script = Callable[[Tapped], object]


@dataclass(frozen=True)
class Taps:
    """Both files."""

    client: Frames
    server: Frames

    @classmethod
    def of(cls, *scripts: Script, **options: object) -> Taps:
        """Each script is one connection, with a client port of its own."""
        files: list[Frames] = []
        for side in ("client", "server"):
            sights = []
            for number, script in enumerate(scripts):
                wire = Tapped(vantage=side, cport=50_000 + number, **options)  # type: ignore[arg-type]  # whatever Wire takes
                script(wire)
                sights += wire.frames()
            files.append(sorted(sights, key=lambda frame: frame[0]))
        return cls(*files)

    def clocked(self, clock: Callable[[int], int]) -> Taps:
        """The server's tap shows clock(true time)."""
        return replace(self, server=[(clock(ns), data) for ns, data in self.server])

    def without(self, *, client: Collection[int] = (), server: Collection[int] = ()) -> Taps:
        """Records (from 0) that the captures dropped."""
        return Taps(
            *([f for i, f in enumerate(frames) if i not in lost] for frames, lost in ((self.client, client), (self.server, server)))
        )

    def altered(self, *, client: Callable[[bytes], bytes] = bytes, server: Callable[[bytes], bytes] = bytes) -> Taps:
        """Each packet rewritten."""
        return Taps([(ns, client(data)) for ns, data in self.client], [(ns, server(data)) for ns, data in self.server])

    def write(self, folder: Path, *, snaplens: tuple[int, int] = (262_144, 262_144)) -> tuple[str, str]:
        """Both captures as files."""
        paths = folder / "client.pcap", folder / "server.pcap"
        for path, frames, snaplen in zip(paths, (self.client, self.server), snaplens, strict=True):
            path.write_bytes(pcap(frames, snaplen=snaplen))
        return str(paths[0]), str(paths[1])

    def diagnosed(self, folder: Path, *, snaplens: tuple[int, int] = (262_144, 262_144)) -> Diagnosis:
        """As a pair."""
        return diagnose_files(self.write(folder, snaplens=snaplens), Options(pair=True, jobs=1))

    def paired(self, folder: Path) -> Pair:
        """What both say together."""
        pair = self.diagnosed(folder).tables.pair
        assert pair is not None
        return pair


def counts(pair: Pair) -> tuple[dict[str, int], dict[str, int]]:
    """Packets by place, client to server and back."""
    placed = pair.placed
    return placed.counts(placed.direction == 0), placed.counts(placed.direction == 1)


def finding(diagnosis: Diagnosis, code: str) -> Finding:
    """The finding of that code."""
    return next(one for one in diagnosis.findings if one.code == code)


def codes(diagnosis: Diagnosis, *, but: Collection[str] = ()) -> list[str]:
    """Codes of all causes and outcomes."""
    return [one.code for one in diagnosis.findings if one.conclusion.kind.value in {"cause", "outcome"} and one.code not in but]


def readdressed(data: bytes, old: tuple[str, int], new: tuple[str, int]) -> bytes:
    """An Ethernet frame with IPv4 and TCP in which one endpoint is another, as behind a NAT (checksums are not kept)."""
    result = bytearray(data)
    ports = 14 + (data[14] & 15) * 4
    for address_at, port_at in ((26, ports), (30, ports + 2)):
        here = str(ipaddress.ip_address(data[address_at : address_at + 4])), struct.unpack_from(">H", data, port_at)[0]
        if here == old:
            result[address_at : address_at + 4] = ipaddress.ip_address(new[0]).packed
            struct.pack_into(">H", result, port_at, new[1])
    return bytes(result)


def merged(frames: Frames, first: int, last: int) -> Frames:
    """Records first to last as one super-segment, as a card that segments or gathers shows them: the headers of the first."""
    whole = frames[first][1]
    header_len = 14 + (whole[14] & 15) * 4 + (whole[14 + (whole[14] & 15) * 4 + 12] >> 4) * 4
    data = bytearray(whole + b"".join(data[header_len:] for _, data in frames[first + 1 : last + 1]))
    struct.pack_into(">H", data, 16, len(data) - 14)
    return [*frames[:first], (frames[first][0], bytes(data)), *frames[last + 1 :]]


def read_pcap(path: Path) -> Frames:
    """The records of a little-endian capture with microseconds."""
    data, at, frames = path.read_bytes(), 24, []
    while at < len(data):
        seconds, micros, length, _ = struct.unpack_from("<IIII", data, at)
        frames.append((seconds * 1_000_000_000 + micros * 1_000, data[at + 16 : at + 16 + length]))
        at += 16 + length
    return frames


def payload_sizes(frames: Sequence[tuple[int, bytes]]) -> list[int]:
    """TCP payload of each record."""
    sizes = []
    for _, data in frames:
        header = (data[14] & 15) * 4
        sizes.append(struct.unpack_from(">H", data, 16)[0] - header - (data[14 + header + 12] >> 4) * 4)
    return sizes
