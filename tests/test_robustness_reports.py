"""What a peer puts on the wire ends up in reports: it must neither command what shows them nor give secrets away."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pytest

from pcapdiag.pipeline import diagnose_files
from pcapdiag.reporters import REPORTERS
from tests import test_protocols_dns as dns
from tests import test_protocols_tls_handshake as tls
from tests.capture_files import enhanced, interface, option, section
from tests.wire import Recording, Wire, merge
from tests.wire_h2 import PREFACE, RESPONSE, Blocks, data, settings

if TYPE_CHECKING:
    from pcapdiag.findings import Diagnosis

HOSTILE: Final = b"\x1b[2J[/red]</script><b>`x`|*_ \r\nline\x9b31m\xe2\x80\xaegnp\xff\x00\x7f[a](http://evil.example)"
UNSPACED: Final = re.sub(rb"[ \r\n]", b"", HOSTILE)
"""What a request line can hold without ending."""
SECRET: Final = "s3cr3t-hunter2"
PLACES: Final = ("/chat", "/agent.Tools", "tls-sni", "dns-name")
"""Found in reports beside the hostile bytes, so that these came as far."""


def _http() -> Recording:
    """Secrets in every place HTTP/1.1 has for them."""
    fields = (
        f"Host: a\r\nAuthorization: Bearer {SECRET}\r\nCookie: sid={SECRET}\r\nx-api-key: {SECRET}\r\nProxy-Authorization: {SECRET}\r\n"
    )
    body = json.dumps({"prompt": SECRET}).encode()
    target = b"/chat" + UNSPACED + f"?key={SECRET}&token={SECRET}#{SECRET}".encode()
    head = b"POST " + target + b" HTTP/1.1\r\n" + fields.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode()
    wire = Wire().handshake().send(head + body).wait(ms=900)
    answer = f"HTTP/1.1 200 OK\r\nSet-Cookie: {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    wire.reply(answer).wait(ms=50)
    return wire.send(f"GET http://user:{SECRET}@a/x;jsessionid={SECRET} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).wait(ms=700).reply(answer)


def _grpc() -> Recording:
    blocks, answers = Blocks(), Blocks()
    path = "/agent.Tools" + HOSTILE.decode("latin-1") + f"?key={SECRET}"
    request = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("content-type", "application/grpc")]
    request += [("authorization", SECRET), ("cookie", SECRET), ("x-api-key", SECRET), ("x-goog-api-key", SECRET)]
    wire = Wire(cport=50_001, sport=50_051).handshake()
    wire.send(PREFACE + settings() + blocks.headers(1, request) + data(1, b"\0\0\0\0\x0e" + SECRET.encode(), end_stream=True))
    wire.reply(settings() + answers.headers(1, RESPONSE)).wait(ms=800).reply(data(1, b"\0\0\0\0\x0e" + SECRET.encode()))
    message = [("grpc-status", "14"), ("grpc-message", HOSTILE.decode("latin-1"))]
    return wire.reply(answers.headers(1, message, end_stream=True))


def _others() -> Recording:
    """A server name and a lookup."""
    hello = tls.client_hello(tls.host(b"tls-sni" + HOSTILE[:60]))
    wire = Wire(cport=50_002, sport=443).handshake().send(b"\x16\x03\x01" + len(hello).to_bytes(2) + hello)
    wire.wait(ms=900).reply(b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00").send(b"\x17\x03\x03\x00\x40" + bytes(64))
    wire.wait(ms=900).reply(b"\x17\x03\x03\x00\x40" + bytes(64))
    label = b"dns-name" + HOSTILE[:50]
    asked = bytes([len(label)]) + label + b"\x04test\0"
    query = dns.message([dns.question(asked)])
    lookup = Wire(cport=50_003, sport=53).udp(query).wait(ms=900).udp(dns.message([dns.question(asked)], flags=0x8182), by="server")
    return merge(wire, lookup)


@cache
def diagnosis() -> Diagnosis:
    """Of a pcapng file whose comments and interface are as hostile as its packets."""
    nano = option(9, b"\x09")
    parts = [
        section("<", option(1, HOSTILE), option(4, HOSTILE)),
        interface("<", option(2, HOSTILE), option(3, HOSTILE), option(11, HOSTILE), nano),
    ]
    parts += [enhanced(frame, "<", option(1, HOSTILE), time=ts_ns) for ts_ns, frame in merge(_http(), _grpc(), _others()).frames()]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "hostile\x1b[2J<b>|`.pcapng"
        path.write_bytes(b"".join(parts))
        return diagnose_files([str(path)])


def report(name: str) -> str:
    return REPORTERS[name](diagnosis(), width=100)


def strings(value: Any) -> list[str]:
    """All strings of a document."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


def test_the_hostile_strings_came_as_far_as_the_reports() -> None:
    said = "\n".join(strings(json.loads(report("json"))))
    assert [place for place in PLACES if place not in said] == []
    assert "agent.Tools" in report("markdown")
    assert "agent.Tools" in report("text")
    assert diagnosis().failures == ()


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_no_report_holds_what_commands_a_terminal(name: str) -> None:
    shown = report(name)
    if name == "ansi":  # its own colours, and nothing else
        shown = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert [character for character in shown.replace("\n", "") if not character.isprintable()] == []


@pytest.mark.parametrize("name", sorted(REPORTERS))
def test_no_report_gives_a_secret_away(name: str) -> None:
    assert SECRET not in "".join(report(name).split())


def test_markdown_shows_markup_and_does_not_follow_it() -> None:
    outside = re.sub(r"(?m)^ *```.*?^ *```$|(`+)(?!`).+?(?<!`)\1(?!`)", "", report("markdown"), flags=re.DOTALL)
    assert re.findall(r"(?<!\\)<(?!/?sub>)", outside) == []
    assert re.findall(r"(?<!\\)\]\((?=http://evil)", outside) == []
    assert "](http://evil" not in outside


def test_text_shows_markup_as_it_came() -> None:
    assert "/chat?[2J[/red]</script><b>`x`|*_line" in " ".join(report("text").split())
