"""What is written is run: the generated pages are those that the code gives today."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pcapdiag
from docs.generate import OUTPUTS, PAGES
from pcapdiag.detectors import DETECTORS
from tests.test_registry import HEADINGS
from tests.wire import Wire

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parent.parent
WRITTEN_BY_HAND = ("README.md", "CHANGELOG.md", "docs/adding-a-detector.md", "docs/glossary.md", "docs/json-report.md")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_no_module_of_tables_is_left_out() -> None:
    package = Path(pcapdiag.__file__).parent
    holders = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("table.py")
        if "(Table)" in path.read_text("utf-8")
    }
    assert holders <= set(OUTPUTS)


def test_every_detector_has_a_section_of_its_own() -> None:
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == sorted(detector.code for detector in DETECTORS)


@pytest.mark.parametrize("name", [*WRITTEN_BY_HAND, *(f"docs/{page}" for page in PAGES)])
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = ROOT / name
    targets = re.findall(r"\]\((?!https?:|mailto:)([^)#]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("name", WRITTEN_BY_HAND)
def test_every_make_target_a_page_names_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ {4}|^)make ([a-z]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The detector of docs/adding-a-detector.md, and its tests, as a module."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "adding-a-detector.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    path = tmp_path / "late_syn_ack.py"
    path.write_text(blocks[0] + "\nimport pytest\n\n" + blocks[1], encoding="utf-8")
    spec = spec_from_file_location("late_syn_ack", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "late_syn_ack", module)
    monkeypatch.setattr(module, "late_syn_ack", module, raising=False)
    spec.loader.exec_module(module)
    return module


def test_the_example_detector_passes_its_own_tests(example: ModuleType) -> None:
    example.test_a_late_syn_ack_fires(Wire)
    example.test_a_lost_syn_is_not_a_late_answer(Wire)


def test_the_example_detector_makes_a_finding(example: ModuleType) -> None:
    trace = Wire().syn().wait(ms=900).syn_ack().ack().http_get().trace()
    findings = pcapdiag.diagnose(trace, [*DETECTORS, example.DETECTOR]).findings
    assert "late-syn-ack" in [finding.code for finding in findings]
    assert "late-syn-ack" not in [detector.code for detector in DETECTORS], "it is an example"


def test_the_example_detector_is_written_as_the_registry_wants_it(example: ModuleType) -> None:
    doc = example.__doc__ or ""
    assert doc.startswith(f"{example.DETECTOR.code}: ")
    assert re.findall(r"^## (.*)$", doc, re.MULTILINE) == HEADINGS
