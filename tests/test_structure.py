"""The shape of the tree: short files, short functions, a test for every module, names that say something."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import pcapdiag

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pcapdiag"
SOURCES = sorted(path for folder in ("pcapdiag", "tests", "samples", "docs") for path in (ROOT / folder).rglob("*.py"))
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stem not in {"__init__", "__main__"})

MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 50
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}
PURE_TYPES = {
    "pcapdiag.capture.frames",
    "pcapdiag.exchanges.table",
    "pcapdiag.flows.resend_table",
    "pcapdiag.flows.table",
    "pcapdiag.packets.table",
    "pcapdiag.protocols.reader",
}
"""Modules without behaviour of their own: they are tested by what fills them."""
PUBLIC = {
    "CaptureError",
    "Detector",
    "Diagnosis",
    "Finding",
    "OptionError",
    "OutputError",
    "PcapdiagError",
    "Trace",
    "diagnose",
    "load",
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Dotted names a file imports: modules, and what it takes out of them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 10


def test_no_file_is_long() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_long() -> None:
    long = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{name_of(path)}.{node.name}"] = lines
    assert long == {}


def test_names_say_something() -> None:
    assert [name_of(path) for path in SOURCES if NAMES_THAT_SAY_NOTHING & set(path.relative_to(ROOT).with_suffix("").parts)] == []


def test_every_module_has_tests() -> None:
    """A test file bears the name of a module (test_flows_rtt.py) or of its package (test_findings.py), or imports the module."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    imported = set().union(*(imports(path) for path in tests))
    stems = ["_".join(path.relative_to(ROOT / "tests").with_suffix("").parts).replace("test_", "", 1) for path in tests]

    def tested(module: str) -> bool:
        slug, package = (name.removeprefix("pcapdiag.").replace(".", "_") for name in (module, module.rpartition(".")[0]))
        return module in imported or package in stems or any(stem == slug or stem.startswith(f"{slug}_") for stem in stems)

    names = [name_of(path) for path in MODULES]
    assert [name for name in names if name not in PURE_TYPES and not tested(name)] == []
    assert set(names) >= PURE_TYPES, "the list names modules that are gone"


def test_every_module_and_test_says_what_it_is() -> None:
    silent = [name_of(path) for path in SOURCES if (text := path.read_text("utf-8")).strip() and not ast.get_docstring(ast.parse(text))]
    assert silent == []


def test_the_public_names_are_sorted_and_complete() -> None:
    assert list(pcapdiag.__all__) == sorted(pcapdiag.__all__)
    assert set(pcapdiag.__all__) - {"__version__"} == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_leads_to_something_documented(name: str) -> None:
    assert inspect.getdoc(getattr(pcapdiag, name))


def test_the_package_ships_its_types() -> None:
    assert (PACKAGE / "py.typed").is_file()
