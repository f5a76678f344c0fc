"""Two network namespaces with a TAP device each, the wire between them, and captures at both ends; nothing outlives the context."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from samples.lab.wire import Spec

ROOT = Path(__file__).resolve().parents[2]
"""The folder from which `python -m samples.lab...` works."""

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_ATTACH_S = 1.2
"""tcpdump may miss what is sent within the first second after it says that it listens."""


@dataclass(frozen=True)
class Host:
    """One end of the wire: a namespace with one device, and its gateway, which is the wire."""

    role: str
    address: str
    gateway: str
    mac: str
    gateway_mac: str

    @property
    def namespace(self) -> str:
        """The namespace's name, unique to this process."""
        return f"lab-{self.role}-{os.getpid()}"


CLIENT = Host("client", "192.0.2.10", "192.0.2.1", "02:00:00:00:02:10", "02:00:00:00:02:01")
SERVER = Host("server", "198.51.100.20", "198.51.100.1", "02:00:00:00:51:20", "02:00:00:00:51:01")


class LabError(Exception):
    """The lab could not do its work; the message says which command said what."""


def command(*words: str, check: bool = True) -> str:
    """Run a short program and give its output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def open_tap(name: str) -> int:
    """Make a TAP device without offloads, so that every frame is what a network card would send, and give its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


def stop(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM, wait_s: float = 5.0) -> None:
    """End one program: ask, wait, and kill if it does not listen."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(wait_s)


class Capture:
    """tcpdump at one end, into one file."""

    def __init__(self, host: Host, path: Path) -> None:
        self.path = path
        self.lost_count = 0
        options = ("-i", "eth0", "-n", "-s", "0", "-B", "16384", "--immediate-mode", "-U", "-Z", "root", "-w", str(path))
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, "tcpdump", *options, "ip"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stderr is not None
        watchdog = threading.Timer(10.0, self._process.kill)
        watchdog.start()
        line = self._process.stderr.readline()
        while line and "listening on" not in line:
            line = self._process.stderr.readline()
        watchdog.cancel()
        if not line:
            raise LabError("tcpdump did not start")

    def stop(self) -> None:
        """End the capture and read how many packets the kernel could not hand over."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            _, said = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LabError("tcpdump did not stop") from None
        dropped = re.search(r"(\d+) packets dropped by kernel", said)
        if dropped is None:
            raise LabError(f"tcpdump said nothing of drops: {said}")
        self.lost_count = int(dropped[1])


class Network:
    """Both namespaces and the wire, from __enter__ to __exit__."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.folder = folder
        self.captures: list[Capture] = []
        self._spec = spec
        self._wire: subprocess.Popen[str] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Network:
        """Build everything; on failure take down what was built."""
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take everything down, in the opposite order."""
        self._stack.close()

    def _build(self) -> None:
        descriptors = []
        for host in (CLIENT, SERVER):
            command("ip", "netns", "add", host.namespace)
            self._stack.callback(command, "ip", "netns", "del", host.namespace, check=False)
            device = f"lab{host.role[0]}{os.getpid()}"
            descriptor = open_tap(device)
            self._stack.callback(os.close, descriptor)
            self._settle(host, device)
            descriptors.append(descriptor)
        macs = [(host.mac + host.gateway_mac).replace(":", "") for host in (CLIENT, SERVER)]
        self._wire = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "samples.lab.wire",
                self._spec.to_json(),
                str(self.folder / "wire.jsonl"),
                *map(str, descriptors),
                *macs,
            ],
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            pass_fds=descriptors,
        )
        self._stack.callback(stop, self._wire)

    def _settle(self, host: Host, device: str) -> None:
        """Give the device to the namespace, with an address, a route and a fixed neighbour; no IPv6, so that the wire is quiet."""
        inside = ("ip", "-n", host.namespace)
        execute = ("ip", "netns", "exec", host.namespace)
        command("ip", "link", "set", device, "netns", host.namespace)
        command(*execute, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        command(*inside, "link", "set", device, "name", "eth0", "address", host.mac)
        command(*inside, "link", "set", "lo", "up")
        command(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
        command(*inside, "link", "set", "eth0", "up", "mtu", "1500")
        command(*inside, "neighbour", "add", host.gateway, "lladdr", host.gateway_mac, "dev", "eth0", "nud", "permanent")
        command(*inside, "route", "add", "default", "via", host.gateway)

    def capture(self) -> None:
        """Start tcpdump at both ends and wait until it has surely attached."""
        for host in (CLIENT, SERVER):
            capture = Capture(host, self.folder / f"{host.role}.pcap")
            self._stack.callback(capture.stop)
            self.captures.append(capture)
        time.sleep(_ATTACH_S)

    def start(self, host: Host, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start `python -m samples.lab.<module>` at one end; it is stopped with the network."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, sys.executable, "-m", f"samples.lab.{module}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._stack.callback(stop, process)
        return process

    def announce(self, t0: float) -> None:
        """Tell the wire when the traffic starts, so that its rules know the time."""
        assert self._wire is not None
        assert self._wire.stdin is not None
        self._wire.stdin.write(f"t0 {t0:.6f}\n")
        self._wire.stdin.flush()

    def finish(self) -> None:
        """Stop the captures, then the wire, which writes its summary."""
        for capture in self.captures:
            capture.stop()
        assert self._wire is not None
        assert self._wire.stdin is not None
        self._wire.stdin.close()
        self._wire.wait(5)
