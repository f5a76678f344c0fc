"""`python -m samples.lab [SCENARIO...] [--out DIR] [--set name=value ...]`: make captures with a known cause, as root."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from samples.lab import truth
from samples.lab.hosts import LabError
from samples.lab.run import Run, run
from samples.lab.scenario import Scenario
from samples.lab.scenarios import SAMPLES, SCENARIOS

TOOLS = ("ip", "sysctl", "tcpdump", "tshark")
"""Programs that the lab starts."""


def numbers(name: str, settings: list[str]) -> dict[str, Any]:
    """The settings as keyword arguments of a scenario, each of the type of its default."""
    parameters = inspect.signature(SCENARIOS[name]).parameters
    given: dict[str, Any] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in parameters:
            raise LabError(f"{name} has no number {key!r}; it has {', '.join(parameters)}")
        default = parameters[key].default
        try:
            given[key] = text if isinstance(default, str) else type(default)(json.loads(text))
        except (TypeError, ValueError):
            raise LabError(f"{name}: {key}={text} is not a {type(default).__name__} in JSON") from None
    return given


def make(scenario: Scenario, out: Path) -> dict[str, Any]:
    """Run a scenario, and its work over a clean wire; leave captures, truth and README in `out/<name>`."""
    with tempfile.TemporaryDirectory(prefix="lab-") as temporary:
        folder = Path(temporary)
        real = run(scenario.plan, scenario.wire, folder / "real")
        clean: Run | None = None
        if scenario.clean_wire is not None:
            clean = run(scenario.clean_plan or scenario.plan, scenario.clean_wire, folder / "clean", capture=False)
        facts = truth.build(scenario, real, clean)
        target = out / scenario.name
        target.mkdir(parents=True, exist_ok=True)
        for name in truth.VANTAGE_FILES:
            shutil.copyfile(real.folder / name, target / name)
    (target / "truth.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (target / "README.md").write_text(truth.readme(scenario, facts), encoding="utf-8")
    return facts


def report(facts: dict[str, Any], target: Path, took_s: float) -> None:
    """Say on the terminal what was made, and which checks failed."""
    sizes = " ".join(f"{name} {(target / name).stat().st_size // 1000} kB" for name in truth.VANTAGE_FILES)
    print(f"{target}: {facts['stall_seconds_by_cause']} {facts['wire_events']} {sizes}, {took_s:.0f} s")
    for check in facts["verified"]:
        if not check["ok"]:
            print(f"  not so: {json.dumps(check)}")


def main() -> int:
    """Make the scenarios asked for; 1 when a check failed, 2 when the lab could not work."""
    parser = argparse.ArgumentParser(prog="python -m samples.lab", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: {' '.join(SAMPLES)}; also: {' '.join(SCENARIOS)}")
    parser.add_argument("--out", type=Path, default=Path("samples"), help="folder for the results")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="a number of the scenario")
    parser.add_argument("--name", help="folder name, with one scenario")
    options = parser.parse_args()
    wrong = [name for name in options.scenarios if name not in SCENARIOS]
    if wrong or os.geteuid() != 0:
        print(f"no scenario {wrong[0]!r}" if wrong else "the lab needs root: it makes network namespaces", file=sys.stderr)
        return 2
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"the lab needs {', '.join(missing)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that namespaces and programs go away then, too
    failed = False
    for name in options.scenarios or SAMPLES:
        begin = time.monotonic()
        try:
            given = numbers(name, options.settings)
            changed = [f"--set '{setting}'" for setting in options.settings] + [f"--name {options.name}"] * bool(options.name)
            command = " ".join(["python -m samples.lab", name, *changed, "--out samples"])
            scenario = dataclasses.replace(SCENARIOS[name](**given), name=options.name or name, numbers=given, command=command)
            facts = make(scenario, options.out)
        except LabError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        report(facts, options.out / scenario.name, time.monotonic() - begin)
        failed |= not facts["all_verified"]
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
