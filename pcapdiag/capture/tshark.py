"""Second opinions from tshark: what Wireshark shows of a few frames, without a byte of what was said.

The adapter is pyshark. Where that cannot run (inside a running event loop, on interpreters newer than it knows) tshark is started here
and its PDML, which is what pyshark reads too, is read here. Only fields of the list below leave this module, whatever else tshark saw.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import re
import shutil
import subprocess
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final
from xml.etree import ElementTree

TIMEOUT_S: Final = 60.0
"""For one capture; frames that were not reached by then have no dissection."""
MAX_LINES: Final = 20
"""Of one frame."""
MAX_LINE_LEN: Final = 300

FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "frame": {"frame.len": "", "frame.protocols": ""},
    "eth": {"eth.src": "", "eth.dst": "> "},
    "vlan": {"vlan.id": ""},
    "sll": {"sll.pkttype": "", "sll.src.eth": ""},
    "arp": {"arp.opcode": "", "arp.src.proto_ipv4": "", "arp.dst.proto_ipv4": "> "},
    "ip": {"ip.src": "", "ip.dst": "> ", "ip.ttl": "ttl=", "ip.id": "id=", "ip.flags": "flags=", "ip.frag_offset": "offset="},
    "ipv6": {"ipv6.src": "", "ipv6.dst": "> ", "ipv6.hlim": "hlim=", "ipv6.plen": "len="},
    "icmp": {"icmp.type": "type=", "icmp.code": "code=", "icmp.mtu": "mtu="},
    "icmpv6": {"icmpv6.type": "type=", "icmpv6.code": "code=", "icmpv6.mtu": "mtu="},
    "gre": {"gre.proto": ""},
    "vxlan": {"vxlan.vni": ""},
    "udp": {"udp.srcport": "", "udp.dstport": "> ", "udp.length": "len="},
    "tcp": {
        "tcp.srcport": "", "tcp.dstport": "> ", "tcp.flags": "", "tcp.seq": "seq=", "tcp.ack": "ack=", "tcp.len": "len=",
        "tcp.window_size": "win=", "tcp.options.sack_le": "sack from ", "tcp.options.sack_re": "to ",
    },
    "http2": {
        "http2.type": "", "http2.streamid": "stream=", "http2.length": "len=", "http2.rst_stream.error": "error=",
        "http2.goaway.error": "error=", "http2.goaway.last_stream_id": "last=", "http2.window_update.window_size_increment": "increment=",
    },
    "tls": {
        "tls.record.content_type": "", "tls.record.length": "len=", "tls.handshake.type": "", "tls.alert_message.level": "",
        "tls.alert_message.desc": "",
    },
    "dns": {"dns.id": "id=", "dns.flags.response": "", "dns.flags.truncated": "", "dns.flags.rcode": ""},
    "websocket": {"websocket.fin": "fin=", "websocket.opcode": "", "websocket.payload_length": ""},
}  # fmt: skip
"""Layer -> the fields shown of it, in that order, each with what stands before its value: lengths, numbers, types and flags.

Names, header values and bodies are not in it.
"""
ANALYSIS: Final[Mapping[str, str]] = {
    "tcp.analysis.acks_frame": "acks frame ", "tcp.analysis.ack_rtt": "after ", "tcp.analysis.duplicate_ack_num": "duplicate ack #",
    "tcp.analysis.bytes_in_flight": "in flight: ", "tcp.analysis.rto": "rto: ",
}  # fmt: skip
"""What tshark worked out about a TCP segment."""
_EXPERT: Final = {"_ws.expert": ""}
_OPINIONATED: Final = ("ip", "ipv6", "icmp", "icmpv6", "udp", "tcp")
"""Layers whose expert notes are quoted: below what applications say."""
_TITLE: Final = re.compile(r"^(?:[01. ]+ = )?[^:=]*(?:: | = )")
"""The bits and the title before a value: the layer and the field's place say it."""
_RELATIVE: Final = re.compile(r"\s*\(relative[^)]*\)")

_Layer = tuple[str, Mapping[str, Sequence[str]]]
"""Name, and field name -> how tshark shows each occurrence."""


class NoTsharkError(Exception):
    """tshark is not on the PATH."""


def dissect(
    path: str, frames: Iterable[int], *, decode_as: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> dict[int, str]:
    """Frame number -> lines of tshark's dissection, of those frames of a capture file that tshark could read within `timeout_s`.

    `decode_as` maps a selector such as "tcp.port==50051" to a protocol of tshark.

    Raises:
        NoTsharkError: tshark is not installed.
    """
    tshark = shutil.which("tshark")
    if tshark is None:
        raise NoTsharkError("tshark is not installed")
    wanted = sorted(set(frames))
    if not wanted:
        return {}
    query = _Query(tshark, path, wanted, decode_as or {}, timeout_s)
    rows = None if _inside_event_loop() else query.through_pyshark()
    return dict(query.through_pdml() if rows is None else rows)


class _Query:
    """One run of tshark over one file."""

    def __init__(self, tshark: str, path: str, wanted: Sequence[int], decode_as: Mapping[str, str], timeout_s: float) -> None:
        self._tshark = tshark
        self._path = str(Path(path).absolute())
        self._filter = " || ".join(f"frame.number == {number}" for number in wanted)
        self._decode_as = decode_as
        # nothing is read behind the last frame, nothing is printed of layers that are not shown
        self._more = ["-c", str(wanted[-1]), "-J", " ".join(FIELDS)]
        self._timeout_s = timeout_s

    def through_pyshark(self) -> list[tuple[int, str]] | None:
        """None where pyshark cannot do it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pyshark uses calls of asyncio that are on their way out
                return self._through_pyshark()
        except (ImportError, OSError, RuntimeError, AttributeError, LookupError, TypeError, ValueError, SyntaxError, configparser.Error):
            return None  # what an interpreter, a tshark or a config.ini that pyshark does not know makes of it

    def _through_pyshark(self) -> list[tuple[int, str]] | None:
        import pyshark  # noqa: PLC0415 - not for --help, nor without --dissect
        from pyshark.capture.capture import TSharkCrashException  # noqa: PLC0415 - as above
        from pyshark.tshark.tshark import TSharkVersionException  # noqa: PLC0415 - as above

        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            capture = pyshark.FileCapture(
                self._path, display_filter=self._filter, use_json=False, tshark_path=self._tshark, decode_as=dict(self._decode_as),
                custom_parameters=self._more, eventloop=runner.get_loop(),
            )  # fmt: skip
            try:
                capture.load_packets(timeout=self._timeout_s)
            except (TSharkCrashException, TSharkVersionException):
                return None
            finally:
                capture._running_processes.clear()  # else its __del__ would run a loop that is closed
            return [(int(packet.number), _text(_pyshark_layers(packet))) for packet in list(capture._packets)]

    def through_pdml(self) -> Iterator[tuple[int, str]]:
        """As far as tshark came in time, whatever it says when it ends."""
        decode_as = [part for selector, protocol in self._decode_as.items() for part in ("-d", f"{selector},{protocol}")]
        command = [self._tshark, "-n", "-r", self._path, "-Y", self._filter, "-T", "pdml", *decode_as, *self._more]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - a fixed command; path and filter are single arguments
            watch = threading.Timer(self._timeout_s, process.kill)
            watch.start()
            try:
                assert process.stdout is not None
                yield from _packets(process.stdout)
            finally:
                watch.cancel()
                process.kill()


def _inside_event_loop() -> bool:
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


def _packets(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """The packets of a PDML document, up to where it ends or is no XML."""
    with contextlib.suppress(ElementTree.ParseError):
        for _, element in ElementTree.iterparse(stream):  # noqa: S314 - written by tshark, which escapes what it quotes and declares no entities
            if element.tag == "packet":
                number = element.find("proto[@name='geninfo']/field[@name='num']")
                if number is not None:
                    yield int(number.get("show", "0")), _text(_pdml_layer(proto) for proto in element.findall("proto"))
                element.clear()


def _pdml_layer(proto: ElementTree.Element) -> _Layer:
    fields: dict[str, list[str]] = {}
    for field in proto.iter("field"):
        fields.setdefault(field.get("name", ""), []).append(field.get("showname", ""))
    return proto.get("name", ""), fields


def _pyshark_layers(packet: Any) -> Iterator[_Layer]:  # noqa: ANN401 - pyshark ships no types
    for layer in (packet.frame_info, *packet.layers):
        yield layer.layer_name, {name: [field.showname or "" for field in same.all_fields] for name, same in layer._all_fields.items()}


def _text(layers: Iterable[_Layer]) -> str:
    """One line for each layer that may be shown, then one for each of tshark's opinions about it."""
    lines = [line for layer in layers for line in _lines(*layer)]
    return "\n".join(line if len(line) <= MAX_LINE_LEN else f"{line[: MAX_LINE_LEN - 1]}…" for line in lines[:MAX_LINES])


def _lines(name: str, fields: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if name not in FIELDS:
        return
    if shown := " ".join(_shown(FIELDS[name], fields)):
        yield f"{name}: {shown}"
    if name in _OPINIONATED:
        yield from (f"  [{opinion}]" for opinion in _shown(_EXPERT, fields))
    if name == "tcp" and (analysis := ", ".join(_shown(ANALYSIS, fields))):
        yield f"  [{analysis}]"


def _shown(labels: Mapping[str, str], fields: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, label in labels.items():
        for text in fields.get(name, ()):
            if value := _RELATIVE.sub("", _TITLE.sub("", " ".join(text.split()), count=1)):
                yield label + value
