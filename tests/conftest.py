"""What every test stands on: one width, one time zone, no colour, one hypothesis profile, and a Wire."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("ci", deadline=None, max_examples=60, derandomize=True, database=None)
settings.register_profile("deep", parent=settings.get_profile("ci"), max_examples=2_000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

NO_TSHARK = "tshark is not installed"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite the expected files instead of comparing with them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("tshark") is None:
        for item in items:
            if item.get_closest_marker("tshark") is not None:
                item.add_marker(pytest.mark.skip(reason=NO_TSHARK))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.getreports("skipped") if NO_TSHARK in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{NO_TSHARK}: {len(skipped)} tests that compare with it were skipped")


@pytest.fixture(autouse=True, scope="session")
def _plain_surroundings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"COLUMNS": "80", "LINES": "25", "TZ": "UTC", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}.items():
            patch.setenv(name, value)
        for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def wire() -> type[Wire]:
    """Makes Wires: `wire(vantage="server").handshake()...`."""
    return Wire


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether expected files are to be rewritten (`make golden`)."""
    return bool(request.config.getoption("--golden"))
