"""The registry of detectors is whole: every file is in it, documented, with limits that say where they come from, and tested."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from pcapdiag import detectors
from pcapdiag.detectors import DETECTORS
from pcapdiag.findings import Detector
from tests.wire import Wire

HEADINGS = ["What it does", "Why it matters", "When it is wrong", "Remedy"]
UNITS = {"", "ns", "us", "ms", "s", "bytes", "bits/s"}
"""As columns have them: counts, ratios and other plain numbers have none."""
FILES = {module.name for module in pkgutil.iter_modules(detectors.__path__)}
TESTS = Path(__file__).parent / "detectors"

pytestmark = pytest.mark.skipif(not FILES, reason="pcapdiag/detectors has no detector yet")
each = pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.code)


def home(detector: Detector) -> ModuleType:
    module = inspect.getmodule(detector.conclude)
    assert module is not None
    return module


def file_name(detector: Detector) -> str:
    return detector.code.replace("-", "_")


def test_every_file_is_registered_once() -> None:
    registered = [home(detector).__name__.rpartition(".")[2] for detector in DETECTORS]
    assert len(registered) == len(set(registered))
    assert set(registered) == FILES


def test_codes_are_unique_and_labels_too() -> None:
    codes = [detector.code for detector in DETECTORS]
    assert len(codes) == len(set(codes))
    labels = [detector.label for detector in DETECTORS if detector.label is not None]
    places = [(label.tier, label.place) for label in labels]
    assert sorted(places) == sorted(set(places)), "two labels share a place in the precedence table"


@each
def test_code_file_and_label_have_one_name(detector: Detector) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", detector.code)
    assert home(detector).__name__.rpartition(".")[2] == file_name(detector)
    assert detector.label is None or detector.label.code == detector.code
    assert home(detector).DETECTOR is detector


@each
def test_documented(detector: Detector) -> None:
    doc = inspect.getdoc(home(detector)) or ""
    assert doc.startswith(f"{detector.code}: ")
    first, *sections = re.split(r"^## .*$", doc, flags=re.MULTILINE)
    assert re.findall(r"^## (.*)$", doc, re.MULTILINE) == HEADINGS
    assert all(text.strip() for text in (first, *sections)), "a heading with nothing below it"


@each
def test_says_what_to_do_and_where_to_read_and_look(detector: Detector) -> None:
    assert detector.title
    assert not detector.title.endswith(".")
    for lines in (detector.remedy, detector.references):
        assert isinstance(lines, tuple), "a string would be a tuple of letters"
        assert lines
        assert all(line.strip() for line in lines)
    assert detector.wireshark_filter.strip()


@each
def test_every_limit_has_a_unit_and_a_source(detector: Detector) -> None:
    assert {limit.unit for limit in detector.limits.values()} <= UNITS
    assert [name for name, limit in detector.limits.items() if not limit.source.strip()] == []


@each
def test_all_of_it_lies_in_its_own_file(detector: Detector) -> None:
    assert {f.__module__ for f in (detector.signs, detector.cross_signs) if f} <= {home(detector).__name__}


@each
def test_has_a_firing_test_and_a_near_miss(detector: Detector) -> None:
    path = TESTS / f"test_{file_name(detector)}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.name.split("_") for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert any({"fires", "found"} & set(words) for words in names), f"{path.name}: no test named ..._fires or ..._found"
    assert any({"quiet", "not"} & set(words) for words in names), f"{path.name}: no test named ..._quiet or ..._not_..."


@pytest.mark.tshark
@each
def test_tshark_understands_the_filter(detector: Detector, tmp_path: Path) -> None:
    capture = Wire().handshake().write(tmp_path)
    command = ["tshark", "-n", "-r", str(capture), "-Y", detector.wireshark_filter]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
