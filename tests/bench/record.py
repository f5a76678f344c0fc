"""The capture that is measured: real HTTP/2 over a path that loses packets, recorded once and kept in a cache folder.

Three network namespaces stand in a row: a client (h2load), a router that drops a share of what it forwards in both directions, and a
server (nghttpd). tcpdump listens at the client. Offloads are off everywhere, so that a packet of the capture is a packet of the wire, with
the checksum that it had there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from samples.lab.hosts import command, stop
from tests.bench import BenchError
from tests.bench.repeat import Recording

TOOLS: Final = ("ip", "ethtool", "nft", "tcpdump", "nghttpd", "h2load", "sysctl")
"""Programs without which nothing can be recorded."""

_CLIENT, _CLIENT_GATEWAY = "10.20.200.2", "10.20.200.1"
_SERVER, _SERVER_GATEWAY = "10.20.201.2", "10.20.201.1"
_PORT: Final = 8080
_BUFFER_KIB: Final = 262_144
"""tcpdump's buffer: all that can arrive while another program has its core."""
_ATTEMPTS: Final = 3
_ATTACH_S, _DRAIN_S = 1.5, 1.5
_LIMIT_S: Final = 240
"""No recording takes longer; a healthy one is done in a tenth of it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is recorded; a capture is kept under these numbers."""

    long_count: int = 40
    """Connections that carry many requests, in waves of ten."""
    long_requests: int = 900
    """Requests on each of them."""
    streams: int = 10
    """How many of these are open at once."""
    short_count: int = 6_000
    """Connections that carry a few requests."""
    short_requests: int = 4
    """Requests on each of them."""
    loss_permille: int = 2
    """Of the packets, in each direction."""
    min_packets: int = 600_000
    """A capture with fewer is no bench capture."""

    @property
    def name(self) -> str:
        """A file name that no other workload has."""
        long, short = f"{self.long_count}x{self.long_requests}m{self.streams}", f"{self.short_count}x{self.short_requests}"
        return f"h2-{long}-{short}-loss{self.loss_permille}.pcap"


_WAVE: Final = 10
_SHORT_A_SECOND: Final = 400
_LONG_FILES: Final = {"small": 2_000, "page": 12_000, "large": 40_000}
_SHORT_FILES: Final = {"small": 2_000, "answer": 6_000}
"""Names and lengths of what is asked for, in turn."""


def recorded(workload: Workload, folder: Path) -> Path:
    """The capture of a workload: from the cache, or recorded now.

    Raises:
        BenchError: it cannot be recorded here; the message says why.
    """
    target = folder / workload.name
    if target.exists():
        return target
    if os.geteuid() != 0:
        raise BenchError(
            "recording the bench capture needs root, for its network namespaces; or give a capture: make bench BENCH_ARGS=FILE"
        )
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"recording the bench capture needs {', '.join(missing)}")
    print(f"recording {target}: about 20 s", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    try:
        for attempt in range(_ATTEMPTS):
            dropped = _record(workload, part)
            if not dropped:
                break
            print(f"tcpdump lost {dropped:,} packets in attempt {attempt + 1} of {_ATTEMPTS}", file=sys.stderr)
        else:
            raise BenchError("tcpdump loses packets on this machine")
        count = len(Recording(part))
        if count < workload.min_packets:
            raise BenchError(f"only {count:,} of {workload.min_packets:,} packets were recorded")
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _record(workload: Workload, target: Path) -> int:
    """One attempt; gives how many packets tcpdump could not take."""
    end = time.monotonic() + _LIMIT_S
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        for name, length in (_LONG_FILES | _SHORT_FILES).items():
            (folder / name).write_bytes(os.urandom(length))
        client, server = stack.enter_context(_path(workload.loss_permille))
        _start(stack, server, "nghttpd", "--no-tls", "-d", str(folder), str(_PORT))
        listener = _start(stack, client, "tcpdump", "-Z", "root", "-i", "eth0", "-n", "-s", "0", "-B", str(_BUFFER_KIB), "-w", str(target))
        time.sleep(_ATTACH_S)
        crowd = _load(stack, client, _SHORT_FILES, workload.short_count, workload.short_requests, "-m", "2", "-r", str(_SHORT_A_SECOND))
        for _ in range(workload.long_count // _WAVE):
            wave = _load(stack, client, _LONG_FILES, _WAVE, workload.long_requests, "-m", str(workload.streams))
            _finish(wave, end)
        _finish(crowd, end)
        time.sleep(_DRAIN_S)
        listener.send_signal(signal.SIGINT)
        said = _finish(listener, end)
    dropped = re.search(r"(\d+) packets dropped by kernel", said)
    if dropped is None:
        raise BenchError(f"tcpdump said nothing of drops: {said}")
    return int(dropped[1])


@contextlib.contextmanager
def _path(loss_permille: int) -> Iterator[tuple[str, str]]:
    """The three namespaces, while the context lasts; gives the names of the client's and the server's."""
    client, router, server = (f"bench-{role}-{os.getpid()}" for role in ("client", "router", "server"))
    with contextlib.ExitStack() as stack:
        for namespace in (client, router, server):
            command("ip", "netns", "add", namespace)
            stack.callback(command, "ip", "netns", "del", namespace, check=False)
            _execute(namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        for end, port, own, gateway in ((client, "left", _CLIENT, _CLIENT_GATEWAY), (server, "right", _SERVER, _SERVER_GATEWAY)):
            command("ip", "link", "add", "eth0", "netns", end, "type", "veth", "peer", "name", port, "netns", router)
            for namespace, device, address in ((end, "eth0", own), (router, port, gateway)):
                _execute(namespace, "ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off", "tx", "off")
                command("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
                command("ip", "-n", namespace, "link", "set", device, "up")
            command("ip", "-n", end, "route", "add", "default", "via", gateway)
        _execute(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = ("add table ip bench", "add chain ip bench forward { type filter hook forward priority 0; }",
                 f"add rule ip bench forward numgen random mod 1000 < {loss_permille} drop")  # fmt: skip
        _execute(router, "nft", "; ".join(rules))
        yield client, server


def _execute(namespace: str, *words: str) -> None:
    command("ip", "netns", "exec", namespace, *words)


def _start(stack: contextlib.ExitStack, namespace: str, *words: str) -> subprocess.Popen[str]:
    """A program in a namespace, which does not outlive the stack; what it says is kept."""
    said = subprocess.PIPE if words[0] != "nghttpd" else subprocess.DEVNULL
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *words], stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, text=True
    )
    stack.callback(stop, process)
    return process


def _load(
    stack: contextlib.ExitStack, namespace: str, files: dict[str, int], connections: int, requests: int, *options: str
) -> subprocess.Popen[str]:
    """h2load, with so many connections and so many requests on each."""
    addresses = (f"http://{_SERVER}:{_PORT}/{name}" for name in files)
    return _start(stack, namespace, "h2load", "-c", str(connections), "-n", str(connections * requests), *options, *addresses)


def _finish(process: subprocess.Popen[str], end: float) -> str:
    """What a program said until it ended.

    Raises:
        BenchError: it failed, or some of its requests did, or time is up.
    """
    try:
        said, _ = process.communicate(timeout=max(end - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        raise BenchError(f"the recording took longer than {_LIMIT_S} s") from None
    failed = re.search(r"(\d+) failed", said)
    if process.returncode or (failed is not None and int(failed[1])):
        raise BenchError(f"{process.args!r}: exit {process.returncode}: {said.strip()[-500:]}")
    return said
