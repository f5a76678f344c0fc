"""`python -m tests.bench [CAPTURE]`: what pcapdiag costs beside tshark and tcptrace, on a capture that is recorded when first needed."""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from shutil import which

from samples.lab.hosts import LabError
from tests.bench import BenchError
from tests.bench.contest import contest, goals, table
from tests.bench.cost import ROOT
from tests.bench.record import Workload, recorded
from tests.bench.repeat import Recording
from tests.bench.scale import big, marginal, repeated


def machine() -> str:
    """Where the figures come from."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    programs = [f"Python {platform.python_version()}"]
    if which("tshark"):
        said = subprocess.run(["tshark", "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        programs.append(said.splitlines()[0].partition(" (Git")[0].rstrip("."))
    return f"{cores} cores, {gib:.0f} GiB, Linux {platform.release()}, {', '.join(programs)}; load {load:.1f} before the start"


def main() -> int:
    """Prints what was asked for; 1 when something is wrong that does not depend on the machine, or nothing can be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("capture", nargs="?", type=Path, help="classic pcap file of Ethernet frames; default: one is recorded, as root")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program, of which the median counts (%(default)s)")
    parser.add_argument("--packets", type=int, help="repeat the capture, later and between other hosts, until it has so many packets")
    parser.add_argument("--marginal", action="store_true", help="instead: the cost of a further packet, from 500,000 to 5,000,000")
    parser.add_argument("--jobs", type=int, help="processes of the analyses of --marginal (default: one per core)")
    parser.add_argument("--big", nargs="?", type=float, const=6.0, metavar="GB", help="instead: so large a capture in little memory (6)")
    parser.add_argument("--record", action="store_true", help="only record the capture, and say where it is")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="folder for captures (%(default)s)")
    options = parser.parse_args()
    options.cache = options.cache.resolve()  # the programs start in another folder
    options.capture = options.capture and options.capture.resolve()
    if options.rounds < 1:
        parser.error("--rounds: at least one")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that namespaces, programs and large files go away then, too
    try:
        return measured(options)
    except (BenchError, LabError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def measured(options: argparse.Namespace) -> int:
    """Does what the options say."""
    source = options.capture or recorded(Workload(), options.cache)
    if options.record:
        print(source)
        return 0
    print(machine())
    for modules in ("pcapdiag", "tests"):  # as pip leaves them; PYTHONDONTWRITEBYTECODE would have each run compile them all
        compileall.compile_dir(ROOT / modules, quiet=1)
    if options.marginal:
        print(marginal(source, options.cache, options.rounds, options.jobs))
        return 0
    if options.big is not None:
        said, right = big(source, options.cache, int(options.big * 1e9))
        print(said)
        return int(not right)
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(repeated(source, options.cache, options.packets)) if options.packets else source
        packets = len(Recording(capture))
        print(
            f"{capture.name}: {packets:,} packets, {capture.stat().st_size / 1e6:,.0f} MB; medians of {options.rounds} rounds", flush=True
        )
        costs = contest(capture, options.rounds)
        print(table(costs, packets), goals(costs), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
