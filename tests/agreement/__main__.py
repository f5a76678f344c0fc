"""Compares captures with tshark, packet by packet, and prints the tables of docs/agreement.md.

    python -m tests.agreement [--write] [--jobs N] [CAPTURE...]

Without captures: the samples, and the public ones beside the repository where they are. Exit 1 when a fact differs too often.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.agreement.compare import compare
from tests.agreement.page import tables, write
from tests.agreement.theirs import dissect

ROOT = Path(__file__).parents[2]
PUBLIC = ROOT.parent / "shared" / "captures" / "public"
_SHOWN = 5


def captures() -> list[tuple[str, Path]]:
    """Name and path of every capture with TCP."""
    found = [(f"samples/{path.parent.name}/{path.name}", path) for path in sorted((ROOT / "samples").glob("*/*.pcap"))]
    if PUBLIC.is_dir():
        with (PUBLIC / "index.csv").open(encoding="utf-8") as file:
            found += [(row["path"], PUBLIC / row["path"]) for row in csv.DictReader(file) if int(row["tcp_pkts"] or 0)]
    return found


def main() -> int:
    """Compares, prints, and writes the page when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/agreement.md")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many tsharks run at a time")
    options = parser.parse_args()
    if shutil.which("tshark") is None:
        sys.stderr.write("tshark is not installed: nothing to compare with\n")
        return 1
    chosen = [(str(path), path) for path in options.captures] or captures()
    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(dissect, [path for _, path in chosen]):
            pass
    result = compare(chosen)
    text = tables(result)
    sys.stdout.write(text)
    if options.write:
        write(text)
    apart = {name: tally for name, tally in result.facts.items() if not tally.agrees}
    for name, tally in apart.items():
        where = ", ".join(f"{capture} frame {frame}" for capture, frame in tally.frames[:_SHOWN])
        sys.stderr.write(f"{name} differs too often: {where}\n")
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
