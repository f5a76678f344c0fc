"""What tshark says of every TCP packet of a capture, as columns; kept between runs, since a start of tshark takes its time."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pcapdiag.columns import I64

AGAIN = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
FLAGS = (
    *AGAIN, "lost_segment", "ack_lost_segment", "duplicate_ack", "zero_window", "window_full", "window_update", "keep_alive",
    "keep_alive_ack", "zero_window_probe", "zero_window_probe_ack", "reused_ports",
)  # fmt: skip
"""Set or not."""
NUMBERS = {
    "stream": "tcp.stream",
    "seq": "tcp.seq_raw",
    "len": "tcp.len",
    "window": "tcp.window_size",
    "duplicate_ack_num": "tcp.analysis.duplicate_ack_num",
    "acks_frame": "tcp.analysis.acks_frame",
    "bytes_in_flight": "tcp.analysis.bytes_in_flight",
}
SECONDS = {"ack_rtt": "tcp.analysis.ack_rtt", "initial_rtt": "tcp.analysis.initial_rtt"}
"""Printed in seconds with nine digits; kept in nanoseconds."""
FIELDS = ("frame.number", *(f"tcp.analysis.{name}" for name in FLAGS), *NUMBERS.values(), *SECONDS.values())
OPTIONS = ("tcp.desegment_tcp_streams:FALSE",)
"""Whoever puts streams together shows the fields of the analysis once more; all else is as tshark does it by default."""
NONE = int(np.iinfo(np.int64).min)
"""The value of a field that a packet does not have."""
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Theirs:
    """Columns of the packets with one TCP header, by frame number."""

    frame: I64
    columns: dict[str, I64]
    nested: I64
    """Frames with several TCP headers: their fields cannot be told apart."""


def dissect(path: Path) -> Theirs:
    """What tshark says, from the cache when it has said it before."""
    name = hashlib.sha256(path.read_bytes() + _recipe()).hexdigest()
    kept = Path(tempfile.gettempdir()) / f"pcapdiag-agreement-{os.getuid()}" / f"{name}.pickle"
    if not kept.is_file():
        found = _run(path)
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".pickle", delete=False) as file:
            pickle.dump(found, file)
        Path(file.name).replace(kept)
    with kept.open("rb") as stored:
        found = pickle.load(stored)
    assert isinstance(found, Theirs)
    return found


@cache
def version() -> str:
    """The first line of `tshark --version`."""
    done = subprocess.run(["tshark", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def _recipe() -> bytes:
    return repr((version(), FIELDS, OPTIONS, NONE)).encode()


def _run(path: Path) -> Theirs:
    command = ["tshark", "-n", "-r", str(path), "-Y", "tcp && !icmp && !icmpv6", "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=;"]
    command += [word for option in OPTIONS for word in ("-o", option)] + [word for field in FIELDS for word in ("-e", field)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)  # a cut capture is an error to tshark
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    stream = FIELDS.index(NUMBERS["stream"])
    nested = np.array([int(row[0]) for row in rows if ";" in row[stream]], np.int64)
    plain = [row for row in rows if ";" not in row[stream]]
    texts = dict(zip(FIELDS, zip(*plain, strict=True), strict=True)) if plain else dict.fromkeys(FIELDS, ())
    columns = {name: np.array([bool(text) for text in texts[f"tcp.analysis.{name}"]], np.int64) for name in FLAGS}
    columns |= {
        name: np.array([int(text.partition(";")[0]) if text else NONE for text in texts[field]], np.int64)
        for name, field in NUMBERS.items()
    }
    columns |= {name: np.array([nanoseconds(text) for text in texts[field]], np.int64) for name, field in SECONDS.items()}
    return Theirs(np.array([int(text) for text in texts["frame.number"]], np.int64), columns, nested)


def nanoseconds(text: str) -> int:
    """Of "1.000000005"; a clock that went back makes it negative, so the least number stands for none."""
    if not text:
        return NONE
    whole, _, fraction = text.lstrip("-").partition(".")
    value = int(whole) * 1_000_000_000 + int(f"{fraction:0<9}"[:9])
    return -value if text.startswith("-") else value
