"""What the text outputs of `ip` and `ss` say about a host: the true MTU of its interfaces, and of its sockets.

People collect them beside a capture (sosreport, must-gather). Formats: iproute2, as it prints them for people.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

MAX_FACTS_LEN: Final = 8 << 20
"""A longer text is no output of `ip` or `ss` that anybody collects."""
MAX_LINKS: Final = 2_000
MAX_SOCKETS: Final = 100_000

_LINK: Final = re.compile(r"^\d+: (?P<name>[^\s:@]{1,40})(?:@\S{1,40})?: <[A-Z0-9_,-]{0,400}> mtu (?P<mtu>\d{1,7})\b")
_ADDRESS: Final = re.compile(r"^\s+inet6? (?P<address>[0-9A-Fa-f:.]{2,45})(?: peer \S+|/\d{1,3})")
_KIND: Final = re.compile(
    r"^\s+(?P<kind>bareudp|bond|bridge|dummy|erspan|geneve|gre|gretap|ip6gre|ip6gretap|ip6tnl|ipip|ipvlan|macsec|macvlan|sit|tun|vcan"
    r"|veth|vlan|vrf|vti|vxlan|wireguard|xfrm)\b"
)
_ENDPOINT: Final = r"(?:\[?[0-9A-Fa-f:.]{2,45}\]?|\*)(?:%[^\s:\]]{1,40})?\]?:\d{1,5}"
_SOCKET: Final = re.compile(rf"^\s*(?:[A-Za-z][A-Za-z0-9_-]{{1,12}}\s+){{0,2}}\d+\s+\d+\s+(?P<local>{_ENDPOINT})\s+(?P<remote>{_ENDPOINT})")
_MSS: Final = re.compile(r"\bmss:(\d{1,7})\b")
_PMTU: Final = re.compile(r"\bpmtu:(\d{1,7})\b")
_SS_HEADER: Final = re.compile(r"^\s*(?:Netid\s+)?State\s+Recv-Q\s+Send-Q\s+Local Address:Port", re.MULTILINE)
_LOOKS_LIKE: Final = re.compile(rf"{_LINK.pattern}|{_SS_HEADER.pattern}|{_SOCKET.pattern}", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """A network interface of a host."""

    name: str
    mtu: int
    """Bytes of the largest IP packet it sends."""
    kind: str | None = None
    """What `ip -d` calls it: veth, vxlan, vlan, bond and so on; None for hardware, or without -d."""
    addresses: tuple[bytes, ...] = ()
    """Its IP addresses, 4 or 16 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSocket:
    """A TCP connection as its kernel sees it."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    mss: int | None = None
    """Payload bytes it puts into one packet."""
    pmtu: int | None = None
    """Bytes of the largest IP packet it believes the path to carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What is known of one host, or of several."""

    sources: tuple[str, ...] = ()
    """Names of the files that said it, as reports may print them."""
    links: tuple[HostLink, ...] = ()
    sockets: tuple[HostSocket, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.links or self.sockets)

    def mtu_at(self, address: bytes) -> int | None:
        """The MTU of the interface with this address (4 or 16 bytes); None if none has it, or interfaces of different MTU do."""
        found = {link.mtu for link in self.links if address in link.addresses}
        return found.pop() if len(found) == 1 else None

    def pmtu_between(self, local: bytes, local_port: int, remote: bytes, remote_port: int) -> int | None:
        """The path MTU that the socket of `local` uses towards `remote`; None if no such socket is known."""
        ends = (local, local_port, remote, remote_port)
        found = {s.pmtu for s in self.sockets if s.pmtu and (s.local, s.local_port, s.remote, s.remote_port) == ends}
        return min(found) if found else None


def merge_facts(parts: Iterable[HostFacts]) -> HostFacts:
    """All that several files say, each thing once; the same interface told twice is one, with what both know."""
    sources: dict[str, None] = {}
    links: dict[tuple[str, int, tuple[bytes, ...]], HostLink] = {}
    sockets: dict[HostSocket, None] = {}
    for part in parts:
        sources.update(dict.fromkeys(part.sources))
        sockets.update(dict.fromkeys(part.sockets))
        for link in part.links:
            _add_link(links, link)
    return HostFacts(sources=tuple(sources), links=tuple(links.values())[:MAX_LINKS], sockets=tuple(sockets)[:MAX_SOCKETS])


def _add_link(links: dict[tuple[str, int, tuple[bytes, ...]], HostLink], link: HostLink) -> None:
    """`ip link` knows no addresses and `ip addr` no kinds: one with either missing completes the other of its name and MTU."""
    for key, known in links.items():
        same = key[:2] == (link.name, link.mtu)
        if same and (known.addresses == link.addresses or not known.addresses or not link.addresses):
            links[key] = replace(known, kind=known.kind or link.kind, addresses=known.addresses or link.addresses)
            return
    links[link.name, link.mtu, link.addresses] = link


def looks_like_facts(head: bytes) -> bool:
    """Whether a file that begins so may be an output of `ip` or `ss`."""
    if b"\0" in head:
        return False
    return _LOOKS_LIKE.search(head.decode("utf-8", "replace")) is not None


def read_facts(text: bytes, source: str) -> HostFacts:
    """The interfaces and sockets that an output of `ip addr`, `ip link`, `ip -d link` or `ss -ti` lists."""
    text = text[:MAX_FACTS_LEN]
    if not text.endswith(b"\n"):  # cut, perhaps inside a number
        text = text[: max(text.rfind(b" "), text.rfind(b"\n"), text.rfind(b"\t")) + 1]
    lines = text.decode("utf-8", "replace").splitlines()
    facts = HostFacts(sources=(source,), links=tuple(_links(lines))[:MAX_LINKS], sockets=tuple(_sockets(lines))[:MAX_SOCKETS])
    return facts or HostFacts()


def _links(lines: list[str]) -> Iterator[HostLink]:
    link: HostLink | None = None
    for line in lines:
        if (begin := _LINK.match(line)) is not None:
            if link is not None:
                yield link
            link = HostLink(name=begin["name"], mtu=int(begin["mtu"]))
        elif link is not None and (address := _ADDRESS.match(line)) is not None:
            packed = _packed(address["address"])
            link = replace(link, addresses=(*link.addresses, packed)) if packed is not None else link
        elif link is not None and link.kind is None and (kind := _KIND.match(line)) is not None:
            link = replace(link, kind=kind["kind"])
        elif link is not None and line[:1].strip():  # something else begins
            yield link
            link = None
    if link is not None:
        yield link


def _sockets(lines: list[str]) -> Iterator[HostSocket]:
    """A socket's line, and the indented ones behind it that say more of it (ss -O: all in one)."""
    ends: tuple[bytes, int, bytes, int] | None = None
    for line in lines:
        if (socket := _SOCKET.match(line)) is not None:
            ends = _ends(socket["local"], socket["remote"])
        elif line[:1].strip():
            ends = None
        mss, pmtu = _MSS.search(line), _PMTU.search(line)
        if ends is not None and (mss or pmtu):
            local, local_port, remote, remote_port = ends
            yield HostSocket(
                local=local, local_port=local_port, remote=remote, remote_port=remote_port,
                mss=int(mss[1]) if mss else None, pmtu=int(pmtu[1]) if pmtu else None,
            )  # fmt: skip
            ends = None


def _ends(local: str, remote: str) -> tuple[bytes, int, bytes, int] | None:
    (near, near_port), (far, far_port) = _endpoint(local), _endpoint(remote)
    return None if near is None or far is None else (near, near_port, far, far_port)


def _endpoint(text: str) -> tuple[bytes | None, int]:
    address, _, port = text.rpartition(":")
    return _packed(address.strip("[]").partition("%")[0].strip("[]")), int(port)


def _packed(text: str) -> bytes | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed
