"""Step 8: reports. A reporter is a pure function from a diagnosis to text; one file each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pcapdiag.findings import Diagnosis


class Reporter(Protocol):
    """Turns a diagnosis into text; never prints, never reads the capture."""

    def __call__(self, diagnosis: Diagnosis, *, width: int) -> str:
        """The report, ending in a newline; `width` in columns, for formats that have any."""
        ...


class _Reporters(Mapping[str, Reporter]):
    """Imports a reporter when it is asked for: rich costs 0.1 s that JSON need not pay."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Reporter:
        module, _, function = self._places[name].partition(":")
        reporter: Reporter = getattr(import_module(module), function)
        return reporter

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


REPORTERS: Final[Mapping[str, Reporter]] = _Reporters(
    {
        "text": "pcapdiag.reporters.text:plain",
        "ansi": "pcapdiag.reporters.text:styled",
        "json": "pcapdiag.reporters.json_report:report",
        "markdown": "pcapdiag.reporters.markdown:report",
    }
)
"""Format name -> reporter. "ansi" is "text" with colours; the command line picks it for terminals that have them."""
