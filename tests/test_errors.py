"""What pcapdiag raises."""

from __future__ import annotations

import inspect

import pytest

from pcapdiag import errors
from pcapdiag.errors import CaptureError, OptionError, OutputError, PcapdiagError


@pytest.mark.parametrize("kind", [CaptureError, OptionError, OutputError])
def test_one_kind_catches_all_and_the_message_is_printed_as_it_is(kind: type[PcapdiagError]) -> None:
    with pytest.raises(PcapdiagError) as caught:
        raise kind("x.pcap: not a capture")
    assert str(caught.value) == "x.pcap: not a capture"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    names = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    drawn = errors.__doc__ or ""
    assert {name for name in names if name in drawn} == names
    assert sum(line.lstrip("├└─ ").startswith(tuple(names)) for line in drawn.splitlines()) == len(names)
