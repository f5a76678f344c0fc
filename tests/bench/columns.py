"""How fast the TCP columns are beside tshark's expert pass, on the same capture in the same run.

    python -m tests.bench.columns [CAPTURE] [--packets N] [--rounds R]

Without a capture, a sample is repeated with other client addresses and later times until it has N packets. Each round
runs both programs as whole processes, one after the other; the line at the end gives the ratio of their medians.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SAMPLE = Path(__file__).parents[2] / "samples" / "h2-head-of-line" / "client.pcap"
_COLUMNS = """
import sys
from pcapdiag.capture import read_capture
from pcapdiag.flows import group_flows
from pcapdiag.losses import Losses
from pcapdiag.packets import decode_packets
losses = Losses()
reader = read_capture(sys.argv[1], losses)
packets = decode_packets(reader, losses)
print(len(group_flows(packets, (reader.capture,)).segments))
"""


def repeated(sample: Path, count: int, target: Path) -> int:
    """Writes `sample` again and again, each time as another client an hour later, until there are `count` packets."""
    data = sample.read_bytes()
    records, at = [], 24
    while at + 16 <= len(data):
        captured = struct.unpack_from("<I", data, at + 8)[0]
        records.append((at, captured))
        at += 16 + captured
    first = data[24 + 16 + 26 : 24 + 16 + 30]  # source address of the first packet: the client's
    written = 0
    with target.open("wb") as out:
        out.write(data[:24])
        for turn in range(-(-count // len(records))):
            client = struct.pack("!I", 0x0A000000 + turn + 1)
            for at, captured in records:
                seconds = struct.unpack_from("<I", data, at)[0] + 3600 * turn
                frame = data[at + 16 : at + 16 + captured]
                if frame[26:30] == first:
                    frame = frame[:26] + client + frame[30:]
                elif frame[30:34] == first:
                    frame = frame[:30] + client + frame[34:]
                out.write(struct.pack("<I", seconds) + data[at + 4 : at + 16] + frame)
                written += 1
    return written


def seconds(command: list[str]) -> float:
    """Wall time of a whole process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return time.perf_counter() - begin


def main() -> int:
    """Prints one line per round and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", nargs="?", type=Path)
    parser.add_argument("--packets", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("tshark") is None:
        print("tshark is not installed: nothing to compare with", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        capture = options.capture or Path(folder) / "bench.pcap"
        if options.capture is None:
            print(f"{repeated(SAMPLE, options.packets, capture):,} packets, {capture.stat().st_size / 1e6:.0f} MB")
        ours, theirs = [], []
        for number in range(options.rounds):
            theirs.append(seconds(["tshark", "-q", "-z", "expert", "-r", str(capture)]))
            ours.append(seconds([sys.executable, "-c", _COLUMNS, str(capture)]))
            print(f"round {number + 1}: tshark {theirs[-1]:.2f} s, pcapdiag {ours[-1]:.2f} s")
    print(f"TCP columns, one process: {median(theirs) / median(ours):.1f} times faster than tshark -q -z expert")
    return 0


if __name__ == "__main__":
    sys.exit(main())
