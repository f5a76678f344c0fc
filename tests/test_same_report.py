"""How the work is cut up, how many processes share it and where its columns lie changes no byte of a report."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pcapdiag
from pcapdiag import spool
from pcapdiag.flows import assemble
from pcapdiag.options import Options
from pcapdiag.pipeline import diagnose_files
from pcapdiag.reporters import REPORTERS

if TYPE_CHECKING:
    from types import ModuleType

SAMPLES = sorted(path.parent for path in (Path(__file__).parents[1] / "samples").glob("*/truth.json"))
_STEPS = ("WINDOW", "_BLOCK_PACKETS", "_PACKETS", "_CHUNK")
"""How modules call the number of rows that they work on at a time."""
_FEW = 61


def modules() -> list[ModuleType]:
    """All of the package but what runs when it is imported."""
    names = (found.name for found in pkgutil.walk_packages(pcapdiag.__path__, "pcapdiag."))
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def report(sample: Path, options: Options) -> str:
    """The JSON report of both ends, one by one or as a pair."""
    ends = [str(next(sample.glob(f"{end}.pcap*"))) for end in ("client", "server")]
    together = [ends] if options.pair else [[end] for end in ends]
    return "\n".join(REPORTERS["json"](diagnose_files(one, options), width=0) for one in together)


@pytest.fixture
def few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are small: whatever is cut up of large captures is cut up of them, too."""
    patched = 0
    for module in modules():
        for name in _STEPS:
            if isinstance(vars(module).get(name), int):
                monkeypatch.setattr(module, name, _FEW)
                patched += 1
    assert patched > 10
    for walk in (spool.windows, spool.rows_where):
        monkeypatch.setattr(walk, "__defaults__", (_FEW,))
    monkeypatch.setattr(assemble.group_flows, "__kwdefaults__", {**(assemble.group_flows.__kwdefaults__ or {}), "block_packets": _FEW})


@pytest.mark.parametrize("pair", [False, True], ids=["alone", "pair"])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_the_report_does_not_depend_on_how_the_work_is_cut_up(sample: Path, pair: bool, request: pytest.FixtureRequest) -> None:
    whole = report(sample, Options(pair=pair, jobs=1))
    request.getfixturevalue("few_rows_at_a_time")
    assert report(sample, Options(pair=pair, jobs=3, memory_bytes=16)) == whole
