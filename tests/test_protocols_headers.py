"""The allow-list: which fields are kept, and what of their values."""

from __future__ import annotations

import pickle

import pytest

from pcapdiag.protocols.events import FrozenMap
from pcapdiag.protocols.headers import is_kept, kept_value, merged, target_text


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"content-type", True),
        (b"retry-after-ms", True),
        (b"x-ratelimit-remaining-tokens", True),
        (b"anthropic-ratelimit-requests-reset", True),
        (b"grpc-status", True),
        (b"grpc-message", False),
        (b"authorization", False),
        (b"cookie", False),
        (b"set-cookie", False),
        (b"x-api-key", False),
        (b"referer", False),
        (b"user-agent", False),
        (b"x-ratelimit-\xff", False),
        (b"x-ratelimit-" + b"a" * 60, False),
        (b"", False),
    ],
)
def test_only_the_allow_list_is_kept(name: bytes, kept: bool) -> None:
    assert is_kept(name) is kept


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (b"/v1/chat?key=secret#part", "/v1/chat"),
        (b"/a#b?c", "/a"),
        (b"/a;jsessionid=secret/b", "/a"),
        (b"https://user:secret@host:8/p?q", "https://host:8/p"),
        (b"user:secret@host:443", "host:443"),
        (b"//user:secret@host/p", "//host/p"),
        (b"/mail/a@b", "/mail/a@b"),
        (b"*", "*"),
        (b"/\x1b[31m\xff", "/?[31m?"),
        (b"/" + b"a" * 999, "/" + "a" * 255),
        (b"http://" + b"s" * 20_000 + b"@host/", "http://host/"),
    ],
)
def test_targets_lose_what_may_be_secret(target: bytes, text: str) -> None:
    assert target_text(target) == text


def test_values_are_bounded_and_printable() -> None:
    assert kept_value(b"server", b"a" * 999) == "a" * 256
    assert kept_value(b"server", b"a\x00\x1b\xc3\xa9") == "a????"
    assert kept_value(b"idempotency-key", b"secret") == "present"


def test_repeated_fields_are_joined() -> None:
    assert merged([("via", "a"), ("te", "x"), ("via", "b")]) == FrozenMap({"via": "a, b", "te": "x"})
    assert len(merged([("via", "a" * 200)] * 9)["via"]) == 256
    assert len(merged([(f"x-ratelimit-{n}", "1") for n in range(999)])) == 64


def test_a_frozen_map_is_a_value() -> None:
    one, same, other = FrozenMap({"a": 1, "b": 2}), FrozenMap([("b", 2), ("a", 1)]), FrozenMap({"a": 1})
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != {"a": 1, "b": 2}
    assert pickle.loads(pickle.dumps(one)) == one
    assert (one.get("a"), one.get("c"), "b" in one, list(one)) == (1, None, True, ["a", "b"])
